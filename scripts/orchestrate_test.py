"""A few requests in LOCAL mode, for a profiler to look at.

python -m cProfile -o profile.stats scripts/orchestrate_test.py
python -m memory_profiler scripts/orchestrate_test.py
"""

from __future__ import annotations

import asyncio

from claude_pm.orchestration import create_backwards_compatible_orchestrator

REQUESTS = 3
MAX_TOKENS = 16


async def main() -> None:
    """Ask an agent, and print how long each answer took."""
    async with create_backwards_compatible_orchestrator() as orchestrator:
        for number in range(1, REQUESTS + 1):
            response = await orchestrator.orchestrate_agent(
                "documentation", "Generate quick summary", max_tokens=MAX_TOKENS
            )
            print(f"request {number}: {response.duration_s:.3f} s, {response.mode} mode")


if __name__ == "__main__":
    asyncio.run(main())
