"""Claude's prompt cache: which blocks of a system prompt are worth a breakpoint.

A breakpoint below a model's minimum is accepted and does nothing, without a word in the answer.
The minimums are those of Claude's documentation ("Prompt caching", the section "Minimum cacheable
prompt length", https://platform.claude.com/docs/en/build-with-claude/prompt-caching), as it was in
October 2026, and for the retired 3.x models as it was before. Of a model that is not listed
nothing is known.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

MAX_BREAKPOINTS = 4
"""The Messages API refuses a request with more."""

_MINIMUM_TOKENS = {
    "claude-fable-5-1": 512,
    "claude-fable-5": 512,
    "claude-mythos-5-1": 512,
    "claude-mythos-5": 512,
    "claude-mythos-preview": 2048,
    "claude-opus-5-5": 512,
    "claude-opus-5": 512,
    "claude-opus-4-8": 1024,
    "claude-opus-4-7": 2048,
    "claude-opus-4-6": 4096,
    "claude-opus-4-5": 4096,
    "claude-opus-4-1": 1024,
    "claude-opus-4-0": 1024,
    "claude-opus-4": 1024,
    "claude-sonnet-5-5": 512,
    "claude-sonnet-5": 1024,
    "claude-sonnet-4-6": 1024,
    "claude-sonnet-4-5": 1024,
    "claude-sonnet-4-0": 1024,
    "claude-sonnet-4": 1024,
    "claude-3-7-sonnet": 1024,
    "claude-haiku-5-5": 512,
    "claude-haiku-4-5": 4096,
    "claude-3-5-haiku": 2048,
    "claude-3-haiku": 2048,
}
# "us.anthropic.claude-sonnet-4-5-20250929-v1:0", "anthropic/claude-sonnet-4.5": a name of others
# may have something before Claude's own one, and a date or version after it.
_NAME = re.compile(r"(?:^|[./])(claude-[a-z0-9-]+?)(?:-latest|[-@]\d{8}.*|-v\d.*|:.*)?$")
# No token is less than a byte; and of usual text none is more than a few.
_MOST_BYTES_PER_TOKEN = 8
_USUAL_BYTES_PER_TOKEN = 4

CountTokens = Callable[[str], Awaitable[int | None]]


@dataclass(frozen=True, slots=True)
class Breakpoints:
    """The blocks that get one, by position; and why there are none, where that is so."""

    blocks: frozenset[int]
    note: str | None = None


def minimum_tokens(model: str) -> int | None:
    """Return the shortest prefix that Claude caches for a model, in tokens; None: not known."""
    found = _NAME.search(re.sub(r"(?<=\d)\.(?=\d)", "-", model.lower()))
    return _MINIMUM_TOKENS.get(found[1]) if found is not None else None


async def place_breakpoints(
    model: str, system: tuple[str, ...], count_tokens: CountTokens
) -> Breakpoints:
    """Return the last blocks of a system prompt whose prefix is long enough for the model.

    Of a model whose minimum is not known every block is marked. The server is asked for a count
    only where the length in bytes leaves it open; where it cannot say, 4 bytes stand for a token.
    """
    everything = [position for position, text in enumerate(system) if text][-MAX_BREAKPOINTS:]
    minimum = minimum_tokens(model)
    if minimum is None or not everything:
        return Breakpoints(frozenset(everything))
    tokens = ""
    for number, position in enumerate(everything):
        prefix = "\n".join(system[: position + 1])
        size = len(prefix.encode("utf-8", "replace"))
        if size < minimum:
            tokens = f"at most {size}"
            continue
        counted = None
        estimated = size // _USUAL_BYTES_PER_TOKEN
        long_enough = size > minimum * _MOST_BYTES_PER_TOKEN
        if not long_enough:
            counted = await count_tokens(prefix)
            long_enough = (estimated if counted is None else counted) >= minimum
        if long_enough:
            # So is every longer prefix.
            return Breakpoints(frozenset(everything[number:]))
        tokens = f"about {estimated} (estimated)" if counted is None else str(counted)
    return Breakpoints(
        frozenset(), f"not cached: {tokens} tokens, and {model} caches from {minimum} on"
    )
