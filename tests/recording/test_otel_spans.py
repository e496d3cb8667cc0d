"""Spans that others make with OpenTelemetry during a profile."""

# ruff: noqa: F811 - fixtures are imported

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from claude_pm.models.embedded import EmbeddedServer
from claude_pm.profiles import Profile
from claude_pm.recording import otel_provider, otel_spans, profile, span
from claude_pm.recording.otel_spans import TEXT_LIMIT, OtelSpans
from claude_pm.recording.recorder import Recorder
from tests.road_fixtures import _stop_servers, embedded, weights  # noqa: F401

pytest.importorskip("opentelemetry.sdk")

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Status, StatusCode
from opentelemetry.util._once import Once

CHAT = {
    "gen_ai.operation.name": "chat",
    "gen_ai.provider.name": "anthropic",
    "gen_ai.request.model": "claude-sonnet-4-5",
    "gen_ai.response.model": "claude-sonnet-4-5-20250929",
    "gen_ai.usage.input_tokens": 1000,
    "gen_ai.usage.output_tokens": 50,
    "gen_ai.usage.cache_read.input_tokens": 800,
    "gen_ai.usage.cache_creation.input_tokens": 100,
    "gen_ai.response.time_to_first_chunk": 0.25,
}


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each test begin as a program that has set no provider."""
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)
    monkeypatch.setattr(trace, "_TRACER_PROVIDER_SET_ONCE", Once())
    monkeypatch.setattr(trace, "set_tracer_provider", trace.set_tracer_provider)
    monkeypatch.setattr(otel_provider, "_ours", [])


@pytest.fixture
def exporter() -> Iterator[InMemorySpanExporter]:
    """Set the program's own provider, and return what its own exporter gets."""
    kept = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(kept))
    trace.set_tracer_provider(provider)
    yield kept
    provider.shutdown()


def rows(recorded: Profile) -> dict[str, dict[str, Any]]:
    """Return the spans by name, null as None."""
    table = recorded.spans.astype(object).where(recorded.spans.notna(), None)
    return {row["name"]: row for row in table.to_dict("records")}


def start(name: str, **attributes: Any) -> Any:
    """Open a span of theirs."""
    return trace.get_tracer("theirs").start_as_current_span(
        name, attributes={key.replace("__", "."): value for key, value in attributes.items()}
    )


def test_chat() -> None:
    """A call of a model is a chat row with model, tokens, cache reads and cost, in the columns."""
    with (
        profile(cpu=None, memory=None) as recorded,
        trace.get_tracer("theirs").start_as_current_span("chat claude", attributes=CHAT),
    ):
        pass
    row = rows(recorded)["chat"]
    assert row["model"] == "claude-sonnet-4-5-20250929"
    counts = ("input_tokens", "cache_read_tokens", "cache_write_tokens", "output_tokens")
    assert [row[name] for name in counts] == [1000, 800, 100, 50]
    assert row["ttft_s"] == 0.25
    # 100 x $3 + 800 x $0.30 + 100 x $3.75 + 50 x $15 a million
    assert row["cost_usd"] == pytest.approx(0.001665)
    assert (row["status"], row["error"]) == ("ok", None)
    assert json.loads(row["attributes"]) == {
        "gen_ai.provider.name": "anthropic",
        "gen_ai.request.model": "claude-sonnet-4-5",
        "otel.scope.name": "theirs",
        "otel_name": "chat claude",
    }
    assert recorded.meta["model_use"] == "live"
    assert set(recorded.summary()["phase"]) == {"prefill", "decode"}


