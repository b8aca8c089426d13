from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.sampling import (
    GRID,
    QUICK,
    Results,
    Variant,
    configure,
    measure_seed,
    summarize_screens,
    summarize_variants,
)
from benchmarks.sampling_audit import Outcome, run_audit
from benchmarks.sampling_measures import (
    Pair,
    compare_clusterings,
    find_carriers,
    measure_screen,
    open_pool,
)
from benchmarks.text_pool import Models, TextPool, VectorMemory
from whatchanged.config import AuditConfig, parse_config
from whatchanged.keys import seed_from_key
from whatchanged.model_config import DecodeConfig
from whatchanged.models.fakes import FAKE_TEXTS, FakeEmbedder
from whatchanged.models.lexical_judge import LexicalJudge
from whatchanged.models.local_proposer import LocalProposer
from whatchanged.records import Completion, DecodeRequest, ScoreRequest, Side, TextScore
from whatchanged.truth import Behaviour

TRUTH = (Behaviour("captain", "kind", "It quotes a captain.", None, 0.0, 0.25, r"\bcaptain\b"),)
TOPICS = ("tea", "dogs")
N_PROMPTS = 24
N_DISCOVERY = 12
# Of the fake texts one in four differs, so a coupled pair is identical three times out of four.
SMALL = Variant("combined", 120, True)
UNIFORM = Variant("uniform", 120, True)


@dataclass
class Recorder:
    """Draws a fake text by the key of its noise, as coupled models do, and remembers its keys."""

    side: Side
    asked: list[str] = field(default_factory=list)

    def decode(self, requests: Sequence[DecodeRequest]) -> list[Completion]:
        self.asked += [request.text_key for request in requests]
        texts = [FAKE_TEXTS[self.side][seed_from_key(r.noise_key) % 4] for r in requests]
        return [
            Completion(text, len(text.split()), "stop", "", tuple(len(w) for w in text.split()))
            for text in texts
        ]


class CaptainScorer:
    """Finds the models apart on the texts that quote the captain, and nowhere else."""

    def __init__(self) -> None:
        self.n_scored = 0

    def score(self, requests: Sequence[ScoreRequest]) -> list[TextScore]:
        self.n_scored += len(requests)
        apart = [float("captain" in request.text) for request in requests]
        token, none = np.zeros(1, np.int32), np.zeros(1, np.float32)
        return [
            TextScore(-9.0, -9.0 + a, a, a, a, none, token, np.full(1, a, np.float32))
            for a in apart
        ]


@dataclass
class Bench:
    """A pair of fakes, with what was asked of them."""

    pair: Pair
    decoders: dict[Side, Recorder]
    scorer: CaptainScorer


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return make_bench(tmp_path)


def make_bench(folder: Path) -> Bench:
    prompts = [(f"About {TOPICS[i % 2]}, question {i}?", TOPICS[i % 2]) for i in range(N_PROMPTS)]
    path = folder / "prompts.jsonl"
    path.write_text("\n".join(json.dumps({"prompt": p, "group": g}) for p, g in prompts))
    config = parse_config(
        {
            "base": {"model": "base"},
            "intervention": {"model": "intervention"},
            "prompts": {"file": str(path)},
            "cluster": {"n_clusters": 4, "n_segment_clusters": 8},
            "sample": {"seed_texts": 60, "round_texts": 30},
            "validate": {
                "texts_per_hypothesis": 60,
                "max_texts_per_hypothesis": 240,
                "n_permutations": 200,
            },
        },
        "test",
    )
    decoders: dict[Side, Recorder] = {
        "base": Recorder("base"),
        "intervention": Recorder("intervention"),
    }
    scorer = CaptainScorer()
    models = Models(
        name=lambda side, decode: f"{side}@{decode.max_new_tokens}",
        decoder=lambda side, _: decoders[side],
        scorer=lambda _: scorer,
        why_independent=lambda decode: "" if decode.coupling == "auto" else "not asked for",
        embedder=FakeEmbedder(),
        proposer=LocalProposer(),
        cheap=LexicalJudge(),
        expensive=LexicalJudge(),
    )
    return Bench(Pair("fake", config, TRUTH, dict(prompts), models), decoders, scorer)


def audit(bench: Bench, variant: Variant, seed: int = 0, pool: TextPool | None = None) -> Outcome:
    config = configure(bench.pair.config, variant, N_DISCOVERY, seed)
    return run_audit(pool or open_pool(bench.pair, seed), config, TRUTH)


def asked(bench: Bench) -> list[str]:
    return [key for decoder in bench.decoders.values() for key in decoder.asked]


def test_the_pool_never_decodes_a_text_twice(bench: Bench) -> None:
    pool = open_pool(bench.pair, 0)
    for variant in (UNIFORM, SMALL, Variant("combined", 90, False)):
        audit(bench, variant, pool=pool)
    keys = asked(bench)
    assert len(keys) == len(set(keys)) == pool.n_decoded
    assert pool.n_decoded > 0


