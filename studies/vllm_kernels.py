"""vLLM's two rejection samplers as samplers of the oracle: their files from the wheel, on the CPU, without vLLM.

The files are loaded by path under their own names. Of the modules that they import, the few that verification runs
through are loaded too; everything else of vLLM is a module of placeholders, and whatever touches one fails. Replaced by
code of ours: the launcher that warms kernels up, libdevice's log1p and, while coins are injected, the random numbers.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from specsim.errors import InputError
from specsim.verification.batched import Emitted, Floats, Ints, inverse_cdf
from specsim.verification.engines.interpreter import interpreted_triton
from specsim.verification.engines.published import Published, one_line, published, required

TESTED = "0.33.0"
V1 = "vllm.v1.sample.rejection_sampler"
V2 = "vllm.v1.worker.gpu.spec_decode.rejection_sampler_utils"
GUMBEL = "vllm.v1.worker.gpu.sample.gumbel"
FLY = "vllm.v1.spec_decode.fly"

_FAR, _NEAR = 16.0, 2.0**-20
"""Race noise that loses and that wins: vLLM's float32 noise can't exceed about 16.6."""

_BISECTIONS = 30


class _Placeholder:
    """A name that loading needs and running doesn't."""

    def __init__(self, *_: Any, **__: Any) -> None:
        raise RuntimeError(f"{type(self).__module__}.{type(self).__name__} is a placeholder")


