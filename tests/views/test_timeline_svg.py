"""The timeline in a page: what is where, and that it stays light."""

from __future__ import annotations

import re
from typing import Any

import pytest

from claude_pm.profiles import Profile, schema
from claude_pm.views import timeline_svg as module
from claude_pm.views.lanes import Lane
from claude_pm.views.reading import Reading
from claude_pm.views.timeline_svg import timeline_svg
from tests.profile_builder import ProfileBuilder
from tests.views.drawings import dangling_ids, number, text_of, titles, tree, with_class
from tests.views.markup import parse
from tests.views.profiles import HOSTILE, empty, hostile, two_modes


def drawn(profile: Profile) -> Any:
    return tree(timeline_svg(Reading(profile)))


def boxes(profile: Profile) -> dict[str, list[Any]]:
    """Return the boxes in the plot, by what is said of them."""
    plot = with_class(drawn(profile), "claude-pm-plot")[0]
    return {
        str(group.findtext("title")): group.findall("rect")
        for group in plot.iter("g")
        if group.find("title") is not None
    }


def many(number_of: int, *, status: str = "ok", agents: int = 5) -> Profile:
    """Return requests of five agents, one second each, one after the other."""
    rows = [
        {
            "span_id": f"{n:016x}", "name": "orchestrate", "agent": f"agent {n % agents}",
            "start_s": float(n), "duration_s": 1.0, "self_s": 1.0, "pid": 1, "attributes": "{}",
            "status": status if n == number_of // 2 else "ok",
        }
        for n in range(number_of)
    ]  # fmt: skip
    meta = ProfileBuilder(duration_s=float(number_of)).meta
    return Profile(meta, {"spans": schema.frame_from_rows(schema.SPANS, rows)})


class TestDrawing:
    def test_has_the_parts_that_a_page_zooms(self) -> None:
        """The plot's 1000 units are the whole duration; the ticks stand around it."""
        drawing = drawn(two_modes().build())
        assert drawing.tag == "svg"
        assert drawing.get("class") == "claude-pm-timeline"
        assert drawing.get("role") == "img"
        assert drawing.get("aria-label") == "Timeline: 7 requests in 40.0 s, 1 failed."
        assert (drawing.get("data-start-s"), drawing.get("data-duration-s")) == ("0", "40")
        (plot,) = with_class(drawing, "claude-pm-plot")
        assert str(plot.get("viewBox")).startswith("0 0 1000 ")
        assert plot.get("preserveAspectRatio") == "none"
        (ticks,) = with_class(drawing, "claude-pm-ticks")
        assert ticks not in list(plot.iter())
        said = [text.text for text in ticks.findall("text")]
        assert said[:3] == ["0 s", "5 s", "10 s"]
        places = [number(line, "x1") for line in ticks.findall("line")]
        left, width = number(plot, "x"), number(plot, "width")
        assert places[:2] == pytest.approx([left, left + width / 8], abs=0.01)

    def test_nothing_to_draw(self) -> None:
        """Without spans there is no timeline."""
        assert timeline_svg(Reading(empty())) is None

    def test_two_profiles_share_no_id(self) -> None:
        """Several outputs stand in a notebook, and every pattern is there."""
        first = str(timeline_svg(Reading(two_modes().build())))
        builder = two_modes()
        builder.meta["id"] = "20260131T090000124-other-1a2b"
        second = str(timeline_svg(Reading(builder.build())))
        ids = [set(re.findall(r' id="([^"]+)"', markup)) for markup in (first, second)]
        assert ids[0]
        assert ids[0].isdisjoint(ids[1])
        assert not dangling_ids(first)

    def test_hostile_text_stays_text(self) -> None:
        """Names are shown as they are; nothing in the drawing runs, loads or disguises."""
        markup = str(timeline_svg(Reading(hostile(HOSTILE + "\u202e\x00").build())))
        found = parse(markup)
        assert {"script", "img", "style", "a", "use", "image", "foreignobject"}.isdisjoint(
            found.elements
        )
        assert not [name for name, _ in found.attributes if name.startswith("on") or "href" in name]
        # In a label, and in a title.
        assert found.text.count(HOSTILE[:25]) >= 2
        assert not set("\u202e\x00") & set(markup)


