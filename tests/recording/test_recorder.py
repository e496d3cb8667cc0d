"""The recorder: columns in, tables out, and the way between processes."""

from __future__ import annotations

import contextlib
import json
import threading
import zlib
from collections.abc import Sequence
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from claude_pm.profiles import schema
from claude_pm.recording import ids, span, span_rows
from claude_pm.recording.recorder import Recorder
from claude_pm.recording.span import activate, deactivate
from tests.forked_child import in_forked_child, needs_fork

_MS = 1_000_000


def id_of(name: str | None) -> str | None:
    """Return 16 hex digits that stand for a name."""
    return None if name is None else f"{zlib.crc32(name.encode()):016x}"


def recorded_row(
    name: str, start_ms: int, end_ms: int, parent: str | None = None
) -> dict[str, Any]:
    """A span as a worker reports it; its id is made of its name."""
    unset = dict.fromkeys(schema.SPANS.column_names)
    return unset | {
        "span_id": id_of(name), "parent_id": id_of(parent), "trace_id": "t", "name": name,
        "start_ns": start_ms * _MS, "end_ns": end_ms * _MS, "status": "ok", "pid": 1,
        "attributes": {},
    }  # fmt: skip


def record(recorder: Recorder) -> None:
    """Open some spans of every kind into a recorder."""
    before = activate(recorder)
    with span("request", agent="qa", mode="local", text="ü"):
        with span("chat", input_tokens=5, ttft_s=0.5, cost_usd=0.0, nested={"a": [1, None]}):
            pass
        with contextlib.suppress(ValueError), span("fails"):
            raise ValueError("bad")
    span("open").__enter__()
    recorder.finish()
    deactivate(recorder, before)


class TestSelfTime:
    """A span's own time is its duration less the union of its children's intervals."""

    @pytest.mark.parametrize(
        ("children", "own_ms"),
        [
            pytest.param([], 100, id="no children"),
            pytest.param([(0, 100)], 0, id="one that fills it"),
            pytest.param([(10, 30)], 80, id="one"),
            pytest.param([(10, 30), (50, 60)], 70, id="two apart"),
            pytest.param([(10, 30), (30, 60)], 50, id="two that touch"),
            pytest.param([(10, 40), (30, 60)], 50, id="two that overlap"),
            pytest.param([(10, 60), (20, 30)], 50, id="one within the other"),
            pytest.param([(10, 60), (10, 60)], 50, id="two at once"),
            pytest.param([(60, 70), (10, 20), (15, 30)], 70, id="out of order"),
            pytest.param([(90, 150)], 90, id="one that outlives it"),
            pytest.param([(120, 150)], 100, id="one after it"),
            pytest.param([(-20, 10)], 90, id="one begun before it"),
            pytest.param([(50, 50)], 100, id="an empty one"),
        ],
    )
    def test_children(self, children: list[tuple[int, int]], own_ms: int) -> None:
        """Time is counted once however many children ran in it, and only within the span."""
        recorder = Recorder()
        offset = 1000
        rows = [recorded_row("parent", offset, offset + 100)]
        for number, (start, end) in enumerate(children):
            rows.append(recorded_row(f"c{number}", offset + start, offset + end, "parent"))
        recorder.merge({"spans": rows, "tables": {}, "model_use": "not called"})
        found = recorder.spans_frame().set_index("name")["self_s"]
        assert found["parent"] == pytest.approx(own_ms / 1000)
        for number, (start, end) in enumerate(children):
            assert found[f"c{number}"] == pytest.approx((end - start) / 1000)

    def test_grandchildren(self) -> None:
        """A grandchild's time is its parent's to give away, not its grandparent's."""
        recorder = Recorder()
        rows = [
            recorded_row("a", 0, 100),
            recorded_row("b", 0, 60, "a"),
            recorded_row("c", 0, 50, "b"),
        ]
        recorder.merge({"spans": rows, "tables": {}, "model_use": "not called"})
        found = recorder.spans_frame().set_index("name")["self_s"]
        assert found.to_dict() == pytest.approx({"a": 0.04, "b": 0.01, "c": 0.05})


def plain_self_times_ms(rows: Sequence[tuple[int, int | None, int, int]]) -> list[int]:
    """Self times the long way round; a row is (id, parent's id, start, end)."""
    found = []
    for span_id, _, start, end in rows:
        children = sorted((s, e) for _, parent, s, e in rows if parent == span_id)
        covered, reached = 0, start
        for child_start, child_end in children:
            begin, finish = max(child_start, reached), min(child_end, end)
            if finish > begin:
                covered += finish - begin
                reached = finish
        found.append(end - start - covered)
    return found


