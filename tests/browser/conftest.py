"""Fixtures: one JupyterLab and one Chromium for all tests, a page and a picture for each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from tests.browser.jupyterlab import JupyterLab, Notebook, chromium, complaints_of

ARTEFACTS = Path(__file__).parent / "artefacts"

OpenNotebook = Callable[..., Notebook]


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """Return Chromium."""
    with chromium() as started:
        yield started


@pytest.fixture(scope="package")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JupyterLab]:
    """Return a running JupyterLab."""
    with JupyterLab(tmp_path_factory.mktemp("lab")).running() as running:
        yield running


@pytest.fixture
def page(browser: Browser, request: pytest.FixtureRequest) -> Iterator[Page]:
    """Return a page; a picture of it is kept, and its console has no error at the end."""
    opened = browser.new_page(viewport={"width": 1280, "height": 1000})
    complaints = complaints_of(opened)
    yield opened
    ARTEFACTS.mkdir(exist_ok=True)
    opened.screenshot(path=ARTEFACTS / f"{request.node.name}.png")
    opened.close()
    assert complaints == []


@pytest.fixture
def notebook(lab: JupyterLab, page: Page, request: pytest.FixtureRequest) -> Iterator[OpenNotebook]:
    """Return a function that opens a new notebook of the cells it is given."""

    def open_notebook(*cells: str) -> Notebook:
        return lab.open(page, lab.write(f"{request.node.name}.ipynb", *cells))

    yield open_notebook
    lab.shut_down_kernels()
