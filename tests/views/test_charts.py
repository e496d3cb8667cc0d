"""Charts: what they draw, and what they say."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection, PolyCollection
from matplotlib.figure import Figure

from claude_pm.errors import ProfileError
from claude_pm.views.charts import (
    plot_cache,
    plot_hit_rate,
    plot_memory,
    plot_modes,
    plot_timeline,
    plot_tokens,
)
from claude_pm.views.timeline import MAX_BARS
from tests.profile_builder import ProfileBuilder
from tests.views.profiles import HOSTILE, empty, hostile, two_modes

Plot = Callable[..., Axes]
PLOTS: list[Plot] = [plot_modes, plot_cache, plot_hit_rate, plot_timeline, plot_memory, plot_tokens]


def dots(ax: Axes) -> list[float]:
    """Return the x positions of all dots."""
    collections = [found for found in ax.collections if isinstance(found, PathCollection)]
    return sorted(float(x) for found in collections for x, _ in np.asarray(found.get_offsets()))


def bars(ax: Axes, *, hatched: bool = False) -> list[tuple[float, float]]:
    """Return start and end of all boxes on the time axis, in order."""
    found = []
    for collection in ax.collections:
        if isinstance(collection, PolyCollection) and bool(collection.get_hatch()) is hatched:
            for path in collection.get_paths():
                xs = np.asarray(path.vertices)[:, 0]
                found.append((float(xs.min()), float(xs.max())))
    return sorted(found)


def texts(ax: Axes) -> list[str]:
    """Return the texts drawn into a chart."""
    return [text.get_text() for text in ax.texts]


@pytest.mark.parametrize("plot", PLOTS)
class TestAllCharts:
    def test_makes_a_figure_unless_given_axes(self, plot: Plot) -> None:
        """A notebook shows the new pyplot figure; given axes are drawn on, and no figure made."""
        profile = two_modes().build()
        ax = plot(profile)
        assert plt.gcf() is ax.figure
        plt.close("all")
        mine = Figure().add_subplot()
        assert plot(profile, ax=mine) is mine
        assert plt.get_fignums() == []

    def test_says_why_there_is_nothing_to_see(self, plot: Plot) -> None:
        """An empty profile gives one sentence, without axes."""
        ax = plot(empty())
        assert len(ax.texts) == 1
        assert ax.texts[0].get_text().endswith(".")
        assert not ax.axison

    @pytest.mark.parametrize("name", [HOSTILE, "$x_{$"])
    def test_draws_hostile_names(self, plot: Plot, name: str) -> None:
        """Markup is text, and a pair of dollars is no formula, which could not be drawn."""
        figure = Figure(layout="constrained")
        plot(hostile(name).build(), ax=figure.add_subplot())
        figure.draw_without_rendering()


class TestPlotModes:
    def test_shows_every_answered_request_but_warmups(self) -> None:
        """A dot a request; the tick labels count them; failures and warm-ups are left out."""
        ax = plot_modes(two_modes().build())
        assert dots(ax) == [1.0, 2.0, 3.0, 8.0, 12.0]
        assert [label.get_text() for label in ax.get_yticklabels()] == [
            "LOCAL\nn = 3",
            "SUBPROCESS\nn = 2",
        ]
        assert "1 failure left out; model live" in texts(ax)[0]

    def test_says_medians_and_ratio(self) -> None:
        """The title says in words what is seen, and the axis its unit."""
        ax = plot_modes(two_modes().build())
        assert ax.get_title(loc="left") == "LOCAL 2.00 s, SUBPROCESS 10.0 s: 5.0x"
        assert ax.get_xlabel() == "request duration (s)"

    def test_shows_the_time_to_first_text(self) -> None:
        """The other metric has its own dots, title and axis."""
        ax = plot_modes(two_modes().build(), metric="ttft_s")
        assert dots(ax) == [0.5, 0.5, 0.5, 4.0, 4.0]
        assert ax.get_title(loc="left") == "First text: LOCAL 0.50 s, SUBPROCESS 4.00 s: 8.0x"
        assert ax.get_xlabel() == "time to first text (s)"

    @pytest.mark.parametrize(("slowest_s", "scale"), [(20.0, "linear"), (20.5, "log")])
    def test_the_axis_is_logarithmic_beyond_a_spread_of_20(
        self, slowest_s: float, scale: str
    ) -> None:
        """Samples far apart need a logarithmic axis, which says so."""
        builder = ProfileBuilder()
        builder.answered("qa", "local", 0.0, 1.0, ttft_s=0.5)
        builder.answered("qa", "subprocess", 0.0, slowest_s, ttft_s=0.5)
        ax = plot_modes(builder.build())
        assert ax.get_xscale() == scale
        assert ("logarithmic" in ax.get_xlabel()) is (scale == "log")

    def test_looks_the_same_each_time(self) -> None:
        """The dots are spread without chance."""
        builder = ProfileBuilder()
        for number in range(30):
            builder.answered("qa", "local", float(number), 1.0, ttft_s=0.5)
        heights = [
            np.asarray(plot_modes(builder.build()).collections[0].get_offsets())[:, 1]
            for _ in range(2)
        ]
        assert heights[0].tolist() == heights[1].tolist()
        assert len(set(heights[0].tolist())) == 30

    def test_refuses_another_metric(self) -> None:
        """The message names what can be shown."""
        with pytest.raises(ProfileError, match="'duration_s' or 'ttft_s', not 'cost_usd'"):
            plot_modes(empty(), metric="cost_usd")  # type: ignore[arg-type]


class TestPlotCache:
    def test_shows_every_cold_and_warm_answer(self) -> None:
        """A dot a request whose cache state is known, warm-ups too, an agent a row."""
        builder = two_modes()
        builder.answered("ops", "local", 39.0, 1.0, ttft_s=0.75)
        ax = plot_cache(builder.build())
        assert dots(ax) == [0.5, 0.5, 0.5, 4.0, 4.0, 4.0]
        assert [label.get_text() for label in ax.get_yticklabels()] == ["qa\ncold 1, warm 5"]

    def test_says_the_medians_of_each_mode_apart(self) -> None:
        """What a worker's start takes is not mixed into what the cache gives."""
        ax = plot_cache(two_modes().build())
        assert ax.get_title(loc="left") == (
            "First text: LOCAL cold 4.00 s, warm 0.50 s (8.0x); SUBPROCESS warm 4.00 s"
        )

    def test_off_is_a_third_kind(self) -> None:
        """It is drawn, counted and said; other profiles have two."""
        builder = ProfileBuilder()
        for start, ttft, read, state in (
            (0, 4.0, 0, "cold"),
            (5, 0.5, 9, "warm"),
            (7, 3.0, 0, "off"),
        ):
            builder.answered(
                "qa", "local", float(start), 5.0, ttft_s=ttft, input_tokens=10,
                cache_read_tokens=read, attributes={"cache_trial": state},
            )  # fmt: skip
        ax = plot_cache(builder.build())
        assert dots(ax) == [0.5, 3.0, 4.0]
        assert [label.get_text() for label in ax.get_yticklabels()] == ["qa\ncold 1, warm 1, off 1"]
        assert ax.get_title(loc="left") == "First text: cold 4.00 s, warm 0.50 s (8.0x), off 3.00 s"

    def test_warm_and_off_alone(self) -> None:
        """Without a cold one there is no factor to say."""
        builder = ProfileBuilder()
        for start, read, state in ((0.0, 9, "warm"), (7.0, 0, "off")):
            builder.answered(
                "qa", "local", start, 5.0, ttft_s=1.0, input_tokens=10, cache_read_tokens=read,
                attributes={"cache_trial": state},
            )  # fmt: skip
        ax = plot_cache(builder.build())
        assert ax.get_title(loc="left") == "First text: warm 1.00 s, off 1.00 s"


