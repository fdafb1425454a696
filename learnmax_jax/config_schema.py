"""What every field of a config may be; the values stand in configs/ only, how they fit in config_checks.py."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from learnmax_jax.config_fields import Field, choice, count, nearest, number, switch, text
from learnmax_jax.lifecycle import BadInput

NOISES = ("none", "search", "training")  # of an evaluation; see evaluation.Evaluator

FIELDS: Mapping[str, Field] = {
    "name": text(),
    "seed": count(allowed="[0, 2147483647]"),
    "num_env_steps": count("agent steps, all environments together"),
    # acting
    "env.backend": choice("xla", "callback", "world"),
    "env.game": text(),
    "env.num_envs": count("environments", "[1, 65536]"),
    "env.num_threads": count("threads; 0 takes one a core", "[0, 1024]"),
    "env.protocol": choice("standard", "deterministic"),
    "env.action_set": choice(6, 7, 8, 18),
    "env.max_episode_steps": count("agent steps", "[1, 27000]"),
    "env.zero_discount_on_life_loss": switch(),
    "actor.window": count("observations"),
    "actor.num_steps": count("agent steps of each environment in one train step"),
    "actor.num_groups": count("groups of environments that take turns; a divisor of env.num_envs"),
    # models
    "tokenizer.layout": choice("frame", "grid", "patch", "anchor"),
    "tokenizer.quantizer": choice("vq_ema", "vq_grad", "fsq", "random", "growing", "identity"),
    "tokenizer.distance": choice("cosine", "l2"),
    "tokenizer.background": choice("none", "median"),
    "tokenizer.num_groups": count("code groups a token"),
    "tokenizer.num_codes": count("codes a group", "[2, 65536]"),
    "tokenizer.code_dim": count("numbers a code"),
    "tokenizer.patch_size": count("pixels", "[1, 84]"),
    "tokenizer.width": count("channels"),
    "tokenizer.num_blocks": count("mixer blocks", "[0, inf)"),
    "tokenizer.token_hidden": count("hidden units"),
    "tokenizer.channel_hidden": count("hidden units"),
    "tokenizer.motion_weight": number("[0, inf)"),
    "tokenizer.motion_threshold": number("[0, 255]", "grey levels"),
    "tokenizer.num_medians": count("rooms"),
    "tokenizer.new_median_share": number("[0, 1]", "share of a frame's pixels"),
    "tokenizer.median_step": number("[0, 255]", "grey levels an update"),
    "tokenizer.commitment": number("[0, inf)"),
    "tokenizer.codebook_decay": number("[0, 1)"),
    "tokenizer.kmeans_iterations": count("iterations", "[0, inf)"),
    "tokenizer.revive_below": number("[0, 1]", "expected uses an update"),
    "tokenizer.revive_limit": count("codes a group and update", "[0, inf)"),
    "tokenizer.revive_warmup": count("updates", "[0, inf)"),
    "tokenizer.slow_decay": number("[0, 1)"),
    "tokenizer_learner.stream": choice("diverse", "joint"),
    "tokenizer_learner.batch_size": count("observations"),
    "tokenizer_learner.learning_rate": number("[0, 1]"),
    "tokenizer_learner.warmup_updates": count("updates", "[0, inf)"),
    "tokenizer_learner.decay_updates": count("updates", "[0, inf)"),
    "tokenizer_learner.weight_decay": number("[0, inf)"),
    "tokenizer_learner.clip_norm": number("(0, inf)"),
    "dynamics.width": count("channels"),
    "dynamics.num_layers": count("layers"),
    "dynamics.num_heads": count("heads"),
    "dynamics.mlp_width": count("channels"),
    "dynamics.head_width": count("channels"),
    "dynamics.code_input": choice("learned", "quantised", "whitened", "both"),
    "dynamics.action_input": choice("sum", "token"),
    "dynamics.action_embedding": choice("atomic", "compositional"),
    "dynamics.action_norm": number("(0, inf)"),
    "dynamics.token_position": choice("learned", "rows_columns", "none"),
    "dynamics.code_head": choice("whole", "patches"),
    "dynamics.feedback": choice("expected", "argmax"),
    "dynamics.num_outcomes": count("outcomes; 0 for no chance", "[0, inf)"),
    "dynamics.dtype": choice("float32", "bfloat16"),
    "support.minimum": number("(-inf, 0]", "rescaled return"),
    "support.maximum": number("[0, inf)", "rescaled return"),
    "support.num_bins": count("bins", "[2, inf)"),
    # learning
    "returns.reward_scale": number("(0, inf)", "points"),
    "returns.extrinsic_discount": number("[0, 1]", "a step"),
    "returns.short_discount": number("[0, 1]", "a step"),
    "returns.intrinsic_discount": number("[0, 1]", "a step"),
    "returns.td_lambda": number("[0, 1]"),
    "returns.td_steps": count("agent steps"),
    "returns.bootstrap": choice("search", "value", "q"),
    "returns.intrinsic_crosses_end": switch(),
    "learner.batch_size": count("sequences"),
    "learner.sequence_length": count("transitions"),
    "learner.unroll_steps": count("transitions"),
    "learner.num_unrolls": count("roots a sequence"),
    "learner.replay_ratio": number("(0, inf)", "replayed observations an agent step"),
    "learner.reanalyse_fraction": number("[0, 1]"),
    "learner.reanalyse_exploit_share": number("[0, 1]"),
    "learner.learning_rate": number("[0, 1]"),
    "learner.warmup_updates": count("updates", "[0, inf)"),
    "learner.decay_updates": count("updates", "[0, inf)"),
    "learner.weight_decay": number("[0, inf)"),
    "learner.clip_norm": number("(0, inf)"),
    "learner.target_decay": number("[0, 1)"),
    "loss_weights.codes": number("[0, inf)"),
    "loss_weights.reward": number("[0, inf)"),
    "loss_weights.intrinsic": number("[0, inf)"),
    "loss_weights.continuation": number("[0, inf)"),
    "loss_weights.policy": number("[0, inf)"),
    "loss_weights.value": number("[0, inf)"),
    "loss_weights.q": number("[0, inf)"),
    "loss_weights.chance": number("[0, inf)"),
    "loss_weights.open_loop": number("[0, inf)"),
    "loss_weights.consistency": number("[0, inf)"),
    # search, exploration, replay
    "search.kind": choice("gumbel", "muzero", "none"),
    "search.num_simulations": count("simulations", "[0, inf)"),
    "search.max_depth": count("steps"),
    "search.max_num_considered_actions": count("actions", "[1, 18]"),
    "search.value_floor": number("(0, inf)", "scaled return"),
    "search.gumbel_scale": number("[0, inf)"),
    "exploration.beta_max": number("[0, inf)"),
    "exploration.num_exploit_envs": count("environments at beta 0", "[0, inf)"),
    "exploration.normalise": switch(),
    "exploration.epsilon": number("[0, 1]", "chance that a random action begins"),
    "exploration.longest_hold": count("agent steps", "[1, 1000]"),
    "exploration.longest_way_back": count("agent steps", "[0, 27000]"),
    "replay.kind": choice("uniform", "prioritised"),
    "replay.capacity": count("rows in all"),
    "replay.min_size": count("rows in all"),
    "replay.priority_exponent": number("[0, 1]"),
    "replay.importance_exponent": number("[0, 1]"),
    "replay.records_per_shard": count("rows"),
    # reports
    "evaluation.every_env_steps": count("agent steps"),
    "evaluation.num_episodes": count("episodes"),
    "evaluation.max_episode_steps": count("agent steps", "[1, 27000]"),
    "evaluation.noise": choice(*NOISES),
    "checkpoint.every_env_steps": count("agent steps"),
    "checkpoint.keep": count("checkpoints"),
    "report.every_env_steps": count("agent steps"),
    "pictures.every_env_steps": count("agent steps"),
}


@dataclasses.dataclass(frozen=True)
class Section:
    """A section that a config has only where it is wanted; sections of one name exclude each other.

    Attributes:
      name: the section's.
      fields: by their names inside it; all of them are needed where it stands.
      needed_by: it must stand where these fields have these values, and nowhere else; None: it is off by absence.
    """

    name: str
    fields: Mapping[str, Field]
    needed_by: Mapping[str, Any] | None = None

    def stands_in(self, given: Mapping[str, Any]) -> bool:
        """Whether a config of these leaves has to have all its fields."""
        if self.needed_by is None:
            return any(name.startswith(self.name + ".") for name in given)
        return all(given.get(field) == value for field, value in self.needed_by.items())

    def describe(self) -> str:
        """States where it stands."""
        if self.needed_by is None:
            return "off by absence"
        return "with " + ", ".join(f"{field}={value}" for field, value in self.needed_by.items())


def world(game: str, fields: Mapping[str, Field]) -> Section:
    """The arguments of a world's `make`."""
    return Section("world", fields, {"env.backend": "world", "env.game": game})


