"""What a profile says in sentences: plain text, cleaned but not yet escaped for HTML."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from claude_pm.analysis.compare_modes import BASELINE, FAILURES
from claude_pm.analysis.phases import OTHER
from claude_pm.analysis.requests import REQUEST, attributes
from claude_pm.analysis.rows import Row
from claude_pm.views import words
from claude_pm.views.own_code import own_python_s, running_s

if TYPE_CHECKING:
    from claude_pm.views.reading import Reading

_MAX_ERRORS = 5
_ERROR_LIMIT = 300
_SAME_FROM, _SAME_TO = 0.95, 1.05
_WORTH_SAYING = 0.01


def headline(reading: Reading) -> str:
    """Say in a sentence what was answered, in what time, and where the time went."""
    return _requests_headline(reading) if reading.requests else _code_headline(reading)


# Who says in ``meta["overhead"]`` what it has lost.
_LOSERS = {"cprofile": "cProfile", "allocations": "tracemalloc"}


def notes(reading: Reading) -> list[str]:
    """Return the sentences that belong under the headline."""
    found = []
    models = {span["model"] or "" for span in reading.spans if span["name"] == "chat"}
    if any(model.startswith(words.SMALL_MODEL) for model in models):
        found.append(words.SMALL_MODEL_SENTENCE)
    fallbacks = sum(
        bool(attributes(span).get("fallback")) for span in reading.spans if span["name"] == REQUEST
    )
    if fallbacks:
        verb = "was" if fallbacks == 1 else "were"
        found.append(
            f"{words.counted(fallbacks, 'request')} {verb} served in another mode than asked "
            "(fallback)."
        )
    overhead = reading.meta.get("overhead") or {}
    for key, recorder in _LOSERS.items():
        lost = (overhead.get(key) or {}).get("lost")
        if lost:
            found.append(f"{recorder} lost {words.one_line(str(lost))}")
    return found


def mode_sentences(reading: Reading) -> list[str]:
    """Say each mode's ratio to LOCAL in words."""
    local = next((mode for mode in reading.modes if mode["mode"] == BASELINE), None)
    return [
        _ratio_in_words(mode, local)
        for mode in reading.modes
        if local is not None and mode is not local and mode["ratio"] is not None
    ]


def errors(reading: Reading) -> list[str]:
    """Return the failures, a line for each kind: of requests, and of other spans where they began.

    Not named are spans that only passed on a failure from within, parts of a request that failed,
    and attempts after which the request was answered all the same.
    """
    spans = reading.spans
    owners = dict(zip((span["span_id"] for span in spans), reading.owners, strict=True))
    failed = {span["span_id"]: span for span in spans if span["status"] in FAILURES}
    passed_on = {span["parent_id"] for span in failed.values()}
    named = [
        span
        for span_id, span in failed.items()
        if span["name"] == REQUEST
        or (
            span_id not in passed_on
            and owners[span_id] not in failed
            and not (owners[span_id] and span["name"] == "chat")
        )
    ]
    said = Counter(_error_line(span) for span in named)
    shown = list(said.items())[:_MAX_ERRORS]
    lines = [line if times == 1 else f"{line} ({times:,} times)" for line, times in shown]
    more = len(named) - sum(times for _, times in shown)
    if more:
        lines.append(f"and {words.counted(more, 'more failure', 'more failures')}")
    return lines


def peak_memory(reading: Reading) -> str:
    """Say the largest resident memory of this process and of its workers, if recorded."""
    memory = reading.profile.memory
    peaks = memory.dropna(subset=["rss_bytes"]).groupby("role")["rss_bytes"].max()
    if peaks.empty:
        return ""
    said = ", ".join(
        f"{words.megabytes(int(size))} ({words.one_line(str(role))})"
        for role, size in peaks.items()
    )
    return f"Peak resident memory: {said}."


def sampling(reading: Reading) -> str:
    """Say what the samples count, how often there was a look, and what looking cost."""
    sampler = (reading.meta.get("overhead") or {}).get("sampler") or {}
    said = (
        "Wall time: each thread and each task counts, and awaited time belongs to the coroutine "
        "that waits."
    )
    if not sampler.get("ticks"):
        return said
    spent = reading.meta.get("duration_s")
    share = f", {100 * sampler['held_up_s'] / spent:.1f} % of the time" if spent else ""
    missed = f", {sampler['missed_ticks']:,} missed" if sampler.get("missed_ticks") else ""
    return (
        f"{said} {words.counted(sampler['ticks'], 'look')}, one in "
        f"{words.duration(sampler['interval_s'])}{missed}; they held running code up for "
        f"{words.duration(sampler['held_up_s'])}{share}."
    )


def allocations(reading: Reading) -> str:
    """Say what the allocations count."""
    repeats = reading.meta.get("repeats")
    if repeats:
        return (
            f"What repeats 2 to {repeats:,} kept: the growth since the first one ended, of the "
            "lines that grew in most of them."
        )
    if reading.meta.get("memory") == "memray":
        return "Held when there was most of it, as memray saw it; durations are of tracked code."
    return "Allocated while this was recorded and held at its end; durations are of traced code."


