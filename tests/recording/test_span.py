"""Spans: who is whose child, what a span carries, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import enum
import functools
import inspect
import itertools
import json
import os
import random
import re
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pandas as pd
import pytest

import claude_pm
from claude_pm.errors import OrchestrationTimeoutError
from claude_pm.profiles import Profile
from claude_pm.recording import (
    ProfileSession,
    current_recorder,
    current_span,
    profile,
    span,
    traced,
)
from claude_pm.recording.ids import new_span_id, new_trace_id
from claude_pm.recording.span import Span
from tests.forked_child import held_by_another_thread, in_forked_child, needs_fork

# perf_counter_ns divided into seconds: what is one instant may differ in the last bit.
_ROUNDING_S = 1e-6


def spans_only(name: str = "spans") -> ProfileSession:
    """A profile of spans alone."""
    return profile(name, cpu=None, memory=None)


def row(recorded: Profile, name: str) -> dict[str, Any]:
    """The one span of that name, null as None."""
    (found,) = rows(recorded, name)
    return found


def rows(recorded: Profile, name: str | None = None) -> list[dict[str, Any]]:
    """All spans, or those of a name, by start, null as None."""
    records = recorded.spans.to_dict("records")
    found = [{key: None if value is pd.NA else value for key, value in r.items()} for r in records]
    return [record for record in found if name is None or record["name"] == name]


def names(recorded: Profile) -> list[str]:
    """The names of the spans, by start."""
    return recorded.spans["name"].tolist()


def contains(outer: dict[str, Any], inner: dict[str, Any]) -> bool:
    """Whether one interval lies within another."""
    return bool(
        outer["start_s"] <= inner["start_s"] + _ROUNDING_S
        and inner["start_s"] + inner["duration_s"]
        <= outer["start_s"] + outer["duration_s"] + _ROUNDING_S
    )


@contextlib.contextmanager
def interrupted_at_boundary() -> Iterator[None]:
    """A Ctrl-C in the reading of the memory with which spans begin and end."""

    def interrupt(*, always: bool = False) -> None:
        raise KeyboardInterrupt

    recorder = current_recorder()
    assert recorder is not None
    recorder.at_boundary = interrupt
    with pytest.raises(KeyboardInterrupt):
        yield
    recorder.at_boundary = None


class TestNesting:
    """A span is the child of the span that is open where it is opened."""

    def test_child(self) -> None:
        """A child names its parent, shares its trace and lies within it."""
        with spans_only() as recorded, span("parent"), span("child"), span("grandchild"):
            pass
        parent, child, grandchild = rows(recorded)
        assert [parent["name"], child["name"], grandchild["name"]] == names(recorded)
        assert parent["parent_id"] is None
        assert child["parent_id"] == parent["span_id"]
        assert grandchild["parent_id"] == child["span_id"]
        assert parent["trace_id"] == child["trace_id"] == grandchild["trace_id"]
        assert contains(parent, child)
        assert contains(child, grandchild)

    def test_siblings(self) -> None:
        """Spans opened one after the other in a parent are its children, in their order."""
        with spans_only() as recorded, span("parent"):
            for name in ("first", "second", "third"):
                with span(name):
                    pass
        parent, *children = rows(recorded)
        assert [child["name"] for child in children] == ["first", "second", "third"]
        assert {child["parent_id"] for child in children} == {parent["span_id"]}
        for earlier, later in itertools.pairwise(children):
            assert earlier["start_s"] + earlier["duration_s"] <= later["start_s"] + _ROUNDING_S

    def test_roots(self) -> None:
        """Spans outside of any other are roots, each with a trace of its own."""
        with spans_only() as recorded:
            with span("first"):
                pass
            with span("second"):
                pass
        first, second = rows(recorded)
        assert first["parent_id"] is None
        assert second["parent_id"] is None
        assert first["trace_id"] != second["trace_id"]

    def test_used_twice(self) -> None:
        """A span that is opened again is another one, of the same parent."""
        with spans_only() as recorded, span("outer"):
            again = span("again", folder="docs")
            for _ in range(2):
                with again, span("inner"):
                    pass
        first, second = rows(recorded, "again")
        assert first["span_id"] != second["span_id"]
        assert first["parent_id"] == second["parent_id"] == row(recorded, "outer")["span_id"]
        assert [inner["parent_id"] for inner in rows(recorded, "inner")] == [
            first["span_id"], second["span_id"],
        ]  # fmt: skip
        assert second["start_s"] >= first["start_s"] + first["duration_s"]

    def test_never_opened(self) -> None:
        """A span that is made and not opened is not recorded."""
        with spans_only() as recorded:
            with span("first"):
                span("never")
            span("never")
            with span("last"):
                pass
            span("never")
        assert names(recorded) == ["first", "last"]

    def test_parent_again_after_an_exception(self) -> None:
        """A child that fails gives its place back to the parent."""
        with spans_only() as recorded, span("parent"):
            with contextlib.suppress(ValueError), span("fails"):
                raise ValueError
            with span("next"):
                pass
        assert row(recorded, "next")["parent_id"] == row(recorded, "parent")["span_id"]

    def test_within_the_profile(self) -> None:
        """Spans start after the profile's beginning and end before its end."""
        with spans_only() as recorded, span("work"):
            pass
        work = row(recorded, "work")
        assert work["start_s"] >= 0
        assert work["start_s"] + work["duration_s"] <= recorded.meta["duration_s"] + _ROUNDING_S

    def test_current_span(self) -> None:
        """``current_span`` is the innermost open span, and None outside of all."""
        assert current_span() is None
        with spans_only():
            assert current_span() is None
            with span("outer") as outer:
                with span("inner") as inner:
                    assert current_span() is inner
                assert current_span() is outer
            assert current_span() is None

    def test_where(self) -> None:
        """A span knows its process and thread; outside of asyncio it has no task."""
        with spans_only() as recorded, span("work"):
            pass
        work = row(recorded, "work")
        assert work["pid"] == recorded.meta["pid"]
        assert work["thread"] == threading.current_thread().name
        assert work["task"] is None


