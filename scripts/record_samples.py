"""Record ``profiles/samples/`` anew: small profiles, so that every analysis can be tried at once.

They are of the embedded model on the machine that runs this. Paths of that machine are not in them.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from pathlib import Path

import claude_pm
from claude_pm.orchestration import batch_orchestrate, cache_trial, request_conditions, run_workflow

SAMPLES = Path(__file__).parent.parent / "profiles" / "samples"
REQUEST = "In two sentences: what should I look at first in this project?"
AGENTS = ("qa", "engineer", "ops")


def modes() -> claude_pm.Experiment:
    """One agent in two modes, in turns."""
    conditions = request_conditions("qa", REQUEST, mode=["local", "subprocess"], max_tokens=24)
    return claude_pm.experiment(conditions, repeat=8, name="modes")


def caches() -> claude_pm.Experiment:
    """Two agents with a cold cache, a warm one, and none."""
    return cache_trial(["qa", "engineer"], REQUEST, repeat=5)


async def batch() -> claude_pm.Profile:
    """Nine requests, four at a time, and a workflow of three steps."""
    async with claude_pm.profile("batch", cpu=None) as profile:
        await batch_orchestrate(
            [{"agent": AGENTS[n % 3], "request": REQUEST, "max_tokens": 16} for n in range(9)]
        )
        with claude_pm.span("a plan"):
            await run_workflow(
                [
                    {"name": "risks", "agent": "ops", "request": "What could go wrong?"},
                    {"name": "tests", "agent": "qa", "request": "What would you test?"},
                    {
                        "name": "plan",
                        "agent": "engineer",
                        "request": "Plan it: {risks} {tests}",
                        "needs": ["risks", "tests"],
                    },
                ]
            )
    return profile


def main() -> int:
    """Record all of them in place of the ones before."""
    # What the agents are told of the folder that they work in would be this machine's.
    os.chdir(SAMPLES.parent)
    os.environ["CLAUDE_PM_MAX_TOKENS"] = "24"
    made: list[claude_pm.Experiment | claude_pm.Profile] = [modes(), caches(), asyncio.run(batch())]
    shutil.rmtree(SAMPLES, ignore_errors=True)
    for one in made:
        print(one.save(SAMPLES).name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
