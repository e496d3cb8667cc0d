"""The critical path: what the end waited for, and what would be gained."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from claude_pm.analysis.critical_path import (
    BY_AGENT,
    BY_KIND,
    BY_SPAN,
    CRITICAL_PATH,
    WITHOUT,
    critical_path,
)
from claude_pm.errors import ProfileError
from claude_pm.profiles import Profile, schema
from tests.profile_builder import ProfileBuilder


def stretches(profile: Profile) -> list[tuple[str | None, str, float, float]]:
    """Return name, kind, start and duration of all stretches."""
    table = critical_path(profile).table.astype(object)
    table = table.where(table.notna(), None)
    columns = (table[name] for name in ("name", "kind", "start_s", "duration_s"))
    return [
        (name, kind, round(start, 6), round(duration, 6))
        for name, kind, start, duration in zip(*columns, strict=True)
    ]


def saved(profile: Profile) -> dict[str, float]:
    """Return what each kind and agent would save."""
    without = critical_path(profile).without
    return dict(zip(without["what"], without["saved_s"].round(6), strict=True))


def served(
    builder: ProfileBuilder, agent: str, sent_s: float, start_s: float, end_s: float,
    *, parent: str | None = None, ttft_s: float | None = None, **columns: object,
) -> str:  # fmt: skip
    """Add a request that waits in the queue until it is served by one chat."""
    request = builder.request(agent, "local", sent_s, end_s - sent_s, parent=parent, **columns)
    builder.span("queue", sent_s, start_s - sent_s, parent=request, agent=agent)
    builder.span(
        "chat", start_s, end_s - start_s, parent=request, agent=agent,
        ttft_s=(end_s - start_s) / 2 if ttft_s is None else ttft_s,
    )  # fmt: skip
    return request


def diamond() -> ProfileBuilder:
    """Return a workflow: a, then b (3 s) beside c (1 s), then d; and e, which nobody needs."""
    builder = ProfileBuilder()
    workflow = builder.span("workflow", 0.0, 6.0, attributes={"steps": 5})
    steps = (
        ("a", 0.0, 1.0, []),
        ("b", 1.0, 3.0, ["a"]),
        ("c", 1.0, 1.0, ["a"]),
        ("e", 0.0, 4.5, []),
        ("d", 5.0, 1.0, ["b", "c"]),
    )
    for name, start, duration, needs in steps:
        builder.request(
            name, "local", start, duration, parent=workflow,
            attributes={"step": name, "needs": needs},
        )  # fmt: skip
    return builder


class TestWalk:
    def test_one_request_is_its_phases(self) -> None:
        """With nothing beside it, a request's path is its road."""
        builder = ProfileBuilder()
        request = builder.request("qa", "local", 1.0, 9.0)
        builder.span("build_context", 1.5, 0.5, parent=request)
        builder.span("queue", 2.0, 1.0, parent=request)
        builder.span("chat", 3.0, 6.0, parent=request, ttft_s=4.0)
        assert stretches(builder.build()) == [
            ("orchestrate", "other", 1.0, 0.5),
            ("build_context", "build_context", 1.5, 0.5),
            ("queue", "queue", 2.0, 1.0),
            ("chat", "prefill", 3.0, 4.0),
            ("chat", "decode", 7.0, 2.0),
            ("orchestrate", "other", 9.0, 1.0),
        ]

    def test_of_concurrent_spans_the_last_to_end(self) -> None:
        """A gather waits for the slowest; the others are not on the path."""
        builder = ProfileBuilder()
        mine = builder.span("mine", 0.0, 10.0)
        builder.request("qa", "local", 1.0, 3.0, parent=mine)
        builder.request("ops", "local", 1.0, 7.0, parent=mine)
        builder.request("security", "local", 1.0, 5.0, parent=mine)
        path = critical_path(builder.build())
        assert stretches(builder.build()) == [
            ("mine", "own_python", 0.0, 1.0),
            ("orchestrate", "other", 1.0, 7.0),
            ("mine", "own_python", 8.0, 2.0),
        ]
        assert path.by_agent["agent"].fillna("-").tolist() == ["ops", "-"]
        assert path.by_agent["seconds"].tolist() == [7.0, 3.0]

    def test_what_still_ran_was_not_waited_for(self) -> None:
        """B began when A had ended: C, which ended after B began, did not hold B up."""
        builder = ProfileBuilder()
        builder.span("a", 0.0, 2.0)
        builder.span("c", 0.0, 3.0)
        builder.span("b", 2.0, 4.0)
        assert [name for name, *_ in stretches(builder.build())] == ["a", "b"]

    def test_time_between_the_roots_is_own_python(self) -> None:
        """It belongs to no span."""
        builder = ProfileBuilder()
        builder.span("a", 1.0, 1.0)
        builder.span("b", 4.0, 1.0)
        assert stretches(builder.build()) == [
            ("a", "own_python", 1.0, 1.0),
            (None, "own_python", 2.0, 2.0),
            ("b", "own_python", 4.0, 1.0),
        ]

    def test_a_step_waited_for_what_it_needs(self) -> None:
        """The step e ended last before d began, but d did not need it."""
        assert stretches(diamond().build()) == [
            ("orchestrate", "other", 0.0, 1.0),
            ("orchestrate", "other", 1.0, 3.0),
            ("workflow", "own_python", 4.0, 1.0),
            ("orchestrate", "other", 5.0, 1.0),
        ]
        agents = critical_path(diamond().build()).table["agent"].fillna("-").tolist()
        assert agents == ["a", "b", "-", "d"]

    def test_a_batch_is_the_chain_of_one_place(self) -> None:
        """Each of its requests waited for the one that made room."""
        builder = ProfileBuilder()
        batch = builder.span("batch", 0.0, 5.0, attributes={"requests": 4, "concurrency": 2})
        for agent, start, end in (("a", 0, 3), ("b", 0, 1), ("c", 1, 2), ("d", 2, 5)):
            builder.request(agent, "local", float(start), float(end - start), parent=batch)
        assert critical_path(builder.build()).table["agent"].tolist() == ["b", "c", "d"]

    def test_a_task_left_behind_was_not_waited_for(self) -> None:
        """What outlives a span of the user's did not hold it up; what outlives a request is cut."""
        builder = ProfileBuilder()
        mine = builder.span("mine", 0.0, 4.0)
        builder.span("left behind", 1.0, 9.0, parent=mine)
        assert stretches(builder.build()) == [("mine", "own_python", 0.0, 4.0)]
        builder = ProfileBuilder()
        request = builder.request("qa", "subprocess", 0.0, 4.0, status="timeout")
        builder.span("chat", 1.0, 9.0, parent=request, ttft_s=1.0)
        assert stretches(builder.build()) == [
            ("orchestrate", "other", 0.0, 1.0),
            ("chat", "prefill", 1.0, 1.0),
            ("chat", "decode", 2.0, 2.0),
        ]

    def test_unfinished_spans_are_left_out(self) -> None:
        """What lies below them is seen from the span above."""
        builder = ProfileBuilder()
        mine = builder.span("mine", 0.0, 4.0)
        profile_spans = builder.span("unfinished", 0.0, 0.0, parent=mine)
        builder.span("below", 1.0, 2.0, parent=profile_spans)
        profile = builder.build()
        profile.spans.loc[profile.spans["name"] == "unfinished", "duration_s"] = None
        assert [name for name, *_ in stretches(profile)] == ["mine", "below", "mine"]

    def test_nothing_to_walk(self) -> None:
        """A profile without spans says so in a sentence."""
        with pytest.raises(ProfileError, match=r"'synthetic' has no span that ended"):
            critical_path(ProfileBuilder().build())

    def test_deep_trees(self) -> None:
        """A recursion that was traced is as deep as Python's own limit."""
        builder = ProfileBuilder()
        parent = None
        rows = []
        for level in range(3000):
            rows.append({
                "span_id": f"{level:016x}", "parent_id": parent, "name": "deep", "start_s": 0.0,
                "duration_s": 3000.0 - level, "self_s": 1.0,
            })  # fmt: skip
            parent = f"{level:016x}"
        spans = schema.frame_from_rows(schema.SPANS, rows)
        profile = Profile(builder.build().meta, {"spans": spans})
        assert len(critical_path(profile).table) == 3000


