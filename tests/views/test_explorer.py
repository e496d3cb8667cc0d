"""The explorer, driven as a person would: by its filters, its list and its buttons."""

from __future__ import annotations

import gc
import json
import re
import weakref
from collections.abc import Iterator
from dataclasses import astuple
from types import SimpleNamespace
from typing import Any

import pytest
from ipywidgets import HTML, Label, VBox, Widget
from ipywidgets.widgets.widget import _instances

import claude_pm
from claude_pm.errors import ComparisonError, ProfileError
from claude_pm.profiles import Experiment, Profile, schema
from claude_pm.views import explorer, explorer_side, explorer_state, words
from claude_pm.views.span_details import details_html
from claude_pm.views.span_index import SpanIndex
from tests.profile_builder import KERNEL_PID, ProfileBuilder
from tests.views.drawings import dangling_ids
from tests.views.markup import parse
from tests.views.payloads import PAYLOADS
from tests.views.profiles import empty, hostile, two_modes

WORKER_PID = 5000


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    """Begin each test without memories, and leave no widgets behind."""
    explorer_state._remembered.clear()
    explorer_state._shown.clear()
    yield
    Widget.close_all()


def every(widget: Widget) -> Iterator[Widget]:
    """Yield a widget and all within it, in the order of the page."""
    yield widget
    for child in getattr(widget, "children", ()):
        yield from every(child)


def all_called(shown: VBox, description: str) -> list[Any]:
    """Return the widgets of that description."""
    return [one for one in every(shown) if getattr(one, "description", None) == description]


def called(shown: VBox, description: str) -> Any:
    """Return the one widget of that description."""
    (found,) = all_called(shown, description)
    return found


def text(shown: Widget) -> str:
    """Return all text of its HTML."""
    return " ".join(
        " ".join(parse(one.value).text.split()) for one in every(shown) if isinstance(one, HTML)
    )


def listed(shown: VBox) -> list[str]:
    """Return the lines of the list of spans."""
    return [label for label, _ in called(shown, "Span").options]


def chosen(shown: VBox) -> str:
    """Return the chosen line of the list."""
    return str(called(shown, "Span").label)


def choose(shown: VBox, part: str) -> None:
    """Choose the first span whose line holds a text."""
    spans = called(shown, "Span")
    spans.index = next(n for n, (label, _) in enumerate(spans.options) if part in label)


def timeline(shown: VBox) -> str:
    """Return the HTML of the timeline."""
    (found,) = [
        one.value
        for one in every(shown)
        if isinstance(one, HTML) and 'class="claude-pm-timeline"' in one.value
    ]
    return str(found)


def asked(name: str = "asked", *, more: int = 0) -> Profile:
    """Return a request in a worker with all that can be known of it, and a step without any."""
    builder = ProfileBuilder(name)
    request = builder.request(
        "qa", "subprocess", 1.0, 4.0, ttft_s=1.5,
        attributes={"request": "What\nnow?", "response": "Test <b>first</b>.", "priority": 7},
    )  # fmt: skip
    chat = builder.span(
        "chat", 1.5, 3.0, parent=request, agent="qa", mode="subprocess", pid=WORKER_PID,
        ttft_s=1.0, model="some-model", input_tokens=1200, cache_read_tokens=900,
        output_tokens=64, cost_usd=0.0025, task="Task-3",
    )  # fmt: skip
    builder.span(
        "my step", 6.0, 2.0, agent="ops", status="error", error="ValueError: bad <i>thing</i>"
    )
    for number in range(more):
        builder.span(f"more {number}", 8.0, 0.5)
    builder.function("in_kernel", 0.5)
    builder.function("in_worker", 0.25, pid=WORKER_PID)
    sample = {"pid": WORKER_PID, "thread": "MainThread", "agent": "qa", "span_id": chat}
    samples = [
        sample | {"state": "running", "weight_s": 0.5, "stack": "main (a.py:1);parse (a.py:2)"},
        sample | {"state": "waiting", "weight_s": 2.0, "stack": "main (a.py:1);read (a.py:9)"},
    ]
    built = builder.build()
    tables = {name: built.table(name) for name in ("spans", "functions")}
    tables["samples"] = schema.frame_from_rows(schema.SAMPLES, samples)
    return Profile(built.meta, tables)