_TIMES_MS = st.integers(min_value=0, max_value=12)
_SPANS = st.lists(
    st.tuples(
        st.integers(min_value=1, max_value=8),
        st.one_of(st.none(), st.integers(min_value=1, max_value=8)),
        _TIMES_MS,
        _TIMES_MS,
    ),
    max_size=14,
)


@settings(deadline=None, max_examples=150)
@given(_SPANS)
def test_self_times_of_any_spans(spans: list[tuple[int, int | None, int, int]]) -> None:
    """Overlapping, twice merged, backwards or their own parent: self times are as defined."""
    recorder = Recorder()
    rows = [
        recorded_row(str(at), start, end)
        | {"span_id": f"{own:016x}", "parent_id": None if parent is None else f"{parent:016x}"}
        for at, (own, parent, start, end) in enumerate(spans)
    ]
    recorder.merge({"spans": rows, "tables": {}, "model_use": "not called"})
    found = recorder.spans_frame().set_index("name")["self_s"]
    expected = plain_self_times_ms(spans)
    assert [found[str(at)] for at in range(len(spans))] == [own * _MS / 1e9 for own in expected]


_LINES = st.text(max_size=3)
_NUMBERS = st.one_of(st.none(), st.integers(min_value=0, max_value=2**62))
_REALS = st.one_of(st.none(), st.floats(min_value=0, max_value=1e6))
_VALUES = st.fixed_dictionaries(
    {},
    optional={
        "agent": st.one_of(st.none(), _LINES),
        "mode": _LINES,
        "model": _LINES,
        "status": _LINES,
        "error": _LINES,
        "input_tokens": _NUMBERS,
        "output_tokens": _NUMBERS,
        "cache_read_tokens": _NUMBERS,
        "ttft_s": _REALS,
        "cost_usd": _REALS,
        "cache": _LINES,
        "n": st.one_of(st.booleans(), st.sampled_from([0, 1, 0.0, 1.0, None, "1"])),
        "list": st.lists(st.sampled_from([0, 1.0, True]), max_size=2),
    },
)
_LATER = st.one_of(st.none(), _VALUES)


@settings(deadline=None, max_examples=150)
@given(st.lists(st.tuples(_VALUES, _LATER), max_size=6))
def test_every_value_comes_back(given_values: list[tuple[dict[str, Any], dict[str, Any]]]) -> None:
    """Whatever spans were given, first or later, is in the table, the dump and what takes it over.

    1, 1.0 and True are three values, though equal; half a character of text becomes a ``?``.
    """
    recorder, other = Recorder(), Recorder()
    before = activate(recorder)
    for nth, (values, later) in enumerate(given_values):
        with span(str(nth), **values) as opened:
            if later is not None:
                opened.set(**later)
    deactivate(recorder, before)
    recorder.finish()
    other.merge(json.loads(json.dumps(recorder.dump({}))))
    for frame in (recorder.spans_frame(), other.spans_frame()):
        schema.check(schema.SPANS, frame, where="the recorder")
        records = {record["name"]: record for record in frame.to_dict("records")}
        assert list(records) == [str(nth) for nth in range(len(given_values))]
        for nth, (values, later) in enumerate(given_values):
            expected = {**values, **(later or {})}
            record = records[str(nth)]
            attributes = {key: expected.pop(key) for key in ("n", "list") if key in expected}
            found = json.loads(record["attributes"])
            assert found == attributes
            assert repr(sorted(found.items())) == repr(sorted(attributes.items()))
            for key, value in expected.items():
                if value is None:
                    if key != "status":
                        assert record[key] is None
                elif isinstance(value, str):
                    assert record[key] == value.encode("utf-8", "replace").decode()
                else:
                    assert record[key] == value


class TestFrame:
    """The spans table."""

    def test_schema(self) -> None:
        """With spans or without, the table has exactly the columns and types declared."""
        recorder = Recorder()
        schema.check(schema.SPANS, recorder.spans_frame(), where="the empty recorder")
        record(recorder)
        schema.check(schema.SPANS, recorder.spans_frame(), where="the recorder")

    def test_ordered_by_start(self) -> None:
        """Rows come by start, though spans are recorded as they end."""
        recorder = Recorder()
        rows = [recorded_row("b", 2, 3), recorded_row("c", 3, 4), recorded_row("a", 1, 9)]
        recorder.merge({"spans": rows, "tables": {}, "model_use": "not called"})
        assert recorder.spans_frame()["name"].tolist() == ["a", "b", "c"]

    def test_nothing_is_shared(self) -> None:
        """Each table asked for is a new one, that the user may change."""
        recorder = Recorder()
        record(recorder)
        changed = recorder.spans_frame()
        changed["name"] = "changed"
        assert "changed" not in recorder.spans_frame()["name"].tolist()