class TestInheritance:
    """Agent and mode of a request hold for everything done for it."""

    def test_inherited(self) -> None:
        """A span without an agent or mode has its parent's, through all generations."""
        with (
            spans_only() as recorded,
            span("request", agent="qa", mode="local"),
            span("step"),
            span("detail"),
        ):
            pass
        for name in ("request", "step", "detail"):
            assert (row(recorded, name)["agent"], row(recorded, name)["mode"]) == ("qa", "local")

    def test_own_wins(self) -> None:
        """What a span is given itself stays, and is its children's."""
        with (
            spans_only() as recorded,
            span("request", agent="qa", mode="local"),
            span("handed over", agent="ops"),
            span("detail"),
        ):
            pass
        assert row(recorded, "detail")["agent"] == "ops"
        assert row(recorded, "detail")["mode"] == "local"
        assert row(recorded, "request")["agent"] == "qa"

    def test_set_later(self) -> None:
        """A value set on an open span holds for the children opened after, not before."""
        with spans_only() as recorded, span("request") as request:
            with span("before"):
                pass
            request.set(agent="qa")
            with span("after"):
                pass
        assert row(recorded, "before")["agent"] is None
        assert row(recorded, "after")["agent"] == "qa"

    @pytest.mark.parametrize(
        "columns",
        [
            pytest.param({"model": "claude-haiku-4-5"}, id="model"),
            pytest.param({"input_tokens": 10, "output_tokens": 2}, id="tokens"),
            pytest.param({"ttft_s": 0.5, "cost_usd": 0.01}, id="times and cost"),
            pytest.param({"cache": "hit"}, id="cache"),
        ],
    )
    def test_not_inherited(self, columns: dict[str, Any]) -> None:
        """What is measured of one span is not its children's."""
        with spans_only() as recorded, span("parent", **columns), span("child"):
            pass
        assert {name: row(recorded, "parent")[name] for name in columns} == columns
        assert {row(recorded, "child")[name] for name in columns} == {None}


