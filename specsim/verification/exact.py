"""The exact law of any rule by name: ``exact_law("block", case)``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from specsim.errors import InputError
from specsim.verification import chains, lossy, nodes, paths, trees
from specsim.verification.case import Case, Number, String
from specsim.verification.chains import ChainRule
from specsim.verification.drafting import Drafting
from specsim.verification.parameters import check_by_token, check_parameters

CHAIN_RULES: Mapping[str, Callable[..., chains.Stop]] = {
    "token": chains.token,
    "point_mass": chains.point_mass,
    "greedy": chains.greedy,
    "sample_and_match": chains.sample_and_match,
    "coupled": chains.coupled,
    "block": chains.block,
    "lenience": lossy.lenience,
    "typical": lossy.typical,
    "ensemble": lossy.ensemble,
    "fuzzy": lossy.fuzzy,
    "adaptive": lossy.adaptive,
    "big_little": lossy.big_little,
    "biased_argmax": lossy.biased_argmax,
    "reward": lossy.reward,
    "judge": lossy.judge,
    "cactus": lossy.cactus,
    "fly": lossy.fly,
}
"""Rules of one chain of drafts; the lossy ones need their parameters."""

LOSSLESS_CHAINS = ("token", "point_mass", "sample_and_match", "coupled", "block")
"""Chain rules whose text has the target's law. ``greedy`` has argmax decoding's."""

_DIRECT = {"token": chains.token_law, "block": chains.block_law}


def exact_law(
    algorithm: str | ChainRule,
    case: Case,
    *,
    shape: Sequence[int] | None = None,
    drafting: Drafting | None = None,
    **options: Any,
) -> dict[String, Number]:
    """Exact law of the strings that a rule emits in one round over ``case``, in the case's numbers.

    ``algorithm`` is a name of ``CHAIN_RULES``, of ``nodes.MATCHING`` (with ``shape``, the children by depth; drafted as
    the rule needs unless ``drafting`` says otherwise), ``"traversal"``, ``"greedy_multipath"`` (of ``paths`` chains),
    or any chain rule of the form ``rule(p, q, drafts, coins) -> Stop``. ``options`` are the rule's parameters. Raises
    InputError for an unknown name, for wrong parameters, and where a rule returns what can't be emitted.
    """
    if not isinstance(case, Case):
        raise InputError(f"is a {type(case).__name__}, not a Case", field="case")
    if callable(algorithm):
        check_own_rule(algorithm, options)
        return chains.chain_law(partial(algorithm, **options) if options else algorithm, case)
    check_by_token(options, case.vocab, case.name)
    if algorithm in CHAIN_RULES:
        check_parameters(algorithm, CHAIN_RULES[algorithm], options)
        if algorithm in _DIRECT and not options:
            return _DIRECT[algorithm](case)
        return chains.chain_law(partial(CHAIN_RULES[algorithm], **options), case)
    if algorithm == "greedy_multipath":
        check_parameters(algorithm, paths.greedy_multipath, options)
        return chains.block_law(paths.picked_case(case, **options))
    shape = (1,) * case.gamma if shape is None else _checked_shape(shape, case)
    if algorithm == "traversal":
        return trees.traversal_law(case, shape)
    if algorithm in nodes.MATCHING:
        rule, matching = nodes.MATCHING[algorithm]
        check_parameters(algorithm, rule, options)
        return trees.tree_law(partial(rule, **options) if options else rule, drafting or matching, case, shape)
    raise unknown_algorithm(algorithm, [*CHAIN_RULES, *nodes.MATCHING, "traversal", "greedy_multipath"])


def check_own_rule(rule: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Raise InputError unless somebody's rule takes what rules are called with."""
    try:
        inspect.signature(rule).bind(None, None, None, None, **options)
    except TypeError as error:
        call = f"rule(p, q, drafts, coins{''.join(f', {name}=...' for name in options)})"
        raise InputError(f"is called as {call}: {error}", field=f"the rule {chains.rule_name(rule)!r}") from None
    except ValueError:  # a builtin, which has no signature to look at
        return


def _checked_shape(shape: Any, case: Case) -> Sequence[int]:
    whole = isinstance(shape, Sequence) and all(isinstance(n, int) and n > 0 for n in shape)
    if not whole or len(shape) > case.gamma:
        wanted = f"the children of a node at each depth, up to {case.gamma} deep, such as (2,) or (2, 1)"
        raise InputError(f"{shape!r}: give {wanted}", field="shape")
    return tuple(shape)


def chain_rule(algorithm: str, **options: Any) -> ChainRule:
    """A chain rule by name with its parameters bound. Raises InputError for an unknown name and wrong parameters."""
    if algorithm not in CHAIN_RULES:
        raise unknown_algorithm(algorithm, list(CHAIN_RULES))
    check_parameters(algorithm, CHAIN_RULES[algorithm], options)
    return partial(CHAIN_RULES[algorithm], **options) if options else CHAIN_RULES[algorithm]


def unknown_algorithm(name: object, known: Sequence[str]) -> InputError:
    """The error of a name that isn't a rule, with the nearest right one."""
    import difflib

    near = difflib.get_close_matches(str(name), known, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return InputError(f"{name!r} is not a rule; {hint}rules: {', '.join(known)}", field="algorithm")