class TestWithout:
    def test_is_no_mere_subtraction(self) -> None:
        """Without ops, qa is what is waited for: it saves the difference only."""
        builder = ProfileBuilder()
        mine = builder.span("mine", 0.0, 9.0)
        builder.request("ops", "local", 1.0, 7.0, parent=mine)
        builder.request("qa", "local", 1.0, 5.0, parent=mine)
        found = saved(builder.build())
        assert found["agent ops"] == 2.0
        assert found["agent qa"] == 0.0
        assert found["own_python"] == 2.0
        assert found["other"] == 7.0

    def test_own_spans_by_name(self) -> None:
        """Of one's own code it is said which spans it was: two fetches overlap, then one parses."""
        builder = ProfileBuilder()
        mine = builder.span("mine", 0.0, 10.0)
        builder.span("fetch", 0.0, 6.0, parent=mine)
        builder.span("fetch", 0.0, 5.0, parent=mine)
        builder.span("parse", 6.0, 3.0, parent=mine)
        path = critical_path(builder.build())
        spans = dict(zip(path.by_span["name"], path.by_span["seconds"], strict=True))
        assert spans == {"fetch": 6.0, "parse": 3.0, "mine": 1.0}
        found = saved(builder.build())
        assert (found["span fetch"], found["span parse"]) == (6.0, 3.0)
        assert path.headline == (
            "Of 10.0 s, fetch took 60 %, parse took 30 %, mine took 10 %. The most to gain: "
            "without fetch it would take 6.00 s less."
        )

    def test_a_workflow_by_its_needs(self) -> None:
        """Without b, the step d waits for c, and e is the last to end; d does not need it."""
        found = saved(diamond().build())
        assert found["agent b"] == 1.5
        assert found["agent c"] == 0.0
        assert found["agent d"] == 1.0
        assert found["agent e"] == 0.0

    def test_queueing_follows_from_service(self) -> None:
        """One place, two requests: half the service is prefill, and half the wait too."""
        builder = ProfileBuilder()
        served(builder, "qa", 0.0, 0.0, 4.0)
        served(builder, "ops", 0.0, 4.0, 8.0)
        path = critical_path(builder.build())
        assert dict(zip(path.by_kind["kind"], path.by_kind["seconds"], strict=True)) == {
            "queue": 4.0, "prefill": 2.0, "decode": 2.0,
        }  # fmt: skip
        assert path.replayed_s == pytest.approx(8.0)
        assert saved(builder.build()) == {
            "prefill": 4.0, "decode": 4.0, "queue": 4.0, "agent ops": 4.0, "agent qa": 4.0,
        }  # fmt: skip

    def test_a_batch_fills_its_places(self) -> None:
        """Without the slow request, the other place's chain of three is what is left."""
        builder = ProfileBuilder()
        batch = builder.span("batch", 0.0, 5.0, attributes={"requests": 4, "concurrency": 2})
        for agent, start, end in (("slow", 0, 5), ("b", 0, 1), ("c", 1, 2), ("d", 2, 4)):
            builder.request(agent, "local", float(start), float(end - start), parent=batch)
        # b beside c, and d after the one that ends first.
        assert saved(builder.build())["agent slow"] == pytest.approx(2.0)

    def test_the_models_slot_is_waited_for(self) -> None:
        """The embedded model answers one at a time: without prefill the wait is shorter too."""
        builder = ProfileBuilder()
        first = builder.request("a", "local", 0.0, 4.0)
        builder.span("chat", 0.0, 4.0, parent=first, agent="a", ttft_s=3.0)
        second = builder.request("b", "local", 0.0, 8.0)
        builder.span("queue", 0.0, 4.0, parent=second, attributes={"waits_for": "the model"})
        builder.span("chat", 4.0, 4.0, parent=second, agent="b", ttft_s=3.0)
        path = critical_path(builder.build())
        assert path.replayed_s == pytest.approx(8.0)
        assert saved(builder.build())["prefill"] == pytest.approx(6.0)

    def test_requests_sent_at_once_keep_their_order(self) -> None:
        """Without the time between their starts, the last would be ready before the third."""
        builder = ProfileBuilder()
        mine = builder.span("mine", 0.0, 6.0)
        sent_s = 0.0
        for ready_s, start, end in ((0.01, 0.2, 4), (0.01, 0.2, 1), (0.04, 1, 2), (0.02, 2, 6)):
            request = builder.request("qa", "local", sent_s, end - sent_s, parent=mine)
            queued = sent_s + ready_s
            builder.span("queue", queued, max(start - queued, 0.0), parent=request)
            builder.span("chat", start, end - start, parent=request, ttft_s=0.5)
            sent_s += 0.05
        assert saved(builder.build())["own_python"] < 0.3

    def test_own_tasks_are_chains_of_their_own(self) -> None:
        """Two tasks side by side: d began after a had ended too, but waited for c alone."""
        builder = ProfileBuilder()
        mine = builder.span("mine", 0.0, 8.0, task="main")
        for agent, task, start, end in (
            ("a", "one", 0.0, 3.0), ("b", "one", 3.0, 4.0),
            ("c", "two", 0.0, 3.5), ("d", "two", 3.5, 8.0),
        ):  # fmt: skip
            builder.span("step", start, end - start, parent=mine, task=task, agent=agent)
        found = saved(builder.build())
        assert found["agent a"] == 0.0
        assert found["agent c"] == 3.5

    def test_what_a_task_began_it_may_have_waited_for(self) -> None:
        """Between two spans of a task it began another one: a gather, most likely."""
        builder = ProfileBuilder()
        for agent, task, start, end in (
            ("a", "main", 0, 1),
            ("b", "other", 2, 5),
            ("c", "main", 5, 6),
        ):
            builder.span("step", float(start), float(end - start), task=task, agent=agent)
        assert saved(builder.build())["agent b"] == 3.0

    def test_a_failed_worker_gives_its_place_back(self) -> None:
        """A request that queues up twice does not block itself."""
        builder = ProfileBuilder()
        request = builder.request("qa", "local", 0.0, 5.0)
        builder.span("queue", 0.0, 1.0, parent=request)
        builder.span("start_worker", 1.0, 1.0, parent=request, status="error")
        builder.span("queue", 2.0, 1.0, parent=request)
        builder.span("chat", 3.0, 2.0, parent=request, ttft_s=1.0)
        assert critical_path(builder.build()).replayed_s == pytest.approx(3.0)

    def test_a_request_within_a_request_comes_to_an_end(self) -> None:
        """With one place on the bus, the inner one would wait for the outer for ever."""
        builder = ProfileBuilder()
        outer = served(builder, "qa", 0.0, 0.0, 6.0)
        served(builder, "ops", 1.0, 4.0, 5.0, parent=outer)
        assert critical_path(builder.build()).replayed_s > 0


