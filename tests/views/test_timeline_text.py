"""The timeline in a terminal."""

from __future__ import annotations

from claude_pm.views.reading import Reading
from claude_pm.views.timeline_text import timeline_text
from tests.profile_builder import ProfileBuilder
from tests.views.profiles import empty


def lines(builder: ProfileBuilder) -> list[str]:
    return timeline_text(Reading(builder.build())).splitlines()


def test_shows_waiting_work_own_spans_and_failures() -> None:
    """Sixty characters are the whole time; each says what took most of its own."""
    builder = ProfileBuilder(duration_s=60.0)
    request = builder.request("qa", "local", 0.0, 30.0)
    builder.span("queue", 0.0, 10.0, parent=request)
    builder.span("chat", 10.0, 20.0, parent=request, ttft_s=5.0)
    builder.request("qa", "local", 40.0, 5.0, status="timeout")
    builder.span("load", 50.0, 10.0)
    assert lines(builder) == [
        "qa        " + "░" * 15 + "█" * 15 + " " * 10 + "x" * 5,
        "no agent  " + " " * 50 + "▒" * 10,
        " " * 10 + "0" + "60.0 s".rjust(59),
        "█ working  ░ waiting  ▒ own span  x failed",
    ]


def test_what_is_short_is_there() -> None:
    """A span of a millisecond in an hour has its character."""
    builder = ProfileBuilder(duration_s=3600.0)
    builder.span("blink", 1800.0, 0.001)
    assert lines(builder)[0].count("▒") == 1


def test_at_most_twelve_lanes() -> None:
    """The rest are counted."""
    builder = ProfileBuilder()
    for number in range(20):
        builder.request(f"agent {number}", "local", 0.0, 1.0)
    found = lines(builder)
    assert sum("█" in line for line in found[:-1]) == 12
    assert "and 8 more lanes" in found


def test_cannot_steer_a_terminal() -> None:
    """An agent's name is cleaned, and on one line."""
    builder = ProfileBuilder()
    builder.request("\x1b[2Jgone\nforged", "local", 0.0, 1.0)
    text = timeline_text(Reading(builder.build()))
    assert "\x1b" not in text
    assert "[2Jgone forged" in text


def test_nothing_to_show() -> None:
    """Without spans it is empty."""
    assert timeline_text(Reading(empty())) == ""
