"""The base config shrunk to seconds: to see that all parts run, not to learn.

python -m experiments.zuma --config=configs/smoke.py
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """Returns the smoke config."""
    config = base.get_config()
    config.name = "smoke"
    config.num_env_steps = 640
    config.env.num_envs = 4
    config.actor.window = 3
    config.actor.num_steps = 4
    config.tokenizer.layout = "frame"
    config.tokenizer.background = "none"
    config.tokenizer.num_groups = 4
    config.tokenizer.num_codes = 16
    config.tokenizer.width = 16
    config.tokenizer.num_blocks = 1
    config.tokenizer.token_hidden = 16
    config.tokenizer.channel_hidden = 16
    config.tokenizer.kmeans_iterations = 2
    config.tokenizer_learner.batch_size = 16
    config.dynamics.width = 32
    config.dynamics.num_heads = 2
    config.dynamics.mlp_width = 64
    config.dynamics.head_width = 32
    config.search.num_simulations = 4
    config.search.max_depth = 3
    config.exploration.num_exploit_envs = 1
    config.counts.table_size = 2**12
    config.counts.episodic_table_size = 256
    config.replay.capacity = 1024
    config.replay.min_size = 64
    config.replay.records_per_shard = 8
    config.learner.batch_size = 2
    config.learner.sequence_length = 8
    config.learner.unroll_steps = 3
    config.learner.num_unrolls = 2
    config.learner.replay_ratio = 1.0
    config.learner.reanalyse_fraction = 0.5
    config.learner.warmup_updates = 2
    config.evaluation.every_env_steps = 320
    config.evaluation.num_episodes = 2
    config.evaluation.max_episode_steps = 20
    config.checkpoint.every_env_steps = 160
    config.report.every_env_steps = 64
    config.pictures.every_env_steps = 160
    return config
