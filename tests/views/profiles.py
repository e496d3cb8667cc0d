"""Profiles that several tests look at."""

from __future__ import annotations

from claude_pm.profiles import Profile, schema
from tests.profile_builder import ProfileBuilder

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)> $x$ {{7*7}}"
"""Markup, quotes, a formula and a template's expression: all of it has to stay plain text."""


def two_modes() -> ProfileBuilder:
    """Return five LOCAL requests, one of them a warm-up and one failed, and two SUBPROCESS ones.

    Durations: LOCAL 1, 2 and 3 s, SUBPROCESS 8 and 12 s; the warm-up is cold, the rest are warm.
    """
    builder = ProfileBuilder("two modes", model_use="live", duration_s=40.0)
    builder.answered(
        "qa", "local", 0.0, 5.0, ttft_s=4.0, input_tokens=100, cache_read_tokens=0,
        attributes={"warmup": True},
    )  # fmt: skip
    for number, seconds in enumerate((1.0, 2.0, 3.0)):
        builder.answered(
            "qa", "local", 5.0 + 3 * number, seconds, ttft_s=0.5,
            input_tokens=100, cache_read_tokens=90, output_tokens=10,
        )  # fmt: skip
    builder.request(
        "ops", "local", 15.0, 2.0, status="timeout", error="OrchestrationTimeoutError: too long"
    )
    for number, seconds in enumerate((8.0, 12.0)):
        builder.answered(
            "qa", "subprocess", 18.0 + 8 * number, seconds, ttft_s=4.0,
            input_tokens=100, cache_read_tokens=60, output_tokens=10,
        )  # fmt: skip
    return builder


def hostile(text: str = HOSTILE) -> ProfileBuilder:
    """Return a profile with hostile text in every place that a name, a text or a key can have."""
    builder = ProfileBuilder(
        text,
        id=text,
        source=text,
        platform=text,
        packages={text: text},
        settings={text: text},
        model_use=text,
        cpu=text,
        **{text: text},
    )
    request = builder.request(text, text, 0.0, 2.0, ttft_s=1.0, model=text, attributes={text: text})
    builder.span(
        "chat", 0.0, 2.0, parent=request, model=text, ttft_s=1.0,
        input_tokens=10, cache_read_tokens=9,
    )  # fmt: skip
    builder.request(text, text, 3.0, 1.0, status="error", error=text)
    builder.request("other", "local", 4.0, 1.0)
    builder.span(text, 5.0, 5.0, agent=text, status="error", error=text)
    builder.function(text, 0.5, file=text)
    builder.memory(0.5, 10_000_000, role=text)
    return builder


def empty() -> Profile:
    """Return a profile in which nothing was recorded."""
    return ProfileBuilder("empty").build()


def only(table: str, *rows: dict[str, object]) -> Profile:
    """Return a profile with rows in one table, and nothing in the others."""
    tables = {table: schema.frame_from_rows(schema.TABLES[table], rows)}
    return Profile(empty().meta, tables)


def of_lines() -> Profile:
    """Return a profile of two lines, with nothing else recorded."""
    row = {"file": "work.py", "cpu_python_percent": 9.0}
    return only("lines", {**row, "line": 1}, {**row, "line": 2})


def of_allocations() -> Profile:
    """Return a profile of a line that held memory, with nothing else recorded."""
    return only("allocations", {"file": "work.py", "line": 1, "size_bytes": 9_000_000, "count": 3})
