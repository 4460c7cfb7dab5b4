"""A Llama model in NumPy: reading its weights, its key-value cache, and one forward pass over ragged chunks of tokens.

Everything is float32. There is one code path: `Llama.forward` takes, for each of several sequences, the tokens that
follow what is already in that sequence's cache row. Handing it whole prompts is a prefill; handing it one token each
is a decoding step; the two may be mixed.

The arithmetic is laid out so that what a sequence gets does not depend on its neighbours in the batch:

* Every product with a weight matrix is done in blocks of `BLOCK` rows (the last one padded), so BLAS always sees the
  same shapes and gives a row the same sums wherever it stands.
* Attention looks at a window of the cache whose size depends on the sequence's own length only.

The weights are cut into tiles, and the queries of a long prompt into parts, such that no product exceeds the size up to
which OpenBLAS works in the calling thread. On matrices as small as these its threads only burn a second core (measured:
same wall time, twice the CPU time), and its thread count could be set for the whole process only, which is not this
module's to do.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]

CHECKPOINT = Path(__file__).parent / "checkpoint"
"""The folder of the checkpoint in the box, and of the tokenizer of both models."""
CHECKPOINTS = {"large": CHECKPOINT, "small": Path(__file__).parent / "small"}
"""The folders of the two models, by size."""

BLOCK = 8
_LARGEST = 2**18  # OpenBLAS starts threads above rows * inner * columns = 4 * 65536.
_TILE = _LARGEST // BLOCK
_SMALLEST_WINDOW = 64


@dataclass(frozen=True)
class LlamaConfig:
    """The sizes of a Llama model, under the names its config.json uses."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope_theta: float

    @classmethod
    def read(cls, path: Path) -> LlamaConfig:
        """Read a config.json."""
        fields = json.loads(path.read_text(encoding="utf-8"))
        fields["rope_theta"] = fields["rope_parameters"]["rope_theta"]
        return cls(**{name: fields[name] for name in cls.__dataclass_fields__})


class Cache:
    """The keys and values of up to `rows` sequences.

    The arrays are zeros that the operating system hands out page by page, so memory is used only as far as sequences
    reach.

    Attributes:
        keys: (layers, rows, key-value heads, context, head size).
        values: Shaped as `keys`.
        lengths: (rows,), how many tokens of each row are filled.
    """

    def __init__(self, config: LlamaConfig, rows: int) -> None:
        shape = (
            config.num_hidden_layers,
            rows,
            config.num_key_value_heads,
            config.max_position_embeddings,
            config.head_dim,
        )
        self.keys: Floats = np.zeros(shape, np.float32)
        self.values: Floats = np.zeros(shape, np.float32)
        self.lengths: Integers = np.zeros(rows, np.int64)

    def copy(self, source: int, target: int) -> None:
        """Make row `target` a copy of row `source`."""
        length = self.lengths[source]
        self.keys[:, target, :, :length] = self.keys[:, source, :, :length]
        self.values[:, target, :, :length] = self.values[:, source, :, :length]
        self.lengths[target] = length

    def clear(self, row: int) -> None:
        """Forget what row `row` holds. Its old numbers stay in place: they are masked, then overwritten."""
        self.lengths[row] = 0


@dataclass(frozen=True)
class _Layer:
    attention_norm: Floats  # (hidden,)
    query_key_value: Floats  # (tiles, hidden, columns)
    output: Floats  # (tiles, heads * head size, columns)
    mlp_norm: Floats  # (hidden,)
    gate_up: Floats  # (slices, hidden, 2 * units of a slice): its gate columns, then its up columns
    down: Floats  # (slices, units of a slice, hidden)


@dataclass(frozen=True)
class _Group:
    """Chunks of one length whose sequences share a window: their attention is one stacked product."""

    packed: Integers  # (chunks, length), where their tokens stand among the packed rows
    rows: slice | Integers  # their cache rows; a slice, hence no copy, where these are consecutive
    window: int
    bias: Floats  # (chunks, 1, 1, length, window), 0 where a token may look and -inf where it may not


