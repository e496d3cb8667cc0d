"""Make the pictures of the documentation: a notebook run in JupyterLab, and the report it writes.

    python scripts/screenshots.py          # needs Debian's chromium package, or CHROMIUM=path

JupyterLab runs with settings of its own, in a temporary folder; the report is opened with the
network off. Anything that the browser's console calls an error ends the script with exit code 1.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Browser

from tests.browser.jupyterlab import JupyterLab, Notebook, chromium, complaints_of

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT / "docs" / "images"
NOTEBOOK = "01_compare_modes.ipynb"
ERROR = ".jp-RenderedText[data-mime-type='application/vnd.jupyter.stderr']"


def run_all(notebook: Notebook) -> None:
    """Run the notebook's cells, one after the other."""
    for number in range(notebook.page.locator(".jp-Notebook .jp-CodeCell").count()):
        failed = notebook.run(number).locator(ERROR)
        if failed.count():
            raise SystemExit(f"Cell {number} failed: {failed.first.inner_text()}")


def shoot_cells(notebook: Notebook, name: str) -> None:
    """Picture the cells that ask an agent and compare the modes."""
    page = notebook.page
    page.keyboard.press("Escape")
    page.keyboard.press("Control+b")  # closes the side bar
    notebook.cell(1).evaluate("cell => cell.scrollIntoView({block: 'start'})")
    page.wait_for_timeout(500)
    page.screenshot(path=IMAGES / name)


def shoot_report(browser: Browser, report: Path, name: str) -> list[str]:
    """Picture a report, with the network off; return what the console complained of."""
    context = browser.new_context(viewport={"width": 1200, "height": 1400}, offline=True)
    page = context.new_page()
    complaints = complaints_of(page)
    page.goto(report.resolve().as_uri())
    page.screenshot(path=IMAGES / name)
    context.close()
    return complaints


def main() -> int:
    """Make all pictures; return the exit code."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary, chromium() as browser:
        folder = Path(temporary)
        shutil.copy(ROOT / "notebooks" / NOTEBOOK, folder)
        shutil.copy(ROOT / "README.md", folder)
        with JupyterLab(folder).running() as lab:
            page = browser.new_page(viewport={"width": 1280, "height": 1180})
            complaints = complaints_of(page)
            notebook = lab.open(page, NOTEBOOK)
            run_all(notebook)
            shoot_cells(notebook, "notebook.png")
            page.close()
            lab.shut_down_kernels()
        complaints += shoot_report(browser, folder / "report.html", "report.png")
    for text in complaints:
        print(f"browser console: {text}", file=sys.stderr)
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