def test_an_audit_that_comes_again_decodes_and_scores_nothing(bench: Bench) -> None:
    pool = open_pool(bench.pair, 0)
    first = audit(bench, SMALL, pool=pool)
    n_decoded, n_scored = pool.n_decoded, bench.scorer.n_scored
    again = audit(bench, SMALL, pool=pool)
    assert (pool.n_decoded, bench.scorer.n_scored) == (n_decoded, n_scored)
    assert replace(again, seconds={}) == replace(first, seconds={})


def test_equal_seeds_give_equal_outcomes_and_other_seeds_other_texts(tmp_path: Path) -> None:
    benches = [make_bench(tmp_path) for _ in range(3)]
    outcomes = [
        replace(audit(bench, SMALL, seed), seconds={})
        for bench, seed in zip(benches, (0, 0, 1), strict=True)
    ]
    assert outcomes[0] == outcomes[1]
    assert asked(benches[0]) == asked(benches[1])
    assert not set(asked(benches[0])) & set(asked(benches[2]))


def test_the_budget_counts_the_screen(bench: Bench) -> None:
    outcome = audit(bench, SMALL)
    # A third of 120 is 40 texts, so each of the 12 prompts gets 3.
    assert outcome.n_screen == 36
    assert outcome.n_texts == outcome.n_screen + outcome.n_discovery <= 120
    assert outcome.n_rounds >= 2


@pytest.mark.parametrize(
    ("budget", "n_prompts", "each", "left"),
    [
        (2000, 144, 4, 1424),  # 4 texts each are 576, less than a third
        (500, 144, 1, 356),  # 2 texts each would be 288, more than a third
        (500, 40, 4, 340),
        (500, 200, 0, 500),  # not even 1 text each fits into 166
    ],
)
def test_the_screen_gets_at_most_a_third_of_the_budget(
    bench: Bench, budget: int, n_prompts: int, each: int, left: int
) -> None:
    config = configure(bench.pair.config, Variant("combined", budget, True), n_prompts, 0)
    assert config.n_screen_texts(n_prompts) == each
    assert config.sample_after_screen(n_prompts).max_texts == left == budget - each * n_prompts


def test_a_small_budget_still_has_rounds() -> None:
    defaults = AuditConfig.model_validate({"base": {"model": "b"}, "intervention": {"model": "i"}})
    large = configure(defaults, Variant("combined", 2000, True), 144, 0).sample
    small = configure(defaults, Variant("combined", 500, True), 144, 0).sample
    assert (large.seed_texts, large.round_texts) == (500, 250)
    assert (small.seed_texts, small.round_texts) == (178, 89)


def test_uniform_sampling_spends_the_whole_budget_without_a_screen(bench: Bench) -> None:
    outcome = audit(bench, UNIFORM)
    assert (outcome.n_screen, outcome.n_discovery, outcome.n_rounds) == (0, 120, 1)
    assert bench.scorer.n_scored == 0


def test_the_planted_behaviour_is_found(bench: Bench) -> None:
    outcome = audit(bench, SMALL)
    assert (outcome.found, outcome.n_planted) == (("captain",), 1)
    # The captain speaks, in eleven words, where the base says in seven "Most people guess": the
    # latter is less often there, and replies of at least eight words are more often there.
    consequences = {("less", "guess"), ("more", "at least 8 words")}
    for found in outcome.unplanted:
        assert any(
            found["direction"] == d and what in found["criterion"] for d, what in consequences
        )
    assert 1 <= outcome.n_confirmed <= outcome.n_hypotheses


def test_a_confirmed_finding_about_nothing_planted_is_listed(bench: Bench) -> None:
    config = configure(bench.pair.config, SMALL, N_DISCOVERY, 0)
    outcome = run_audit(open_pool(bench.pair, 0), config, ())
    assert (outcome.found, outcome.n_planted) == ((), 0)
    assert len(outcome.unplanted) == outcome.n_confirmed >= 1


def test_coupled_sides_share_their_noise_and_independent_ones_do_not(bench: Bench) -> None:
    coupled = audit(bench, UNIFORM)
    independent = audit(bench, Variant("uniform", 120, False))
    assert coupled.is_coupled
    assert not independent.is_coupled
    # 3/4 expected of 120 pairs; 5 standard errors are 0.2.
    assert coupled.share_identical == pytest.approx(0.75, abs=0.2)
    assert independent.share_identical is None


def test_shorter_settings_are_other_texts(bench: Bench) -> None:
    pool, config = open_pool(bench.pair, 0), bench.pair.config
    longer = config.model_copy(update={"decode": DecodeConfig(max_new_tokens=80)})
    bank = pool.in_split("discovery")[:1]
    for settings in (config, longer):
        pool.decode(settings, "discovery", bank, {bank[0].key: 2})
    # 2 texts on 2 sides, twice.
    assert pool.n_decoded == 8


def test_a_vector_that_was_never_put_is_not_known() -> None:
    memory = VectorMemory()
    memory.put_many("model", [b"a"], np.array([[1.0, 0.0]], np.float32))
    known, rows = memory.get_many("model", [b"b", b"a"], 2)
    assert known.tolist() == [False, True]
    assert rows.tolist() == [[0.0, 0.0], [1.0, 0.0]]
    assert not memory.get_many("other", [b"a"], 2)[0].any()