class TestPlotHitRate:
    def test_shows_every_request_and_both_rates(self) -> None:
        """A dot a request at its share of input; the title says the rate at the end."""
        builder = ProfileBuilder()
        for start, read in ((1.0, 0), (2.0, 0), (3.0, 950), (4.0, 900)):
            builder.answered(
                "qa", "local", start, 0.5, ttft_s=0.2, input_tokens=1000, cache_read_tokens=read
            )
        ax = plot_hit_rate(builder.build(), recent=2)
        assert dots(ax) == [1.0, 2.0, 3.0, 4.0]
        assert [list(line.get_ydata()) for line in ax.lines] == [
            pytest.approx([0.0, 0.0, 100 / 3, 50.0]),
            [0.0, 0.0, 50.0, 100.0],
        ]
        assert ax.get_title(loc="left") == "2 of 4 requests hit: 50 %, 100 % of the last 2"
        assert ax.get_ylabel() == "from the cache (%)"
        assert ax.get_xlabel() == "start of the request, since the profile began (s)"


class TestPlotTimeline:
    def test_a_request_is_split_by_phase(self) -> None:
        """Its bar shows each phase where it was, and nothing twice."""
        builder = ProfileBuilder()
        request = builder.request("qa", "local", 1.0, 5.0)
        builder.span("load_agent", 1.0, 0.5, parent=request, agent="qa")
        builder.span("queue", 1.5, 1.5, parent=request, agent="qa")
        builder.span("chat", 3.0, 3.0, parent=request, ttft_s=2.0, agent="qa")
        ax = plot_timeline(builder.build())
        assert bars(ax) == [(1.0, 1.5), (1.5, 3.0), (3.0, 5.0), (5.0, 6.0)]
        legend = ax.get_legend()
        assert legend is not None
        assert [text.get_text() for text in legend.get_texts()] == [
            "waiting in the queue", "prefill", "decode", "other",
        ]  # fmt: skip

    def test_a_lane_an_agent_and_process(self) -> None:
        """A request that a worker served is in the worker's lane, spans without agent in theirs."""
        builder = ProfileBuilder()
        builder.span("prepare", 0.0, 1.0)
        builder.answered("qa", "local", 1.0, 2.0, ttft_s=1.0)
        request = builder.request("qa", "subprocess", 4.0, 3.0)
        builder.span("chat", 5.0, 1.0, parent=request, pid=4200, ttft_s=0.5)
        ax = plot_timeline(builder.build())
        assert [label.get_text() for label in ax.get_yticklabels()] == [
            "no agent · pid 4100", "qa · pid 4100", "qa · pid 4200",
        ]  # fmt: skip

    def test_what_overlaps_is_stacked(self) -> None:
        """Three requests at a time need three rows, one after another share one."""
        builder = ProfileBuilder()
        for start in (0.0, 1.0, 2.0, 5.0):
            builder.answered("qa", "local", start, 3.0, ttft_s=1.0)
        ax = plot_timeline(builder.build())
        rows = {round(float(np.asarray(path.vertices)[:, 1].mean()))
                for found in ax.collections if isinstance(found, PolyCollection)
                for path in found.get_paths()}  # fmt: skip
        assert rows == {0, 1, 2}
        assert "4 requests in 10.0 s, up to 3 at the same time" in ax.get_title(loc="left")

    def test_failures_are_hatched_and_named(self) -> None:
        """A failure can be seen without colours."""
        ax = plot_timeline(two_modes().build())
        assert bars(ax, hatched=True) == [(15.0, 17.0)]
        assert "timeout" in texts(ax)
        assert "1 failed" in ax.get_title(loc="left")

    def test_draws_the_longest_and_the_failures_of_very_many(self) -> None:
        """Beyond 2,000 bars the shortest are left out, and the chart says so."""
        builder = ProfileBuilder(duration_s=5000.0)
        for number in range(MAX_BARS + 500):
            builder.span("step", float(number), 0.5 + number / 10_000)
        builder.span("failing step", 4000.0, 0.001, status="error")
        ax = plot_timeline(builder.build())
        drawn = bars(ax)
        assert len(drawn) == MAX_BARS
        # Kept are the failure and the 1,999 longest, of which the first began at 501 s.
        assert drawn[0][0] == 501.0
        assert drawn[-1][0] == 4000.0
        assert "2,000 of 2,501 bars" in texts(ax)[-1] + texts(ax)[0]

    def test_many_workers_share_a_lane(self) -> None:
        """Forty processes of an agent do not make forty lanes."""
        builder = ProfileBuilder()
        for number in range(40):
            request = builder.request("qa", "subprocess", float(number), 0.5)
            builder.span("chat", float(number), 0.5, parent=request, pid=5000 + number)
        ax = plot_timeline(builder.build())
        assert [label.get_text() for label in ax.get_yticklabels()] == ["qa · 40 processes"]


