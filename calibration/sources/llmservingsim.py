"""Kernel timings measured by LLMServingSim's vLLM profiler, as the cost of an iteration.

Layout of a directory (casys-kaist/LLMServingSim, MIT): ``dense.csv`` (layer, tokens, time_us), ``attention.csv``
(prefill_chunk, kv_prefill, n_decode, kv_decode: cached tokens of each decoding sequence, time_us), ``per_sequence.csv``
(layer, sequences, time_us). One decoder layer was profiled; kernel times only, without launches or gaps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from specsim.cost.shapes import StepTime, Term, Trust
from specsim.errors import InputError
from specsim.simulation.program import Batch, RoundProgram

Floats = NDArray[np.float64]

PER_LAYER = {
    "layernorm": 2,
    "qkv_proj": 1,
    "rotary_emb": 1,
    "o_proj": 1,
    "gate_up_proj": 1,
    "act_fn": 1,
    "down_proj": 1,
}
"""Launches of each dense kernel in one decoder layer of Llama (before attention and before the MLP: two norms)."""

ONCE = ("embedding", "final_layernorm")
SEQUENCES = ("lm_head", "sampler")


def capture_sizes(max_num_seqs: int) -> tuple[int, ...]:
    """Graph sizes that vLLM 0.19 captures by default: 1, 2, 4, by 8 up to 256, by 16 up to min(2 x seqs, 512).

    Equal to ``cudagraph_capture_sizes`` in the measured server's resolved configuration for 256 sequences.
    """
    top = min(2 * max_num_seqs, 512)
    return tuple(size for size in (1, 2, 4, *range(8, 256, 8), *range(256, 513, 16)) if size <= top)


@dataclass(frozen=True)
class KernelCost:
    """Seconds of an iteration of plain decoding with chunked prefill, from measured kernels; terms dense, attention,
    head, sampler, host.

    Interpolation is linear in sequences and cached tokens (an affine law) and a power law in the chunk. Chunks that
    share an iteration: the measured mix of one chunk as long as all of them, corrected by the difference between their
    own attention and that chunk's. Sequences of different length cost as much as equal ones of the same sum.
    host_s: added to every iteration.
    """

    layers: int
    dense_tokens: Floats
    dense_s: Floats
    sequences: Floats
    head_s: Floats
    sampler_s: Floats
    decode_n: Floats
    decode_kv: Floats
    decode_s: Floats
    chunks: Floats
    chunk_past: Floats
    mixed_n: Floats
    mixed_kv: Floats
    mixed_s: Floats
    graph_sizes: Floats
    host_s: float = 0.0

    def __call__(self, batch: Batch) -> StepTime:
        """Price a batch: fields of shape (...), one iteration each; chunks are shared by all of them."""
        n = np.asarray(batch.sequences, dtype=np.float64)
        kv = np.asarray(batch.kv_tokens, dtype=np.float64)
        sizes = [np.asarray(part, dtype=np.float64) for c in batch.prefill for part in (c.tokens, c.past)]
        n, kv, *sizes = np.broadcast_arrays(n, kv, *sizes)
        each = kv / np.maximum(n, 1.0)
        new: Floats = sum(sizes[::2], np.zeros(n.shape))
        tokens = self._padded(n + new)
        ends = float(sum(chunk.last for chunk in batch.prefill))
        heads = n + ends
        terms = {
            "dense": np.interp(tokens, self.dense_tokens, self.dense_s),
            "attention": self.layers * self._attention(n, each, sizes[::2], sizes[1::2]),
            "head": np.where(heads > 0, np.interp(heads, self.sequences, self.head_s), 0.0),
            "sampler": np.where(heads > 0, np.interp(heads, self.sequences, self.sampler_s), 0.0),
            "host": np.full(n.shape, self.host_s),
        }
        trust = np.full(n.shape, Trust.INTERPOLATED, dtype=np.int8)
        return StepTime({name: Term(seconds, f"llmservingsim.{name}", trust) for name, seconds in terms.items()})

    def program(self) -> RoundProgram:
        """Plain decoding (no drafts) as a round program whose whole time is this cost."""
        return RoundProgram("plain decoding, measured kernels", 0, (), self)

    def _padded(self, tokens: Floats) -> Floats:
        if not len(self.graph_sizes):  # a server without captured graphs
            return tokens
        index = np.searchsorted(self.graph_sizes, tokens)
        inside = index < len(self.graph_sizes)
        return np.where(inside, self.graph_sizes[np.minimum(index, len(self.graph_sizes) - 1)], tokens)

    def _attention(self, n: Floats, each: Floats, tokens: Sequence[Floats], past: Sequence[Floats]) -> Floats:
        if not tokens:
            at = _place(self.decode_n, n), _place(self.decode_kv, each)
            return np.where(n > 0, _linear(self.decode_s, at), 0.0)
        if len(tokens) == 1:
            return self._with_chunk(tokens[0], past[0], n, each)
        none = np.zeros(n.shape)
        total: Floats = sum(tokens, none)
        own: Floats = sum((self._with_chunk(c, p, none, none) for c, p in zip(tokens, past, strict=True)), none)
        return self._with_chunk(total, none, n, each) + own - self._with_chunk(total, none, none, none)

    def _with_chunk(self, tokens: Floats, past: Floats, n: Floats, each: Floats) -> Floats:
        low, high, share = _place(np.log(self.chunks), np.log(np.maximum(tokens, self.chunks[0])))
        rest = _place(self.chunk_past, past), _place(self.mixed_n, n), _place(self.mixed_kv, each)
        shorter, longer = (_linear(self.mixed_s, ((i, i, np.zeros(())), *rest)) for i in (low, high))
        return np.asarray(shorter * (longer / shorter) ** share)


def read_kernels(directory: Path, *, layers: int, graph_sizes: Sequence[int], host_s: float = 0.0) -> KernelCost:
    """Read the three tables of a directory such as ``RTX4090/Llama-3.1-8B/kernels/tp1``.

    Raises InputError naming the file where a table or a kernel is missing.
    """
    dense = _table(directory / "dense.csv", ("layer", "tokens", "time_us"))
    by_layer = {name: rows.set_index("tokens")["time_us"].sort_index() for name, rows in dense.groupby("layer")}
    for name in (*PER_LAYER, *ONCE):
        if name not in by_layer:
            raise InputError(f"no timings of {name}", file=str(directory / "dense.csv"), field="layer")
    counted = [layers * count * by_layer[name] for name, count in PER_LAYER.items()]
    total = pd.concat([*counted, *(by_layer[name] for name in ONCE)], axis=1).sum(axis=1, skipna=False)
    heads = _table(directory / "per_sequence.csv", ("layer", "sequences", "time_us"))
    by_head = {name: rows.set_index("sequences")["time_us"].sort_index() for name, rows in heads.groupby("layer")}
    for name in SEQUENCES:
        if name not in by_head:
            raise InputError(f"no timings of {name}", file=str(directory / "per_sequence.csv"), field="layer")
    attention = _table(directory / "attention.csv", ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode", "time_us"))
    pure = attention[(attention.prefill_chunk == 0) & (attention.kv_prefill == 0)]
    decode = pure.set_index(["n_decode", "kv_decode"])["time_us"].unstack()  # noqa: PD010 - one row a cell, checked
    chunks, past, n, kv, mixed = _mixed(attention, str(directory / "attention.csv"))
    return KernelCost(
        layers=layers,
        dense_tokens=np.asarray(total.index, dtype=np.float64),
        dense_s=np.asarray(total, dtype=np.float64) * 1e-6,
        sequences=np.asarray(by_head["lm_head"].index, dtype=np.float64),
        head_s=np.asarray(by_head["lm_head"], dtype=np.float64) * 1e-6,
        sampler_s=np.asarray(by_head["sampler"], dtype=np.float64) * 1e-6,
        decode_n=np.asarray(decode.index, dtype=np.float64),
        decode_kv=np.asarray(decode.columns, dtype=np.float64),
        decode_s=decode.to_numpy(dtype=np.float64) * 1e-6,
        chunks=chunks,
        chunk_past=past,
        mixed_n=n,
        mixed_kv=kv,
        mixed_s=mixed,
        graph_sizes=np.asarray(graph_sizes, dtype=np.float64),
        host_s=host_s,
    )


@dataclass(frozen=True)
class KernelTables:
    """The three tables of a directory as they are, and what ``meta.yaml`` says of them; None where it isn't there."""

    dense: pd.DataFrame
    attention: pd.DataFrame
    per_sequence: pd.DataFrame
    tp: int
    model: str | None
    gpu: str | None
    version: str | None


