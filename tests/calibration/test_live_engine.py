"""The live engine: its cache, its laws, what it emits, and that imposed acceptance leaves the work alone."""

from __future__ import annotations

from collections import Counter
from itertools import product

import numpy as np
import pytest
from scipy.special import gammaincc

torch = pytest.importorskip("torch")

from calibration.live.decoder import Decoder  # noqa: E402
from calibration.live.engine import decode, forced_counts  # noqa: E402
from calibration.live.models import Counted, Transformer  # noqa: E402
from calibration.live.ngram import Ngram, plays  # noqa: E402
from calibration.live.rule import Coins, reject, reject_on_device  # noqa: E402
from specsim.cost.model_shape import ModelShape  # noqa: E402
from specsim.verification.oracle import assert_law, check_sampler  # noqa: E402

SMALL = ModelShape("small", 2, 32, heads=4, kv_heads=2, head_dim=8, vocab=50, intermediate=48, qk_norm=True)


def decoder(shape: ModelShape = SMALL, seed: int = 0) -> Decoder:
    return Decoder.random(shape, generator=torch.Generator().manual_seed(seed), max_positions=256)


def test_a_pass_over_cached_tokens_equals_the_pass_over_everything() -> None:
    """Whatever the split into chunks, each sequence at its own position, stale entries behind it."""
    model = decoder()
    tokens = torch.randint(0, 50, (3, 20), generator=torch.Generator().manual_seed(1))
    model.allocate(3, 32)
    whole = model.forward(tokens, torch.zeros(3, dtype=torch.long), span=20)
    model.forward(torch.randint(0, 50, (3, 20)), torch.zeros(3, dtype=torch.long), span=20)  # leave other entries
    starts = torch.tensor([4, 9, 12])
    model.forward(tokens[:, :12], torch.zeros(3, dtype=torch.long), span=12)
    chunk = torch.stack([tokens[i, s : s + 5] for i, s in enumerate(starts)])
    part = model.forward(chunk, starts, span=20)
    for i, s in enumerate(starts):
        torch.testing.assert_close(part[i], whole[i, s : s + 5], rtol=1e-4, atol=1e-5)


def test_a_grouped_head_reads_its_own_cache_head() -> None:
    """Against attention written out head by head."""
    model = decoder()
    model.allocate(1, 16)
    tokens = torch.arange(6)[None]
    got = model.forward(tokens, torch.zeros(1, dtype=torch.long), span=6)
    assert model.cache is not None
    layer, shape = model.layers[0], SMALL
    x = model.embedding[tokens[0]]
    normed = torch.nn.functional.rms_norm(x, (32,), layer.attention_norm)
    packed = (normed @ layer.qkv.T).view(6, shape.heads + 2 * shape.kv_heads, shape.head_dim)
    keys, values = model.cache[0, 0, 0, :, :6], model.cache[0, 1, 0, :, :6]
    torch.testing.assert_close(values.transpose(0, 1), packed[:, shape.heads + shape.kv_heads :])
    torch.testing.assert_close(keys[:, 0], packed[0, shape.heads :][: shape.kv_heads] / rms(packed[0, 4:6]))
    assert got.shape == (1, 6, 50)


def rms(x: torch.Tensor) -> torch.Tensor:
    return (x.pow(2).mean(-1, keepdim=True) + torch.finfo(torch.float32).eps).sqrt()


def test_counted_laws_equal_the_definition() -> None:
    """Witten-Bell by its recursion over raw counts, seen and unseen contexts."""
    text = b"abracadabra, abracadabra!"
    model = Ngram.count(text, order=4)
    contexts = [b"bra", b"cad", b"zzz", b"a, ", b"zra"]
    laws = model.laws(np.array([list(c) for c in contexts]))
    for context, law in zip(contexts, laws, strict=True):
        np.testing.assert_allclose(law, by_definition(text, context), rtol=1e-12)


def by_definition(text: bytes, context: bytes) -> np.ndarray:
    shorter = by_definition(text, context[1:]) if context else np.full(256, 1 / 256)
    followers = Counter(
        text[i + len(context)] for i in range(len(text) - len(context)) if text[i : i + len(context)] == context
    )
    if not followers:
        return shorter
    total, distinct = sum(followers.values()), len(followers)
    law = distinct * shorter
    for byte, count in followers.items():
        law[byte] += count
    return law / (total + distinct)


def p_value(counts: Counter[bytes], law: dict[bytes, float], total: int) -> float:
    kept = {key: p for key, p in law.items() if p * total >= 5}
    rest = 1.0 - sum(kept.values())
    cells = [(counts[key], p * total) for key, p in kept.items()]
    if rest * total >= 5:
        cells.append((total - sum(counts[key] for key in kept), rest * total))
    statistic = sum((seen - wanted) ** 2 / wanted for seen, wanted in cells)
    return float(gammaincc((len(cells) - 1) / 2, statistic / 2))


@pytest.mark.parametrize("k", [0, 1, 3])
def test_what_is_emitted_follows_the_targets_law(k: int) -> None:
    """The first two tokens after one prompt, over 3000 sequences; a wrong residual or bonus law fails this."""
    text = b"abcabdabcaabbccabacabbacbadcabcbabdb" * 3
    target, draft = Ngram.count(text, order=4), Ngram.count(text, order=2)
    prompt, batch = b"cab", 3000
    run = decode(
        Counted(target), Counted(draft), np.tile(list(prompt), (batch, 1)), k=k, rounds=2, rng=np.random.default_rng(5)
    )
    seen = Counter(bytes(row[3:5].astype(np.uint8).tolist()) for row in run.text)
    law = {}
    for pair in product(b"abcd", repeat=2):
        first = target.laws(np.array([list(prompt)]))[0, pair[0]]
        law[bytes(pair)] = first * target.laws(np.array([[*prompt[1:], pair[0]]]))[0, pair[1]]
    assert p_value(seen, law, batch) > 1e-5


