"""What the tokenizer's codes look like: each put in the place of a typical frame's own code, and decoded."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from learnmax_jax import checkpoints
from learnmax_jax.models.autoencoder import grid_shape
from learnmax_jax.models.tokenizer import make_tokenizer
from learnmax_jax.report.folder import Folder, Missing

# Codes to frames.
Decode = Callable[[Any], Any]

_STATE = "['train'].tokenizer"
_CODES_A_GROUP = 6  # shown, of a whole-frame token
_MOST_GROUPS = 32  # shown, of it
_PATCHES = 60  # shown, of all groups of a patch token
_PATCH_SIDE = 60  # screen pixels, at least
_FULL_COLOUR_SHARE = 99.9  # percent of the pixels that change by less than what gives the full colour
_GAP, _CAPTION, _MARGIN = 4, 14, 62  # screen pixels


@dataclasses.dataclass(frozen=True)
class Codes:
    """A trained tokenizer and its typical frame.

    Attributes:
      decode: codes `[M, N, G]` -> frames `[M, H, W, C]` float32.
      step: of the checkpoint.
      frame: `[1, H, W, C]` uint8, the running median frame.
      codes: `[1, N, G]` int32, its codes; of a grid, the codes of each patch as if it were a token.
      decoded: `[H, W, C]` float, decoded from them.
      usage: `[G, V]` float, share of the times a code is chosen in its group.
    """

    decode: Decode
    step: int
    frame: np.ndarray
    codes: np.ndarray
    decoded: np.ndarray
    usage: np.ndarray


def read(folder: Folder) -> Codes:
    """The tokenizer of the newest good checkpoint.

    Raises:
      Missing: there is no checkpoint yet, or it does not fit this version of the code.
      StorageError: there are checkpoints, and none is good.
    """
    section = folder.settings.get("tokenizer")
    if not isinstance(section, dict):
        raise Missing("the config has no tokenizer")
    if section.get("quantizer") == "identity":
        raise Missing("the tokenizer is `identity`: the observation's integers are the codes")
    path = folder.path / "checkpoints"
    if not checkpoints.steps(path):
        raise Missing("no checkpoint has been saved yet")
    shape = checkpoints.shape_of(path, f"{_STATE}.medians.frames")
    if shape is None:
        checkpoints.restore(path, {}, part=_STATE)  # words what is broken, if it is that
        raise Missing("the checkpoint holds no tokenizer")
    shape = shape[1:]  # of one of the rooms' median frames
    height, width, channels = shape
    try:
        growth = folder.settings.get("growth")
        tokenizer = make_tokenizer(observation_shape=(height, width, channels), growth=growth, **section)
        example = jax.ShapeDtypeStruct((1, *shape), jnp.uint8)
        like = jax.eval_shape(tokenizer.init, jax.eval_shape(lambda: jax.random.key(0)), example)
        restored = checkpoints.restore(path, like, part=_STATE)
    except (TypeError, ValueError, AssertionError) as problem:
        raise Missing(f"the checkpoint is of another version of the code: {str(problem).splitlines()[0]}") from problem
    if restored is None:
        raise Missing("no checkpoint has been saved yet")
    state = restored.state
    room = int(np.argmax(state.medians.num_updates))
    frame = np.asarray(state.medians.frames[room]).round().astype(np.uint8)[None]
    usage = np.asarray(state.slow_quantizer.usage, np.float64)
    codes = np.asarray(tokenizer.tokenise(state, jnp.asarray(frame)))
    decode: Decode = partial(tokenizer.decode, state)
    if section["layout"] == "grid":
        codes, decode = _by_patch(codes, decode, tokenizer.patches, usage.shape[0])
    return Codes(
        decode=jax.jit(decode),
        step=restored.step,
        frame=frame,
        codes=codes,
        decoded=np.asarray(decode(codes)[0]),
        usage=usage / np.maximum(usage.sum(axis=-1, keepdims=True), 1e-9),
    )


def _by_patch(codes: np.ndarray, decode: Decode, patches: tuple[int, int], groups: int) -> tuple[np.ndarray, Decode]:
    """The codes `[1, 1, G]` of a grid, each patch made a token, `[1, P, g]`, and a decoder of such; the room stays."""
    number = patches[0] * patches[1]
    room = codes[:, 0, number * groups :]

    def decode_patches(codes: Any) -> Any:
        flat = jnp.reshape(codes, (len(codes), -1))
        rooms = jnp.broadcast_to(room, (len(codes), room.shape[1]))
        return decode(jnp.concatenate([flat, rooms], axis=1)[:, None])

    return codes[:, 0, : number * groups].reshape(1, number, groups), decode_patches


def draw_frame_token(found: Codes) -> tuple[Image.Image, float]:
    """The most used codes of each group of token 0, a whole frame: what changes by them; two groups a line.

    Returns:
      (the sheet, the grey levels of difference that have the full colour).
    """
    # The groups that say most, in order.
    shares = np.maximum(found.usage, 1e-12)
    says_most = np.argsort((shares * np.log(shares)).sum(axis=-1), kind="stable")[:_MOST_GROUPS]
    groups = np.sort(says_most).tolist()
    num_groups = len(groups)
    chosen = [most_used(found, token=0, group=group, count=_CODES_A_GROUP) for group in groups]
    changes = [frames - found.decoded for frames in decode_with(found, 0, chosen, groups)]
    full_colour = max(float(np.percentile(np.abs(np.concatenate(changes)), _FULL_COLOUR_SHARE)), 1.0)
    pictures = [colour_difference(change, full_colour) for change in changes]
    height, width = found.decoded.shape[:2]
    group_width = _MARGIN + _CODES_A_GROUP * (width + _GAP)
    sheet = Image.new("RGB", (2 * group_width, -(-num_groups // 2) * (height + _CAPTION + _GAP)), "white")
    for group, frames in enumerate(pictures):
        corner = (group % 2 * group_width, group // 2 * (height + _CAPTION + _GAP))
        _draw_row(sheet, corner, f"group {groups[group]}", frames, found.usage[groups[group], chosen[group]])
    return sheet, full_colour


def draw_patch_token(found: Codes, *, token: int, corner: tuple[int, int], size: int) -> Image.Image:
    """The most used codes of a patch token, as the patches that they decode to; a line a group, or some lines.

    Args:
      found: as read.
      token: which of the N.
      corner: (row, column) of the patch's first pixel.
      size: pixels a side.
    """
    num_groups, num_codes = found.usage.shape
    a_group = min(max(_PATCHES // num_groups, 4), num_codes)
    chosen = [most_used(found, token=token, group=group, count=a_group) for group in range(num_groups)]
    scale = -(-_PATCH_SIDE // size)
    side = size * scale
    a_line = min(a_group, 12)
    lines = -(-a_group // a_line)
    line_height = side + _CAPTION + _GAP
    sheet = Image.new("RGB", (_MARGIN + a_line * (side + _GAP), num_groups * lines * line_height), "white")
    cut = (slice(None), slice(corner[0], corner[0] + size), slice(corner[1], corner[1] + size))
    for group, frames in enumerate(decode_with(found, token, chosen)):
        patches = np.clip(frames[cut], 0, 255).astype(np.uint8).repeat(scale, axis=1).repeat(scale, axis=2)
        colours = np.broadcast_to(patches[..., :1], (*patches.shape[:3], 3))
        for line in range(lines):
            part = slice(line * a_line, (line + 1) * a_line)
            label = f"group {group}" if line == 0 else ""
            place = (0, (group * lines + line) * line_height)
            _draw_row(sheet, place, label, colours[part], found.usage[group, chosen[group][part]])
    return sheet


def draw(folder: Folder, found: Codes) -> list[tuple[str, Image.Image]]:
    """Sheets with a sentence each, by the layout of the tokens."""
    layout, size = str(folder.setting("tokenizer.layout")), int(folder.setting("tokenizer.patch_size"))
    sheets = []
    if layout in ("frame", "anchor"):
        sheet, full_colour = draw_frame_token(found)
        sheets.append(
            (
                f"For each code group, its {_CODES_A_GROUP} most used codes, each put in the place of the typical "
                "frame's own code. Shown is what the decoded frame changes by: red is brighter, blue is darker (full "
                f"colour at {full_colour:.0f} grey levels), white is no change. Below each: the code's share of use.",
                sheet,
            )
        )
    if layout in ("grid", "patch", "anchor"):
        lines, columns = grid_shape(found.decoded.shape, size)
        row, column = lines // 2, columns // 2
        token = row * columns + column + (layout == "anchor")
        sheets.append(
            (
                "The most used codes of a patch, each decoded in the middle of the typical frame with everything else "
                f"left as it is, cut out and enlarged ({size} x {size} pixels). Below each: the code's share of use.",
                draw_patch_token(found, token=token, corner=(row * size, column * size), size=size),
            )
        )
    return sheets


def most_used(found: Codes, *, token: int, group: int, count: int) -> np.ndarray:
    """The codes `[count]` of a group by use, the typical frame's own left out: it would change nothing."""
    order = np.argsort(-found.usage[group], kind="stable")
    return order[order != found.codes[0, token, group]][:count]