class Llama:
    """A Llama model with tied embeddings.

    Args:
        config: Its sizes.
        weights: Its tensors under the names a Hugging Face checkpoint gives them, in any float dtype.
    """

    def __init__(self, config: LlamaConfig, weights: dict[str, NDArray[np.floating]]) -> None:
        self.config = config

        def read(name: str) -> Floats:
            return weights[name].astype(np.float32)

        self._embedding = read("model.embed_tokens.weight")  # (vocabulary, hidden)
        self._head = _tiles(self._embedding.T)  # the embedding again: the two are tied
        self._norm = read("model.norm.weight")
        self._layers = [self._read_layer(read, f"model.layers.{i}.") for i in range(config.num_hidden_layers)]

        half = np.arange(0, config.head_dim, 2, dtype=np.float32) / np.float32(config.head_dim)
        frequencies = np.float32(1) / np.float32(config.rope_theta) ** half
        angles = np.arange(config.max_position_embeddings, dtype=np.float32)[:, None] * frequencies
        self._turns = np.exp(np.complex64(1j) * angles)  # (context, head size / 2)

    def _read_layer(self, read: Callable[[str], Floats], prefix: str) -> _Layer:
        config = self.config
        query, key, value = (read(f"{prefix}self_attn.{name}_proj.weight") for name in ("q", "k", "v"))
        query *= np.float32(config.head_dim**-0.5)  # scales the attention scores
        query, key = _interleaved(query, config.head_dim), _interleaved(key, config.head_dim)
        gate, up, down = (read(f"{prefix}mlp.{name}_proj.weight") for name in ("gate", "up", "down"))
        slices = _tile_count(config.intermediate_size, config.hidden_size, columns_each=2)
        by_slice = (slices, -1, config.hidden_size)
        gate_up = np.concatenate([gate.reshape(by_slice), up.reshape(by_slice)], axis=1)
        return _Layer(
            attention_norm=read(f"{prefix}input_layernorm.weight"),
            query_key_value=_tiles(np.concatenate([query, key, value]).T),
            output=_tiles(read(f"{prefix}self_attn.o_proj.weight").T),
            mlp_norm=read(f"{prefix}post_attention_layernorm.weight"),
            gate_up=np.ascontiguousarray(gate_up.swapaxes(1, 2)),
            down=np.ascontiguousarray(down.T).reshape(by_slice),
        )

    @classmethod
    def load(cls, folder: Path) -> Llama:
        """Read a model from a folder with config.json and model.safetensors."""
        from safetensors.numpy import load_file

        return cls(LlamaConfig.read(folder / "config.json"), load_file(folder / "model.safetensors"))

    def forward(self, cache: Cache, rows: Sequence[int], chunks: Sequence[Sequence[int]]) -> Floats:
        """Append a chunk of tokens to each of several cached sequences and predict the token after it.

        Args:
            cache: Where the sequences are; their rows are extended in place.
            rows: The cache row of each sequence, all different.
            chunks: The new tokens of each sequence, at least one each.

        Returns:
            The logits of the token that follows each chunk, (sequences, vocabulary).
        """
        config = self.config
        kv_heads, head_dim = config.num_key_value_heads, config.head_dim
        queries_size = config.num_attention_heads * head_dim

        lengths = np.array([len(chunk) for chunk in chunks])
        ends = np.cumsum(lengths)
        starts, count = ends - lengths, int(ends[-1])
        cache_rows = np.asarray(rows)
        row_of = np.repeat(cache_rows, lengths)  # (count,): the cache row of each packed token
        position = np.arange(count) - np.repeat(starts - cache.lengths[cache_rows], lengths)
        groups = self._group(cache_rows, lengths, starts, cache.lengths[cache_rows])

        # From here on `x` is (blocks, BLOCK, hidden); its first `count` rows are the packed tokens, the rest padding.
        x = _blocks(self._embedding[np.concatenate([np.asarray(chunk) for chunk in chunks])])
        turns = self._turns[position][:, None]
        attended = np.zeros((x.shape[0] * BLOCK, queries_size), np.float32)

        for layer, keys, values in zip(self._layers, cache.keys, cache.values, strict=True):
            projected = _product(self._normalise(x, layer.attention_norm), layer.query_key_value)
            heads = projected.reshape(len(attended), -1, head_dim)[:count]  # (count, heads, head size)
            turned = (heads[:, :-kv_heads].view(np.complex64) * turns).view(np.float32)  # rotary position embedding
            keys[row_of, :, position] = turned[:, -kv_heads:]
            values[row_of, :, position] = heads[:, -kv_heads:]
            for group in groups:
                attended[group.packed] = self._attend(turned[group.packed, :-kv_heads], keys, values, group)
            x = x + _product(attended.reshape(-1, BLOCK, queries_size), layer.output)

            # (blocks, slices, BLOCK, columns): each slice of the hidden units on its own, then their sum.
            gate_up = self._normalise(x, layer.mlp_norm)[:, None] @ layer.gate_up
            units = gate_up.shape[-1] // 2
            x = x + ((_silu(gate_up[..., :units]) * gate_up[..., units:]) @ layer.down).sum(axis=1)

        cache.lengths[cache_rows] += lengths
        last = _blocks(x.reshape(-1, config.hidden_size)[ends - 1])
        return _product(self._normalise(last, self._norm), self._head).reshape(-1, config.vocab_size)[: len(chunks)]

    def _group(self, rows: Integers, lengths: Integers, starts: Integers, cached: Integers) -> list[_Group]:
        members: dict[tuple[int, int], list[int]] = {}
        for i, (length, past) in enumerate(zip(lengths.tolist(), cached.tolist(), strict=True)):
            members.setdefault((length, self._window(past + length)), []).append(i)
        groups = []
        for (length, window), chunks in members.items():
            steps = np.arange(length)
            reach = cached[chunks][:, None] + steps  # (chunks, length): the last position each token may look at
            visible = np.arange(window) <= reach[..., None]
            group_rows = rows[chunks]
            first, last = int(group_rows[0]), int(group_rows[-1])
            consecutive = bool((group_rows == np.arange(first, first + len(chunks))).all())
            groups.append(
                _Group(
                    packed=starts[chunks][:, None] + steps,
                    rows=slice(first, last + 1) if consecutive else group_rows,
                    window=window,
                    bias=np.where(visible, np.float32(0), np.float32(-np.inf))[:, None, None],
                )
            )
        return groups

    def _window(self, length: int) -> int:
        # A power of two: as a sequence outgrows its window, sums over the longer one still group the same way.
        return min(max(_SMALLEST_WINDOW, 1 << (length - 1).bit_length()), self.config.max_position_embeddings)

    def _attend(self, queries: Floats, keys: Floats, values: Floats, group: _Group) -> Floats:
        """Attention of (chunks, length, heads, head size) queries; returns (chunks, length, heads * head size)."""
        chunks, length, heads, head_dim = queries.shape
        kv_heads = self.config.num_key_value_heads
        shared = heads // kv_heads  # this many query heads look at one key-value head
        by_head = queries.reshape(chunks, length, kv_heads, shared, head_dim).transpose(0, 2, 3, 1, 4)
        stacked = by_head.reshape(chunks, kv_heads, shared * length, head_dim)

        scores = _by_rows(stacked, keys[group.rows, :, : group.window].swapaxes(-1, -2))
        masked = scores.reshape(chunks, kv_heads, shared, length, group.window)
        masked += group.bias
        scores -= scores.max(axis=-1, keepdims=True)
        np.exp(scores, out=scores)
        mixed = _by_rows(scores, values[group.rows, :, : group.window])
        mixed /= scores.sum(axis=-1, keepdims=True)
        by_token = mixed.reshape(chunks, kv_heads, shared, length, head_dim).transpose(0, 3, 1, 2, 4)
        return by_token.reshape(chunks, length, heads * head_dim)

    def _normalise(self, x: Floats, weight: Floats) -> Floats:
        """RMSNorm over the last axis."""
        mean_square = np.einsum("...i,...i->...", x, x)[..., None] / np.float32(x.shape[-1])
        return x / np.sqrt(mean_square + np.float32(self.config.rms_norm_eps)) * weight


