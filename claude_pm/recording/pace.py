"""How often the sampler looks: as often as what it sees changes, and as what it costs allows."""

from __future__ import annotations

from claude_pm.recording.tick_timer import SPREAD

LONGEST_NS = 5_000_000
# The interval grows until looking takes at most one part in so many of the time.
_PARTS = 30
_OF_LATE = 64
"""Looks."""
# What runs between two waits runs in turns that begin after the first. Were the interval as long as
# a turn, some of it would be seen always, and some never.
_PARTS_OF_RUN = 48
# When a wait began and ended is known to half an interval; it costs nobody's time to look there.
_PER_CENT_OF_WAIT = 60
# Whenever code goes on after a wait, the next look may be the first thing that comes: so all it
# begins with is seen now and then.
_SPREAD_OF_WAIT = 1.0
_LONG_NS = 100_000_000
# Waits between long runs may go unseen where they are less than one part in so many of the time.
_PARTS_TO_MISS = 200
# What is about to run begins with the little that leads to the rest: from so small a part of the
# usual interval on, each is twice the one before.
_PARTS_OF_BEGIN = 16
# The two looks more that this takes may cost one part in so many of the time each.
_PARTS_FOR_BEGIN = 120


class Pace:
    """The interval between two looks.

    Sixty percent of the usual one at a wait, a sixteenth where it is over, and a third after it,
    for the little that code runs between two; then longer the longer it runs without one, up to
    5 ms.
    """

    def __init__(self, usual_ns: int) -> None:
        self.usual_ns = self.interval_ns = usual_ns
        self.spread = SPREAD
        self.runs_on = False
        """Whether the code has run for so long that the interval is the longest."""
        self._cost_ns = 0.0
        self._waited_ns = self._ran_ns = self._begin_ns = self._begun_ns = 0
        # When the last run without a wait ended; how long one has to be for the longest interval.
        self._ended_ns = self._long_ns = 0

    @property
    def longest_ns(self) -> int:
        """The longest that the next interval may be."""
        return int(self.interval_ns * (1 + self.spread))

    def note_run(
        self, now_ns: int, cost_ns: int, *, missed_ns: int, may_wait: bool = False
    ) -> None:
        """Take note of a look that held up code that runs, and of its CPU time.

        ``missed_ns`` is for how long the code has waited since the look before, unseen.
        ``may_wait`` says that it may be waiting now, where nobody was seen to wait before: a look
        while it does tells, and from then on it is known.
        """
        self._ran_ns = now_ns
        self.spread = SPREAD
        if self.runs_on and missed_ns:
            # A timer of CPU time sees no wait: else it would be taken for a run for ever.
            self._waited_ns = now_ns - self.usual_ns * _PARTS_OF_RUN
            # Nor would it see the next one, if that comes after a run as long.
            run_ns = now_ns - self._ended_ns
            self._long_ns = 2 * run_ns if missed_ns * _PARTS_TO_MISS > run_ns else 0
            self._ended_ns = now_ns
        longer_ns = (now_ns - self._waited_ns) // _PARTS_OF_RUN
        shortest_ns = self._allowed_ns(cost_ns) // 3
        self.interval_ns = max(shortest_ns, 0 if may_wait else min(longer_ns, LONGEST_NS))
        if self._begin_ns:
            self._begin_ns, self._begun_ns = 2 * self._begin_ns, now_ns
        if 0 < self._begin_ns < self.interval_ns:
            self.interval_ns = self._begin_ns
        else:
            self._begin_ns = 0
        is_long = now_ns - self._ended_ns >= self._long_ns
        self.runs_on = is_long and longer_ns >= LONGEST_NS

    def note_wait(self, now_ns: int, *, others_run: bool, is_over: bool) -> None:
        """Take note of a look at code that waits, which holds nobody up.

        ``is_over`` says that what it waited for is there: an event loop that sleeps goes on at the
        next interruption then, and would run unseen until the next look.
        """
        if others_run:
            self._ran_ns = now_ns
        self._waited_ns = self._ended_ns = now_ns
        self.spread = _SPREAD_OF_WAIT
        self.interval_ns = self._allowed_ns(0) * _PER_CENT_OF_WAIT // 100
        self.runs_on = False
        is_over = is_over and now_ns - self._begun_ns > _PARTS_FOR_BEGIN * self._cost_ns
        self._begin_ns = self.usual_ns // _PARTS_OF_BEGIN if is_over else 0
        if is_over:
            self.interval_ns = self._begin_ns
        elif now_ns - self._ran_ns > _LONG_NS:
            # What runs elsewhere, a model perhaps, needs the processor; here is little to see.
            self.interval_ns = max(self.interval_ns, LONGEST_NS)

    def _allowed_ns(self, cost_ns: int) -> int:
        """Return the usual interval, or a longer one if looks cost too much of late."""
        self._cost_ns += (cost_ns - self._cost_ns) / _OF_LATE
        return max(self.usual_ns, min(int(self._cost_ns * _PARTS), LONGEST_NS))
