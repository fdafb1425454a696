"""DeepSea: exploration that plans finds the treasure in some episodes, dithering in 2^size.

python -m experiments.zuma --config=configs/deep_sea.py --config.world.size=10
python -m experiments.worlds --table=deep_sea

Nets and batches are small: one core plays and learns some 700 to 2,500 steps a second.
"""

from ml_collections import ConfigDict

from configs import smoke

# The kinds of exploration that are compared, each alone; `none` plays at beta 0 only, so that nobody wants novelty.
KINDS = ("none", "counts", "coin_flip", "disagreement", "optimism")
ALL_KINDS = (*KINDS, "random")  # and nothing but random actions


def get_config() -> ConfigDict:
    """Returns the DeepSea config: row and column as codes, novelty by visits."""
    return variant("counts", "gumbel")


def variant(kind: str, search: str) -> ConfigDict:
    """The config with one kind of exploration, or none, over one kind of search.

    Without either it is Q-learning on the same nets, with random actions: the baseline.
    """
    config = small(smoke.get_config())
    config.name = "deep_sea"
    config.env.game = "deep_sea"
    with config.unlocked():
        config.world = {
            "seed": 0,
            "size": 10,  # N, steps an episode (Osband et al. 2019 go from 10 to 50)
        }
    config.tokenizer.num_groups = 2  # row and column
    config.tokenizer.num_codes = 32  # so that sizes up to 31 need no other change
    config.tokenizer.code_dim = 32
    config.search.max_num_considered_actions = 2  # all there are
    config.evaluation.max_episode_steps = 31
    return explore(config, kind, search)


def small(config: ConfigDict) -> ConfigDict:
    """What all small worlds share: many cheap environments, small nets, several updates a step."""
    config.env.backend = "world"
    config.num_env_steps = 100_000
    config.env.num_envs = 16
    config.actor.window = 2
    config.actor.num_steps = 8
    config.tokenizer.quantizer = "identity"
    config.tokenizer_learner.stream = "joint"  # the quantiser learns nothing
    config.dynamics.width = 32
    config.dynamics.num_layers = 1
    config.dynamics.head_width = 64
    config.support.minimum = -4.0
    config.support.maximum = 4.0
    config.support.num_bins = 33
    config.returns.reward_scale = 1.0
    config.returns.intrinsic_discount = 0.97
    config.returns.td_lambda = 0.8
    config.returns.td_steps = 3
    config.returns.bootstrap = "q"  # what was searched when played is old by then: measured
    config.search.num_simulations = 4
    config.search.value_floor = 0.1  # at 0.01 nothing but the model's errors decides between two new ways: measured
    config.search.max_depth = 3
    config.exploration.beta_max = 1.0
    config.exploration.num_exploit_envs = 2
    config.exploration.epsilon = 0.1  # a DQN's; at 0 an action that is thought dull is never tried: measured
    config.counts.grid_height = 1  # the observation is 1 x 1 integers
    config.counts.grid_width = 1
    config.counts.num_levels = 256  # every integer its own key
    config.replay.capacity = 65_536
    config.replay.min_size = 512
    config.replay.kind = "prioritised"
    config.learner.batch_size = 16
    config.learner.sequence_length = 8
    config.learner.unroll_steps = 3
    config.learner.num_unrolls = 1
    config.learner.replay_ratio = 16.0
    config.learner.reanalyse_fraction = 0.0  # no tree in the learner: its program compiles in half the time
    config.learner.learning_rate = 2e-3
    config.learner.warmup_updates = 20
    config.learner.target_decay = 0.95
    config.evaluation.noise = "none"
    config.evaluation.num_episodes = 1  # these worlds are deterministic
    config.evaluation.every_env_steps = 512
    config.checkpoint.every_env_steps = 16_384
    config.report.every_env_steps = 2048
    config.pictures.every_env_steps = 65_536
    return config


def explore(config: ConfigDict, kind: str, search: str) -> ConfigDict:
    """Leaves a config one kind of exploration, or none, or nothing but random actions, and one kind of search.

    Search `q_only` is none, and nothing is learned but Q: a DQN on the same net, without a model.
    """
    if kind not in ALL_KINDS:
        raise ValueError(f"kind={kind}: unknown. Allowed: {', '.join(ALL_KINDS)}.")
    counts = config.counts
    with config.unlocked():
        if kind not in ("counts", "none", "random"):  # counts that nobody wants: the same program, wanted by none
            del config.counts
        if kind == "coin_flip":
            config.coin_flip = {
                "num_flips": 20,  # Lobel et al. 2023
                "width": 64,
                "grid_height": counts.grid_height,
                "grid_width": counts.grid_width,
                "num_levels": counts.num_levels,
                "learning_rate": 2e-3,
            }
        if kind == "disagreement":
            config.disagreement = {
                "num_members": 5,
                "width": 32,
                "prior_scale": 1.0,
                "value_weight": 0.5,
                "learning_rate": 2e-3,
            }
        if kind == "optimism":
            config.optimism = {"share": 0.1, "reward": 0.5, "anneal_updates": 0}
    if kind == "optimism":
        # What is made up stands at single actions: their neighbours learn of it by Q, a step at a time.
        config.returns.td_lambda = 0.0
        config.returns.td_steps = 1
    if search == "q_only":
        for name in config.loss_weights:
            config.loss_weights[name] = float(name == "q")
        config.replay.kind = "uniform"  # priorities are errors of the value, which is not learned here
    config.search.kind = "none" if search == "q_only" else search
    if config.search.kind == "none":
        config.search.num_simulations = 0
        config.search.gumbel_scale = 0.0
    if kind in ("none", "random"):
        config.exploration.num_exploit_envs = config.env.num_envs
    if kind == "random":
        config.exploration.epsilon = 1.0
    return config
