"""MiniGrid: keys and doors seen through a window of 7x7 cells, a new grid every episode.

python -m experiments.zuma --config=configs/minigrid.py
python -m experiments.seeds --name=doorkey --config=configs/minigrid.py --seeds=0,1,2
"""

from ml_collections import ConfigDict

from configs import deep_sea, smoke


def get_config() -> ConfigDict:
    """Returns the config of DoorKey-6x6: 148 integers as codes, novelty by visits of views."""
    return variant("counts", "gumbel")


def variant(kind: str, search: str) -> ConfigDict:
    """The config with one kind of exploration, or none, over one kind of search; see configs/deep_sea.py."""
    config = deep_sea.small(smoke.get_config())
    config.name = "minigrid"
    config.env.backend = "xla"
    config.env.game = "MiniGrid-DoorKey-6x6-v0"
    config.env.protocol = "deterministic"  # nothing is sticky
    config.env.action_set = 7
    config.env.max_episode_steps = 360  # the game's own limit, 10 x 6 x 6
    config.actor.window = 4  # what was seen before turning round
    config.tokenizer.num_groups = 148  # 7 x 7 cells of object, colour and state; the way one looks
    config.tokenizer.num_codes = 11
    config.tokenizer.code_dim = 11
    config.dynamics.width = 64
    config.dynamics.head_width = 128
    # A step's delay has to show: at a discount of 0.99 and a floor of 0.1 it is noise to the search: measured.
    config.returns.extrinsic_discount = 0.95
    config.search.value_floor = 0.02
    config.exploration.num_exploit_envs = 4
    config.search.num_simulations = 8
    config.search.max_num_considered_actions = 4
    config.learner.sequence_length = 16
    config.learner.replay_ratio = 8.0
    config.num_env_steps = 200_000
    config.evaluation.max_episode_steps = 360
    config.evaluation.num_episodes = 8
    config.evaluation.every_env_steps = 65_536
    return deep_sea.explore(config, kind, search)
