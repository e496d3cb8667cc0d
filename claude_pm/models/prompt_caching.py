"""Claude's prompt cache: which blocks of a system prompt are worth a breakpoint.

A breakpoint below a model's minimum is accepted and does nothing, without a word in the answer.
The minimums are those of Claude's documentation on prompt caching (its section on limits), read in
November 2026; of a model that is not listed nothing is known.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

MAX_BREAKPOINTS = 4
"""The Messages API refuses a request with more."""

_MINIMUM_TOKENS = {
    "claude-opus-4-6": 4096,
    "claude-opus-4-5": 4096,
    "claude-opus-4-1": 1024,
    "claude-opus-4-0": 1024,
    "claude-opus-4-2": 1024,  # claude-opus-4-20250514
    "claude-sonnet-4-6": 2048,
    "claude-sonnet-4-5": 1024,
    "claude-sonnet-4-0": 1024,
    "claude-sonnet-4-2": 1024,  # claude-sonnet-4-20250514
    "claude-3-7-sonnet": 1024,
    "claude-haiku-4-5": 4096,
    "claude-3-5-haiku": 2048,
    "claude-3-haiku": 2048,
}
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
    for beginning, tokens in _MINIMUM_TOKENS.items():
        if model.startswith(beginning):
            return tokens
    return None


async def place_breakpoints(
    model: str, system: tuple[str, ...], count_tokens: CountTokens
) -> Breakpoints:
    """Return the last blocks of a system prompt whose prefix is long enough for the model.

    Of a model whose minimum is not known every block is marked. The server is asked for a count
    only where the length in bytes leaves it open; where it cannot say, 4 bytes stand for a token.
    """
    everything = range(len(system))[-MAX_BREAKPOINTS:]
    minimum = minimum_tokens(model)
    if minimum is None:
        return Breakpoints(frozenset(everything))
    chosen = []
    tokens = "0"
    for position in everything:
        prefix = "\n".join(system[: position + 1])
        size = len(prefix.encode())
        if size < minimum:
            tokens = f"at most {size}"
        elif size > minimum * _MOST_BYTES_PER_TOKEN:
            chosen.append(position)
        else:
            counted = await count_tokens(prefix)
            if (size // _USUAL_BYTES_PER_TOKEN if counted is None else counted) >= minimum:
                chosen.append(position)
            elif counted is None:
                tokens = f"about {size // _USUAL_BYTES_PER_TOKEN} (estimated)"
            else:
                tokens = str(counted)
    if chosen:
        return Breakpoints(frozenset(chosen))
    return Breakpoints(
        frozenset(), f"not cached: {tokens} tokens, and {model} caches from {minimum} on"
    )
