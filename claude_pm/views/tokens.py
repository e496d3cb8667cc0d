"""The tokens and the cost of each agent, added up over every call of a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from claude_pm.analysis.rows import Row
from claude_pm.views import words

if TYPE_CHECKING:
    from claude_pm.views.reading import Reading

_MAX_AGENTS = 20


@dataclass(slots=True)
class AgentTokens:
    """What an agent's calls add up to; ``cost_usd`` is None where no call's price is known."""

    name: str
    calls: int = 0
    from_cache: int = 0
    not_from_cache: int = 0
    unknown_input: int = 0
    """Input of calls that do not say how much of it came from the cache."""
    output: int = 0
    cost_usd: float | None = None

    @property
    def total(self) -> int:
        """All its tokens."""
        return self.from_cache + self.not_from_cache + self.unknown_input + self.output

    def add(self, span: Row) -> None:
        """Add a call of a model."""
        taken, read = span["input_tokens"] or 0, span["cache_read_tokens"]
        self.calls += 1
        if read is None:
            self.unknown_input += taken
        else:
            self.from_cache += min(read, taken)
            self.not_from_cache += max(taken - read, 0)
        self.output += span["output_tokens"] or 0
        if span["cost_usd"] is not None:
            self.cost_usd = (self.cost_usd or 0.0) + span["cost_usd"]


def tokens_by_agent(reading: Reading) -> list[AgentTokens]:
    """Return the agents that used tokens, the most first; of very many, the last row is the rest.

    A call counts for its own agent, or else for that of the nearest span around it.
    """
    by_id = {span["span_id"]: span for span in reading.spans}
    found: dict[str | None, AgentTokens] = {}
    calls = [
        span
        for span in reading.spans
        if span["input_tokens"] is not None or span["output_tokens"] is not None
    ]
    for span in calls:
        agent = _agent(span, by_id)
        found.setdefault(agent, AgentTokens("no agent" if agent is None else agent)).add(span)
    names = sorted(found, key=lambda name: found[name].total, reverse=True)
    if len(names) > _MAX_AGENTS:
        shown = set(names[: _MAX_AGENTS - 1])
        rest = AgentTokens(words.counted(len(names) - len(shown), "more agent", "more agents"))
        for span in calls:
            if _agent(span, by_id) not in shown:
                rest.add(span)
        return [*(found[name] for name in names[: _MAX_AGENTS - 1]), rest]
    return [found[name] for name in names]


def _agent(span: Row, by_id: Mapping[str, Row]) -> str | None:
    seen: set[str] = set()  # a damaged table may have a circle of parents
    above: Row | None = span
    while above is not None and above["span_id"] not in seen:
        if above["agent"] is not None:
            return str(above["agent"])
        seen.add(above["span_id"])
        above = by_id.get(above["parent_id"] or "")
    return None
