"""The base config grown for one large GPU and the cores beside it.

    python -m experiments.zuma --config=configs/accelerator.py

Sizes are chosen, not measured: BUILD_NOTES.md marks every figure of it as not yet measured.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """Returns the accelerator config."""
    config = base.get_config()
    config.name = "accelerator"
    config.num_env_steps = 50_000_000
    config.env.num_envs = 256
    config.actor.window = 16
    config.actor.num_steps = 16
    config.actor.num_groups = 2
    config.tokenizer.width = 256
    config.tokenizer.num_blocks = 4
    config.tokenizer.channel_hidden = 1024
    config.tokenizer_learner.batch_size = 512
    config.dynamics.width = 512
    config.dynamics.num_layers = 4
    config.dynamics.num_heads = 8
    config.dynamics.mlp_width = 2048
    config.dynamics.head_width = 1024
    config.dynamics.dtype = "bfloat16"
    config.search.num_simulations = 16
    config.exploration.num_exploit_envs = 32
    config.counts.table_size = 2**23
    config.replay.capacity = 2**20
    config.replay.min_size = 65_536
    config.learner.batch_size = 64
    config.learner.sequence_length = 64
    config.learner.replay_ratio = 4.0
    config.learner.learning_rate = 3e-4
    config.learner.warmup_updates = 1000
    config.learner.target_decay = 0.99
    return config
