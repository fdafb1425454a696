"""Causal transformer over frame blocks, with K/V of a shared context and of a tree path.

A frame is a block of N tokens; every token of a block sees all tokens of its own and of
earlier frames of the episode (frame-causal), with rotary positions over time. Where the
action has a slot of its own the block is M = N + 1 wide, else M = N; latents are always
those of the frame's N tokens. The same weights serve three calls: `context` (a whole window
in one pass), `extend` (one more real frame) and `imagine` (one more predicted frame, whose
K/V go to the node's own path and never into the context that all nodes of a tree share).
"""

from collections.abc import Sequence

import chex
import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from learnmax_jax.models.code_tables import whiten
from learnmax_jax.models.joystick import BITS
from learnmax_jax.types import Array

MASKED = -1e9


@struct.dataclass
class Context:
    """K/V of the real frames of a window; read-only within a search.

    Attributes:
      keys, values: a layer each, `[B, heads, S, M, head_dim]`, rotated by absolute position in the window.
      start: `[B]` int32, position of the first frame of the running episode.
      length: `[B]` int32; the frames start <= position < length are visible.
    """

    keys: tuple[Array, ...]
    values: tuple[Array, ...]
    start: Array
    length: Array


@struct.dataclass
class Node:
    """A real or imagined moment that one more step may leave from.

    Attributes:
      latent: `[B, N, D]`, the transformer's output at the moment's block.
      codes: `[B, N, G, V]` float, distribution of the moment's codes (one-hot if observed).
      path_keys, path_values: a layer each, `[B, heads, P, M, head_dim]`, of the imagined frames since the root.
      depth: `[B]` int32, how many of the P slots are filled.
    """

    latent: Array
    codes: Array
    path_keys: tuple[Array, ...]
    path_values: tuple[Array, ...]
    depth: Array


def rotate(x: Array, position: Array) -> Array:
    """Rotary encoding of `x [B, heads, Q, head_dim]` at `position [B, Q]` (Su et al. 2021, arXiv 2104.09864)."""
    half = x.shape[-1] // 2
    frequency = 1e4 ** (-jnp.arange(half) / half)
    angle = position[:, None, :, None] * frequency[None, None, None]
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    first, second = x[..., :half], x[..., half:]
    return jnp.concatenate([first * cos - second * sin, first * sin + second * cos], axis=-1)


def attend(query: Array, sources: Sequence[tuple[Array, Array, Array]]) -> Array:
    """Softmax attention over several sets of keys at once.

    Heads stand before positions so that both products run over contiguous rows: measured 5.7 times faster
    on a CPU than `[B, S, heads, head_dim]`.

    Args:
      query: `[B, heads, Q, head_dim]`, not yet scaled.
      sources: (keys `[B, heads, S, head_dim]`, values alike, visible `[B, Q, S]` bool); at least one key is visible.
        Keys and values may have fewer rows, each of which then serves as many queries' rows one after another.
    Returns:
      `[B, heads, Q, head_dim]`.
    """
    query = query * query.shape[-1] ** -0.5
    logits = [jnp.where(visible[:, None], _shared("qd,sd->qs", query, keys), MASKED) for keys, _, visible in sources]
    weights = jax.nn.softmax(jnp.concatenate(logits, axis=-1), axis=-1)
    out, begin = jnp.zeros_like(query), 0
    for keys, values, _ in sources:
        out = out + _shared("qs,sd->qd", weights[..., begin : begin + keys.shape[2]], values)
        begin += keys.shape[2]
    return out


def _shared(subscripts: str, left: Array, right: Array) -> Array:
    """Einsum of `left [B * K, heads, ...]` with `right [B, heads, ...]`, each of whose rows serves K, uncopied."""
    batch, one = right.shape[0], left.shape[0] == right.shape[0]
    first, second, out = subscripts.replace("->", ",").split(",")
    if one:
        return jnp.einsum(f"bh{first},bh{second}->bh{out}", left, right)
    folded = left.reshape(batch, -1, *left.shape[1:])
    product = jnp.einsum(f"bkh{first},bh{second}->bkh{out}", folded, right)
    return product.reshape(left.shape[0], *product.shape[2:])