_CELLS = {"grid_height": count("cells", "[1, 84]"), "grid_width": count("cells", "[1, 84]")}
_COARSE_FRAME = {**_CELLS, "num_levels": count("grey levels", "[2, 256]")}
_KEY_TABLES = {"table_size": count("keys"), "episodic_table_size": count("keys an environment")}

SECTIONS: tuple[Section, ...] = (
    # A fresh run starts from what another one has learned.
    Section("init", {"workdir": text(), "parts": choice("all", "tokenizer")}),
    Section(
        "pretrain",
        {
            "tokenizer_updates": count("updates of the tokenizer alone", "[0, inf)"),
            "model_updates": count("updates of the dynamics", "[0, inf)"),
            "tokenizer_with_model": switch(),
            "windows": choice("rare", "epochs"),
            "test_share": number("[0, 1)", "share of the episodes"),
            "overlap_length": count("rows"),
            "skip_damaged": switch(),
            "held_out_actions": Field(int, "[0, 17]", "actions that no loss sees", is_tuple=True),
            "num_test_windows": count("windows"),
            "report_every_updates": count("updates"),
            "examine_every_updates": count("updates; a multiple of pretrain.report_every_updates"),
            "checkpoint_every_updates": count("updates"),
        },
    ),
    # What is left out to see what it was good for.
    Section("ablation", {"frozen_dynamics": switch()}),
    Section(
        "curriculum",
        {
            "lengths": Field(int, "[1, 27000]", "agent steps an episode of each early stage", is_tuple=True),
            "env_steps_a_stage": count("agent steps, all environments together"),
        },
    ),
    Section(
        "counts",
        {
            **_KEY_TABLES,
            **_COARSE_FRAME,
        },
    ),
    Section(
        "patch_counts",
        {
            **_COARSE_FRAME,
            "num_stages": count("rewards of an episode that are told apart, and none; 1 tells none"),
        },
    ),
    Section(
        "action_keys",
        {
            **_KEY_TABLES,
            **_CELLS,
            "width": count("hidden units"),
            "num_features": count("features"),
            "num_bins": count("steps of a feature", "[2, 256]"),
            "learning_rate": number("[0, 1]"),
            "learn_updates": count("updates until the keys are frozen", "[0, 1000000000]"),
        },
    ),
    Section(
        "coin_flip",
        {
            "num_flips": count("coins a row"),
            "width": count("hidden units"),
            **_COARSE_FRAME,
            "learning_rate": number("[0, 1]"),
        },
    ),
    Section(
        "disagreement",
        {
            "num_members": count("networks", "[2, inf)"),
            "width": count("hidden units"),
            "prior_scale": number("[0, inf)"),
            "value_weight": number("[0, inf)"),
            "learning_rate": number("[0, 1]"),
        },
    ),
    Section(
        "optimism",
        {
            "share": number("[0, 1]", "share of the rows of a batch"),
            "reward": number("[0, inf)", "novelty"),
            "anneal_updates": count("updates until the share is 0; 0 for never", "[0, inf)"),
        },
    ),
    Section(
        "growth",
        {
            "distance": number("[0, 255]", "grey levels, root mean square over a patch, from the nearest code"),
            "error": number("[0, 255]", "grey levels, root mean square over a patch, of the reconstruction"),
            "limit": count("codes an update"),
        },
        {"tokenizer.quantizer": "growing"},
    ),
    world(
        "table",
        {
            "seed": count(allowed="[0, 2147483647]"),
            "num_states": count("states", "[2, 2147483647]"),
            "num_actions": count("actions"),
            "num_digits": count("digits a state", "[1, 1024]"),
            "base": count("codes a digit", "[2, 256]"),
            "max_length": count("transitions an episode"),
            "reward_state": count("state; -1 for no reward", "[-1, 2147483646]"),
        },
    ),
    world(
        "key_door",
        {"size": count("cells a side", "[2, 256]"), "max_length": count("transitions an episode")},
    ),
    world(
        "deep_sea",
        {"seed": count(allowed="[0, 2147483647]"), "size": count("cells a side; steps an episode", "[2, 255]")},
    ),
    world(
        "sprites",
        {
            "seed": count(allowed="[0, 2147483647]"),
            "size": count("pixels a side", "[16, 256]"),
            "num_rooms": count("backgrounds", "[1, 256]"),
            "player_size": count("pixels a side"),
            "skull_size": count("pixels a side"),
            "object_size": count("pixels a side"),
            "speed": count("pixels a step"),
            "max_length": count("transitions an episode"),
        },
    ),
)