class TestShown:
    def test_tables_are_as_declared(self) -> None:
        """Columns and types are those of the declarations."""
        path = critical_path(diamond().build())
        for declared, table in (
            (CRITICAL_PATH, path.table),
            (BY_KIND, path.by_kind),
            (BY_AGENT, path.by_agent),
            (BY_SPAN, path.by_span),
            (WITHOUT, path.without),
        ):
            schema.check(declared, table, where="the critical path")

    def test_says_it_in_words(self) -> None:
        """The sentence names the largest part and the most that can be gained."""
        builder = ProfileBuilder()
        served(builder, "qa", 0.0, 0.0, 4.0, ttft_s=3.0)
        path = critical_path(builder.build())
        assert repr(path).startswith(
            "Of 4.00 s, prefill took 75 %, decode took 25 %. The most to gain: "
            "without prefill it would take 3.00 s less."
        )
        bundle = path._repr_mimebundle_()
        assert bundle["text/plain"] == repr(path)
        assert "<table" in bundle["text/html"]
        assert "prefill took 75 %" in bundle["text/html"]


@st.composite
def profiles(draw: st.DrawFn) -> Profile:
    """Return a profile of spans that nest, overlap and outlive each other, without queues."""
    builder = ProfileBuilder()
    ids: list[str | None] = [None]
    times = st.integers(0, 40).map(lambda tenths: tenths / 4)
    for _ in range(draw(st.integers(1, 14))):
        name = draw(st.sampled_from(["orchestrate", "chat", "mine", "start_worker", "workflow"]))
        columns = {"ttft_s": draw(times)} if name == "chat" else {}
        ids.append(
            builder.span(
                name, draw(times), draw(times), parent=draw(st.sampled_from(ids)),
                agent=draw(st.sampled_from([None, "qa", "ops"])),
                task=draw(st.sampled_from([None, "one", "two"])), **columns,
            )
        )  # fmt: skip
    return builder.build()


class TestEveryInstantCountsOnce:
    @given(profiles())
    def test_stretches_add_up(self, profile: Profile) -> None:
        """They follow each other from the first root's start to the last one's end."""
        path = critical_path(profile)
        starts = path.table["start_s"].tolist()
        ends = (path.table["start_s"] + path.table["duration_s"]).tolist()
        assert starts[1:] == pytest.approx(ends[:-1])
        assert sum(path.table["duration_s"]) == pytest.approx(path.wall_s)
        assert path.by_kind["seconds"].sum() == pytest.approx(path.wall_s)
        assert path.by_agent["seconds"].sum() == pytest.approx(path.wall_s)

    @given(profiles())
    def test_a_replay_with_nothing_changed(self, profile: Profile) -> None:
        """Where nothing queues, it takes what was recorded."""
        path = critical_path(profile)
        assert path.replayed_s == pytest.approx(path.wall_s)
        assert (path.without["wall_s"] <= path.wall_s + 1e-6).all()
