"""Checkpoints that survive a kill at any moment and never lie.

    <folder>/step_000000000123/
      state/            the leaves, as orbax writes them
      meta.json         what the caller wants to know beside the state
      manifest.json     format, leaves (path, dtype, shape), sha256 and size of every file, hash of the tree
      manifest.sha256   of manifest.json; `sha256sum -c` reads it

A step is written under another name and renamed when all of it is on the disk; old steps are
renamed before they are deleted. So a folder named `step_...` is whole, unless its disk broke it:
orbax restores flipped bits without a word and casts other dtypes, therefore every file is
checked against the manifest, and every leaf against what is wanted, before orbax sees them.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import re
import shutil
from collections.abc import Collection, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from absl import logging

from learnmax_jax.lifecycle import BadInput, StorageError

FORMAT_VERSION = 1

_STEP = re.compile(r"step_(\d{12})")
# Folders of these prefixes are half written or half deleted: no one reads them, the next save removes them.
_WRITING, _DELETING = ".writing-", ".deleting-"
# Beside the leaves: the manifest and orbax's own metadata.
_SPARE_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True)
class Restored:
    """A checkpoint that was read back."""

    step: int
    state: Any
    meta: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class _Leaf:
    """A leaf on the host; a typed PRNG key as its words, with the name of its generator."""

    path: str
    dtype: str
    shape: tuple[int, ...]
    key_impl: str | None
    value: np.ndarray

    def describe(self) -> dict[str, Any]:
        return {"path": self.path, "dtype": self.dtype, "shape": list(self.shape), "key_impl": self.key_impl}


def save(
    folder: str | os.PathLike[str],
    step: int,
    state: Any,
    meta: dict[str, Any],
    *,
    keep: int,
    always_keep: Collection[int] = (),
) -> pathlib.Path:
    """Writes one checkpoint; when it returns, the checkpoint is on the disk.

    Args:
      folder: holds the checkpoints of one run; made if it is not there.
      step: names the checkpoint; the newest is the one of the largest step.
      state: a pytree of JAX or numpy arrays; typed PRNG keys are allowed.
      meta: json values.
      keep: newest checkpoints to keep, this one included; older ones are deleted.
      always_keep: steps that are not deleted whatever their age.
    Returns:
      The checkpoint's folder.
    Raises:
      StorageError: too little space, or the disk refused; no older checkpoint is touched then.
      BadInput: a good checkpoint of that step holds another state.
    """
    if keep < 1:
        raise BadInput(f"checkpoint.keep={keep}: the newest one must stay. Allowed: at least 1. Nearest: 1")
    root = pathlib.Path(folder).absolute()
    target = root / f"step_{step:012d}"
    meta_text = json.dumps(meta, indent=1, sort_keys=True)
    leaves = _flatten(state)
    state_hash = _hash(leaves)
    if target.exists() and _problem_of(target) is None:
        if _read_manifest(target)["tree_hash"] != state_hash:
            raise BadInput(f"{target}: exists with another state. Allowed: a step that is not saved yet.")
        return target
    writing = root / f"{_WRITING}{target.name}"
    with _storage_errors(writing, sum(leaf.value.nbytes for leaf in leaves) + _SPARE_BYTES):
        root.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(root)
        writing.mkdir()
        with ocp.StandardCheckpointer() as checkpointer:
            # orbax refuses arrays without elements; the manifest says all there is to know of them.
            values = {f"leaf_{i:05d}": leaf.value for i, leaf in enumerate(leaves) if leaf.value.size}
            checkpointer.save(writing / "state", values)
            checkpointer.wait_until_finished()
        (writing / "meta.json").write_text(meta_text)
        manifest = {
            "format_version": FORMAT_VERSION,
            "step": step,
            "tree_hash": state_hash,
            "leaves": [leaf.describe() for leaf in leaves],
            "files": {name: _fingerprint(writing / name) for name in _files(writing)},
        }
        (writing / "manifest.json").write_text(json.dumps(manifest, indent=1, sort_keys=True))
        (writing / "manifest.sha256").write_text(_sha256_line(writing / "manifest.json"))
        _sync_tree(writing)
        if target.exists():
            _delete(target)  # a broken one: a good one has returned above
        os.rename(writing, target)
        _sync(root)
    known = steps(root)
    # Steps beyond this one were passed over by restore: they are broken.
    newest = [known_step for known_step in known if known_step <= step][-keep:]
    for old in known:
        if old not in newest and old not in always_keep:
            _delete(root / f"step_{old:012d}")
    return target


def restore(folder: str | os.PathLike[str], like: Any, *, part: str = "") -> Restored | None:
    """Reads the newest good checkpoint; writes nothing, so a read-only folder will do.

    Args:
      folder: as for `save`.
      like: a pytree of arrays or `jax.ShapeDtypeStruct` with the wanted structure, dtypes and
        shapes; leaves come back as numpy where it holds numpy, else with its sharding.
      part: how the paths of the wanted leaves begin, such as "['train'].tokenizer"; `like` is that subtree. The
        files of all leaves are checked nevertheless.
    Returns:
      The checkpoint, or None where the folder holds no checkpoint at all.
    Raises:
      StorageError: there are checkpoints, and none is good.
      BadInput: the newest good one has other leaves, dtypes or shapes than `like`.
    """
    root = pathlib.Path(folder).absolute()
    problems = []
    for step in reversed(steps(root)):
        path = root / f"step_{step:012d}"
        problem = _problem_of(path)
        if problem is None:
            manifest = _read_manifest(path)
            wanted = jax.tree_util.tree_flatten_with_path(like)[0]
            inside = [{**entry, "path": _below(part, entry["path"])} for entry in manifest["leaves"]]
            _check_leaves(path, [entry for entry in inside if entry["path"]], wanted)
            values = _read_values(path, manifest["leaves"])
            leaves = [_leaf_of(entry, value) for entry, value in zip(manifest["leaves"], values)]
            if _hash(leaves) == manifest["tree_hash"]:
                chosen = [leaf for leaf, entry in zip(leaves, inside) if entry["path"]]
                arrays = [_place(leaf, example) for leaf, (_, example) in zip(chosen, wanted)]
                state = jax.tree_util.tree_unflatten(jax.tree_util.tree_structure(like), arrays)
                return Restored(step, state, json.loads((path / "meta.json").read_text()))
            problem = f"{path / 'state'}: the tree's hash differs from the manifest's"
        logging.warning("checkpoint passed over: %s", problem)
        problems.append(problem)
    if problems:
        raise StorageError(
            f"{root}: every checkpoint is broken ({'; '.join(problems)}). "
            "Allowed: a good checkpoint, or another workdir to start anew."
        )
    return None


def steps(folder: str | os.PathLike[str]) -> list[int]:
    """Lists the steps that were committed, oldest first, good or broken by now."""
    root = pathlib.Path(folder)
    if not root.is_dir():
        return []
    matches = (_STEP.fullmatch(entry.name) for entry in root.iterdir())
    return sorted(int(match[1]) for match in matches if match)


def newest_good_step(folder: str | os.PathLike[str]) -> int | None:
    """The newest step whose files are all as its manifest says, or None; reads no leaf, needs no example."""
    root = pathlib.Path(folder).absolute()
    return next((step for step in reversed(steps(root)) if _problem_of(root / f"step_{step:012d}") is None), None)


def shape_of(folder: str | os.PathLike[str], path: str) -> tuple[int, ...] | None:
    """The shape of one leaf of the newest good checkpoint, or None; for who knows the state in part only."""
    step = newest_good_step(folder)
    leaves = _read_manifest(pathlib.Path(folder) / f"step_{step:012d}")["leaves"] if step is not None else []
    return next((tuple(entry["shape"]) for entry in leaves if entry["path"] == path), None)


def tree_hash(state: Any) -> str:
    """Hashes a pytree: sha256 over its leaves in tree order with path, dtype and shape."""
    return _hash(_flatten(state))


def _flatten(state: Any) -> list[_Leaf]:
    """Fetches the leaves to the host."""
    leaves = []
    for key_path, value in jax.tree_util.tree_flatten_with_path(state)[0]:
        path = _name(key_path)
        if not isinstance(value, jax.Array | np.ndarray | np.generic):
            raise TypeError(f"{path}: is a {type(value).__name__}, not an array")
        impl, words = None, value
        if isinstance(value, jax.Array) and jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
            impl, words = str(jax.random.key_impl(value)), jax.random.key_data(value)
        leaves.append(_Leaf(path, str(value.dtype), tuple(value.shape), impl, np.asarray(words)))
    return leaves


def _name(key_path: Any) -> str:
    return jax.tree_util.keystr(key_path).lstrip(".") or "(the state itself)"


def _below(part: str, path: str) -> str:
    """A leaf's path inside a subtree; empty outside of it."""
    if not path.startswith(part) or (part and path[len(part) :][:1] not in (".", "[")):
        return ""
    return path[len(part) :].lstrip(".")


