"""Verification rules, the exact law each one emits, and the oracle that judges other people's samplers."""

from specsim.verification.case import (
    Case,
    complete,
    distortion,
    expected_tokens,
    is_lossless,
    random_case,
    target_law,
    tv,
)
from specsim.verification.exact import exact_law
from specsim.verification.optimal import optimal_acceptance
from specsim.verification.oracle import SamplerRejected, assert_law, assert_lossless, check_sampler
from specsim.verification.verdict import Finding, Verdict, Witness

__all__ = [
    "Case",
    "Finding",
    "SamplerRejected",
    "Verdict",
    "Witness",
    "assert_law",
    "assert_lossless",
    "check_sampler",
    "complete",
    "distortion",
    "exact_law",
    "expected_tokens",
    "is_lossless",
    "optimal_acceptance",
    "random_case",
    "target_law",
    "tv",
]
