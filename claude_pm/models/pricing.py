"""What an answer costs at list price, from the ``genai-prices`` tables."""

from __future__ import annotations

import functools

from claude_pm.models.messages import Usage


def load_prices(model: str) -> None:
    """Read the tables now, if this model's answers will need them: later it would look like theirs.

    The first price takes some 50 ms, all later ones a tenth of one.
    """
    cost_usd(model, Usage(0, 0, 0, 0))


@functools.lru_cache(maxsize=1024)
def cost_usd(model: str, usage: Usage) -> float | None:
    """Return the list price in US dollars, or None where the model or its tokens are not known.

    A local model has no list price: None, not 0.
    """
    if not model.startswith("claude") or usage.input_tokens is None or usage.output_tokens is None:
        return None
    from genai_prices import Usage as PricedUsage
    from genai_prices import calc_price

    priced = PricedUsage(
        input_tokens=usage.input_tokens,
        cache_read_tokens=usage.cache_read_tokens,
        cache_write_tokens=usage.cache_write_tokens,
        output_tokens=usage.output_tokens,
    )
    try:
        return float(calc_price(priced, model_ref=model, provider_id="anthropic").total_price)
    except LookupError:
        return None