def decode_with(
    found: Codes, token: int, chosen: Sequence[np.ndarray], groups: Sequence[int] | None = None
) -> list[np.ndarray]:
    """Frames `[codes, H, W, C]` for each group: the typical frame with one code of one token replaced.

    Args:
      found: as read.
      token: which of the N.
      chosen: codes for each of the groups.
      groups: their numbers; all of them if None.
    """
    sets = []
    for group, codes in zip(range(len(chosen)) if groups is None else groups, chosen, strict=True):
        changed = np.repeat(found.codes, len(codes), axis=0)
        changed[:, token, group] = codes
        sets.append(changed)
    frames = np.asarray(found.decode(np.concatenate(sets)))
    return np.split(frames, np.cumsum([len(codes) for codes in chosen])[:-1])


def colour_difference(difference: np.ndarray, full_colour: float) -> np.ndarray:
    """Differences `[..., H, W, C]` in grey levels to colours `[..., H, W, 3]` uint8: red up, blue down, white none."""
    strength = np.clip(difference[..., 0] / full_colour, -1, 1)
    up, down = np.maximum(strength, 0), np.maximum(-strength, 0)
    colours = np.stack([1 - down, 1 - up - down, 1 - up], axis=-1)
    return (255 * colours).round().astype(np.uint8)


def _draw_row(
    sheet: Image.Image, corner: tuple[int, int], label: str, pictures: np.ndarray, shares: np.ndarray
) -> None:
    """A label, then pictures with their shares of use beneath."""
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=11)
    left, top = corner
    draw.text((left + 2, top + pictures.shape[1] // 2 - 6), label, fill="black", font=font)
    for index, (picture, share) in enumerate(zip(pictures, shares, strict=True)):
        place = left + _MARGIN + index * (pictures.shape[2] + _GAP)
        sheet.paste(Image.fromarray(np.ascontiguousarray(picture)), (place, top))
        right, bottom = place + pictures.shape[2] - 1, top + pictures.shape[1] - 1
        draw.rectangle((place, top, right, bottom), outline="#c8c8c8")
        draw.text((place + 2, bottom), f"{100 * share:.1f}%", fill="#505050", font=font)
