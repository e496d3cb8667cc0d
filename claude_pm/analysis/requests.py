"""One row a request: what the spans below its ``orchestrate`` span add up to."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from claude_pm.analysis.rows import Row, rows
from claude_pm.profiles import schema
from claude_pm.profiles.experiment import CACHE_TRIAL

if TYPE_CHECKING:
    import pandas as pd

    from claude_pm.profiles import Profile

REQUEST = "orchestrate"
"""The name of the span that is a request on the road."""

WARM_SHARE = 0.5
"""From this share of its input read from the cache on, an answer counts as warm."""

_TEXT = "string"
_WHOLE = "Int64"
_REAL = "Float64"

REQUESTS = schema.Table(
    "requests",
    "one request",
    (
        schema.Column("span_id", _TEXT, "of its orchestrate span"),
        schema.Column("agent", _TEXT, "the agent that was asked"),
        schema.Column("mode", _TEXT, "local or subprocess: how it was served"),
        schema.Column("model", _TEXT, "the model that answered, as the server names it"),
        schema.Column("start_s", _REAL, "seconds since the profile began"),
        schema.Column("duration_s", _REAL, "seconds from the request to the whole answer"),
        schema.Column("ttft_s", _REAL, "seconds from the request to the first text"),
        schema.Column("prefill_s", _REAL, "seconds to the first text in the attempt that answered"),
        schema.Column("queue_s", _REAL, "seconds in the queue"),
        schema.Column("input_tokens", _WHOLE, "of all attempts whose count is known"),
        schema.Column("cache_read_tokens", _WHOLE, "of all attempts whose count is known"),
        schema.Column("cache_write_tokens", _WHOLE, "of all attempts whose count is known"),
        schema.Column("output_tokens", _WHOLE, "of all attempts whose count is known"),
        schema.Column("cost_usd", _REAL, "of all attempts whose price is known"),
        schema.Column("attempts", _WHOLE, "chat spans; 0 when it failed before any"),
        schema.Column("status", _TEXT, "ok, error, timeout or cancelled; null while unfinished"),
        schema.Column("error", _TEXT, "type and message of the error"),
        schema.Column("warmup", "boolean", "recorded to warm up, not to be compared"),
        schema.Column("cache_state", _TEXT, "cold, warm or off: the model's cache, as it answered"),
    ),
)

_TOTALS = (
    "input_tokens", "cache_read_tokens", "cache_write_tokens", "output_tokens", "cost_usd",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Request:
    """A request's own span, and everything that was done for it, at any depth."""

    span: Row
    parts: list[Row]
    warmup: bool = False
    """Whether it, or a span around it, was recorded to warm up."""


def requests_table(profile: Profile) -> pd.DataFrame:
    """Return one row a request, ordered by start; ``REQUESTS`` declares the columns.

    Tokens and cost add up over all attempts; they are null where no attempt's is known.
    ``prefill_s`` and ``cache_state`` are of the attempt that answered: ``warm`` when at least
    half of its input was read from the cache, null where that is not known. Where a cache trial
    says that the cache was off, it is ``off``, unless the answer was warm all the same.
    """
    return requests_frame(find_requests(rows(profile.spans)))


def requests_frame(requests: Iterable[Request]) -> pd.DataFrame:
    """Return the table of these requests, one row each."""
    return schema.frame_from_rows(REQUESTS, [_summarised(request) for request in requests])


def find_requests(spans: Sequence[Row]) -> list[Request]:
    """Return the requests among the spans, ordered by start, each with its own parts."""
    owners = owner_ids(spans)
    by_id = {span["span_id"]: span for span in spans}
    found = {
        span["span_id"]: Request(span, [], _is_warmup(span, by_id))
        for span in spans
        if span["name"] == REQUEST
    }
    for span, owner in zip(spans, owners, strict=True):
        if owner is not None and span["name"] != REQUEST:
            found[owner].parts.append(span)
    return sorted(found.values(), key=lambda request: request.span["start_s"])


def owner_ids(spans: Sequence[Row]) -> list[str | None]:
    """Return for each span the id of the request it was done for, or None outside requests.

    That is the nearest ``orchestrate`` span at or above it, whatever spans lie between.
    """
    by_id = {span["span_id"]: span for span in spans}
    owners: dict[str, str | None] = {}
    for span in spans:
        path: list[str] = []
        current: Row | None = span
        owner: str | None = None
        while current is not None:
            span_id = current["span_id"]
            if span_id in owners:
                owner = owners[span_id]
                break
            path.append(span_id)
            if current["name"] == REQUEST:
                owner = span_id
                break
            # Ends the walk on a circle of parents, which a damaged table may have.
            owners[span_id] = None
            current = by_id.get(current["parent_id"])
        owners |= dict.fromkeys(path, owner)
    return [owners[span["span_id"]] for span in spans]


def attributes(span: Row) -> dict[str, Any]:
    """Return a span's other attributes; none where the JSON object cannot be read."""
    text = span["attributes"]
    # Most have none: of many spans, reading that takes longer than all else.
    if text is None or text == "{}":
        return {}
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _is_warmup(span: Row | None, by_id: dict[str, Row]) -> bool:
    seen: set[str] = set()  # a damaged table may have a circle of parents
    while span is not None and span["span_id"] not in seen:
        if attributes(span).get("warmup") is True:
            return True
        seen.add(span["span_id"])
        span = by_id.get(span["parent_id"])
    return False


def _summarised(request: Request) -> Row:
    chats = sorted(_named(request, "chat"), key=lambda chat: chat["start_s"])
    answered = next((chat for chat in reversed(chats) if chat["status"] == "ok"), None)
    models = [span["model"] for span in (request.span, answered, *reversed(chats)) if span]
    same = ("span_id", "agent", "mode", "start_s", "duration_s", "ttft_s", "status", "error")
    row: Row = {name: request.span[name] for name in same}
    row |= {name: _total(chat[name] for chat in chats) for name in _TOTALS}
    row["model"] = next((model for model in models if model is not None), None)
    row["prefill_s"] = answered["ttft_s"] if answered else None
    row["queue_s"] = _total(span["duration_s"] for span in _named(request, "queue"))
    row["attempts"] = len(chats)
    row["warmup"] = request.warmup
    row["cache_state"] = _cache_state(request.span, answered) if answered else None
    return row


def _named(request: Request, name: str) -> list[Row]:
    return [part for part in request.parts if part["name"] == name]


def _total(values: Iterable[Any]) -> Any:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _cache_state(request: Row, chat: Row) -> str | None:
    read, total = chat["cache_read_tokens"], chat["input_tokens"]
    if read is not None and total and read / total >= WARM_SHARE:
        # Whatever was asked for: some servers keep prompts without being told to.
        return "warm"
    if attributes(request).get(CACHE_TRIAL) == "off":
        return "off"
    return None if read is None or not total else "cold"
