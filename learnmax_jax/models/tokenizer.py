"""Frames to codes and back: encoder, quantiser, decoder, and the slow copy all readers use.

A plain reconstruction loss learns the room and forgets the few pixels that move, so
each pixel is weighted by whether it is off its room's running median frame. That frame may also be
taken away first: the codes then speak of what moves, and one more code names the room. Codes drift while
the tokenizer learns: play and dynamics read a slow copy (`tokenise`, `decode`,
`code_vectors`); only `loss` sees the online one.
"""

import dataclasses
import difflib
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
from flax import struct

from learnmax_jax.models import autoencoder, medians, quantizers
from learnmax_jax.models.medians import Medians
from learnmax_jax.models.quantizers.codes import look_up, normalise, perplexity
from learnmax_jax.types import Array, Metrics, Params

BACKGROUNDS = ("none", "median")
# Of the numbers that a tokenizer is made from: the least and the most.
_RANGES = {
    **dict.fromkeys(("num_groups", "num_codes", "code_dim", "patch_size", "width", "num_medians"), (1, math.inf)),
    **dict.fromkeys(("token_hidden", "channel_hidden"), (1, math.inf)),
    **dict.fromkeys(("num_blocks", "motion_weight", "commitment"), (0, math.inf)),
    **dict.fromkeys(("kmeans_iterations", "revive_limit", "revive_warmup"), (0, math.inf)),
    **dict.fromkeys(("revive_below", "codebook_decay", "slow_decay", "new_median_share"), (0, 1)),
    **dict.fromkeys(("motion_threshold", "median_step"), (0, 255)),
}


@struct.dataclass
class TokenizerState:
    """What the tokenizer has learned.

    Attributes:
      params: online {"encoder", "decoder", "quantizer"}; what the optimizer changes.
      quantizer: online QuantizerState.
      slow_params: running mean of `params`.
      slow_quantizer: running mean of `quantizer`.
      medians: the still background of every room.
      num_updates: int32.
    """

    params: Params
    quantizer: quantizers.QuantizerState
    slow_params: Params
    slow_quantizer: quantizers.QuantizerState
    medians: Medians
    num_updates: Array


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """A tokenizer as pure functions; frames are `[B, H, W, C]` uint8.

    Attributes:
      num_tokens: N, tokens a frame.
      num_groups: G, codes a token; with the room's, where the background is taken away.
      num_codes: V, codes a group.
      code_dim: D of a code vector.
      grid: (rows, columns) of the tokens that stand for patches, in reading order behind a whole-frame token if there
        is one; (0, 0) where that is the only one.
      patches: (rows, columns) of the patches that the groups of the only token stand for, in reading order, as many of
        each, before any other group; (0, 0) where they stand for none.
      init: (rng_key, example frames) -> TokenizerState.
      tokenise: (state, frames) -> codes `[B, N, G]` int32, by the slow copy.
      decode: (state, codes `[B, N, G]`) -> `[B, H, W, C]` float32 in 0..255, by the slow copy.
      decode_mean: (state, chances `[B, N, G, V]` of each code) -> `[B, H, W, C]` alike, of the codes' mean vectors; a
        room is the likeliest.
      code_vectors: state -> `[G, V, D]` float32, of the slow copy.
      still: (Medians, frames) -> Still, what does not move in each of them.
      loss: (params, state, rng_key, frames) -> (loss, (aux, metrics)), by the online copy;
        differentiable in params. `aux` is for `update`.
      update: (state, new_params, aux, rng_key) -> TokenizerState, after the optimizer's step.
    """

    num_tokens: int
    num_groups: int
    num_codes: int
    code_dim: int
    grid: tuple[int, int]
    patches: tuple[int, int]
    init: Callable[[Array, Array], TokenizerState]
    tokenise: Callable[[TokenizerState, Array], Array]
    decode: Callable[[TokenizerState, Array], Array]
    decode_mean: Callable[[TokenizerState, Array], Array]
    code_vectors: Callable[[TokenizerState], Array]
    still: Callable[[Medians, Array], medians.Still]
    loss: Callable[[Params, TokenizerState, Array, Array], tuple[Array, tuple[Any, Metrics]]]
    update: Callable[[TokenizerState, Params, Any, Array], TokenizerState]


