"""What a SUBPROCESS worker is told: once what it needs to know, then one line a request.

The worker imports this before anything else, so it imports next to nothing itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from claude_pm.settings import Settings


class Secret:
    """A text that shows itself to nobody who does not ask for it."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def get_secret_value(self) -> str:
        """Return the text."""
        return self._value


class WorkerSettings:
    """The settings as the parent has checked them: each an attribute, as ``Settings`` has it.

    The class itself would take a worker longer to import than all the rest of its road. A worker
    reads no environment: what it may use, it is told.
    """

    def __init__(self, values: dict[str, Any], *, model_fields_set: Iterable[str] = ()) -> None:
        self.model_fields_set = frozenset(model_fields_set)
        self.memory_limit_mb: int | None = None
        vars(self).update(values)

    @classmethod
    def of(cls, settings: Settings) -> WorkerSettings:
        """Return the settings for the workers of this process."""
        return cls(dict(settings), model_fields_set=settings.model_fields_set)

    def to_json(self) -> str:
        """Return one line of JSON. It holds the key: it goes through a pipe, to nobody else."""
        values = {name: value for name, value in vars(self).items() if name != "model_fields_set"}
        told = {"values": values, "set": sorted(self.model_fields_set)}
        return json.dumps(told, default=_marked)

    @classmethod
    def from_json(cls, line: str) -> WorkerSettings:
        """Return the settings of a line of :meth:`to_json`."""
        told = json.loads(line, object_hook=_unmarked)
        return cls(told["values"], model_fields_set=told["set"])


def _marked(value: Any) -> dict[str, str]:
    if isinstance(value, Path):
        return {"path": str(value)}
    return {"secret": value.get_secret_value()}


def _unmarked(value: dict[str, Any]) -> Any:
    if value.keys() == {"path"}:
        return Path(value["path"])
    if value.keys() == {"secret"}:
        return Secret(value["secret"])
    return value


@dataclass(frozen=True, slots=True)
class WorkerRequest:
    """One request, ready to be asked but for the context, which only the model can measure.

    ``context`` is all there is to tell, of which the worker tells ``token_budget`` tokens.
    ``deadline_ns`` is a reading of ``time.perf_counter_ns``, which is one clock for all processes
    of a machine. ``recording`` is None, or what the parent records: ``cpu``, ``memory``,
    ``internals`` and ``traceparent``.
    """

    agent: str
    prompt: str
    context: str
    token_budget: int
    user: str
    max_tokens: int
    temperature: float | None
    deadline_ns: int | None
    recording: dict[str, Any] | None

    def to_json(self) -> str:
        """Return one line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> WorkerRequest:
        """Return the request of a line of :meth:`to_json`."""
        values: dict[str, Any] = json.loads(line)
        return cls(**values)
