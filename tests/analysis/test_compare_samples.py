"""Verdicts on samples, simulated with seeds: what is true is known, so nothing here is timed."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from claude_pm.analysis import compare_samples
from claude_pm.analysis.compare_samples import median_interval
from claude_pm.errors import ComparisonError

EXPERIMENTS = 400
FALSE_ALARMS = 0.05
POWER = 0.90

SPREAD = 0.05


def noisy(kind: str, rng: np.random.Generator, n: int) -> np.ndarray:
    """Return n durations about 1, in the order in which they were measured."""
    if kind == "normal":
        return 1 + SPREAD * rng.standard_normal(n)
    if kind == "lognormal":
        return np.exp(0.3 * rng.standard_normal(n))
    if kind == "bimodal":
        mode = np.where(rng.random(n) < 0.3, 1.5, 1.0)
        return mode * (1 + 0.03 * rng.standard_normal(n))
    # A machine that gets half as slow again while the experiment lasts.
    return np.linspace(1, 1.5, n) * (1 + SPREAD * rng.standard_normal(n))


def interleaved(kind: str, rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return n samples each of a and b, which took turns in blocks of two, in random order."""
    both = noisy(kind, rng, 2 * n).reshape(n, 2)
    a_first = rng.random(n) < 0.5
    return np.where(a_first, both[:, 0], both[:, 1]), np.where(a_first, both[:, 1], both[:, 0])


@pytest.mark.slow
@pytest.mark.parametrize("n", [5, 10, 30])
@pytest.mark.parametrize("kind", ["normal", "lognormal", "bimodal", "drifting"])
@pytest.mark.parametrize("in_blocks", [True, False], ids=["blocks", "no blocks"])
def test_false_alarms(kind: str, n: int, in_blocks: bool) -> None:
    """Where nothing differs, faster and slower come in at most 5 % of experiments."""
    rng = np.random.default_rng([n, len(kind)])
    blocks = list(range(n)) if in_blocks else None
    said = Counter(
        compare_samples(*interleaved(kind, rng, n), blocks=blocks).verdict
        for _ in range(EXPERIMENTS)
    )
    assert (said["faster"] + said["slower"]) / EXPERIMENTS <= FALSE_ALARMS


@pytest.mark.slow
def test_power() -> None:
    """A slowdown of 10 % under noise of 5 % is found in at least 90 % at n = 20."""
    rng = np.random.default_rng(20)
    said: Counter[str] = Counter()
    for _ in range(EXPERIMENTS):
        a, b = interleaved("normal", rng, 20)
        said[compare_samples(a, 1.1 * b, blocks=range(20)).verdict] += 1
    assert said["slower"] / EXPERIMENTS >= POWER
    assert not said["faster"]
    assert not said["same"]


@pytest.mark.slow
def test_interval_holds_the_truth() -> None:
    """The interval holds the true ratio in about 95 % of experiments, with few samples too."""
    rng = np.random.default_rng(95)
    for n in (3, 5, 8, 20):
        held = 0
        for _ in range(200):
            a, b = interleaved("normal", rng, n)
            verdict = compare_samples(a, 1.2 * b, blocks=range(n))
            assert verdict.ci_low is not None
            assert verdict.ci_high is not None
            held += verdict.ci_low <= 1.2 <= verdict.ci_high
        assert held / 200 >= 0.91, n


class TestVerdict:
    def test_slower(self) -> None:
        """The words are of b; the ratio is that of the medians."""
        a = [1.0, 1.02, 0.98, 1.01, 0.99, 1.0]
        b = [2.0, 2.02, 1.98, 2.03, 1.97, 2.0]
        slower, faster = compare_samples(a, b), compare_samples(b, a)
        assert (slower.verdict, faster.verdict) == ("slower", "faster")
        assert slower.ratio == 2.0
        assert faster.ratio == 0.5
        assert slower.ci_low is not None
        assert slower.ci_high is not None
        assert 1.9 < slower.ci_low < 2.0 < slower.ci_high < 2.1
        assert (slower.superiority, faster.superiority) == (1.0, 0.0)
        assert (slower.n_a, slower.n_b) == (6, 6)

    def test_same(self) -> None:
        """Same is said where the whole interval lies within the margin, and only there."""
        a = [1.0, 1.01, 0.99, 1.005, 0.995, 1.0, 1.002, 0.998]
        b = [sample * 1.01 for sample in a]
        assert compare_samples(a, b).verdict == "same"
        assert compare_samples(a, b, margin=0.005).verdict != "same"

    def test_small_but_certain(self) -> None:
        """A difference within the margin is none, however certain it is."""
        a = list(np.linspace(1.0, 1.002, 30))
        assert compare_samples(a, [1.03 * sample for sample in a]).verdict == "same"
        assert compare_samples(a, [1.03 * sample for sample in a], margin=0.02).verdict == "slower"

    def test_unclear(self) -> None:
        """Too few samples for the noise are unclear, and it is said how many more would do."""
        rng = np.random.default_rng(7)
        a, b = rng.normal(1, 0.2, 10), rng.normal(1.1, 0.2, 10)
        verdict = compare_samples(a, b)
        assert verdict.verdict == "unclear"
        assert verdict.more_repeats is not None
        enough = 10 + 2 * verdict.more_repeats
        decided = compare_samples(rng.normal(1, 0.2, enough), rng.normal(1.1, 0.2, enough))
        assert decided.verdict != "unclear"

    def test_machine_that_slows_down(self) -> None:
        """Blocks take the drift out of the comparison; without them it drowns the difference."""
        drift = np.linspace(1, 3, 12)
        a, b = drift, 1.2 * drift
        assert compare_samples(a, b, blocks=range(12)).verdict == "slower"
        assert compare_samples(a, b).verdict == "unclear"

    def test_one_outlier(self) -> None:
        """One sample that met a hiccup does not hide what all others show."""
        a = [1.0, 1.01, 0.99, 1.0, 1.02, 0.98, 1.01, 0.99, 1.0, 9.0]
        b = [1.3 * sample for sample in [1.0, 1.01, 0.99, 1.0, 1.02, 0.98, 1.01, 0.99, 1.0, 1.0]]
        assert compare_samples(a, b).verdict == "slower"

    def test_text(self) -> None:
        """In print it is one line with the ratio, its interval and n."""
        text = str(compare_samples([1.0, 1.1, 0.9], [5.0, 5.5, 4.5]))
        assert text.startswith("slower: 5.000 times")
        assert "n = 3 and 3" in text
        assert "more of each" in str(compare_samples([1.0, 2.0, 3.0], [2.0, 1.0, 3.5]))