class TestAttributes:
    """A value with a column goes there, everything else into ``attributes`` as JSON."""

    def test_columns(self) -> None:
        """Every column that a span can set arrives there, and not among the attributes."""
        values: dict[str, Any] = {
            "agent": "qa", "mode": "local", "model": "small", "status": "timeout",
            "error": "Slow.", "input_tokens": 9, "cache_read_tokens": 4,
            "cache_write_tokens": 3, "output_tokens": 2, "ttft_s": 0.25, "cost_usd": 0.5,
            "cache": "miss",
        }  # fmt: skip
        assert set(values) == set(Span.COLUMNS)
        with spans_only() as recorded, span("chat") as current:
            current.set(**values)
        chat = row(recorded, "chat")
        assert {name: chat[name] for name in values} == values
        assert chat["attributes"] == "{}"

    def test_unset_is_null(self) -> None:
        """A column that nobody set is null, never 0."""
        with spans_only() as recorded, span("work"):
            pass
        work = row(recorded, "work")
        unset = set(Span.COLUMNS) - {"status"}
        assert {name for name in unset if work[name] is not None} == set()

    def test_zero_is_zero(self) -> None:
        """A 0 that was measured is a 0, not null."""
        with spans_only() as recorded, span("chat", cache_read_tokens=0, cost_usd=0.0):
            pass
        assert row(recorded, "chat")["cache_read_tokens"] == 0
        assert row(recorded, "chat")["cost_usd"] == 0.0

    @pytest.mark.parametrize(
        ("given", "stored"),
        [
            pytest.param({}, {}, id="none"),
            pytest.param({"folder": "docs", "n": 3, "ok": True}, None, id="plain values"),
            pytest.param({"text": 'ü → \U0001f600 "quoted"\n'}, None, id="any text"),
            pytest.param({"nested": {"list": [1, 2.5, None]}}, None, id="nested"),
            pytest.param({"tuple": (1, 2)}, {"tuple": [1, 2]}, id="tuple"),
            pytest.param({"object": complex(1, 2)}, {"object": "(1+2j)"}, id="object"),
            pytest.param({"start_s": 1}, None, id="column that is not settable"),
        ],
    )
    def test_json(self, given: dict[str, Any], stored: dict[str, Any] | None) -> None:
        """Attributes come back from JSON as they went in; what JSON has not becomes text."""
        with spans_only() as recorded, span("work", **given):
            pass
        found = json.loads(row(recorded, "work")["attributes"])
        assert found == (given if stored is None else stored)

    @pytest.mark.parametrize(
        "value",
        [
            pytest.param({(1, 2): "key"}, id="key that JSON has not"),
            pytest.param(float("nan"), id="nan"),
            pytest.param([float("inf")], id="infinity"),
        ],
    )
    def test_what_json_cannot_hold(self, value: object) -> None:
        """A value that JSON cannot hold becomes text, harms no other, and never the user's code."""
        with spans_only() as recorded, span("work", strange=value, also=complex(1, 2)):
            pass

        def refuse(constant: str) -> None:
            pytest.fail(f"{constant} is not JSON")

        found = json.loads(row(recorded, "work")["attributes"], parse_constant=refuse)
        assert found == {"strange": str(value), "also": "(1+2j)"}

    def test_what_json_cannot_end(self) -> None:
        """A value that contains itself does not break the code either."""
        endless: list[Any] = []
        endless.append(endless)
        with spans_only() as recorded, span("work", endless=endless):
            pass
        assert json.loads(row(recorded, "work")["attributes"]) == {"endless": "[[...]]"}

    @pytest.mark.parametrize(
        ("column", "value"),
        [
            ("status", 200), ("cache", True), ("error", ValueError("x")), ("model", {"a": 1}),
            ("input_tokens", "many"), ("output_tokens", 2.5), ("ttft_s", "soon"),
        ],
    )  # fmt: skip
    def test_wrong_type(self, column: str, value: object) -> None:
        """A value that its column cannot hold is refused where it is set, and spoils no profile."""
        with (
            spans_only() as recorded,
            span("work") as current,
            pytest.raises(TypeError, match=rf"span.*\b{column}\b"),
        ):
            current.set(**{column: value})
        assert row(recorded, "work")["status"] == "ok"

    @pytest.mark.parametrize("more", [{}, {"list": [1]}], ids=["shared", "not shared"])
    def test_any_name(self, more: dict[str, Any]) -> None:
        """An attribute may have any name, those of the function's own parameters too."""
        given = {"name": "docs", "self": 1, **more}
        with spans_only() as recorded, span("load", **given), span("part") as part:
            part.set(**given)
        for name in ("load", "part"):
            assert json.loads(row(recorded, name)["attributes"]) == given

    def test_text_of_an_enum(self) -> None:
        """A text that is a member of an Enum is its text, as it is in all other tables."""

        class Agent(str, enum.Enum):  # noqa: UP042 - of a StrEnum str() is the text
            QA = "qa"

        with spans_only() as recorded, span("work", agent=Agent.QA, mode="local", who=Agent.QA):
            pass
        assert row(recorded, "work")["agent"] == "qa"
        assert json.loads(row(recorded, "work")["attributes"]) == {"who": "qa"}

    def test_value_without_a_text(self) -> None:
        """A value whose own text cannot be had is told by its type, and harms nobody."""

        class Bad:
            def __str__(self) -> str:
                raise RuntimeError("no text")

            __repr__ = __str__

        deep: list[Any] = []
        for _ in range(100_000):
            deep = [deep]
        given = {"bad": Bad(), "within": [Bad()], "deep": deep, "long": 10**5000, "good": 1}
        with spans_only() as recorded, span("work", **given):
            pass
        assert json.loads(row(recorded, "work")["attributes"]) == {
            "bad": "Bad", "within": ["Bad"], "deep": "list", "long": "int", "good": 1,
        }  # fmt: skip
        # Else the collector's turn, with its depth, may be in another test.
        while deep:
            deep = deep.pop()

    def test_numbers_of_other_libraries(self) -> None:
        """Numbers of numpy are numbers."""
        numpy = pytest.importorskip("numpy")
        with (
            spans_only() as recorded,
            span("chat", input_tokens=numpy.int64(7), ttft_s=numpy.float32(0.5), cost_usd=1),
        ):
            pass
        chat = row(recorded, "chat")
        assert (chat["input_tokens"], chat["ttft_s"], chat["cost_usd"]) == (7, 0.5, 1.0)


