"""Charts of a profile. Each shows every sample, names its units, and says what is seen.

``plot_*`` draw on the Axes they are given, or on a new pyplot figure, and return the Axes.
``draw_*`` do the drawing alone, for figures outside pyplot: they return the height in inches that
suits what they drew, or None where there was nothing to draw and a sentence stands instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from claude_pm.analysis.compare_samples import median_interval
from claude_pm.analysis.hit_rate import RECENT, hit_rate
from claude_pm.analysis.rows import rows
from claude_pm.analysis.samples import METRICS
from claude_pm.errors import ProfileError
from claude_pm.profiles.experiment import Experiment
from claude_pm.views import palette, words
from claude_pm.views.axes import (
    FRAME_IN,
    LEGEND_IN,
    box_key,
    dot_key,
    dress,
    label,
    legend,
    model_note,
    quantile,
    rows_axis,
    samples_axis,
    say,
    strip,
    time_axis,
    title,
)
from claude_pm.views.comparison import VERDICTS
from claude_pm.views.comparison import value as value_text
from claude_pm.views.reading import Reading
from claude_pm.views.timeline import draw_timeline
from claude_pm.views.tokens import AgentTokens, tokens_by_agent

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from claude_pm.profiles import Profile

Metric = Literal["duration_s", "ttft_s"]
_METRICS = {"duration_s": "request duration", "ttft_s": "time to first text"}

WIDTH_IN = 8.6
_TOKENS = {
    "from_cache": ("input from the cache", palette.CACHE_STATES["warm"], "black"),
    "not_from_cache": ("other input", palette.CACHE_STATES["cold"], "white"),
    "unknown_input": ("input, cache not known", palette.LIGHT_GREY, "black"),
    "output": ("output", palette.PHASES["decode"], "black"),
}
"""Words, colour and the colour of text on it."""
_CHARACTERS_ACROSS = 100
_STATE_OFFSETS = {2: {"cold": -0.2, "warm": 0.2}, 3: {"cold": -0.27, "warm": 0.0, "off": 0.27}}
"""Of two kinds of dots in a row, and of three."""
_STATE_HEIGHTS = {2: 0.16, 3: 0.11}


def plot_modes(profile: Profile, *, metric: Metric = "duration_s", ax: Axes | None = None) -> Axes:
    """Draw each mode's requests: every one a dot, with the median and the middle half.

    Warm-ups and failures are not drawn; the tick labels count what is. The axis is logarithmic
    where the slowest took more than 20 times as long as the fastest.

    Raises:
        ProfileError: ``metric`` is neither ``duration_s`` nor ``ttft_s``.
    """
    return _plot(ax, lambda axes: draw_modes(Reading(profile), axes, metric))


def plot_conditions(
    experiment: Experiment, metric: str = "duration_s", *, ax: Axes | None = None
) -> Axes:
    """Draw each condition's samples: every one a dot, the median, and its 95 % interval.

    Warm-ups and failures are not drawn.

    Raises:
        ProfileError: a sample has no such metric.
    """
    return _plot(ax, lambda axes: draw_conditions(Reading(experiment.profile), axes, metric))


def plot_cache(profile: Profile | Experiment, *, ax: Axes | None = None) -> Axes:
    """Draw the time to first text of each agent's requests, cold against warm, warm-ups too.

    Those that a cache trial asked with the cache off are a third kind.
    """
    return _plot(ax, lambda axes: draw_cache(Reading(_profile(profile)), axes))


def plot_hit_rate(
    profile: Profile | Experiment, *, recent: int = RECENT, ax: Axes | None = None
) -> Axes:
    """Draw each request's share of input from the cache, and the hit rate over time.

    ``recent`` requests are what the second curve looks back on.

    Raises:
        ProfileError: ``recent`` is below 1.
    """
    return _plot(ax, lambda axes: draw_hit_rate(Reading(_profile(profile)), axes, recent))


def plot_timeline(profile: Profile, *, ax: Axes | None = None) -> Axes:
    """Draw the spans on a time axis, a lane an agent and process.

    A request is a bar split by phase; spans of one's own are grey bars. What overlaps within a
    lane is stacked. Failures are hatched and labelled. Of more than 2,000 bars, the failures and
    the longest are drawn, and a sentence says so.
    """
    return _plot(ax, lambda axes: draw_timeline(Reading(profile), axes))


def plot_memory(profile: Profile, *, ax: Axes | None = None) -> Axes:
    """Draw the resident memory of each process over time, in MB (a million bytes)."""
    return _plot(ax, lambda axes: draw_memory(Reading(profile), axes))


def plot_tokens(profile: Profile | Experiment, *, ax: Axes | None = None) -> Axes:
    """Draw each agent's tokens: input from the cache, other input, and output, one upon the other.

    All attempts count, those of warm-ups and failures too. What an agent cost at list price stands
    beside its bar, where prices are known.
    """
    return _plot(ax, lambda axes: draw_tokens(Reading(_profile(profile)), axes))


def draw_modes(reading: Reading, ax: Axes, metric: Metric) -> float | None:
    """Draw what :func:`plot_modes` shows."""
    if metric not in _METRICS:
        raise ProfileError(
            f"A chart of modes can show {' or '.join(map(repr, _METRICS))}, not {metric!r}."
        )
    samples: dict[str, list[float]] = {mode["mode"]: [] for mode in reading.modes}
    for request in reading.requests:
        is_compared = request["status"] == "ok" and not request["warmup"]
        if is_compared and request[metric] is not None and request["mode"] is not None:
            samples[request["mode"]].append(request[metric])
    samples = {mode: seconds for mode, seconds in samples.items() if seconds}
    what = _METRICS[metric]
    if not samples:
        say(ax, f"No {what} to show: no answered request besides warm-ups has one.")
        return None
    for row, (mode, seconds) in enumerate(samples.items()):
        strip(ax, row, seconds, palette.MODES.get(mode, palette.UNKNOWN_MODE))
    rows_axis(
        ax,
        [f"{label(mode).upper()}\nn = {len(seconds):,}" for mode, seconds in samples.items()],
    )
    dress(ax)
    samples_axis(ax, [second for seconds in samples.values() for second in seconds], what)
    medians = {mode: quantile(seconds, 0.5) for mode, seconds in samples.items()}
    failures = sum(mode["failures"] for mode in reading.modes)
    left_out = f"; {words.counted(failures, 'failure')} left out" if failures else ""
    title(
        ax,
        _modes_seen(medians, metric),
        f"Median {what}; a dot is a request, the box the middle half{left_out}"
        f"{model_note(reading.meta)}",
    )
    return FRAME_IN + 0.75 * len(samples)


def draw_conditions(reading: Reading, ax: Axes, metric: str) -> float | None:
    """Draw what :func:`plot_conditions` shows."""
    known = {found.name: found for found in METRICS}
    if metric not in known:
        raise ProfileError(f"A sample has no metric {metric!r}; it has {', '.join(known)}.")
    what, unit = known[metric].words, 1e6 if metric.endswith("_bytes") else 1.0
    counted = [
        row
        for row in (rows(reading.experiment.samples) if reading.experiment is not None else [])
        if row["status"] == "ok" and not row["warmup"] and row[metric] is not None
    ]
    if reading.experiment is None or not counted:
        say(ax, f"No {what} to show: no sample has one.")
        return None
    samples = {
        name: [row[metric] / unit for row in counted if row["condition"] == name]
        for name in reading.experiment.conditions
    }
    samples = {name: values for name, values in samples.items() if values}
    is_mode = all(name in palette.MODES for name in samples)
    for row, (name, values) in enumerate(samples.items()):
        colour = palette.MODES[name] if is_mode else palette.LINES[row % len(palette.LINES)]
        strip(ax, row, values, colour)
        interval = median_interval(values)
        if interval is not None:
            ax.plot(interval, [row + 0.36] * 2, color=colour, linewidth=2.2, marker="|", zorder=3)
    rows_axis(
        ax,
        [f"{label(name)}\nn = {len(values):,}" for name, values in samples.items()],
    )
    dress(ax)
    is_time = metric.endswith("_s") and not metric.endswith("_per_s")
    shown = f"{what} (MB)" if unit > 1 else f"{what} ($)" if metric.endswith("_usd") else what
    samples_axis(
        ax, [value for values in samples.values() for value in values], shown, is_time=is_time
    )
    verdicts = [
        f"{label(row.compared)} {value_text(metric, row.verdict.median_b)}: "
        f"{VERDICTS.get(row.word, row.word)}"
        for row in (reading.comparison.rows if reading.comparison is not None else ())
        if row.metric.name == metric
    ]
    base, values = next(iter(samples.items()))
    title(
        ax,
        "; ".join([f"{label(base)} {value_text(metric, quantile(values, 0.5) * unit)}", *verdicts]),
        f"Median {what}; a dot is a sample, the box the middle half, the line below it the "
        f"median's 95 % interval{model_note(reading.meta)}",
    )
    return FRAME_IN + 0.85 * len(samples)


def draw_cache(reading: Reading, ax: Axes) -> float | None:
    """Draw what :func:`plot_cache` shows."""
    samples = [
        request
        for request in reading.requests
        if request["status"] == "ok"
        and request["cache_state"] is not None
        and request["ttft_s"] is not None
    ]
    if not samples:
        say(
            ax,
            "No cold or warm answers to show: no answered request says how much of its input came "
            "from the cache.",
        )
        return None
    agents = list(dict.fromkeys(sample["agent"] for sample in samples))
    modes = list(dict.fromkeys(sample["mode"] for sample in samples))
    markers = {mode: "osD^"[number % 4] for number, mode in enumerate(modes)}
    is_off = any(sample["cache_state"] == "off" for sample in samples)
    states = [state for state in palette.CACHE_STATES if is_off or state != "off"]
    offsets, half_height = _STATE_OFFSETS[len(states)], _STATE_HEIGHTS[len(states)]
    drawn: dict[tuple[str | None, str, str | None], list[float]] = {}
    for sample in samples:
        kind = (sample["agent"], sample["cache_state"], sample["mode"])
        drawn.setdefault(kind, []).append(sample["ttft_s"])
    for (agent, state, mode), seconds in drawn.items():
        strip(
            ax, agents.index(agent) + offsets[state], seconds, palette.CACHE_STATES[state],
            half_height=half_height, marker=markers[mode],
        )  # fmt: skip
    counts = {
        (agent, state): sum(
            (sample["agent"], sample["cache_state"]) == (agent, state) for sample in samples
        )
        for agent in agents
        for state in states
    }
    rows_axis(
        ax,
        [
            f"{label(agent)}\n" + ", ".join(f"{state} {counts[agent, state]}" for state in states)
            for agent in agents
        ],
    )
    dress(ax)
    what = _METRICS["ttft_s"]
    samples_axis(ax, [sample["ttft_s"] for sample in samples], what)
    title(
        ax,
        _cache_seen(drawn),
        f"Median {what}; a dot is a request; warm: at least half of its input came from the cache"
        f"{model_note(reading.meta)}",
    )
    keys = [dot_key(state, palette.CACHE_STATES[state]) for state in states]
    if len(modes) > 1:
        keys += [
            dot_key(label(mode).upper(), palette.DARK_GREY, marker)
            for mode, marker in markers.items()
        ]
    legend(ax, keys)
    return FRAME_IN + LEGEND_IN + 0.8 * len(agents)


def draw_hit_rate(reading: Reading, ax: Axes, recent: int) -> float | None:
    """Draw what :func:`plot_hit_rate` shows."""
    requests = rows(hit_rate(reading.profile, recent=recent))
    if not requests:
        say(
            ax,
            "No hit rate to show: no answered request says how much of its input came from the "
            "cache.",
        )
        return None
    for state, colour in palette.CACHE_STATES.items():
        found = [request for request in requests if request["cache_state"] == state]
        ax.scatter(
            [request["start_s"] for request in found],
            [100 * (request["read_share"] or 0.0) for request in found],
            s=22, color=colour, alpha=0.85, edgecolors="white", linewidths=0.6, zorder=3,
        )  # fmt: skip
    times = [request["start_s"] for request in requests]
    last_ones = f"of the last {recent:,}"
    for name, text, colour in (
        ("hit_rate", "hit rate until then", palette.ORANGE),
        ("recent_hit_rate", f"hit rate {last_ones}", palette.GREEN),
    ):
        ax.step(
            times, [100 * request[name] for request in requests], where="post", label=text,
            color=colour, linewidth=1.6, zorder=2, marker="|" if len(times) == 1 else None,
        )  # fmt: skip
    longest = max(reading.meta.get("duration_s") or 0.0, times[-1])
    ax.set_xlim(0, longest * 1.01 or 1.0)
    ax.set_ylim(-4, 104)
    ax.set_ylabel("from the cache (%)", fontsize=9)
    dress(ax, grid_axis="y")
    time_axis(ax, longest, "start of the request, since the profile began")
    hits = sum(request["hit"] for request in requests)
    last = requests[-1]
    end = f", {100 * last['recent_hit_rate']:.0f} % {last_ones}" if len(requests) > recent else ""
    title(
        ax,
        f"{hits:,} of {words.counted(len(requests), 'request')} hit: "
        f"{100 * last['hit_rate']:.0f} %{end}",
        "A dot is a request, as high as the share of its input from the cache; a hit: at least half"
        f"{model_note(reading.meta)}",
    )
    keys = [
        dot_key("hit", palette.CACHE_STATES["warm"]),
        dot_key("miss", palette.CACHE_STATES["cold"]),
    ]
    legend(ax, [*keys, *ax.get_legend_handles_labels()[0]])
    return 3.4


def draw_tokens(reading: Reading, ax: Axes) -> float | None:
    """Draw what :func:`plot_tokens` shows."""
    found = tokens_by_agent(reading)
    if not found:
        say(ax, "No tokens to show: no call of a model says how many it took.")
        return None
    shown = _kinds(found)
    longest = max(agent.total for agent in found)
    for row, agent in enumerate(found):
        left = 0
        for kind in shown:
            number = getattr(agent, kind)
            colour, text_colour = _TOKENS[kind][1:]
            ax.barh(row, number, left=left, height=0.62, color=colour, zorder=2)
            text = f"{number:,}"
            if number * _CHARACTERS_ACROSS > longest * (len(text) + 1):
                ax.text(
                    left + number / 2, row, text, ha="center", va="center_baseline", fontsize=8,
                    color=text_colour, zorder=3,
                )  # fmt: skip
            left += number
        if agent.cost_usd is not None:
            ax.annotate(
                label(words.usd(agent.cost_usd)), (left, row), (5, 0), textcoords="offset points",
                va="center_baseline", fontsize=9,
            )  # fmt: skip
    rows_axis(ax, [f"{label(agent.name)}\n{words.counted(agent.calls, 'call')}" for agent in found])
    dress(ax)
    ax.set_xlim(0, longest * 1.14 or 1.0)
    ax.set_xlabel("tokens", fontsize=9)
    ax.xaxis.set_major_formatter(lambda number, _: f"{number:,.0f}")
    priced = any(agent.cost_usd is not None for agent in found)
    title(
        ax,
        _tokens_seen(found),
        f"All calls of the model, warm-ups and failures too{'; cost at list price' * priced}"
        f"{model_note(reading.meta)}",
    )
    legend(ax, [box_key(_TOKENS[kind][0], _TOKENS[kind][1]) for kind in shown])
    return FRAME_IN + LEGEND_IN + 0.55 * len(found)


def draw_memory(reading: Reading, ax: Axes) -> float | None:
    """Draw what :func:`plot_memory` shows."""
    memory = reading.profile.memory
    samples = rows(memory[memory["rss_bytes"].notna() & memory["t_s"].notna()])
    if not samples:
        say(ax, "No memory to show: it was not recorded.")
        return None
    curves: dict[str, list[tuple[float, float]]] = {}
    for sample in samples:
        name = f"{label(sample['role'])} {sample['pid']}"
        curves.setdefault(name, []).append((sample["t_s"], sample["rss_bytes"] / 1e6))
    peaks = {name: max(size for _, size in points) for name, points in curves.items()}
    by_peak = sorted(curves, key=lambda name: peaks[name], reverse=True)
    for number, name in enumerate(by_peak):
        is_named = number < len(palette.LINES)
        times, sizes = zip(*sorted(curves[name]), strict=True)
        ax.plot(
            times, sizes, label=name if is_named else None,
            color=palette.LINES[number] if is_named else palette.LIGHT_GREY,
            linewidth=1.6 if is_named else 0.8, marker="o" if len(times) == 1 else None,
            zorder=3 if is_named else 2,
        )  # fmt: skip
    longest = max(reading.meta.get("duration_s") or 0.0, *(sample["t_s"] for sample in samples))
    ax.set_xlim(0, longest * 1.01 or 1.0)
    ax.set_ylim(0, peaks[by_peak[0]] * 1.08 or 1.0)
    ax.set_ylabel("resident memory (MB)", fontsize=9)
    dress(ax, grid_axis="y")
    time_axis(ax, longest, "time since the profile began")
    unnamed = len(curves) - len(palette.LINES)
    smaller = words.counted(unnamed, "smaller one", "smaller ones")
    title(
        ax,
        f"Memory peaked at {peaks[by_peak[0]]:,.0f} MB, in {by_peak[0]}",
        f"Resident set size of {words.counted(len(curves), 'process', 'processes')}"
        f"{f', {smaller} in grey' if unnamed > 0 else ''}",
    )
    if len(curves) > 1:
        legend(ax, ax.get_legend_handles_labels()[0])
    return 3.4


def _kinds(found: Sequence[AgentTokens]) -> list[str]:
    return [kind for kind in _TOKENS if any(getattr(agent, kind) for agent in found)]


def _tokens_seen(found: Sequence[AgentTokens]) -> str:
    """Say the sums, how much of the input came from the cache, and what it cost."""
    read = sum(agent.from_cache for agent in found)
    told = read + sum(agent.not_from_cache for agent in found)
    taken = told + sum(agent.unknown_input for agent in found)
    from_cache = f" ({100 * read / told:.0f} % from the cache)" if told else ""
    said = f"{taken:,} tokens in{from_cache}, {sum(agent.output for agent in found):,} out"
    costs = [agent.cost_usd for agent in found if agent.cost_usd is not None]
    return f"{said}; {label(words.usd(sum(costs)))}" if costs else said


def _profile(recorded: Profile | Experiment) -> Profile:
    return recorded.profile if isinstance(recorded, Experiment) else recorded


def _plot(ax: Axes | None, draw: Callable[[Axes], float | None]) -> Axes:
    if ax is not None:
        draw(ax)
        return ax
    from matplotlib import pyplot as plt

    figure, made = plt.subplots(layout="constrained")
    height = draw(made)
    figure.set_size_inches(WIDTH_IN, height or FRAME_IN)
    return made


def _modes_seen(medians: Mapping[str, float], metric: Metric) -> str:
    """Say the medians, and how many times as long the slowest took as the fastest."""
    said = ", ".join(
        f"{label(mode).upper()} {words.duration(median)}" for mode, median in medians.items()
    )
    fastest, slowest = min(medians.values()), max(medians.values())
    if len(medians) > 1 and fastest:
        said += f": {words.times(slowest / fastest)}"
    return f"First text: {said}" if metric == "ttft_s" else said


def _cache_seen(drawn: Mapping[tuple[str | None, str, str | None], Sequence[float]]) -> str:
    """Say the medians, each mode apart: the start of a worker would drown the cache's effect."""
    by_mode: dict[str | None, dict[str, list[float]]] = {}
    for (_, state, mode), seconds in drawn.items():
        by_mode.setdefault(mode, {}).setdefault(state, []).extend(seconds)
    said = []
    for mode, samples in by_mode.items():
        medians = {
            state: quantile(samples[state], 0.5)
            for state in palette.CACHE_STATES
            if state in samples
        }
        parts = {state: f"{state} {words.duration(median)}" for state, median in medians.items()}
        if "cold" in medians and medians.get("warm"):
            parts["warm"] += f" ({words.times(medians['cold'] / medians['warm'])})"
        text = ", ".join(parts.values())
        said.append(f"{label(mode).upper()} {text}" if len(by_mode) > 1 else text)
    return f"First text: {'; '.join(said)}"
