"""What an answer of Claude costs at list price."""

from __future__ import annotations

from claude_pm.models.messages import Usage
from claude_pm.profiles.prices import list_price_usd


def load_prices(model: str) -> None:
    """Read the tables now, if this model's answers will need them: later it would look like theirs.

    The first price takes some 50 ms, all later ones a tenth of one.
    """
    cost_usd(model, Usage(0, 0, 0, 0))


def cost_usd(model: str, usage: Usage) -> float | None:
    """Return the list price in US dollars, or None where the model or its tokens are not known.

    A local model has no list price: None, not 0.
    """
    if not model.startswith("claude") or usage.input_tokens is None or usage.output_tokens is None:
        return None
    return list_price_usd(
        model,
        "anthropic",
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cache_read_tokens=usage.cache_read_tokens,
        cache_write_tokens=usage.cache_write_tokens,
    )
