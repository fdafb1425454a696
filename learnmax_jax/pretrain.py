"""Tokenizer and dynamics from recorded play.

    <workdir>/config.json, metrics.jsonl, checkpoints/    as a run's; rows count `num_updates`
    <workdir>/pictures/                                   held-out frames: actual, reconstructed, predicted

First the tokenizer alone, then the dynamics on its slow copy; `pretrain.tokenizer_with_model` lets
the tokenizer go on learning meanwhile. Policy and values learn nothing here: recorded play was searched by nobody.
"""

import contextlib
import functools
import pathlib
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from learnmax_jax import agent as agents
from learnmax_jax import (
    checkpoints,
    config,
    examination,
    lifecycle,
    metrics,
    pictures,
    postmortem,
    provenance,
    starting,
)
from learnmax_jax.agent import Agent
from learnmax_jax.exploration import counts
from learnmax_jax.learning.learner import TrainState
from learnmax_jax.replay import dataset
from learnmax_jax.replay.dataset import Dataset
from learnmax_jax.types import Array, Batch, Metrics

COUNTER = "num_updates"
# Held-out windows of which the one that moves most is drawn.
_DRAWN_FROM = 32

# One update: (state, batch, observations, key) -> (state, metrics).
Update = Callable[[TrainState, Batch, Array, Array], tuple[TrainState, Metrics]]


def run(settings: config.Settings, *, data: pathlib.Path, workdir: pathlib.Path, stop: lifecycle.StopWatcher) -> int:
    """Trains until both budgets of updates are spent, from the newest good checkpoint if there is one.

    Args:
      settings: the checked config, with a section `pretrain`.
      data: a folder that experiments.record wrote.
      workdir: the result's folder; made if it is not there.
      stop: tells of a signal; the run saves and ends.
    Returns:
      Exit code 0.
    Raises:
      BadInput: data that does not fit the config, or a folder of another run or of one on other data.
      NonFinite, StorageError, Preempted: as a run's.
    """
    section = require_section(settings)
    with lifecycle.locked(workdir):
        if (workdir / "config.json").exists():
            config.check_resume(config.load_saved(workdir / "config.json"), settings, workdir)
        total = section.tokenizer_updates + section.model_updates
        if (checkpoints.newest_good_step(workdir / "checkpoints") or 0) >= total:
            print(f"{workdir}: finished, {total:,} updates", flush=True)
            return lifecycle.DONE
        with lifecycle.bad_input():
            agent = agents.build(settings)
            recorded = load(settings, agent, data)
        train, update, meta = start(agent, workdir)
        # Checkpoints of before data sets had fingerprints name none.
        if meta.get("data", recorded.fingerprint) != recorded.fingerprint:
            raise lifecycle.BadInput(
                f"--data={data}: other rows than {workdir} has learned from. Allowed: the same data set as it was "
                "then, or another --workdir."
            )
        print(f"{data}: {recorded.rows.action.size:,} rows, {recorded.num_skipped} records skipped", flush=True)
        with contextlib.ExitStack() as files:
            rows = metrics.MetricsWriter(workdir, restored=update, counter=COUNTER)
            files.callback(rows.close)
            config.dump(settings, workdir / "config.json")
            provenance.record(workdir)
            likely = shares(settings, recorded)
            of_windows = None if likely is None or section.windows != "rare" else recorded.anchor_shares(likely)
            loader = dataset.Loader(
                recorded,
                seed=settings.seed,
                batch_size=settings.learner.batch_size,
                sequence_length=settings.learner.sequence_length,
                num_observations=settings.tokenizer_learner.batch_size,
                shares=likely,
                window_shares=of_windows,
                update=update,
            )
            files.callback(loader.close)
            _loop(agent, recorded, data, workdir, stop, rows, loader, train, update, meta.get("seconds", 0.0))
    return lifecycle.DONE


