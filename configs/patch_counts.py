"""The base config with novelty counted patch by patch instead of by whole frames.

python -m experiments.zuma --config=configs/patch_counts.py
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """Returns the config."""
    config = base.get_config()
    config.name = "patch_counts"
    with config.unlocked():
        del config.counts
        config.patch_counts = {
            "grid_height": 21,  # cells of 4 x 4 pixels
            "grid_width": 21,
            "num_levels": 8,
            "num_stages": 1,  # 1 + rewards of an episode after each of which all is counted anew
        }
    return config