class _Stubs(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds every module under ``vllm``: the real file for ``real``, placeholders for the others."""

    def __init__(self, package: Published, real: Sequence[str], given: dict[str, dict[str, Any]]) -> None:
        self._package, self._real, self._given = package, real, given

    def find_spec(self, name: str, *_: Any) -> importlib.machinery.ModuleSpec | None:
        if name.partition(".")[0] != "vllm":
            return None
        if name in self._real:
            return importlib.util.spec_from_file_location(name, self._package.file(_member(name)))
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        module = ModuleType(spec.name)
        vars(module).update(self._given.get(spec.name, {}))
        vars(module)["__getattr__"] = lambda name: _absent(spec.name, name)
        return module

    def exec_module(self, module: ModuleType) -> None:
        pass


def _absent(module: str, name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    return type(name, (_Placeholder,), {"__module__": module})


def _member(name: str) -> str:
    return name.replace(".", "/") + ".py"


def vllm_modules(path: Path | str | None) -> tuple[Published, dict[str, Any]]:
    """The verification modules of a vLLM wheel that was unpacked into ``path``, by name. Raises InputError."""
    package = published("vllm", path, TESTED)
    for name in (V1, V2, GUMBEL, FLY):
        package.file(_member(name))
    if "vllm" in sys.modules:
        raise InputError("is imported already: use a process of its own", field="vllm")
    required("torch", "pip install torch")
    triton = interpreted_triton()
    given = {
        "vllm.triton_utils": {"triton": triton, "tl": triton.language, "tldevice": SimpleNamespace(log1p=_log1p)},
        "vllm.model_executor.warmup.jit_warmup_triton_helper": {"triton_kernel_dispatcher_with_warmup": _launcher},
        "vllm.logger": {"init_logger": lambda _: None},
    }
    finder = _Stubs(package, (V1, V2, GUMBEL, FLY), given)
    sys.meta_path.insert(0, finder)
    try:
        return package, {name: importlib.import_module(name) for name in (FLY, GUMBEL, V1, V2)}
    except Exception as error:  # whatever another version's files raise
        raise InputError(
            f"vllm {package.version} can't be loaded by path: {one_line(error)}", file=str(package.root)
        ) from None
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name in sys.modules if name.partition(".")[0] == "vllm"]:
            del sys.modules[name]


def _log1p(x: Any) -> Any:
    """log(1 + x) to float32's precision near 0, by Kahan's correction."""
    import triton.language as tl

    one = 1.0 + x
    return tl.where(one == 1.0, x, tl.log(one) * x / tl.where(one == 1.0, 1.0, one - 1.0))


def _launcher(*, kernel: Any, warmup_inputs: Any) -> Callable[[Any], Any]:  # noqa: ARG001 - vLLM's signature
    """Launch at once what the dispatching function decides, arguments matched by name (``x`` or ``x_ptr``)."""

    def decorate(dispatch: Callable[..., Any]) -> Callable[..., None]:
        signature = inspect.signature(dispatch)

        def launch(*arguments: Any, **options: Any) -> None:
            bound = signature.bind(*arguments, **options)
            bound.apply_defaults()
            grid, constants = dispatch(*arguments, **options)[:2]
            known = {name.removesuffix("_ptr"): name for name in kernel.arg_names}
            handed = {known[name]: value for name, value in bound.arguments.items() if name in known}
            kernel[grid](**{**handed, **constants})

        return launch

    return decorate


@dataclass
class Race:
    """A verifier that accepts on uniforms and draws its last token by a race: token v wins with the largest w_v / e_v.

    ``run(target, draft or None, drafts, uniforms [B, G], noise [B, V]) -> (tokens, counts)`` runs it on given
    uniforms and exponential noise, ``own(target, draft, drafts, rng)`` on its own random numbers. ``inject`` has its
    acceptance from the given uniforms; its last token from the weights w, which are found by bisecting the noise at
    which each token overtakes the likeliest one: under independent exponential noise the winner's law is w / sum w.
    """

    run: Callable[..., Emitted]
    own: Callable[..., Emitted]
    _rows: dict[bytes, tuple[Ints, int]] = field(default_factory=dict)
    _weights: dict[bytes, Floats] = field(default_factory=dict)

    def __call__(
        self, target_probs: Floats, draft_probs: Floats | None, draft_tokens: Ints, rng: np.random.Generator
    ) -> Emitted:
        return self.own(target_probs, draft_probs, draft_tokens, rng)

    def inject(
        self, target_probs: Floats, draft_probs: Floats | None, draft_tokens: Ints, uniforms: Floats, final: Floats
    ) -> Emitted:
        inputs = (target_probs, draft_probs, draft_tokens, uniforms)
        keys = _keys(*inputs)
        new = _first(keys, self._rows)
        if new:
            picked = tuple(None if part is None else part[new] for part in inputs)
            tokens, counts = self.run(*picked, np.ones((len(new), target_probs.shape[2])))
            self._rows.update({keys[row]: (tokens[i], int(counts[i])) for i, row in enumerate(new)})
        tokens = np.stack([self._rows[key][0] for key in keys])
        counts = np.array([self._rows[key][1] for key in keys])
        weights = self._races(inputs, counts)
        tokens[np.arange(len(keys)), counts - 1] = inverse_cdf(weights, final)
        return tokens, counts

    def _races(self, inputs: tuple[Any, ...], counts: Ints) -> Floats:
        """Weights of every row's last race, [B, V]; one row of each kind is bisected."""
        keys = [key + bytes([count]) for key, count in zip(_keys(*inputs[:3]), counts.tolist(), strict=True)]
        new = _first(keys, self._weights)
        if new:
            picked = tuple(None if part is None else part[new] for part in inputs)
            for row, weights in zip(new, self._bisected(picked, counts[new]), strict=True):
                self._weights[keys[row]] = weights
        return np.stack([self._weights[key] for key in keys])

    def _bisected(self, inputs: tuple[Any, ...], counts: Ints) -> Floats:
        rows, _, vocab = inputs[0].shape
        at = np.arange(rows)

        def winner(noise: Floats) -> Ints:
            tokens, found = self.run(*inputs, noise)
            assert np.array_equal(found, counts)  # noise has no say in what is accepted
            return tokens[at, counts - 1]

        top = winner(np.full((rows, vocab), _NEAR))
        weights = np.zeros((rows, vocab))
        weights[at, top] = 1.0
        for step in range(1, vocab):
            token = (top + step) % vocab
            low, high = np.zeros(rows), np.full(rows, 1.0 + 2.0**-20)
            for _ in range(_BISECTIONS):
                middle = (low + high) / 2
                noise = np.full((rows, vocab), _FAR)
                noise[at, top], noise[at, token] = _NEAR, middle * _NEAR
                wins = winner(noise) == token
                low, high = np.where(wins, middle, low), np.where(wins, high, middle)
            weights[at, token] = np.where(low > 0, (low + high) / 2, 0.0)
        return weights / weights.sum(axis=1, keepdims=True)


def _keys(*parts: np.ndarray | None) -> list[bytes]:
    rows = next(len(part) for part in parts if part is not None)
    return [b"".join(part[row].tobytes() for part in parts if part is not None) for row in range(rows)]


def _first(keys: list[bytes], known: dict[bytes, Any]) -> list[int]:
    """The first row of every key that isn't known."""
    return [row for key, row in {key: row for row, key in reversed(list(enumerate(keys)))}.items() if key not in known]


def vllm_v1(module: Any) -> Race:
    """``rejection_sample`` of the v1 sampler. Its bonus token is an argument, which the caller's sampler draws."""
    import torch

    def verify(p: Floats, q: Floats | None, drafts: Ints, bonus: Ints) -> Emitted:
        rows, width, vocab = p.shape
        gamma = width - 1
        with np.errstate(divide="ignore"):
            logits = torch.from_numpy(np.log(p[:, :gamma])).float().reshape(-1, vocab)
        out = module.rejection_sample(
            torch.from_numpy(drafts.reshape(-1)).int(),
            [gamma] * rows,
            gamma,
            (gamma * torch.arange(1, rows + 1)).int(),
            None if q is None else torch.from_numpy(q.reshape(-1, vocab)).float(),
            logits,
            torch.from_numpy(bonus).reshape(rows, 1),
            SimpleNamespace(all_greedy=False, all_random=True, temperature=torch.ones(rows), generators={}),
        )
        tokens = out.numpy().astype(np.int64)
        return tokens, (tokens >= 0).sum(axis=1)

    def run(p: Floats, q: Floats | None, drafts: Ints, uniforms: Floats, noise: Floats) -> Emitted:
        with (
            _replaced(module, "generate_uniform_probs", lambda *_: torch.from_numpy(uniforms.reshape(-1))),
            _replaced(torch.Tensor, "exponential_", lambda tensor, **_: tensor.copy_(torch.from_numpy(noise))),
        ):
            return verify(p, q, drafts, np.argmax(p[:, -1] / noise, axis=1))

    def own(p: Floats, q: Floats | None, drafts: Ints, rng: np.random.Generator) -> Emitted:
        torch.manual_seed(int(rng.integers(2**62)))
        return verify(p, q, drafts, inverse_cdf(p[:, -1], rng.random(len(p))))

    return Race(run, own)


_PAD = 8
"""Where the noise starts in a row's table, after its uniforms."""


def vllm_v2(modules: dict[str, Any], *, block: bool) -> Race:
    """``rejection_sample`` of the v2 runner. Its random numbers are hashed from seed and position inside the kernels.

    While coins are injected a row's seed is the address of its table of float32 numbers, and the hashes read it.
    """
    import torch
    import triton.language as tl

    utils, gumbel = modules[V2], modules[GUMBEL]

    def verify(p: Floats, q: Floats | None, drafts: Ints, seeds: Any) -> Emitted:
        rows, width, vocab = p.shape
        with np.errstate(divide="ignore"):
            target = torch.from_numpy(np.log(p)).float().reshape(-1, vocab)
            draft = None if q is None else torch.from_numpy(np.log(q)).float()
        row = torch.arange(rows, dtype=torch.int32)
        place = torch.arange(width, dtype=torch.int32).repeat(rows)
        tokens, counts = utils.rejection_sample(
            target,
            draft,
            torch.from_numpy(np.pad(drafts, ((0, 0), (1, 0))).reshape(-1)),
            (width * torch.arange(rows + 1)).int(),
            place.long(),
            row,
            row.repeat_interleave(width),
            place,
            torch.ones(rows),
            seeds,
            width - 1,
            use_block_verification=block,
        )
        found = counts.numpy().astype(np.int64)
        return np.where(np.arange(width) < found[:, None], tokens.numpy(), -1), found

    def uniform(seed: Any, position: Any, includes_zero: bool) -> Any:  # noqa: FBT001
        u = tl.load(tl.cast(seed, tl.pointer_type(tl.float32)) + position)
        return u if includes_zero else tl.maximum(u, gumbel._TL_RAND_MIN)

    def noisy(seed: Any, _: Any, keys: Any) -> Any:
        return tl.load(tl.cast(seed, tl.pointer_type(tl.float32)) + _PAD + keys)

    def run(p: Floats, q: Floats | None, drafts: Ints, uniforms: Floats, noise: Floats) -> Emitted:
        table = torch.zeros(len(p), _PAD + 1024)
        table[:, : drafts.shape[1]] = torch.from_numpy(uniforms)
        table[:, _PAD : _PAD + p.shape[2]] = torch.from_numpy(-np.expm1(-noise))
        seeds = table.data_ptr() + table.stride(0) * table.element_size() * torch.arange(len(p))
        with (
            _replaced(utils, "tl_rand32", uniform),
            _replaced(utils, "spec_step_seed", lambda seed, _: seed),
            _replaced(gumbel, "murmur3_uniform32", noisy),
        ):
            return verify(p, q, drafts, seeds)

    def own(p: Floats, q: Floats | None, drafts: Ints, rng: np.random.Generator) -> Emitted:
        return verify(p, q, drafts, torch.from_numpy(rng.integers(2**62, size=len(p))))

    return Race(run, own)


@contextmanager
def _replaced(owner: Any, name: str, by: Any) -> Iterator[None]:
    kept = getattr(owner, name)
    setattr(owner, name, by)
    try:
        yield
    finally:
        setattr(owner, name, kept)
