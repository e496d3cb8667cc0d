"""The recorder: columns in, tables out, and the way between processes."""

from __future__ import annotations

import contextlib
import json
import zlib
from typing import Any

import pandas as pd
import pytest

from claude_pm.profiles import schema
from claude_pm.recording import span
from claude_pm.recording.recorder import Recorder
from claude_pm.recording.span import activate, deactivate

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
