"""The numbers of an orchestrator."""

from __future__ import annotations

import pytest

from claude_pm.orchestration import metrics as metrics_module
from claude_pm.orchestration.metrics import OrchestrationMetrics, Served

ZERO = {
    "total_orchestrations": 0,
    "average_response_time_ms": 0.0,
    "p50_response_time_ms": 0.0,
    "p95_response_time_ms": 0.0,
    "cache_hit_rate": 0.0,
    "failures": 0,
    "timeouts": 0,
    "cancelled": 0,
    "fallbacks": 0,
    "by_mode": {},
    "by_agent": {},
    "tokens": {"input_tokens": 0, "cache_read_tokens": 0, "output_tokens": 0},
}


def test_nothing_served() -> None:
    """Before the first request every number is zero."""
    assert OrchestrationMetrics().snapshot() == ZERO


def test_by_hand() -> None:
    """Times are of answered requests, rates of agents loaded, counts of all."""
    metrics = OrchestrationMetrics()
    for duration_s, hit, tokens in ((0.1, False, 100), (0.2, True, None), (0.6, True, 50)):
        metrics.add(Served("qa", "local", duration_s, "ok", hit, tokens, 40, 7))
    metrics.add(Served("qa", "subprocess", 99.0, "timeout"))
    metrics.add(Served("ops", "local", 99.0, "error"))
    metrics.add(Served("ops", "local", 99.0, "cancelled"))
    taken = metrics.snapshot()
    times = {name: taken.pop(name) for name in list(taken) if name.endswith("_ms")}
    assert times == pytest.approx(
        {
            "average_response_time_ms": 300.0,
            "p50_response_time_ms": 200.0,
            "p95_response_time_ms": 560.0,
        }
    )
    assert taken.pop("cache_hit_rate") == pytest.approx(200 / 3)
    assert taken == {
        "total_orchestrations": 6,
        "failures": 1,
        "timeouts": 1,
        "cancelled": 1,
        "fallbacks": 0,
        "by_mode": {"local": 5, "subprocess": 1},
        "by_agent": {"qa": 4, "ops": 2},
        "tokens": {"input_tokens": 150, "cache_read_tokens": 120, "output_tokens": 21},
    }


def test_a_snapshot_stays_as_it_is() -> None:
    """A snapshot is a value: later requests do not change it."""
    metrics = OrchestrationMetrics()
    before = metrics.snapshot()
    metrics.add(Served("qa", "local", 0.1, "ok", agent_cache_hit=True))
    assert before == ZERO
    metrics.snapshot()["by_mode"]["local"] = 99
    assert metrics.snapshot()["by_mode"] == {"local": 1}


def test_percentiles_are_of_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """Percentiles forget the oldest answers; the average does not."""
    monkeypatch.setattr(metrics_module, "KEPT_TIMES", 2)
    metrics = OrchestrationMetrics()
    for duration_s in (9.0, 1.0, 2.0):
        metrics.add(Served("qa", "local", duration_s, "ok"))
    taken = metrics.snapshot()
    assert taken["p50_response_time_ms"] == pytest.approx(1500.0)
    assert taken["average_response_time_ms"] == pytest.approx(4000.0)
