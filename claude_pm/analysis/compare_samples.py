"""Whether two sets of measurements differ, and by how much: what a statistician would sign."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np  # scipy is imported where it is used: it takes its time

from claude_pm.errors import ComparisonError

VerdictWord = Literal["faster", "slower", "same", "unclear"]

MARGIN = 0.05
CONFIDENCE = 0.95
MOST_REPEATS = 10_000
_RESAMPLES = 4_999
_TRIM = 0.2
_ROUNDING = 1e-12
_FEW = 6
"""Below this, resampling cannot give 95 %: all samples lie on one side in 2 of 2^n cases."""
_SEED = 20_240_229
"""The resampling is seeded: the same samples always give the same interval."""


@dataclass(frozen=True, slots=True)
class Difference:
    """How b differs from a, before anybody judges it."""

    n_a: int
    n_b: int
    paired: bool
    """Whether they were compared block by block."""
    median_a: float | None
    median_b: float | None
    ratio: float | None
    """median_b / median_a; None where median_a is zero and median_b is not."""
    ci_low: float | None
    ci_high: float | None
    p_value: float | None
    """Of Yuen's test for trimmed means; None with fewer than two samples of each."""
    superiority: float | None
    """Share of pairs (of one a and one b) in which b is higher, ties counting half."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the samples say of b against a.

    ``ratio`` is median b / median a with its interval ``ci_low`` to ``ci_high`` (95 %).
    ``verdict`` is of b: ``faster`` or ``slower`` (it is lower or higher, by more than the margin),
    ``same`` (no difference beyond the margin), or ``unclear``: not enough data, and then
    ``more_repeats`` says how many more of each would likely decide it (None: nobody knows, or more
    than 10,000).
    """

    verdict: VerdictWord
    ratio: float | None
    ci_low: float | None
    ci_high: float | None
    p_value: float | None
    superiority: float | None
    median_a: float | None
    median_b: float | None
    n_a: int
    n_b: int
    margin: float
    more_repeats: int | None

    def __str__(self) -> str:
        """Return the verdict in one line."""
        if self.ratio is None or self.ci_low is None or self.ci_high is None:
            found = "no ratio is known"
        else:
            found = f"{self.ratio:.3f} times as long ({self.ci_low:.3f} to {self.ci_high:.3f})"
        more = ""
        if self.verdict == "unclear" and self.more_repeats is not None:
            more = f"; about {self.more_repeats} more of each would likely decide"
        return f"{self.verdict}: {found}, n = {self.n_a} and {self.n_b}{more}"


def compare_samples(
    a: Sequence[float],
    b: Sequence[float],
    *,
    blocks: Sequence[Any] | tuple[Sequence[Any], Sequence[Any]] | None = None,
    margin: float = MARGIN,
) -> Verdict:
    """Return whether b is faster or slower than a: of durations, or of anything where less is less.

    ``faster`` and ``slower`` need all of three: the 95 % interval of the ratio of medians leaves
    out 1; Yuen's test of 20 % trimmed means of the logarithms gives p below 0.05; and the ratio
    itself is beyond the margin. ``same`` needs the whole interval within the margin (as in a test
    of equivalence). Everything else is ``unclear``.

    The interval is a percentile bootstrap, expanded for few samples (Hesterberg 2015, What
    Teachers Should Know About the Bootstrap: without that it is too narrow below some 30 samples);
    below six samples it is Student's for the logarithms, widened for medians. Yuen's test (1974,
    Biometrika 61) is the t test for samples with outliers.

    Args:
        a: the samples of the baseline; nulls and NaN are left out.
        b: the samples that are compared with it.
        blocks: which samples belong together, because they were measured side by side: one label
            for each a and the b at the same place, or two lists of labels, one for a and one for
            b. Blocks are resampled and tested as a whole, so what disturbs whole blocks, such as a
            machine that slows down, does not count as a difference. Several samples of a block
            count as their median; blocks that lack an a or a b are left out. Without blocks all
            samples count as independent.
        margin: differences of less than this share of a do not matter.

    Raises:
        ComparisonError: lengths do not fit, the margin is not above 0 and below 1, or a sample is
            infinite.
    """
    check_margin(margin)
    difference = measure(*_as_pairs(a, b, blocks), paired=blocks is not None)
    return judge(difference, margin=margin)


def check_margin(margin: float) -> None:
    """Refuse a margin that is none.

    Raises:
        ComparisonError: it is not above 0 and below 1.
    """
    if not 0 < margin < 1:
        raise ComparisonError(f"The margin is {margin}; it may be above 0 and below 1, as 0.05.")