class TestTasks:
    """Asyncio tasks start where they are made."""

    async def test_gather(self) -> None:
        """Tasks gathered in a span are its children, each with children of its own."""

        async def work(number: int) -> None:
            with span(f"task {number}"):
                await asyncio.sleep(0)
                with span(f"step {number}"):
                    await asyncio.sleep(0)

        async with spans_only() as recorded:
            with span("parent"):
                await asyncio.gather(*(work(number) for number in range(3)))
            with span("after"):
                pass
        parent = row(recorded, "parent")
        for number in range(3):
            task, step = row(recorded, f"task {number}"), row(recorded, f"step {number}")
            assert task["parent_id"] == parent["span_id"]
            assert step["parent_id"] == task["span_id"]
            assert contains(parent, task)
            assert contains(task, step)
        tasks = {row(recorded, f"task {number}")["task"] for number in range(3)}
        assert len(tasks) == 3
        assert tasks == {row(recorded, f"step {number}")["task"] for number in range(3)}
        assert row(recorded, "after")["parent_id"] is None

    async def test_self_time_of_overlapping_children(self) -> None:
        """A parent's own time is its duration less the time when any child ran, counted once."""
        both_run = asyncio.Barrier(2)

        async def work(name: str) -> None:
            with span(name):
                await both_run.wait()
                await asyncio.sleep(0)

        async with spans_only() as recorded:
            with span("parent"):
                await asyncio.gather(work("a"), work("b"))
        parent, a, b = (row(recorded, name) for name in ("parent", "a", "b"))
        # They overlap, so their union is one interval.
        first = min(a["start_s"], b["start_s"])
        last = max(a["start_s"] + a["duration_s"], b["start_s"] + b["duration_s"])
        assert a["duration_s"] + b["duration_s"] > last - first
        assert parent["self_s"] == pytest.approx(parent["duration_s"] - (last - first), abs=1e-9)
        assert a["self_s"] == a["duration_s"]

    async def test_task_that_outlives_its_parent(self) -> None:
        """A task still hangs under the span it was made in when that has ended."""
        go = asyncio.Event()

        async def later() -> None:
            await go.wait()
            with span("late"):
                pass

        async with spans_only() as recorded:
            with span("parent"):
                task = asyncio.create_task(later())
            go.set()
            await task
        assert row(recorded, "late")["parent_id"] == row(recorded, "parent")["span_id"]

    async def test_generator_closed_in_another_context(self) -> None:
        """An async generator that another task closes ends its span without an error there."""

        async def produce() -> AsyncIterator[int]:
            with span("produce"):
                yield 1
                yield 2

        async with spans_only() as recorded:
            generator = produce()
            assert await anext(generator) == 1
            await asyncio.create_task(generator.aclose())  # type: ignore[attr-defined]
            with span("after"):
                pass
        assert names(recorded) == ["produce", "after"]
        assert row(recorded, "produce")["status"] == "cancelled"
        assert row(recorded, "produce")["attributes"] == "{}"
        assert row(recorded, "after")["status"] == "ok"


class TestThreads:
    """Threads that carry a context follow it; others belong to the profile that is recorded."""

    async def test_to_thread(self) -> None:
        """``asyncio.to_thread`` carries the open span with it."""

        def work() -> None:
            with span("in thread"):
                pass

        async with spans_only() as recorded:
            with span("parent"):
                await asyncio.to_thread(work)
        parent, child = row(recorded, "parent"), row(recorded, "in thread")
        assert child["parent_id"] == parent["span_id"]
        assert child["thread"] != parent["thread"]
        assert contains(parent, child)

    def test_copied_context(self) -> None:
        """A thread that runs in a copy of its maker's context does so too."""

        def work() -> None:
            with span("in thread"):
                pass

        with spans_only() as recorded, span("parent"):
            context = contextvars.copy_context()
            thread = threading.Thread(target=context.run, args=(work,))
            thread.start()
            thread.join()
        assert row(recorded, "in thread")["parent_id"] == row(recorded, "parent")["span_id"]

    @pytest.mark.parametrize("kind", ["thread", "executor"])
    def test_plain_thread(self, kind: str) -> None:
        """In a thread without a context a span is a root of the profile, and has its children."""

        def work() -> None:
            with span("in thread"), span("child"):
                pass

        with spans_only() as recorded, span("parent"):
            if kind == "thread":
                thread = threading.Thread(target=work, name="worker 7")
                thread.start()
                thread.join()
            else:
                with ThreadPoolExecutor(1, thread_name_prefix="worker") as pool:
                    pool.submit(work).result()
        root, child = row(recorded, "in thread"), row(recorded, "child")
        assert root["parent_id"] is None
        assert root["trace_id"] != row(recorded, "parent")["trace_id"]
        assert child["parent_id"] == root["span_id"]
        assert str(root["thread"]).startswith("worker")
        assert child["thread"] == root["thread"]

    def test_plain_thread_within_two_profiles(self) -> None:
        """Its spans belong to the inner profile, and with that to the outer one."""

        def work() -> None:
            with span("in thread"):
                pass

        with spans_only() as outer, span("parent"), spans_only() as inner:
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
        assert row(inner, "in thread")["status"] == "ok"
        assert row(outer, "in thread")["status"] == "ok"

    def test_plain_thread_beside_two_profiles(self) -> None:
        """Where neither profile is a part of the other, nobody can tell whose it is."""
        first, second = ProfileSession("first", cpu=None), ProfileSession("second", cpu=None)
        contextvars.copy_context().run(first.start)
        contextvars.copy_context().run(second.start)

        def work() -> None:
            with span("in thread"):
                pass

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        assert first.stop().spans.empty
        assert second.stop().spans.empty

    def test_many_threads(self) -> None:
        """Spans of many threads at once are all recorded, each under its own parent."""
        start = threading.Barrier(8)

        def work(number: int) -> None:
            start.wait()
            for _ in range(50):
                with span(f"outer {number}"), span(f"inner {number}"):
                    pass

        with spans_only() as recorded:
            threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        found = rows(recorded)
        assert len(found) == 8 * 50 * 2
        by_id = {record["span_id"]: record for record in found}
        assert len(by_id) == len(found)
        for record in found:
            kind, _, number = record["name"].partition(" ")
            if kind == "inner":
                assert by_id[record["parent_id"]]["name"] == f"outer {number}"
            else:
                assert record["parent_id"] is None

    def test_ends_amid_many_threads(self) -> None:
        """Whatever threads are doing when the profile ends, each span that began is there once."""
        begun = [0] * 4

        def work(number: int, stop: threading.Event) -> None:
            while not stop.is_set():
                with span("work", thread=number, nth=begun[number]):
                    begun[number] += 1

        before_s = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        try:
            for _ in range(20):
                begun[:] = [0] * len(begun)
                stop = threading.Event()
                threads = [threading.Thread(target=work, args=(n, stop)) for n in range(len(begun))]
                with spans_only() as recorded:
                    for thread in threads:
                        thread.start()
                    while min(begun) < 10:
                        pass
                    begun_before = list(begun)
                stop.set()
                for thread in threads:
                    thread.join()
                assert recorded.spans["span_id"].is_unique
                said = [json.loads(text) for text in recorded.spans["attributes"]]
                for number, count in enumerate(begun_before):
                    found = [one["nth"] for one in said if one["thread"] == number]
                    assert found == list(range(len(found)))
                    assert len(found) >= count
        finally:
            sys.setswitchinterval(before_s)

    def test_thread_that_outlives_the_profile(self) -> None:
        """A thread's span still open at the end is shown unfinished, and its end does no harm."""
        opened, ended = threading.Event(), threading.Event()

        def work() -> bool:
            with span("long"):
                opened.set()
                was_told = ended.wait(10)
            with span("late") as late:
                return was_told and not late.recording

        with ThreadPoolExecutor(1) as pool:
            with spans_only() as recorded:
                future = pool.submit(work)
                assert opened.wait(10)
            ended.set()
            assert future.result() is True
        assert names(recorded) == ["long"]
        assert row(recorded, "long")["status"] is None


