"""A profile's spans under OpenTelemetry's names, and the road to a collector."""

from __future__ import annotations

import builtins
import json
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from claude_pm.errors import ProfileError
from claude_pm.profiles import otel
from claude_pm.profiles.otel import from_genai, to_genai
from tests.profile_builder import ProfileBuilder

pytest.importorskip("opentelemetry.exporter.otlp.proto.http")

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

CREATED_NS = 1_769_850_000_123_000_000
"""The moment at which the builder's profiles were made."""


class Collector:
    """A local server that takes OTLP over HTTP, and answers with ``status``."""

    def __init__(self) -> None:
        self.status = 200
        self.paths: list[str] = []
        self.requests: list[ExportTraceServiceRequest] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                collector.paths.append(self.path)
                collector.requests.append(ExportTraceServiceRequest.FromString(body))
                self.send_response(collector.status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        """Give up the port."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def spans(self) -> list[Any]:
        """All spans that came."""
        return [
            span
            for request in self.requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]


def values(attributes: Any) -> dict[str, Any]:
    """Return decoded attributes as plain values."""

    def plain(value: Any) -> Any:
        kind = value.WhichOneof("value")
        if kind == "array_value":
            return [plain(each) for each in value.array_value.values]
        return getattr(value, kind)

    return {each.key: plain(each.value) for each in attributes}


@pytest.fixture
def collector() -> Iterator[Collector]:
    """Start a collector."""
    running = Collector()
    yield running
    running.close()


def built() -> ProfileBuilder:
    """Return a profile with one request: orchestrate, in it chat."""
    builder = ProfileBuilder()
    root = builder.span("orchestrate", 0.5, 3.0, agent="docs", mode="local")
    builder.span(
        "chat", 1.0, 2.0, parent=root, agent="docs", mode="local", model="claude-x",
        input_tokens=1000, cache_read_tokens=800, cache_write_tokens=100, output_tokens=50,
        ttft_s=0.25, cost_usd=0.002, task="Task-1", attributes={"attempt": 1, "of": ["a", "b"]},
    )  # fmt: skip
    return builder


def test_sent(collector: Collector) -> None:
    """A chat comes with OpenTelemetry's names, our ids, and times since 1970."""
    assert built().build().to_otlp(collector.url) == 2
    assert collector.paths == ["/v1/traces"]
    root, chat = collector.spans
    assert (root.name, chat.name) == ("invoke_agent docs", "chat claude-x")
    assert (root.span_id.hex(), chat.span_id.hex()) == (f"{1:016x}", f"{2:016x}")
    assert (root.parent_span_id, chat.parent_span_id) == (b"", root.span_id)
    assert chat.trace_id.hex() == f"{1:032x}"
    assert chat.start_time_unix_nano == CREATED_NS + 10**9
    assert chat.end_time_unix_nano == CREATED_NS + 3 * 10**9
    assert (root.kind, chat.kind) == (chat.SPAN_KIND_INTERNAL, chat.SPAN_KIND_CLIENT)
    assert chat.status.code == chat.status.STATUS_CODE_UNSET
    assert values(chat.attributes) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "anthropic",
        "gen_ai.agent.name": "docs",
        "gen_ai.response.model": "claude-x",
        "gen_ai.usage.input_tokens": 1000,
        "gen_ai.usage.cache_read.input_tokens": 800,
        "gen_ai.usage.cache_creation.input_tokens": 100,
        "gen_ai.usage.output_tokens": 50,
        "gen_ai.response.time_to_first_chunk": 0.25,
        "operation.cost": 0.002,
        "claude_pm.name": "chat",
        "claude_pm.mode": "local",
        "claude_pm.task": "Task-1",
        "process.pid": 4100,
        "thread.name": "MainThread",
        "attempt": 1,
        "of": ["a", "b"],
    }
    (resource,) = collector.requests[0].resource_spans
    assert values(resource.resource.attributes)["claude_pm.profile.name"] == "synthetic"
    assert resource.scope_spans[0].schema_url.endswith(f"/{otel.GENAI_CONVENTION_VERSION}")


@pytest.mark.parametrize("path", ["/", "/v1/traces", "/v1/traces/"])
def test_endpoint(collector: Collector, path: str) -> None:
    """A base and a whole URL both do."""
    built().build().to_otlp(collector.url + path)
    assert collector.paths == ["/v1/traces"]


