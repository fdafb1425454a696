"""The report's page: every section on its own, so that what is missing or damaged leaves the others whole."""

import base64
import dataclasses
import datetime
import html
import io
import json
import math
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from PIL import Image, ImageSequence

from learnmax_jax import config_schema, provenance, published
from learnmax_jax.lifecycle import StorageError
from learnmax_jax.report import code_sheet, curves, maps, speed
from learnmax_jax.report.folder import Folder, Missing, is_number, step_of

_STYLE = """
body { margin: 0 auto; max-width: 1240px; padding: 16px 28px 60px; background: #fff; color: #1b1b1b;
  font: 15px/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; }
h1 { font-size: 25px; margin: 14px 0 2px; } h2 { font-size: 19px; margin: 40px 0 8px; padding-bottom: 4px;
  border-bottom: 1px solid #ddd; } h3 { font-size: 15px; margin: 18px 0 4px; }
p { margin: 6px 0; max-width: 90ch; } .small, figcaption { color: #555; font-size: 13px; }
nav a { margin-right: 14px; font-size: 14px; display: inline-block; color: #14508c; text-decoration: none; }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(125px, 1fr)); gap: 10px; margin: 16px 0; }
.tile { border: 1px solid #ddd; border-radius: 6px; padding: 8px 10px; } .tile b { display: block; font-size: 18px; }
.tile span { color: #555; font-size: 13px; } img { max-width: 100%; } figure { margin: 14px 0; }
.panels { display: grid; grid-template-columns: repeat(auto-fill, minmax(380px, 1fr)); gap: 10px; }
.pixels { image-rendering: pixelated; } .none { color: #777; }
.damage { background: #fff3e0; border-left: 4px solid #e69138; padding: 6px 12px; }
.columns { columns: 3 330px; font-size: 13px; } .columns section { break-inside: avoid; margin-bottom: 10px; }
table { border-collapse: collapse; width: 100%; } td { padding: 1px 8px 1px 0; vertical-align: top; }
td:first-child { width: 60%; }
td:last-child { font-family: ui-monospace, "DejaVu Sans Mono", monospace; overflow-wrap: anywhere; }
pre { background: #f5f5f5; padding: 8px 12px; border-radius: 6px; font-size: 13px; white-space: pre-wrap; }
"""
_STRIP_ROWS = "Rows from above: actual, reconstructed from its own codes, predicted open loop."


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
      name: its anchor. title: its heading.
      show: Folder -> html; raises Missing where there is nothing to show.
    """

    name: str
    title: str
    show: Callable[[Folder], str]


def write(folder: Folder, out: pathlib.Path, *, command: str) -> list[str]:
    """Writes the page, whole or not at all.

    Args:
      folder: as read.
      out: the file; its folder is made if need be.
      command: that asked for the page, for its foot.
    Returns:
      A text for each section that damage kept from the page.
    Raises:
      OSError: the file cannot be written.
    """
    damage: list[str] = []
    sections = [*SECTIONS, *([SPEED] if speed.pictures() else [])]
    parts = [_show(folder, section, damage) for section in sections]
    links = "".join(f'<a href="#{section.name}">{section.title}</a>' for section in sections)
    text = "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            # The browser itself keeps the page from loading anything.
            '<meta http-equiv="Content-Security-Policy" '
            "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">",
            '<meta name="viewport" content="width=device-width">',
            f"<title>{_name(folder)}</title><style>{_STYLE}</style></head><body>",
            _head(folder),
            f"<nav>{links}</nav>",
            *parts,
            f'<p class="small">Written {datetime.datetime.now().astimezone().isoformat(timespec="seconds")} by '
            f"<code>{html.escape(command)}</code></p>",
            "</body></html>\n",
        ]
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    writing = out.with_name(out.name + ".tmp")
    writing.write_text(text)
    os.replace(writing, out)
    return damage


def _show(folder: Folder, section: Section, damage: list[str]) -> str:
    """A section's html; a line in its place where it is missing or damaged."""
    try:
        body = section.show(folder)
    except Missing as nothing:
        body = f'<p class="none">Nothing to show: {html.escape(str(nothing))}.</p>'
    except StorageError as problem:
        why = " ".join(str(problem).split())
        damage.append(f"{section.title.lower()}: {why}")
        body = f'<p class="damage">Damaged: {html.escape(why)}</p>'
    return f'<h2 id="{section.name}">{section.title}</h2>\n{body}'


