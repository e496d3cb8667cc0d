"""What tokens cost at list price, from the ``genai-prices`` tables."""

from __future__ import annotations

import functools


@functools.lru_cache(maxsize=1024)
def list_price_usd(
    model: str,
    provider: str,
    *,
    input_tokens: int,
    output_tokens: int,
    cache_read_tokens: int | None = None,
    cache_write_tokens: int | None = None,
) -> float | None:
    """Return the list price in US dollars, or None where the tables do not know the model.

    ``input_tokens`` is the total: those that were read from the cache or written to it are part of
    it. ``provider`` is who serves the model, under the name in the tables or in OpenTelemetry's
    conventions: the same model costs different things at different places. The first price takes
    some 50 ms, all later ones a tenth of one.
    """
    from genai_prices import Usage, calc_price

    used = Usage(
        input_tokens=input_tokens,
        cache_read_tokens=cache_read_tokens,
        cache_write_tokens=cache_write_tokens,
        output_tokens=output_tokens,
    )
    try:
        return float(calc_price(used, model_ref=model, provider_id=provider).total_price)
    except (LookupError, ValueError):  # not in the tables, or counts that contradict each other
        return None
