"""MiniGrid by a DQN: Q-learning on the same net, without a model, search or novelty.

python -m experiments.seeds --name=doorkey-dqn --config=configs/minigrid_baseline.py --seeds=0,1,2
"""

from ml_collections import ConfigDict

from configs import minigrid


def get_config() -> ConfigDict:
    """Returns the config of DoorKey-6x6 without what the agent adds to a DQN."""
    config = minigrid.variant("none", "q_only")
    config.name = "minigrid_baseline"
    return config