def _head(folder: Folder) -> str:
    """Name and the numbers that a reader asks for first."""
    game, protocol = folder.setting("env.game"), folder.setting("env.protocol")
    about = ", ".join(html.escape(str(value)) for value in (game, protocol and f"{protocol} protocol") if value)
    tiles = [
        (label, text)
        for label, column, text_of in (
            ("environment frames", "num_frames", _whole),
            ("agent steps", "num_env_steps", _whole),
            ("updates", "num_updates", _whole),
            ("wall time (h:min:s)", "seconds", _duration),
            ("score, training", "episode_score", _short),
            ("score, evaluation", "evaluation_score", _short),
            ("rooms seen", "rooms_visited", _whole),
            ("places seen", "positions_visited", _whole),
        )
        if (value := folder.latest(column)) is not None and (text := text_of(value))
    ]
    speed = _speed(folder)
    tiles += [speed] if speed else []
    boxes = "".join(f'<div class="tile"><b>{text}</b><span>{label}</span></div>' for label, text in tiles)
    skipped = "".join(f'<p class="damage">Skipped: {html.escape(line)}</p>' for line in folder.damage)
    return (
        f'<h1>{_name(folder)}</h1><p class="small">{about} &middot; {html.escape(str(folder.path))} &middot; '
        f'{len(folder.rows):,} reports</p><div class="tiles">{boxes}</div>{skipped}'
    )


def _score(folder: Folder) -> str:
    """Ours on the published axes."""
    drawn = _image(curves.draw_score(folder), "score over frames")
    if folder.setting("env.game") != published.GAME:
        return f"<figure>{drawn}</figure><p class='small'>The published curves are of another game.</p>"
    note = (
        "Thin: published curves, one line a seed (scores folder of danijar/dreamerv3, MIT licence; sticky actions "
        "0.25, 18 actions). Thick: this run"
    )
    protocol = folder.setting("env.protocol")
    same = "" if protocol == "standard" else f", whose protocol is another ({html.escape(str(protocol))})"
    return f"<figure>{drawn}<figcaption>{note}{same}.</figcaption></figure>"


def _curves(folder: Folder) -> str:
    """The small figures."""
    drawn, empty = curves.draw_panels(folder)
    if not drawn:
        raise Missing("no column of metrics.jsonl has a number")
    figures = "".join(_image(picture, title) for title, picture in drawn.items())
    none = f'<p class="none">No numbers for: {html.escape("; ".join(empty).lower())}.</p>' if empty else ""
    return f'<div class="panels">{figures}</div>{none}'


