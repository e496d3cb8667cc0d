"""Synthetic profiles: spans, functions and memory readings put together by hand."""

from __future__ import annotations

import json
from typing import Any

from claude_pm.profiles import Profile, schema

KERNEL_PID = 4100


class ProfileBuilder:
    """Collects rows and builds a Profile of them. Span ids count up: ``0000000000000001``."""

    def __init__(self, name: str = "synthetic", **meta: Any) -> None:
        self.meta: dict[str, Any] = {
            "schema_version": schema.SCHEMA_VERSION,
            "id": "20260131T090000123-synthetic-1a2b",
            "name": name,
            "created_at": "2026-01-31T09:00:00.123000+00:00",
            "duration_s": 10.0,
            "source": None,
            "cpu": None,
            "memory": None,
            "python": "3.11.7",
            "platform": "Linux-6.1-x86_64",
            "cpu_count": 2,
            "packages": {"claude-pm": "0.1.0", "pandas": "3.1.1"},
            "git_commit": None,
            "git_dirty": None,
            "settings": {"orchestration_mode": "local", "api_key_set": False},
            "model_use": "not called",
            "pid": KERNEL_PID,
        } | meta
        self._spans: list[dict[str, Any]] = []
        self._functions: list[dict[str, Any]] = []
        self._memory: list[dict[str, Any]] = []

    def span(
        self,
        name: str,
        start_s: float,
        duration_s: float,
        *,
        parent: str | None = None,
        attributes: dict[str, Any] | None = None,
        **columns: Any,
    ) -> str:
        """Add a span and return its id."""
        span_id = f"{len(self._spans) + 1:016x}"
        row = {"status": "ok", "pid": KERNEL_PID, "thread": "MainThread"} | columns
        row |= {
            "span_id": span_id,
            "parent_id": parent,
            "trace_id": "0" * 31 + "1",
            "name": name,
            "start_s": start_s,
            "duration_s": duration_s,
            "attributes": json.dumps(attributes or {}),
        }
        self._spans.append(row)
        return span_id

    def request(
        self,
        agent: str | None,
        mode: str | None,
        start_s: float,
        duration_s: float,
        *,
        parent: str | None = None,
        attributes: dict[str, Any] | None = None,
        **columns: Any,
    ) -> str:
        """Add a bare request (an ``orchestrate`` span without parts) and return its id."""
        return self.span(
            "orchestrate", start_s, duration_s, parent=parent, attributes=attributes,
            agent=agent, mode=mode, **columns,
        )  # fmt: skip

    def answered(
        self,
        agent: str,
        mode: str,
        start_s: float,
        duration_s: float,
        *,
        ttft_s: float,
        input_tokens: int | None = None,
        cache_read_tokens: int | None = None,
        output_tokens: int | None = None,
        attributes: dict[str, Any] | None = None,
        parent: str | None = None,
        **of_chat: Any,
    ) -> str:
        """Add a request answered by one chat that fills it, and return its id."""
        request = self.request(
            agent, mode, start_s, duration_s, parent=parent, ttft_s=ttft_s, attributes=attributes
        )
        self.span(
            "chat", start_s, duration_s, parent=request, agent=agent, mode=mode, ttft_s=ttft_s,
            input_tokens=input_tokens, cache_read_tokens=cache_read_tokens,
            output_tokens=output_tokens, **of_chat,
        )  # fmt: skip
        return request

    def function(self, function: str, total_s: float, **columns: Any) -> None:
        """Add a row of the functions table."""
        row = {"file": "work.py", "line": 1, "calls": 1, "primitive_calls": 1, "pid": KERNEL_PID}
        self._functions.append(
            row | {"function": function, "total_s": total_s, "cumulative_s": total_s} | columns
        )

    def memory(
        self, t_s: float, rss_bytes: int | None, *, pid: int = KERNEL_PID, role: str = "kernel"
    ) -> None:
        """Add a reading of a process's memory."""
        self._memory.append({"t_s": t_s, "pid": pid, "role": role, "rss_bytes": rss_bytes})

    def build(self) -> Profile:
        """Return the Profile."""
        spans = sorted(self._spans, key=lambda span: span["start_s"])
        rows = [{"self_s": self._self_s(span), **span} for span in spans]
        return Profile(
            self.meta,
            {
                "spans": schema.frame_from_rows(schema.SPANS, rows),
                "functions": schema.frame_from_rows(schema.FUNCTIONS, self._functions),
                "memory": schema.frame_from_rows(schema.MEMORY, self._memory),
            },
        )

    def _self_s(self, span: dict[str, Any]) -> float:
        covered, reached = 0.0, span["start_s"]
        for child in sorted(self._spans, key=lambda child: child["start_s"]):
            end = child["start_s"] + child["duration_s"]
            if child["parent_id"] == span["span_id"] and end > reached:
                covered += end - max(child["start_s"], reached)
                reached = end
        return float(span["duration_s"] - covered)
