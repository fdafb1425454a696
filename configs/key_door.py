"""World K, a grid with a hidden key and a door: only what remembers the key can open the door.

python -m experiments.zuma --config=configs/key_door.py --config.world.size=6
"""

from ml_collections import ConfigDict

from configs import smoke


def get_config() -> ConfigDict:
    """Returns the key-door config: smoke's sizes, row and column as codes."""
    config = smoke.get_config()
    config.name = "key_door"
    config.env.backend = "world"
    config.env.game = "key_door"
    with config.unlocked():
        config.world = {
            "size": 4,  # cells a side; the shortest way is 3 (size - 1) steps
            "max_length": 64,  # transitions
        }
    config.actor.window = 8  # the way from key to door and a little more
    config.tokenizer.quantizer = "identity"
    config.tokenizer.num_groups = 2  # row and column
    config.tokenizer.num_codes = 32  # so that sizes up to 32 need no other change
    config.tokenizer.code_dim = 32
    config.returns.reward_scale = 1.0
    config.counts.grid_height = 1  # the observation is 1 x 1 x 2 integers
    config.counts.grid_width = 1
    config.counts.num_levels = 256  # every integer its own key
    config.evaluation.max_episode_steps = 64
    return config
