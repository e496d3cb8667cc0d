"""Rewriting cells, without a kernel."""

from __future__ import annotations

import pytest
from IPython.core.error import UsageError

from claude_pm.notebook.cells import rewrite_cell
from claude_pm.notebook.profile_magic import parse_options, split_statement


def rewritten(cell: str) -> str:
    return "".join(rewrite_cell(cell.splitlines(keepends=True)))


class TestRewriteCell:
    def test_profiled_cell_keeps_its_line_numbers(self) -> None:
        """The header becomes a comment, so that line n stays line n."""
        assert rewritten("%%claude_pm_profile --save\nx = 1\n") == (
            "# %%claude_pm_profile --save\nx = 1\n"
        )

    def test_inner_cell_magic_comes_first(self) -> None:
        """Another cell magic below ours is the first line of what runs."""
        assert rewritten("%%claude_pm_profile\n%%time\nx\n") == "%%time\nx\n"

    def test_orchestrate_is_awaited(self) -> None:
        """The request goes to the magic as it was typed, and is awaited on the kernel's loop."""
        assert rewritten("%%orchestrate qa --save\nIt's {braces}\n") == (
            "await get_ipython().run_cell_magic('orchestrate', 'qa --save', \"It's {braces}\\n\")\n"
        )

    @pytest.mark.parametrize(
        "cell",
        [
            "",
            "x = 1\n",
            "%%claude_pm_profile\n",
            "%%claude_pm_profile --bogus\nx\n",
            "%%claude_pm_profile --repeat 3\nx\n",
            "%%claude_pm_profiler\nx\n",
            "%%claude_pm_profile?\n",
            "%%orchestrated\nx\n",
            "x = '''\n%%claude_pm_profile\n'''\n",
        ],
    )
    def test_everything_else_is_left_alone(self, cell: str) -> None:
        """What is not ours, or has options that cannot be read, stays for IPython to judge."""
        assert rewritten(cell) == cell


class TestOptions:
    @pytest.mark.parametrize(
        ("line", "options", "statement"),
        [
            ("f(x)", "", "f(x)"),
            ("--save f('--save')", "--save", "f('--save')"),
            ("--name 'my run' --cpu none  await f()", "--name 'my run' --cpu none", "await f()"),
            ("--as p x = 1", "--as p", "x = 1"),
            ("-x", "", "-x"),
            ("--save", "--save", ""),
        ],
    )
    def test_statement_stays_as_typed(self, line: str, options: str, statement: str) -> None:
        """Options end where the statement begins, quotes and all."""
        assert split_statement(line) == (options, statement)

    def test_values(self) -> None:
        """Every option reaches its place."""
        options = parse_options("--name 'my run' --cpu none --memory none --save --as p --quiet")
        assert (options.name, options.cpu, options.memory) == ("my run", None, None)
        assert (options.quiet, options.keeping.save, options.keeping.as_name) == (True, True, "p")

    def test_further_recordings(self) -> None:
        """What else can be recorded is off unless it is asked for."""
        plain = parse_options("")
        assert (plain.cpu, plain.memory, plain.internals) == (..., "rss", False)
        assert (plain.lines, plain.repeat) == (False, None)
        asked = parse_options("--cpu sample --internals --lines")
        assert (asked.cpu, asked.internals, asked.lines) == ("sample", True, True)
        traced = parse_options("--memory trace --repeat 3")
        assert (traced.memory, traced.repeat) == ("trace", 3)

    @pytest.mark.parametrize(
        ("line", "named"),
        [
            ("--cpu sometimes", "sometimes"),
            ("--as 2x", "2x"),
            ("--bogus", "--bogus"),
            ("--memory all", "all"),
            ("--repeat 2", "--memory trace"),
            ("--memory trace --repeat none", "whole number from 1"),
            ("--name 'open", "quot"),
        ],
    )
    def test_bad_option_is_named(self, line: str, named: str) -> None:
        """A bad option is a usage error that names it."""
        with pytest.raises(UsageError, match=named):
            parse_options(line)