class TestFilters:
    def test_only_what_occurs_is_offered(self) -> None:
        """Each column has its values, and 'all'."""
        shown = two_modes().build().explore()
        assert called(shown, "Agent").options == ("all", "ops", "qa")
        assert called(shown, "Mode").options == ("all", "LOCAL", "SUBPROCESS")
        assert called(shown, "Status").options == ("all", "ok", "timeout")
        assert called(shown, "Time").value == (0.0, 40.0)

    def test_with_one_value_only_it_is_left_away(self) -> None:
        """Nothing is asked that has one answer."""
        builder = ProfileBuilder()
        builder.span("step", 0.0, 1.0)
        shown = builder.build().explore()
        for name in ("Agent", "Mode", "Status", "Time", "Order"):
            assert all_called(shown, name) == []
        builder.span("step", 0.0, 1.0, agent="qa")
        shown = builder.build().explore()
        assert called(shown, "Agent").options == ("all", "qa", "no agent")
        assert all_called(shown, "Mode") == []

    def test_they_filter_the_list_and_the_timeline(self) -> None:
        """Together, each in its column."""
        shown = two_modes().build().explore()
        assert "13 spans." in text(shown)
        called(shown, "Mode").value = "SUBPROCESS"
        assert len(listed(shown)) == 4
        assert "4 of 13 spans." in text(shown)
        assert "timeout" not in timeline(shown)
        called(shown, "Mode").value = "all"
        called(shown, "Status").value = "timeout"
        assert listed(shown) == ["2.00 s · orchestrate · ops · LOCAL · timeout · at 15.0 s"]
        assert "timeout" in timeline(shown)
        assert "SUBPROCESS" not in chosen(shown)
        called(shown, "Agent").value = "qa"
        assert listed(shown) == []
        assert "No span fits these filters." in text(shown)
        called(shown, "Agent").value = "all"
        assert "ops" in chosen(shown)

    def test_time_shows_what_was_going_on(self) -> None:
        """What overlaps it is listed as it was, and drawn as wide as there is place."""
        shown = two_modes().build().explore()
        called(shown, "Time").value = (16.0, 20.0)
        assert listed(shown) == [
            "8.00 s · orchestrate · qa · SUBPROCESS · at 18.0 s",
            "8.00 s · chat · qa · SUBPROCESS · at 18.0 s",
            "2.00 s · orchestrate · ops · LOCAL · timeout · at 15.0 s",
        ]
        assert "The timeline shows 16.0 s to 20.0 s;" in text(shown)
        assert ">16.5 s</text>" in timeline(shown)
        assert ">0.0 s</text>" not in timeline(shown)
        assert "from 18.0 s on" in timeline(shown)
        assert 'data-duration-s="4"' in timeline(shown)
        # The failed one was cut at the begin, the other begins in the middle.
        assert re.search(r'<rect x="0" y="[^"]+" width="250"', timeline(shown))
        assert re.search(r'<rect x="500" y="[^"]+" width="500"', timeline(shown))

    def test_a_moment_between_two_handles_can_be_drawn(self) -> None:
        """Both handles at the same place, also at the end."""
        builder = two_modes()
        builder.span("last", 39.0, 1.0)
        shown = builder.build().explore()
        for at in (16.0, 40.0):
            called(shown, "Time").value = (at, at)
            assert "The timeline shows" in text(shown)

    def test_a_whole_timeline_has_the_critical_path_and_a_part_has_none(self) -> None:
        """What the end waited for is not known of a part."""
        shown = two_modes().build().explore()
        assert "claude-pm-critical" in timeline(shown)
        called(shown, "Agent").value = "qa"
        assert "claude-pm-critical" not in timeline(shown)

    def test_parts_of_a_request_that_is_left_out_stand_for_themselves(self) -> None:
        """An attempt that failed is drawn, though its request was answered."""
        builder = ProfileBuilder()
        request = builder.request("qa", "local", 0.0, 4.0)
        builder.span("chat", 0.0, 1.0, parent=request, agent="qa", mode="local", status="error")
        shown = builder.build().explore()
        called(shown, "Status").value = "error"
        assert len(listed(shown)) == 1
        assert "chat, 1.00 s, error" in timeline(shown)

    def test_values_that_look_alike_are_told_apart(self) -> None:
        """Each has a line, also one that is called as what lets everything through."""
        builder = ProfileBuilder()
        for number, agent in enumerate(("all", "no agent", "a\u202eb", "a\u2066b", None)):
            builder.span("step", number, 1.0, agent=agent)
        shown = builder.build().explore()
        options = called(shown, "Agent").options
        assert options == ("all", "all (2)", "a\ufffdb", "a\ufffdb (2)", "no agent",
                           "no agent (2)")  # fmt: skip
        for option in options[1:]:
            called(shown, "Agent").value = option
            assert len(listed(shown)) == 1


