"""Comparisons of profiles, groups of them, and of the conditions of an experiment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import claude_pm
from claude_pm.analysis.compare import COMPARISON, Comparison, compare, compare_conditions
from claude_pm.errors import ComparisonError, ProfileError, ProfileNotFoundError
from claude_pm.profiles import Experiment, Profile
from tests.profile_builder import ProfileBuilder


def requests(
    name: str, factor: float = 1.0, *, n: int = 12, seed: int = 1, agent: str = "qa"
) -> Profile:
    """Return a profile of n requests of about a second, times the factor."""
    rng = np.random.default_rng(seed)
    builder = ProfileBuilder(name)
    builder.answered(agent, "local", 0.0, 90.0, ttft_s=80.0, attributes={"warmup": True})
    for number in range(n):
        seconds = factor * rng.normal(1.0, 0.03)
        builder.answered(
            agent, "local", 100.0 * number, seconds, ttft_s=seconds / 4, input_tokens=100,
            cache_read_tokens=50, output_tokens=31,
        )  # fmt: skip
    return builder.build()


def trial(
    durations: dict[str, list[float]], *, name: str = "trial", failed: tuple[str, ...] = ()
) -> Experiment:
    """Return an experiment whose samples took so long, block by block, after a slow warm-up."""
    plan = {"conditions": list(durations), "repeat": 1, "warmup": 1, "seed": 1, "complete": True}
    builder = ProfileBuilder(name, experiment=plan)
    order = 0

    def sample(condition: str, block: int, seconds: float, **said: Any) -> None:
        nonlocal order
        status = "error" if said.pop("fails", False) else "ok"
        builder.span(
            "sample", 10.0 * order, seconds, status=status,
            attributes={"condition": condition, "block": block, "order": order, "cpu_s": 0.5}
            | said,
        )  # fmt: skip
        order += 1

    for condition in durations:
        sample(condition, 0, 99.0, warmup=True)
    for block in range(max(map(len, durations.values()))):
        for condition, seconds in durations.items():
            if block < len(seconds):
                sample(condition, block, seconds[block])
    for condition in failed:
        sample(condition, 99, 50.0, fails=True)
    return Experiment(builder.build())


def words(comparison: Comparison) -> dict[str, str]:
    return {row.metric.name: row.word for row in comparison.rows}


class TestProfiles:
    def test_requests(self) -> None:
        """The answered requests are the samples; warm-ups are left out; every metric has a row."""
        compared = compare(requests("before"), requests("after", 1.3, seed=2))
        assert list(compared.table.columns) == COMPARISON.column_names
        table = compared.table.set_index("metric")
        assert table.loc["duration_s", "verdict"] == "slower"
        assert table.loc["duration_s", "ratio"] == pytest.approx(1.3, rel=0.03)
        assert table.loc["duration_s", "n_a"] == 12
        assert table.loc["ttft_s", "verdict"] == "slower"
        assert table.loc["tpot_s", "a"] == pytest.approx(0.75 / 30, rel=0.05)
        assert table.loc["tokens_per_s", "verdict"] == "slower"
        assert table.loc["tokens_per_s", "ratio"] == pytest.approx(1 / 1.3, rel=0.03)
        assert table.loc["input_tokens", "verdict"] == "same"
        assert "cost_usd" not in table.index
        assert any("one after the other" in note for note in compared.notes)

    def test_tokens_are_not_faster(self) -> None:
        """Of tokens, memory and money none is faster: there is less or more of it."""
        few, many = ProfileBuilder("few"), ProfileBuilder("many")
        for builder, tokens in ((few, 100), (many, 300)):
            for number in range(6):
                builder.answered(
                    "qa", "local", number, 1.0, ttft_s=0.5, input_tokens=tokens + number,
                    cache_read_tokens=0 if builder is few else 200,
                )  # fmt: skip
        said = words(compare(few.build(), many.build()))
        assert (said["input_tokens"], said["cache_read_tokens"]) == ("more", "more")
        assert words(compare(many.build(), few.build()))["input_tokens"] == "less"
        assert said["duration_s"] == "same"

    def test_groups(self) -> None:
        """Of a list each profile counts once: many requests of one bad hour are one sample."""
        before = [requests(f"b{seed}", seed=seed) for seed in range(6)]
        after = [requests(f"a{seed}", 1.5, seed=seed + 20) for seed in range(6)]
        table = compare(before, after).table.set_index("metric")
        assert table.loc["duration_s", "verdict"] == "slower"
        assert (table.loc["duration_s", "n_a"], table.loc["duration_s", "n_b"]) == (6, 6)
        once = compare(before[:1], after[:2]).table.set_index("metric")
        assert once.loc["duration_s", "verdict"] == "unclear"

    def test_any_code(self) -> None:
        """Profiles without requests are compared as wholes, with their peak memory."""
        sides: list[list[Profile]] = [[], []]
        for side, factor in zip(sides, (1.0, 2.0), strict=True):
            for number in range(5):
                builder = ProfileBuilder("code", duration_s=factor * (1 + number / 100))
                builder.memory(0.1, int(factor * 1e8) + number)
                side.append(builder.build())
        said = words(compare(*sides))
        assert said == {"duration_s": "slower", "peak_rss_bytes": "more"}

    def test_other_agents(self) -> None:
        """That the sides asked other agents is said: it may be all the difference."""
        compared = compare(requests("a"), requests("b", agent="ops"))
        assert any("same agents" in note for note in compared.notes)
        assert not any(
            "same agents" in note for note in compare(requests("a"), requests("b")).notes
        )

    def test_saved(self, tmp_path: Path) -> None:
        """Paths of saved profiles do as well as profiles."""
        paths = []
        for name, factor in (("before", 1.0), ("after", 1.4)):
            profile = requests(name, factor, seed=len(name))
            profile.meta["id"] = f"20260131T090000123-{name}-1a2b"
            paths.append(profile.save(tmp_path))
        assert words(claude_pm.compare(*paths))["duration_s"] == "slower"
        with pytest.raises(ProfileNotFoundError):
            compare(paths[0], tmp_path / "nowhere")

    @pytest.mark.parametrize(("a", "said"), [([], "empty list"), ([3], "int cannot be compared")])
    def test_refused(self, a: Any, said: str) -> None:
        """What is no profile is refused in a sentence."""
        with pytest.raises(ComparisonError, match=said):
            compare(a, requests("b"))


class TestConditions:
    def test_block_by_block(self) -> None:
        """Conditions are compared within their blocks: a drifting machine is no difference."""
        drift = [1.0, 1.3, 1.7, 2.2, 2.8, 3.5, 4.3]
        found = trial({"a": drift, "b": [1.2 * s for s in drift], "c": [1.001 * s for s in drift]})
        compared = found.compare()
        said = {
            (row.baseline, row.compared): row.word
            for row in compared.rows
            if row.metric.name == "duration_s"
        }
        assert said == {("a", "b"): "slower", ("a", "c"): "same"}
        assert compared.rows[0].verdict.n_a == 7
        assert not compared.notes

    def test_baseline(self) -> None:
        """Any condition can be the baseline."""
        found = trial({"a": [1.0, 1.1, 0.9, 1.0], "b": [2.0, 2.1, 1.9, 2.0]})
        row = found.compare("b").rows[0]
        assert (row.baseline, row.compared, row.word) == ("b", "a", "faster")
        with pytest.raises(ComparisonError, match="no condition 'z'; it has 'a', 'b'"):
            found.compare("z")

    def test_one_condition(self) -> None:
        """One condition has nothing to be compared with."""
        with pytest.raises(ComparisonError, match="one condition"):
            compare_conditions(trial({"a": [1.0, 1.1]}))

    def test_failures_are_left_out_and_counted(self) -> None:
        """Failed samples do not count, and that is said."""
        compared = trial({"a": [1.0, 1.1, 0.9], "b": [1.0, 1.1, 0.9]}, failed=("b", "b")).compare()
        assert compared.notes == ("2 samples of b failed and are left out.",)
        assert compared.rows[0].verdict.n_b == 3

    def test_all_failed(self) -> None:
        """Where nothing was measured there is nothing to say."""
        with pytest.raises(ComparisonError, match="nothing to compare"):
            trial({"a": [1.0, 1.1], "b": []}, failed=("b",)).compare()

    def test_many_comparisons(self) -> None:
        """The p values know how many comparisons there are: Holm's correction."""
        noisy = {"a": [1.0, 1.1, 0.9, 1.0, 1.2], "b": [1.4, 1.3, 1.2, 1.5, 1.3]}
        several = noisy | dict.fromkeys("cdef", noisy["a"][::-1])
        p_alone, p_several = (
            trial(durations).compare().rows[0].verdict.p_value for durations in (noisy, several)
        )
        assert p_alone is not None
        # Of one comparison of durations and of five; the CPU times are a family of their own.
        assert p_several == pytest.approx(5 * p_alone)

    def test_two_experiments(self) -> None:
        """Two saved experiments are compared condition by condition."""
        base = trial({"a": [1.0, 1.02, 0.98, 1.0, 1.01], "b": [3.0, 3.1, 2.9, 3.0, 3.0]})
        new = trial({"b": [4.0, 4.1, 3.9, 4.0, 4.0], "a": [1.0, 1.01, 0.99, 1.0, 1.0]})
        compared = compare(base, new.profile)
        said = {row.baseline: row.word for row in compared.rows if row.metric.name == "duration_s"}
        assert said == {"a (base)": "same", "b (base)": "slower"}
        assert [row.compared for row in compared.slower()] == ["b (new)"]
        with pytest.raises(ComparisonError, match="no condition in common"):
            compare(base, trial({"z": [1.0, 1.1]}))


