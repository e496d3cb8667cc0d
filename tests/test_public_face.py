"""The public face: what ``claude_pm`` offers, and what importing it costs."""

from __future__ import annotations

import ast
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import claude_pm

HEAVY = ("pandas", "numpy", "pyarrow", "matplotlib", "httpx2", "xllamacpp", "IPython", "pydantic")


def run_fresh(code: str) -> subprocess.CompletedProcess[str]:
    """Run code in an interpreter of its own that finds this very ``claude_pm``."""
    root = str(Path(claude_pm.__file__).parent.parent)
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )


class TestNames:
    """``__all__``, ``dir()`` and what there is are one list."""

    def test_all_is_sorted_and_unique(self) -> None:
        """The list reads like an index."""
        assert claude_pm.__all__ == sorted(set(claude_pm.__all__))

    def test_dir_offers_exactly_all(self) -> None:
        """Completion in a notebook offers the public names and nothing that only the code needs."""
        offered = [name for name in dir(claude_pm) if not name.startswith("_")]
        assert offered == claude_pm.__all__

    def test_dir_keeps_what_modules_have(self) -> None:
        """``dir()`` still has the names that tools ask every module for."""
        assert {"__name__", "__doc__", "__file__", "__version__", "__all__"} <= set(dir(claude_pm))

    @pytest.mark.parametrize("name", claude_pm.__all__)
    def test_resolves(self, name: str) -> None:
        """Every name can be had, and the second time is the same object."""
        value = getattr(claude_pm, name)
        assert isinstance(value, ModuleType) or callable(value)
        assert getattr(claude_pm, name) is value
        assert inspect.getdoc(value)

    def test_star_import(self) -> None:
        """``from claude_pm import *`` brings what ``__all__`` lists."""
        namespace: dict[str, object] = {}
        exec("from claude_pm import *", namespace)
        assert set(namespace) - {"__builtins__"} == set(claude_pm.__all__)

    def test_type_checkers_see_the_same(self) -> None:
        """The imports for type checkers are the names that are found at run time."""
        tree = ast.parse(inspect.getsource(claude_pm))
        blocks = [
            node
            for node in tree.body
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        ]
        imported = {
            alias.asname or alias.name
            for block in blocks
            for node in block.body
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("claude_pm")
            for alias in node.names
        }
        assert imported == set(claude_pm.__all__)

    def test_unknown_name(self) -> None:
        """An unknown name is an AttributeError that says so, as of any module."""
        with pytest.raises(AttributeError, match="'claude_pm' has no attribute 'profil'"):
            claude_pm.profil  # noqa: B018

    def test_submodules_do_not_hide_names(self) -> None:
        """Importing the rooms leaves ``profile``, ``span`` and the rest the functions they are."""
        code = (
            "import claude_pm.profiles.profile, claude_pm.recording.span, claude_pm.recording.cpu\n"
            "from claude_pm import profile, span, load, traced\n"
            "print(*(type(f).__name__ for f in (profile, span, load, traced)))"
        )
        assert run_fresh(code).stdout.split() == ["function"] * 4


class TestImport:
    """``import claude_pm`` costs next to nothing."""

    @pytest.mark.parametrize(
        "code",
        [
            pytest.param("import claude_pm", id="import"),
            pytest.param("from claude_pm import ClaudePMError, errors", id="errors"),
            pytest.param(
                "import claude_pm\nwith claude_pm.span('a'):\n    claude_pm.traced(print)('b')",
                id="spans",
            ),
        ],
    )
    def test_light(self, code: str) -> None:
        """Neither the import nor spans without a profile load any of the heavy libraries."""
        listing = "\nimport json, sys; print(json.dumps(sorted(sys.modules)))"
        loaded = json.loads(run_fresh(code + listing).stdout.splitlines()[-1])
        assert "claude_pm" in loaded
        assert [name for name in loaded if name.partition(".")[0] in HEAVY] == []

    def test_quiet(self) -> None:
        """A program that set up no logging sees nothing of ours, not even warnings."""
        code = "import claude_pm, logging; logging.getLogger('claude_pm.models').warning('hidden')"
        done = run_fresh(code)
        assert (done.stdout, done.stderr) == ("", "")

    def test_is_an_ipython_extension(self) -> None:
        """``%load_ext claude_pm`` and ``%unload_ext`` find what they call."""
        assert callable(claude_pm.load_ipython_extension)
        assert callable(claude_pm.unload_ipython_extension)
