"""Montezuma's Revenge from pixels on a machine with two cores and no accelerator.

    python -m experiments.zuma --config=configs/base.py

Every number of the system stands here, with its unit and its source; smoke.py and
accelerator.py change some. "measured" points to BUILD_NOTES.md.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns the base config."""
    return ConfigDict(
        {
            "name": "base",
            "seed": 0,
            "num_env_steps": 10_000_000,  # agent steps of all environments; 4 frames each
            "env": {
                "backend": "xla",
                "game": "MontezumaRevenge-v5",
                "num_envs": 64,
                "num_threads": 0,  # one a core
                "protocol": "standard",  # sticky actions 0.25, up to 30 no-ops (Machado et al. 2018)
                "action_set": 18,  # all of ALE's, as the published numbers use
                "max_episode_steps": 27_000,  # 108,000 frames (Machado et al. 2018)
                "zero_discount_on_life_loss": False,
            },
            "actor": {
                "window": 8,  # frames the first search of an act phase sees
                "num_steps": 8,  # steps of each environment in one compiled step
                "num_groups": 1,  # of environments, which take turns; 2: one steps while the other searches
            },
            "tokenizer": {
                "layout": "grid",  # one transformer token a frame: what a CPU can search; codes of patches: measured
                "quantizer": "vq_ema",
                "distance": "cosine",
                "num_groups": 98,  # two for each of 49 patches
                "num_codes": 64,
                "code_dim": 8,
                "patch_size": 12,  # pixels
                "width": 128,
                "num_blocks": 1,  # 2 gained nothing in recall: measured
                "token_hidden": 64,
                "channel_hidden": 128,
                "motion_weight": 30.0,  # a moving pixel counts 31 still ones; else the player is lost
                "motion_threshold": 20.0,  # grey levels off the room's median frame
                "background": "median",  # codes speak of what moves, one more names the room: measured
                "num_medians": 32,  # rooms; the first level has 24
                "new_median_share": 0.15,  # of the pixels; 0.1 of them move in a room, rooms are 0.25 apart: measured
                "median_step": 0.1,  # grey levels an update
                "commitment": 0.02,  # at 0.25 all encodings met in one code: measured
                "codebook_decay": 0.9,  # an update
                "kmeans_iterations": 10,
                "revive_below": 0.05,  # expected uses an update under which a code is dead
                "revive_limit": 2,  # codes a group and update
                "revive_warmup": 100,  # updates without that limit
                "slow_decay": 0.99,
            },
            "tokenizer_learner": {
                "stream": "diverse",  # frames of its own, rare ones likelier; or "joint": the learner's batch
                "batch_size": 128,  # frames an update
                "learning_rate": 5e-4,
                "warmup_updates": 0,
                "decay_updates": 0,  # 0: the rate stays
                "weight_decay": 1e-4,
                "clip_norm": 1.0,
            },
            "dynamics": {
                "width": 128,
                "num_layers": 2,
                "num_heads": 4,
                "mlp_width": 512,
                "head_width": 256,
                "code_input": "learned",  # the notes found it far better than the quantised vectors
                "action_input": "sum",  # onto every token, as the notes did; "token": a slot of its own
                "action_embedding": "atomic",  # a vector each; "compositional": the sum of the joystick's switches
                "action_norm": 1.0,  # of what an action adds to the heads at the start; latents add sqrt(2 head_width)
                "token_position": "learned",  # in the frame, by reading order (Reed et al. 2022)
                "code_head": "whole",  # from the latent; "patches": also from what is round each patch
                "feedback": "expected",  # differentiable; what `step` feeds back for a predicted frame
                "num_outcomes": 0,  # chance codes; 0: none
                "dtype": "float32",  # of the large products; "bfloat16" where the hardware multiplies it
            },
            "support": {"minimum": -6.25, "maximum": 6.25, "num_bins": 51},  # rescaled units: up to 52 x reward_scale
            "returns": {
                "reward_scale": 100.0,  # points; the key pays 100
                "extrinsic_discount": 0.997,  # a step (Schrittwieser et al. 2020)
                "intrinsic_discount": 0.99,  # a step (Burda et al. 2018)
                "short_discount": 0.9,  # a step
                "td_lambda": 0.95,
                "td_steps": 5,  # of Q
                "bootstrap": "search",  # of extrinsic values: the search's, from when it was played
                "intrinsic_crosses_end": False,
            },
            "search": {
                "kind": "gumbel",
                "num_simulations": 8,
                "max_depth": 6,
                "max_num_considered_actions": 4,  # of 8-16 simulations, so that the tree grows deep
                "value_floor": 0.01,  # scaled units; below it differences of value are noise
                "gumbel_scale": 1.0,
            },
            "exploration": {
                "beta_max": 0.3,  # scaled reward a unit of novelty
                "num_exploit_envs": 8,  # play at beta 0; theirs is the score
                "normalise": False,  # bonuses in units of their running size
                "epsilon": 0.0,  # chance a step that a random action begins
                "longest_hold": 1,  # steps that it may last, n of them by 1 / n^2
                "longest_way_back": 0,  # steps at -beta that an episode may begin with
            },
            "counts": {  # novelty by visits; this section or another kind's, or none
                "table_size": 2**20,  # keys for life
                "episodic_table_size": 4096,  # keys an episode
                "grid_height": 12,
                "grid_width": 12,
                "num_levels": 8,
            },
            "replay": {
                "kind": "uniform",
                "capacity": 196_608,  # rows of 7.1 kB: 1.4 GB
                "min_size": 8192,
                "priority_exponent": 0.6,  # Schaul et al. 2016; of kind "prioritised" only
                "importance_exponent": 0.4,
                "records_per_shard": 64,
            },
            "learner": {
                "batch_size": 8,  # sequences
                "sequence_length": 32,  # transitions; at least what a search sees: window + num_steps - 1 + max_depth
                "unroll_steps": 5,
                "num_unrolls": 4,  # open-loop starts a sequence
                "replay_ratio": 0.5,  # replayed observations an agent step
                "reanalyse_fraction": 0.125,
                "reanalyse_exploit_share": 0.0,  # of that, searched at beta 0; the rest at a beta in play
                "learning_rate": 1e-3,
                "warmup_updates": 50,
                "decay_updates": 0,  # 0: the rate stays; a run has no end that is known
                "weight_decay": 1e-4,
                "clip_norm": 5.0,
                "target_decay": 0.98,
            },
            "loss_weights": {
                "codes": 8.0,  # nats a code group, mean over groups
                "reward": 1.0,
                "intrinsic": 1.0,
                "continuation": 1.0,
                "policy": 1.0,
                "value": 1.0,
                "q": 0.5,
                "chance": 1.0,
                "open_loop": 1.0,
                "consistency": 0.0,  # of imagined with observed latents; EfficientZero takes 2 (Ye et al. 2021)
            },
            "evaluation": {
                "every_env_steps": 262_144,
                "num_episodes": 4,
                "max_episode_steps": 2_000,  # agent steps; experiments.evaluate plays whole episodes
                "noise": "search",
            },
            "checkpoint": {"every_env_steps": 131_072, "keep": 2},
            "report": {"every_env_steps": 8192},
            "pictures": {"every_env_steps": 65_536},  # what the model sees: 60-100 kB each
        }
    )
