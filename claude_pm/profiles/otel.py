"""OpenTelemetry's names for what a span says, both ways, and sending a profile's spans out.

One map (:data:`GENAI_CONVENTION_VERSION`) says which attribute of OpenTelemetry's conventions for
generative AI stands for which column of ``spans``. What has no name there is sent as it is called
in ``attributes``, or as ``claude_pm.<column>``.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from claude_pm.errors import ProfileError
from claude_pm.profiles.prices import list_price_usd

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter

    from claude_pm.profiles.profile import Profile

GENAI_CONVENTION_VERSION = "1.42.0"
"""The conventions for generative AI whose names these are; they have versions of their own."""

OPERATION = "gen_ai.operation.name"
PROVIDER = "gen_ai.provider.name"
AGENT = "gen_ai.agent.name"
REQUEST_MODEL = "gen_ai.request.model"
RESPONSE_MODEL = "gen_ai.response.model"
ERROR_TYPE = "error.type"
RESPONSE_ID = "gen_ai.response.id"
COST = "operation.cost"
"""No name of the conventions: pydantic-ai and logfire give the price in US dollars under it."""

USAGE_NAMES = {
    "input_tokens": "gen_ai.usage.input_tokens",
    "cache_read_tokens": "gen_ai.usage.cache_read.input_tokens",
    "cache_write_tokens": "gen_ai.usage.cache_creation.input_tokens",
    "output_tokens": "gen_ai.usage.output_tokens",
}
"""Columns of counts. The total input includes what the cache took part in, here and there."""
TIME_NAMES = {"ttft_s": "gen_ai.response.time_to_first_chunk"}
OWN_NAMES = {
    "name": "claude_pm.name",
    "mode": "claude_pm.mode",
    "cache": "claude_pm.cache",
    "status": "claude_pm.status",
    "task": "claude_pm.task",
}
"""Columns that the conventions have no name for. The name and the status are sent only where
OpenTelemetry's own name and status of the span do not say the same."""
PLACE_NAMES = {"pid": "process.pid", "thread": "thread.name"}
OLD_NAMES = {
    "gen_ai.system": PROVIDER,
    # The metric's name: pydantic-ai puts it on its spans.
    "gen_ai.client.operation.time_to_first_chunk": TIME_NAMES["ttft_s"],
    "gen_ai.usage.prompt_tokens": USAGE_NAMES["input_tokens"],
    "gen_ai.usage.completion_tokens": USAGE_NAMES["output_tokens"],
}
"""Names of earlier versions, which are still in use, and those of today."""

MODEL_OPERATIONS = frozenset({"chat", "generate_content", "text_completion"})
"""Operations in which a model answers: ``chat`` spans."""
SUM_OPERATIONS = frozenset({"create_agent", "invoke_agent", "invoke_workflow"})
"""Operations that may repeat the counts of the ones within them: those stay in ``attributes``, so
that a sum over the column counts every token once."""
_OPERATIONS = {"chat": "chat", "orchestrate": "invoke_agent"}
_STATUS_OF_TYPE = {
    "CancelledError": "cancelled", "KeyboardInterrupt": "cancelled", "GeneratorExit": "cancelled",
    "TimeoutError": "timeout", "timeout": "timeout",
}  # fmt: skip

ORIGINAL_NAME = "otel_name"
"""The attribute that holds the name under which somebody else made a span that we name ``chat``."""

_TRACES_PATH = "/v1/traces"
_TIMEOUT_S = 5.0
"""For 1000 spans, the exporter's own new attempts included."""
_BATCH_SPANS = 1000
_LOGGER = "opentelemetry.exporter.otlp.proto.http.trace_exporter"


