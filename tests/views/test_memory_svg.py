"""Memory over the time axis of the timeline."""

from __future__ import annotations

import re

import pytest

from claude_pm.views.memory_svg import memory_svg
from claude_pm.views.reading import Reading
from claude_pm.views.timeline_svg import timeline_svg
from tests.profile_builder import ProfileBuilder
from tests.views.drawings import number, text_of, titles, tree, with_class
from tests.views.markup import parse
from tests.views.profiles import HOSTILE, empty, hostile, two_modes


def points(builder: ProfileBuilder) -> list[list[tuple[float, float]]]:
    """Return the curves, each a list of places in the plot."""
    (plot,) = with_class(tree(memory_svg(Reading(builder.build()))), "claude-pm-plot")
    return [
        [(float(x), float(y)) for x, y in re.findall(r"([\d.]+) ([\d.]+)", str(path.get("d")))]
        for path in plot.iter("path")
    ]


def test_shares_the_axis_of_the_timeline() -> None:
    """The same time is at the same place, also where a worker outlived the profile."""
    builder = two_modes()
    builder.memory(0.0, 100_000_000)
    builder.memory(44.0, 120_000_000)
    reading = Reading(builder.build())
    drawings = [tree(timeline_svg(reading)), tree(memory_svg(reading))]
    assert [drawing.get("data-duration-s") for drawing in drawings] == ["44", "44"]
    plots = [with_class(drawing, "claude-pm-plot")[0] for drawing in drawings]
    assert len({(plot.get("x"), plot.get("width")) for plot in plots}) == 1
    ticks = [
        [(line.get("x1"), text.text) for line, text in zip(
            axis.findall("line"), axis.findall("text"), strict=False)]
        for drawing in drawings
        for axis in with_class(drawing, "claude-pm-ticks")
    ]  # fmt: skip
    assert ticks[0] == ticks[1]


def test_draws_a_curve_a_process_in_megabytes() -> None:
    """A megabyte is a million bytes; the key and the axis say the peaks."""
    builder = ProfileBuilder(duration_s=10.0)
    for t_s, size in ((0.0, 100_000_000), (5.0, 200_000_000), (6.0, None)):
        builder.memory(t_s, size)
    builder.memory(2.0, 50_000_000, pid=5000, role="worker")
    builder.memory(4.0, 60_000_000, pid=5000, role="worker")
    drawing = tree(memory_svg(Reading(builder.build())))
    assert drawing.get("aria-label") == (
        "Resident memory over time. Peak resident memory: 200 MB (kernel), 60 MB (worker)."
    )
    assert {"kernel 4100: at most 200 MB", "worker 5000: at most 60 MB"} <= set(titles(drawing))
    assert "200 MB" in text_of(drawing)
    worker, kernel = points(builder)
    assert [x for x, _ in kernel] == [0, 500]
    assert [x for x, _ in worker] == [200, 400]
    # Twice the memory is twice the height; more is further up.
    heights = [number(with_class(drawing, "claude-pm-plot")[0], "height") - y for _, y in kernel]
    assert heights[1] == pytest.approx(2 * heights[0], rel=0.01)


def test_curves_are_told_apart_without_colours() -> None:
    """Each has dashes of its own."""
    builder = ProfileBuilder()
    for pid in range(5):
        builder.memory(1.0, 1_000_000, pid=pid, role="worker")
    (plot,) = with_class(tree(memory_svg(Reading(builder.build()))), "claude-pm-plot")
    assert len({path.get("stroke-dasharray") for path in plot.iter("path")}) == 5


def test_thinning_keeps_the_peak() -> None:
    """Twenty thousand readings are drawn as some hundreds, the single high one among them."""
    builder = ProfileBuilder(duration_s=20.0)
    for n in range(20_000):
        builder.memory(n / 1000, 500_000_000 if n == 12_345 else 100_000_000 + n)
    (curve,) = points(builder)
    assert len(curve) <= 700
    highest = min(curve, key=lambda point: point[1])
    assert highest[0] == pytest.approx(1000 * 12.345 / 20, abs=0.01)
    assert highest[1] < 10


def test_nothing_to_draw() -> None:
    """Where memory was not recorded, or is not known, there is no curve."""
    assert memory_svg(Reading(empty())) is None
    builder = ProfileBuilder()
    builder.memory(1.0, None)
    assert memory_svg(Reading(builder.build())) is None


def test_hostile_text_stays_text() -> None:
    """A role is shown as it is, cut to its place."""
    found = parse(str(memory_svg(Reading(hostile().build()))))
    assert {"script", "img"}.isdisjoint(found.elements)
    assert HOSTILE[:20] in found.text
