"""Fixtures of the notebook tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.notebook.kernel import Kernel


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    """A kernel for a module's tests, in an empty folder, with the extension loaded."""
    folder: Path = tmp_path_factory.mktemp("notebook")
    started = Kernel(str(folder))
    yield started
    started.close()
