"""Encoder and decoder of the tokenizer: patches mixed by dense layers.

A convolution over full frames costs many times more on a CPU; all sizes here are
arguments. Frames are float32 in [0, 1] on this side of the border.
Source: Tolstikhin et al. 2021, https://arxiv.org/abs/2105.01601 (MLP-Mixer).
"""

import flax.linen as nn
import jax.numpy as jnp

from learnmax_jax.types import Array

LAYOUTS = ("frame", "patch", "anchor")


def num_patches(observation_shape: tuple[int, int, int], patch_size: int) -> int:
    """Patches in a frame."""
    return (observation_shape[0] // patch_size) * (observation_shape[1] // patch_size)


def num_tokens(layout: str, observation_shape: tuple[int, int, int], patch_size: int) -> int:
    """N: one for the whole frame, one a patch, or both."""
    patches = num_patches(observation_shape, patch_size)
    return {"frame": 1, "patch": patches, "anchor": 1 + patches}[layout]


def to_patches(frames: Array, patch_size: int) -> Array:
    """`[B, H, W, C]` -> `[B, P, patch_size^2 C]`, patches in reading order."""
    batch, height, width, channels = frames.shape
    rows, columns = height // patch_size, width // patch_size
    frames = frames.reshape(batch, rows, patch_size, columns, patch_size, channels)
    return frames.transpose(0, 1, 3, 2, 4, 5).reshape(batch, rows * columns, -1)


def from_patches(patches: Array, observation_shape: tuple[int, int, int], patch_size: int) -> Array:
    """The inverse of `to_patches`."""
    height, width, channels = observation_shape
    rows, columns = height // patch_size, width // patch_size
    patches = patches.reshape(-1, rows, columns, patch_size, patch_size, channels)
    return patches.transpose(0, 1, 3, 2, 4, 5).reshape(-1, height, width, channels)


class MixerBlock(nn.Module):
    """One layer across the patches, one across the channels, each added to its input."""

    token_hidden: int
    channel_hidden: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        patches, width = x.shape[-2:]
        y = jnp.swapaxes(nn.LayerNorm()(x), -1, -2)
        y = nn.Dense(patches)(nn.relu(nn.Dense(self.token_hidden)(y)))
        x = x + jnp.swapaxes(y, -1, -2)
        y = nn.LayerNorm()(x)
        return x + nn.Dense(width)(nn.relu(nn.Dense(self.channel_hidden)(y)))


class Encoder(nn.Module):
    """`[B, H, W, C]` float32 in [0, 1] -> `[B, N, encoding_dim]`."""

    layout: str
    encoding_dim: int
    patch_size: int
    width: int
    num_blocks: int
    token_hidden: int
    channel_hidden: int

    @nn.compact
    def __call__(self, frames: Array) -> Array:
        x = nn.Dense(self.width, name="patches")(to_patches(frames, self.patch_size))
        x = x + self.param("position", nn.initializers.normal(0.02), x.shape[1:])[None]
        for _ in range(self.num_blocks):
            x = MixerBlock(self.token_hidden, self.channel_hidden)(x)
        x = nn.LayerNorm()(x)
        tokens = []
        if self.layout in ("frame", "anchor"):
            whole = nn.Dense(self.encoding_dim, name="to_frame_token")(x.reshape(x.shape[0], -1))
            tokens.append(whole[:, None])
        if self.layout in ("patch", "anchor"):
            tokens.append(nn.Dense(self.encoding_dim, name="to_patch_tokens")(x))
        return jnp.concatenate(tokens, axis=1)


class Decoder(nn.Module):
    """`[B, N, encoding_dim]` -> `[B, H, W, C]` float32, about [0, 1], not clipped."""

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
        x = jnp.broadcast_to(position[None], (tokens.shape[0], patches, self.width))
        if self.layout in ("frame", "anchor"):
            whole = nn.Dense(patches * self.width, name="from_frame_token")(tokens[:, 0])
            x = x + whole.reshape(x.shape)
        if self.layout in ("patch", "anchor"):
            x = x + nn.Dense(self.width, name="from_patch_tokens")(tokens[:, -patches:])
        for _ in range(self.num_blocks):
            x = MixerBlock(self.token_hidden, self.channel_hidden)(x)
        pixels = nn.Dense(self.patch_size**2 * self.observation_shape[2], name="pixels")(nn.LayerNorm()(x))
        return from_patches(pixels, self.observation_shape, self.patch_size)