class TestPlotTokens:
    def rows(self, ax: Axes) -> dict[str, list[float]]:
        """Return the widths of each agent's boxes, in the order drawn."""
        names = [label.get_text() for label in ax.get_yticklabels()]
        return {
            name: [box.get_width() for box in ax.patches if round(box.get_y() + 0.31) == row]  # type: ignore[attr-defined]
            for row, name in enumerate(names)
        }  # fmt: skip

    def test_stacks_the_tokens_of_each_agent(self) -> None:
        """Input from the cache, other input, output; the agent with most of them on top."""
        builder = ProfileBuilder(model_use="live")
        for start, agent, read, cost in ((0.0, "ops", 0, None), (1.0, "qa", 80, 0.5),
                                         (2.0, "qa", 100, 0.25)):  # fmt: skip
            builder.answered(
                agent, "local", start, 1.0, ttft_s=0.5, input_tokens=100, cache_read_tokens=read,
                output_tokens=7, cost_usd=cost,
            )  # fmt: skip
        ax = plot_tokens(builder.build())
        assert self.rows(ax) == {"qa\n2 calls": [180, 20, 14], "ops\n1 call": [0, 100, 7]}
        assert ax.get_title(loc="left") == (r"300 tokens in (60 % from the cache), 21 out; \$0.750")
        assert ax.get_xlabel() == "tokens"
        # The price of ops is not known, which is not 0.
        assert [text for text in texts(ax) if text.startswith("\\$")] == [r"\$0.750"]

    def test_failed_attempts_and_calls_outside_requests_count(self) -> None:
        """Tokens are paid for whatever became of them; an agent around a call is its own."""
        builder = ProfileBuilder()
        run = builder.span("agent run", 0.0, 2.0, agent="theirs")
        builder.span("chat", 0.0, 1.0, parent=run, input_tokens=50, output_tokens=5)
        builder.span("chat", 1.0, 1.0, parent=run, input_tokens=40, status="error")
        ax = plot_tokens(builder.build())
        # Nobody said what of the input came from the cache.
        assert self.rows(ax) == {"theirs\n2 calls": [90, 5]}
        legend = ax.get_legend()
        assert legend is not None
        assert [text.get_text() for text in legend.get_texts()] == [
            "input, cache not known", "output",
        ]  # fmt: skip
        assert ax.get_title(loc="left") == "90 tokens in, 5 out"

    def test_very_many_agents(self) -> None:
        """The last row adds up the rest."""
        builder = ProfileBuilder()
        for number in range(50):
            builder.answered(
                f"agent {number}", "local", 0.0, 1.0, ttft_s=0.5, input_tokens=1000 - number
            )
        ax = plot_tokens(builder.build())
        rows = self.rows(ax)
        assert len(rows) == 20
        assert rows["31 more agents\n31 calls"] == [sum(1000 - n for n in range(19, 50))]


