"""Which files are machinery, which the standard library's, and which the user's."""

from __future__ import annotations

import json
import os
from pathlib import Path

import psutil
import pytest

import claude_pm
from claude_pm.recording.machinery import (
    is_standard_library,
    is_standard_module,
    machinery_folders,
)

STDLIB = Path(os.__file__).parent


@pytest.mark.parametrize(
    ("file", "standard"),
    [
        (json.__file__, True),
        ("<frozen importlib._bootstrap>", True),
        (psutil.__file__, False),
        (str(STDLIB / "site-packages" / "library" / "__init__.py"), False),
        (str(STDLIB / "dist-packages" / "library.py"), False),
        (__file__, False),
        ("<string>", False),
        ("~", False),
    ],
)
def test_standard_library(file: str, standard: bool) -> None:
    """Installed packages are none of it, even where their folder lies in it."""
    assert is_standard_library(file) is standard


@pytest.mark.parametrize(
    ("name", "standard"),
    [("builtins", True), ("_socket", True), ("zmq", True), ("numpy", False), ("", False)],
)
def test_standard_module(name: str, standard: bool) -> None:
    """Compiled functions go by their module: a library's are where a user's time goes."""
    assert is_standard_module(name) is standard


def test_all_of_claude_pm() -> None:
    """All of this package is machinery, and of a package only its own folder."""
    folder = str(Path(claude_pm.__file__).parent)
    assert folder + os.sep in machinery_folders()
    assert not (folder + "_of_a_user/module.py").startswith(machinery_folders())
