"""The baseline of every claim: Q-learning on the same nets and steps, no search, no novelty, random actions.

python -m experiments.zuma --config=configs/baseline.py
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """Returns the base config without what the agent adds to a DQN."""
    config = base.get_config()
    config.name = "baseline"
    with config.unlocked():
        del config.counts
    config.search.kind = "none"
    config.search.num_simulations = 0
    config.search.gumbel_scale = 0.0
    config.exploration.epsilon = 0.05  # random actions (Mnih et al. 2015 end at 0.1, Hessel et al. 2018 at 0.01)
    config.exploration.num_exploit_envs = config.env.num_envs  # all play for score
    return config
