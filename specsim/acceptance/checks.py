"""Range checks of acceptance figures, each naming the field, the value and the remedy."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from specsim.errors import InputError

Floats = NDArray[np.float64]

ROUNDING = 1e-9
"""How far figures may rise above their bound before it is a mistake rather than rounding."""


def checked_rates(values: ArrayLike, *, field: str, file: str | None = None) -> Floats:
    """Values as floats, all finite and within [0, 1]."""
    rates = _floats(values, field=field, file=file)
    for index in np.argwhere(~np.isfinite(rates) | (rates < 0) | (rates > 1))[:1]:
        value = float(rates[tuple(index)])
        hint = "; a percentage is divided by 100 first" if 1 < value <= 100 else ""
        raise InputError(
            f"{_at(index)}{value:g} is not a probability; give values in 0..1{hint}", file=file, field=field
        )
    return rates


def checked_survival(values: ArrayLike, *, field: str, file: str | None = None) -> Floats:
    """Values as floats within [0, 1] that never increase along the last axis."""
    survival = np.atleast_1d(checked_rates(values, field=field, file=file))
    rises = np.argwhere(np.diff(survival, axis=-1) > ROUNDING)
    if rises.size:
        index = tuple(int(i) for i in rises[0])
        a, b = float(survival[index]), float(survival[(*index[:-1], index[-1] + 1)])
        raise InputError(
            f"rises from {a:g} to {b:g} at position {index[-1] + 2}, but the first i tokens cannot all survive less"
            " often than the first i+1; if these are conditional rates, give them as per_position",
            file=file,
            field=field,
        )
    return survival


def checked_length(values: ArrayLike, k: int, *, field: str, file: str | None = None) -> Floats:
    """Acceptance lengths (bonus included) within [1, K+1]."""
    length = _floats(values, field=field, file=file)
    for index in np.argwhere(~((length >= 1 - ROUNDING) & (length <= k + 1 + ROUNDING)))[:1]:
        value = float(length[tuple(index)])
        raise InputError(
            f"{_at(index)}{value:g} is not an acceptance length at K = {k}; it counts the bonus token, so it lies in"
            f" 1..{k + 1} (add 1 if yours counts accepted tokens only)",
            file=file,
            field=field,
        )
    return np.clip(length, 1.0, k + 1.0)


def checked_k(k: int, *, field: str = "k") -> int:
    """A draft length: a whole number, 0 or more."""
    if isinstance(k, bool) or int(k) != k or k < 0:
        raise InputError(f"{k!r} is not a draft length; give a whole number, 0 or more", field=field)
    return int(k)


def _floats(values: ArrayLike, *, field: str, file: str | None) -> Floats:
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as bad:
        raise InputError(f"{values!r} is not a number or a list of numbers", file=file, field=field) from bad


def _at(index: NDArray[np.int64]) -> str:
    return f"position {int(index[-1]) + 1}: " if index.size else ""
