"""World T, a random table of transitions: what a model predicts of it, it has stored.

python -m experiments.zuma --config=configs/table.py --config.world.num_states=100
"""

from ml_collections import ConfigDict

from configs import deep_sea, smoke


def get_config() -> ConfigDict:
    """Returns the table config: smoke's sizes, a state's digits as codes."""
    config = smoke.get_config()
    config.name = "table"
    config.env.backend = "world"
    config.env.game = "table"
    with config.unlocked():
        config.world = {
            "seed": 0,
            "num_states": 64,
            "num_actions": 4,
            "num_digits": 4,
            "base": 16,  # up to 65,536 states
            "max_length": 32,  # transitions
            "reward_state": 1,
        }
    config.tokenizer.quantizer = "identity"
    config.tokenizer.num_groups = 4  # the digits
    config.tokenizer.num_codes = 16  # the base
    config.tokenizer.code_dim = 16
    config.returns.reward_scale = 1.0
    config.counts.grid_height = 1  # the observation is 1 x 1 x 4 integers
    config.counts.grid_width = 1
    config.counts.num_levels = 256  # every integer its own key
    config.evaluation.max_episode_steps = 32
    return config


def variant(kind: str, search: str) -> ConfigDict:
    """The config to see how much of a table is visited, with one kind of exploration; see configs/deep_sea.py."""
    config = deep_sea.small(get_config())
    config.world.num_states = 1024
    return deep_sea.explore(config, kind, search)
