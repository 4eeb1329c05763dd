"""Drafters as shapes: what one drafting pass executes, and what a drafter keeps in memory."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from specsim.cost.hf_config import read_json, shape_from_config
from specsim.cost.model import load_model
from specsim.cost.model_shape import ModelShape, cache_bytes, padded_vocab, weight_bytes
from specsim.cost.shapes import ForwardShape, Linear
from specsim.errors import InputError

Method = Literal["draft_model", "eagle", "eagle3", "mtp", "medusa", "ngram", "none"]
METHODS: tuple[Method, ...] = ("draft_model", "eagle", "eagle3", "mtp", "medusa", "ngram", "none")

SEQUENTIAL: tuple[Method, ...] = ("draft_model", "eagle", "eagle3", "mtp")
"""Methods that run a pass for each drafted token."""

CHAINS: tuple[Method, ...] = (*SEQUENTIAL, "medusa", "ngram")
"""Methods that draft at all."""

HEAD_VOCAB = 32000
"""Rows of an EAGLE-3 head's own LM head where no configuration says so: every published head of drafters.json."""

VOCAB_SLACK = 0.01
"""Difference of vocabularies of one tokenizer: families pad theirs differently (Qwen2.5: 151,936 and 152,064)."""


@dataclass(frozen=True)
class Drafter:
    """How tokens are drafted for a target, as shapes.

    ``model`` is the drafting model: a model of its own (draft_model) or the decoder layers of a head. ``draft_vocab``
    is how many rows its LM head has. ``proposal_rate`` is the share of rounds in which it proposes anything: 1 for
    models and heads; n-gram lookup proposes only where the context matches.
    """

    method: Method
    name: str
    target: ModelShape
    model: ModelShape | None = None
    draft_vocab: int = 0
    proposal_rate: float = 1.0

    @property
    def on_gpu(self) -> bool:
        """Whether drafting runs passes on the GPU."""
        return self.method not in ("ngram", "none")

    def weight_dtype(self, target_dtype: str) -> str:
        """Precision of its weights beside a target's: heads are published in 16 bits and stay so; models follow."""
        follows = self.method in ("draft_model", "mtp") or target_dtype == "fp32"
        return target_dtype if follows else "bf16"

    @property
    def sequential(self) -> bool:
        """Whether K tokens take K passes (heads that guess side by side take one)."""
        return self.method in SEQUENTIAL

    def first_pass(
        self, k: int, *, tensor_parallel: int = 1, dtype: str = "bf16", kv_dtype: str = "bf16"
    ) -> ForwardShape:
        """The pass over the target's tokens of the step; EAGLE-3 fuses three hidden states of each beforehand."""
        shape = self.next_pass(k, tensor_parallel=tensor_parallel, dtype=dtype, kv_dtype=kv_dtype)
        if self.method != "eagle3":
            return shape
        fuse = Linear("fuse", self._model.hidden, 3 * self.target.hidden)  # vLLM replicates it on every rank
        return replace(shape, linears=(fuse, *shape.linears), elementwise_kernels=shape.elementwise_kernels + 1)

    def next_pass(
        self, k: int, *, tensor_parallel: int = 1, dtype: str = "bf16", kv_dtype: str = "bf16"
    ) -> ForwardShape:
        """A pass that drafts one more token a sequence (Medusa: all ``k`` at once).

        EAGLE-1 and MTP join embedding and hidden state by a product 2h -> h and use the target's LM head; EAGLE-3's
        layer takes both side by side (query, key and value products from 2h) and has an LM head of its own.
        """
        if not self.on_gpu:
            raise InputError(f"{self.method} has no drafting pass", field="drafter.method")
        if self.method == "medusa":
            return self._medusa(k, tensor_parallel, dtype, kv_dtype)
        shape = self._model.forward(tensor_parallel=tensor_parallel, dtype=dtype, kv_dtype=kv_dtype)
        if self.method == "draft_model":
            return shape
        hidden = self._model.hidden
        linears = []
        for item in shape.linears:
            if item.name == "lm_head":
                linears.append(replace(item, n=padded_vocab(self.draft_vocab) // tensor_parallel))
            elif item.name == "qkv_proj" and self.method == "eagle3":
                linears.append(replace(item, k=2 * hidden))
            else:
                linears.append(item)
        if self.method in ("eagle", "mtp"):
            linears.insert(0, Linear("join", hidden, hidden + self.target.hidden))
        join_bytes = 2.0 * 4 * hidden  # both halves written side by side, and read again
        return replace(
            shape,
            name=self.name,
            linears=tuple(linears),
            elementwise_bytes_per_token=shape.elementwise_bytes_per_token + join_bytes,
            elementwise_kernels=shape.elementwise_kernels + 1,
            weight_bytes=self.weight_bytes(k, tensor_parallel=tensor_parallel, dtype=dtype),
            kv_bytes_per_token=self.kv_bytes_per_token(tensor_parallel=tensor_parallel, kv_dtype=kv_dtype),
        )

    def weight_bytes(self, k: int, *, tensor_parallel: int = 1, dtype: str = "bf16") -> float:
        """Bytes that drafting adds to the weights on one rank; what a head shares with its target is not counted."""
        tp, h = tensor_parallel, self.target.hidden
        if not self.on_gpu:
            return 0.0
        if self.method == "medusa":
            return 2.0 * k * (h * h + h * padded_vocab(self.draft_vocab) / tp)
        model = self._model
        if self.method == "draft_model":
            return model.weight_bytes(tensor_parallel=tp, dtype=dtype)
        shared = 2.0 * padded_vocab(model.vocab) / tp * model.hidden * (1 if model.tied_embeddings else 2)
        layers = model.weight_bytes(tensor_parallel=tp, dtype=dtype) - shared
        size = weight_bytes(dtype)
        if self.method == "eagle3":
            widened = (model.heads // tp + 2 * model.kv_heads_per_rank(tp)) * model.head_dim * model.hidden * size
            own_head = 2.0 * padded_vocab(self.draft_vocab) / tp * model.hidden
            return layers + widened + 3.0 * h * model.hidden * size + own_head
        return layers + (model.hidden + h) * model.hidden * size

    def kv_bytes_per_token(self, *, tensor_parallel: int = 1, kv_dtype: str = "bf16") -> float:
        """Bytes of cache that drafting adds for each token on one rank."""
        cache_bytes(kv_dtype)
        if self.model is None:
            return 0.0
        return self.model.kv_bytes_per_token(tensor_parallel=tensor_parallel, kv_dtype=kv_dtype)

    @property
    def _model(self) -> ModelShape:
        if self.model is None:
            raise InputError(f"{self.method} has no model", field="drafter.model")
        return self.model

    def _medusa(self, k: int, tp: int, dtype: str, kv_dtype: str) -> ForwardShape:
        h = self.target.hidden
        return ForwardShape(
            name=self.name,
            layers=0,
            hidden=h,
            vocab=self.draft_vocab,
            linears=(
                Linear("residual_block", h, h, k),
                Linear("lm_head", padded_vocab(self.draft_vocab) // tp, h, k, rows="logits", dtype="bf16"),
            ),
            attention=(),
            tensor_parallel=tp,
            elementwise_bytes_per_token=k * 2.0 * 3 * h,
            elementwise_kernels=k,
            weight_bytes=self.weight_bytes(k, tensor_parallel=tp, dtype=dtype),
            weight_dtype=dtype,
            kv_dtype=kv_dtype,
        )


def load_drafter(
    method: str, *, target: ModelShape, model: str | Path | None = None, proposal_rate: float = 1.0
) -> Drafter:
    """The drafter of a method for ``target``.

    model: a shipped model (draft_model), or a head's published name or config.json. Without one, a head that is
    published for the target is taken, else a layer of the target's own kind (dense targets; MTP for any).
    Raises InputError for an unknown method, a head that doesn't fit the target, and where a model is missing.
    """
    if method not in METHODS:
        raise InputError(
            f"{method!r} is not a drafting method; choose one of {', '.join(METHODS)}", field="drafter.method"
        )
    if not 0.0 < proposal_rate <= 1.0:
        raise InputError(
            f"{proposal_rate} is not a share of rounds; give more than 0 and at most 1", field="drafter.proposal_rate"
        )
    if method in ("ngram", "none", "medusa"):
        if model is not None:
            raise InputError(f"{method} drafts without a model; remove {model!r}", field="drafter.model")
        vocab = target.vocab if method == "medusa" else 0
        return Drafter(_method(method), method, target, draft_vocab=vocab, proposal_rate=proposal_rate)
    if method == "draft_model":
        if model is None:
            raise InputError("missing; a draft model is a shipped name or a config.json", field="drafter.model")
        shape = load_model(model)
        if abs(shape.vocab - target.vocab) > VOCAB_SLACK * target.vocab:
            raise InputError(
                f"{shape.name} has a vocabulary of {shape.vocab}, {target.name} one of {target.vocab}; "
                "a draft model shares its target's tokenizer",
                field="drafter.model",
            )
        return Drafter("draft_model", shape.name, target, shape, shape.vocab)
    if model is not None:
        return _configured(_method(method), str(model), target)
    published = _published_for(method, target.name)
    return _configured(_method(method), published, target) if published else _like_target(_method(method), target)


def lookup_proposal_rate(survival: ArrayLike) -> float:
    """Share of rounds in which a lookup proposes anything, from a survival curve that counts the rounds without.

    P(first token survives) over P(second survives, given the first): exact if a proposal's first token is as likely
    right as its second, which evidence by position cannot tell. 1 where the curve has one position, or where it counts
    rounds with a proposal alone (vLLM's metrics do), since then the two are of one size.
    """
    curve = np.atleast_1d(np.asarray(survival, dtype=np.float64))
    if curve.size < 2 or curve[1] <= 0.0:
        return 1.0
    return float(min(1.0, curve[0] ** 2 / curve[1]))


def _method(method: str) -> Method:
    return METHODS[METHODS.index(method)]


def _configured(method: Method, model: str, target: ModelShape) -> Drafter:
    entry = _heads(method).get(model)
    config = entry["config"] if entry else read_json(Path(model)) if _is_path(model) else None
    if config is None:
        known = ", ".join(_heads(method)) or "none"
        raise InputError(f"no {method} head {model!r} ships ({known}); give its config.json", field="drafter.model")
    shape = shape_from_config(
        config, name=model, file=None if entry else model, source=entry["source"] if entry else model
    )
    if method != "eagle3" and shape.hidden != target.hidden:
        raise InputError(f"hidden size {shape.hidden}, and {target.name} has {target.hidden}", field="drafter.model")
    if shape.vocab != target.vocab:
        raise InputError(f"vocabulary {shape.vocab}, and {target.name} has {target.vocab}", field="drafter.model")
    own = config.get("draft_vocab_size") or shape.vocab
    return Drafter(method, model, target, shape, int(own) if method == "eagle3" else target.vocab)


def _like_target(method: Method, target: ModelShape) -> Drafter:
    if target.experts and method != "mtp":
        raise InputError(
            f"no {method} head ships for {target.name}, and a mixture of experts does not say how wide one is; "
            "give its config.json",
            field="drafter.model",
        )
    layer = replace(
        target,
        name=f"one layer of {target.name}",
        layers=1,
        dense_layers=0 if target.experts else None,
        windowed_layers=0,
        window=None,
    )
    vocab = min(HEAD_VOCAB, target.vocab) if method == "eagle3" else target.vocab
    return Drafter(method, f"{method} head like a layer of {target.name}", target, layer, vocab)


def _published_for(method: str, target: str) -> str | None:
    return next((name for name, entry in _heads(method).items() if target in entry["targets"]), None)


def _heads(method: str) -> dict[str, dict[str, Any]]:
    heads: dict[str, dict[str, Any]] = _catalogue().get(method, {})
    return heads


def _is_path(model: str) -> bool:
    return model.endswith(".json") or Path(model).is_dir()


@cache
def _catalogue() -> dict[str, Any]:
    text = resources.files("specsim.cost").joinpath("drafters.json").read_text(encoding="utf-8")
    tables: dict[str, Any] = json.loads(text)
    return tables
