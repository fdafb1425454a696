"""DeepSea: exploration that plans finds the treasure in some episodes, dithering in 2^size.

python -m experiments.zuma --config=configs/deep_sea.py --config.world.size=10
"""

from ml_collections import ConfigDict

from configs import smoke


def get_config() -> ConfigDict:
    """Returns the DeepSea config: smoke's sizes, row and column as codes."""
    config = smoke.get_config()
    config.name = "deep_sea"
    config.env.backend = "world"
    config.env.game = "deep_sea"
    with config.unlocked():
        config.world = {
            "seed": 0,
            "size": 10,  # N, steps an episode (Osband et al. 2019 go from 10 to 50)
        }
    config.tokenizer.quantizer = "identity"
    config.tokenizer.num_groups = 2  # row and column
    config.tokenizer.num_codes = 64  # so that sizes up to 63 need no other change
    config.tokenizer.code_dim = 64
    config.search.max_num_considered_actions = 2  # all there are
    config.returns.reward_scale = 1.0
    config.counts.grid_height = 1  # the observation is 1 x 1 x 2 integers
    config.counts.grid_width = 1
    config.counts.num_levels = 256  # every integer its own key
    config.evaluation.max_episode_steps = 63
    return config