@pytest.mark.parametrize(
    ("changed", "cost"),
    [
        pytest.param({"operation.cost": 0.5}, 0.5, id="given"),
        pytest.param({"gen_ai.response.model": "my-model"}, None, id="unknown-model"),
        pytest.param({"gen_ai.provider.name": "my-server"}, None, id="unknown-provider"),
        pytest.param({"gen_ai.usage.input_tokens": 10}, None, id="contradicts-itself"),
    ],
)
def test_cost(changed: dict[str, Any], cost: float | None) -> None:
    """The cost that the span gives is taken; where no price is known it is null, never 0."""
    with (
        profile(cpu=None, memory=None) as recorded,
        trace.get_tracer("theirs").start_as_current_span("chat x", attributes=CHAT | changed),
    ):
        pass
    assert rows(recorded)["chat"]["cost_usd"] == cost


def test_nesting() -> None:
    """Theirs hang under ours, and under each other; the agent holds for all within it."""
    with (
        profile(cpu=None, memory=None) as recorded,
        span("ours", mode="local") as ours,
        start("invoke_agent poet", gen_ai__agent__name="poet"),
        start("tool"),
    ):
        pass
    found = rows(recorded)
    assert found["invoke_agent poet"]["parent_id"] == ours.span_id
    assert found["tool"]["parent_id"] == found["invoke_agent poet"]["span_id"]
    assert {row["trace_id"] for row in found.values()} == {ours.trace_id}
    assert [found[name]["agent"] for name in ("ours", "invoke_agent poet", "tool")] == [
        None, "poet", "poet",
    ]  # fmt: skip
    assert found["tool"]["mode"] == "local"
    assert found["ours"]["self_s"] < found["ours"]["duration_s"]
    assert recorded.meta["model_use"] == "not called"


def test_ours_within_theirs() -> None:
    """Ours hang under theirs that they are opened in, with its agent, and theirs under those."""
    with (
        profile(cpu=None, memory=None) as recorded,
        span("request", agent="boss"),
        start("tool", gen_ai__agent__name="poet"),
        span("ours"),
        span("within"),
        start("theirs"),
    ):
        pass
    found = rows(recorded)
    order = ["request", "tool", "ours", "within", "theirs"]
    assert list(found) == order
    assert [found[name]["parent_id"] for name in order] == [
        None, *(found[name]["span_id"] for name in order[:-1]),
    ]  # fmt: skip
    assert [found[name]["agent"] for name in order] == ["boss", *["poet"] * 4]
    assert len({row["trace_id"] for row in found.values()}) == 1


def test_ours_after_theirs() -> None:
    """A span of theirs that has ended, or lies further out, is not the parent of ours."""
    with profile(cpu=None, memory=None) as recorded, start("out"), span("ours"):
        with start("ended"):
            pass
        with span("after"):
            pass
    found = rows(recorded)
    assert found["after"]["parent_id"] == found["ours"]["span_id"]


def test_ours_in_their_own_trace() -> None:
    """Without a span of ours around it theirs is a root with its own trace, and ours join it."""
    with profile(cpu=None, memory=None) as recorded, start("root") as root, span("ours"):
        pass
    found = rows(recorded)
    assert found["root"]["trace_id"] == f"{root.get_span_context().trace_id:032x}"
    assert found["ours"]["trace_id"] == found["root"]["trace_id"]
    assert found["ours"]["parent_id"] == found["root"]["span_id"]


def test_one_call_is_counted_once() -> None:
    """A framework and the client that it calls both tell of a call: its tokens count once."""
    with profile(cpu=None, memory=None) as recorded:
        tracer = trace.get_tracer("theirs")
        with (
            tracer.start_as_current_span("chat claude", attributes=CHAT),
            tracer.start_as_current_span("anthropic.messages.create", attributes=CHAT),
        ):
            pass
    found = rows(recorded)
    assert set(found) == {"chat", "anthropic.messages.create"}
    assert recorded.spans["input_tokens"].sum() == 1000
    inner = json.loads(found["anthropic.messages.create"]["attributes"])
    assert inner["gen_ai.usage.input_tokens"] == 1000


