"""The flame graph: who, in which state, in which function."""

from __future__ import annotations

from typing import Any

import pytest

from claude_pm.profiles import Profile
from claude_pm.views.flame import flame_svg
from claude_pm.views.reading import Reading
from tests.profile_builder import ProfileBuilder
from tests.views.drawings import dangling_ids, number, sampled, tree, with_class
from tests.views.markup import parse
from tests.views.profiles import HOSTILE, empty

MAIN, PARSE = "main (app.py:1)", "parse (app.py:9)"
SLEEP = "sleep (/usr/lib/python3.11/asyncio/tasks.py:637)"


def frames(profile: Profile) -> list[tuple[str, float, float, int]]:
    """Return each frame's name, where it begins, how wide and how deep it is."""
    return [
        (
            str(group.findtext("title")).splitlines()[0],
            pytest.approx(number(group, "data-x")),
            pytest.approx(number(group, "data-width")),
            int(number(group, "data-depth")),
        )
        for group in with_class(tree(flame_svg(Reading(profile))), "claude-pm-frame")
    ]


def groups(profile: Profile) -> dict[str, Any]:
    drawing = tree(flame_svg(Reading(profile)))
    return {str(group.findtext("title")): group for group in with_class(drawing, "claude-pm-frame")}


class TestSamples:
    def test_is_as_wide_as_the_wall_time(self) -> None:
        """Agent, state, then the stack, the widest first; equal stacks are one."""
        profile = sampled(
            [
                {"agent": "qa", "stack": f"{MAIN};{PARSE}", "weight_s": 2.0},
                {"agent": "qa", "stack": f"{MAIN};{PARSE}", "weight_s": 1.0},
                {"agent": "qa", "stack": f"{MAIN};{SLEEP}", "state": "waiting", "weight_s": 3.0},
                {"agent": None, "stack": MAIN, "weight_s": 4.0},
            ]
        )
        assert frames(profile) == [
            ("qa", 0, 0.6, 0),
            ("running", 0, 0.3, 1), (MAIN, 0, 0.3, 2), (PARSE, 0, 0.3, 3),
            ("waiting", 0.3, 0.3, 1), (MAIN, 0.3, 0.3, 2), (SLEEP, 0.3, 0.3, 3),
            ("no agent", 0.6, 0.4, 0), ("running", 0.6, 0.4, 1), (MAIN, 0.6, 0.4, 2),
        ]  # fmt: skip

    def test_waiting_is_hatched_and_libraries_are_apart(self) -> None:
        """Three looks: your code, a library's, and what waited, which is said in words too."""
        profile = sampled(
            [
                {"stack": f"{MAIN};{SLEEP}"},
                {"stack": MAIN, "state": "waiting", "weight_s": 0.5},
            ]
        )
        found = groups(profile)
        fills = {said: group.find("rect").get("fill") for said, group in found.items()}
        own = fills[f"{MAIN}\n1.00 s, 66.7 %"]
        assert fills[f"{SLEEP}\n1.00 s, 66.7 %"] != own
        waited = fills[f"{MAIN}\n0.50 s, 33.3 %, waiting"]
        assert waited.startswith("url(#")
        assert not own.startswith("url(#")
        assert not dangling_ids(str(flame_svg(Reading(profile))))

    def test_small_frames_are_put_together(self) -> None:
        """What is below a thousandth is counted in one frame, where that can be seen."""
        few = [{"stack": f"{MAIN};f{n} (a.py:{n})", "weight_s": 0.0005} for n in range(40)]
        names = [name for name, _, _, _ in frames(sampled([{"stack": MAIN}, *few]))]
        assert names == ["no agent", "running", MAIN, "(40 more)"]

    def test_very_many_stay_light(self) -> None:
        """A hundred thousand functions and deep recursion are a drawing of some 300 kB."""
        wide = [{"stack": f"{MAIN};f{n} (a.py:{n});g{n} (a.py:1)"} for n in range(3000)]
        deep = [{"stack": ";".join([MAIN] * 900), "weight_s": 3000.0}]
        markup = str(flame_svg(Reading(sampled([*wide, *deep]))))
        assert len(markup) < 400_000
        assert number(tree(markup), "height") < 1000

    def test_text_is_cut_to_its_frame(self) -> None:
        """No letter stands outside of its frame; the title has the whole name."""
        name = "a_function_with_a_rather_long_name (app.py:1)"
        found = groups(sampled([{"stack": name, "weight_s": 0.1}, {"stack": MAIN}]))
        (group,) = [group for said, group in found.items() if said.startswith(name)]
        assert len(group.findtext("text")) < 15
        assert group.findtext("text").startswith("a_fun")


class TestSpans:
    def test_without_samples_it_is_of_spans(self) -> None:
        """A span is as wide as its own time and that of the spans below it."""
        builder = ProfileBuilder()
        workflow = builder.span("workflow", 0.0, 10.0)
        request = builder.request("qa", "local", 1.0, 8.0, parent=workflow)
        builder.span("queue", 1.0, 2.0, parent=request)
        builder.span("chat", 3.0, 6.0, parent=request, ttft_s=2.0)
        assert frames(builder.build()) == [
            ("qa", 0, 0.8, 0), ("workflow", 0, 0.8, 1), ("orchestrate", 0, 0.8, 2),
            ("chat", 0, 0.6, 3), ("decode", 0, 0.4, 4), ("prefill", 0.4, 0.2, 4),
            ("queue", 0.6, 0.2, 3),
            ("no agent", 0.8, 0.2, 0), ("workflow", 0.8, 0.2, 1),
        ]  # fmt: skip
        waited = [said for said in groups(builder.build()) if said.endswith("waiting")]
        assert [said.split("\n")[0] for said in waited] == ["prefill", "queue"]

    def test_nothing_to_draw(self) -> None:
        """Nothing, and a single span, need no flame graph."""
        assert flame_svg(Reading(empty())) is None
        builder = ProfileBuilder()
        builder.span("step", 0.0, 1.0)
        assert flame_svg(Reading(builder.build())) is None

    def test_a_circle_of_parents_ends(self) -> None:
        """A damaged table is drawn as far as it goes."""
        builder = ProfileBuilder()
        builder.span("a", 0.0, 1.0, parent="0000000000000002")
        builder.span("b", 0.0, 1.0, parent="0000000000000001", self_s=1.0)
        assert frames(builder.build())


def test_hostile_text_stays_text() -> None:
    """Function and agent are shown as they are, and none becomes markup."""
    hostile = f"{HOSTILE}\u202e\x00".replace(";", "")
    profile = sampled([{"agent": hostile, "stack": f"{hostile} (app.py:1)"}])
    markup = str(flame_svg(Reading(profile)))
    found = parse(markup)
    assert {"script", "img", "style"}.isdisjoint(found.elements)
    assert not [name for name, _ in found.attributes if name.startswith("on")]
    assert found.text.count(HOSTILE.replace(";", "")) >= 2
    assert not set("\u202e\x00") & set(markup)