def require_section(settings: config.Settings) -> Any:
    """The config's section `pretrain`.

    Raises:
      BadInput: there is none.
    """
    if "pretrain" not in settings:
        raise lifecycle.BadInput(
            "pretrain=(missing): the config lacks this section. Allowed: --config=configs/pretrain.py, or one like it."
        )
    return settings.pretrain


def load(settings: config.Settings, agent: Agent, data: pathlib.Path) -> Dataset:
    """Reads the data set and compares it with the config.

    Raises:
      BadInput: other observations or actions than the config's, or nothing to test on. ValueError: as dataset.load.
    """
    section = settings.pretrain
    recorded = _load(
        data / "shards",
        test_share=section.test_share,
        overlap_length=section.overlap_length,
        skip_damaged=section.skip_damaged,
    )
    wanted = {"observation": agent.environments.observation_shape, "actions": (agent.environments.num_actions,)}
    given = {"observation": recorded.rows.observation.shape[2:], "actions": recorded.rows.search_policy.shape[2:]}
    if wanted != given:
        raise lifecycle.BadInput(f"--data={data}: holds {given}. Allowed: what the config's env gives, {wanted}.")
    if not (recorded.is_test & ~recorded.is_known).any():
        raise lifecycle.BadInput(
            f"pretrain.test_share={section.test_share}: leaves no frame of --data={data} for a test (what was recorded "
            "twice is none). Allowed: a larger share, or more play."
        )
    return recorded


@functools.lru_cache(maxsize=1)
def _load(folder: pathlib.Path, **settings: Any) -> Dataset:
    """Reads and checks a data set; the rows of a table that follow each other share it."""
    recorded = dataset.load(folder, **settings)
    dataset.check_no_overlap(recorded)
    return recorded


def shares(settings: config.Settings, recorded: Dataset) -> np.ndarray | None:
    """How likely each training frame is drawn: as `zuma`'s tokenizer draws, by the counts' keys; None for all alike.

    Raises:
      BadInput: rare windows are asked for, and nothing says what is rare.
    """
    if "counts" not in settings:
        if settings.pretrain.windows == "rare":
            raise lifecycle.BadInput(
                "pretrain.windows=rare: the section counts, which tells what is rare, is not there. Allowed: epochs"
            )
        return None
    section = settings.counts
    grid = {name: section[name] for name in ("grid_height", "grid_width", "num_levels")}
    return dataset.rarity(recorded, jax.jit(partial(counts.keys, **grid)))


def start(agent: Agent, workdir: pathlib.Path) -> tuple[TrainState, int, dict[str, Any]]:
    """A fresh state, or the newest good checkpoint's, the updates it has behind it, and what was noted beside it."""
    restored = checkpoints.restore(workdir / "checkpoints", {"train": starting.spec(agent)})
    if restored is None:
        return starting.begin(agent, starting.fresh(agent)), 0, {}
    print(f"{workdir}: continues from update {restored.step}", flush=True)
    return restored.state["train"], restored.step, restored.meta


def updates(agent: Agent) -> tuple[Update, Update]:
    """The compiled updates: of the tokenizer alone, and of the model (and of the tokenizer, if it goes on)."""

    def tokenizer_update(train: TrainState, batch: Batch, frames: Array, key: Array) -> tuple[TrainState, Metrics]:
        if agent.config.tokenizer_learner.stream == "joint":
            frames = batch.rows.observation.reshape(-1, *frames.shape[1:])
        return agent.update_tokenizer(train, frames, *jax.random.split(key))

    def model_update(train: TrainState, batch: Batch, frames: Array, key: Array) -> tuple[TrainState, Metrics]:
        target_key, loss_key, tokenizer_key = jax.random.split(key, 3)
        batch = without(batch, agent.config.pretrain.held_out_actions)
        supervision = agent.supervise(train.target_model, batch, jnp.zeros(batch.mask.shape), target_key, jnp.zeros(1))
        train, _, told = agent.update_model(train, supervision, loss_key)
        if agent.config.pretrain.tokenizer_with_model:
            train, more = tokenizer_update(train, batch, frames, tokenizer_key)
            told |= more
        return train, told

    return jax.jit(tokenizer_update, donate_argnums=0), jax.jit(model_update, donate_argnums=0)


