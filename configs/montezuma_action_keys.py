"""Montezuma with novelty by visits of what actions control, which know no stages of an episode.

The config to compare with is configs/montezuma.py with --config.patch_counts.num_stages=1.

python -m experiments.seeds --name=action-keys --seeds=0,1,2 --config=configs/montezuma_action_keys.py \
    --workdir=runs/action-keys
"""

from ml_collections import ConfigDict

from configs import action_keys, montezuma


def get_config() -> ConfigDict:
    """Returns the config."""
    config = montezuma.tuned(action_keys.get_config())
    config.name = "montezuma_action_keys"
    return config
