"""What an answer costs."""

from __future__ import annotations

import subprocess
import sys

import pytest

from claude_pm.models import Usage
from claude_pm.models.pricing import cost_usd

CLAUDE = "claude-sonnet-4-5"


def test_claude_has_a_price() -> None:
    """A Claude model costs something for its input and something for its output."""
    both = cost_usd(CLAUDE, Usage(1000, None, None, 500))
    only_input = cost_usd(CLAUDE, Usage(1000, None, None, 0))
    assert both is not None
    assert only_input is not None
    assert 0 < only_input < both


def test_dated_name() -> None:
    """The name with a date, as the server gives it, has the same price."""
    usage = Usage(1000, None, None, 500)
    assert cost_usd(f"{CLAUDE}-20250929", usage) == cost_usd(CLAUDE, usage)


def test_cache() -> None:
    """Of the same input, what is read from the cache is cheaper, what is written to it dearer."""
    read, plain, written = (
        cost_usd(CLAUDE, usage)
        for usage in (Usage(1000, 900, 0, 0), Usage(1000, 0, 0, 0), Usage(1000, 0, 900, 0))
    )
    assert read is not None
    assert plain is not None
    assert written is not None
    assert 0 < read < plain < written


@pytest.mark.parametrize(
    ("model", "usage"),
    [
        pytest.param("SmolLM2-135M-Instruct", Usage(1000, 0, 0, 500), id="local"),
        pytest.param("claude-of-another-day", Usage(1000, 0, 0, 500), id="unknown-claude"),
        pytest.param("gpt-4o", Usage(1000, 0, 0, 500), id="not-claude"),
        pytest.param("", Usage(1000, 0, 0, 500), id="no-name"),
        pytest.param(CLAUDE, Usage(None, None, None, 500), id="input-not-known"),
        pytest.param(CLAUDE, Usage(1000, None, None, None), id="output-not-known"),
    ],
)
def test_not_known_is_none(model: str, usage: Usage) -> None:
    """Where price or tokens are not known the cost is None, never 0."""
    assert cost_usd(model, usage) is None


PROGRAM = """
import asyncio, sys
import claude_pm
from claude_pm.models import MessagesClient

async def main():
    client = MessagesClient("http://127.0.0.1:9", model=sys.argv[1])
    await client.prepare()
    print("genai_prices" in sys.modules)
    async with claude_pm.profile("p", cpu=None, memory=None):
        await client.prepare()
    print("genai_prices" in sys.modules)

asyncio.run(main())
"""


@pytest.mark.parametrize(("model", "read"), [(CLAUDE, True), ("smol", False)])
def test_tables_are_read_before_the_answer(model: str, read: bool) -> None:
    """Reading the tables is no part of the first answer's time, and is left out where unneeded."""
    told = subprocess.run(
        [sys.executable, "-c", PROGRAM, model], check=True, capture_output=True, text=True
    )
    assert told.stdout.split() == ["False", str(read)]