@pytest.mark.parametrize(
    "names",
    [
        ("queue", "start_worker", "start_model", "build_context", "restore_prefix"),
        ("queue", "build_context"),
    ],
)
def test_a_legend_leaves_the_chart_its_width(names: tuple[str, ...]) -> None:
    """Long names and many phases do not squeeze the axes."""
    builder = ProfileBuilder()
    request = builder.request("documentation, and many more", "local", 0.0, 9.0)
    for number, name in enumerate(names):
        builder.span(name, float(number), 1.0, parent=request)
    builder.span("chat", 5.0, 3.0, parent=request, ttft_s=1.0)
    builder.span("mine", 0.0, 1.0)
    ax = plot_timeline(builder.build())
    ax.figure.draw_without_rendering()  # type: ignore[union-attr]
    legend = ax.get_legend()
    assert legend is not None
    assert legend.get_window_extent().x1 <= ax.figure.bbox.width
    assert ax.get_window_extent().x1 > 0.95 * ax.figure.bbox.width


class TestPlotMemory:
    def test_draws_a_curve_a_process_in_megabytes(self) -> None:
        """A megabyte is a million bytes; unknown readings are left out."""
        builder = ProfileBuilder()
        for t_s, size in ((0.0, 100_000_000), (1.0, 300_000_000), (2.0, None)):
            builder.memory(t_s, size)
        builder.memory(1.5, 50_000_000, pid=5000, role="worker")
        ax = plot_memory(builder.build())
        curves = {
            str(line.get_label()): np.asarray(line.get_xydata()).tolist() for line in ax.lines
        }
        assert curves == {
            "kernel 4100": [[0.0, 100.0], [1.0, 300.0]],
            "worker 5000": [[1.5, 50.0]],
        }
        assert ax.get_title(loc="left") == "Memory peaked at 300 MB, in kernel 4100"
        assert ax.get_ylabel() == "resident memory (MB)"
