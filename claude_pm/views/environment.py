"""What a profile's meta record says of where and how it was recorded, in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from claude_pm.profiles.experiment import KEY as EXPERIMENT
from claude_pm.views import words

_NAMES = {
    "created_at": "Created",
    "duration_s": "Duration",
    "model_use": "Model",
    EXPERIMENT: "Experiment",
    "cpu": "CPU recording",
    "memory": "Memory recording",
    "repeats": "Repeats",
    "overhead": "Cost of recording",
    "python": "Python",
    "platform": "Platform",
    "cpu_count": "CPUs",
    "git_commit": "Git commit",
    "git_dirty": "Git working copy",
    "packages": "Packages",
    "settings": "Settings",
    "lines": "Lines",
    "id": "Profile",
    "pid": "Process",
    "schema_version": "Schema version",
}
_MEANINGS = {
    ("model_use", "live"): "live: called while this was recorded",
    ("model_use", "replayed"): "replayed: its answers came from a recording",
    ("model_use", "not called"): "not called: no model stands behind these figures",
    ("cpu", "cprofile"): "cProfile on (it slows Python code down)",
    ("cpu", "sample"): "sampled",
    ("cpu", None): "off",
    ("memory", "rss"): "resident memory, read at intervals",
    ("memory", "trace"): "allocations traced (it makes code several times slower)",
    ("memory", "memray"): "allocations tracked by memray (it makes code slower)",
    ("memory", None): "off",
    ("git_dirty", True): "with changes that were not committed",
    ("git_dirty", False): "as committed",
    ("repeats", None): "none",
}
# Shown elsewhere in the report.
_ELSEWHERE = ("name", "source")
_COMMIT_DIGITS = 10
_COSTS = ("own_cpu_s", "own_s", "held_up_s")
_MORE_LIMIT = 300


def environment(meta: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """Return every meta item by its name in prose, or by its own if it is of a later version."""
    known = [(_NAMES[key], key) for key in _NAMES if key in meta]
    unknown = [(key, key) for key in meta if key not in _NAMES and key not in _ELSEWHERE]
    return [(name, _lines(key, meta[key])) for name, key in known + unknown]


def provenance(meta: Mapping[str, Any]) -> str:
    """Return on a line when, where and with what it was recorded."""
    packages = meta.get("packages")
    version = packages.get("claude-pm") if isinstance(packages, Mapping) else None
    facts = [
        f"recorded {_time(meta['created_at'])}" if meta.get("created_at") else None,
        f"model {meta['model_use']}" if meta.get("model_use") else None,
        words.counted(meta["cpu_count"], "CPU") if meta.get("cpu_count") else None,
        meta.get("platform"),
        f"Python {meta['python']}" if meta.get("python") else None,
        f"claude-pm {version}" if version else None,
        _commit(meta),
    ]
    said = ", ".join(words.one_line(str(fact), _MORE_LIMIT) for fact in facts if fact)
    return f"{said[:1].upper()}{said[1:]}."


def reproduction(meta: Mapping[str, Any]) -> list[str]:
    """Say what else it takes to record it again."""
    said = []
    if meta.get("git_commit"):
        lost = "; those changes are not in this file" if meta.get("git_dirty") else ""
        said.append(f"Code: {words.one_line(_commit(meta) or '')}{lost}.")
    said.append(
        "Packages and settings: those above. Each setting is an environment variable, such as "
        "CLAUDE_PM_MAX_TOKENS for max_tokens."
    )
    plan = meta.get(EXPERIMENT)
    if isinstance(plan, Mapping):
        said.append(
            f"Order of the conditions: the seed {_plain(plan.get('seed'))}, with the same repeats "
            "and warm-ups, draws it again."
        )
    return said


def _commit(meta: Mapping[str, Any]) -> str | None:
    if not meta.get("git_commit"):
        return None
    changed = " with changes that were not committed" if meta.get("git_dirty") else ""
    return f"git commit {str(meta['git_commit'])[:_COMMIT_DIGITS]}{changed}"


def _lines(key: str, value: Any) -> list[str]:
    if key == EXPERIMENT and isinstance(value, Mapping):
        return list(_experiment(value))
    if key == "overhead" and isinstance(value, Mapping):
        return list(_overhead(value)) or ["not measured"]
    if isinstance(value, Mapping):
        between = " " if key == "packages" else " = "
        return [
            f"{name}{between}{'not set' if part is None else _plain(part)}"
            for name, part in value.items()
        ]
    if key == "created_at":
        return [_time(value)]
    if key == "duration_s":
        return [words.duration(value)]
    return [_MEANINGS.get((key, value)) or _plain(value)] if _is_plain(value) else [_plain(value)]


def _experiment(plan: Mapping[str, Any]) -> Iterable[str]:
    """Say what was measured in turns, how often, and how the order can be had again."""
    yield f"conditions in turns: {_plain(plan.get('conditions'))}"
    yield f"samples of each: {_plain(plan.get('repeat'))}"
    yield f"warm-ups of each, not counted: {_plain(plan.get('warmup'))}"
    yield f"order drawn anew for each round, seed {_plain(plan.get('seed'))}"
    yield "complete" if plan.get("complete") else "stopped before its end"


def _overhead(found: Mapping[str, Any]) -> Iterable[str]:
    """Say what each way of observing did and took, in this process and in its workers."""
    for name, facts in found.items():
        if isinstance(facts, Mapping):
            said = ", ".join(_fact(key, value) for key, value in facts.items())
            yield f"{name}: {said}"
    workers = found.get("workers")
    if not workers or not isinstance(workers, Sequence):
        return
    totals: dict[tuple[str, str], float] = {}
    for worker in workers:
        for name, facts in worker.items():
            for key in _COSTS:
                if isinstance(facts, Mapping) and facts.get(key) is not None:
                    totals[name, key] = totals.get((name, key), 0.0) + facts[key]
    said = ", ".join(f"{name} {_fact(key, total)}" for (name, key), total in totals.items())
    yield f"{words.counted(len(workers), 'worker')}: {said or 'not measured'}"


def _fact(key: str, value: Any) -> str:
    name = key.removesuffix("_s").replace("_", " ").replace("cpu", "CPU")
    is_time = key.endswith("_s") and isinstance(value, int | float)
    return f"{name} {words.duration(value) if is_time else _plain(value)}"


def _time(value: Any) -> str:
    return datetime.fromisoformat(value).astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float)


def _plain(value: Any) -> str:
    if value is None:
        return "not known"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return "; ".join(map(_plain, value)) or "none"
    return str(value)