def from_genai(
    name: str, attributes: Mapping[str, Any], *, inner: bool = False, counts: bool = True
) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Return (name, columns, attributes) of the row for a span with OpenTelemetry's attributes.

    Values that a column cannot hold stay among the attributes.

    Args:
        name: OpenTelemetry's name of the span.
        attributes: what it says under OpenTelemetry's names.
        inner: a ``chat`` around it is the same call of the model: it keeps its own name.
        counts: its tokens and cost go into columns; False where that ``chat`` has them already.
    """
    rest = dict(attributes)
    for old, new in OLD_NAMES.items():
        if old in rest:
            rest.setdefault(new, rest.pop(old))
    operation = rest.get(OPERATION)
    columns: dict[str, Any] = {}
    _take(rest, columns, {"agent": AGENT, **PLACE_NAMES}, _is_place)
    _take(rest, columns, {key: OWN_NAMES[key] for key in ("mode", "cache", "task")}, _is_text)
    if counts and operation not in SUM_OPERATIONS:
        _take(rest, columns, USAGE_NAMES, _is_count)
        _take(rest, columns, TIME_NAMES | {"cost_usd": COST}, _is_number)
    if _is_text("model", rest.get(RESPONSE_MODEL)):
        columns["model"] = rest.pop(RESPONSE_MODEL)
    elif _is_text("model", rest.get(REQUEST_MODEL)):
        columns["model"] = rest[REQUEST_MODEL]
    own_name = rest.pop(OWN_NAMES["name"], None)
    if isinstance(own_name, str):
        name = own_name
        if _OPERATIONS.get(name) == operation:
            rest.pop(OPERATION, None)
    elif operation in MODEL_OPERATIONS and not inner:
        rest[ORIGINAL_NAME] = name
        name = "chat"
        if operation == "chat":
            del rest[OPERATION]
    return name, columns, rest


_CONTENTS = ("request", "response")


def to_genai(row: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return (name, attributes) under OpenTelemetry's names for a row of ``spans``.

    The row's ``attributes`` are a mapping here; None is null. What was asked and answered stays
    here: the convention sends contents only where they are asked for.
    """
    rest = {
        key: _otel_value(value)
        for key, value in row["attributes"].items()
        if not (row["name"] == "orchestrate" and key in _CONTENTS)
    }
    sent: dict[str, Any] = {key: value for key, value in rest.items() if value is not None}
    named = {"agent": AGENT, "cost_usd": COST, **USAGE_NAMES, **TIME_NAMES, **PLACE_NAMES}
    named |= {key: OWN_NAMES[key] for key in ("mode", "cache", "task")}
    for column, attribute in named.items():
        if row.get(column) is not None:
            sent[attribute] = row[column]
    model = row.get("model")
    # A model that gave no answer is known only as it was asked for.
    if model is not None and (
        sent.get(REQUEST_MODEL) != model or row.get("output_tokens") is not None
    ):
        sent[RESPONSE_MODEL] = model
    name = row["name"]
    operation = _OPERATIONS.get(name)
    if operation is not None:
        sent.setdefault(OPERATION, operation)
    if name == "chat":
        # The field says whose form of the API it is, not who runs the model; ours is this one.
        sent.setdefault(PROVIDER, "anthropic")
    original = sent.pop(ORIGINAL_NAME, None)
    if isinstance(original, str):
        name = original
    elif operation is not None:
        sent[OWN_NAMES["name"]] = name
        about = model if name == "chat" else row.get("agent")
        name = operation if about is None else f"{operation} {about}"
    status = row.get("status")
    if status not in {"ok", "error"}:
        sent[OWN_NAMES["status"]] = status or "unfinished"
    if status not in {"ok", None}:
        sent.setdefault(ERROR_TYPE, _error_type(row.get("error")) or status)
    return name, sent


def status_of(error_type: str | None) -> str:
    """Return the status of a span that failed with this type of error."""
    return _STATUS_OF_TYPE.get((error_type or "").rpartition(".")[2], "error")


def price_usd(columns: Mapping[str, Any], attributes: Mapping[str, Any]) -> float | None:
    """Return the list price of a span's tokens; None where it is not known."""
    provider, model = attributes.get(PROVIDER), columns.get("model")
    counts = {name: columns.get(name) for name in USAGE_NAMES}
    if not provider or not model or None in (counts["input_tokens"], counts["output_tokens"]):
        return None
    return list_price_usd(model, str(provider), **counts)


def to_otlp(profile: Profile, endpoint: str) -> int:
    """Send a profile's spans to a collector; return how many.

    Args:
        profile: whose spans.
        endpoint: where the collector listens for OTLP over HTTP: a base such as
            ``http://localhost:4318``, to which ``/v1/traces`` is added, or the whole URL that ends
            so. Headers that it asks for come from ``OTEL_EXPORTER_OTLP_HEADERS``.

    Raises:
        ProfileError: the exporter is not installed, the endpoint is no URL, or nobody takes the
            spans there; it may have taken some.
    """
    url = _traces_url(endpoint)
    exporter = _exporter(url)
    spans = list(_readable_spans(profile))
    said = _LastWords()
    logger = logging.getLogger(_LOGGER)
    logger.addFilter(said)
    try:
        for first in range(0, len(spans), _BATCH_SPANS):
            try:
                taken = exporter.export(spans[first : first + _BATCH_SPANS]).name == "SUCCESS"
            except Exception as error:  # noqa: BLE001 - whatever its HTTP library raises
                taken, said.text = False, f"{type(error).__name__}: {error}"
            if not taken:
                raise ProfileError(
                    f"{_without_key(url)} took {first} of the {len(spans)} spans of "
                    f"{profile.name!r}: {said.text or 'it refused'}. "
                    "Is it a collector of OTLP over HTTP?"
                )
    finally:
        exporter.shutdown()
        logger.removeFilter(said)
    return len(spans)


