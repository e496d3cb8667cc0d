"""What a SUBPROCESS worker is told.

Apart from ``worker.py``, which is run as a program and therefore may not be imported before.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class WorkerRequest:
    """What a worker is told. ``settings`` hold the key: they go through a pipe, to nobody else.

    ``agents`` is the folder of the agents' files; ``context`` the folder that the agents are told
    of (None is the working folder) and the token budget for it. ``recording`` is None, or what the
    parent records: ``cpu``, ``memory`` and ``traceparent``.
    """

    agent: str
    request: str
    max_tokens: int | None
    agents: str
    context: tuple[str | None, int]
    settings: dict[str, Any]
    recording: dict[str, str | None] | None

    def to_json(self) -> str:
        """Return one line of JSON."""
        return json.dumps(asdict(self))