class TestList:
    def test_longest_first_or_in_order_of_time(self) -> None:
        """The order is the person's choice."""
        shown = two_modes().build().explore()
        assert listed(shown)[0] == "12.0 s · orchestrate · qa · SUBPROCESS · at 26.0 s"
        called(shown, "Order").value = "in order of time"
        assert listed(shown)[0] == "5.00 s · orchestrate · qa · LOCAL · at 0 s"
        assert listed(shown)[-1].endswith("at 26.0 s")

    def test_says_how_many_more_there_are(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The list is never longer than a person reads, and the chosen span is always in it."""
        monkeypatch.setattr(explorer_side, "MAX_LISTED", 5)
        shown = two_modes().build().explore()
        assert "13 spans, 5 of them listed" in text(shown)
        choose(shown, "at 18.0 s")
        called(shown, "Order").value = "in order of time"
        assert len(listed(shown)) == 5
        assert "at 18.0 s" in chosen(shown)
        assert "8.00 s" in text(shown)

    def test_buttons_step_through_it(self) -> None:
        """JupyterLab keeps the arrow keys for its cells: a button is reached by any keyboard."""
        shown = two_modes().build().explore()
        called(shown, "Previous").click()
        assert chosen(shown) == listed(shown)[0]
        called(shown, "Next").click()
        called(shown, "Next").click()
        assert chosen(shown) == listed(shown)[2]
        called(shown, "Previous").click()
        assert chosen(shown) == listed(shown)[1]
        choose(shown, listed(shown)[-1])
        called(shown, "Next").click()
        assert chosen(shown) == listed(shown)[-1]

    def test_one_goes_to_the_span_around_and_to_those_within(self) -> None:
        """Also where the filters leave them out."""
        shown = asked().explore()
        called(shown, "Agent").value = "ops"
        assert called(shown, "Go to").options == ()
        called(shown, "Agent").value = "qa"
        choose(shown, "orchestrate")
        assert called(shown, "Go to").label.startswith("within: 3.00 s · chat")
        called(shown, "Show").click()
        assert "chat" in chosen(shown)
        assert called(shown, "Go to").label.startswith("around: 4.00 s · orchestrate")
        builder = ProfileBuilder()
        outer = builder.span("outer", 0.0, 3.0)
        builder.span("inner", 1.0, 1.0, parent=outer, agent="qa")
        shown = builder.build().explore()
        called(shown, "Agent").value = "qa"
        called(shown, "Show").click()
        assert listed(shown) == ["3.00 s · outer · at 0 s", "1.00 s · inner · qa · at 1.00 s"]
        assert chosen(shown) == listed(shown)[0]


class TestDetails:
    def test_say_what_is_known_of_a_request(self) -> None:
        """Times, what its calls used, its texts, what was within it, where it ran."""
        shown = asked().explore()
        choose(shown, "orchestrate")
        found = text(shown)
        for said in (
            "qa, SUBPROCESS, ok, 4.00 s", "start 1.00 s", "own time 1.00 s", "first text 1.50 s",
            "calls of a model 1", "input tokens 1,200", "from the cache 900", "output tokens 64",
            "cost $0.00250", "Request What now?", "Response Test <b>first</b>.",
            "Spans within it start span agent status duration 1.50 s chat qa ok 3.00 s",
            "0.50 s running and 2.00 s waiting", "read (a.py:9) 0 s 2.00 s", "priority 7",
        ):  # fmt: skip
            assert said in found, said

    def test_a_text_keeps_its_lines(self) -> None:
        """An answer is read as it was written."""
        html = details_html(SpanIndex(asked()), 0)
        assert "What\nnow?</pre>" in html

    def test_a_part_shows_the_request_that_it_was_done_for(self) -> None:
        """And not the answer, which is another span's."""
        shown = asked().explore()
        choose(shown, "chat")
        found = text(shown)
        assert "Request that the span was done for What now?" in found
        assert "Test <b>first</b>." not in found
        assert "calls of a model" not in found
        assert "model some-model" in found
        assert "task Task-3" in found

    def test_an_error_is_said(self) -> None:
        """As text."""
        shown = asked().explore()
        choose(shown, "my step")
        assert "ValueError: bad <i>thing</i>" in text(shown)
        assert "No sample fell into this span." in text(shown)

    def test_functions_are_said_to_be_of_the_whole_process(self) -> None:
        """cProfile knows no spans; those of a process that the span had no part in are left out."""
        shown = asked().explore()
        choose(shown, "chat")
        found = text(shown)
        assert "in_worker" in found
        assert "in_kernel" not in found
        assert f"Of process {WORKER_PID} in the whole profile, not of this span alone" in found
        choose(shown, "orchestrate")
        assert "in_worker" in text(shown)
        assert "in_kernel" in text(shown)
        assert "Of its 2 processes in the whole profile" in text(shown)

    def test_samples_stand_for_functions_where_none_were_counted(self) -> None:
        """Of the agent, over the whole profile, and that is said."""
        built = asked()
        sampled = Profile(built.meta, {name: built.table(name) for name in ("spans", "samples")})
        shown = sampled.explore()
        choose(shown, "orchestrate")
        assert "Of all that qa did in the whole profile, as sampled." in text(shown)
        choose(shown, "my step")
        assert "No functions were recorded" in text(shown)

    def test_what_was_not_recorded_is_said(self) -> None:
        """With what records it."""
        shown = two_modes().build().explore()
        assert "Nothing was sampled" in text(shown)
        assert "No functions were recorded" in text(shown)

    def test_tokens_of_a_call_count_once(self) -> None:
        """An agent's span of other tools has the tokens of the calls within it again."""
        builder = ProfileBuilder()
        outer = builder.span("workflow", 0.0, 9.0)
        for number in range(2):
            agent = builder.span(
                "invoke_agent", 1.0 + number, 0.9, parent=outer, input_tokens=100, output_tokens=10
            )
            builder.span("chat", 1.0 + number, 0.5, parent=agent, input_tokens=100, output_tokens=9)
        found = text(builder.build().explore())
        assert "calls of a model 2" in found
        assert "input tokens 200" in found
        assert "output tokens 20" in found

    def test_long_texts_and_many_children_are_cut_and_that_is_said(self) -> None:
        """The page stays light whatever was asked."""
        builder = ProfileBuilder()
        asked = builder.request(
            "qa", "local", 0.0, 9.0, attributes={"request": "x" * 25_000, "response": ["y"]}
        )
        for number in range(33):
            builder.span("step", number / 10, 0.1, parent=asked)
        html = details_html(SpanIndex(builder.build()), 0)
        found = " ".join(parse(html).text.split())
        assert "5,000 more characters not shown here." in found
        assert "3 more children not shown here." in found
        assert '[ "y" ]' in found
        assert "x" * 20_001 not in html

    def test_a_circle_of_parents_ends(self) -> None:
        """A damaged table is shown as it is."""
        builder = ProfileBuilder()
        first = builder.span("first", 0.0, 2.0, parent="0000000000000002")
        builder.span("second", 0.0, 1.0, parent=first)
        shown = builder.build().explore()
        assert "Spans within it" in text(shown)
        assert len(called(shown, "Go to").options) == 2


class TestMemory:
    def test_a_cell_that_is_run_again_looks_as_it_did(self) -> None:
        """Filters, order, time and the chosen span."""
        profile = two_modes().build()
        shown = profile.explore()
        called(shown, "Agent").value = "qa"
        called(shown, "Order").value = "in order of time"
        called(shown, "Time").value = (4.0, 30.0)
        choose(shown, "2.00 s · chat")
        again = profile.explore()
        for name in ("Agent", "Order", "Time"):
            assert called(again, name).value == called(shown, name).value != "all"
        assert listed(again) == listed(shown)
        assert chosen(again) == "2.00 s · chat · qa · LOCAL · at 8.00 s"
        assert text(again) == text(shown)

    def test_of_a_new_recording_it_keeps_what_there_is(self) -> None:
        """Another id, other span ids and other times: the second like it is chosen again."""
        shown = two_modes().build().explore()
        called(shown, "Mode").value = "LOCAL"
        choose(shown, "2.00 s · chat")
        builder = ProfileBuilder("two modes", id="20270101T000000000-two-modes-ffff")
        builder.span("before", 0.0, 0.5)
        for number, mode in enumerate(("local", "local", "local", "local", "subprocess")):
            builder.answered("qa", mode, 1.0 + number, 0.9, ttft_s=0.1)
        again = builder.build().explore()
        assert called(again, "Mode").value == "LOCAL"
        # It was the third chat of that agent in that mode.
        assert chosen(again) == "0.90 s · chat · qa · LOCAL · at 3.00 s"

    def test_what_is_no_more_is_dropped_silently(self) -> None:
        """A value, a stretch of time and a span that the new recording has not."""
        shown = two_modes().build().explore()
        called(shown, "Agent").value = "qa"
        called(shown, "Mode").value = "SUBPROCESS"
        called(shown, "Time").value = (20.0, 40.0)
        builder = ProfileBuilder("two modes", duration_s=4.0)
        builder.request("qa", "local", 0.0, 1.0)
        builder.request("ops", "local", 1.0, 2.0)
        again = builder.build().explore()
        assert called(again, "Agent").value == "qa"
        assert all_called(again, "Mode") == []
        assert called(again, "Time").value == (0.0, 4.0)
        assert listed(again) == ["1.00 s · orchestrate · qa · LOCAL · at 0 s"]

    def test_other_names_have_memories_of_their_own(self) -> None:
        """One profile's filters are not another's, nor those of the two side by side."""
        profile, other = two_modes().build(), asked()
        called(profile.explore(), "Agent").value = "qa"
        assert called(other.explore(), "Agent").value == "all"
        assert called(profile.explore(other), "Agent").value == "all"
        assert called(profile.explore(), "Agent").value == "qa"

    def test_a_profile_that_nobody_named_is_known_by_the_cell_that_shows_it(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is called by a number, which is another one each time its cell is run."""
        run: dict[str, Any] = {"metadata": {"cellId": "a"}, "header": {"msg_id": "1"}}
        shell = SimpleNamespace(get_parent=lambda: run)
        monkeypatch.setattr("IPython.get_ipython", lambda: shell)
        called(asked("In[3]").explore(), "Agent").value = "ops"
        assert called(asked("In[12]").explore(), "Agent").value == "ops"
        run["metadata"] = {"cellId": "b"}
        assert called(asked("In[12]").explore(), "Agent").value == "all"

    def test_what_is_remembered_is_small_and_of_few(self) -> None:
        """Short texts and numbers, of the last fifty names."""
        for number in range(70):
            profile = hostile("long " * 1000 + str(number)).build()
            profile.meta["name"] = f"{number} {profile.meta['name']}"
            shown = profile.explore()
            called(shown, "Agent").value = called(shown, "Agent").options[1]
            called(shown, "Time").value = (1.0, 5.0)
        kept = explorer_state._remembered
        assert len(kept) == 50
        assert next(reversed(kept))[0].startswith("69 ")
        assert len(json.dumps([[key, astuple(state)] for key, state in kept.items()])) < 50_000

    def test_another_run_of_a_cell_closes_the_widgets_of_the_last(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """They would stay in the kernel for ever, each with its profile."""
        run: dict[str, Any] = {"metadata": {"cellId": "a"}, "header": {"msg_id": "1"}}
        shell = SimpleNamespace(get_parent=lambda: run)
        monkeypatch.setattr("IPython.get_ipython", lambda: shell)
        profile = two_modes().build()
        seen = weakref.ref(profile)
        first, beside = profile.explore(), profile.explore()
        counts = []
        for number in range(3):
            run["header"] = {"msg_id": f"next {number}"}
            profile = two_modes().build()
            last = profile.explore()
            counts.append(len(_instances))
        assert counts[0] == counts[1] == counts[2]
        gc.collect()
        assert seen() is None
        assert first.comm is None
        assert beside.comm is None
        assert last.comm is not None
        run |= {"metadata": {"cellId": "b"}}
        profile.explore()
        assert last.comm is not None


class TestSideBySide:
    def test_both_are_filtered_alike_and_looked_into_apart(self) -> None:
        """Values of either are offered, and each side has a list and details of its own."""
        shown = two_modes().build().explore(asked())
        assert called(shown, "Agent").options == ("all", "ops", "qa")
        assert called(shown, "Status").options == ("all", "error", "ok", "timeout")
        base, other = all_called(shown, "Span")
        called(shown, "Status").value = "ok"
        called(shown, "Mode").value = "SUBPROCESS"
        assert [len(side.options) for side in (base, other)] == [4, 2]
        before = base.label
        other.index = 1
        assert base.label == before
        assert "model some-model" in text(shown)
        called(shown, "Status").value = "timeout"
        assert "No span fits these filters." in text(shown)

    def test_says_what_differs(self) -> None:
        """Above both, as claude_pm.compare says it."""
        base, new = two_modes().build(), asked("other")
        expected = claude_pm.compare(base, new)
        shown = base.explore(new)
        assert str(expected.rows[0].metric.words) in text(shown)
        assert "other and two modes: not enough data (duration" in text(shown)

    def test_where_nothing_can_be_compared_that_is_said(self) -> None:
        """And both are there to be looked into."""
        nothing = ProfileBuilder("nothing", duration_s=None).build()
        shown = nothing.explore(two_modes().build())
        assert "There is nothing to compare" in text(shown)
        assert "No span was recorded" in text(shown)
        assert len(all_called(shown, "Span")[1].options) == 13

    def test_very_many_requests_are_not_compared_at_once(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It says what does it."""
        monkeypatch.setattr(explorer, "MAX_COMPARED", 5)
        shown = two_modes().build().explore(asked())
        assert "claude_pm.compare(a, b) says what differs" in text(shown)
        assert "not enough data" not in text(shown)

    def test_a_second_is_as_wide_in_both(self) -> None:
        """The longer one's axis holds for the shorter, which is not said to be as long."""
        shown = two_modes().build().explore(asked())
        axes = [
            re.search(r'data-duration-s="([^"]+)"', one.value)
            for one in every(shown)
            if isinstance(one, HTML) and "claude-pm-timeline" in one.value
        ]
        assert [axis and axis[1] for axis in axes] == ["40", "40"]
        assert "1 request in 10.0 s" in "".join(
            one.value for one in every(shown) if isinstance(one, HTML)
        )

    def test_a_profile_beside_itself_has_ids_of_its_own(self) -> None:
        """A hidden drawing must not take the other's patterns along."""
        profile = two_modes().build()
        shown = profile.explore(profile)
        pages = [
            one.value
            for one in every(shown)
            if isinstance(one, HTML) and "claude-pm-timeline" in one.value
        ]
        ids = [set(re.findall(r' id="([^"]+)"', page)) for page in pages]
        assert ids[0]
        assert ids[0].isdisjoint(ids[1])
        assert not any(map(dangling_ids, pages))

    def test_an_experiment_is_explored_as_its_profile(self) -> None:
        """On either side."""
        plan = {"conditions": ["a"], "repeat": 1, "warmup": 0, "seed": 1, "complete": True}
        builder = ProfileBuilder("tried", experiment=plan)
        builder.span("sample", 0.0, 1.0, attributes={"condition": "a", "block": 0, "order": 0})
        experiment = Experiment(builder.build())
        assert "tried: 1 span" in text(experiment.explore())
        assert "tried: 1 span" in text(two_modes().build().explore(experiment))

    @pytest.mark.parametrize("wrong", [7, "20260131T090000123-synthetic-1a2b", [asked()]])
    def test_what_is_no_profile_is_refused(self, wrong: Any) -> None:
        """In a sentence."""
        with pytest.raises(ComparisonError, match=rf"A {type(wrong).__name__} cannot be explored"):
            two_modes().build().explore(wrong)


class TestWhatIsLeft:
    def test_an_empty_profile_says_so(self) -> None:
        """And shows no empty box."""
        shown = empty().explore()
        assert "No span was recorded, so there is nothing to explore" in text(shown)
        (spans,) = all_called(shown, "Span")
        around = [one for one in every(shown) if spans in every(one)]
        assert "none" in [one.layout.display for one in around]
        assert "No span was recorded" in repr(shown)

    def test_a_profile_still_recording_says_so(self) -> None:
        """As its other views do."""
        recording = Profile({"name": "now"}, None)
        with pytest.raises(ProfileError, match="'now' is still being recorded"):
            recording.explore()
        with pytest.raises(ProfileError, match="'now' is still being recorded"):
            two_modes().build().explore(recording)

    def test_very_many_spans_stay_light(self) -> None:
        """Fifty thousand send no more than a page has place for, also after a change."""
        rows = [
            {"span_id": f"{number:016x}", "parent_id": None, "trace_id": "0" * 31 + "1",
             "name": "orchestrate", "agent": f"agent {number % 7}", "mode": "local",
             "start_s": number / 100, "duration_s": 0.05, "self_s": 0.05, "pid": KERNEL_PID,
             "status": "error" if number % 1000 == 0 else "ok", "attributes": "{}"}
            for number in range(50_000)
        ]  # fmt: skip
        meta = ProfileBuilder("many", duration_s=501.0).meta
        profile = Profile(meta, {"spans": schema.frame_from_rows(schema.SPANS, rows)})
        shown = profile.explore()
        assert "50,000 spans, 200 of them listed" in text(shown)
        for name, value in (("Agent", "agent 3"), ("Status", "error"), ("Time", (100.0, 120.0))):
            assert sum(len(str(one.get_state())) for one in every(shown)) < 400_000
            called(shown, name).value = value
        assert len(listed(shown)) == sum(
            number % 7 == 3 and number % 1000 == 0 and 9_995 <= number <= 12_000
            for number in range(50_000)
        )

    def test_lists_hold_clean_text(self) -> None:
        """What names hold neither steers nor disguises a line, and is not lost."""
        builder = ProfileBuilder()
        for number, payload in enumerate(PAYLOADS.values()):
            name = payload.encode("utf-8", "replace").decode()
            outer = builder.span(name, number, 1.0, agent=name, mode=name, status=name)
            builder.span(name, number, 0.5, parent=outer)
        shown = builder.build().explore()
        lines = [line for one in every(shown) for line in getattr(one, "_options_labels", ())]
        assert len(lines) > 3 * len(PAYLOADS)
        for line in lines:
            assert words.one_line(line) == line
        agents = called(shown, "Agent").options
        for payload in PAYLOADS.values():
            start = words.one_line(payload.encode("utf-8", "replace").decode())[:14]
            assert any(agent.startswith(start) for agent in agents), start

    def test_its_widgets_say_what_they_are(self) -> None:
        """Each that is moved has a label, and the drawings say what is seen."""
        shown = two_modes().build().explore(asked())
        moved = [one for one in every(shown) if hasattr(one, "description")]
        moved = [one for one in moved if not isinstance(one, HTML | Label)]
        assert {one.description for one in moved} == {
            "Agent", "Mode", "Status", "Order", "Time", "Span", "Previous", "Next", "Go to", "Show"
        }  # fmt: skip
        for one in every(shown):
            if isinstance(one, HTML) and "<svg" in one.value:
                assert 'aria-label="' in one.value