class TestEndings:
    """How a span ended is its status."""

    def test_ok(self) -> None:
        """A block that ends by itself is ok and has no error."""
        with spans_only() as recorded, span("work"):
            pass
        assert (row(recorded, "work")["status"], row(recorded, "work")["error"]) == ("ok", None)

    @pytest.mark.parametrize(
        ("error", "status", "text"),
        [
            pytest.param(ValueError("bad"), "error", "ValueError: bad", id="error"),
            pytest.param(KeyError("k"), "error", "KeyError: 'k'", id="key error"),
            pytest.param(RuntimeError(), "error", "RuntimeError: ", id="no message"),
            pytest.param(SystemExit(2), "error", "SystemExit: 2", id="exit"),
            pytest.param(TimeoutError("slow"), "timeout", "TimeoutError: slow", id="timeout"),
            pytest.param(
                OrchestrationTimeoutError("60 s."),
                "timeout",
                "OrchestrationTimeoutError: 60 s.",
                id="our timeout",
            ),
            pytest.param(
                asyncio.CancelledError(), "cancelled", "CancelledError: ", id="cancellation"
            ),
            pytest.param(
                KeyboardInterrupt(), "cancelled", "KeyboardInterrupt: ", id="interruption"
            ),
            pytest.param(GeneratorExit(), "cancelled", "GeneratorExit: ", id="closed generator"),
        ],
    )
    def test_exception(self, error: BaseException, status: str, text: str) -> None:
        """An exception is told with its type and message, goes on, and the profile is kept."""
        with pytest.raises(type(error)) as caught, spans_only() as recorded, span("work"):
            raise error
        assert caught.value is error
        work = row(recorded, "work")
        assert (work["status"], work["error"]) == (status, text)

    def test_exception_without_a_text(self) -> None:
        """An exception whose text cannot be had goes on as it is; later spans are not within."""

        class BadError(Exception):
            def __str__(self) -> str:
                raise RuntimeError("no text")

        with spans_only() as recorded, span("around"):
            with pytest.raises(BadError), span("fails"):
                raise BadError
            with span("next"):
                pass
        assert (row(recorded, "fails")["status"], row(recorded, "fails")["error"]) == (
            "error", "BadError",
        )  # fmt: skip
        assert row(recorded, "next")["parent_id"] == row(recorded, "around")["span_id"]

    def test_interrupted_at_its_start(self) -> None:
        """A span that a Ctrl-C kept from beginning is nobody's parent."""
        with spans_only() as recorded, span("around"):
            with interrupted_at_boundary(), span("never"):
                pass
            with span("next"):
                pass
        assert names(recorded) == ["around", "next"]
        assert row(recorded, "next")["parent_id"] == row(recorded, "around")["span_id"]

    def test_interrupted_at_its_end(self) -> None:
        """Spans after one whose end was interrupted are not within it."""
        with spans_only() as recorded, span("around"):
            left = span("left").__enter__()
            with interrupted_at_boundary():
                left.__exit__(None, None, None)
            with span("next"):
                pass
        assert row(recorded, "next")["parent_id"] == row(recorded, "around")["span_id"]

    def test_every_span_on_the_way(self) -> None:
        """An exception marks each span that it leaves, and none where it was handled."""
        with (
            spans_only() as recorded,
            span("handles"),
            contextlib.suppress(ValueError),
            span("outer"),
            span("inner"),
        ):
            raise ValueError("bad")
        statuses = {record["name"]: record["status"] for record in rows(recorded)}
        assert statuses == {"handles": "ok", "outer": "error", "inner": "error"}

    def test_set_status_wins(self) -> None:
        """A status and an error set by hand stay, whatever happens after."""
        with (
            pytest.raises(ValueError, match="bad"),
            spans_only() as recorded,
            span("work", status="timeout", error="Gave up after 3 tries."),
        ):
            raise ValueError("bad")
        work = row(recorded, "work")
        assert (work["status"], work["error"]) == ("timeout", "Gave up after 3 tries.")

    async def test_cancelled_task(self) -> None:
        """A cancelled task's span is cancelled."""

        async def work() -> None:
            with span("work"):
                await asyncio.sleep(60)

        async with spans_only() as recorded:
            task = asyncio.create_task(work())
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert row(recorded, "work")["status"] == "cancelled"

    async def test_time_limit(self) -> None:
        """Where a time limit strikes, the span around timed out, the one within was cancelled."""
        async with spans_only() as recorded:
            with contextlib.suppress(TimeoutError), span("limited"):
                async with asyncio.timeout(0.001):
                    with span("work"):
                        await asyncio.sleep(60)
        assert row(recorded, "limited")["status"] == "timeout"
        assert row(recorded, "work")["status"] == "cancelled"

    def test_generator_left_early(self) -> None:
        """A generator whose consumer has had enough was cancelled; that is no error."""

        def produce() -> Iterator[int]:
            with span("produce"):
                yield 1
                yield 2

        with spans_only() as recorded:
            generator = produce()
            assert next(generator) == 1
            generator.close()  # type: ignore[attr-defined]
        assert row(recorded, "produce")["status"] == "cancelled"