def _requests_headline(reading: Reading) -> str:
    requests, meta = reading.requests, reading.meta
    statuses = Counter(request["status"] for request in requests)
    answered = statuses.pop("ok", 0)
    text = "Answered "
    text += f"{answered:,} of " if answered < len(requests) else ""
    text += words.counted(len(requests), "request")
    besides = [_outcome_count(*outcome) for outcome in statuses.items()]
    warmups = sum(request["warmup"] for request in requests)
    if warmups:
        besides.insert(0, words.counted(warmups, "warm-up"))
    text += f" ({', '.join(besides)})" if besides else ""
    if meta.get("duration_s") is not None:
        text += f" in {words.duration(meta['duration_s'])}"
    shares = _shares_in_words(reading)
    said = [f"{text}: {shares}" if shares else text, *_python_share(reading)]
    cached = [request for request in requests if request["cache_state"] in {"cold", "warm"}]
    if cached:
        warm = sum(request["cache_state"] == "warm" for request in cached)
        said.append(f"cache warm {warm:,} of {len(cached):,}")
    said += _cost(reading)
    if meta.get("model_use"):
        said.append(f"model {words.one_line(str(meta['model_use']))}")
    return f"{'; '.join(said)}."


def _outcome_count(status: str | None, number: int) -> str:
    if status is None:
        return f"{number:,} unfinished"
    return f"{number:,} cancelled" if status == "cancelled" else words.counted(number, status)


def _shares_in_words(reading: Reading) -> str:
    """Say the shares of a percent and more; what is smaller goes with 'other'."""
    shares = {phase["phase"]: phase["share"] for phase in reading.phases}
    if None in shares.values():
        return ""
    shown = {
        phase: share for phase, share in shares.items() if share >= _WORTH_SAYING and phase != OTHER
    }
    shown[OTHER] = max(0.0, 1.0 - sum(shown.values()))
    percents = words.percents(list(shown.values()))
    return ", ".join(
        f"{percent} % {words.PHASES[phase]}"
        for phase, percent in zip(shown, percents, strict=True)
        if percent
    )


def _code_headline(reading: Reading) -> str:
    spans, functions = reading.spans, reading.profile.functions
    said = []
    if spans:
        calls = sum(span["name"] == "chat" for span in spans)
        of_model = f", {words.counted(calls, 'model call')}" if calls else ""
        said.append(f"{words.counted(len(spans), 'span')}{of_model}")
    shares = _python_share(reading) + _waiting_share(reading)
    if shares:
        said.append(", ".join(shares))
    if len(functions):
        top = functions.sort_values("total_s", ascending=False).iloc[0]
        name = words.one_line(str(top["function"]), 80)
        said.append(f"top function {name} {words.duration(float(top['total_s']))} of own time")
    if reading.places:
        place = reading.places[0]
        name = words.one_line(place["place"].split(" (")[0], 80)
        spent_s = [place["running_s"], place["waiting_s"]]
        said.append(
            f"most time in {name}: {words.duration(spent_s[0])} running and "
            f"{words.duration(spent_s[1])} waiting"
        )
    said += _held(reading) + _seen_lines(reading) + _cost(reading)
    spent = reading.meta.get("duration_s")
    nothing = "nothing but memory" if len(reading.profile.memory) else "nothing but the time"
    recorded = "; ".join(said) or f"{nothing} was recorded"
    return f"{recorded}." if spent is None else f"{words.duration(spent)}: {recorded}."


def _held(reading: Reading) -> list[str]:
    """Say what memory was found held, or kept by each repeat, where that was recorded."""
    table = reading.profile.allocations
    if not len(table):
        return []
    verb = "kept" if reading.meta.get("repeats") else "held"
    lines = words.counted(len(table), "line")
    return [f"{words.size(int(table['size_bytes'].sum()))} {verb} by {lines}"]


def _seen_lines(reading: Reading) -> list[str]:
    """Say of how many lines CPU and memory are known, where that was recorded."""
    found = len(reading.profile.lines)
    return [f"CPU and memory of {words.counted(found, 'line')}"] if found else []


def _python_share(reading: Reading) -> list[str]:
    """Say for how much of the time the user's own Python ran, where that was seen."""
    spent = reading.meta.get("duration_s")
    own = own_python_s(reading.profile)
    if own is None or not spent:
        return []
    if own > spent:
        return [f"your Python {words.duration(own)}, in several threads"]
    return [f"your Python {words.shares([own / spent])[0]} of the time"]


def _waiting_share(reading: Reading) -> list[str]:
    """Say for how much of the time nothing ran, where that was sampled."""
    spent, ran = reading.meta.get("duration_s"), running_s(reading.profile)
    if ran is None or not spent or ran > spent:
        return []
    return [f"{words.shares([1 - ran / spent])[0]} waiting"]


def _cost(reading: Reading) -> list[str]:
    """Say what it cost, and of how many calls that is where not all have a known price."""
    costs = [span["cost_usd"] for span in reading.spans if span["cost_usd"] is not None]
    if not sum(costs):
        return []
    calls = sum(
        span["output_tokens"] is not None or span["cost_usd"] is not None for span in reading.spans
    )
    known = f" for {len(costs):,} of {calls:,} calls" if len(costs) < calls else ""
    return [f"{words.usd(sum(costs))}{known}"]


def _ratio_in_words(mode: Row, local: Row) -> str:
    name, ratio = words.mode_label(mode["mode"]), mode["ratio"]
    medians = (
        f"median {words.duration(mode['median_s'])} against {words.duration(local['median_s'])}"
    )
    if _SAME_FROM <= ratio <= _SAME_TO:
        return f"{name} took about as long as LOCAL ({medians})."
    if ratio > 1:
        return f"{name} took {words.times(ratio)[:-1]} times as long as LOCAL ({medians})."
    return f"{name} was {words.times(1 / ratio)[:-1]} times as fast as LOCAL ({medians})."


def _error_line(span: Row) -> str:
    who = span["agent"] if span["name"] == REQUEST else span["name"]
    mode = f" ({words.mode_label(span['mode'])})" if span["mode"] else ""
    said = f": {span['error']}" if span["error"] else ""
    return words.one_line(f"{who or 'request'}{mode}, {span['status']}{said}", _ERROR_LIMIT)
