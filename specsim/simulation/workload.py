"""What arrives: arrival processes, token-length distributions, and the requests they make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specsim.errors import InputError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Requests:
    """Requests in arrival order: arrival_s, prompt_tokens, output_tokens, each of shape (n,).

    ``concurrency`` set: closed loop. That many arrive at time 0; each later one arrives when one finishes.
    """

    arrival_s: Floats
    prompt_tokens: Ints
    output_tokens: Ints
    concurrency: int | None = None

    def __post_init__(self) -> None:
        n = len(self.arrival_s)
        if n == 0:
            raise InputError("no requests", field="requests")
        if len(self.prompt_tokens) != n or len(self.output_tokens) != n:
            raise InputError("arrivals, prompts and outputs differ in number", field="requests")
        if not np.isfinite(self.arrival_s).all() or bool((np.diff(self.arrival_s) < 0).any()):
            raise InputError("arrival times must be finite and sorted", field="requests.arrival_s")
        for name, tokens in (("prompt_tokens", self.prompt_tokens), ("output_tokens", self.output_tokens)):
            if int(tokens.min()) < 1:
                row = int(tokens.argmin())
                raise InputError(f"request {row} has {int(tokens[row])} tokens; at least 1 needed", field=name)

    def __len__(self) -> int:
        return len(self.arrival_s)


@dataclass(frozen=True)
class Fixed:
    """Always ``tokens``."""

    tokens: int

    @property
    def mean(self) -> float:
        """Mean, in tokens."""
        return float(self.tokens)

    def sample(self, n: int, rng: np.random.Generator) -> Ints:  # noqa: ARG002 - one interface for all
        """``n`` lengths, at least 1."""
        return np.full(n, max(1, self.tokens), dtype=np.int64)


@dataclass(frozen=True)
class Lognormal:
    """Lognormal with the given mean and coefficient of variation, rounded to whole tokens, at least 1."""

    mean_tokens: float
    cv: float

    def __post_init__(self) -> None:
        if not (self.mean_tokens >= 1 and self.cv >= 0 and np.isfinite(self.mean_tokens + self.cv)):
            raise InputError(
                f"lognormal needs mean >= 1 and cv >= 0, got mean {self.mean_tokens}, cv {self.cv}", field="lognormal"
            )

    def _law(self) -> tuple[float, float]:
        variance = np.log1p(self.cv**2)
        return float(np.log(self.mean_tokens) - variance / 2), float(np.sqrt(variance))

    @property
    def mean(self) -> float:
        """Mean after rounding: 1 + sum over m >= 1 of P(X > m + 1/2)."""
        mu, sigma = self._law()
        if sigma == 0:
            return float(max(1, round(self.mean_tokens)))
        from scipy.special import ndtr

        top = int(np.exp(mu + 8 * sigma)) + 2
        if top > 10_000_000:
            return self.mean_tokens
        edges = np.arange(1, top) + 0.5
        return float(1.0 + ndtr((mu - np.log(edges)) / sigma).sum())

    def sample(self, n: int, rng: np.random.Generator) -> Ints:
        """``n`` lengths, at least 1."""
        mu, sigma = self._law()
        return np.maximum(1, np.rint(np.exp(mu + sigma * rng.standard_normal(n)))).astype(np.int64)


@dataclass(frozen=True)
class Empirical:
    """A law given by its quantiles at the levels ``levels`` (linear between them), or by bare values.

    With ``levels`` None, ``values`` are observations, each as likely as the other.
    """

    values: tuple[float, ...]
    levels: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        v = np.asarray(self.values, dtype=np.float64)
        if v.size == 0 or not np.isfinite(v).all() or bool((v < 1).any()):
            raise InputError("values must be finite and at least 1 token", field="empirical")
        if self.levels is not None:
            q = np.asarray(self.levels, dtype=np.float64)
            rising = len(q) == len(v) >= 2 and bool((np.diff(q) > 0).all()) and bool((np.diff(v) >= 0).all())
            if not rising or q[0] != 0.0 or q[-1] != 1.0:
                raise InputError(
                    "levels must rise from 0 to 1, one for each value, and values must not fall", field="empirical"
                )

    def _integers(self) -> tuple[Floats, Floats]:
        """Whole-token values and their probabilities, after rounding half up."""
        v = np.asarray(self.values, dtype=np.float64)
        if self.levels is None:
            whole, counts = np.unique(np.floor(v + 0.5), return_counts=True)
            return whole, counts / counts.sum()
        whole = np.arange(np.floor(v[0] + 0.5), np.floor(v[-1] + 0.5) + 1)
        q = np.asarray(self.levels, dtype=np.float64)
        # A flat stretch of quantiles is an atom; nudging equal values apart keeps interpolation defined.
        rising = v + np.arange(len(v)) * 1e-9
        upper = np.interp(whole + 0.5, rising, q, right=1.0)
        lower = np.interp(whole - 0.5, rising, q, left=0.0)
        return whole, upper - lower

    @property
    def mean(self) -> float:
        """Mean of the rounded law, in tokens."""
        whole, share = self._integers()
        return float((whole * share).sum() / share.sum())

    def sample(self, n: int, rng: np.random.Generator) -> Ints:
        """``n`` lengths, at least 1."""
        u = rng.random(n)
        v = np.asarray(self.values, dtype=np.float64)
        if self.levels is None:
            drawn = v[np.minimum((u * len(v)).astype(np.int64), len(v) - 1)]
        else:
            drawn = np.interp(u, np.asarray(self.levels, dtype=np.float64), v)
        return np.maximum(1, np.floor(drawn + 0.5)).astype(np.int64)


Distribution = Fixed | Lognormal | Empirical


@dataclass(frozen=True)
class Poisson:
    """Open loop: exponential gaps."""

    rate_per_s: float

    def __post_init__(self) -> None:
        _positive(self.rate_per_s, "rate_per_s")

    def unit_gaps(self, n: int, rng: np.random.Generator) -> Floats:
        """Gaps at rate 1, so that another rate only stretches time (common random numbers)."""
        return rng.standard_exponential(n)


@dataclass(frozen=True)
class Gamma:
    """Open loop: gamma gaps. ``burstiness`` is the shape, as in vLLM's benchmark: 1 is Poisson, below 1 burstier."""

    rate_per_s: float
    burstiness: float

    def __post_init__(self) -> None:
        _positive(self.rate_per_s, "rate_per_s")
        _positive(self.burstiness, "burstiness")

    def unit_gaps(self, n: int, rng: np.random.Generator) -> Floats:
        """Gaps at rate 1."""
        return rng.standard_gamma(self.burstiness, n) / self.burstiness


