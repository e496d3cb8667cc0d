"""Whether the other threads rest: one clock tells, which costs a part of a look at each of them."""

from __future__ import annotations

from time import process_time_ns, thread_time_ns

# A thread that uses less of the time than this takes brief turns, as one that reads the memory.
_BRIEF = 0.1
# Other threads that together used less than this since they were looked at have not run: to wake up
# takes more, and two clocks are not read at once.
_FEW_NS = 3_000


class ThreadsAtRest:
    """The threads of this process but the one that asks, which is always the same."""

    def __init__(self) -> None:
        self.waited = False
        """Whether all of them waited when they were looked at last."""
        self.until_ns = 0
        """Until when they are known to have waited on since then."""
        # Their CPU time when they were looked at last, and now.
        self._used_ns = self._used_now_ns = 0

    def turns_ns(self, since_ns: int) -> int:
        """Return for how long they may have kept this thread waiting for their turns.

        That is their CPU time since this was asked last, where it is little of the time
        ``since_ns`` in which nobody looked at them; much of it may be of threads that need no
        interpreter, and run beside this one.
        """
        before_ns, self._used_now_ns = self._used_now_ns, process_time_ns() - thread_time_ns()
        turns_ns = self._used_now_ns - before_ns
        return turns_ns if turns_ns < _BRIEF * since_ns else 0

    def wait_on(self, now_ns: int) -> bool:
        """Whether none has run, up to the last :meth:`turns_ns`, since all were seen to wait."""
        if self.waited and self._used_now_ns - self._used_ns < _FEW_NS:
            self.until_ns = now_ns
            return True
        self._used_ns = self._used_now_ns
        return False