class _LastWords(logging.Filter):
    """Keeps what the exporter would log, for the error that we raise."""

    text = ""
    _cause = ""

    def filter(self, record: logging.LogRecord) -> bool:
        self.text = record.getMessage().strip().rstrip(".")
        if record.levelno == logging.WARNING and isinstance(record.args, tuple) and record.args:
            self._cause = f" ({record.args[0]})"  # of a failure after which it tries again
        elif record.levelno == logging.ERROR:
            self.text += self._cause
        return False


def _exporter(url: str) -> SpanExporter:
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError:
        raise ProfileError(
            "to_otlp() needs OpenTelemetry's exporter, which is not installed: "
            "pip install 'claude-pm[otel]'."
        ) from None
    return OTLPSpanExporter(endpoint=url, timeout=_TIMEOUT_S)


def _traces_url(endpoint: str) -> str:
    try:
        parts = urlsplit(endpoint)
        valid = parts.scheme in {"http", "https"} and bool(parts.hostname)
    except ValueError:
        valid = False
    if not valid:
        raise ProfileError(
            f"{endpoint!r} is no endpoint: give a URL such as 'http://localhost:4318'."
        )
    path = parts.path.rstrip("/")
    if not path.endswith(_TRACES_PATH):
        path += _TRACES_PATH
    return urlunsplit(parts._replace(path=path))


def _without_key(url: str) -> str:
    """Return a URL for people to read: a name and password in it are nobody else's business."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _readable_spans(profile: Profile) -> Iterator[ReadableSpan]:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

    resource = Resource.create(
        {
            "service.name": "claude_pm",
            "claude_pm.profile.id": profile.id,
            "claude_pm.profile.name": profile.name,
        }
    )
    scope = InstrumentationScope(
        "claude_pm",
        schema_url=f"https://opentelemetry.io/schemas/gen-ai/{GENAI_CONVENTION_VERSION}",
    )
    began = datetime.fromisoformat(profile.meta["created_at"])
    began_ns = int(began.timestamp()) * 10**9 + began.microsecond * 1000

    for row in _rows(profile):
        name, attributes = to_genai(row)
        trace = int(row["trace_id"], 16)
        context, parent = (
            None
            if row[key] is None
            else SpanContext(trace, int(row[key], 16), is_remote=False, trace_flags=TraceFlags(1))
            for key in ("span_id", "parent_id")
        )
        if row["status"] in {"ok", None}:
            status = Status(StatusCode.UNSET)
        else:
            status = Status(StatusCode.ERROR, row["error"] or row["status"])
        start_ns = began_ns + round(row["start_s"] * 1e9)
        model_called = row["name"] == "chat"
        yield ReadableSpan(
            name,
            context=context,
            parent=parent,
            resource=resource,
            attributes=attributes,
            kind=SpanKind.CLIENT if model_called else SpanKind.INTERNAL,
            status=status,
            start_time=start_ns,
            end_time=start_ns + round(row["duration_s"] * 1e9),
            instrumentation_scope=scope,
        )


def _rows(profile: Profile) -> Iterator[dict[str, Any]]:
    """Yield the rows of ``spans`` as plain values, with None for null."""
    spans = profile.spans
    columns = [spans[name].astype(object).tolist() for name in spans.columns]
    for values in zip(*columns, strict=True):
        row = {
            name: None if _is_null(value) else value
            for name, value in zip(spans.columns, values, strict=True)
        }
        yield row | {"attributes": json.loads(row["attributes"] or "{}")}


def _is_null(value: Any) -> bool:
    import pandas as pd

    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))


def _error_type(error: str | None) -> str | None:
    return None if error is None else error.partition(":")[0] or None


def _otel_value(value: Any) -> Any:
    """Return a JSON value as OpenTelemetry takes it: a scalar or a list of one kind of them."""
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return str(value)
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    scalars = isinstance(value, list) and all(
        isinstance(each, (str, bool, int, float)) for each in value
    )
    if scalars and len({type(each) for each in value}) <= 1:
        return value
    return json.dumps(value, ensure_ascii=False)


def _take(
    rest: dict[str, Any],
    columns: dict[str, Any],
    names: Mapping[str, str],
    fits: Callable[[str, Any], bool],
) -> None:
    for column, attribute in names.items():
        if fits(column, rest.get(attribute)):
            columns[column] = rest.pop(attribute)


def _is_text(_column: str, value: Any) -> bool:
    return isinstance(value, str)


def _is_place(column: str, value: Any) -> bool:
    return _is_count(column, value) if column == "pid" else isinstance(value, str)


def _is_count(_column: str, value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _is_number(_column: str, value: Any) -> bool:
    try:
        return type(value) in {int, float} and math.isfinite(value)
    except OverflowError:  # a whole number that no float holds
        return False
