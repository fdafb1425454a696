"""The tables of experiments.tables: what is compared, on which recorded play, in which columns."""

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Recording:
    """A data set that tables need, and that is recorded where it is missing.

    Attributes:
      policy: of experiments.record.
      num_observations: rows.
      fields: of the config, dotted name -> value as on a command line.
    """

    policy: str
    num_observations: int
    fields: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of one table.

    Attributes:
      title: what is compared.
      shared: fields of every row, dotted name -> value as on a command line.
      rows: name -> (data set, fields of its own).
      columns: header -> the figure's name in metrics.jsonl, or one of `_figures`.
    """

    title: str
    shared: Mapping[str, str]
    rows: Mapping[str, tuple[str, Mapping[str, str]]]
    columns: Mapping[str, str]


_SMALL_SPRITES = {
    "env.backend": "world",
    "env.game": "sprites",
    "world.seed": "0",
    "world.size": "56",
    "world.num_rooms": "2",
    "world.player_size": "8",
    "world.skull_size": "9",
    "world.object_size": "9",
    "world.speed": "3",
    "world.max_length": "128",
}
_SPRITES = {**_SMALL_SPRITES, "world.size": "84"}
_KEY_DOOR = {
    "env.backend": "world",
    "env.game": "key_door",
    "world.size": "4",
    "world.max_length": "96",
    "tokenizer.layout": "frame",
    "tokenizer.quantizer": "identity",
    "tokenizer.background": "none",
    "tokenizer.num_groups": "2",
    "tokenizer.num_codes": "32",
    "tokenizer.code_dim": "32",
    "counts.grid_height": "1",
    "counts.grid_width": "1",
}


def _random_table(num_states: int) -> dict[str, str]:
    """World T with 4 actions; a state is two digits."""
    return {
        "env.backend": "world",
        "env.game": "table",
        "world.seed": "0",
        "world.num_states": str(num_states),
        "world.num_actions": "4",
        "world.num_digits": "2",
        "world.base": "16",
        "world.max_length": "256",
        "world.reward_state": "-1",
        "tokenizer.layout": "frame",
        "tokenizer.quantizer": "identity",
        "tokenizer.background": "none",
        "tokenizer.num_groups": "2",
        "tokenizer.num_codes": "16",
        "tokenizer.code_dim": "16",
        "counts.grid_height": "1",
        "counts.grid_width": "1",
    }


_TABLE_SIZES = {16: 600, 64: 1200, 256: 3000}  # states -> updates

RECORDINGS: dict[str, Recording] = {
    "route-deterministic": Recording("route", 131_072, {"env.protocol": "deterministic"}),
    "jumpy-standard": Recording("jumpy", 131_072, {"env.protocol": "standard"}),
    "sprites": Recording("jumpy", 65_536, _SPRITES),
    "sprites-56": Recording("jumpy", 65_536, {**_SMALL_SPRITES, "tokenizer.num_groups": "50"}),
    "key-door": Recording("random", 65_536, _KEY_DOOR),
    **{f"table-{size}": Recording("random", 65_536, _random_table(size)) for size in _TABLE_SIZES},
}

_PREDICTION_COLUMNS = {
    "nats a code, forced": "forced_nats",
    "rolling / forced": "rolling_over_forced",
    "open / rolling": "exposure_ratio",
    "gap closed k=1": "gap_closed_1",
    "k=2": "gap_closed_2",
    "k=5": "gap_closed_5",
    "k=10": "gap_closed_10",
    "by the mean picture k=1": "gap_closed_mean_1",
    "mean, k=5": "gap_closed_mean_5",
    "mean, k=10": "gap_closed_mean_10",
    "changed codes right k=1": "changed_accuracy_1",
    "position error k=1, pixels": "predicted_position_error_1",
    "k=10, pixels": "predicted_position_error_10",
    "wrong action / true": "wrong_action_ratio",
}
_ROUTE, _JUMPY = "route-deterministic", "jumpy-standard"
_TOKENIZER_ONLY = {
    "pretrain.tokenizer_updates": "300",
    "pretrain.model_updates": "0",
    "pretrain.examine_every_updates": "300",
    "pretrain.checkpoint_every_updates": "300",
}
_MODEL_ONLY = {
    "pretrain.tokenizer_updates": "0",
    "pretrain.model_updates": "500",
    "pretrain.examine_every_updates": "500",
    "pretrain.checkpoint_every_updates": "500",
}
_FRAME = {"tokenizer.layout": "frame", "tokenizer.num_groups": "32"}
_PLAIN = {"tokenizer.background": "none"}
_PATCHES = {**_PLAIN, "tokenizer.layout": "patch", "tokenizer.num_groups": "1", "tokenizer.num_codes": "256"}
# Attention over patches costs many times a frame's token: few of them, of a small world.
_FEW_PATCHES = {
    **_SMALL_SPRITES,
    **_PATCHES,
    "tokenizer.patch_size": "14",
    "learner.batch_size": "8",
    "learner.sequence_length": "16",
    "learner.replay_ratio": "0.25",
    "learner.num_unrolls": "2",
    "pretrain.tokenizer_updates": "300",
    "pretrain.model_updates": "1200",
    "pretrain.examine_every_updates": "1500",
    "pretrain.checkpoint_every_updates": "500",
}

TABLES: dict[str, Table] = {
    "tokenizers": Table(
        title="Quantisers and layouts on held-out frames",
        shared=_TOKENIZER_ONLY,
        rows={
            "grid, vq_ema (default)": (_ROUTE, {}),
            "grid, motion weighting off": (_ROUTE, {"tokenizer.motion_weight": "0"}),
            "grid, background not taken away": (_ROUTE, _PLAIN),
            "grid, neither": (_ROUTE, {**_PLAIN, "tokenizer.motion_weight": "0"}),
            "frame, vq_ema": (_ROUTE, _FRAME),
            "frame, background not taken away": (_ROUTE, {**_FRAME, **_PLAIN}),
            "frame, neither: as in the notes": (_ROUTE, {**_FRAME, **_PLAIN, "tokenizer.motion_weight": "0"}),
            "frame, vq_grad": (_ROUTE, {**_FRAME, "tokenizer.quantizer": "vq_grad"}),
            "frame, fsq": (_ROUTE, {**_FRAME, "tokenizer.quantizer": "fsq", "tokenizer.code_dim": "2"}),
            "frame, random": (_ROUTE, {**_FRAME, "tokenizer.quantizer": "random"}),
            "patch 7x7, vq_ema": (_ROUTE, _PATCHES),
            "patch 11x11, vq_ema": (_ROUTE, {**_PATCHES, "tokenizer.patch_size": "8"}),
            "patch 12x12, vq_ema": (_ROUTE, {**_PATCHES, "tokenizer.patch_size": "7"}),
            "patch 7x7, growing": (
                _ROUTE,
                {
                    **_PATCHES,
                    "tokenizer.quantizer": "growing",
                    "tokenizer.num_codes": "1024",
                    "tokenizer.code_dim": "144",
                    "growth.distance": "30",
                    "growth.error": "10",
                    "growth.limit": "32",
                },
            ),
            "anchor + patch 7x7, vq_ema": (_ROUTE, {**_PATCHES, "tokenizer.layout": "anchor"}),
        },
        columns={
            "bits a frame": "bits_a_frame",
            "codes used of a codebook": "held_out_codes_used",
            "perplexity": "held_out_perplexity",
            "pixel error, grey levels": "test_pixel_error",
            "foreground error": "test_foreground_error",
            "player recall": "recall",
            "room accuracy": "room_accuracy",
            "position error, pixels": "position_error",
            "encode frames/s": "encode_frames_per_second",
            "train frames/s": "train_frames_per_second",
        },
    ),
    "dynamics": Table(
        title="Switches of the dynamics, on one trained tokenizer",
        shared={**_MODEL_ONLY, "init.parts": "tokenizer"},
        rows={
            "default: learned code embedding, summed atomic action": (_ROUTE, {}),
            "next codes from each patch's neighbours too": (_ROUTE, {"dynamics.code_head": "patches"}),
            "windows by epochs, not by rarity": (_ROUTE, {"pretrain.windows": "epochs"}),
            "quantised vectors": (_ROUTE, {"dynamics.code_input": "quantised"}),
            "whitened vectors": (_ROUTE, {"dynamics.code_input": "whitened"}),
            "learned and quantised": (_ROUTE, {"dynamics.code_input": "both"}),
            "action in a slot of its own": (_ROUTE, {"dynamics.action_input": "token"}),
            "actions as large as latents in the head": (_ROUTE, {"dynamics.action_norm": "22.6"}),
            "actions of a third of that": (_ROUTE, {"dynamics.action_norm": "6.8"}),
            "feedback of the likeliest code": (_ROUTE, {"dynamics.feedback": "argmax"}),
            "no open-loop loss": (_ROUTE, {"loss_weights.open_loop": "0"}),
            "latent consistency loss": (_ROUTE, {"loss_weights.consistency": "1"}),
            "tokenizer learns on": (_ROUTE, {"pretrain.tokenizer_with_model": "true"}),
            "sticky actions": (_JUMPY, {}),
            "sticky actions, 8 outcome codes": (_JUMPY, {"dynamics.num_outcomes": "8"}),
        },
        columns={
            **_PREDICTION_COLUMNS,
            "imagined told from seen, AUC": "latent_separability",
            "CKA": "latent_cka",
            "spread of latents": "latent_spread",
            "length of a code's input": "code_input_scale",
            "its effective rank": "code_input_rank",
        },
    ),
    "actions": Table(
        title="Actions never trained on: UPRIGHTFIRE and DOWNLEFT are left out of the losses",
        shared={**_MODEL_ONLY, "init.parts": "tokenizer", "pretrain.held_out_actions": "14,9"},
        rows={
            "atomic": (_ROUTE, {}),
            "compositional": (_ROUTE, {"dynamics.action_embedding": "compositional"}),
        },
        columns={"nats a code, actions left out": "held_out_action_nats", "nats a code, all": "forced_nats"},
    ),
    "scratch": Table(
        title="How tokenizer and dynamics are trained: 300 and 500 updates, or both at once",
        shared={},
        rows={
            "tokenizer first, then frozen": (_ROUTE, {**_MODEL_ONLY, "pretrain.tokenizer_updates": "300"}),
            "jointly from the start": (_ROUTE, {**_MODEL_ONLY, "pretrain.tokenizer_with_model": "true"}),
            "no reconstruction: random codes of the frame": (
                _ROUTE,
                {**_FRAME, **_MODEL_ONLY, "pretrain.tokenizer_updates": "300", "tokenizer.quantizer": "random"},
            ),
            "frame codes first, then frozen": (_ROUTE, {**_FRAME, **_MODEL_ONLY, "pretrain.tokenizer_updates": "300"}),
        },
        columns={"player recall": "recall", "position error, pixels": "position_error", **_PREDICTION_COLUMNS},
    ),
    "positions": Table(
        title="Where a patch is, world R in 4x4 patches: one vector a patch, rows and columns, or nothing",
        shared=_FEW_PATCHES,
        rows={
            "learned, 1-D": ("sprites-56", {}),
            "rows and columns, 2-D": ("sprites-56", {"dynamics.token_position": "rows_columns"}),
            "none": ("sprites-56", {"dynamics.token_position": "none"}),
        },
        columns=_PREDICTION_COLUMNS,
    ),
    "sprites": Table(
        title="World R: known sprites over still backgrounds",
        shared={**_SPRITES, **_MODEL_ONLY, "pretrain.tokenizer_updates": "300"},
        rows={"default": ("sprites", {})},
        columns={"player recall": "recall", "position error, pixels": "position_error", **_PREDICTION_COLUMNS},
    ),
    "windows": Table(
        title="World K: nats of whether the door opens (half of the windows end so), by how many frames are seen",
        shared={
            **_KEY_DOOR,
            **_MODEL_ONLY,
            "pretrain.model_updates": "1500",
            "pretrain.examine_every_updates": "1500",
            "pretrain.checkpoint_every_updates": "500",
            "actor.window": "32",
            "learner.sequence_length": "48",
            "learner.replay_ratio": "1.5",
        },
        rows={"default": ("key-door", {})},
        columns={f"{window} frames": f"end_nats_of_window_{window}" for window in (1, 2, 3, 8, 32)},
    ),
    "tables": Table(
        title="World T: updates until 99% of the next states' digits are right, by the table's size and the width",
        shared={
            "pretrain.tokenizer_updates": "0",
            "pretrain.num_test_windows": "64",
            "pretrain.report_every_updates": "25",
            "pretrain.examine_every_updates": "25",
            "pretrain.checkpoint_every_updates": "300",
        },
        rows={
            f"{size} states x 4 actions, width {width}": (
                f"table-{size}",
                {
                    **_random_table(size),
                    "dynamics.width": str(width),
                    "dynamics.head_width": str(2 * width),
                    "pretrain.model_updates": str(model_updates),
                },
            )
            for size, model_updates in _TABLE_SIZES.items()
            for width in (32, 64, 128)
        },
        columns={
            "updates to 99% of the digits": "updates_to_99",
            "of the states": "updates_to_99_whole",
            "digits right at the end": "accuracy_1",
            "states": "frames_right_1",
        },
    ),
}