def _interleaved(weight: Floats, head_dim: int) -> Floats:
    """Reorder a projection so that the two dimensions which the rotary embedding turns together are neighbours.

    In a checkpoint they are half a head apart: i and i + head size / 2. As neighbours they are the two parts of one
    complex number, and the embedding is one multiplication. Scores do not change: queries and keys are reordered alike.
    """
    halves = weight.reshape(-1, 2, head_dim // 2, weight.shape[1])  # (heads, halves, pairs, hidden)
    return halves.swapaxes(1, 2).reshape(weight.shape)


def _silu(x: Floats) -> Floats:
    """Return x * sigmoid(x), by way of tanh because exp would overflow."""
    half = x * np.float32(0.5)
    return half + half * np.tanh(half)


def _blocks(x: Floats) -> Floats:
    """Cut (rows, columns) into (blocks, BLOCK, columns), the last block padded with zeros."""
    blocks = np.zeros((-(-len(x) // BLOCK), BLOCK, x.shape[1]), np.float32)
    blocks.reshape(-1, x.shape[1])[: len(x)] = x
    return blocks


def _product(x: Floats, tiles: Floats) -> Floats:
    """(blocks, BLOCK, inner) times (tiles, inner, columns of a tile): (blocks, BLOCK, columns of all tiles)."""
    if len(tiles) == 1:
        return x @ tiles[0]
    return (x[:, None] @ tiles).swapaxes(1, 2).reshape(len(x), BLOCK, -1)


def _by_rows(x: Floats, y: Floats) -> Floats:
    """Return x @ y, in parts of so many rows of each matrix that every product stays within the calling thread."""
    rows, (inner, columns) = x.shape[-2], y.shape[-2:]
    at_once = max(_LARGEST // (inner * columns), 1)
    if rows <= at_once:
        return x @ y
    out = np.empty((*x.shape[:-1], columns), np.float32)
    for first in range(0, rows, at_once):
        part = slice(first, first + at_once)
        np.matmul(x[..., part, :], y, out=out[..., part, :])
    return out


def _tiles(matrix: Floats) -> Floats:
    """Cut (inner, columns) into (tiles, inner, columns of a tile)."""
    inner, columns = matrix.shape
    count = _tile_count(columns, inner)
    return np.ascontiguousarray(matrix.reshape(inner, count, -1).swapaxes(0, 1))


def _tile_count(columns: int, inner: int, columns_each: int = 1) -> int:
    """Return the fewest equal parts of `columns` whose products with BLOCK rows stay within the calling thread."""
    fits = (n for n in range(1, columns + 1) if columns % n == 0 and columns // n * columns_each * inner <= _TILE)
    return next(fits, columns)