def without(batch: Batch, actions: tuple[int, ...]) -> Batch:
    """A batch `[B, L + 1, ...]` of whose windows nothing is learned from the first of these actions on.

    What follows such an action would teach it, too: by the frames predicted from it, and as what led to those seen.
    """
    held_out = jnp.isin(batch.rows.action, jnp.asarray(actions, jnp.int32))
    untouched = jnp.cumsum(held_out, axis=1) == 0
    return batch.replace(rows=batch.rows.replace(valid=batch.rows.valid & untouched))


def _loop(
    agent: Agent,
    recorded: Dataset,
    data: pathlib.Path,
    workdir: pathlib.Path,
    stop: lifecycle.StopWatcher,
    rows: metrics.MetricsWriter,
    loader: dataset.Loader,
    train: TrainState,
    update: int,
    seconds_before: float,
) -> None:
    """Updates until the budgets are spent; reports, examines, saves."""
    section = agent.config.pretrain
    total = section.tokenizer_updates + section.model_updates
    tokenizer_update, model_update = updates(agent)
    examiner = examination.Examiner(agent, recorded, data)
    run_key = jax.random.key(agent.config.seed)
    mark = time.monotonic()
    begin = mark - seconds_before
    since, waited = update, 0.0
    while update < total:
        batch, frames = next(loader)
        step = tokenizer_update if update < section.tokenizer_updates else model_update
        train, told = step(train, batch, frames, jax.random.fold_in(run_key, update))
        stop.set_at_stake(True)
        update += 1
        last = update == total
        saves = update % section.checkpoint_every_updates == 0 or last or stop.requested
        reports = update % section.report_every_updates == 0 or last or stop.requested
        # Read before anything is made of the state: no checkpoint of a NaN.
        if saves or reports:
            told = jax.device_get(told)
            if not all(told[name] for name in ("model_finite", "tokenizer_finite") if name in told):
                raise postmortem.fail(
                    workdir, update, suspects=jax.device_get(train), batch=batch, keys={"run": run_key}, metrics=told
                )
        if reports:
            now = time.monotonic()
            row = {
                COUNTER: update,
                "seconds": now - begin,
                "updates_per_second": (update - since) / (now - mark),
                "wait_share": (loader.wait_seconds - waited) / max(now - mark, 1e-9),
                "records_skipped": recorded.num_skipped,
                **{name: value for name, value in told.items() if not name.endswith("_finite")},
            }
            mark, since, waited = now, update, loader.wait_seconds
            if last or update % section.examine_every_updates == 0:
                row |= examiner.examine(train, with_model=update > section.tokenizer_updates)
                _draw(agent, examiner, train, workdir / "pictures" / f"update-{update:09d}.png")
                mark = time.monotonic()
            rows.write(row)
            left = (total - update) / row["updates_per_second"]
            loss = row.get("loss", row.get("tokenizer_loss"))
            print(f"{update:,} of {total:,} updates, loss {loss:.4g}, {left:,.0f} s left", flush=True)
        if saves:
            meta = {"data": recorded.fingerprint, "seconds": time.monotonic() - begin}
            checkpoints.save(workdir / "checkpoints", update, {"train": train}, meta, keep=agent.config.checkpoint.keep)
            if stop.requested and not last:
                raise lifecycle.Preempted(f"saved update {update} in {workdir}; the same command continues")
            stop.set_at_stake(False)


def _draw(agent: Agent, examiner: examination.Examiner, train: TrainState, path: pathlib.Path) -> None:
    """Draws a held-out window that moves; the model's line is noise while only the tokenizer has learned."""
    if examiner.windows is not None:
        few = jax.tree.map(lambda x: x[:_DRAWN_FROM], examiner.windows)  # 256 of 121 tokens a frame took 22 GB
        pictures.write_strip(
            examiner.imagine(train.model, few),
            few,
            path,
            context_frames=examiner.context_frames,
            action_names=agent.environments.action_names,
        )
