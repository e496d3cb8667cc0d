"""How often the sampler looks, with times made up."""

from __future__ import annotations

from claude_pm.recording.pace import LONGEST_NS, Pace

MS = 1_000_000
USUAL = 2_500_000


def ran(pace: Pace, since_ms: int, until_ms: int, cost_ns: int = 10_000) -> list[int]:
    """Return the intervals of a run that is looked at every millisecond."""
    intervals = []
    for now_ms in range(since_ms, until_ms + 1):
        pace.note_run(now_ms * MS, cost_ns, missed_ns=0)
        intervals.append(pace.interval_ns)
    return intervals


def test_looks_closely_after_a_wait_and_less_the_longer_code_runs() -> None:
    """A third of the usual interval at first; it never falls; the longest in the end."""
    pace = Pace(USUAL)
    pace.note_wait(1_000 * MS, others_run=False, is_over=False)
    intervals = ran(pace, 1_001, 1_400)
    assert intervals[0] == USUAL // 3
    assert intervals == sorted(intervals)
    assert intervals[-1] == LONGEST_NS


def test_runs_on_only_without_waits() -> None:
    """Code that waits now and then never runs on; each wait begins anew."""
    pace = Pace(USUAL)
    for start_ms in range(0, 2_000, 100):
        pace.note_wait(start_ms * MS, others_run=False, is_over=False)
        ran(pace, start_ms + 1, start_ms + 99)
        assert not pace.runs_on
    ran(pace, 2_000, 2_400)
    assert pace.runs_on
    pace.note_wait(2_401 * MS, others_run=False, is_over=False)
    assert not pace.runs_on
    assert pace.interval_ns < USUAL


def test_a_wait_that_no_look_met_ends_a_run() -> None:
    """It is seen by the CPU time that is missing; the code has to run on anew."""
    pace = Pace(USUAL)
    ran(pace, 0, 400)
    assert pace.runs_on
    pace.note_run(401 * MS, 10_000, missed_ns=MS)
    assert not pace.runs_on
    assert pace.interval_ns == USUAL
    ran(pace, 402, 500)
    assert not pace.runs_on
    ran(pace, 501, 540)
    assert pace.runs_on


def test_waits_that_come_again_are_met() -> None:
    """Code runs on once it ran for twice as long as before a wait that no look met."""
    pace = Pace(USUAL)
    ran(pace, 0, 1_000)
    pace.note_run(1_001 * MS, 10_000, missed_ns=5 * MS)
    ran(pace, 1_002, 1_300)
    assert pace.runs_on, "Waits as seldom as that may go unseen."
    pace.note_run(1_301 * MS, 10_000, missed_ns=5 * MS)
    ran(pace, 1_302, 1_700)
    assert not pace.runs_on
    ran(pace, 1_701, 1_950)
    assert pace.runs_on


def test_what_may_be_a_wait_is_looked_at_soon() -> None:
    """The look after it comes while it lasts; the ones then as before."""
    pace = Pace(USUAL)
    before = ran(pace, 0, 200)[-1]
    pace.note_run(201 * MS, 10_000, missed_ns=0, may_wait=True)
    assert pace.interval_ns == USUAL // 3
    assert ran(pace, 202, 202)[0] >= before


def test_looks_that_cost_much_are_further_apart() -> None:
    """Near a wait as well: dear looks are not made three times as often as cheap ones."""
    cheap, dear = Pace(USUAL), Pace(USUAL)
    for pace, cost_ns in ((cheap, 10_000), (dear, 130_000)):
        ran(pace, 0, 400, cost_ns)
        pace.note_wait(401 * MS, others_run=False, is_over=False)
        ran(pace, 402, 402, cost_ns)
    assert cheap.interval_ns == USUAL // 3
    assert dear.interval_ns > cheap.interval_ns


def test_a_long_wait_is_looked_at_less_unless_others_run() -> None:
    """Who waits for another process leaves it the processor."""
    quiet, busy = Pace(USUAL), Pace(USUAL)
    for now_ms in range(0, 300, 3):
        quiet.note_wait(now_ms * MS, others_run=False, is_over=False)
        busy.note_wait(now_ms * MS, others_run=True, is_over=False)
    assert quiet.interval_ns == LONGEST_NS
    assert busy.interval_ns < USUAL


def test_what_is_about_to_run_is_looked_at_from_its_beginning() -> None:
    """Where the wait is over the next look comes soon, the ones after it less and less so."""
    pace = Pace(USUAL)
    pace.note_wait(100 * MS, others_run=False, is_over=False)
    waiting = pace.interval_ns
    pace.note_wait(101 * MS, others_run=False, is_over=True)
    first = pace.interval_ns
    assert first < waiting / 4
    assert ran(pace, 102, 105) == [2 * first, 4 * first, USUAL // 3, USUAL // 3]
