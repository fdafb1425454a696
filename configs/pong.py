"""Pong on two cores: the check that nothing is broken, played for score alone.

python -m experiments.zuma --config=configs/pong.py
python -m experiments.seeds --name=pong --seeds=0 --config=configs/pong.py --workdir=runs/pong
"""

from ml_collections import ConfigDict

from configs import montezuma


def get_config() -> ConfigDict:
    """Returns the config: Montezuma's, without novelty and with twice the updates a step."""
    config = montezuma.get_config()
    config.name = "pong"
    config.num_env_steps = 1_000_000
    config.env.game = "Pong-v5"
    with config.unlocked():
        del config.patch_counts
    config.returns.reward_scale = 1.0  # a point
    config.exploration.num_exploit_envs = config.env.num_envs  # all play for score
    config.exploration.normalise = False  # of novelty, which there is none of
    config.exploration.epsilon = 0.0  # the search's own noise is enough
    config.exploration.longest_hold = 1
    config.tokenizer_learner.batch_size = 16  # of 8 replayed observations a step: still a frame every two steps
    config.learner.replay_ratio = 8.0
    return config
