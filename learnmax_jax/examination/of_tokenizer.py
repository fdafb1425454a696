"""What single held-out frames keep when they become codes."""

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from learnmax_jax.agent import Agent
from learnmax_jax.examination.codec import Codec
from learnmax_jax.examination.held_out import HeldOut
from learnmax_jax.learning.learner import TrainState
from learnmax_jax.measures import code_use, linear_probe, player, prediction

# Codes [M, N, G] of frames in rooms [M] -> the player's places [M, 2].
ReadPlaces = Callable[[np.ndarray, np.ndarray], np.ndarray]


def examine(
    agent: Agent, codec: Codec, held_out: HeldOut, train: TrainState
) -> tuple[dict[str, Any], ReadPlaces | None]:
    """Figures of single frames, and the probe that reads the player's place off codes where RAM tells places.

    Args:
      agent: the parts.
      codec: of the same agent.
      held_out: the frames.
      train: what has learned.
    """
    test, true, settings = held_out.test, held_out.test.grey, agent.config.tokenizer
    codec.tokenise(train, test.pixels)  # compiles
    begin = time.monotonic()
    codes = codec.tokenise(train, test.pixels)
    speed = len(codes) / (time.monotonic() - begin)
    decoded, medians = codec.decode(train, codes), held_out.medians(test)
    mask = prediction.foreground(true, true, medians, threshold=settings.motion_threshold)
    names_room = settings.background != "none"
    by_codebook = code_use.by_codebook(codes, patches=agent.tokenizer.patches, names_room=names_room)
    used, perplexity = code_use.code_use(by_codebook, agent.tokenizer.num_codes)
    figures: dict[str, Any] = {
        "encode_frames_per_second": speed,
        "bits_a_frame": codes[0].size * math.log2(agent.tokenizer.num_codes),
        "test_pixel_error": float(np.sqrt(((true - decoded) ** 2).mean())),
        "test_foreground_error": prediction.foreground_error(true, decoded, mask),
        "held_out_codes_used": used,
        "held_out_perplexity": perplexity,
    }
    if (test.room < 0).any():
        return figures, None
    seen, visible = player.player_seen(true, decoded, medians, test.x, test.y)
    train_codes = codec.tokenise(train, held_out.train.pixels)
    features_of = linear_probe.features_of(train_codes, np.asarray(agent.tokenizer.code_vectors(train.tokenizer)))
    features, test_features = features_of(train_codes), features_of(codes)
    probe = linear_probe.fit_places(features, held_out.train.places, held_out.train.room)
    off = linear_probe.distance(probe(test_features, test.room), test.places)
    figures |= {
        "recall": float(seen[visible].mean()),
        "position_error": float(off.mean()),
        "room_accuracy": linear_probe.room_accuracy(features, held_out.train.room, test_features, test.room),
    }
    if names_room:
        figures["rooms_apart"] = code_use.rooms_apart(train_codes[:, 0, -1], held_out.train.room)
    return figures, lambda codes, rooms: probe(features_of(codes), rooms)
