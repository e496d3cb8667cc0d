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
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

import claude_pm
from claude_pm.analysis import compare_modes
from claude_pm.errors import ClaudePMError
from claude_pm.models import fetch_weights
from claude_pm.orchestration import OrchestrationMode
from claude_pm.recording import ProfileSession
from claude_pm.settings import read_settings

AGENTS = ("documentation", "qa", "engineer")
REQUEST = "In two sentences: what should I look at first in this project?"
MAX_TOKENS = 32
REPEATS = 3
REPORT = Path("report.html")

console = Console(stderr=True)


async def compare(settings: claude_pm.Settings, progress: Progress) -> None:
    """Ask every agent in every mode, in turns."""
    modes = (OrchestrationMode.LOCAL, OrchestrationMode.SUBPROCESS)
    total = len(AGENTS) * (1 + REPEATS * len(modes))
    task = progress.add_task("", total=total)
    async with claude_pm.Orchestrator(settings) as orchestrator:

        async def ask(agent: str, mode: OrchestrationMode, **attributes: object) -> None:
            progress.update(task, description=f"{agent}, {mode.name}")
            await orchestrator.orchestrate_agent(
                agent, REQUEST, mode=mode, max_tokens=MAX_TOKENS, attributes=attributes
            )
            progress.advance(task)

        for agent in AGENTS:
            # Fills the model's prompt cache; recorded, but no part of the comparison.
            await ask(agent, OrchestrationMode.LOCAL, warmup=True)
        for turn in range(REPEATS):
            for agent in AGENTS:
                # Whoever goes first in one turn goes last in the next.
                for mode in modes if turn % 2 == 0 else reversed(modes):
                    await ask(agent, mode, repeat=turn)


def show(profile: claude_pm.Profile) -> None:
    """Print the comparison."""
    modes = compare_modes(profile)
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
    ratio = modes.set_index("mode")["ratio"]["subprocess"]
    print(
        f"SUBPROCESS took {ratio:.1f} times as long as LOCAL (ratio of medians, warm LOCAL cache)."
    )


def main() -> int:
    """Run the demo; return the exit code. What was measured before a failure is saved too."""
    columns = (
        TextColumn("{task.description:<28}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    session = ProfileSession(
        "compare modes", cpu=None, source=f"{Path(sys.argv[0]).name}: {REQUEST}"
    )
    try:
        settings = read_settings()
        fetch_weights(settings)
        session.start()
        try:
            with Progress(*columns, console=console) as progress:
                asyncio.run(compare(settings, progress))
        finally:
            saved = session.stop().save()
            print(f"Profile: {os.path.relpath(saved)}")
        report = session.profile.to_html(REPORT)
    except ClaudePMError as error:
        console.print(f"demo: {error}", markup=False)
        return 1
    except KeyboardInterrupt:
        return 130
    show(session.profile)
    print(f"Report: {report.resolve()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