def make_tokenizer(
    *,
    observation_shape: tuple[int, int, int],
    layout: str,
    quantizer: str,
    distance: str,
    num_groups: int,
    num_codes: int,
    code_dim: int,
    patch_size: int,
    width: int,
    num_blocks: int,
    token_hidden: int,
    channel_hidden: int,
    motion_weight: float,
    motion_threshold: float,
    background: str,
    num_medians: int,
    new_median_share: float,
    median_step: float,
    commitment: float,
    codebook_decay: float,
    kmeans_iterations: int,
    revive_below: float,
    revive_limit: int,
    revive_warmup: int,
    slow_decay: float,
    growth: Mapping[str, Any] | None = None,
) -> Tokenizer:
    """Builds the tokenizer.

    Args:
      observation_shape: (H, W, C) of the uint8 frames.
      layout: frame (one token, G codes, each of the whole frame), grid (one token, G codes, as
        many of each patch, whose codes mean the same everywhere),
        patch (a token a patch) or anchor (a whole-frame token, then the patches).
      quantizer: vq_ema, vq_grad, fsq, random (codes of raw pixels), growing (codes are patches; layout patch, G = 1,
        D = patch_size^2 C) or identity (the observation's integers
        are the codes; layout frame, G = H W C, D = V; the sizes of the networks have no meaning then).
      distance: cosine or l2, between encodings and codes.
      num_groups: G, without a room's. num_codes: V. code_dim: D.
      patch_size: side of a patch in pixels; the last row and column may reach over the edge.
      width: channels of a patch. num_blocks: mixer blocks in the encoder, and in the decoder.
      token_hidden, channel_hidden: hidden units of the layers across patches and across channels.
      motion_weight: extra weight of a pixel off the median frame; 0 weighs all alike.
      motion_threshold: grey levels off the median from which a pixel counts as moving.
      background: median (a frame's room is the last of its code groups, its median frame is taken away before the
        encoder and added behind the decoder; one token a frame) or none.
      num_medians: rooms whose still background is known, at most.
      new_median_share: share of a frame's pixels off every median from which it begins a new one.
      median_step: grey levels a median frame moves at most in an update, in the long run.
      commitment, codebook_decay, kmeans_iterations, revive_below, revive_limit, revive_warmup: see quantizers.
      slow_decay: of the slow copy, an update.
      growth: {distance, error, limit} of quantizer growing; see quantizers.
    Raises:
      ValueError: `<field>=<given>: <why>. Allowed: ...`, before anything compiles.
    """
    _check_choice("layout", layout, autoencoder.LAYOUTS)
    _check_choice("quantizer", quantizer, quantizers.KINDS)
    _check_choice("distance", distance, quantizers.DISTANCES)
    _check_choice("background", background, BACKGROUNDS)
    sizes = {
        "patch_size": patch_size,
        "width": width,
        "num_blocks": num_blocks,
        "token_hidden": token_hidden,
        "channel_hidden": channel_hidden,
    }
    codebook: dict[str, Any] = {
        "num_codes": num_codes,
        "code_dim": code_dim,
        "commitment": commitment,
        "codebook_decay": codebook_decay,
        "kmeans_iterations": kmeans_iterations,
        "revive_below": revive_below,
        "revive_limit": revive_limit,
        "revive_warmup": revive_warmup,
    }
    _check_ranges(
        **sizes,
        **codebook,
        num_groups=num_groups,
        motion_weight=motion_weight,
        motion_threshold=motion_threshold,
        num_medians=num_medians,
        new_median_share=new_median_share,
        median_step=median_step,
        slow_decay=slow_decay,
    )
    quantise_with = partial(quantizers.make_quantizer, kind=quantizer, distance=distance, growth=growth, **codebook)
    if quantizer == "identity":
        parts = _identity_parts(observation_shape, layout, num_groups, num_codes, quantise_with)
        tokens = places = 1
    else:
        places = autoencoder.num_places(layout, observation_shape, patch_size)
        parts = _network_parts(observation_shape, layout, quantizer, num_groups, code_dim, sizes, quantise_with)
        tokens = 1 if layout == "grid" else places
    names_room = background == "median"
    if names_room:
        _check_room(layout, quantizer, tokens=tokens, num_medians=num_medians, num_codes=num_codes)
    shared: dict[str, Any] = {"parts": parts, "motion_threshold": motion_threshold, "names_room": names_room}
    return Tokenizer(
        num_tokens=tokens,
        num_groups=num_groups + names_room,
        num_codes=num_codes,
        code_dim=code_dim,
        grid=(0, 0) if tokens == 1 else autoencoder.grid_shape(observation_shape, patch_size),
        patches=autoencoder.grid_shape(observation_shape, patch_size) if layout == "grid" else (0, 0),
        init=partial(_init, parts, num_medians=num_medians),
        tokenise=partial(_tokenise, tokens=tokens, **shared),
        decode=partial(_decode, parts, places=places, names_room=names_room),
        decode_mean=partial(_decode_mean, parts, places=places, names_room=names_room),
        code_vectors=partial(_code_vectors, parts, copies=places // tokens, names_room=names_room),
        still=partial(medians.still, threshold=motion_threshold),
        loss=partial(tokenizer_loss, motion_weight=motion_weight, **shared),
        update=partial(
            _update, parts, median_step=median_step, new_median_share=new_median_share, slow_decay=slow_decay
        ),
    )


def _identity_parts(
    observation_shape: tuple[int, int, int],
    layout: str,
    num_groups: int,
    num_codes: int,
    quantise_with: Callable[..., quantizers.Quantizer],
) -> autoencoder.Parts:
    """No networks: all integers of an observation are the codes of its one token."""
    num_integers = math.prod(observation_shape)
    if layout != "frame" or num_groups != num_integers:
        raise ValueError(
            f"num_groups={num_groups}: identity makes one token of all integers of {observation_shape}. "
            f"Allowed: layout frame with num_groups {num_integers}. Nearest: {num_integers}"
        )
    quantizer = quantise_with(input_dim=num_integers, num_groups=num_groups)
    return autoencoder.identity_parts(observation_shape, quantizer, num_codes)


def _network_parts(
    observation_shape: tuple[int, int, int],
    layout: str,
    kind: str,
    num_groups: int,
    code_dim: int,
    sizes: Mapping[str, int],
    quantise_with: Callable[..., quantizers.Quantizer],
) -> autoencoder.Parts:
    """Encoder, quantiser and decoder that fit one another."""
    height, width, channels = observation_shape
    is_raw = kind in quantizers.RAW_KINDS
    if kind == "random" and layout == "anchor":
        raise ValueError(
            "layout=anchor: the random quantiser projects raw pixels, and a frame has more of them than a patch. "
            "Allowed: frame, patch. Nearest: patch"
        )
    if kind == "growing" and layout != "patch":
        raise ValueError(f"layout={layout}: growing keeps patches. Allowed: patch. Nearest: patch")
    groups = num_groups  # of one place
    if layout == "grid":
        patches = autoencoder.num_patches(observation_shape, sizes["patch_size"])
        groups = num_groups // patches
        if num_groups % patches:
            nearest = max(round(num_groups / patches), 1) * patches
            raise ValueError(
                f"num_groups={num_groups}: layout grid has as many groups for each of {patches} patches. "
                f"Allowed: multiples of {patches}. Nearest: {nearest}"
            )
    encoding_dim = groups * code_dim
    raw_dim = (height * width if layout == "frame" else sizes["patch_size"] ** 2) * channels
    return autoencoder.network_parts(
        autoencoder.Encoder(encoding_dim=encoding_dim, layout=layout, **sizes),
        autoencoder.Decoder(observation_shape=observation_shape, layout=layout, **sizes),
        quantise_with(input_dim=raw_dim if is_raw else encoding_dim, num_groups=groups),
        observation_shape,
        num_groups=groups,
        raw=is_raw,
    )


def motion_weights(off: Array, *, motion_weight: float) -> Array:
    """Pixel weights `[B, H, W, C]`, mean 1 over each frame: 1 + motion_weight where a pixel is `off` its room's median.

    Normalised a frame at a time: a frame unlike every median (a room not seen before) has all its
    pixels raised alike and still weighs no more than the others.
    """
    weights = 1.0 + motion_weight * off
    return weights / jnp.mean(weights, axis=(1, 2, 3), keepdims=True)


def tokenizer_loss(
    params: Params,
    state: TokenizerState,
    rng_key: Array,
    observation: Array,
    *,
    parts: autoencoder.Parts,
    motion_weight: float,
    motion_threshold: float,
    names_room: bool,
) -> tuple[Array, tuple[Any, Metrics]]:
    """Motion-weighted squared error of the reconstruction (frames in [0, 1]) plus the quantiser's loss.

    Metrics: loss, reconstruction and commitment (its two terms), reconstruction_error and
    foreground_error (root mean square, grey levels; all pixels, and those off the median),
    codes_used and perplexity (mean over groups, of the running usage; `growing` counts the codes it
    has, so that V means full), code_drift (share of
    the codes of the batch's first quarter that the slow copy would have chosen otherwise).
    """
    del rng_key  # every loss has one; none of the kinds draws
    _check_frames(observation, parts)
    room, share = medians.assign(state.medians, observation, threshold=motion_threshold)
    background = _background(state.medians, room, names_room)
    encoding = parts.encode(params, observation, background)
    quantised = parts.quantizer.quantise(params["quantizer"], state.quantizer, encoding)
    squared = (parts.reconstruct(params, quantised.vectors, background) - autoencoder.scale(observation)) ** 2
    off = jnp.abs(observation.astype(jnp.float32) - state.medians.frames[room]) > motion_threshold
    weights = motion_weights(off, motion_weight=motion_weight)
    reconstruction = jnp.mean(weights * squared)
    loss = reconstruction + quantised.loss
    foreground = jnp.sum(squared * off) / jnp.maximum(jnp.sum(off), 1)
    few = max(1, observation.shape[0] // 4)  # enough for a metric that costs a forward pass
    slow_codes = _codes(parts, state, observation[:few], background[:few])
    metrics = {
        "loss": loss,
        "reconstruction": reconstruction,
        "commitment": quantised.loss,
        "reconstruction_error": 255.0 * jnp.sqrt(jnp.mean(squared)),
        "foreground_error": 255.0 * jnp.sqrt(foreground),
        "codes_used": parts.quantizer.codes_used(state.quantizer),
        "perplexity": perplexity(state.quantizer.usage),
        "code_drift": jnp.mean(quantised.codes[:few] != slow_codes),
    }
    aux = {
        "seen": quantizers.Seen(
            encoding=quantised.encoding,
            codes=quantised.codes,
            error=jax.lax.stop_gradient(parts.mean_by_code(squared)),
            weight=parts.mean_by_code(weights),
        ),
        "votes": medians.vote(state.medians, observation, room, share),
    }
    return loss, (aux, jax.lax.stop_gradient(metrics))


def _init(parts: autoencoder.Parts, rng_key: Array, observation: Array, *, num_medians: int) -> TokenizerState:
    """Random parameters; the codebook becomes real at the first update."""
    _check_frames(observation, parts)
    network_key, quantizer_key = jax.random.split(rng_key)
    params = parts.init(network_key, observation)
    params["quantizer"], quantizer = parts.quantizer.init(quantizer_key)
    return TokenizerState(
        params=params,
        quantizer=quantizer,
        slow_params=jax.tree.map(jnp.copy, params),  # the state is donated: no buffer may stand in it twice
        slow_quantizer=jax.tree.map(jnp.copy, quantizer),
        medians=medians.init(parts.observation_shape, num_medians),
        num_updates=jnp.zeros((), jnp.int32),
    )


def _codes(parts: autoencoder.Parts, state: TokenizerState, observation: Array, background: Array) -> Array:
    """Codes `[B, P, g]` of what is encoded apart, by the slow copy."""
    encoding = parts.encode(state.slow_params, observation, background)
    return parts.quantizer.quantise(state.slow_params["quantizer"], state.slow_quantizer, encoding).codes


def _tokenise(
    state: TokenizerState,
    observation: Array,
    *,
    parts: autoencoder.Parts,
    tokens: int,
    motion_threshold: float,
    names_room: bool,
) -> Array:
    _check_frames(observation, parts)
    room, _ = medians.assign(state.medians, observation, threshold=motion_threshold)
    codes = _codes(parts, state, observation, _background(state.medians, room, names_room))
    codes = codes.reshape(codes.shape[0], tokens, -1)
    return jnp.concatenate([codes, room[:, None, None]], axis=-1) if names_room else codes


def _decode(parts: autoencoder.Parts, state: TokenizerState, codes: Array, *, places: int, names_room: bool) -> Array:
    chex.assert_rank(codes, 3)
    seen = codes[..., :-1] if names_room else codes
    vectors = parts.quantizer.code_vectors(state.slow_params["quantizer"], state.slow_quantizer)
    seen = look_up(vectors, seen.reshape(seen.shape[0], places, -1))
    return _pixels(parts, state, seen, codes[:, 0, -1], names_room)


def _decode_mean(
    parts: autoencoder.Parts, state: TokenizerState, chances: Array, *, places: int, names_room: bool
) -> Array:
    chex.assert_rank(chances, 4)
    seen = chances[..., :-1, :] if names_room else chances
    vectors = parts.quantizer.code_vectors(state.slow_params["quantizer"], state.slow_quantizer)
    seen = seen.reshape(seen.shape[0], places, -1, seen.shape[-1])
    seen = jnp.einsum("bpgv,gvd->bpgd", seen, vectors)
    return _pixels(parts, state, seen, jnp.argmax(chances[:, 0, -1], axis=-1), names_room)


def _pixels(parts: autoencoder.Parts, state: TokenizerState, vectors: Array, room: Array, names_room: bool) -> Array:
    """Pixels 0..255 of code vectors `[B, P, g, D]`, by the slow copy."""
    pixels = parts.reconstruct(state.slow_params, vectors, _background(state.medians, room, names_room))
    return 255.0 * jnp.clip(pixels, 0.0, 1.0)


def _code_vectors(parts: autoencoder.Parts, state: TokenizerState, *, copies: int, names_room: bool) -> Array:
    """The quantiser's, once for every patch of a grid; a room's is a fixed random direction: rooms have no order."""
    vectors = parts.quantizer.code_vectors(state.slow_params["quantizer"], state.slow_quantizer)
    vectors = jnp.tile(vectors, (copies, 1, 1))
    if not names_room:
        return vectors
    rooms = normalise(jax.random.normal(jax.random.key(0), (1, *vectors.shape[1:])))
    return jnp.concatenate([vectors, rooms], axis=0)


def _background(known: Medians, room: Array, names_room: bool) -> Array:
    """What the codes need not say: the frame's median `[B, H, W, C]` in [0, 1], or black `[B, 1, 1, 1]`."""
    return known.frames[room] / 255.0 if names_room else jnp.zeros((room.shape[0], 1, 1, 1))


def _update(
    parts: autoencoder.Parts,
    state: TokenizerState,
    new_params: Params,
    aux: Any,
    rng_key: Array,
    *,
    median_step: float,
    new_median_share: float,
    slow_decay: float,
) -> TokenizerState:
    """All that learns without a gradient: codebook, median frames, slow copy."""
    quantizer_params, quantizer = parts.quantizer.update(new_params["quantizer"], state.quantizer, aux["seen"], rng_key)
    params = {**new_params, "quantizer": quantizer_params}
    # The first update only copies: what lies before the k-means start is noise.
    keep = jnp.minimum(slow_decay, state.num_updates / (10.0 + state.num_updates))

    def mix(slow: Array, new: Array) -> Array:
        if not jnp.issubdtype(new.dtype, jnp.floating):
            return new
        return keep * slow + (1.0 - keep) * new

    return TokenizerState(
        params=params,
        quantizer=quantizer,
        slow_params=jax.tree.map(mix, state.slow_params, params),
        slow_quantizer=jax.tree.map(mix, state.slow_quantizer, quantizer),
        medians=medians.update(state.medians, aux["votes"], median_step=median_step, new_median_share=new_median_share),
        num_updates=state.num_updates + 1,
    )


def _check_frames(observation: Array, parts: autoencoder.Parts) -> None:
    chex.assert_shape(observation, (None, *parts.observation_shape))
    chex.assert_type(observation, jnp.uint8)


def _check_choice(field: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        nearest = max(allowed, key=lambda name: difflib.SequenceMatcher(None, name, value).ratio())
        raise ValueError(f"{field}={value}: no such kind. Allowed: {', '.join(allowed)}. Nearest: {nearest}")


def _check_ranges(**given: float) -> None:
    for field, value in given.items():
        lower, upper = _RANGES[field]
        if not lower <= value <= upper:  # also where it is not a number
            above = "" if upper == math.inf else f" and <= {upper}"
            nearest = upper if value > upper else lower
            raise ValueError(f"{field}={value}: out of range. Allowed: >= {lower}{above}. Nearest: {nearest}")


def _check_room(layout: str, quantizer: str, *, tokens: int, num_medians: int, num_codes: int) -> None:
    """Whether one more code of a frame's token can name its room."""
    if tokens > 1 or quantizer == "identity":
        raise ValueError(
            f"background=median: the room is a code of a frame's only token, with layout={layout} and "
            f"quantizer={quantizer}. Allowed: layouts frame and grid of any quantizer but identity. Nearest: none"
        )
    if num_medians > num_codes:
        raise ValueError(
            f"num_medians={num_medians}: a room is named by one of num_codes={num_codes} codes. "
            f"Allowed: [1, {num_codes}]. Nearest: {num_codes}"
        )
