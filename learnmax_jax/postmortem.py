"""What a run that met a NaN leaves behind: `nan-<step>/` with batch, keys and metrics."""

import json
import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from learnmax_jax.lifecycle import NonFinite


def first_bad_leaf(tree: Any) -> str | None:
    """Names the first leaf with a NaN or an infinity, in tree order; None where all are finite."""
    for key_path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        if jnp.issubdtype(leaf.dtype, jnp.inexact) and not np.isfinite(np.asarray(leaf)).all():
            return jax.tree_util.keystr(key_path).lstrip(".")
    return None


def fail(
    workdir: str | os.PathLike[str], step: int, *, suspects: Any, batch: Any, keys: Any, metrics: Any
) -> NonFinite:
    """Writes what is needed to see the step again, and makes the error to raise.

    Args:
      workdir: the dump goes to `<workdir>/nan-<step>/`; one that is there stays, as the first.
      step: the step that was not finite, counted as the run counts them.
      suspects: a pytree in which the first bad leaf is looked for: losses, gradients, state.
      batch: what the step learned from.
      keys: the PRNG keys it drew with.
      metrics: what it reported.
    Returns:
      NonFinite, naming the first bad leaf and the folder.
    """
    folder = pathlib.Path(workdir) / f"nan-{step}"
    if not folder.exists():
        folder.mkdir(parents=True)
        np.savez_compressed(folder / "batch.npz", **_arrays(batch))
        np.savez_compressed(folder / "keys.npz", **_arrays(keys))
        # json has no NaN of its own; Python writes and reads the word.
        values = {name: value.tolist() for name, value in _arrays(metrics).items()}
        (folder / "metrics.json").write_text(json.dumps(values, indent=1))
    return NonFinite(f"step {step}: {first_bad_leaf(suspects) or 'a value'} is not finite; see {folder}")


def _arrays(tree: Any) -> dict[str, Any]:
    """Flattens a pytree to numpy arrays by path; typed keys as words, other floats than numpy's as float32."""
    arrays: dict[str, Any] = {}
    for key_path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        if isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        array = np.asarray(leaf)
        # npz would need pickle for bfloat16.
        arrays[jax.tree_util.keystr(key_path, simple=True, separator=".") or "value"] = (
            array.astype(np.float32) if array.dtype.kind == "V" else array
        )
    return arrays