class TestBars:
    def test_a_request_is_split_by_phase(self) -> None:
        """Each phase is where it was; what was waited for is in stripes, work is not."""
        builder = ProfileBuilder()
        request = builder.request("qa", "local", 1.0, 5.0)
        builder.span("queue", 1.0, 1.0, parent=request)
        builder.span("chat", 2.0, 4.0, parent=request, ttft_s=1.5)
        ((said, parts),) = boxes(builder.build()).items()
        assert [(number(part, "x"), number(part, "width")) for part in parts] == [
            (100, 100), (200, 150), (350, 250),
        ]  # fmt: skip
        assert [str(part.get("fill")).startswith("url(#") for part in parts] == [True, True, False]
        assert said.splitlines() == [
            "qa: request, 5.00 s, ok, from 1.00 s on",
            "waiting in the queue 1.00 s", "prefill 1.50 s", "decode 2.50 s",
        ]  # fmt: skip

    def test_a_lane_an_agent_and_process(self) -> None:
        """Lanes stand one below the other, those of an agent together."""
        builder = ProfileBuilder()
        builder.answered("qa", "local", 0.0, 2.0, ttft_s=1.0)
        builder.answered("ops", "local", 1.0, 2.0, ttft_s=1.0)
        request = builder.request("qa", "subprocess", 4.0, 3.0)
        builder.span("chat", 5.0, 1.0, parent=request, pid=4200, ttft_s=0.5)
        labels = [
            svg.findtext("title")
            for svg in drawn(builder.build()).findall("svg")
            if svg.get("class") is None
        ]
        assert labels == ["qa · pid 4100", "qa · pid 4200", "ops · pid 4100"]

    def test_a_process_id_is_never_cut(self) -> None:
        """Where an agent and its process are too long for the place, the agent's name gives way."""
        lane = Lane("documentation", "pid 29997", 0, 1)
        assert lane.short_text(30) == "documentation · pid 29997"
        assert lane.short_text(22) == "documentation · 29997"
        assert lane.short_text(18) == "documenta… · 29997"

    def test_failures_can_be_seen_without_colours(self) -> None:
        """They are outlined and hatched, and the word for them stands beside."""
        drawing = drawn(two_modes().build())
        found = boxes(two_modes().build())
        (failed,) = [parts for said, parts in found.items() if "timeout" in said]
        assert failed[-1].get("stroke")
        assert "fail" in str(failed[-1].get("fill"))
        assert all(parts[-1].get("stroke") is None for parts in found.values() if parts != failed)
        words = text_of(with_class(drawing, "claude-pm-ticks")[0])
        assert words.count("timeout") == 1

    def test_own_spans_are_named_where_there_is_place(self) -> None:
        """A long bar has its name on it; a short one has it in its title."""
        builder = ProfileBuilder()
        builder.span("load", 0.0, 5.0)
        builder.span("glance", 6.0, 0.01)
        drawing = drawn(builder.build())
        words = text_of(with_class(drawing, "claude-pm-ticks")[0])
        assert "load" in words
        assert "glance" not in words
        assert any("glance" in title for title in titles(drawing))


class TestCriticalPath:
    def path(self, profile: Profile) -> tuple[list[tuple[float, float]], list[float]]:
        """Return start and end of each stretch of the line, and how deep it lies."""
        (group,) = with_class(drawn(profile), "claude-pm-critical")
        steps = re.findall(r"M([\d.]+) ([\d.]+)H([\d.]+)", str(group.findall("path")[0].get("d")))
        return [(float(x), float(end)) for x, _, end in steps], [float(y) for _, y, _ in steps]

    def test_runs_under_what_the_end_waited_for(self) -> None:
        """Of two at the same time it is the one that ended last."""
        builder = ProfileBuilder()
        builder.request("quick", "local", 0.0, 2.0)
        builder.request("slow", "local", 0.5, 5.5)
        builder.request("then", "local", 6.0, 3.0)
        stretches, depths = self.path(builder.build())
        assert stretches == [(50, 600), (600, 900)]
        # Under the second and the third lane.
        assert depths == sorted(depths)
        assert depths[0] > 20

    def test_is_left_out_where_nobody_could_follow_it(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Very many spans have none: it would take seconds, and be a tangle."""
        monkeypatch.setattr(module, "MAX_PATH_SPANS", 6)
        assert not with_class(drawn(two_modes().build()), "claude-pm-critical")


class TestVeryMany:
    def test_narrow_neighbours_are_drawn_as_one(self) -> None:
        """Fifty thousand stay below 300 kB, each is counted once, and a failure is still seen."""
        profile = many(50_000, status="timeout")
        markup = str(timeline_svg(Reading(profile)))
        assert len(markup) < 300_000
        found = boxes(profile)
        counts = [int(str(re.search(r": ([\d,]+) requests?,", said)[1]).replace(",", ""))  # type: ignore[index]
                  for said in found if re.search(r": [\d,]+ requests?,", said)]  # fmt: skip
        assert sum(counts) == 50_000
        (failed,) = [parts for said, parts in found.items() if "1 timeout" in said]
        assert failed[-1].get("stroke")

    def test_what_can_be_told_apart_is_not_put_together(self) -> None:
        """A hundred bars are a hundred bars."""
        assert len(boxes(many(100))) == 100

    def test_many_at_once_do_not_make_a_tower(self) -> None:
        """Five hundred requests at a time fit the height of a screen."""
        builder = ProfileBuilder()
        for number_of in range(500):
            builder.request("qa", "local", number_of / 1000, 5.0)
        assert number(drawn(builder.build()), "height") < 600

    def test_many_agents_share_a_lane(self) -> None:
        """The busiest thirty or so have one of their own."""
        said = titles(drawn(many(200, agents=100)))
        labels = [title for title in said if re.fullmatch(r"agent \d+|71 more agents", title)]
        assert len(labels) == 30
        assert labels.count("71 more agents") == 1