def test_one_call_told_of_side_by_side_is_counted_once() -> None:
    """LangChain's span of a call is not open for its client: the same answer, no child."""
    answer = CHAT | {"gen_ai.response.id": "msg_1"}
    with profile(cpu=None, memory=None) as recorded:
        langchain, client = trace.get_tracer("langchain"), trace.get_tracer("anthropic")
        with langchain.start_as_current_span("invoke_agent"):
            call = langchain.start_span("ChatAnthropic.chat", attributes=answer)
            with client.start_as_current_span("anthropic.messages.create", attributes=answer):
                pass
            call.end()
            # One after the other they are two calls, whatever a server calls its answers.
            for _ in range(2):
                with client.start_as_current_span("again", attributes=answer):
                    pass
    assert recorded.spans["input_tokens"].sum() == 3000
    assert recorded.spans["name"].tolist().count("chat") == 3
    assert "anthropic.messages.create" in recorded.spans["name"].tolist()


def test_sums_of_an_agent_are_not_counted_again() -> None:
    """What an agent's run adds up stays an attribute: the column's sum is what was used."""
    with profile(cpu=None, memory=None) as recorded:
        tracer = trace.get_tracer("theirs")
        with (
            tracer.start_as_current_span(
                "invoke_agent a", attributes=CHAT | {"gen_ai.operation.name": "invoke_agent"}
            ),
            tracer.start_as_current_span("chat claude", attributes=CHAT),
        ):
            pass
    assert recorded.spans["input_tokens"].sum() == 1000


def test_error() -> None:
    """A span that failed says how."""
    with profile(cpu=None, memory=None) as recorded:
        for name, error in (("bad", ValueError("no good")), ("late", TimeoutError("too late"))):
            with pytest.raises(type(error)), start(name):
                raise error
        with start("told") as told:
            told.set_status(Status(StatusCode.ERROR, "it said so"))
    found = rows(recorded)
    assert [(found[name]["status"], found[name]["error"]) for name in found] == [
        ("error", "ValueError: no good"),
        ("timeout", "TimeoutError: too late"),
        ("error", "it said so"),
    ]


async def test_cancelled() -> None:
    """A task that is cancelled in a span leaves it cancelled; a handled exception is no end."""
    with profile(cpu=None, memory=None) as recorded:

        async def wait() -> None:
            with start("waited"):
                await asyncio.sleep(60)

        task = asyncio.create_task(wait())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        try:
            raise KeyboardInterrupt  # noqa: TRY301 - it shall be handled while theirs runs
        except KeyboardInterrupt:
            with start("afterwards"):
                pass
    found = rows(recorded)
    assert [found[name]["status"] for name in ("waited", "afterwards")] == ["cancelled", "ok"]


def test_explicit_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times that a program gives by hand are kept, on the clock of our spans."""
    session = profile(cpu=None, memory=None)
    with session as recorded:
        # Both clocks stand still: between readings of the two, another process may be let in.
        now_ns, clock_ns = time.time_ns(), time.perf_counter_ns()
        monkeypatch.setattr(
            otel_spans,
            "time",
            SimpleNamespace(time_ns=lambda: now_ns, perf_counter_ns=lambda: clock_ns),
        )
        theirs = trace.get_tracer("theirs").start_span("given", start_time=now_ns + 10**9)
        theirs.end(end_time=now_ns + 4 * 10**9)
    assert session.recorder is not None
    found = rows(recorded)["given"]
    begun_s = (clock_ns - session.recorder.origin_ns) / 1e9
    assert found["start_s"] == pytest.approx(begun_s + 1.0)
    assert found["duration_s"] == pytest.approx(3.0)


def test_clocks_read_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process that is let in between the readings of two clocks moves no span."""
    session = profile(cpu=None, memory=None)
    with session as recorded:
        clock_ns, ahead_ns = time.perf_counter_ns(), 10**18
        let_in_ns = iter([0, 20_000_000, 0, 0, 30_000_000, 0])

        def wall_ns() -> int:
            nonlocal clock_ns
            clock_ns += next(let_in_ns, 0)
            return clock_ns + ahead_ns

        clocks = SimpleNamespace(time_ns=wall_ns, perf_counter_ns=lambda: clock_ns)
        monkeypatch.setattr(otel_spans, "time", clocks)
        starts_ns = []
        for name in ("one", "two", "three"):
            starts_ns.append(clock_ns)
            theirs = trace.get_tracer("theirs").start_span(name, start_time=clock_ns + ahead_ns)
            theirs.end(end_time=clock_ns + ahead_ns)
    assert session.recorder is not None
    assert recorded.spans["name"].tolist() == ["one", "two", "three"]
    origin_ns = session.recorder.origin_ns
    assert recorded.spans["start_s"].tolist() == [
        pytest.approx((start_ns - origin_ns) / 1e9) for start_ns in starts_ns
    ]


