"""World K, a grid with a hidden key and a door: only what remembers the key can open the door.

python -m experiments.zuma --config=configs/key_door.py --config.world.size=6
python -m experiments.worlds --table=key_door
"""

from ml_collections import ConfigDict

from configs import deep_sea, smoke

KINDS = deep_sea.KINDS


def get_config() -> ConfigDict:
    """Returns the key-door config: row and column as codes, novelty by visits."""
    return variant("counts", "gumbel")


def variant(kind: str, search: str) -> ConfigDict:
    """The config with one kind of exploration, or none, over one kind of search; see configs/deep_sea.py."""
    config = deep_sea.small(smoke.get_config())
    config.name = "key_door"
    config.env.game = "key_door"
    with config.unlocked():
        config.world = {
            "size": 4,  # cells a side; the shortest way is 3 (size - 1) steps
            "max_length": 64,  # transitions
        }
    config.actor.window = 8  # the way from key to door and a little more
    config.learner.sequence_length = 16
    config.learner.batch_size = 8
    config.tokenizer.num_groups = 2  # row and column
    config.tokenizer.num_codes = 32  # so that sizes up to 32 need no other change
    config.tokenizer.code_dim = 32
    config.search.num_simulations = 8
    # A step's delay has to show, as in configs/minigrid.py: a greedy player that may dawdle never comes to the door.
    config.returns.extrinsic_discount = 0.95
    config.search.value_floor = 0.02
    config.evaluation.max_episode_steps = 64
    return deep_sea.explore(config, kind, search)
