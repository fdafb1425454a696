"""Encoder and decoder of the tokenizer: patches mixed by dense layers.

A convolution over full frames costs many times more on a CPU; all sizes here are
arguments. Frames are float32 in [0, 1] on this side of the border. Inside, patches
stand in front, `[P, B, D]`: every layer is then one plain matrix product, whose
gradient is several times cheaper on a CPU than that of a batched or transposed one.
Source: Tolstikhin et al. 2021, https://arxiv.org/abs/2105.01601 (MLP-Mixer).
"""

import dataclasses
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from learnmax_jax.models.quantizers import Quantizer
from learnmax_jax.types import Array, Params

LAYOUTS = ("frame", "grid", "patch", "anchor")


def grid_shape(observation_shape: tuple[int, int, int], patch_size: int) -> tuple[int, int]:
    """Rows and columns of patches; the last ones reach over the frame's edge where they do not tile it."""
    return -(-observation_shape[0] // patch_size), -(-observation_shape[1] // patch_size)


def num_patches(observation_shape: tuple[int, int, int], patch_size: int) -> int:
    """Patches in a frame."""
    rows, columns = grid_shape(observation_shape, patch_size)
    return rows * columns


def num_places(layout: str, observation_shape: tuple[int, int, int], patch_size: int) -> int:
    """P: what is encoded apart, the whole frame, every patch, or both."""
    patches = num_patches(observation_shape, patch_size)
    return {"frame": 1, "grid": patches, "patch": patches, "anchor": 1 + patches}[layout]


def to_patches(frames: Array, patch_size: int) -> Array:
    """`[B, H, W, C]` -> `[P, B, patch_size^2 C]`, patches in reading order; 0 behind the frame's edge."""
    batch, height, width, channels = frames.shape
    rows, columns = grid_shape((height, width, channels), patch_size)
    below, right = rows * patch_size - height, columns * patch_size - width
    frames = jnp.pad(frames, ((0, 0), (0, below), (0, right), (0, 0)))
    frames = frames.reshape(batch, rows, patch_size, columns, patch_size, channels)
    return frames.transpose(1, 3, 0, 2, 4, 5).reshape(rows * columns, batch, -1)


def from_patches(patches: Array, observation_shape: tuple[int, int, int], patch_size: int) -> Array:
    """The inverse of `to_patches`."""
    height, width, channels = observation_shape
    rows, columns = grid_shape(observation_shape, patch_size)
    patches = patches.reshape(rows, columns, -1, patch_size, patch_size, channels)
    frames = patches.transpose(2, 0, 3, 1, 4, 5).reshape(-1, rows * patch_size, columns * patch_size, channels)
    return frames[:, :height, :width]


class PatchDense(nn.Module):
    """A dense layer across the first axis, `[P, ...]` -> `[features, ...]`."""

    features: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = self.param("kernel", nn.initializers.lecun_normal(in_axis=1, out_axis=0), (self.features, x.shape[0]))
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,))
        y = kernel @ x.reshape(x.shape[0], -1) + bias[:, None]
        return y.reshape(self.features, *x.shape[1:])


class ChannelDense(nn.Module):
    """A dense layer across the last axis, all other axes made one."""

    features: int
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x: Array) -> Array:
        y = nn.Dense(self.features, kernel_init=self.kernel_init)(x.reshape(-1, x.shape[-1]))
        return y.reshape(*x.shape[:-1], self.features)


class MixerBlock(nn.Module):
    """`[P, B, width]`: a layer across the patches, then one across the channels, each added to its input."""

    token_hidden: int
    channel_hidden: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        patches, _, width = x.shape
        x = x + PatchDense(patches)(nn.relu(PatchDense(self.token_hidden)(nn.LayerNorm()(x))))
        return x + ChannelDense(width)(nn.relu(ChannelDense(self.channel_hidden)(nn.LayerNorm()(x))))


class ChannelBlock(nn.Module):
    """`[P, B, width]`: the second half of a MixerBlock, every patch by itself."""

    channel_hidden: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        return x + ChannelDense(x.shape[-1])(nn.relu(ChannelDense(self.channel_hidden)(nn.LayerNorm()(x))))


class Encoder(nn.Module):
    """`[B, H, W, C]` float32 -> `[B, P, encoding_dim]`."""

    layout: str
    encoding_dim: int
    patch_size: int
    width: int
    num_blocks: int
    token_hidden: int
    channel_hidden: int

    @nn.compact
    def __call__(self, frames: Array) -> Array:
        x = ChannelDense(self.width, name="patches")(to_patches(frames, self.patch_size))
        # A code of the grid speaks of what is in its patch: neither where that is nor what moves elsewhere changes it.
        mixes = self.layout != "grid"
        if mixes:
            x = x + self.param("position", nn.initializers.normal(0.02), (x.shape[0], self.width))[:, None]
        for _ in range(self.num_blocks):
            x = MixerBlock(self.token_hidden, self.channel_hidden)(x) if mixes else ChannelBlock(self.channel_hidden)(x)
        x = jnp.swapaxes(nn.LayerNorm()(x), 0, 1)
        tokens = []
        if self.layout in ("frame", "anchor"):
            whole = nn.Dense(self.encoding_dim, name="to_frame_token")(x.reshape(x.shape[0], -1))
            tokens.append(whole[:, None])
        if self.layout in ("grid", "patch", "anchor"):
            tokens.append(ChannelDense(self.encoding_dim, name="to_patch_tokens")(x))
        return jnp.concatenate(tokens, axis=1)


