"""World R, sprites over still backgrounds: pixels whose truth is known.

python -m experiments.zuma --config=configs/sprites.py --config.world.num_rooms=4
"""

from ml_collections import ConfigDict

from configs import smoke


def get_config() -> ConfigDict:
    """Returns the sprites config: smoke's sizes, Montezuma's frame."""
    config = smoke.get_config()
    config.name = "sprites"
    config.env.backend = "world"
    config.env.game = "sprites"
    with config.unlocked():
        config.world = {
            "seed": 0,
            "size": 84,  # pixels a side, as the emulators' frames
            "num_rooms": 2,
            "player_size": 8,  # pixels a side, all sprites
            "skull_size": 9,
            "object_size": 9,
            "speed": 3,  # pixels a step
            "max_length": 128,  # transitions
        }
    config.returns.reward_scale = 1.0
    config.evaluation.max_episode_steps = 128
    return config
