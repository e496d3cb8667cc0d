"""JupyterLab and Chromium, as the tests and the documentation's pictures use them."""

from __future__ import annotations

import json
import os
import re
import secrets
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, sync_playwright

CHROMIUM = Path(os.environ.get("CHROMIUM", "/usr/bin/chromium"))
MISSING = (
    f"{CHROMIUM} is not there: install Debian's chromium package (apt-get install chromium), or "
    "set CHROMIUM to the browser's path."
)
WAIT_S = 60.0
RUN_S = 120.0
_FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking")
_SETTINGS = {
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    # All cells are in the page, seen or not.
    "notebook-extension/tracker": {"windowingMode": "none"},
}
_THEMES = "apputils-extension/themes"
# What JupyterLab complains of by itself, seen in a notebook without claude_pm too.
_NOT_OURS = re.compile(r"favicon|manifest\.webmanifest|WebGL|/api/(me|contents|lsp|news)")


class JupyterLab:
    """A running JupyterLab with settings of its own, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._home = folder / ".jupyter-home"
        self._token = secrets.token_hex(16)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        for plugin, chosen in _SETTINGS.items():
            self._set(plugin, chosen)

    @contextmanager
    def running(self) -> Iterator[JupyterLab]:
        """Run it until the block ends."""
        environment = {
            **os.environ,
            "JUPYTER_CONFIG_DIR": str(self._home / "config"),
            "JUPYTER_RUNTIME_DIR": str(self._home / "runtime"),
            "JUPYTERLAB_SETTINGS_DIR": str(self._home / "settings"),
            "JUPYTERLAB_WORKSPACES_DIR": str(self._home / "workspaces"),
            "IPYTHONDIR": str(self._home / "ipython"),
            "CLAUDE_PM_PROFILES_DIR": "profiles",
        }
        command = [
            sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1",
            f"--port={self._port}", "--ServerApp.port_retries=0",
            f"--IdentityProvider.token={self._token}", f"--ServerApp.root_dir={self.folder}",
        ]  # fmt: skip
        with self._log.open("w") as log:
            server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
            try:
                self.wait(self._answers, "JupyterLab to start")
                yield self
            finally:
                server.terminate()
                server.wait()

    def use_theme(self, name: str) -> None:
        """Let pages that are opened from here on have a theme, such as ``JupyterLab Dark``."""
        self._set(_THEMES, {"theme": name})

    def write(self, name: str, *cells: str) -> str:
        """Write a notebook of these code cells; return its name."""
        code = [nbformat.v4.new_code_cell(cell) for cell in cells]
        # Without a kernel's name JupyterLab asks which one to take.
        metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
        notebook = nbformat.v4.new_notebook(cells=code, metadata=metadata)
        nbformat.write(notebook, self.folder / name)
        return name

    def open(self, page: Page, name: str) -> Notebook:
        """Open a notebook in a page, and wait until it can run cells."""
        page.goto(f"http://127.0.0.1:{self._port}/lab/tree/{name}?token={self._token}&reset")
        page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=WAIT_S * 1000)
        # JupyterLab says idle before a kernel is connected, and then drops what it is told to run.
        self.wait(lambda: self._is_ready(name), "an idle kernel with a connection")
        return Notebook(page, self)

    def shut_down_kernels(self) -> None:
        """End all kernels: the next test shall have the machine for itself."""
        for session in self._get("api/sessions"):
            request = urllib.request.Request(self._url(f"api/sessions/{session['id']}"))
            request.method = "DELETE"
            urllib.request.urlopen(request, timeout=WAIT_S).close()

    def wait(self, until: Callable[[], bool], what: str, limit_s: float = WAIT_S) -> None:
        """Wait until it is so.

        Raises:
            TimeoutError: it was not so in time; with the last that the server said.
        """
        deadline = time.monotonic() + limit_s
        while not until():
            if time.monotonic() > deadline:
                said = self._log.read_text(encoding="utf-8")[-3000:]
                raise TimeoutError(f"Waited {limit_s:g} s for {what}. The server said:\n{said}")
            time.sleep(0.1)

    @property
    def _log(self) -> Path:
        return self._home / "server.log"

    def _set(self, plugin: str, chosen: dict[str, Any]) -> None:
        file = self._home / "settings" / "@jupyterlab" / f"{plugin}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(chosen), encoding="utf-8")

    def _is_ready(self, name: str) -> bool:
        kernels = [each["kernel"] for each in self._get("api/sessions") if each["path"] == name]
        return any(
            kernel["execution_state"] == "idle" and kernel["connections"] > 0 for kernel in kernels
        )

    def _url(self, path: str) -> str:
        return f"http://127.0.0.1:{self._port}/{path}?token={self._token}"

    def _get(self, path: str) -> Any:
        with urllib.request.urlopen(self._url(path), timeout=WAIT_S) as response:
            return json.load(response)

    def _answers(self) -> bool:
        try:
            self._get("api")
        except OSError:
            return False
        return True


class Notebook:
    """A notebook that is open in a page; cells are counted from 0."""

    def __init__(self, page: Page, lab: JupyterLab) -> None:
        self.page = page
        self._lab = lab

    def cell(self, number: int) -> Locator:
        """Return a code cell."""
        return self.page.locator(".jp-Notebook .jp-CodeCell").nth(number)

    def output(self, number: int) -> Locator:
        """Return what stands under a code cell."""
        return self.cell(number).locator(".jp-Cell-outputWrapper")

    def start(self, number: int) -> None:
        """Run a cell, as a person does, and do not wait for its end."""
        self.cell(number).locator(".cm-content").click()
        self.page.keyboard.press("Control+Enter")

    def run(self, number: int) -> Locator:
        """Run a cell to its end; return its output."""
        before = self._prompt(number)
        self.start(number)
        self._lab.wait(
            lambda: self._prompt(number) not in (before, "[*]:"),
            f"the end of cell {number}: {self.cell(number).locator('.cm-content').inner_text()!r}",
            RUN_S,
        )
        return self.output(number)

    def interrupt(self) -> None:
        """Press the notebook's stop button."""
        self.page.get_by_role("button", name="Interrupt the kernel").click()

    def _prompt(self, number: int) -> str:
        return self.cell(number).locator(".jp-InputArea-prompt").inner_text().strip()


@contextmanager
def chromium() -> Iterator[Browser]:
    """Run headless Chromium until the block ends.

    Raises:
        FileNotFoundError: there is none; it says how to install it.
    """
    if not CHROMIUM.exists():
        raise FileNotFoundError(MISSING)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=list(_FLAGS), headless=True
        )
        yield browser
        browser.close()


def complaints_of(page: Page) -> list[str]:
    """Return the list to which every error of the page's console goes; not JupyterLab's own."""
    complaints: list[str] = []

    def add(text: str) -> None:
        if not _NOT_OURS.search(text):
            complaints.append(text)

    def take(message: ConsoleMessage) -> None:
        if message.type == "error":
            add(f"{message.text} ({message.location.get('url', '')})")

    page.on("console", take)
    page.on("pageerror", lambda error: add(str(error)))
    return complaints