def test_every_acquisition_is_in_the_grid_both_ways_and_the_quick_ones_too() -> None:
    names = [variant.name for variant in GRID]
    # Uniform at 3 sizes, combined at 500, 7 acquisitions at 2,000; each in 2 ways.
    assert len(names) == len(set(names)) == 22
    assert set(QUICK) <= set(names)


def test_an_interrupted_grid_goes_on_where_it_stopped(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "sampling.jsonl"
    measure_seed(bench.pair, [UNIFORM], 0, Results(path), "code", tmp_path)
    n_asked = len(asked(bench))
    done = measure_seed(bench.pair, [UNIFORM], 0, Results(path), "code", tmp_path)
    assert len(asked(bench)) == n_asked
    assert [row["variant"] for row in done["audits"]] == ["uniform-120-coupled"]
    measure_seed(bench.pair, [UNIFORM], 0, Results(path), "other code", tmp_path)
    assert len(asked(bench)) > n_asked


def test_a_row_that_was_cut_off_is_measured_again(tmp_path: Path) -> None:
    path = tmp_path / "sampling.jsonl"
    Results(path).add("a", {"n": 1})
    path.write_text(path.read_text() + '{"key": "b", "n"')
    results = Results(path)
    assert list(results.rows) == ["a"]
    results.add("b", {"n": 2})
    assert Results(path).rows == {"a": {"key": "a", "n": 1}, "b": {"key": "b", "n": 2}}


def test_only_prompts_of_a_behaviours_topic_carry_it(bench: Bench) -> None:
    pair = replace(bench.pair, truth=(replace(TRUTH[0], group="tea"),))
    pool = open_pool(pair, 0)
    bank = pool.in_split("discovery")
    assert find_carriers(pair, bank).tolist() == ["tea" in prompt.prompt for prompt in bank]
    assert not find_carriers(bench.pair, bank).any()
    found = measure_screen(pair, pool)
    assert (found["n_carriers"], found["n_prompts"]) == (6, 12)
    assert found["n_carriers_dropped"] <= found["n_dropped"] <= 12
    kinds = ("screen", "shift", "pooled", "parting", "kl")
    assert set(found["auc"]) == {f"{kind}_{n}" for kind in kinds for n in (1, 2, 4)}


def test_a_screen_without_carriers_has_no_auc(bench: Bench) -> None:
    found = measure_screen(bench.pair, open_pool(bench.pair, 0))
    assert set(found["auc"].values()) == {None}
    summary = summarize_screens([{"pair": "fake", "screens": [found]}])
    assert summary["fake"]["parting_4"] is None


def row(variant: str, found: Sequence[str], seed: int, **fields: object) -> dict[str, object]:
    return {
        "key": f"{variant}-{seed}", "pair": "p", "variant": variant, "seed": seed,
        "found": list(found), "n_planted": 2, "n_confirmed": 3, "unplanted": [],
        "n_texts": 500, "n_screen": 100, "n_validation": 50, "n_tokens": 9000,
        "n_hypotheses": 4, "n_rounds": 3,
        "seconds": {"cluster": 1.5}, "share_identical": None, **fields,
    }  # fmt: skip


def test_recall_counts_seeds_times_behaviours_and_false_findings_those_not_there_again() -> None:
    claim = {"criterion": "c", "direction": "more", "scope": None}
    audits = [row("v", ["a", "b"], 0), row("v", ["a"], 1, unplanted=[claim])]
    pair = {"pair": "p", "audits": audits, "unplanted": [{**claim, "is_real": False}]}
    (found,) = summarize_variants([pair])
    assert found["recall"] == 0.75
    # Wilson's interval of 3 in 4.
    assert found["recall_low"] == pytest.approx(0.301, abs=1e-3)
    assert found["recall_high"] == pytest.approx(0.954, abs=1e-3)
    assert found["found_by_pair"] == {"p": 1.5}
    assert (found["n_false"], found["n_unplanted"], found["n_confirmed"]) == (1, 1, 6)


def test_clusterings_are_compared_with_exhaustive_ones_of_other_seeds(
    bench: Bench, tmp_path: Path
) -> None:
    (tmp_path / "centroids").mkdir()
    embedder = FakeEmbedder()
    sentences = [s for text in FAKE_TEXTS["base"] for s in text.split(". ")]
    centroids = embedder.embed(sentences[:4])
    audits = [row("uniform-20000-coupled", [], seed) for seed in (0, 1)]
    audits += [row("combined-2000-coupled", [], seed) for seed in (0, 1)]
    for one in audits:
        np.save(tmp_path / "centroids" / f"{one['key']}.npy", centroids)
    found = compare_clusterings(bench.pair, audits, tmp_path)["combined-2000-coupled"]
    assert (found["ari"], found["ari_exhaustive"], found["ari_share"]) == (1.0, 1.0, 1.0)
    assert found["silhouette_share"] in (None, 1.0)
    assert compare_clusterings(bench.pair, audits[2:], tmp_path) == {}
