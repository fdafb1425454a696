"""The least run in which all parts work: the scripted world, which compiles soonest and is saved exactly.

4 env steps a train step; the replay can be sampled from step 3 on, and its ring is full at step 8.
"""

from ml_collections import ConfigDict

from configs import smoke


def get_config() -> ConfigDict:
    """Returns the tiny config."""
    config = smoke.get_config()
    config.name = "tiny"
    config.num_env_steps = 80
    config.env.backend = "world"
    config.env.game = "scripted"
    config.env.num_envs = 2
    config.actor.window = 2
    config.actor.num_steps = 2
    config.tokenizer.num_groups = 2
    config.tokenizer.num_codes = 4
    config.tokenizer.code_dim = 2
    config.tokenizer.width = 4
    config.tokenizer.num_blocks = 0
    config.tokenizer.token_hidden = 4
    config.tokenizer.channel_hidden = 4
    config.tokenizer.patch_size = 28
    config.tokenizer_learner.batch_size = 4
    config.dynamics.width = 8
    config.dynamics.num_layers = 1
    config.dynamics.mlp_width = 8
    config.dynamics.head_width = 8
    config.support.num_bins = 11
    config.search.num_simulations = 2
    config.search.max_depth = 2
    config.search.max_num_considered_actions = 2
    config.counts.table_size = 64
    config.counts.episodic_table_size = 32
    config.replay.kind = "prioritised"
    config.replay.capacity = 32
    config.replay.min_size = 12
    config.replay.records_per_shard = 3
    config.learner.sequence_length = 4
    config.learner.unroll_steps = 2
    config.learner.num_unrolls = 1
    config.learner.replay_ratio = 4.0
    config.learner.batch_size = 2
    config.evaluation.every_env_steps = 40
    config.evaluation.num_episodes = 2
    config.evaluation.max_episode_steps = 6
    config.checkpoint.every_env_steps = 40
    config.report.every_env_steps = 12
    config.pictures.every_env_steps = 40
    return config
