"""The time that one asyncio task waits, from one look of the sampler to the next."""

from __future__ import annotations

from asyncio import Future, Task
from typing import Any
from weakref import ReferenceType, ref

from claude_pm.recording.call_tree import Stack
from claude_pm.recording.charges import WAITING, Charges, Look, Whom
from claude_pm.recording.span import Opened, opened_in
from claude_pm.recording.task_stacks import await_chain, context_of


class TaskTime:
    """A task as it was seen last.

    What is not charged to its thread while it ran (:attr:`ran_ns`, since the last look at the
    tasks) it has waited: where it was seen to wait.
    """

    __slots__ = (
        "_charges", "_context", "_waited_ns", "_waiter", "_was_running", "loop", "name", "ran_ns",
        "span", "stack", "thread",
    )  # fmt: skip

    def __init__(self, task: Task[Any], charges: Charges) -> None:
        self._charges = charges
        self._context = context_of(task)
        self._waiter: ReferenceType[Future[Any]] | None = None
        self._was_running = False
        self._waited_ns = 0
        self.ran_ns = 0
        self.loop = task.get_loop()
        self.name = task.get_name()
        self.thread: str | None = None
        self.stack: Stack | None = None
        self.span: Opened | None = None

    def read_span(self) -> Opened | None:
        """Return the span that is open in the task's context now."""
        span = opened_in(self._context)
        self.work_for(span)
        return span

    def work_for(self, span: Opened | None) -> None:
        """Take note of the span that it works for from here on."""
        if span != self.span:
            self.settle()
            self.span = span

    def look_at_running(self, look: Look) -> None:
        """Charge the rest of the interval to where it waited until it ran."""
        self._wait(self._rest_ns(look))
        self._was_running = True

    def look_at_waiting(
        self, look: Look, task: Task[Any], root: Stack, thread: str | None, *, loop_is_idle: bool
    ) -> Whom | None:
        """Charge the rest of the interval to where it waits.

        Returns:
            Whom it belongs to that the task ran between two looks, where it did and its event loop
            was idle at both: what its stacks before and now have in common.
        """
        rest_ns, between = self._rest_ns(look), None
        waiter = task._fut_waiter  # type: ignore[attr-defined] # noqa: SLF001 - asyncio's own tools read it
        known = None if self._waiter is None else self._waiter()
        if waiter is None or known is not waiter:
            before, span = self.stack, opened_in(self._context)
            now = root.of(await_chain(task.get_coro()))
            # Not the future itself, which would live longer for it.
            self._waiter = None if waiter is None else ref(waiter)
            if now is not before or span != self.span:
                if not self._was_running:
                    half_ns = min(rest_ns, look.waited_ns)
                    self._wait(half_ns)
                    rest_ns -= half_ns
                self.settle()
                self.stack, self.span, self.name = now, span, task.get_name()
                self.thread = thread
            if loop_is_idle and before is not None and not self._was_running:
                between = Whom(before.shared_with(now), span, self.thread, self.name)
        self._wait(rest_ns)
        self._was_running = False
        return between

    def end(self, look: Look) -> None:
        """Charge what it waited before it ended, some time in the interval."""
        if not self._was_running:
            self._wait(min(self._rest_ns(look), look.waited_ns))
        self.settle()

    def settle(self) -> None:
        """Charge all that it has waited at one place."""
        if self.stack is not None and self._waited_ns:
            whom = Whom(self.stack, self.span, self.thread, self.name)
            self._charges.add(whom, WAITING, self._waited_ns, 0)
        self._waited_ns = 0

    def _rest_ns(self, look: Look) -> int:
        rest_ns, self.ran_ns = look.elapsed_ns - self.ran_ns, 0
        return rest_ns

    def _wait(self, wall_ns: int) -> None:
        if wall_ns > 0:
            self._waited_ns += wall_ns