class TestUnfinished:
    """Spans and the end of the profile."""

    def test_open_at_the_end(self) -> None:
        """A span still open at the end has no status, is marked, and lasts until the end."""
        with spans_only() as recorded:
            open_span = span("open", folder="docs").__enter__()
        open_span.__exit__(None, None, None)
        found = row(recorded, "open")
        assert found["status"] is None
        assert json.loads(found["attributes"]) == {"folder": "docs", "unfinished": True}
        end_s = found["start_s"] + found["duration_s"]
        assert end_s == pytest.approx(recorded.meta["duration_s"], abs=1e-9)

    def test_closed_after_the_end(self) -> None:
        """What is set or closed after the end changes nothing in the profile."""
        with spans_only() as recorded:
            open_span = span("open").__enter__()
        open_span.set(agent="qa", late=True)
        open_span.__exit__(None, None, None)
        assert names(recorded) == ["open"]
        assert row(recorded, "open")["agent"] is None
        assert "late" not in row(recorded, "open")["attributes"]

    def test_opened_after_the_end(self) -> None:
        """A span opened after the end belongs to no profile, even if it was made before."""
        with spans_only() as recorded:
            made = span("made before")
        with made, span("late") as late:
            assert not late.recording
        assert names(recorded) == []

    def test_no_harm_to_the_next_profile(self) -> None:
        """A span of an ended profile that closes during the next one takes nothing from it."""
        with spans_only("first") as first:
            late = span("late").__enter__()
        with spans_only("second") as second:
            late.__exit__(None, None, None)
            with span("work"):
                pass
        assert names(first) == ["late"]
        assert names(second) == ["work"]

    def test_no_harm_to_the_outer_profile(self) -> None:
        """Nor does one of an inner profile take anything from the outer one."""
        with spans_only("outer") as outer:
            with spans_only("inner"):
                late = span("late").__enter__()
            late.__exit__(None, None, None)
            with span("work"):
                pass
        assert names(outer) == ["late", "work"]

    async def test_no_parent_in_an_ended_profile(self) -> None:
        """A task that outlives a profile starts the next one afresh, not under a dead span."""
        go = asyncio.Event()

        async def later() -> Profile:
            await go.wait()
            assert current_span() is None
            assert not span("between").recording
            with spans_only("second") as second, span("work"):
                pass
            return second

        with spans_only("first"), span("parent"):
            task = asyncio.create_task(later())
            await asyncio.sleep(0)
        go.set()
        assert row(await task, "work")["parent_id"] is None


class TestWithoutProfile:
    """Where nothing is recorded, spans do nothing and disturb nobody."""

    def test_span(self) -> None:
        """A span can be used as ever, and says that it is not recorded."""
        with span("work", agent="qa") as current:
            current.set(n=1, input_tokens=2)
            assert not current.recording
            assert current.traceparent is None
            assert (current.start_ns, current.thread, current.task) == (0, None, None)
            assert current_span() is None
            assert current_recorder() is None

    def test_exception(self) -> None:
        """An exception goes through as it is."""
        error = ValueError("bad")
        with pytest.raises(ValueError, match="bad") as caught, span("work"):
            raise error
        assert caught.value is error

    def test_thread(self) -> None:
        """Nor do threads find anything to record to."""
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(lambda: span("work").recording).result() is False


