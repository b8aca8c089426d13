"""What Prefect's page shows of a run."""

from __future__ import annotations

from whatchanged.overview import tabulate_work, write_overview

SUMMARY = {
    "decode": {
        "base": {"n_decoded": 30, "n_cached": 0, "n_failed": 0, "n_tokens": 900},
        "intervention": {"n_decoded": 0, "n_cached": 30, "n_failed": 1, "n_tokens": 900},
    },
    "seconds": {"decode": 12.34, "report": 0.5},
    "stop_reason": "max_rounds reached",
    "n_hypotheses": 2,
    "n_confirmed": 1,
    "null_control": {"n_hypotheses": 3, "n_confirmed": 0, "n_texts_per_side": 30},
    "failed_items": 1,
}
FINDING = {
    "id": "h1", "status": "confirmed", "direction": "more", "effect": 0.125, "ci_low": 0.1,
    "ci_high": 0.15, "p_adjusted": 0.0004, "auc": 0.75, "n_texts": 240, "judge_calls": 480,
    "statement": "Says 'Mark my words' at the end", "evidence_terms": ["mark my words"],
}  # fmt: skip


def test_a_computed_task_has_a_rate_and_a_cached_one_has_none() -> None:
    computed = tabulate_work("decode 0", 300, 12.0, is_cached=False)
    assert (computed["state"], computed["items per second"]) == ("computed", 25.0)
    cached = tabulate_work("decode 0", 300, 12.0, is_cached=True)
    assert (cached["state"], cached["seconds"], cached["items per second"]) == (
        "cached",
        None,
        None,
    )


def test_a_task_that_took_no_time_has_no_rate() -> None:
    assert tabulate_work("decode 0", 0, 0.0, is_cached=False)["items per second"] is None


def test_the_overview_has_counts_retries_and_measures_but_no_statement() -> None:
    written = write_overview(
        "demo", "file:///runs/demo/report.html", SUMMARY, [FINDING], ["429 -\n1/3"]
    )
    lines = written.splitlines()
    assert lines[0] == "# demo"
    assert "1 of 2 hypotheses confirmed; null control: 0 of 3." in lines
    assert "| base | 30 | 0 | 0 |" in lines
    assert "| decode | 12.3 |" in lines
    assert "Failed items: 1. Retries: 1." in lines
    assert "- 429 - 1/3" in lines
    assert "| h1 | confirmed | more | 0.125 | 0.1 | 0.15 | 0.0004 | 0.75 | 240 | 480 |" in lines
    assert "ark my words" not in written


def test_without_findings_and_null_control_there_is_no_table_of_them() -> None:
    none = {**SUMMARY, "null_control": None, "n_hypotheses": 0, "n_confirmed": 0}
    written = write_overview("demo", "file:///r", none, [], [])
    assert "0 of 0 hypotheses confirmed." in written.splitlines()
    assert "p adjusted" not in written
