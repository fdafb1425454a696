"""Montezuma on two cores: novelty by patches, in units of its own size, and many updates a step.

python -m experiments.zuma --config=configs/montezuma.py
python -m experiments.seeds --name=montezuma --seeds=0,1,2 --config=configs/montezuma.py --workdir=runs/montezuma

What found the first key, the first door and a third room, see BUILD_NOTES.md and docs/results/seeds.md. One core
plays and learns some 130 to 180 agent steps a second.
"""

from ml_collections import ConfigDict

from configs import patch_counts


def get_config() -> ConfigDict:
    """Returns the config."""
    config = tuned(patch_counts.get_config())
    config.name = "montezuma"
    config.patch_counts.num_stages = 8  # what lies behind the key is new with the key in hand
    return config


def tuned(config: ConfigDict) -> ConfigDict:
    """What all kinds of novelty share on this game; changes the config in place."""
    config.num_env_steps = 2_000_000
    config.tokenizer.num_codes = 32  # half as many predictions; player recall 0.954 instead of 0.960: measured
    config.tokenizer_learner.batch_size = 32  # of 4 replayed observations a step: still a frame every two steps
    config.exploration.normalise = True  # else the search's values differ by less than search.value_floor
    config.exploration.beta_max = 1.0
    config.exploration.epsilon = 0.02
    config.exploration.longest_hold = 16
    config.replay.kind = "prioritised"
    config.returns.bootstrap = "value"  # the search's own are as old as the row
    config.learner.replay_ratio = 4.0
    config.learner.reanalyse_exploit_share = 1.0  # else 8 of 64 environments learn from their own play alone: measured
    config.evaluation.every_env_steps = 1_048_576
    return config