class TestHolding:
    """What a recorder holds of spans that are told apart, and of those that are not."""

    def test_memory_of_like_spans(self) -> None:
        """Spans that say the same cost some 44 bytes each, whoever is whose child."""
        recorder = Recorder()
        before = activate(recorder)
        for _ in range(3000):
            with span("outer", agent="qa", input_tokens=812, hit=True), span("inner", part=1):
                pass
        deactivate(recorder, before)
        recorder.finish()
        held = sum(
            column.buffer_info()[1] * column.itemsize
            for column in (recorder.rows.spans, recorder.rows.facts)
        )
        assert held < 6000 * 46
        assert len(recorder.spans_frame()) == 6000

    def test_more_kinds_than_are_looked_for(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Spans, threads, tasks and errors that are all different come back all the same."""
        monkeypatch.setattr(span_rows, "_SHARED", 4)
        recorder = Recorder()
        before = activate(recorder)

        def work(number: int) -> None:
            with contextlib.suppress(ValueError), span(f"s{number % 7}", n=number % 9):
                raise ValueError(number)

        for number in range(40):
            thread = threading.Thread(target=work, args=(number,), name=f"t{number}")
            thread.start()
            thread.join()
            work(100 + number)
        deactivate(recorder, before)
        frame = recorder.spans_frame()
        recorder.finish()
        own = frame[frame["error"].str.len() == len("ValueError: 100")]
        assert own["name"].tolist() == [f"s{n % 7}" for n in range(100, 140)]
        assert own["error"].tolist() == [f"ValueError: {n}" for n in range(100, 140)]
        assert own["attributes"].tolist() == [f'{{"n": {n % 9}}}' for n in range(100, 140)]

    def test_what_can_change_is_held_as_it_was(self) -> None:
        """A list changed after its span has ended does not change the span."""
        recorder = Recorder()
        before = activate(recorder)
        parts = [1]
        with span("work", parts=parts):
            parts.append(2)
        parts.append(3)
        deactivate(recorder, before)
        assert recorder.spans_frame()["attributes"].tolist() == ['{"parts": [1, 2]}']

    def test_read_while_recording(self) -> None:
        """The table can be asked for in between; recording goes on, and earlier tables stay."""
        recorder = Recorder()
        before = activate(recorder)
        tables = []
        for number in range(50):
            with span("work", n=number):
                pass
            tables.append(recorder.spans_frame())
        deactivate(recorder, before)
        assert [len(table) for table in tables] == list(range(1, 51))
        assert tables[0]["attributes"].tolist() == ['{"n": 0}']

    def test_half_a_character(self) -> None:
        """A lone surrogate, in any text, becomes a ``?``: Parquet cannot hold it."""
        recorder = Recorder()
        before = activate(recorder)
        with contextlib.suppress(ValueError), span("a\ud800", agent="b\udfff", note="c\ud83d"):
            raise ValueError("d\ud800")
        deactivate(recorder, before)
        (found,) = recorder.spans_frame().to_dict("records")
        assert (found["name"], found["agent"]) == ("a?", "b?")
        assert (found["attributes"], found["error"]) == ('{"note": "c?"}', "ValueError: d?")
        assert json.dumps(recorder.dump({}), ensure_ascii=False).encode()

    @pytest.mark.parametrize("tokens", [2**63, -(2**63), 10**30])
    def test_a_number_too_large(self, tokens: int) -> None:
        """A number that its column cannot hold is refused where it is set, with its name."""
        recorder = Recorder()
        before = activate(recorder)
        with pytest.raises(TypeError, match="span column 'input_tokens' cannot hold"):
            span("work", input_tokens=tokens)
        deactivate(recorder, before)
        assert len(recorder.spans_frame()) == 0

    def test_a_value_that_opens_spans(self) -> None:
        """A value whose text is made by code that is recorded itself hangs nothing up."""

        class Value:
            def __str__(self) -> str:
                with span("inner"):
                    return "text"

        recorder = Recorder()
        before = activate(recorder)
        with span("outer", value=Value()):
            pass
        deactivate(recorder, before)
        assert sorted(recorder.spans_frame()["name"]) == ["inner", "outer"]


class _ClosesWhenListed(dict[int, Any]):
    """Open spans; another thread closes them when somebody asks for them."""

    def values(self) -> Any:
        for one in list(super().values()):
            thread = threading.Thread(target=one.__exit__, args=(None, None, None))
            thread.start()
            thread.join()
        return super().values()


class _InterruptedOnce(dict[int, Any]):
    """Open spans; the first who asks for them is interrupted."""

    interrupted = False

    def values(self) -> Any:
        if not self.interrupted:
            self.interrupted = True
            raise KeyboardInterrupt
        return super().values()


def test_interrupted_end() -> None:
    """After a Ctrl-C while the recording ends, a second end keeps the spans that were open."""
    recorder = Recorder()
    recorder.open_spans = _InterruptedOnce()
    before = activate(recorder)
    work = span("work").__enter__()
    with pytest.raises(KeyboardInterrupt):
        recorder.finish()
    end_ns = recorder.end_ns
    work.__exit__(None, None, None)
    recorder.finish()
    deactivate(recorder, before)
    assert recorder.end_ns == end_ns
    (found,) = recorder.span_rows()
    assert (found["name"], found["end_ns"]) == ("work", end_ns)
    assert found["attributes"] == {"unfinished": True}


def test_closed_while_the_recording_ends() -> None:
    """A span that another thread closes in this moment is there."""
    recorder = Recorder()
    recorder.open_spans = _ClosesWhenListed()
    before = activate(recorder)
    span("work").__enter__()
    recorder.finish()
    deactivate(recorder, before)
    assert recorder.spans_frame()["name"].tolist() == ["work"]


def test_more_spans_than_a_piece_of_a_column() -> None:
    """In a long table each span has its ids, and each root has no parent."""
    recorder = Recorder()
    before = activate(recorder)
    for _ in range(35_000):
        with span("root"), span("part"):
            pass
    deactivate(recorder, before)
    recorder.finish()
    frame, rows = recorder.spans_frame(), recorder.span_rows()
    for column in ("span_id", "trace_id", "parent_id", "name"):
        found = [None if value is pd.NA else value for value in frame[column]]
        assert found == [row[column] for row in rows], column


class TestMerge:
    """What one recorder dumps another takes over."""

    def test_round_trip_through_json(self) -> None:
        """Dumped, sent as JSON and merged, every column is as it was; starts share one clock."""
        there, here = Recorder(), Recorder()
        record(there)
        sent = json.loads(json.dumps(there.dump({})))
        here.merge(sent)
        before, after = there.spans_frame(), here.spans_frame()
        shift = (there.origin_ns - here.origin_ns) / 1e9
        pd.testing.assert_frame_equal(after.drop(columns="start_s"), before.drop(columns="start_s"))
        difference = (after["start_s"] - before["start_s"]).tolist()
        assert difference == pytest.approx([shift] * len(before))
        assert after["name"].tolist() == ["request", "chat", "fails", "open"]

    def test_beside_own_spans(self) -> None:
        """Merged spans stand beside the recorder's own."""
        here, there = Recorder(), Recorder()
        record(here)
        record(there)
        here.merge(there.dump({}))
        assert len(here.spans_frame()) == 8
        assert here.spans_frame()["span_id"].nunique() == 8

    def test_tables(self) -> None:
        """Rows of other tables are collected, in the order in which workers end."""
        here = Recorder()
        for pid in (1, 2):
            here.merge(Recorder().dump({"memory": [{"t_ns": 5, "pid": pid}]}))
        assert here.worker_tables == {"memory": [{"t_ns": 5, "pid": 1}, {"t_ns": 5, "pid": 2}]}

    def test_a_bad_row_spoils_nothing(self) -> None:
        """A worker's row that is not a span is refused whole: the table can still be made."""
        here = Recorder()
        record(here)
        bad = recorded_row("bad", 1, 2) | {"output_tokens": "many"}
        with pytest.raises(TypeError):
            here.merge({"spans": [bad], "tables": {}, "model_use": "not called"})
        assert "bad" not in here.spans_frame()["name"].tolist()
        assert len(here.spans_frame()) == 4

    @pytest.mark.parametrize(
        ("uses", "told"),
        [
            ([], "not called"),
            (["not called", "replayed"], "replayed"),
            (["replayed", "not called"], "replayed"),
            (["live", "replayed", "not called"], "live"),
        ],
        ids=lambda value: "+".join(value) or "nothing" if isinstance(value, list) else value,
    )
    def test_model_use(self, uses: list[str], told: str) -> None:
        """A model called live anywhere was called live, in workers as here."""
        here = Recorder()
        for use in uses:
            here.merge({"spans": [], "tables": {}, "model_use": use})
        assert here.model_use == told


class TestRemoteParent:
    """A recorder can be told whose child it is."""

    def test_traceparent(self) -> None:
        """The traceparent's ids are the roots' parent and trace."""
        trace_id, span_id = "a" * 32, "b" * 16
        recorder = Recorder(traceparent=f"00-{trace_id}-{span_id}-01")
        record(recorder)
        found = recorder.spans_frame().set_index("name")
        assert found.loc["request", "parent_id"] == span_id
        assert set(found["trace_id"]) == {trace_id}


@needs_fork
def test_ids_of_forked_children() -> None:
    """Children forked in turn do not give their spans the same ids."""
    assert in_forked_child(ids.new_span_id) != in_forked_child(ids.new_span_id)