# What a run may change when it is resumed; everything else has shaped its state or its data.
MAY_CHANGE_ON_RESUME = (
    "name",
    "num_env_steps",
    "env.num_threads",
    "evaluation.every_env_steps",
    "evaluation.num_episodes",
    "evaluation.max_episode_steps",
    "evaluation.noise",
    "checkpoint.every_env_steps",
    "checkpoint.keep",
    "report.every_env_steps",
    "pictures.every_env_steps",
    "pretrain.model_updates",
    "pretrain.report_every_updates",
    "pretrain.examine_every_updates",
    "pretrain.checkpoint_every_updates",
)


def error(field: str, given: Any, why: str, allowed: str, nearest_value: Any = None) -> BadInput:
    """Words every complaint about a config in one way."""
    line = f"{field}={given}: {why}. Allowed: {allowed}."
    return BadInput(line if nearest_value is None else f"{line} Nearest: {nearest_value}")


def fields_of(given: Mapping[str, Any]) -> dict[str, Field]:
    """All fields that a config must have: the required ones and those of its optional sections.

    Args:
      given: the config's leaves under dotted names, as `flatten` lists them.
    """
    fields = dict(FIELDS)
    for section in SECTIONS:
        if section.stands_in(given):
            fields |= {f"{section.name}.{name}": field for name, field in section.fields.items()}
    return fields


