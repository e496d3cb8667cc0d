"""The main job, end to end: ask three agents in LOCAL and in SUBPROCESS, compare, write a report.

Run it with ``make demo``. Everything it prints was measured in this run.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

import claude_pm
from claude_pm.analysis import compare_modes
from claude_pm.errors import ClaudePMError
from claude_pm.models import fetch_weights
from claude_pm.orchestration import OrchestrationMode
from claude_pm.recording import ExperimentSession
from claude_pm.settings import read_settings

AGENTS = ("documentation", "qa", "engineer")
REQUEST = "In two sentences: what should I look at first in this project?"
MAX_TOKENS = 32
MODES = (OrchestrationMode.LOCAL, OrchestrationMode.SUBPROCESS)
REPEATS = 5
REPORT = Path("report.html")

console = Console(stderr=True)


async def compare(settings: claude_pm.Settings, session: ExperimentSession) -> None:
    """Ask all agents in each mode, in turns; the first round only warms up."""
    async with claude_pm.Orchestrator(settings) as orchestrator:
        for turn in session.turns():
            with session.measuring(turn):
                for agent in AGENTS:
                    await orchestrator.orchestrate_agent(
                        agent, REQUEST, mode=turn.condition, max_tokens=MAX_TOKENS
                    )


def show(experiment: claude_pm.Experiment) -> None:
    """Print the requests of each mode, and the verdicts on the rounds."""
    modes = compare_modes(experiment.profile)
    table = Table(
        title=f"{', '.join(AGENTS)}; at most {MAX_TOKENS} output tokens",
        title_justify="left",
        box=SIMPLE,
        pad_edge=False,
    )
    columns = ("mode", "n", "median", "p95", "TTFT", "cache reads", "in", "out")
    for column in columns:
        table.add_column(column, justify="left" if column == "mode" else "right", no_wrap=True)
    for row in modes.to_dict("records"):
        seconds = [f"{row[name]:.2f} s" for name in ("median_s", "p95_s", "ttft_median_s")]
        tokens = [f"{row[n]:.0f}" for n in ("cache_read_tokens", "input_tokens", "output_tokens")]
        table.add_row(row["mode"].upper(), str(row["n"]), *seconds, *tokens)
    Console().print(table)
    print(experiment.compare())


def main() -> int:
    """Run the demo; return the exit code. What was measured before a failure is saved too."""
    session = ExperimentSession(
        list(MODES), repeat=REPEATS, warmup=1, name="compare modes", cpu=None, memory="rss",
        source=f"{Path(sys.argv[0]).name}: {REQUEST}",
    )  # fmt: skip
    try:
        settings = read_settings()
        fetch_weights(settings)
        session.start()
        try:
            asyncio.run(compare(settings, session))
        finally:
            experiment = session.stop()
            print(f"Profile: {os.path.relpath(experiment.save())}")
        report = experiment.to_html(REPORT)
    except ClaudePMError as error:
        console.print(f"demo: {error}", markup=False)
        return 1
    except KeyboardInterrupt:
        return 130
    show(experiment)
    print(f"Report: {report.resolve()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
