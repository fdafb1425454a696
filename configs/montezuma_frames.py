"""Montezuma with novelty by visits of whole frames: an ablation of configs/montezuma.py.

python -m experiments.seeds --name=frames --seeds=0,1,2 --config=configs/montezuma_frames.py --workdir=runs/frames
"""

from ml_collections import ConfigDict

from configs import base, montezuma


def get_config() -> ConfigDict:
    """Returns the config."""
    config = montezuma.tuned(base.get_config())
    config.name = "montezuma_frames"
    return config