class TestExperiment:
    def test_needs_an_experiment(self) -> None:
        """Another profile is none."""
        with pytest.raises(ProfileError, match="not of an experiment"):
            Experiment(requests("plain"))

    def test_samples(self) -> None:
        """One row a sample in the order taken, with what lies below its span."""
        builder = ProfileBuilder(
            "trial", experiment={"conditions": ["a"], "repeat": 1, "warmup": 0, "seed": 1}
        )
        said = {"condition": "a", "block": 0, "order": 0, "cpu_s": 0.25}
        span = builder.span("sample", 1.0, 4.0, attributes=said)
        inner = builder.span("own", 1.0, 4.0, parent=span)
        for start, ttft_s in ((1.0, 0.2), (3.0, 0.4)):
            request = builder.request("qa", "local", start, 2.0, parent=inner, ttft_s=ttft_s)
            builder.span(
                "chat", start, 2.0, parent=request, ttft_s=ttft_s, input_tokens=100,
                cache_read_tokens=60, output_tokens=11, cost_usd=0.5,
            )  # fmt: skip
        builder.span("chat", 9.0, 1.0, input_tokens=5000)  # outside
        builder.memory(0.5, 100)
        builder.memory(2.0, 300)
        builder.memory(2.5, 200)
        builder.memory(2.0, 50, pid=9, role="worker")
        builder.memory(8.0, 900, pid=9, role="worker")
        (row,) = Experiment(builder.build()).samples.to_dict("records")
        assert row["span_id"] == span
        assert (row["condition"], row["block"], row["warmup"]) == ("a", 0, False)
        assert (row["input_tokens"], row["cache_read_tokens"], row["output_tokens"]) == (
            200, 120, 22,
        )  # fmt: skip
        assert row["cost_usd"] == 1.0
        assert row["ttft_s"] == pytest.approx(0.3)
        assert row["tpot_s"] == pytest.approx(((2 - 0.2) / 10 + (2 - 0.4) / 10) / 2)
        assert row["tokens_per_s"] == pytest.approx(22 / 4)
        assert row["cpu_s"] == 0.25
        assert row["peak_rss_bytes"] == 350
