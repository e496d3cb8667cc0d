"""Two sides side by side: for each metric the ratio, its interval, and a verdict."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from claude_pm.analysis.compare_samples import (
    MARGIN,
    Difference,
    Verdict,
    check_margin,
    finite,
    judge,
    measure,
    paired_by_block,
)
from claude_pm.analysis.rows import Row, rows
from claude_pm.analysis.samples import METRICS, Metric, profile_sample, request_samples
from claude_pm.errors import ComparisonError
from claude_pm.profiles import Profile, load, schema
from claude_pm.profiles.experiment import KEY, Experiment

if TYPE_CHECKING:
    import pandas as pd

Side = Profile | Experiment | str | Path
"""What can be compared: a profile, an experiment, or the path or id of a saved one."""

COMPARISON = schema.Table(
    "comparison",
    "one metric of b against a",
    (
        schema.Column("baseline", "string", "what a is"),
        schema.Column("compared", "string", "what b is"),
        schema.Column("metric", "string", "what was measured; units stand in the name"),
        schema.Column("a", "Float64", "median of the baseline"),
        schema.Column("b", "Float64", "median of what is compared with it"),
        schema.Column("ratio", "Float64", "b / a; null where a is zero and b is not"),
        schema.Column("ci_low", "Float64", "lower end of the ratio's 95 % interval"),
        schema.Column("ci_high", "Float64", "upper end of it"),
        schema.Column(
            "verdict", "string", "faster or slower (of others less or more), same, unclear"
        ),
        schema.Column("n_a", "Int64", "samples, or blocks that have both"),
        schema.Column("n_b", "Int64", "samples, or blocks that have both"),
        schema.Column("p_value", "Float64", "of Yuen's test, corrected by Holm's method"),
        schema.Column("superiority", "Float64", "share of pairs in which b is higher; 0.5: none"),
        schema.Column("more_repeats", "Int64", "if unclear: how many more would likely decide it"),
    ),
)

PRIMARY = "duration_s"

_SEPARATE = (
    "The sides were recorded one after the other: a machine that was busier in between counts as a "
    "difference. claude_pm.experiment measures them in turns."
)


@dataclass(frozen=True, slots=True)
class Compared:
    """One row of a comparison."""

    baseline: str
    compared: str
    metric: Metric
    verdict: Verdict
    word: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """What the samples of two or more sides say of each metric.

    ``table`` is a DataFrame (:data:`COMPARISON` declares its columns), ``notes`` says what to bear
    in mind. Printed, it is a verdict a line.
    """

    rows: tuple[Compared, ...]
    notes: tuple[str, ...]
    margin: float

    @property
    def table(self) -> pd.DataFrame:
        """One row a metric and compared side."""
        return schema.frame_from_rows(COMPARISON, [_row(row) for row in self.rows])

    def slower(self, metric: str = PRIMARY) -> list[Compared]:
        """Return the sides that are slower by that metric."""
        return [row for row in self.rows if row.metric.name == metric and row.word == "slower"]

    def to_html(self, path: str | Path) -> Path:
        """Write the verdicts as one HTML file that opens anywhere. Return its path."""
        from claude_pm.views.comparison import write_comparison

        return write_comparison(self, path)

    def to_markdown(self) -> str:
        """Return a Markdown table, for a pull request."""
        from claude_pm.views.comparison import comparison_markdown

        return comparison_markdown(self)

    def __str__(self) -> str:
        """Return a verdict a line."""
        from claude_pm.views.comparison import comparison_text

        return comparison_text(self)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        """Show the verdicts (IPython's display protocol)."""
        del include, exclude
        from claude_pm.views.comparison import comparison_html

        return {"text/plain": str(self), "text/html": comparison_html(self)}


def compare(
    a: Side | Sequence[Side], b: Side | Sequence[Side], *, margin: float = MARGIN
) -> Comparison:
    """Compare b with a, metric by metric.

    A side is a profile or an experiment, or the path or id of a saved one, or a list of them.
    What counts as a sample:

    - of two experiments, the samples of each condition that both have, compared by itself;
    - of two profiles with requests, each answered request, warm-ups left out;
    - of a list of several, or of profiles without requests, each profile as a whole (the medians of
      its requests).

    Args:
        a: the baseline.
        b: what is compared with it.
        margin: differences of less than this share do not matter.

    Raises:
        ComparisonError: there is nothing to compare.
        ProfileError: a profile was not found or cannot be read.
    """
    check_margin(margin)
    of_a, of_b = _profiles(a), _profiles(b)
    notes = [_SEPARATE]
    name_a, name_b = _name(of_a), _name(of_b)
    if name_a == name_b:
        name_a, name_b = f"{name_a} (base)", f"{name_b} (new)"
    if len(of_a) == len(of_b) == 1:
        if KEY in of_a[0].meta and KEY in of_b[0].meta:
            return _compare_experiments(of_a[0], of_b[0], margin)
        requests_a, requests_b = request_samples(of_a[0]), request_samples(of_b[0])
        if len(requests_a) and len(requests_b):
            notes += _differing_agents(of_a[0], of_b[0])
            pairs = _unpaired(name_a, rows(requests_a), name_b, rows(requests_b))
            return _judged(pairs, margin, notes)
    pairs = _unpaired(
        name_a, [profile_sample(one) for one in of_a], name_b, [profile_sample(one) for one in of_b]
    )
    return _judged(pairs, margin, notes)


def compare_conditions(
    experiment: Experiment, baseline: str | None = None, *, margin: float = MARGIN
) -> Comparison:
    """Compare every other condition of an experiment with one, block by block.

    Raises:
        ComparisonError: there is no such condition, or only one.
    """
    check_margin(margin)
    conditions = experiment.conditions
    base = conditions[0] if baseline is None else baseline
    if base not in conditions:
        raise ComparisonError(
            f"The experiment {experiment.name!r} has no condition {base!r}; it has "
            f"{', '.join(map(repr, conditions))}."
        )
    if len(conditions) == 1:
        raise ComparisonError(
            f"The experiment {experiment.name!r} has one condition, {base!r}: there is nothing to "
            "compare it with."
        )
    samples = _counted(experiment)
    pairs = []
    for condition in conditions:
        if condition == base:
            continue
        of_a = [row for row in samples if row["condition"] == base]
        of_b = [row for row in samples if row["condition"] == condition]
        for metric in METRICS:
            paired = paired_by_block(
                [row[metric.name] for row in of_a],
                [row["block"] for row in of_a],
                [row[metric.name] for row in of_b],
                [row["block"] for row in of_b],
            )
            if _is_measured(of_a, of_b, metric):
                pairs.append((base, condition, metric, measure(*paired, paired=True)))
    return _judged(pairs, margin, _failures(experiment))


_Pair = tuple[str, str, Metric, Difference]


def _compare_experiments(a: Profile, b: Profile, margin: float) -> Comparison:
    first, second = Experiment(a), Experiment(b)
    shared = [name for name in first.conditions if name in second.conditions]
    if not shared:
        raise ComparisonError(
            f"The experiments have no condition in common: {a.name!r} has "
            f"{', '.join(first.conditions)}; {b.name!r} has {', '.join(second.conditions)}."
        )
    pairs: list[_Pair] = []
    of_a, of_b = _counted(first), _counted(second)
    for name in shared:
        pairs += _unpaired(
            f"{name} (base)",
            [row for row in of_a if row["condition"] == name],
            f"{name} (new)",
            [row for row in of_b if row["condition"] == name],
        )
    return _judged(pairs, margin, [_SEPARATE, *_failures(first), *_failures(second)])


def _profiles(side: Side | Sequence[Side]) -> list[Profile]:
    sides = [side] if isinstance(side, Profile | Experiment | str | Path) else list(side)
    if not sides:
        raise ComparisonError("An empty list of profiles cannot be compared.")
    found = []
    for one in sides:
        if isinstance(one, Experiment):
            found.append(one.profile)
        elif isinstance(one, Profile):
            found.append(one)
        elif isinstance(one, str | Path):
            found.append(load(one))
        else:
            raise ComparisonError(
                f"A {type(one).__name__} cannot be compared: give profiles, experiments, or the "
                "paths or ids of saved ones."
            )
    return found


def _name(profiles: list[Profile]) -> str:
    names = list(dict.fromkeys(profile.name for profile in profiles))
    count = f" (n = {len(profiles)})" if len(profiles) > 1 else ""
    return ", ".join(names) + count


def _counted(experiment: Experiment) -> list[Row]:
    return [row for row in rows(experiment.samples) if row["status"] == "ok" and not row["warmup"]]


def _failures(experiment: Experiment) -> list[str]:
    samples = experiment.samples
    failed = samples[(samples["status"] != "ok") & ~samples["warmup"]]
    counts = failed.groupby("condition", sort=False).size()
    return [
        f"{count} {'sample' if count == 1 else 'samples'} of {condition} failed and "
        f"{'is' if count == 1 else 'are'} left out."
        for condition, count in counts.items()
    ]


def _differing_agents(a: Profile, b: Profile) -> list[str]:
    """Say where the sides asked other agents, or the same in other shares."""
    shares = []
    for profile in (a, b):
        spans = profile.spans
        counts = spans.loc[spans["name"] == "orchestrate", "agent"].value_counts(normalize=True)
        shares.append(counts.round(2).to_dict())
    if shares[0] == shares[1]:
        return []
    return ["The sides did not ask the same agents in the same shares: that alone can differ."]


def _unpaired(name_a: str, of_a: Sequence[Row], name_b: str, of_b: Sequence[Row]) -> list[_Pair]:
    return [
        (
            name_a,
            name_b,
            metric,
            measure(
                finite([row[metric.name] for row in of_a], metric.name),
                finite([row[metric.name] for row in of_b], metric.name),
                paired=False,
            ),
        )
        for metric in METRICS
        if _is_measured(of_a, of_b, metric)
    ]


def _is_measured(of_a: Iterable[Row], of_b: Iterable[Row], metric: Metric) -> bool:
    return all(any(row[metric.name] is not None for row in side) for side in (of_a, of_b))


def _judged(pairs: Sequence[_Pair], margin: float, notes: Sequence[str]) -> Comparison:
    """Judge all differences, each by a p value that knows how many there are.

    The duration is what is asked for first: it is corrected for the number of sides alone, as the
    primary endpoint of a trial is. All other metrics are corrected together.
    """
    if not pairs:
        raise ComparisonError(
            "There is nothing to compare: no metric was measured on both sides without failing."
        )
    p_values = dict[int, float]()
    for is_primary in (True, False):
        family = {
            number: pair[3].p_value
            for number, pair in enumerate(pairs)
            if (pair[2].name == PRIMARY) is is_primary and pair[3].p_value is not None
        }
        p_values |= zip(family, _holm(list(family.values())), strict=True)
    compared = []
    for number, (baseline, name, metric, difference) in enumerate(pairs):
        verdict = judge(difference, margin=margin, p_value=p_values.get(number))
        compared.append(Compared(baseline, name, metric, verdict, _word(metric, verdict)))
    return Comparison(tuple(compared), tuple(notes), margin)


def _holm(p_values: Sequence[float]) -> list[float]:
    """Return the p values by Holm's step-down correction (1979, Scand. J. Statistics 6)."""
    count = len(p_values)
    order = np.argsort(p_values, kind="stable")
    stepped = np.maximum.accumulate(np.sort(p_values) * np.arange(count, 0, -1))
    corrected = np.empty(count)
    corrected[order] = np.minimum(stepped, 1)
    return corrected.tolist()


def _word(metric: Metric, verdict: Verdict) -> str:
    """Return what the verdict is called for the metric: of tokens none is faster."""
    if verdict.verdict in {"same", "unclear"}:
        return verdict.verdict
    is_higher = verdict.verdict == "slower"
    if not metric.is_speed:
        return "more" if is_higher else "less"
    return "faster" if is_higher == (metric.better == "higher") else "slower"


def _row(row: Compared) -> Row:
    verdict = row.verdict
    return {
        "baseline": row.baseline,
        "compared": row.compared,
        "metric": row.metric.name,
        "a": verdict.median_a,
        "b": verdict.median_b,
        "verdict": row.word,
        **{name: getattr(verdict, name) for name in _SAME_NAMES},
        "more_repeats": verdict.more_repeats if row.word == "unclear" else None,
    }


_SAME_NAMES = ("ratio", "ci_low", "ci_high", "n_a", "n_b", "p_value", "superiority")