class Block(nn.Module):
    """Pre-LN transformer block, split where K/V leave it."""

    num_heads: int
    mlp_width: int
    width: int
    dtype: str

    def setup(self) -> None:
        small = nn.initializers.normal(0.02)
        self.attention_norm = nn.RMSNorm()
        self.query_key_value = nn.Dense(3 * self.width, use_bias=False, dtype=self.dtype)
        self.out = nn.Dense(self.width, use_bias=False, kernel_init=small, dtype=self.dtype)
        self.mlp_norm = nn.RMSNorm()
        self.up = nn.Dense(self.mlp_width, dtype=self.dtype)
        self.down = nn.Dense(self.width, kernel_init=small, dtype=self.dtype)

    def project(self, x: Array, position: Array) -> tuple[Array, Array, Array]:
        """`x [B, Q, D]` at `position [B, Q]` to rotated query, rotated key, value `[B, heads, Q, head_dim]`."""
        qkv = self.query_key_value(self.attention_norm(x)).astype(x.dtype)
        qkv = qkv.reshape(*x.shape[:2], 3, self.num_heads, self.width // self.num_heads)
        query, key, value = jnp.moveaxis(qkv, (2, 3), (0, 2))
        return rotate(query, position), rotate(key, position), value

    def finish(self, x: Array, attended: Array) -> Array:
        """Adds attention's answer `[B, heads, Q, head_dim]` and the MLP to the residual stream `[B, Q, D]`."""
        x = x + self.out(jnp.moveaxis(attended, 1, 2).reshape(x.shape))
        return x + self.down(jax.nn.gelu(self.up(self.mlp_norm(x))))


class Dynamics(nn.Module):
    """Embedding and transformer; heads.py reads its latents.

    Attributes:
      num_tokens, num_groups, num_codes, num_actions: N, G, V, A.
      width, num_layers, num_heads, mlp_width: of the transformer.
      code_input: "learned" table, "quantised" codebook vectors, "whitened" ones, or "both" (first two, gated).
      action_input: "sum" adds the action that led here to every token; "token" gives it a slot behind them.
      action_bits: which of the joystick's BITS each action closes, to embed it as their sum; None: a vector each.
      token_position: "learned" vector a token, "rows_columns" (a vector a row plus one a column), or "none".
      dtype: of the dense layers' products, "float32" or "bfloat16"; parameters, sums, norms, attention and K/V stay
        float32.
      grid: (rows, columns) of the patches, of which a whole-frame token may stand in front; used by "rows_columns".
    """

    num_tokens: int
    num_groups: int
    num_codes: int
    num_actions: int
    width: int
    num_layers: int
    num_heads: int
    mlp_width: int
    code_input: str
    action_input: str
    action_bits: tuple[tuple[int, ...], ...] | None
    token_position: str
    dtype: str
    grid: tuple[int, int]

    def setup(self) -> None:
        table = (self.num_groups, self.num_codes, self.width)
        spread = nn.initializers.normal(self.num_groups**-0.5)
        if self.code_input in ("learned", "both"):
            self.learned_codes = self.param("learned_codes", spread, table)
        if self.code_input != "learned":
            self.quantised_codes = nn.DenseGeneral(
                self.width, axis=-1, batch_dims=(0,), use_bias=False, kernel_init=spread, name="quantised_codes"
            )
        if self.code_input == "both":
            self.code_gate = self.param("code_gate", nn.initializers.zeros, (self.width,))
        # The last row stands for "no action yet": the first frame of an episode.
        self.actions = self.param(
            "actions" if self.action_bits is None else "joystick",
            nn.initializers.normal(0.5),
            (1 + (self.num_actions if self.action_bits is None else len(BITS)), self.width),
        )
        self._setup_position()
        self.blocks = [
            Block(self.num_heads, self.mlp_width, self.width, self.dtype, name=f"block_{i}")
            for i in range(self.num_layers)
        ]
        self.final_norm = nn.RMSNorm()

    def _setup_position(self) -> None:
        small = nn.initializers.normal(0.02)
        if self.token_position == "learned":
            self.positions = self.param("token_position", small, (self.num_tokens, self.width))
        if self.token_position == "rows_columns":
            rows, columns = self.grid
            self.rows = self.param("row_position", small, (rows, self.width))
            self.columns = self.param("column_position", small, (columns, self.width))
            if self.num_tokens > rows * columns:
                self.anchor = self.param("anchor_position", small, (1, self.width))

    def position_table(self) -> Array:
        """What its place in the frame adds to each token: `[N, D]`."""
        if self.token_position == "learned":
            return self.positions
        if self.token_position == "none":
            return jnp.zeros((self.num_tokens, self.width))
        patches = (self.rows[:, None] + self.columns[None]).reshape(-1, self.width)
        anchored = self.num_tokens > patches.shape[0]
        return jnp.concatenate([self.anchor, patches]) if anchored else patches

    def action_table(self) -> Array:
        """What each action adds, and last what "no action yet" adds: `[A + 1, D]`."""
        if self.action_bits is None:
            return self.actions
        return jnp.concatenate([jnp.asarray(self.action_bits, jnp.float32) @ self.actions[:-1], self.actions[-1:]])

    def code_table(self, code_vectors: Array) -> Array:
        """What each code adds to its token: `[G, V, D]`, from the tokenizer's `code_vectors [G, V, d]`."""
        if self.code_input == "learned":
            return self.learned_codes
        code_vectors = jax.lax.stop_gradient(code_vectors)
        quantised = self.quantised_codes(whiten(code_vectors) if self.code_input == "whitened" else code_vectors)
        if self.code_input != "both":
            return quantised
        return self.learned_codes + jnp.tanh(self.code_gate)[None, None] * quantised

    def _embed(self, code_sum: Array, action: Array) -> Array:
        """Block inputs `[..., M, D]` from summed code embeddings `[..., N, D]` and the action that led here `[...]`."""
        table = self.position_table()
        position = table.reshape((1,) * (code_sum.ndim - 2) + table.shape)
        led_here = self.action_table()[action][..., None, :]
        if self.action_input == "token":
            return jnp.concatenate([code_sum + position, led_here], axis=-2)
        return code_sum + led_here + position

    def _embed_codes(self, table: Array, codes: Array) -> Array:
        """`codes [..., N, G]` int to summed embeddings `[..., N, D]`."""
        groups = jnp.arange(self.num_groups).reshape((1,) * (codes.ndim - 1) + (self.num_groups,))
        flat = table.reshape(-1, self.width)
        return flat[groups * self.num_codes + codes].sum(axis=-2)

    def context(
        self, codes: Array, action: Array, first: Array, code_vectors: Array, *, capacity: int
    ) -> tuple[Context, Array]:
        """One pass over a window of real frames.

        Args:
          codes: `[B, T, N, G]` int32.
          action: `[B, T]` int32, the action that led to each frame (A where there was none).
          first: `[B, T]` bool; a frame sees nothing before the latest `first`.
          code_vectors: `[G, V, d]`, the tokenizer's.
          capacity: S >= T, room for frames that `extend` appends.
        Returns:
          (Context with length T, latents `[B, T, N, D]`).
        """
        chex.assert_rank([codes, action, first], [4, 2, 2])
        x = self._embed(self._embed_codes(self.code_table(code_vectors), codes), action)
        batch, time, slots, _ = x.shape
        x = x.reshape(batch, time * slots, self.width)
        frame = jnp.repeat(jnp.arange(time), slots)
        episode = jnp.repeat(jnp.cumsum(first, axis=1), slots, axis=1)
        visible = (frame[None, :, None] >= frame[None, None, :]) & (episode[:, :, None] == episode[:, None, :])
        position = jnp.broadcast_to(frame[None], (batch, time * slots))
        keys, values = [], []
        for block in self.blocks:
            query, key, value = block.project(x, position)
            x = block.finish(x, attend(query, [(key, value, visible)]))
            keys.append(key)
            values.append(value)
        pad = ((0, 0), (0, 0), (0, capacity - time), (0, 0), (0, 0))

        def cache(parts: list[Array]) -> tuple[Array, ...]:
            return tuple(jnp.pad(part.reshape(*part.shape[:2], time, slots, part.shape[-1]), pad) for part in parts)

        start = jnp.max(jnp.where(first, jnp.arange(time, dtype=jnp.int32)[None], 0), axis=1, initial=0)
        length = jnp.full((batch,), time, jnp.int32)
        latents = self.final_norm(x).reshape(batch, time, slots, self.width)
        return Context(cache(keys), cache(values), start, length), latents[:, :, : self.num_tokens]

    def _advance(
        self,
        x: Array,
        context: Context,
        path_keys: tuple[Array, ...],
        path_values: tuple[Array, ...],
        depth: Array,
    ) -> tuple[Array, tuple[Array, ...], tuple[Array, ...]]:
        """Runs one block `x [B, M, D]` that sees the context, `depth [B]` path frames and itself.

        The context may have fewer rows: each then serves as many rows of x, one after another.
        Returns (latent `[B, N, D]`, keys a layer each `[B, heads, M, head_dim]`, values alike).
        """
        batch, slots, _ = x.shape
        at = jnp.arange(context.keys[0].shape[2], dtype=jnp.int32)[None]
        start, length = (jnp.repeat(x, batch // x.shape[0]) for x in (context.start, context.length))
        in_context = (at >= start[:, None]) & (at < length[:, None])
        in_path = jnp.arange(path_keys[0].shape[2], dtype=jnp.int32)[None] < depth[:, None]

        def visible(frames: Array) -> Array:
            by_slot = jnp.repeat(frames, slots, axis=1)
            return jnp.broadcast_to(by_slot[:, None], (batch, slots, by_slot.shape[1]))

        def flat(cache: Array) -> Array:
            return cache.reshape(*cache.shape[:2], cache.shape[2] * cache.shape[3], cache.shape[4])

        context_visible, path_visible = visible(in_context), visible(in_path)
        itself = jnp.ones((batch, slots, slots), bool)
        position = jnp.broadcast_to((length + depth)[:, None], (batch, slots))
        new_keys, new_values = [], []
        for layer, block in enumerate(self.blocks):
            query, key, value = block.project(x, position)
            attended = attend(
                query,
                [
                    (flat(context.keys[layer]), flat(context.values[layer]), context_visible),
                    (flat(path_keys[layer]), flat(path_values[layer]), path_visible),
                    (key, value, itself),
                ],
            )
            x = block.finish(x, attended)
            new_keys.append(key)
            new_values.append(value)
        return self.final_norm(x)[:, : self.num_tokens], tuple(new_keys), tuple(new_values)

    def extend(
        self, context: Context, codes: Array, action: Array, first: Array, code_vectors: Array
    ) -> tuple[Context, Array]:
        """Appends one real frame to the context; exact for fixed parameters.

        Args:
          context: with room left (length < S; the caller's arithmetic, as lengths are traced).
          codes: `[B, N, G]`.
          action: `[B]`, the one that led here.
          first: `[B]` bool, the frame opens an episode.
          code_vectors: `[G, V, d]`, the tokenizer's.
        Returns:
          (Context one longer, latent `[B, N, D]`).
        """
        x = self._embed(self._embed_codes(self.code_table(code_vectors), codes), action)
        context = context.replace(start=jnp.where(first, context.length, context.start))
        no_path = tuple(keys[:, :, :0] for keys in context.keys)
        latent, keys, values = self._advance(x, context, no_path, no_path, jnp.zeros_like(context.length))
        context = context.replace(
            keys=_write(context.keys, keys, context.length),
            values=_write(context.values, values, context.length),
            length=context.length + 1,
        )
        return context, latent

    def imagine(self, context: Context, node: Node, codes: Array, action: Array, code_vectors: Array) -> Node:
        """Steps a node to a predicted frame.

        Args:
          context: shared, of the root.
          node: the parent; a slot of its path must be free (depth < P).
          codes: `[B, N, G, V]` float, predicted marginals of the next frame's codes.
          action: `[B]`.
          code_vectors: `[G, V, d]`, the tokenizer's.
        Returns:
          The child node, one deeper.
        """
        table = self.code_table(code_vectors).reshape(-1, self.width).astype(self.dtype)
        seen = codes.reshape(*codes.shape[:2], -1).astype(self.dtype) @ table
        x = self._embed(seen.astype(codes.dtype), action)
        latent, keys, values = self._advance(x, context, node.path_keys, node.path_values, node.depth)
        return Node(
            latent=latent,
            codes=codes,
            path_keys=_write(node.path_keys, keys, node.depth),
            path_values=_write(node.path_values, values, node.depth),
            depth=node.depth + 1,
        )


def _write(caches: tuple[Array, ...], blocks: tuple[Array, ...], at: Array) -> tuple[Array, ...]:
    """Puts `block [B, heads, M, head_dim]` at frame `at [B]` of `cache [B, heads, S, M, head_dim]`, layer by layer."""
    here = jnp.arange(caches[0].shape[2], dtype=jnp.int32)[None] == at[:, None]
    here = here[:, None, :, None, None]
    return tuple(jnp.where(here, block[:, :, None], cache) for cache, block in zip(caches, blocks, strict=True))
