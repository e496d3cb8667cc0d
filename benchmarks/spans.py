"""What spans cost: to record, to hold, and to turn into a table.

A span here is a start, an end and six attributes, three nested in each other. Recording is timed
beside the least a usable span needs, and beside OpenTelemetry where it is installed, taking turns.
Memory is measured in processes of their own, so that peaks do not mix.
"""

from __future__ import annotations

import contextlib
import contextvars
import gc
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from claude_pm.recording.recorder import Recorder
from claude_pm.recording.span import activate, deactivate, span

LEAST = "minimal span"
UNITS = 200
DEPTH = 3
ROUNDS = 301
SIZES = (100_000, 1_000_000)
MIB = 1024 * 1024

Unit = Callable[[int], None]
FREE: dict[str, Any] = {
    "agent": "reviewer", "mode": "LOCAL", "model": "m", "tokens_in": 812, "tokens_out": 96,
    "cache_hit": True,
}  # fmt: skip


def run() -> Iterator[dict[str, Any]]:
    """Yield the figures."""
    times_ns: dict[str, list[float]] = {}
    ratios: dict[str, list[float]] = {}
    cases = dict(_cases())
    for turn in range(ROUNDS + 1):
        for name, (unit, around) in cases.items():
            with around():
                unit(0)
                elapsed = _ns_per_span(unit)
            if turn > 0:
                times_ns.setdefault(name, []).append(elapsed)
                # Of the same round: the machine's speed changes from one to the next.
                ratios.setdefault(name, []).append(elapsed / times_ns[LEAST][-1])
    for name, times in times_ns.items():
        yield {
            "what": f"record one span: {name}",
            "n": ROUNDS,
            "min_ns": round(min(times)),
            "median_ns": round(statistics.median(times)),
            "ratio": round(statistics.median(ratios[name]), 2),
        }
    for size in SIZES:
        for kind in ("columns", "free attributes", "all different"):
            done = subprocess.run(
                [sys.executable, "-m", "benchmarks.spans", kind, str(size)],
                check=True,
                capture_output=True,
                text=True,
            )
            yield json.loads(done.stdout)


def _ns_per_span(unit: Unit) -> float:
    gc.collect()
    start = time.perf_counter_ns()
    for number in range(UNITS):
        unit(number)
    return (time.perf_counter_ns() - start) / UNITS / DEPTH


def _cases() -> Iterator[tuple[str, tuple[Unit, Callable[[], Any]]]]:
    yield LEAST, (_minimal, contextlib.nullcontext)
    yield "claude_pm, six columns", (_columns, _recording)
    yield "claude_pm, three of them free attributes", (_free, _recording)
    yield "claude_pm, tokens all different", (_different, _recording)
    yield "claude_pm, no attributes", (_bare, _recording)
    yield "claude_pm, no profile", (_columns, contextlib.nullcontext)
    try:
        from opentelemetry import trace
        from opentelemetry.sdk.trace import TracerProvider
    except ImportError:
        return
    yield "OpenTelemetry no-op", (_otel(trace.NoOpTracer()), contextlib.nullcontext)
    sdk = TracerProvider(shutdown_on_exit=False).get_tracer("benchmarks")
    yield "OpenTelemetry SDK, no processor", (_otel(sdk), contextlib.nullcontext)


@contextlib.contextmanager
def _recording() -> Iterator[Recorder]:
    recorder = Recorder()
    before = activate(recorder)
    yield recorder
    recorder.finish()
    deactivate(recorder, before)


def _columns(_number: int) -> None:
    with (
        span("a", agent="reviewer", mode="LOCAL", model="m", input_tokens=812, output_tokens=96,
             cache="hit"),
        span("b", agent="reviewer", mode="LOCAL", model="m", input_tokens=812, output_tokens=96,
             cache="hit"),
        span("c", agent="reviewer", mode="LOCAL", model="m", input_tokens=812, output_tokens=96,
             cache="hit"),
    ):  # fmt: skip
        pass


