"""Charts without a screen, closed after each test."""

from __future__ import annotations

from collections.abc import Iterator

import matplotlib as mpl
import pytest
from matplotlib import pyplot as plt


@pytest.fixture(autouse=True)
def _charts() -> Iterator[None]:
    mpl.use("Agg")
    yield
    plt.close("all")
