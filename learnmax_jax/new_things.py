"""Montezuma's key: is it noticed when it is gone, and does the growing quantiser give that frame codes of its own?

The tokenizer learns from frames of the first room in which the key still hangs (and the skull rolls). RAM and rewards
say which frames those are: evaluation, nothing else learns from them.
"""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from learnmax_jax import agent as agents
from learnmax_jax import config, lifecycle
from learnmax_jax.examination.held_out import all_frames, read_all_probes
from learnmax_jax.measures import novelty_detection
from learnmax_jax.models.tokenizer import Tokenizer, TokenizerState
from learnmax_jax.replay import dataset
from learnmax_jax.replay.dataset import Dataset

FIRST_ROOM, KEY_PAYS = 1, 100.0
BATCH = 128  # frames an update
FALSE_ALARM_RATE = 0.01


def run(settings: config.Settings, *, data: pathlib.Path, num_updates: int, num_frames: int) -> dict[str, Any]:
    """Learns from frames with the key, then measures on held-out episodes' frames that training has not, to the pixel.

    Args:
      settings: with tokenizer.quantizer=growing and a section `pretrain`.
      data: a folder that experiments.record wrote along a route.
      num_updates: of the tokenizer, on frames with the key; a tenth as many follow on frames without it.
      num_frames: that something strange has to last.
    Returns:
      Figures: recall and false alarms of the detection, and of how many frames each is; codes before and after,
      `changed_share` of old assignments, `own_code_share` of the frames without the key.
    """
    if settings.tokenizer.quantizer != "growing":
        raise lifecycle.BadInput(f"tokenizer.quantizer={settings.tokenizer.quantizer}: grows not. Allowed: growing.")
    with lifecycle.bad_input():
        agent = agents.build(settings)
        recorded = dataset.load(
            data / "shards", test_share=settings.pretrain.test_share, overlap_length=1, skip_damaged=False
        )
    room = read_all_probes(recorded, data).room
    taken = key_taken(recorded)
    with_key = (room == FIRST_ROOM) & ~taken
    without_key = (room == FIRST_ROOM) & taken
    flat = all_frames(recorded)
    unseen = never_trained_on(recorded)
    training = flat[np.flatnonzero(with_key & ~recorded.is_test)]
    tokenizer = agent.tokenizer
    state = _learn(
        tokenizer, jax.jit(tokenizer.init)(jax.random.key(settings.seed), training[:1]), training, num_updates
    )
    num_codes = _num_codes(state)

    pictures = 255.0 * np.asarray(tokenizer.code_vectors(state))[0]
    seen = novelty_detection.seen_codes(_codes(tokenizer, state, training), settings.tokenizer.num_codes)
    patch_size = settings.tokenizer.patch_size

    def strangeness(mask: np.ndarray) -> np.ndarray:
        found = []
        for rows in _stretches(mask & recorded.is_test, recorded, num_frames):
            patches = novelty_detection.cut_patches(flat[rows], patch_size)
            away = novelty_detection.distances(patches, pictures, seen)
            scores = novelty_detection.scores(away[None], num_frames=num_frames)[0]
            found.append(scores[unseen.ravel()[rows[num_frames - 1 :]]])
        return np.concatenate(found)

    usual, strange = strangeness(with_key), strangeness(without_key)
    detection = novelty_detection.detect(usual, strange, false_alarm_rate=FALSE_ALARM_RATE)
    gone = flat[np.flatnonzero(without_key & ~recorded.is_test)]
    grown = _learn(tokenizer, state, gone, max(num_updates // 10, 1))
    known, new = (flat[np.flatnonzero(mask & unseen)] for mask in (with_key, without_key))
    growth = novelty_detection.compare_growth(
        _codes(tokenizer, state, known)[..., None],
        _codes(tokenizer, grown, known)[..., None],
        _codes(tokenizer, grown, new)[..., None],
        num_codes_before=num_codes,
    )
    return {
        "recall": detection.recall,
        "false_alarms": detection.false_alarms,
        "changed_share": growth.changed_share,
        "own_code_share": growth.own_code_share,
        "codes_before": num_codes,
        "codes_after": _num_codes(grown),
        "frames_scored_with_key": len(usual),
        "frames_scored_without_key": len(strange),
        "frames_with_key": len(known),
        "frames_without_key": len(new),
    }


def key_taken(recorded: Dataset) -> np.ndarray:
    """Whether the key was paid for earlier in the episode, `[E, T]` bool: from the frame after the step that pays."""
    pays: np.ndarray = np.asarray(recorded.rows.reward) == KEY_PAYS
    before = np.cumsum(pays, axis=1) - pays
    at_begin = np.take_along_axis(before, recorded.begin, axis=1)
    return before > at_begin


def never_trained_on(recorded: Dataset) -> np.ndarray:
    """Held-out frames no training frame is equal to, `[E, T]` bool: play along a route repeats itself."""
    frames: Any = recorded.rows.observation
    hashes = dataset.hash_rows(frames, np.zeros(recorded.is_test.shape, np.int32))
    return recorded.is_test & ~np.isin(hashes, hashes[~recorded.is_test])


def _stretches(mask: np.ndarray, recorded: Dataset, least: int) -> list[np.ndarray]:
    """Flat row numbers of each unbroken run of masked rows of one episode, at least `least` long."""
    stretches: list[np.ndarray] = []
    for environment, row in enumerate(mask):
        times = np.flatnonzero(row)
        breaks = (np.diff(times) > 1) | (np.diff(recorded.begin[environment, times]) > 0)
        for part in np.split(times, np.flatnonzero(breaks) + 1):
            if len(part) >= least:
                stretches.append(environment * mask.shape[1] + part)
    return stretches


def _learn(tokenizer: Tokenizer, state: TokenizerState, frames: np.ndarray, num_updates: int) -> TokenizerState:
    """Codes only: the patches are the codes, and the decoder plays no part in them where growth.error is 0."""

    @jax.jit
    def learn(state: TokenizerState, batch: jax.Array) -> TokenizerState:
        _, (aux, _) = tokenizer.loss(state.params, state, jax.random.key(0), batch)
        return tokenizer.update(state, state.params, aux, jax.random.key(1))

    for rows in np.random.default_rng(0).integers(0, len(frames), (num_updates, BATCH)):
        state = learn(state, jnp.asarray(frames[rows]))
    return state


def _num_codes(state: TokenizerState) -> int:
    return int((np.asarray(state.quantizer.codebook)[0, :, 0] >= 0).sum())


def _codes(tokenizer: Tokenizer, state: TokenizerState, frames: np.ndarray) -> np.ndarray:
    """Codes `[M, N]`, a few frames at a time."""
    tokenise = jax.jit(tokenizer.tokenise)
    size = 256
    missing = -len(frames) % size
    filled = np.concatenate([frames, np.repeat(frames[:1], missing, axis=0)])
    parts = [np.asarray(tokenise(state, filled[at : at + size])) for at in range(0, len(filled), size)]
    return np.concatenate(parts)[: len(frames), :, 0]