def _hash(leaves: list[_Leaf]) -> str:
    digest = hashlib.sha256()
    for leaf in leaves:
        digest.update(json.dumps(leaf.describe(), sort_keys=True).encode())
        # As bytes: memoryview knows no bfloat16.
        digest.update(np.ascontiguousarray(leaf.value).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _check_leaves(path: pathlib.Path, saved: list[dict[str, Any]], wanted: list[tuple[Any, Any]]) -> None:
    """Compares what was saved with what is wanted, leaf by leaf."""
    have = {entry["path"]: f"{entry['dtype']}{entry['shape']}" for entry in saved}
    want = {_name(key_path): f"{example.dtype}{list(example.shape)}" for key_path, example in wanted}
    complaints = [f"{name}: saved {have[name]}, wanted none" for name in have if name not in want]
    complaints += [f"{name}: saved none, wanted {want[name]}" for name in want if name not in have]
    both = [name for name in have if name in want]
    complaints += [f"{name}: saved {have[name]}, wanted {want[name]}" for name in both if have[name] != want[name]]
    if complaints:
        more = f" and {len(complaints) - 8} more" if len(complaints) > 8 else ""
        raise BadInput(f"{path}: does not fit: {'; '.join(complaints[:8])}{more}. Allowed: the saved run's settings.")
    if list(have) != list(want):
        raise BadInput(f"{path}: its leaves are in another order. Allowed: the version that wrote it.")


def _read_values(path: pathlib.Path, entries: list[dict[str, Any]]) -> list[np.ndarray]:
    """Has orbax read the leaves' numbers into numpy arrays."""
    empty = [_empty_value(entry) for entry in entries]
    examples = {f"leaf_{i:05d}": value for i, value in enumerate(empty) if value.size}
    with ocp.StandardCheckpointer() as checkpointer:
        read = checkpointer.restore(path / "state", examples)
    return [np.asarray(read.get(f"leaf_{i:05d}", value)) for i, value in enumerate(empty)]


def _empty_value(entry: dict[str, Any]) -> np.ndarray:
    if entry["key_impl"] is None:
        return np.empty(entry["shape"], jnp.dtype(entry["dtype"]))
    words = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0, impl=entry["key_impl"])))
    return np.empty((*entry["shape"], *words.shape), words.dtype)