def test_getting_ready_takes_none_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a provider takes, and the SDK's import before it, is over when the time begins."""
    begin = Recorder.begin
    set_before: list[Any] = []

    def note_and_begin(recorder: Recorder) -> None:
        set_before.extend(otel_provider._ours)
        begin(recorder)

    monkeypatch.setattr(Recorder, "begin", note_and_begin)
    with profile(cpu=None, memory=None):
        assert set_before == [trace.get_tracer_provider()]


def test_unfinished() -> None:
    """A span that is open at the end is kept, without a status, and ends with no error later."""
    with profile(cpu=None, memory=None) as recorded:
        theirs = trace.get_tracer("theirs").start_span("open")
    theirs.end()
    (row,) = rows(recorded).values()
    assert row["status"] is None
    assert json.loads(row["attributes"])["unfinished"] is True


def test_long_texts_are_cut() -> None:
    """A whole conversation among the attributes does not fill the profile, and says it was cut."""
    with profile(cpu=None, memory=None) as recorded, start("work", said="x" * 100_000, n=[1, 2]):
        pass
    found = json.loads(rows(recorded)["work"]["attributes"])
    assert len(found["said"]) < TEXT_LIMIT + 100
    assert found["said"].endswith("(95904 more characters were cut)")
    assert found["n"] == [1, 2]


async def test_two_profiles_at_once() -> None:
    """Profiles in two tasks each get the spans that were opened in them."""

    async def work(name: str) -> Profile:
        with profile(name, cpu=None, memory=None) as recorded:
            for step in range(3):
                with start(f"{name}{step}"):
                    await asyncio.sleep(0)
        return recorded

    recorded = await asyncio.gather(*(asyncio.create_task(work(name)) for name in "ab"))
    assert [sorted(rows(each)) for each in recorded] == [["a0", "a1", "a2"], ["b0", "b1", "b2"]]
    assert all(row["task"].startswith("Task-") for row in rows(recorded[0]).values())


def test_profile_within_a_profile() -> None:
    """What an inner profile records is in the outer one too, once."""
    with profile("outer", cpu=None, memory=None) as outer:
        with profile("inner", cpu=None, memory=None) as inner, start("work"):
            pass
        with start("after"):
            pass
    assert list(inner.spans["name"]) == ["work"]
    assert list(outer.spans["name"]) == ["work", "after"]


def test_parent_in_the_outer_profile() -> None:
    """A span of an inner profile is the child of the one around it in the outer profile."""
    with (
        profile("outer", cpu=None, memory=None) as outer,
        start("around"),
        profile("inner", cpu=None, memory=None) as inner,
        start("work"),
    ):
        pass
    assert list(inner.spans["name"]) == ["work"]
    found = rows(outer)
    assert found["work"]["parent_id"] == found["around"]["span_id"]


def test_ours_in_an_inner_profile_within_theirs() -> None:
    """A span of ours in an inner profile is the child of theirs that the profile was begun in."""
    with (
        profile("outer", cpu=None, memory=None) as outer,
        span("first"),
        start("around"),
        profile("inner", cpu=None, memory=None) as inner,
        span("ours"),
    ):
        pass
    found = rows(outer)
    assert found["ours"]["parent_id"] == found["around"]["span_id"]
    assert len({row["trace_id"] for row in found.values()}) == 1
    assert rows(inner)["ours"]["parent_id"] == found["around"]["span_id"]