class TestTraced:
    """``@traced`` records every call as a span."""

    def test_bare(self) -> None:
        """Bare, the span has the function's qualified name; the function stays what it was."""

        @traced
        def work(a: int, *, b: int = 0) -> int:
            """Add."""
            return a + b

        with spans_only() as recorded:
            assert work(1, b=2) == 3
            assert work(4) == 4
        assert names(recorded) == [f"TestTraced.test_bare.<locals>.{work.__name__}"] * 2
        assert (work.__name__, work.__doc__) == ("work", "Add.")

    @pytest.mark.parametrize("how", ["positional", "keyword"])
    def test_named(self, how: str) -> None:
        """With a name and attributes, the span has those."""
        decorate = (
            traced("load documents", folder="docs", agent="qa")
            if how == "positional"
            else traced(name="load documents", folder="docs", agent="qa")
        )

        @decorate
        def work() -> str:
            return "done"

        with spans_only() as recorded:
            assert work() == "done"
        found = row(recorded, "load documents")
        assert found["agent"] == "qa"
        assert json.loads(found["attributes"]) == {"folder": "docs"}

    def test_attributes_alone(self) -> None:
        """With attributes but no name, the span has the function's name."""

        @traced(folder="docs")
        def work() -> None:
            pass

        with spans_only() as recorded:
            work()
        assert names(recorded) == [work.__qualname__]

    async def test_coroutine(self) -> None:
        """A coroutine function stays one, and its span lasts while it awaits."""

        @traced("work")
        async def work() -> str:
            with span("step"):
                await asyncio.sleep(0)
            return "done"

        assert inspect.iscoroutinefunction(work)
        async with spans_only() as recorded:
            assert await work() == "done"
        assert row(recorded, "step")["parent_id"] == row(recorded, "work")["span_id"]
        assert contains(row(recorded, "work"), row(recorded, "step"))

    def test_method(self) -> None:
        """A method keeps its self."""

        class Loader:
            folder = "docs"

            @traced
            def load(self) -> str:
                return self.folder

        with spans_only() as recorded:
            assert Loader().load() == "docs"
        assert names(recorded)[0].endswith("Loader.load")

    def test_exception(self) -> None:
        """An exception is the caller's, and the span's status."""

        @traced("work")
        def work() -> None:
            raise ValueError("bad")

        with pytest.raises(ValueError, match="bad"), spans_only() as recorded:
            work()
        assert row(recorded, "work")["error"] == "ValueError: bad"

    def test_callables_without_a_name(self) -> None:
        """What has no qualified name has that of what it calls, or of its class."""

        class Loader:
            def __call__(self) -> str:
                return "loaded"

        def work(n: int) -> int:
            return n

        with spans_only() as recorded:
            assert traced(functools.partial(functools.partial(work), 3))() == 3
            assert traced(Loader())() == "loaded"
        assert names(recorded) == [work.__qualname__, Loader.__qualname__]

    def test_generators_are_refused(self) -> None:
        """A generator's interval would be its consumer's: refused at once, with what to do."""

        def numbers() -> Iterator[int]:
            yield 1

        async def later_numbers() -> AsyncIterator[int]:
            yield 1

        for function in (numbers, later_numbers):
            with pytest.raises(TypeError, match=rf"{function.__name__} is a generator: open a "):
                traced(function)

    def test_without_profile(self) -> None:
        """Without a profile the function just runs."""
        assert traced(len)([1, 2]) == 2