def optional_section(config: Any, name: str) -> dict[str, Any]:
    """The values of an optional section; none where the config lacks it."""
    return dict(config[name].items()) if name in config else {}


def check_fields(config: Any) -> None:
    """Checks that each field of the tables is there, nothing else is, and each value is allowed."""
    given = flatten(config)
    fields = fields_of(given)
    for name, value in given.items():
        if name not in fields:
            raise unknown_field(name, value, fields)
    for name, field in fields.items():
        if name not in given:
            raise error(name, "(missing)", "the config lacks this field", field.describe())
        why = field.why_not(given[name])
        if why:
            raise error(name, given[name], why, field.describe(), field.nearest(given[name]))


def unknown_field(name: str, value: Any, fields: Mapping[str, Field]) -> BadInput:
    """The complaint about a field that a config has not; a section's or a bare name finds its full one."""
    inside = [known for known in fields if known.startswith(name + ".")]
    if inside:
        return error(name, value, "names a section, not a field", ", ".join(inside), inside[0])
    section = name.rpartition(".")[0]
    siblings = [known for known in fields if known.rpartition(".")[0] == section]
    elsewhere = [other.describe() for other in SECTIONS if other.name == section]
    if elsewhere and not siblings:
        return error(name, value, "the config has no such section", f"section {section} {'; '.join(elsewhere)}")
    same_leaf = [known for known in fields if known.rpartition(".")[2] == name.rpartition(".")[2]]
    near = same_leaf[0] if same_leaf else nearest(name, siblings or fields)
    allowed = ", ".join(siblings) if siblings else "the fields of configs/base.py"
    return error(name, value, "unknown field", allowed, near)


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Lists the leaves of nested sections under dotted names."""
    leaves: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        leaves.update(flatten(value, name + ".") if hasattr(value, "items") else {name: value})
    return leaves