def kernel_tables(directory: Path) -> KernelTables:
    """The tables of ``directory`` (or of its folder ``tp1``); InputError naming a file that is missing or wrong."""
    folder = directory if (directory / "dense.csv").exists() or not (directory / "tp1").is_dir() else directory / "tp1"
    meta = next((p / "meta.yaml" for p in (folder, folder.parent) if (p / "meta.yaml").is_file()), None)
    told: dict[str, str] = {}
    for line in meta.read_text(encoding="utf-8").splitlines() if meta is not None else ():
        name, colon, value = line.partition(":")
        if colon and value.strip() and not name.startswith((" ", "#")):
            told.setdefault(name, value.strip().strip("'\""))
    digits = folder.name.removeprefix("tp")
    return KernelTables(
        dense=_table(folder / "dense.csv", ("layer", "tokens", "time_us")),
        attention=_table(folder / "attention.csv", ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode", "time_us")),
        per_sequence=_table(folder / "per_sequence.csv", ("layer", "sequences", "time_us")),
        tp=int(digits) if digits.isdigit() else 1,
        model=told.get("model"),
        gpu=told.get("hardware"),
        version=told.get("vllm_version"),
    )


def _mixed(attention: pd.DataFrame, file: str) -> tuple[Floats, Floats, Floats, Floats, Floats]:
    """The grid of chunk x past x decodes x cache that is complete: axis values that double (0 included)."""
    rows = attention[(attention.prefill_chunk > 0) & (attention.n_decode < 256)]
    axes = []
    for name, first in (("prefill_chunk", 16), ("kv_prefill", 16), ("n_decode", 1), ("kv_decode", 16)):
        seen = set(rows[name].tolist())
        doubling = [first * 2**i for i in range(12) if first * 2**i in seen]
        axes.append(np.array(doubling if name == "prefill_chunk" else [0, *doubling], dtype=np.float64))
    table = np.full([len(axis) for axis in axes], np.nan)
    at = [pd.Index(axis).get_indexer(pd.Index(rows[name])) for axis, name in zip(axes, rows.columns, strict=False)]
    on_grid = np.all([index >= 0 for index in at], axis=0)
    table[tuple(index[on_grid] for index in at)] = rows["time_us"].to_numpy()[on_grid] * 1e-6
    # Without decodes their cache doesn't matter, and a decode without cache costs as one over the shortest measured.
    table[:, :, 0, :] = table[:, :, 0, :1]
    table[:, :, 1:, 0] = table[:, :, 1:, 1]
    if np.isnan(table).any():
        raise InputError(f"{int(np.isnan(table).sum())} points of the attention grid are missing", file=file)
    return axes[0], axes[1], axes[2], axes[3], table


def _table(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    try:
        table = pd.read_csv(path)
    except FileNotFoundError:
        raise InputError("not found; a kernel table is expected here", file=str(path)) from None
    except (OSError, ValueError) as error:
        raise InputError(f"is not a readable CSV table ({error})", file=str(path)) from None
    for name in columns:
        if name not in table.columns:
            raise InputError(f"no such column; it has {', '.join(map(str, table.columns))}", file=str(path), field=name)
    table["time_us"] = pd.to_numeric(table["time_us"], errors="coerce")
    if not (np.isfinite(table["time_us"]).all() and (table["time_us"] > 0).all()):
        raise InputError("times must be above 0", file=str(path), field="time_us")
    return table


Place = tuple[NDArray[np.int64], NDArray[np.int64], Floats]


def _place(axis: Floats, value: ArrayLike) -> Place:
    """Neighbours on an axis and the share of the upper one; beyond the end the last two carry on in a line."""
    x = np.maximum(np.asarray(value, dtype=np.float64), axis[0])
    high = np.clip(np.searchsorted(axis, x), 1, len(axis) - 1)
    low = high - 1
    return low, high, (x - axis[low]) / (axis[high] - axis[low])


def _linear(table: Floats, at: Sequence[Place]) -> Floats:
    """Multilinear interpolation of the last ``len(at)`` axes."""
    if not at:
        return table
    total: Floats = np.zeros(())
    for corner in range(2 ** len(at)):
        index, weight = [], np.ones(())
        for axis, (low, high, share) in enumerate(at):
            upper = corner >> axis & 1
            index.append(high if upper else low)
            weight = weight * (share if upper else 1.0 - share)
        total = total + weight * table[tuple(index)]
    return total
