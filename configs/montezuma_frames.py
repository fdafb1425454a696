"""Montezuma with novelty by visits of whole frames, which know no stages of an episode.

The config to compare with is configs/montezuma.py with --config.patch_counts.num_stages=1.

python -m experiments.seeds --name=frames --seeds=0,1,2 --config=configs/montezuma_frames.py --workdir=runs/frames
"""

from ml_collections import ConfigDict

from configs import base, montezuma


def get_config() -> ConfigDict:
    """Returns the config."""
    config = montezuma.tuned(base.get_config())
    config.name = "montezuma_frames"
    return config