def measure(a: np.ndarray, b: np.ndarray, *, paired: bool) -> Difference:
    """Return the difference of two arrays of finite floats, of equal length where paired."""
    few = min(len(a), len(b)) < 2  # noqa: PLR2004 - nothing is known of a spread below two
    median_a = float(np.median(a)) if len(a) else None
    median_b = float(np.median(b)) if len(b) else None
    low, high = (None, None) if few else _interval(a, b, paired=paired)
    return Difference(
        n_a=len(a),
        n_b=len(b),
        paired=paired,
        median_a=median_a,
        median_b=median_b,
        ratio=_ratio(median_a, median_b),
        ci_low=low,
        ci_high=high,
        p_value=None if few else _p_value(a, b, paired=paired),
        superiority=_superiority(a, b, paired=paired),
    )


def judge(difference: Difference, *, margin: float, p_value: float | None = None) -> Verdict:
    """Return the verdict on a difference; ``p_value`` replaces its own where it was corrected."""
    p_used = difference.p_value if p_value is None else p_value
    return Verdict(
        verdict=_word(difference, margin, p_used),
        ratio=difference.ratio,
        ci_low=difference.ci_low,
        ci_high=difference.ci_high,
        p_value=p_used,
        superiority=difference.superiority,
        median_a=difference.median_a,
        median_b=difference.median_b,
        n_a=difference.n_a,
        n_b=difference.n_b,
        margin=margin,
        more_repeats=_more_repeats(difference, margin),
    )


def median_interval(samples: Sequence[float]) -> tuple[float, float] | None:
    """Return the 95 % interval of the median of samples; None of fewer than two."""
    values = np.asarray(samples, dtype=float)
    if len(values) < 2:  # noqa: PLR2004 - as above
        return None
    # As a ratio to what never changes.
    low, high = _interval(np.ones(len(values)), values, paired=True)
    return None if low is None or high is None else (low, high)


def paired_by_block(
    a: Sequence[float], blocks_a: Sequence[Any], b: Sequence[float], blocks_b: Sequence[Any]
) -> tuple[np.ndarray, np.ndarray]:
    """Return one a and one b for each block that has both: the medians of its samples."""
    of_a, of_b = _by_block(a, blocks_a), _by_block(b, blocks_b)
    shared = [block for block in of_a if block in of_b]
    return (
        np.array([np.median(of_a[block]) for block in shared], dtype=float),
        np.array([np.median(of_b[block]) for block in shared], dtype=float),
    )


def finite(values: Sequence[float], name: str) -> np.ndarray:
    """Return the values that are known as floats.

    Raises:
        ComparisonError: one is infinite.
    """
    found = np.array([math.nan if _is_null(value) else float(value) for value in values])
    if np.isinf(found).any():
        raise ComparisonError(f"The samples of {name} hold an infinite value: there is no median.")
    known: np.ndarray = found[~np.isnan(found)]
    return known


def _is_null(value: Any) -> bool:
    # None, NaN and pandas.NA, which has no truth value.
    return value is None or type(value).__name__ == "NAType" or value != value  # noqa: PLR0124


def _as_pairs(a: Sequence[float], b: Sequence[float], blocks: Any) -> tuple[np.ndarray, np.ndarray]:
    a, b = list(a), list(b)
    if blocks is None:
        return finite(a, "a"), finite(b, "b")
    two = (
        isinstance(blocks, tuple)
        and len(blocks) == 2  # noqa: PLR2004 - one list of labels each
        and all(hasattr(labels, "__len__") and not isinstance(labels, str) for labels in blocks)
    )
    blocks_a, blocks_b = map(list, blocks) if two else (list(blocks), list(blocks))
    for name, samples, labels in (("a", a, blocks_a), ("b", b, blocks_b)):
        if len(samples) != len(labels):
            raise ComparisonError(
                f"{len(samples)} samples of {name} have {len(labels)} labels of blocks: each "
                "sample needs one."
            )
    finite(a, "a")
    finite(b, "b")
    return paired_by_block(a, blocks_a, b, blocks_b)


def _by_block(samples: Sequence[float], blocks: Sequence[Any]) -> dict[Any, list[float]]:
    found: dict[Any, list[float]] = {}
    for sample, block in zip(samples, blocks, strict=True):
        if not _is_null(sample):
            found.setdefault(block, []).append(float(sample))
    return found


def _ratio(median_a: float | None, median_b: float | None) -> float | None:
    if median_a is None or median_b is None:
        return None
    if median_a == median_b:
        return 1.0
    return median_b / median_a if median_a else None


def _interval(
    a: np.ndarray, b: np.ndarray, *, paired: bool
) -> tuple[float, float] | tuple[None, None]:
    from scipy import stats

    n = min(len(a), len(b))
    if np.ptp(a) == 0 and np.ptp(b) == 0:
        ratio = _ratio(a[0], b[0])
        return (None, None) if ratio is None else (ratio, ratio)
    if n < _FEW and min(a.min(), b.min()) > 0:
        return _student_interval(np.log(a), np.log(b), paired=paired)
    # The percentiles that a t interval with the right variance would have.
    t = stats.t.ppf((1 + CONFIDENCE) / 2, n - 1) * math.sqrt(n / (n - 1))
    rng = np.random.default_rng(_SEED)
    picked_a = rng.integers(0, len(a), (_RESAMPLES, len(a)))
    picked_b = picked_a if paired else rng.integers(0, len(b), (_RESAMPLES, len(b)))
    below = np.median(a[picked_a], axis=1)
    above = np.median(b[picked_b], axis=1)
    if (below == 0).any():
        return None, None
    outside = stats.norm.sf(t)
    low, high = np.quantile(above / below, [outside, 1 - outside])
    return float(low), float(high)


