"""From how many requests on a cache that charges for writing is cheaper than none."""

from __future__ import annotations

import math

from claude_pm.profiles.prices import list_price_usd

_PROVIDER = "anthropic"
_TOKENS = 1_000
"""Prices of so many are compared: above some length a few models charge more for each."""
_ROUNDING = 1e-9


def break_even_requests(model: str, *, write_price: float | None = None) -> int | None:
    """Return the least number of requests from which on Claude's prompt cache saves money.

    The first request writes the prompt, all later ones read it: with the prices w of writing and r
    of reading a token, over that of plain input, n requests cost w + (n - 1) r, and n without a
    cache. So n is (w - r) / (1 - r), rounded up. Only what comes in time counts: Claude forgets a
    prompt that nobody read for 5 minutes (or an hour).

    Args:
        model: as the Messages API names it, such as ``claude-sonnet-4-5``.
        write_price: w; None takes it from the list prices, which are those of the 5 minutes. For
            the hour Claude charges 2.

    Returns:
        The number, or None where the list prices (of the ``genai-prices`` package) do not know the
        model, or its cache never pays.
    """
    plain = _price(model)
    write, read = (
        _price(model, cache_write_tokens=_TOKENS),
        _price(model, cache_read_tokens=_TOKENS),
    )
    if not plain or write is None or read is None:
        return None
    w = write / plain if write_price is None else write_price
    r = read / plain
    if r >= 1:
        return None
    return max(1, math.ceil((w - r) / (1 - r) - _ROUNDING))


def _price(
    model: str, *, cache_read_tokens: int | None = None, cache_write_tokens: int | None = None
) -> float | None:
    return list_price_usd(
        model,
        _PROVIDER,
        input_tokens=_TOKENS,
        output_tokens=0,
        cache_read_tokens=cache_read_tokens,
        cache_write_tokens=cache_write_tokens,
    )