def _free(_number: int) -> None:
    with (
        span("a", agent="reviewer", mode="LOCAL", model="m", tokens_in=812, tokens_out=96,
             cache_hit=True),
        span("b", agent="reviewer", mode="LOCAL", model="m", tokens_in=812, tokens_out=96,
             cache_hit=True),
        span("c", agent="reviewer", mode="LOCAL", model="m", tokens_in=812, tokens_out=96,
             cache_hit=True),
    ):  # fmt: skip
        pass


def _different(number: int) -> None:
    with (
        span("a", agent="reviewer", mode="LOCAL", model="m", input_tokens=number,
             output_tokens=96, cache="hit"),
        span("b", agent="reviewer", mode="LOCAL", model="m", input_tokens=number,
             output_tokens=97, cache="hit"),
        span("c", agent="reviewer", mode="LOCAL", model="m", input_tokens=number,
             output_tokens=98, cache="hit"),
    ):  # fmt: skip
        pass


def _bare(_number: int) -> None:
    with span("a"), span("b"), span("c"):
        pass


_current: contextvars.ContextVar[int] = contextvars.ContextVar("current", default=0)
_rows: list[tuple[Any, ...]] = []


class _Least:
    """The least a usable span needs: a parent from a context variable, two times, a tuple kept."""

    __slots__ = ("begun", "id", "name", "parent", "token", "values")
    made = 0

    def __init__(self, name: str, *values: Any) -> None:
        self.name, self.values = name, values

    def __enter__(self) -> None:
        _Least.made += 1
        self.id, self.parent = _Least.made, _current.get()
        self.token = _current.set(self.id)
        self.begun = time.perf_counter_ns()

    def __exit__(self, *failure: object) -> None:
        ended = time.perf_counter_ns()
        _current.reset(self.token)
        _rows.append((self.id, self.parent, self.name, self.begun, ended, self.values))


def _minimal(number: int) -> None:
    if number == 0:
        _rows.clear()
    with (
        _Least("a", "reviewer", "LOCAL", "m", 812, 96, True),
        _Least("b", "reviewer", "LOCAL", "m", 812, 96, True),
        _Least("c", "reviewer", "LOCAL", "m", 812, 96, True),
    ):
        pass


def _otel(tracer: Any) -> Unit:
    begin = tracer.start_as_current_span

    def unit(_number: int) -> None:
        with begin("a", attributes=FREE), begin("b", attributes=FREE), begin("c", attributes=FREE):
            pass

    return unit


def _measure_memory(kind: str, size: int) -> dict[str, Any]:
    """Record spans and make their table, in this process, and return what it took."""
    unit = {"columns": _columns, "free attributes": _free, "all different": _different}[kind]
    with _recording() as warm:
        unit(0)
    warm.spans_frame()
    gc.collect()
    empty = _status_bytes("VmRSS")
    with _recording() as recorder:
        for number in range(size // DEPTH):
            unit(number)
        gc.collect()
        _reset_peak()
        held = _status_bytes("VmRSS")
    start = time.perf_counter()
    frame = recorder.spans_frame()
    frame_s = time.perf_counter() - start
    peak = _status_bytes("VmHWM")
    # As a profile does once it has its table.
    del recorder
    gc.collect()
    return {
        "what": f"{size} spans, {kind}",
        "rows": len(frame),
        "held_mib": round((held - empty) / MIB, 1),
        "frame_s": round(frame_s, 3),
        "frame_peak_mib": round((peak - held) / MIB, 1),
        "frame_kept_mib": round((_status_bytes("VmRSS") - held) / MIB, 1),
    }


def _status_bytes(field: str) -> int:
    """Return a figure of this process's memory (Linux)."""
    found = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    return 0 if found is None else int(found[1]) * 1024


def _reset_peak() -> None:
    """Start the high-water mark again from what is resident now (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")


if __name__ == "__main__":
    print(json.dumps(_measure_memory(sys.argv[1], int(sys.argv[2]))))