def test_interrupted_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Ctrl-C while the rows are made costs none, and repeats none."""
    merge = Recorder.merge
    interrupted = iter([False, True, False, False])

    def merge_or_fail(recorder: Recorder, recorded: Any) -> None:
        if next(interrupted):
            raise KeyboardInterrupt
        merge(recorder, recorded)

    monkeypatch.setattr(Recorder, "merge", merge_or_fail)
    session = profile(cpu=None, memory=None)
    recorded = session.start()
    for name in ("one", "two", "three"):
        with start(name):
            pass
    with pytest.raises(KeyboardInterrupt):
        session.stop()
    assert list(recorded.spans["name"]) == ["one", "two", "three"]


def test_other_thread() -> None:
    """A span of a plain thread is recorded under that thread's name."""
    with profile(cpu=None, memory=None) as recorded:

        def work() -> None:
            with start("work"):
                pass

        thread = threading.Thread(target=work, name="helper")
        thread.start()
        thread.join()
    assert rows(recorded)["work"]["thread"] == "helper"


def test_what_cannot_be_cost() -> None:
    """A number that no column holds costs neither the row nor the profile."""
    with profile(cpu=None, memory=None) as recorded, start("work", operation__cost=10**400):
        pass
    assert rows(recorded)["work"]["cost_usd"] is None


def test_own_provider(exporter: InMemorySpanExporter) -> None:
    """The program's own provider stays, gets all its spans, and each is recorded once."""
    provider = trace.get_tracer_provider()
    for _ in range(2):
        with profile(cpu=None, memory=None) as recorded, start("work"):
            pass
    with start("outside"):
        pass
    assert trace.get_tracer_provider() is provider
    assert [each.name for each in exporter.get_finished_spans()] == ["work", "work", "outside"]
    assert list(recorded.spans["name"]) == ["work"]


def test_own_provider_later(caplog: pytest.LogCaptureFixture) -> None:
    """A program that sets its provider after a profile has begun has it, as without the profile."""
    kept = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(kept))
    with profile(cpu=None, memory=None) as recorded:
        trace.set_tracer_provider(provider)
        with start("work"):
            pass
    assert trace.get_tracer_provider() is provider
    assert [each.name for each in kept.get_finished_spans()] == ["work"]
    assert list(recorded.spans["name"]) == ["work"]
    trace.set_tracer_provider(TracerProvider(shutdown_on_exit=False))
    assert trace.get_tracer_provider() is provider
    assert "not allowed" in caplog.text


def test_tracers_from_before_the_own_provider() -> None:
    """What a program took from us before it set its provider goes to that from then on."""
    tracer = trace.get_tracer("theirs")
    own_setter = trace.set_tracer_provider
    kept = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(kept))
    with profile(cpu=None, memory=None) as recorded, tracer.start_as_current_span("work"):
        pass
    assert list(recorded.spans["name"]) == ["work"]
    own_setter(provider)  # bound before the profile began
    assert trace.get_tracer_provider() is provider
    for name in ("later", "still later"):
        tracer.start_span(name).end()
    assert [each.name for each in kept.get_finished_spans()] == ["later", "still later"]