def test_errors_are_sent(collector: Collector) -> None:
    """A span that failed is an error there, with its type; an unfinished one says that it is."""
    builder = ProfileBuilder()
    builder.span("chat", 0.0, 1.0, status="error", error="ModelOverloadedError: too much")
    builder.span("chat", 1.0, 1.0, status="timeout")
    builder.span("chat", 2.0, 1.0, status=None)
    builder.build().to_otlp(collector.url)
    failed, late, unfinished = collector.spans
    assert failed.status.code == late.status.code == failed.status.STATUS_CODE_ERROR
    assert failed.status.message == "ModelOverloadedError: too much"
    assert values(failed.attributes)["error.type"] == "ModelOverloadedError"
    assert values(late.attributes)["error.type"] == "timeout"
    assert unfinished.status.code == unfinished.status.STATUS_CODE_UNSET
    assert values(unfinished.attributes)["claude_pm.status"] == "unfinished"


def test_many(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    """More spans than go into one request are all sent, each once."""
    monkeypatch.setattr(otel, "_BATCH_SPANS", 2)
    builder = ProfileBuilder()
    for step in range(5):
        builder.span("step", step, 1.0)
    assert builder.build().to_otlp(collector.url) == 5
    assert len({span.span_id for span in collector.spans}) == len(collector.spans) == 5


def test_large_numbers(collector: Collector, caplog: pytest.LogCaptureFixture) -> None:
    """A whole number that OpenTelemetry cannot hold goes as text, and nothing is logged."""
    builder = ProfileBuilder()
    builder.span("step", 0.0, 1.0, attributes={"n": 2**63, "least": -(2**63)})
    builder.build().to_otlp(collector.url)
    (sent,) = collector.spans
    said = values(sent.attributes)
    assert (said["n"], said["least"]) == (str(2**63), -(2**63))
    assert caplog.records == []


def test_convention_is_named(collector: Collector) -> None:
    """What is sent says which version of the conventions its names are of."""
    built().build().to_otlp(collector.url)
    (scope,) = collector.requests[0].resource_spans[0].scope_spans
    assert scope.schema_url == "https://opentelemetry.io/schemas/gen-ai/1.42.0"


def test_key_in_the_address(collector: Collector) -> None:
    """A name and password in the endpoint's URL are in no error message."""
    collector.status = 400
    with pytest.raises(ProfileError) as error:
        built().build().to_otlp(collector.url.replace("http://", "http://me:sesame@"))
    assert "sesame" not in str(error.value)


def test_nothing_to_send(collector: Collector) -> None:
    """A profile without spans sends none."""
    assert ProfileBuilder().build().to_otlp(collector.url) == 0


@pytest.mark.parametrize("status", [400, 404, 503])
def test_refused(
    collector: Collector,
    status: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An endpoint that refuses is an error in one sentence, and nothing is logged beside it."""
    monkeypatch.setattr(otel, "_TIMEOUT_S", 0.5)
    collector.status = status
    with pytest.raises(ProfileError, match=r"/v1/traces took 0 of the 2 spans of 'synthetic'"):
        built().build().to_otlp(collector.url)
    assert caplog.records == []
    assert logging.getLogger(otel._LOGGER).filters == []


def test_nobody_there(
    collector: Collector, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An address where nobody listens is given up in bounded time, with one error."""
    monkeypatch.setattr(otel, "_TIMEOUT_S", 0.5)
    collector.close()
    with pytest.raises(ProfileError, match="took 0 of the 2 spans"):
        built().build().to_otlp(collector.url)
    assert caplog.records == []


@pytest.mark.parametrize("endpoint", ["localhost:4318", "", "ftp://x", "http://", "http://[x"])
def test_no_url(endpoint: str) -> None:
    """What is no URL is told so."""
    with pytest.raises(ProfileError, match="is no endpoint"):
        built().build().to_otlp(endpoint)


def test_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the exporter the error names what to install."""
    found = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.startswith("opentelemetry.exporter"):
            raise ImportError(name)
        return found(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ProfileError, match=r"claude-pm\[otel\]"):
        built().build().to_otlp("http://localhost:4318")


ROWS = [
    pytest.param(
        {"name": "chat", "agent": "a", "mode": "local", "model": "m", "input_tokens": 3,
         "cache_read_tokens": 1, "cache_write_tokens": 0, "output_tokens": 2, "ttft_s": 0.5,
         "cost_usd": 0.1, "cache": "hit", "pid": 7, "thread": "T", "task": "t"},
        {"attempt": 1, "gen_ai.provider.name": "anthropic"},
        id="chat",
    ),
    pytest.param({"name": "orchestrate", "agent": "a"}, {"docs": 3}, id="orchestrate"),
    pytest.param({"name": "load", "cache": "miss"}, {"folder": "docs", "ok": True}, id="own"),
    pytest.param(
        {"name": "chat", "model": "m", "input_tokens": 3, "output_tokens": 2},
        {"otel_name": "chat m", "gen_ai.provider.name": "openai", "gen_ai.request.model": "m"},
        id="theirs",
    ),
    pytest.param(
        {"name": "chat", "model": "m"},
        {"otel_name": "chat m", "gen_ai.provider.name": "openai", "gen_ai.request.model": "m"},
        id="no-answer",
    ),
    pytest.param(
        {"name": "chat", "model": "m"},
        {"otel_name": "generate_content m", "gen_ai.operation.name": "generate_content",
         "gen_ai.provider.name": "gcp.gemini", "gen_ai.request.model": "m"},
        id="other-operation",
    ),
    pytest.param(
        {"name": "invoke_agent x", "agent": "x"},
        {"gen_ai.operation.name": "invoke_agent", "gen_ai.usage.input_tokens": 9},
        id="sum",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("columns", "attributes"), ROWS)
def test_round_trip(columns: dict[str, Any], attributes: dict[str, Any]) -> None:
    """What is sent out reads back as the same name, columns and attributes."""
    row = columns | {"status": "ok", "error": None, "attributes": attributes}
    name, found, rest = from_genai(*to_genai(row))
    assert {"name": name, **found} == columns
    assert rest == attributes


@pytest.mark.parametrize(
    ("old", "column", "value"),
    [("gen_ai.usage.prompt_tokens", "input_tokens", 5),
     ("gen_ai.usage.completion_tokens", "output_tokens", 6)],
)  # fmt: skip
def test_old_names(old: str, column: str, value: int) -> None:
    """Names of earlier versions are understood, and give way to those of today."""
    assert from_genai("x", {old: value})[1] == {column: value}
    today = otel.OLD_NAMES[old]
    assert from_genai("x", {old: 1, today: value})[1:] == ({column: value}, {})
    assert from_genai("x", {"gen_ai.system": "openai"})[2] == {"gen_ai.provider.name": "openai"}


def test_wrong_values_stay_attributes() -> None:
    """A count that is no count does not spoil its column."""
    wrong = {"gen_ai.usage.input_tokens": "many", "gen_ai.usage.output_tokens": -1,
             "gen_ai.agent.name": 5, "operation.cost": float("nan")}  # fmt: skip
    name, columns, rest = from_genai("x", wrong)
    assert (name, columns) == ("x", {})
    assert set(rest) == set(wrong)


def test_nested_attributes() -> None:
    """What OpenTelemetry cannot hold goes as JSON text; null is left out."""
    row = {"name": "x", "status": "ok", "attributes": {"a": {"b": [1]}, "n": None, "m": [1, "x"]}}
    assert {key: json.loads(text) for key, text in to_genai(row)[1].items()} == {
        "a": {"b": [1]},
        "m": [1, "x"],
    }


def test_names_are_the_conventions() -> None:
    """Every name of the map is one of the installed semantic conventions."""
    from opentelemetry.semconv._incubating.attributes import (
        error_attributes,
        gen_ai_attributes,
        process_attributes,
        thread_attributes,
    )
    from opentelemetry.semconv._incubating.metrics import gen_ai_metrics

    known = {
        value
        for module in (
            gen_ai_attributes,
            gen_ai_metrics,
            error_attributes,
            process_attributes,
            thread_attributes,
        )
        for value in vars(module).values()
        if isinstance(value, str)
    }
    names = {
        otel.OPERATION, otel.PROVIDER, otel.AGENT, otel.REQUEST_MODEL, otel.RESPONSE_MODEL,
        otel.ERROR_TYPE, *otel.USAGE_NAMES.values(), *otel.TIME_NAMES.values(),
        *otel.PLACE_NAMES.values(), *otel.OLD_NAMES,
    }  # fmt: skip
    assert names <= known
    operations = {each.value for each in gen_ai_attributes.GenAiOperationNameValues}
    assert operations >= otel.MODEL_OPERATIONS | otel.SUM_OPERATIONS


def test_contents_stay_here() -> None:
    """What an agent was asked, and what it answered, is not sent; all else is."""
    columns = dict.fromkeys((*otel.USAGE_NAMES, *otel.TIME_NAMES, *otel.PLACE_NAMES))
    row = columns | {
        "name": "orchestrate",
        "agent": "qa",
        "status": "ok",
        "attributes": {"request": "my secret", "response": "its answer", "repeat": 1},
    }
    _, sent = to_genai(row)
    assert "secret" not in str(sent)
    assert "answer" not in str(sent)
    assert 1 in sent.values()
