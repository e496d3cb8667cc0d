"""A real Jupyter kernel to run cells in."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from typing import Any

from jupyter_client import BlockingKernelClient, KernelManager

TIMEOUT_S = 120
_COLOR = re.compile(r"\x1b\[[0-9;]*m")


@dataclass
class Outcome:
    """What running a cell gave."""

    stdout: str = ""
    stderr: str = ""
    result: dict[str, Any] = field(default_factory=dict)
    displays: list[dict[str, Any]] = field(default_factory=list)
    order: list[str] = field(default_factory=list)
    error: str | None = None
    traceback: str = ""

    @property
    def text(self) -> str:
        """The plain text of the cell's last value."""
        return str(self.result.get("text/plain", ""))


class Kernel:
    """A kernel with the extension loaded."""

    def __init__(self, cwd: str) -> None:
        self._manager = KernelManager(kernel_name="python3")
        self._manager.start_kernel(cwd=cwd)
        self.client: BlockingKernelClient = self._manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=TIMEOUT_S)
        loaded = self.run("%load_ext claude_pm\nimport claude_pm, asyncio")
        assert loaded.error is None, loaded.traceback

    def run(self, source: str) -> Outcome:
        """Run a cell to its end."""
        return self.collect(self.client.execute(source))

    def run_and_interrupt(self, source: str, *, when_printed: str) -> Outcome:
        """Run a cell and interrupt it as soon as it has printed a text."""
        message_id = self.client.execute(source)
        outcome = Outcome()
        while when_printed not in outcome.stdout:
            self._take(message_id, outcome)
        self._manager.interrupt_kernel()
        return self.collect(message_id, outcome)

    def collect(self, message_id: str, outcome: Outcome | None = None) -> Outcome:
        """Gather a running cell's outputs until it is idle."""
        outcome = outcome if outcome is not None else Outcome()
        deadline = time.monotonic() + TIMEOUT_S
        while self._take(message_id, outcome) != "idle":
            assert time.monotonic() < deadline, "the cell did not end"
        return outcome

    def close(self) -> None:
        """Shut the kernel down."""
        self.client.stop_channels()
        self._manager.shutdown_kernel(now=False)

    def _take(self, message_id: str, outcome: Outcome) -> str:
        message = self.client.get_iopub_msg(timeout=TIMEOUT_S)
        if message["parent_header"].get("msg_id") != message_id:
            return ""
        kind, content = message["msg_type"], message["content"]
        if kind == "stream":
            setattr(outcome, content["name"], getattr(outcome, content["name"]) + content["text"])
        elif kind == "execute_result":
            outcome.result = content["data"]
        elif kind == "display_data":
            outcome.displays.append(content["data"])
        elif kind == "error":
            outcome.error = content["ename"]
            outcome.traceback = _COLOR.sub("", "\n".join(content["traceback"]))
        if kind in ("execute_result", "display_data"):
            outcome.order.append(kind)
        return content["execution_state"] if kind == "status" else ""