def _strips(folder: Folder) -> str:
    """First, middle and last of the pictures."""
    files = folder.files("pictures/*.png")
    if not files:
        raise Missing("no picture has been drawn yet (config.pictures.every_env_steps)")
    chosen = sorted({0, len(files) // 2, len(files) - 1})
    figures = []
    for index in chosen:
        content, _, _ = _read_image(files[index])
        caption = f"{_when(folder, files[index])} &middot; {html.escape(files[index].name)}"
        figures.append(f'<figure class="strip">{_image(content, "frames")}<figcaption>{caption}</figcaption></figure>')
    count = f"{len(figures)} of {len(files)} pictures. " if len(files) > len(figures) else ""
    return f"<p>{count}{_STRIP_ROWS} Under each column: the action that led to it.</p>{''.join(figures)}"


def _codes(folder: Folder) -> str:
    """The code sheet."""
    found = code_sheet.read(folder)
    pair = [
        Image.fromarray(found.frame[0, ..., 0]),
        Image.fromarray(found.decoded[..., 0].clip(0, 255).astype("uint8")),
    ]
    shown = "".join(
        f'<figure style="display:inline-block;margin-right:16px">{_image(_png(picture), label, 2 * picture.width)}'
        f"<figcaption>{label}</figcaption></figure>"
        for picture, label in zip(pair, ("the typical frame (running median)", "decoded from its codes"), strict=True)
    )
    sheets = "".join(
        f"<p>{html.escape(sentence)}</p><figure>{_image(_png(sheet), 'codes')}</figure>"
        for sentence, sheet in code_sheet.draw(folder, found)
    )
    groups, codes = found.usage.shape
    sizes = f"places that have codes: {found.codes.shape[1]}, code groups a place: {groups}, codes a group: {codes}"
    return f"<p>From the checkpoint of step {found.step:,}: {sizes}.</p>{shown}{sheets}"


def _map(folder: Folder) -> str:
    """Positions a room."""
    visited = maps.read(folder)
    places, rooms = len(visited.visits), len(visited.rooms())
    note = (
        f"{places:,} places in {rooms:,} {'room' if rooms == 1 else 'rooms'}, from the emulator's RAM (for this page "
        "only: nothing learns from it), at the pixel of the player's middle, over the last frame seen of the room. "
        "Rooms by their number in RAM; play starts in room 1."
    )
    return f"<figure>{_image(maps.draw(visited), 'map')}<figcaption>{note}</figcaption></figure>"


def _film(folder: Folder) -> str:
    """The newest film, as it is."""
    films = folder.files("evaluation/*.gif")
    if not films:
        raise Missing("no evaluation has been filmed yet")
    content, width, count = _read_image(films[-1])
    length = f"{count:,} frames, one an agent step"
    caption = f"{_when(folder, films[-1])} &middot; {length} &middot; {html.escape(films[-1].name)}"
    picture = _image(content, "an episode", 2 * width, kind="gif")
    return f"<figure>{picture}<figcaption>{caption}</figcaption></figure>"


def _runs(folder: Folder) -> str:
    """Commands and versions of each start."""
    starts, speed = provenance.read(folder.path), _speed(folder)
    pace = (
        f"<p>Throughput: {speed[1]} {speed[0]}, from the first report to the last, evaluations included.</p>"
        if speed
        else ""
    )
    if not starts:
        none = f"Nothing to show: the folder does not say how it was started ({provenance.FILE})."
        return f'<p class="none">{none}</p>{pace}'
    versions = ", ".join(f"{name} {version}" for name, version in starts[-1]["versions"].items())
    lines = "\n".join(f"{start['started']}  {start['command']}" for start in starts)
    return f"<pre>{html.escape(lines)}</pre><p>Versions of the last start: {html.escape(versions)}.</p>{pace}"


def _config(folder: Folder) -> str:
    """Every field, by section."""
    sections: dict[str, list[tuple[str, Any]]] = {}
    for name, value in config_schema.flatten(folder.settings).items():
        section, _, field = name.rpartition(".")
        sections.setdefault(section or "run", []).append((field, value))
    blocks = []
    for section, fields in sections.items():
        lines = "".join(
            f"<tr><td>{html.escape(name)}</td><td>{html.escape(json.dumps(value))}</td></tr>" for name, value in fields
        )
        blocks.append(f"<section><b>{html.escape(section)}</b><table>{lines}</table></section>")
    return f'<div class="columns">{"".join(blocks)}</div>'


def _speeds(folder: Folder) -> str:
    """The checkout's benchmark."""
    del folder
    figures = [
        f"<figure>{_image(_read_image(file)[0], file.stem)}<figcaption>{html.escape(file.name)}</figcaption></figure>"
        for file in speed.pictures()
    ]
    return f"<p>Of the code, not of this run: <code>python -m experiments.bench</code>.</p>{''.join(figures)}"


SECTIONS: Sequence[Section] = (
    Section("score", "Score beside published results", _score),
    Section("curves", "Learning curves", _curves),
    Section("strips", "What the model sees", _strips),
    Section("codes", "What the codes look like", _codes),
    Section("map", "Where the player has been", _map),
    Section("film", "An episode", _film),
    Section("start", "Command and versions", _runs),
    Section("config", "Config", _config),
)
# Shown where the checkout has pictures of it.
SPEED = Section("speed", "What the code's parts cost", _speeds)


def _name(folder: Folder) -> str:
    return html.escape(str(folder.setting("name") or folder.path.resolve().name))


def _image(content: bytes, alt: str, width: int | None = None, *, kind: str = "png") -> str:
    """An image inside the page; enlarged without smoothing where a width is given."""
    size = f' width="{width}" class="pixels"' if width else ""
    data = base64.b64encode(content).decode()
    return f'<img alt="{html.escape(alt)}"{size} src="data:image/{kind};base64,{data}">'


def _read_image(file: pathlib.Path) -> tuple[bytes, int, int]:
    """An image file's content, width and number of frames, after all of it could be decoded.

    Raises:
      StorageError: it could not.
    """
    try:
        content = file.read_bytes()
        with Image.open(file) as image:
            for frame in ImageSequence.Iterator(image):
                frame.load()
            return content, image.width, getattr(image, "n_frames", 1)
    # Pillow words a broken file in many types, SyntaxError among them.
    except Exception as problem:
        raise StorageError(f"{file}: cannot be read: {problem}") from problem


def _png(picture: Image.Image) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, format="PNG", optimize=True)
    return stream.getvalue()


def _when(folder: Folder, file: pathlib.Path) -> str:
    """When a file was made, from the train step in its name."""
    step, envs, steps = step_of(file), folder.setting("env.num_envs"), folder.setting("actor.num_steps")
    if step < 0:
        return "at an unknown step"
    if folder.axis == "num_updates":
        return f"after {step:,} updates"
    return f"after {step * envs * steps:,} agent steps" if envs and steps else f"step {step:,}"


def _speed(folder: Folder) -> tuple[str, str] | None:
    """(unit, figure) of the whole run, from its first report to its last: compilation is left out."""
    for column, unit in (("num_env_steps", "agent steps a second"), ("num_updates", "updates a second")):
        pairs: list[tuple[Any, Any]] = [(row.get("seconds"), row.get(column)) for row in folder.rows]
        whole = [(seconds, count) for seconds, count in pairs if is_number(seconds) and is_number(count)]
        if whole and whole[-1][0] > whole[0][0]:
            return unit, f"{(whole[-1][1] - whole[0][1]) / (whole[-1][0] - whole[0][0]):,.1f}"
    return None


def _whole(value: float) -> str:
    return f"{int(value):,}"


def _short(value: float) -> str:
    return f"{value:,.1f}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(math.floor(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