class Decoder(nn.Module):
    """`[B, P, encoding_dim]` -> `[B, H, W, C]` float32, not clipped."""

    layout: str
    observation_shape: tuple[int, int, int]
    patch_size: int
    width: int
    num_blocks: int
    token_hidden: int
    channel_hidden: int

    @nn.compact
    def __call__(self, tokens: Array) -> Array:
        patches = num_patches(self.observation_shape, self.patch_size)
        position = self.param("position", nn.initializers.normal(0.02), (patches, self.width))
        x = jnp.broadcast_to(position[:, None], (patches, tokens.shape[0], self.width))
        if self.layout in ("frame", "anchor"):
            whole = nn.Dense(patches * self.width, name="from_frame_token")(tokens[:, 0])
            x = x + jnp.swapaxes(whole.reshape(-1, patches, self.width), 0, 1)
        if self.layout in ("grid", "patch", "anchor"):
            x = x + ChannelDense(self.width, name="from_patch_tokens")(jnp.swapaxes(tokens[:, -patches:], 0, 1))
        for _ in range(self.num_blocks):
            x = MixerBlock(self.token_hidden, self.channel_hidden)(x)
        # Zero at the start: a decoder that first has to unlearn random pictures pushes all encodings the
        # same way, and they meet in one code.
        pixels = ChannelDense(
            self.patch_size**2 * self.observation_shape[2], nn.initializers.zeros_init(), name="pixels"
        )(nn.LayerNorm()(x))
        return from_patches(pixels, self.observation_shape, self.patch_size)


@dataclasses.dataclass(frozen=True)
class Parts:
    """What the functions below share: the two networks (online or slow, by their params) and the quantiser."""

    observation_shape: tuple[int, int, int]
    init: Callable[[Array, Array], Params]
    encode: Callable[[Params, Array, Array], Array]  # uint8, background in [0, 1], [B, H, W, C] -> [B, P, K]
    reconstruct: Callable[[Params, Array, Array], Array]  # [B, P, g, D], background -> [B, H, W, C], about [0, 1]
    mean_by_code: Callable[[Array], Array]  # [B, H, W, C] -> mean over the pixels each code speaks of [B, P, g]
    quantizer: Quantizer


def network_parts(
    encoder: Encoder,
    decoder: Decoder,
    quantizer: Quantizer,
    observation_shape: tuple[int, int, int],
    *,
    num_groups: int,
    raw: bool,
) -> Parts:
    """Learned networks for g groups a place; `raw` hands the quantiser pixels instead of the encoder's output."""
    tokens = num_places(encoder.layout, observation_shape, encoder.patch_size)

    def init(rng_key: Array, observation: Array) -> Params:
        encoder_key, decoder_key = jax.random.split(rng_key)
        vectors = jnp.zeros((1, tokens, encoder.encoding_dim), jnp.float32)
        params = {"decoder": decoder.init(decoder_key, vectors)}
        params["encoder"] = {} if raw else encoder.init(encoder_key, scale(observation[:1]))
        return params

    def encode(params: Params, observation: Array, background: Array) -> Array:
        pixels = scale(observation) - background
        if not raw:
            return encoder.apply(params["encoder"], pixels)
        if encoder.layout == "frame":
            return pixels.reshape(pixels.shape[0], 1, -1)
        return jnp.swapaxes(to_patches(pixels, encoder.patch_size), 0, 1)

    def reconstruct(params: Params, vectors: Array, background: Array) -> Array:
        return background + decoder.apply(params["decoder"], vectors.reshape(*vectors.shape[:2], -1))

    def mean_by_code(pixels: Array) -> Array:
        whole = jnp.mean(pixels, axis=(1, 2, 3))[:, None]
        patches = jnp.mean(to_patches(pixels, encoder.patch_size), axis=-1).T
        by_layout = {"frame": whole, "anchor": jnp.concatenate([whole, patches], axis=1)}
        return jnp.repeat(by_layout.get(encoder.layout, patches)[..., None], num_groups, axis=2)

    return Parts(observation_shape, init, encode, reconstruct, mean_by_code, quantizer)


def identity_parts(observation_shape: tuple[int, int, int], quantizer: Quantizer, num_codes: int) -> Parts:
    """No networks: the observation's integers are the codes and the codes its integers."""

    def encode(params: Params, observation: Array, background: Array) -> Array:
        del params, background
        return observation.reshape(observation.shape[0], 1, -1)

    def reconstruct(params: Params, vectors: Array, background: Array) -> Array:
        del params, background
        integers = vectors @ jnp.arange(num_codes, dtype=jnp.float32)
        return integers.reshape(-1, *observation_shape) / 255.0

    def mean_by_code(pixels: Array) -> Array:
        return pixels.reshape(pixels.shape[0], 1, -1)

    return Parts(observation_shape, lambda rng_key, observation: {}, encode, reconstruct, mean_by_code, quantizer)


def scale(observation: Array) -> Array:
    """Grey levels 0..255 to float32 in [0, 1]."""
    return observation.astype(jnp.float32) / 255.0
