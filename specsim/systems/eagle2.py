"""EAGLE-2: a tree grown by path probability, rerouted every round (arXiv 2406.16858, EMNLP 2024). Lossless."""

from __future__ import annotations

from typing import TYPE_CHECKING

from specsim.drafting.trees import beam_tree
from specsim.systems.composition import Composition, on_the_replica
from specsim.systems.descriptor import Parameter, System
from specsim.systems.draft_tree import TREE_ASSUMED
from specsim.systems.tree_rounds import TreeRounds

if TYPE_CHECKING:
    from specsim.planning.setting import Setting


def _compose(setting: Setting) -> Composition:
    candidate, ranks = setting.ranked("eagle", "eagle3", "mtp")
    steps, branches = setting.count("steps"), setting.count("branches")
    tree, _ = beam_tree(lambda _: ranks, steps=steps, branches=branches, tokens=setting.count("tokens"))
    program = setting.tree_program(candidate, steps=steps, branches=branches, tokens=tree.size)
    return on_the_replica(
        setting,
        candidate,
        {program.k: program},
        TreeRounds(tree, ranks),
        ran_with=f"{candidate.short}, tree of {tree.size} in {steps} passes of {branches}",
        assumed=(
            "acceptance by rank is the same in every context, so the tree has one shape: no gain from following it",
            TREE_ASSUMED,
        ),
    )


SYSTEM = System(
    name="eagle2",
    title="EAGLE-2: Faster Inference of Language Models with Dynamic Draft Trees",
    paper="2406.16858",
    year=2024,
    lossless="yes",
    topology="head and target on one replica",
    pipeline="head x steps over a beam -> rank all paths -> verify the best in one pass -> commit",
    rule="the tokens - 1 likeliest paths of the beam's drafts; each node tested as in speculative sampling",
    parameters=(),
    assumptions=("acceptance depends on a child's rank only",),
    batches="continuous batching, as SGLang does it",
    simulate=None,
    compose=_compose,
    inputs=(
        Parameter("steps", 5, "drafting passes", "Spec-Bench's setting: depth 5"),
        Parameter("branches", 10, "beam, and children of each of its nodes", "Spec-Bench's setting: top-k 10"),
        Parameter("tokens", 60, "nodes that are verified, root included", "Spec-Bench's setting: 59 nodes"),
    ),
)