def on_device(
    target: torch.Tensor, draft: torch.Tensor, tokens: torch.Tensor, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    accepted, following = reject_on_device(target, draft, tokens, generator)
    out = torch.where(
        torch.arange(tokens.shape[1] + 1) < accepted[:, None], torch.nn.functional.pad(tokens, (0, 1)), -1
    )
    return out.scatter(1, accepted[:, None], following[:, None]), accepted + 1


@pytest.mark.slow
def test_the_rule_on_a_device_has_the_token_rules_joint_law() -> None:
    """Judged by the oracle, which rejects the same code with its bonus drawn from the wrong row."""
    assert_law(on_device, "token", arrays="torch", level="statistical", detect_tv=0.03)

    def wrong(target: torch.Tensor, *rest: object) -> tuple[torch.Tensor, torch.Tensor]:
        return on_device(torch.cat((target[:, :-1], target[:, -2:-1]), dim=1), *rest)

    assert not check_sampler(wrong, "token", arrays="torch", level="statistical", detect_tv=0.03).passed


@pytest.mark.parametrize("device_rule", ["reference", "device"])
def test_equal_laws_are_always_accepted_and_disjoint_never(device_rule: str) -> None:
    generator = torch.Generator().manual_seed(0)
    coins = Coins(generator, np.random.default_rng(0))

    def rule(p: torch.Tensor, q: torch.Tensor, d: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return reject(p, q, d, coins) if device_rule == "reference" else reject_on_device(p, q, d, generator)

    law = torch.rand(50, 4, 6, generator=generator).softmax(dim=-1)
    drafted = torch.randint(0, 6, (50, 3), generator=generator)
    accepted, _ = rule(law, law[:, :3], drafted)
    assert (accepted == 3).all()
    target, draft = torch.zeros(50, 4, 6), torch.zeros(50, 3, 6)
    target[..., :3], draft[..., 3:] = 1 / 3, 1 / 3
    accepted, following = rule(target, draft, drafted % 3 + 3)
    assert (accepted == 0).all()
    assert (following < 3).all()


def test_a_real_pair_accepts_what_its_laws_overlap() -> None:
    """Tokens per round of one drafted byte: 1 + the mean overlap of the two laws where rounds began."""
    text = plays()[:60_000]
    target, draft = Ngram.count(text, order=5), Ngram.count(text, order=3)
    prompts = np.array([list(text[i : i + 40]) for i in range(0, 40_000, 1000)])
    run = decode(Counted(target), Counted(draft), prompts, k=1, rounds=60, rng=np.random.default_rng(1))
    overlap = []
    for row, gained in zip(run.text, run.emitted.T, strict=True):
        for end in 40 + np.concatenate(([0], np.cumsum(gained)[:-1])):
            p = target.laws(row[None, end - 4 : end])[0]
            q = draft.laws(row[None, end - 2 : end])[0]
            overlap.append(np.minimum(p, q).sum())
    error = np.sqrt(np.mean(np.multiply(overlap, 1 - np.array(overlap))) / len(overlap))
    assert abs(run.tokens_per_round - 1 - np.mean(overlap)) < 4.5 * error


def test_forced_counts_have_the_curve_exactly() -> None:
    curve = (0.8, 0.55, 0.3)
    counts = forced_counts(curve, (50, 4), np.random.default_rng(0))
    shares = [(counts > i).mean() for i in range(3)]
    np.testing.assert_allclose(shares, curve, atol=1 / 200)
    assert counts.max() <= 3


class Recorded(Transformer):
    """A transformer that writes down the shapes of its passes."""

    def laws(self, tokens: torch.Tensor, start: torch.Tensor, **how: object) -> torch.Tensor:
        if not hasattr(self, "seen"):
            self.seen = []
        self.seen.append((tuple(tokens.shape), how.get("rows", "all")))
        return super().laws(tokens, start, **how)


@pytest.mark.parametrize("imposed", [None, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (0.7, 0.5, 0.2)])
def test_imposed_acceptance_leaves_the_work_alone(imposed: tuple[float, ...] | None) -> None:
    target, draft = Recorded(decoder()), Recorded(decoder(seed=1))
    prompts = np.random.default_rng(0).integers(0, 50, (2, 10))
    run = decode(target, draft, prompts, k=3, rounds=5, rng=np.random.default_rng(0), imposed=imposed)
    assert target.seen == [((2, 9), "last")] + [((2, 4), "all")] * 5
    assert draft.seen == [((2, 9), "last")] + [((2, 2), "last"), ((2, 1), "last"), ((2, 1), "last")] * 5
    assert set(run.phases_s) == {"draft", "sampling", "verify", "host"}
    np.testing.assert_array_equal(run.lengths, 10 + run.emitted.sum(axis=0))
    if imposed == (1.0, 1.0, 1.0):
        assert run.tokens_per_round == 4.0


def test_a_body_does_not_change_a_counted_models_laws() -> None:
    ngram = Ngram.count(plays()[:5000], order=3)
    body = decoder(ModelShape("body", 1, 32, heads=2, kv_heads=1, head_dim=16, vocab=256, intermediate=32))
    runs = [
        decode(Counted(ngram, b), Counted(ngram), [[65, 66, 67]], k=2, rounds=6, rng=np.random.default_rng(3))
        for b in (None, body)
    ]
    np.testing.assert_array_equal(runs[0].text, runs[1].text)
    assert (runs[0].emitted == 3).all()  # drafter and target agree