def test_yuen() -> None:
    """The p value is that of Yuen's test as scipy computes it, of the logarithms."""
    rng = np.random.default_rng(4)
    a, b = rng.lognormal(0, 0.2, 14), rng.lognormal(0.1, 0.3, 9)
    theirs = stats.ttest_ind(np.log(a), np.log(b), equal_var=False, trim=0.2).pvalue
    assert compare_samples(a, b).p_value == pytest.approx(theirs)


class TestEdges:
    @pytest.mark.parametrize(("a", "b"), [([], []), ([1.0], [2.0]), ([1.0, 2.0], [])])
    def test_too_few(self, a: list[float], b: list[float]) -> None:
        """Fewer than two samples say nothing of spread, so nothing is said."""
        verdict = compare_samples(a, b)
        assert verdict.verdict == "unclear"
        assert verdict.ci_low is None
        assert verdict.p_value is None
        assert verdict.more_repeats is None

    def test_constants(self) -> None:
        """What never varies is the same, or differs for certain."""
        assert compare_samples([3.0] * 4, [3.0] * 4).verdict == "same"
        assert compare_samples([3.0] * 4, [4.0] * 4, blocks=range(4)).verdict == "slower"
        assert compare_samples([4.0] * 4, [3.0] * 4).verdict == "faster"

    def test_zeros(self) -> None:
        """Nothing can be divided by zero: none against some has a verdict, but no ratio."""
        none, some = [0.0] * 5, [900.0, 901.0, 899.0, 900.0, 900.0]
        verdict = compare_samples(none, some)
        assert (verdict.verdict, verdict.ratio, verdict.ci_low) == ("slower", None, None)
        assert compare_samples(some, none).verdict == "faster"
        assert compare_samples(some, none).ratio == 0
        assert compare_samples(none, none).verdict == "same"

    @pytest.mark.parametrize("null", [None, math.nan, pd.NA, np.nan])
    def test_nulls_are_left_out(self, null: Any) -> None:
        """What is not known does not count; of a block, both sides go."""
        a, b = [1.0, null, 1.1, 1.05], [1.0, 1.0, null, 1.05]
        assert compare_samples(a, b).n_a == 3
        assert compare_samples(a, b, blocks=range(4)).n_a == 2

    def test_blocks_of_each_side(self) -> None:
        """Two lists of labels pair samples of unequal number; several of a block are its median."""
        verdict = compare_samples(
            [1.0, 3.0, 2.0, 5.0], [4.0, 2.0, 7.0], blocks=(["x", "x", "y", "z"], ["y", "x", "w"])
        )
        assert (verdict.n_a, verdict.n_b) == (2, 2)
        assert verdict.median_a == 2.0
        assert verdict.median_b == 3.0

    def test_two_blocks(self) -> None:
        """Labels of two blocks are labels, not two lists of them."""
        assert compare_samples([1.0, 2.0], [1.0, 2.0], blocks=["xy", "zw"]).n_a == 2

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            ({"blocks": [1, 2]}, "3 samples of a have 2 labels"),
            ({"margin": 0}, "margin is 0"),
            ({"margin": 1.5}, "margin is 1.5"),
            ({"b": [1.0, math.inf, 2.0]}, "infinite"),
        ],
    )
    def test_refused(self, arguments: dict[str, Any], said: str) -> None:
        """What cannot be compared is refused in a sentence."""
        with pytest.raises(ComparisonError, match=said):
            compare_samples(**{"a": [1.0, 2.0, 3.0], "b": [1.0, 2.0, 3.0]} | arguments)

    def test_interval_of_a_median(self) -> None:
        """A median's interval lies about it; of one sample there is none."""
        interval = median_interval([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0])
        assert interval is not None
        assert 1.0 <= interval[0] < 4.0 < interval[1] <= 7.0
        assert median_interval([1.0]) is None


@given(
    st.lists(st.floats(1e-6, 1e6), min_size=2, max_size=12),
    st.lists(st.floats(1e-6, 1e6), min_size=2, max_size=12),
)
def test_consistent(a: list[float], b: list[float]) -> None:
    """Always the same answer; a verdict never contradicts its own interval."""
    verdict = compare_samples(a, b)
    assert verdict == compare_samples(a, b)
    assert verdict.ratio is not None
    if verdict.ci_low is not None and verdict.ci_high is not None:
        assert verdict.ci_low <= verdict.ci_high
        if verdict.verdict == "slower":
            assert verdict.ci_low > 1
        if verdict.verdict == "faster":
            assert verdict.ci_high < 1
