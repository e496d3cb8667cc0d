"""Make the pictures of the documentation: a notebook run in JupyterLab, and the report it writes.

    python scripts/screenshots.py          # needs Debian's chromium package, or CHROMIUM=path

JupyterLab runs with settings of its own, in a temporary folder; the report is opened with the
network off. Anything that the browser's console calls an error ends the script with exit code 1.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT / "docs" / "images"
NOTEBOOK = "01_compare_modes.ipynb"
CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
CHROMIUM_FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking")
START_TIMEOUT_S = 60.0
RUN_TIMEOUT_S = 240.0
SETTINGS = {
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    # All cells are in the page, seen or not.
    "notebook-extension/tracker": {"windowingMode": "none"},
}
# Complaints of JupyterLab itself, seen without claude_pm too.
_NOT_OURS = re.compile(r"favicon|manifest\.webmanifest|WebGL|/api/(me|contents|lsp|news)")


@contextmanager
def jupyterlab(folder: Path) -> Iterator[str]:
    """Run JupyterLab on a folder; yield its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    home = folder / ".jupyter-home"
    for plugin, chosen in SETTINGS.items():
        file = home / "settings" / "@jupyterlab" / f"{plugin}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(chosen), encoding="utf-8")
    environment = {
        **os.environ,
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
        "IPYTHONDIR": str(home / "ipython"),
    }
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1",
        f"--port={port}", "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}",
        f"--ServerApp.root_dir={folder}",
    ]  # fmt: skip
    with (home / "server.log").open("w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            address = f"http://127.0.0.1:{port}"
            _wait(lambda: _answers(f"{address}/api?token={token}"), START_TIMEOUT_S, "JupyterLab")
            yield f"{address}|{token}"
        finally:
            server.terminate()
            server.wait()


def run_notebook(page: Page, server: str) -> None:
    """Open the notebook and run all its cells, as a person would."""
    address, token = server.split("|")
    page.goto(f"{address}/lab/tree/{NOTEBOOK}?token={token}")
    page.wait_for_selector(".jp-Notebook .jp-CodeCell")
    # JupyterLab says idle before a kernel is connected, and then drops what it is told to run.
    _wait(
        lambda: any(
            kernel["execution_state"] == "idle" and kernel["connections"] > 0
            for kernel in _get_json(f"{address}/api/kernels?token={token}")
        ),
        START_TIMEOUT_S,
        "the kernel",
    )
    page.keyboard.press("Escape")
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_text("Run All Cells", exact=True).click()
    failed = page.locator("[data-mime-type='application/vnd.jupyter.error']")
    written = page.locator(".jp-OutputArea-output").filter(has_text="report.html")
    failed.or_(written).first.wait_for(timeout=RUN_TIMEOUT_S * 1000)
    if failed.count():
        raise SystemExit(f"A cell failed: {failed.first.inner_text()}")


def shoot_cells(page: Page, name: str) -> None:
    """Picture the cells that ask an agent and compare the modes."""
    page.keyboard.press("Control+b")  # closes the side bar
    page.locator(".jp-CodeCell").nth(1).scroll_into_view_if_needed()
    page.evaluate("document.querySelectorAll('.jp-CodeCell')[1].scrollIntoView({block: 'start'})")
    page.wait_for_timeout(500)
    page.screenshot(path=IMAGES / name)


def shoot_whole(page: Page, name: str) -> None:
    """Picture the whole notebook, as far as it is loaded."""
    height = page.evaluate("document.querySelector('.jp-WindowedPanel-outer').scrollHeight")
    page.set_viewport_size({"width": 1280, "height": min(int(height) + 160, 9000)})
    page.wait_for_timeout(1500)
    page.screenshot(path=Path(tempfile.gettempdir()) / name)


def shoot_report(browser: Browser, report: Path, name: str) -> list[str]:
    """Picture a report, with the network off; return what the console complained of."""
    context = browser.new_context(viewport={"width": 1200, "height": 1400}, offline=True)
    page = context.new_page()
    complaints = _listen(page)
    page.goto(report.resolve().as_uri())
    page.screenshot(path=IMAGES / name)
    context.close()
    return complaints


def main() -> int:
    """Make all pictures; return the exit code."""
    if not Path(CHROMIUM).exists():
        print(f"{CHROMIUM} is not there: install Debian's chromium package, or set CHROMIUM.")
        return 1
    IMAGES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as playwright:
        folder = Path(temporary)
        shutil.copy(ROOT / "notebooks" / NOTEBOOK, folder)
        shutil.copy(ROOT / "README.md", folder)
        os.environ["CLAUDE_PM_PROFILES_DIR"] = "profiles"
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=list(CHROMIUM_FLAGS), headless=True
        )
        with jupyterlab(folder) as server:
            page = browser.new_page(viewport={"width": 1280, "height": 1180})
            complaints = _listen(page)
            run_notebook(page, server)
            shoot_cells(page, "notebook.png")
            shoot_whole(page, "notebook-whole.png")
            page.close()
        complaints += shoot_report(browser, folder / "report.html", "report.png")
        browser.close()
    ours = [text for text in complaints if not _NOT_OURS.search(text)]
    for text in ours:
        print(f"browser console: {text}", file=sys.stderr)
    return 1 if ours else 0


def _listen(page: Page) -> list[str]:
    complaints: list[str] = []

    def take(message: ConsoleMessage) -> None:
        if message.type == "error":
            complaints.append(f"{message.text} ({message.location.get('url', '')})")

    page.on("console", take)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    return complaints


def _get_json(address: str) -> Any:
    with urllib.request.urlopen(address, timeout=5) as response:  # noqa: S310 - our own server
        return json.load(response)


def _answers(address: str) -> bool:
    try:
        _get_json(address)
    except OSError:
        return False
    return True


def _wait(until: Any, limit_s: float, what: str) -> None:
    deadline = time.monotonic() + limit_s
    while not until():
        if time.monotonic() > deadline:
            raise SystemExit(f"{what} did not get ready within {limit_s:g} s.")
        time.sleep(0.2)


if __name__ == "__main__":
    sys.exit(main())
