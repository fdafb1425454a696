"""Novelty by visits of what actions control, instead of whole frames.

python -m experiments.zuma --config=configs/action_keys.py
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """Returns the base config with keys of inverse-dynamics features."""
    config = base.get_config()
    config.name = "action_keys"
    with config.unlocked():
        sizes = config.counts.to_dict()
        del config.counts
        config.action_keys = {
            "table_size": sizes["table_size"],
            "episodic_table_size": sizes["episodic_table_size"],
            "grid_height": 28,  # finer than counts': a net may leave out what the counts would have to tell apart
            "grid_width": 28,
            "width": 256,
            "num_features": 8,
            "num_bins": 3,  # up to 6,561 keys; at 4 a place has more keys than visits are good for: measured
            "learning_rate": 1e-3,
            "learn_updates": 500,
        }
    return config