class TestIds:
    """Ids are those of the W3C trace context."""

    def test_format(self) -> None:
        """16 and 32 hex digits in lower case; a traceparent is made of both."""
        with spans_only() as recorded, span("work") as current:
            traceparent = current.traceparent
        work = row(recorded, "work")
        assert re.fullmatch(r"[0-9a-f]{16}", work["span_id"])
        assert re.fullmatch(r"[0-9a-f]{32}", work["trace_id"])
        assert traceparent == f"00-{work['trace_id']}-{work['span_id']}-01"

    def test_small_numbers_keep_their_zeros(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """An id never gets shorter, and never is the all-zero one that means 'none'."""
        from claude_pm.recording.ids import _random

        for bits, last in ((0, "1"), (10, "a")):
            monkeypatch.setattr(_random, "getrandbits", lambda _n, bits=bits: bits)
            with spans_only(), span("work") as work:
                assert work.span_id == "0" * 15 + last
            assert new_trace_id() == "0" * 31 + last

    def test_unique(self) -> None:
        """No two of many are the same."""
        assert len({new_span_id() for _ in range(10_000)}) == 10_000
        assert len({new_trace_id() for _ in range(10_000)}) == 10_000

    def test_seeds_are_left_alone(self) -> None:
        """The user's random numbers are neither moved by spans nor move them."""
        random.seed(42)
        state = random.getstate()
        first = new_span_id()
        assert random.getstate() == state
        random.seed(42)
        assert new_span_id() != first


class TestAcrossProcesses:
    """A traceparent joins what another process records."""

    def test_traceparent(self) -> None:
        """Roots recorded under a traceparent are children of that span, in its trace."""
        with spans_only() as here, span("request") as request:
            assert request.traceparent is not None
            traceparent = request.traceparent
        there = ProfileSession("worker", cpu=None, memory=None, traceparent=traceparent)
        there.start()
        with span("chat"), span("step"):
            pass
        there.stop()
        request_row, chat = row(here, "request"), row(there.profile, "chat")
        assert chat["parent_id"] == request_row["span_id"]
        assert chat["trace_id"] == request_row["trace_id"]
        assert row(there.profile, "step")["parent_id"] == chat["span_id"]


@needs_fork
class TestForkedChild:
    """A forked child has all that its parent had, but its process is not in the profile."""

    def test_records_nothing(self) -> None:
        """Nothing is recorded in a child, in no context and no thread; its parent goes on."""
        with spans_only() as recorded, span("around"):
            context = contextvars.copy_context()

            def work() -> list[bool]:
                with span("child") as child, ThreadPoolExecutor(1) as pool:
                    return [
                        child.recording,
                        context.run(lambda: span("child").recording),
                        pool.submit(lambda: span("child").recording).result(),
                        current_span() is not None,
                        current_recorder() is not None,
                    ]

            assert not any(in_forked_child(work))
            with span("after"):
                pass
        assert names(recorded) == ["around", "after"]
        assert row(recorded, "after")["parent_id"] == row(recorded, "around")["span_id"]

    def test_profile_of_its_own(self) -> None:
        """A profile that is recorded in a child is like any other."""

        def work() -> list[Any]:
            with spans_only() as own, span("work"):
                pass
            return [names(own), row(own, "work")["parent_id"], row(own, "work")["pid"], os.getpid()]

        with spans_only(), span("around"):
            found, parent, pid, child = in_forked_child(work)
        assert (found, parent, pid) == (["work"], None, child)

    def test_end_of_the_block_in_the_child(self) -> None:
        """A child that goes on past the end of the block has what was recorded until its fork."""
        session = spans_only()
        recorded = session.start()
        recorder = session.recorder
        assert recorder is not None
        with span("around"):

            def work() -> list[str]:
                with span("child"):
                    pass
                session.stop()
                return names(recorded)

            # As another thread of the parent's may at any time.
            with held_by_another_thread(recorder.lock):
                assert in_forked_child(work) == ["around"]
        session.stop()
        assert names(recorded) == ["around"]


class TestNestedProfiles:
    """A profile within a profile."""

    def test_inner_spans_are_in_both(self) -> None:
        """The inner profile's spans are its own and the outer one's too, equal in all but start."""
        with spans_only("outer") as outer:
            with span("before"):
                pass
            with (
                span("around"),
                spans_only("inner") as inner,
                span("work", agent="qa", n=1),
                span("step"),
            ):
                pass
            with span("after"):
                pass
        assert names(inner) == ["work", "step"]
        assert names(outer) == ["before", "around", "work", "step", "after"]
        for name in ("work", "step"):
            in_outer, in_inner = row(outer, name), row(inner, name)
            assert in_outer.pop("start_s") >= in_inner.pop("start_s")
            assert in_outer == in_inner

    def test_inner_hangs_under_the_open_span(self) -> None:
        """The inner profile's roots are children of the span that was open around it."""
        with spans_only("outer") as outer, span("around"), spans_only("inner"), span("work"):
            pass
        around, work = row(outer, "around"), row(outer, "work")
        assert work["parent_id"] == around["span_id"]
        assert work["trace_id"] == around["trace_id"]
        assert contains(around, work)
        assert around["self_s"] == pytest.approx(
            around["duration_s"] - work["duration_s"], abs=1e-9
        )

    def test_unfinished_inner(self) -> None:
        """A span that the inner profile shows as unfinished is so in the outer one too."""
        with spans_only("outer") as outer, spans_only("inner"):
            span("open").__enter__()
        assert row(outer, "open")["status"] is None
        assert json.loads(row(outer, "open")["attributes"]) == {"unfinished": True}

    def test_failing_inner(self) -> None:
        """An inner profile that ends with an exception is taken over like any other."""
        with spans_only("outer") as outer:
            with contextlib.suppress(ValueError), spans_only("inner"), span("work"):
                raise ValueError("bad")
            with span("after"):
                pass
        assert [record["status"] for record in rows(outer)] == ["error", "ok"]

    def test_model_use_goes_up(self) -> None:
        """A model called within the inner profile was called within the outer one."""
        with spans_only("outer") as outer, spans_only("inner") as inner:
            recorder = current_recorder()
            assert recorder is not None
            recorder.note_model_use("live")
        assert inner.meta["model_use"] == outer.meta["model_use"] == "live"

    def test_workers_go_up(self) -> None:
        """What workers recorded within the inner profile is in the outer one, once."""
        with spans_only("outer") as outer, spans_only("inner") as inner:
            recorder = current_recorder()
            assert recorder is not None
            function = {"function": "work", "file": "w.py", "line": 1, "calls": 2, "pid": 99}
            recorder.merge(
                {"spans": [], "tables": {"functions": [function]}, "model_use": "not called"}
            )
        for recorded in (inner, outer):
            assert recorded.functions[["function", "calls", "pid"]].to_numpy().tolist() == [
                ["work", 2, 99]
            ]


def test_public_names_are_these() -> None:
    """``claude_pm.span`` and ``claude_pm.traced`` are the ones tested here."""
    assert claude_pm.span is span
    assert claude_pm.traced is traced