@dataclass(frozen=True)
class ClosedLoop:
    """``concurrency`` users, each sending the next request the moment the previous one finishes."""

    concurrency: int

    def __post_init__(self) -> None:
        if self.concurrency < 1:
            raise InputError(f"concurrency must be at least 1, got {self.concurrency}", field="concurrency")


@dataclass(frozen=True)
class Trace:
    """Recorded requests, replayed from time 0 (or stretched to ``rate_per_s``).

    A sample longer than the trace repeats it, one mean gap after its end.
    """

    arrival_s: Sequence[float]
    prompt_tokens: Sequence[int]
    output_tokens: Sequence[int]
    rate_per_s: float | None = None

    def requests(self) -> Requests:
        """The recorded requests, first arrival at 0."""
        at = np.asarray(self.arrival_s, dtype=np.float64)
        made = Requests(
            at, np.asarray(self.prompt_tokens, dtype=np.int64), np.asarray(self.output_tokens, dtype=np.int64)
        )
        return Requests(made.arrival_s - made.arrival_s[0], made.prompt_tokens, made.output_tokens)


Arrivals = Poisson | Gamma | ClosedLoop | Trace


@dataclass(frozen=True)
class Workload:
    """An arrival process with its token lengths. A trace brings its own unless distributions replace them."""

    arrivals: Arrivals
    prompt_tokens: Distribution | None = None
    output_tokens: Distribution | None = None

    @property
    def users(self) -> int | None:
        """Of a closed loop; None where requests arrive by themselves."""
        return self.arrivals.concurrency if isinstance(self.arrivals, ClosedLoop) else None

    def __post_init__(self) -> None:
        if not isinstance(self.arrivals, Trace):
            for name in ("prompt_tokens", "output_tokens"):
                if getattr(self, name) is None:
                    raise InputError("a distribution is needed unless a trace is replayed", field=f"workload.{name}")

    @property
    def mean_prompt_tokens(self) -> float:
        """Mean prompt length of the law (a trace: of its rows), in tokens."""
        return _mean(self.prompt_tokens, self.arrivals, "prompt_tokens")

    @property
    def mean_output_tokens(self) -> float:
        """Mean output length of the law (a trace: of its rows), in tokens."""
        return _mean(self.output_tokens, self.arrivals, "output_tokens")

    def sample(self, n: int, rng: np.random.Generator) -> Requests:
        """``n`` requests. Arrivals, prompts and outputs have streams of their own, and gaps are drawn at unit rate:

        the same seed at another rate gives the same lengths at stretched times.
        """
        if n < 1:
            raise InputError(f"at least one request is needed, got {n}", field="requests")
        for_gaps, for_prompts, for_outputs = rng.spawn(3)
        at, prompts, outputs = self._arrivals(n, for_gaps)
        if self.prompt_tokens is not None:
            prompts = self.prompt_tokens.sample(n, for_prompts)
        if self.output_tokens is not None:
            outputs = self.output_tokens.sample(n, for_outputs)
        concurrency = self.arrivals.concurrency if isinstance(self.arrivals, ClosedLoop) else None
        return Requests(at, prompts, outputs, concurrency)

    def _arrivals(self, n: int, rng: np.random.Generator) -> tuple[Floats, Any, Any]:
        if isinstance(self.arrivals, ClosedLoop):
            return np.zeros(n), None, None
        if isinstance(self.arrivals, Trace):
            once = self.arrivals.requests()
            size = len(once)
            span = float(once.arrival_s[-1])
            period = span * size / (size - 1) if size > 1 else 0.0
            copies, rows = np.divmod(np.arange(n), size)
            at = once.arrival_s[rows] + copies * period
            if self.arrivals.rate_per_s is not None:
                if period == 0:
                    raise InputError("a trace whose requests arrive all at once has no rate to scale", field="trace")
                at = at * (size / period / self.arrivals.rate_per_s)
            return at, once.prompt_tokens[rows], once.output_tokens[rows]
        return np.cumsum(self.arrivals.unit_gaps(n, rng)) / self.arrivals.rate_per_s, None, None


def _mean(law: Distribution | None, arrivals: Arrivals, name: str) -> float:
    if law is not None:
        return law.mean
    return float(np.mean(getattr(arrivals, name)))


def _positive(value: float, field: str) -> None:
    if not (np.isfinite(value) and value > 0):
        raise InputError(f"must be above 0, got {value}", field=field)
