"""Numbers and names as people read them: one way for the terminal, the notebook and the report."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import floor, log10

UNKNOWN = "\N{EN DASH}"

SMALL_MODEL = "SmolLM2"
SMALL_MODEL_SENTENCE = (
    "Answers come from SmolLM2-135M, a small model: fluent, often wrong; "
    "timings and token counts are real."
)
AWAITED_SENTENCE = (
    "cProfile does not count awaited time: a coroutine's seconds are those it ran, not those it "
    "waited."
)
LINES_SENTENCE = (
    "As scalene saw them in a second run, in a process of its own; awaited time is in none."
)

PHASES: Mapping[str, str] = {
    "queue": "waiting in the queue",
    "start_worker": "starting workers",
    "start_model": "starting the model",
    "build_context": "building context",
    "saved_prefix": "restoring and saving prompts",
    "prefill": "prefill",
    "decode": "decode",
    "no_text": "attempts without text",
    "other": "other",
}

_UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))
_SECONDS_FROM = 0.1
_SIZES = ((1e6, "MB"), (1e3, "kB"), (0, "B"))
_SIGNIFICANT = 3

# Control characters but newline and tab; overrides and isolates of writing direction, with which
# a text can be made to read as another; what is never seen, so that two names can look like one,
# or a text can hold another (not the joiners, which emoji and many scripts are written with); and
# halves of surrogate pairs and characters that are none, which no file or drawing can hold.
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069"
    "\u180e\u200b\u2060-\u2064\ufeff\ufff9-\ufffb\U000e0000-\U000e007f"
    "\ud800-\udfff\ufffe\uffff]"
)


def clean(text: str) -> str:
    """Return the text with every character that could disguise it or steer a terminal as U+FFFD."""
    return _UNPRINTABLE.sub("\ufffd", text)


def one_line(text: str, limit: int | None = None) -> str:
    """Return the text cleaned, on one line, cut to ``limit`` characters with an ellipsis."""
    line = " ".join(clean(text).split())
    return line if limit is None or len(line) <= limit else line[: limit - 1].rstrip() + "…"


def duration(seconds: float | None) -> str:
    """Return a duration in s, ms or µs, to three digits: ``4.12 s``, ``0.42 s``, ``81.3 ms``."""
    if seconds is None:
        return UNKNOWN
    if seconds == 0:
        return "0 s"
    if abs(seconds) >= _SECONDS_FROM:
        return f"{_digits(seconds, max_decimals=2)} s"
    unit_s, unit = time_unit(abs(seconds))
    return f"{_digits(seconds / unit_s, max_decimals=2)} {unit}"


def time_unit(longest_s: float) -> tuple[float, str]:
    """Return the seconds in a unit, and its name, that suit an axis up to ``longest_s``."""
    return next((unit for unit in _UNITS if longest_s >= unit[0]), _UNITS[-1])


def whole(number: float | None) -> str:
    """Return a count with thousands separated; a median may end in .5."""
    if number is None:
        return UNKNOWN
    return f"{number:,.1f}".removesuffix(".0")


def megabytes(size_bytes: float) -> str:
    """Return a size in MB (a million bytes)."""
    return f"{size_bytes / 1e6:,.0f} MB"


def size(size_bytes: float | None) -> str:
    """Return a size in B, kB or MB (thousands and millions)."""
    if size_bytes is None:
        return UNKNOWN
    bytes_in_unit, unit = next(found for found in _SIZES if size_bytes >= found[0])
    decimals = 1 if bytes_in_unit else 0
    return f"{size_bytes / (bytes_in_unit or 1):,.{decimals}f} {unit}"


def percent(value: float | None) -> str:
    """Return a percentage."""
    return UNKNOWN if value is None else f"{value:.0f} %"


def usd(cost: float | None) -> str:
    """Return a cost in US dollars; small ones keep three digits."""
    if cost is None:
        return UNKNOWN
    return f"${cost:,.2f}" if cost == 0 or cost >= 1 else f"${_digits(cost)}"


def times(ratio: float | None) -> str:
    """Return a ratio as a factor: ``9.8x``, ``0.54x``."""
    if ratio is None:
        return UNKNOWN
    return f"{ratio:,.1f}x" if ratio >= 1 else f"{ratio:.2f}x"


def ratio(value: float | None) -> str:
    """Return a ratio to three digits: ``1.04``, ``119``."""
    if value is None:
        return UNKNOWN
    return _digits(value, max_decimals=3) if value else "0"


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """Return a count and its noun, in the plural (by default with an s) where it is not one."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {plural or noun + 's'}"


def percents(shares: Sequence[float]) -> list[int]:
    """Return the shares of a whole as whole percents that add up to 100 (largest remainder)."""
    exact = [100 * share for share in shares]
    rounded = [floor(value) for value in exact]
    by_remainder = sorted(range(len(exact)), key=lambda i: rounded[i] - exact[i])
    for i in by_remainder[: round(sum(exact)) - sum(rounded)]:
        rounded[i] += 1
    return rounded


def shares(parts: Sequence[float | None]) -> list[str]:
    """Return shares as text: ``50 %``; ``<1 %`` for what is there but rounds to nothing."""
    texts = []
    for part, percent in zip(parts, percents([part or 0.0 for part in parts]), strict=True):
        if part is None:
            texts.append(UNKNOWN)
        else:
            texts.append("<1 %" if part and not percent else f"{percent} %")
    return texts


def mode_label(mode: str | None) -> str:
    """Return a mode as it is written in prose: ``LOCAL``."""
    return UNKNOWN if mode is None else one_line(mode).upper()


def _digits(value: float, max_decimals: int | None = None) -> str:
    """Write a number to three significant digits, without an exponent."""
    magnitude = floor(log10(abs(value)))
    if round(abs(value), _SIGNIFICANT - 1 - magnitude) >= 10.0 ** (magnitude + 1):
        magnitude += 1
    decimals = max(0, _SIGNIFICANT - 1 - magnitude)
    if max_decimals is not None:
        decimals = min(decimals, max_decimals)
    return f"{value:,.{decimals}f}"
