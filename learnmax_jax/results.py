"""Lines of results that are added run by run, and the tables that are made of them."""

import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any


def read(path: pathlib.Path) -> list[dict[str, Any]]:
    """The lines of a file; none where there is no file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def write(path: pathlib.Path, lines: Sequence[dict[str, Any]]) -> None:
    """Writes lines; the file is replaced whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writing = path.with_name(path.name + ".tmp")
    writing.write_text("".join(json.dumps(line) + "\n" for line in lines))
    os.replace(writing, path)


def put(path: pathlib.Path, row: dict[str, Any], *, known_by: Sequence[str]) -> None:
    """Adds a line, in the place of an older one with the same values of `known_by`; the file is replaced whole."""
    others = [line for line in read(path) if any(line[name] != row[name] for name in known_by)]
    write(path, [*others, row])


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of cells."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows)) + "\n"


def pictures(out: pathlib.Path, name: str) -> list[pathlib.Path]:
    """The pictures beside `<out>/<name>.md`, by name: `<out>/<name>-*.png`."""
    return sorted(out.glob(f"{name}-*.png"))