def _student_interval(a: np.ndarray, b: np.ndarray, *, paired: bool) -> tuple[float, float]:
    """Return the interval of the ratio of medians of logarithms, as if those were normal."""
    from scipy import stats

    centre = np.median(b) - np.median(a)
    if paired:
        error, freedom = (b - a).std(ddof=1) / math.sqrt(len(a)), float(len(a) - 1)
    else:
        of_a, of_b = a.var(ddof=1) / len(a), b.var(ddof=1) / len(b)
        error = math.sqrt(of_a + of_b)
        shares = of_a**2 / (len(a) - 1) + of_b**2 / (len(b) - 1)
        freedom = error**4 / shares if shares else math.inf
    # A median of normal samples varies by sqrt(pi / 2) more than their mean.
    reach = stats.t.ppf((1 + CONFIDENCE) / 2, freedom) * error * math.sqrt(math.pi / 2)
    with np.errstate(over="ignore"):
        return float(np.exp(centre - reach)), float(np.exp(centre + reach))


def _p_value(a: np.ndarray, b: np.ndarray, *, paired: bool) -> float:
    """Return the p value of Yuen's test (1974), of one sample of differences where paired."""
    from scipy import stats

    if min(a.min(), b.min()) > 0:
        a, b = np.log(a), np.log(b)
    sides = [b - a] if paired else [a, b]
    trimmed = [stats.trim_mean(side, _TRIM) for side in sides]
    difference = trimmed[0] if paired else trimmed[1] - trimmed[0]
    errors, freedoms = zip(*map(_squared_error, sides), strict=True)
    error = math.sqrt(sum(errors))
    # What remains of rounding is no spread.
    if error <= _ROUNDING * max(1e-300, *map(abs, trimmed)):
        return float(abs(difference) <= _ROUNDING * max(map(abs, trimmed)))
    freedom = sum(errors) ** 2 / sum(
        squared**2 / own for squared, own in zip(errors, freedoms, strict=True)
    )
    return float(2 * stats.t.sf(abs(difference) / error, freedom))


def _squared_error(values: np.ndarray) -> tuple[float, int]:
    """Return the squared standard error of a trimmed mean, and its degrees of freedom."""
    cut = int(_TRIM * len(values))
    left = len(values) - 2 * cut
    ordered = np.sort(values)
    winsorized = np.clip(values, ordered[cut], ordered[-1 - cut])
    squared = (len(values) - 1) * winsorized.var(ddof=1) / (left * (left - 1))
    return float(squared), left - 1


def _superiority(a: np.ndarray, b: np.ndarray, *, paired: bool) -> float | None:
    from scipy import stats

    if not len(a) or not len(b):
        return None
    if paired:
        return float((np.sign(b - a).mean() + 1) / 2)
    return float(stats.mannwhitneyu(b, a).statistic / (len(a) * len(b)))


def _word(difference: Difference, margin: float, p_value: float | None) -> VerdictWord:
    if p_value is None or difference.median_a is None or difference.median_b is None:
        return "unclear"
    significant = p_value < 1 - CONFIDENCE
    low, high, ratio = difference.ci_low, difference.ci_high, difference.ratio
    if low is None or high is None or ratio is None:
        # Nothing can be divided by zero: what was none and is some now is a difference.
        if significant and difference.median_a != difference.median_b:
            return "slower" if difference.median_b > difference.median_a else "faster"
        return "unclear"
    if _beyond(ratio, margin) and significant and not low <= 1 <= high:
        return "slower" if ratio > 1 else "faster"
    if not _beyond(low, margin) and not _beyond(high, margin):
        return "same"
    return "unclear"


def _beyond(ratio: float, margin: float) -> bool:
    return not 1 / (1 + margin) <= ratio <= 1 + margin


def _more_repeats(difference: Difference, margin: float) -> int | None:
    """Return how many more samples of each would narrow the interval enough: its width ~ 1/sqrt(n).

    Enough is to leave out 1 where the ratio is beyond the margin, else to fit into the margin.
    """
    low, high, ratio = difference.ci_low, difference.ci_high, difference.ratio
    if low is None or high is None or not ratio or low <= 0:
        return None
    n = min(difference.n_a, difference.n_b)
    distance, edge = abs(math.log(ratio)), math.log1p(margin)
    allowed = distance if distance > edge else edge - distance
    half_width = max(math.log(high / ratio), math.log(ratio / low))
    if allowed <= 0:
        return None
    needed = n * (half_width / allowed) ** 2
    return max(1, math.ceil(needed) - n) if needed <= MOST_REPEATS else None