def _leaf_of(entry: dict[str, Any], value: np.ndarray) -> _Leaf:
    return _Leaf(entry["path"], entry["dtype"], tuple(entry["shape"]), entry["key_impl"], value)


def _place(leaf: _Leaf, example: Any) -> Any:
    """Puts a leaf where the example is."""
    if isinstance(example, np.ndarray | np.generic):
        return leaf.value
    # jnp.array copies: the state is donated, and a CPU array may share numpy's memory.
    array = jnp.array(leaf.value)
    if leaf.key_impl is not None:
        array = jax.random.wrap_key_data(array, impl=leaf.key_impl)
    sharding = getattr(example, "sharding", None)
    # Without a sharding of its own it stays free to go where a program wants it, as a fresh state does.
    if sharding is None or isinstance(sharding, jax.sharding.SingleDeviceSharding):
        return array
    return jax.device_put(array, sharding)


def _problem_of(path: pathlib.Path) -> str | None:
    """Checks every file against the manifest; says what is wrong, naming the file."""
    manifest_file = path / "manifest.json"
    try:
        if (path / "manifest.sha256").read_text() != _sha256_line(manifest_file):
            return f"{manifest_file}: its sha256 differs from manifest.sha256"
        manifest = json.loads(manifest_file.read_text())
        if manifest["format_version"] != FORMAT_VERSION:
            return f"{manifest_file}: has format {manifest['format_version']}, this version reads {FORMAT_VERSION}"
        for name, recorded_print in manifest["files"].items():
            if _fingerprint(path / name) != recorded_print:
                return f"{path / name}: differs from the manifest"
    except (OSError, ValueError) as problem:
        name = getattr(problem, "filename", None) or manifest_file
        return f"{name}: cannot be read: {problem}"
    return None


def _read_manifest(path: pathlib.Path) -> dict[str, Any]:
    return json.loads((path / "manifest.json").read_text())


def _fingerprint(file: pathlib.Path) -> dict[str, Any]:
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {"sha256": digest, "bytes": file.stat().st_size}


def _sha256_line(file: pathlib.Path) -> str:
    return f"{_fingerprint(file)['sha256']}  {file.name}\n"


def _files(folder: pathlib.Path) -> list[str]:
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


def _sync_tree(folder: pathlib.Path) -> None:
    for entry in [*folder.rglob("*"), folder]:
        _sync(entry)


def _sync(path: pathlib.Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _delete(path: pathlib.Path) -> None:
    """Takes a checkpoint away: first its name, so that a half deleted one is never read."""
    doomed = path.with_name(_DELETING + path.name)
    shutil.rmtree(doomed, ignore_errors=True)
    os.rename(path, doomed)
    _sync(path.parent)
    shutil.rmtree(doomed)


def _remove_leftovers(root: pathlib.Path) -> None:
    for entry in root.iterdir():
        if entry.name.startswith((_WRITING, _DELETING)):
            shutil.rmtree(entry)


@contextlib.contextmanager
def _storage_errors(writing: pathlib.Path, needed_bytes: int) -> Iterator[None]:
    """Refuses to write without room; whatever fails is taken away and told with the room there was."""
    existing = next(parent for parent in writing.parents if parent.exists())
    free_bytes = shutil.disk_usage(existing).free
    room = f"{needed_bytes} bytes needed, {free_bytes} bytes free"
    if free_bytes < needed_bytes:
        raise StorageError(f"{writing.parent}: too little space for a checkpoint: {room}")
    try:
        yield
    # tensorstore's errors are of many types; whatever fails while writing is the storage's failure.
    except Exception as problem:
        shutil.rmtree(writing, ignore_errors=True)
        raise StorageError(f"{writing.parent}: the checkpoint could not be written: {problem} ({room})") from problem
