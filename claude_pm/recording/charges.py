"""What sampled time is charged to, and how much of it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, NamedTuple

from claude_pm.recording.call_tree import Stack, stack_text, without
from claude_pm.recording.instrument import RenameFile, Rows
from claude_pm.recording.machinery import is_standard_library, machinery_folders
from claude_pm.recording.span import Opened

RUNNING, WAITING = "running", "waiting"


@dataclass(slots=True)
class Look:
    """One look of the sampler: when, how long after the one before, and how long that mostly is."""

    now_ns: int
    elapsed_ns: int
    usual_ns: int
    longest_ns: int
    """How long the interval could have been at most; ``usual_ns`` is the mean."""
    stood_ns: int = 0
    """How long the look before took."""
    took_ns: int = 0
    """How long it took itself, once it is over."""
    ends_wait: bool = False
    """Whether it came just when others ended what the main thread waited for."""
    contended: bool = False
    """Whether threads competed of late: each is kept from running by the others now and then."""

    def following(
        self,
        now_ns: int,
        usual_ns: int,
        longest_ns: int,
        *,
        ends_wait: bool = False,
        contended: bool = False,
    ) -> Look:
        """Return the look that follows this one."""
        elapsed_ns = now_ns - self.now_ns
        return Look(
            now_ns, elapsed_ns, usual_ns, longest_ns, self.took_ns,
            ends_wait=ends_wait, contended=contended,
        )  # fmt: skip

    @property
    def half_ns(self) -> int:
        """Half of the interval, for what was seen at its beginning.

        What makes an interval longer than it may be is seen at its end; unless it is the look
        before, in which the machine may have stood still, or the garbage collector run.
        """
        return self.stood_ns + min(self.elapsed_ns - self.stood_ns, self.longest_ns) // 2

    @property
    def waited_ns(self) -> int:
        """How much of the interval is a wait's that was seen at its beginning: half, mostly.

        All, where what it waited for has just been done.
        """
        return self.elapsed_ns if self.ends_wait else self.half_ns


class Whom(NamedTuple):
    """A stack, the span that it works for, and the names of its thread and task."""

    stack: Stack
    span: Opened | None
    thread: str | None
    task: str | None


class Charges:
    """Sums of wall and CPU time for each whom and state."""

    def __init__(self) -> None:
        self._sums: dict[tuple[Whom, str], list[int]] = {}

    def add(self, whom: Whom, state: str, wall_ns: int, cpu_ns: int) -> None:
        """Charge some time."""
        total = self._sums.get((whom, state))
        if total is None:
            total = self._sums[whom, state] = [0, 0]
        total[0] += wall_ns
        total[1] += cpu_ns

    def rows(self, rename_file: RenameFile, *, internals: bool, knows_cpu: bool) -> Rows:
        """Return the rows of ``samples``, the largest first."""
        hidden = machinery_folders()
        texts: dict[Stack, str] = {}
        idle: set[Stack] = set()
        sums: dict[tuple[Any, ...], list[int]] = {}
        for (whom, state), (wall_ns, cpu_ns) in self._sums.items():
            text = texts.get(whom.stack)
            if text is None:
                codes = whom.stack.codes()
                shown = codes if internals else without(codes, hidden)
                text = texts[whom.stack] = stack_text(shown, rename_file)
                if not internals and all(is_standard_library(one.co_filename) for one in shown):
                    idle.add(whom.stack)
            # A thread in a pool, or of a library, that waits for work.
            if text and not (state == WAITING and whom.span is None and whom.stack in idle):
                span, number = whom.span or (None, 0)
                named = (None, None) if span is None else (span.id_with(number), span.agent)
                key = (*named, whom.thread, whom.task, state, text)
                total = sums.setdefault(key, [0, 0])
                total[0] += wall_ns
                total[1] += cpu_ns
        pid = os.getpid()
        rows: Rows = [
            {
                "span_id": span_id,
                "agent": agent,
                "pid": pid,
                "thread": thread,
                "task": task,
                "state": state,
                "stack": text,
                "weight_s": wall_ns / 1e9,
                # What an interruption uses is estimated, and may be estimated too high.
                "cpu_s": max(0, cpu_ns) / 1e9 if knows_cpu else None,
            }
            for (span_id, agent, thread, task, state, text), (wall_ns, cpu_ns) in sums.items()
        ]
        rows.sort(key=lambda row: row["weight_s"], reverse=True)
        return rows