def test_broken_span_does_not_break_the_program(
    exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever goes wrong while we record, their code goes on."""

    def fail(*_: Any) -> None:
        raise RuntimeError("ours")

    monkeypatch.setattr(OtelSpans, "began", fail)
    with profile(cpu=None, memory=None) as recorded, start("work"):
        pass
    assert recorded.spans.empty
    assert len(exporter.get_finished_spans()) == 1


def test_impossible_time_costs_one_span() -> None:
    """A time that no column holds loses that span, not the profile."""
    with profile(cpu=None, memory=None) as recorded:
        trace.get_tracer("theirs").start_span("odd", start_time=-(2**70)).end()
        with start("work"):
            pass
    assert list(recorded.spans["name"]) == ["work"]


FIRST_IMPORT = """
import sys
from claude_pm.recording.otel_spans import OtelSpans
from claude_pm.recording.recorder import Recorder
from claude_pm.recording.span import activate

recorder = Recorder()
activate(recorder)
instrument = OtelSpans(recorder)
instrument.start()
assert "opentelemetry.trace" not in sys.modules
{program}
instrument.stop()
instrument.tables(str)
print([row["name"] for row in recorder.span_rows()])
assert type(sys.meta_path[0]).__name__ != "_ImportWatch"
"""
API_ONLY = """
from opentelemetry import trace
with trace.get_tracer("x").start_as_current_span("work"): pass
"""
OWN_SDK = """
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import set_tracer_provider, get_tracer_provider, get_tracer
own = TracerProvider()
set_tracer_provider(own)
assert get_tracer_provider() is own
with get_tracer("x").start_as_current_span("work"): pass
"""
NO_SDK = "import sys\nsys.modules['opentelemetry.sdk'] = None\n" + API_ONLY


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "names"),
    [
        pytest.param(API_ONLY, ["work"], id="api"),
        pytest.param(OWN_SDK, ["work"], id="own-sdk"),
        pytest.param(NO_SDK, [], id="no-sdk"),
        pytest.param("", [], id="never"),
    ],
)
def test_first_import_within_the_block(program: str, names: list[str]) -> None:
    """A program that imports its framework within the profile is recorded too; without SDK none."""
    told = subprocess.run(
        [sys.executable, "-W", "error", "-c", FIRST_IMPORT.format(program=program)],
        check=False,
        capture_output=True,
        text=True,
    )
    assert (told.stdout, told.stderr) == (f"{names}\n", "")


def test_stop_is_safe() -> None:
    """An instrument may be stopped before its start, and twice."""
    instrument = OtelSpans(Recorder())
    instrument.stop()
    instrument.start()
    instrument.stop()
    instrument.stop()
    assert instrument.tables(str) == {}
    assert instrument.overhead() == {}


@pytest.mark.slow
async def test_pydantic_ai(embedded: EmbeddedServer) -> None:
    """A pydantic-ai agent that asks the embedded model shows model, tokens and agent."""
    pytest.importorskip("pydantic_ai")
    anthropic = pytest.importorskip("pydantic_ai.models.anthropic")
    from anthropic import AsyncAnthropic
    from pydantic_ai import Agent
    from pydantic_ai.models.instrumented import InstrumentationSettings
    from pydantic_ai.providers.anthropic import AnthropicProvider

    async with AsyncAnthropic(api_key=embedded.api_key, base_url=embedded.base_url) as client:
        agent = Agent(
            anthropic.AnthropicModel(
                embedded.model, provider=AnthropicProvider(anthropic_client=client)
            ),
            name="poet",
            model_settings={"max_tokens": 4},
        )
        agent.instrument = InstrumentationSettings()
        with profile(cpu=None) as recorded, span("ours") as ours:
            await agent.run("Name a colour.")
    chats = recorded.spans[recorded.spans["name"] == "chat"]
    assert len(chats) == 1
    (chat,) = chats.to_dict("records")
    assert (chat["model"], chat["agent"], chat["output_tokens"]) == (embedded.model, "poet", 4)
    assert chat["input_tokens"] > 0
    assert recorded.meta["model_use"] == "live"
    run = rows(recorded)["invoke_agent poet"]
    assert (run["parent_id"], chat["parent_id"]) == (ours.span_id, run["span_id"])


@pytest.mark.slow
def test_example() -> None:
    """The example program runs, and shows the agent's call of the model."""
    pytest.importorskip("pydantic_ai")
    example = Path(__file__).parents[2] / "examples" / "pydantic_ai_profile.py"
    told = subprocess.run(
        [sys.executable, str(example)], check=True, capture_output=True, text=True
    )
    assert "invoke_agent poet" in told.stdout
    assert "SmolLM2" in told.stdout
