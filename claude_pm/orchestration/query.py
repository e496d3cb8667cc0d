"""One request of a batch or a workflow, as a mapping says it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from claude_pm.errors import RequestError

OPTIONS = ("mode", "timeout", "isolated", "max_tokens", "attributes")
"""What a query may say beside its agent and request; see Orchestrator.orchestrate_agent."""


def check_query(query: Any, where: str, *, more_keys: Iterable[str] = ()) -> Mapping[str, Any]:
    """Return the query if it is a mapping with an agent, a request and only known options.

    Raises:
        RequestError: it is not; the message begins with ``where``.
    """
    if not isinstance(query, Mapping):
        raise RequestError(
            f"{where} is {type(query).__name__}; it has to be a mapping such as "
            "{'agent': ..., 'request': ...}."
        )
    for key in ("agent", "request"):
        if key not in query:
            raise RequestError(f"{where} has no {key!r}.")
    known = {"agent", "request", *OPTIONS, *more_keys}
    unknown = sorted(str(key) for key in query if key not in known)
    if unknown:
        raise RequestError(
            f"{where} has {unknown[0]!r}, which is not known; there are: "
            f"{', '.join(sorted(known))}."
        )
    return query


def options_of(query: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keyword arguments of ``orchestrate_agent`` that a query names."""
    return {key: query[key] for key in OPTIONS if query.get(key) is not None}
