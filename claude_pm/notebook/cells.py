"""How a cell under our magics runs: rewritten, so that IPython itself runs it.

A magic that gets a cell's text cannot run a top-level ``await`` on the kernel's own loop. So the
text is rewritten before IPython looks at it:

- ``%%claude_pm_profile ...`` is taken off the cell, which then runs like any other, inside one
  ``with <recording>:`` block. Its output, last value, variables, errors and interrupts stay
  IPython's own doing.
  With ``--repeat N`` they stand in a loop within it. With ``--lines`` they run once more when the
  block ends, in another process (``claude_pm.notebook.second_run``).
- ``%claude_pm_profile STATEMENT`` becomes ``with <recording>: STATEMENT``.
- ``%%orchestrate ...`` becomes ``await get_ipython().run_cell_magic("orchestrate", ...)``.

Options that cannot be read leave the text as it is; the magic of that name then says what is wrong.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any

from IPython.core.error import UsageError
from IPython.core.inputtransformer2 import (
    EscapedCommand,
    assemble_continued_line,
    find_end_of_continued_line,
)
from IPython.display import display

from claude_pm.errors import RecordingError
from claude_pm.notebook.profile_magic import ProfileOptions, parse_options, split_statement
from claude_pm.notebook.results import keep
from claude_pm.notebook.second_run import second_run
from claude_pm.recording import ProfileSession
from claude_pm.recording.lines import LinesResult, SecondRun, not_run

if TYPE_CHECKING:
    from IPython.core.interactiveshell import ExecutionInfo, ExecutionResult, InteractiveShell

    from claude_pm.profiles import Profile

_PROFILE_CELL = re.compile(r"%%claude_pm_profile(?=\s|$)(.*)")
_ORCHESTRATE_CELL = re.compile(r"%%orchestrate(?=\s)(.*)")
_PROFILE_LINE = re.compile(r"%claude_pm_profile\s+(.*)", re.DOTALL)


def rewrite_cell(lines: list[str]) -> list[str]:
    """Rewrite a cell under one of our cell magics; an ``input_transformers_cleanup`` function."""
    if not lines:
        return lines
    orchestrate = _ORCHESTRATE_CELL.match(lines[0])
    if orchestrate:
        line, body = orchestrate[1].strip(), "".join(lines[1:])
        return [f"await get_ipython().run_cell_magic('orchestrate', {line!r}, {body!r})\n"]
    if _profile_options(lines[0], "".join(lines[1:])) is None:
        return lines
    if lines[1].startswith("%%"):
        # Another cell magic has to be first to be one.
        return rewrite_cell(lines[1:])
    # A comment keeps the line numbers of tracebacks right.
    return ["# " + lines[0], *lines[1:]]


class ProfileLine(EscapedCommand):
    """Rewrites ``%claude_pm_profile [options] STATEMENT``; one of IPython's token transformers."""

    # Before IPython's own EscapedCommand, which has 10 and takes every line magic.
    priority = 5

    def transform(self, lines: list[str]) -> list[str]:
        """Return the lines with this one rewritten.

        Raises:
            SyntaxError: it is not ours, or cannot be rewritten; IPython tries its next transformer.
        """
        end = find_end_of_continued_line(lines, self.start_line)
        text = assemble_continued_line(lines, (self.start_line, self.start_col), end)
        match = _PROFILE_LINE.match(text)
        if match is None:
            raise SyntaxError(text)
        options, statement = split_statement(match[1])
        readable = _readable_options(options)
        if readable is None or readable.repeat is not None or not _fits_in_with(statement):
            raise SyntaxError(text)
        before, after = lines[: self.start_line], lines[end + 1 :]
        indent = lines[self.start_line][: self.start_col]
        block = f"with get_ipython().claude_pm.line({options!r}, {statement!r}):"
        if indent or "".join(after).strip() or not _is_expression(statement):
            return [*before, f"{indent}{block} {statement}\n", *after]
        # The last line of a cell shows its value.
        return [
            *before,
            f"{block} get_ipython().claude_pm.value = ({statement})\n",
            "get_ipython().claude_pm.take_value()\n",
            *after,
        ]


class CellProfiler(ast.NodeTransformer):
    """Puts recordings around cells and lines; ``get_ipython().claude_pm``.

    It is one of IPython's AST transformers too (:meth:`visit`): a cell under
    ``%%claude_pm_profile`` is put into one ``with`` block, so that recording starts with its first
    statement and ends with its last, or with its error.
    """

    def __init__(self, shell: InteractiveShell) -> None:
        self.value: Any = None
        self.turn: Any = None
        self._shell = shell
        # A cell may run another one: the innermost is last. None is a cell that is not ours.
        self._cells: list[tuple[str, Recording | None]] = []

    def pre_run_cell(self, info: ExecutionInfo) -> None:
        """Remember whether the cell is under ``%%claude_pm_profile``."""
        raw_cell = info.raw_cell or ""
        first, _, body = raw_cell.lstrip().partition("\n")
        options = _profile_options(first, body)
        recording = None
        if options is not None:
            python = self._shell.transform_cell(raw_cell) if options.lines else ""
            recording = self._recording(options, raw_cell, python)
        self._cells.append((raw_cell, recording))

    def visit(self, tree: ast.AST) -> ast.AST:
        """Put the cell's statements into ``with get_ipython().claude_pm.cell():``.

        With ``--repeat`` they stand in a loop there.
        """
        cell = self._cells[-1][1] if self._cells else None
        if cell is None or cell.entered or not isinstance(tree, ast.Module):
            return tree
        future = [node for node in tree.body if _is_future_import(node)]
        body = [node for node in tree.body if not _is_future_import(node)]
        if not body:
            return tree
        (block,) = ast.parse("with get_ipython().claude_pm.cell(): pass").body
        assert isinstance(block, ast.With)  # noqa: S101 - for the type checker
        block.body = body
        after: list[ast.stmt] = []
        last = body[-1]
        if isinstance(last, ast.Expr):
            # Its value is shown by the statement that comes after the block.
            (store,) = ast.parse("get_ipython().claude_pm.value = None").body
            assert isinstance(store, ast.Assign)  # noqa: S101 - for the type checker
            store.value = last.value
            body[-1] = store
            after = ast.parse("get_ipython().claude_pm.take_value()").body
        around: list[ast.stmt] = [block]
        if cell.options.repeat is not None:
            (loop,) = ast.parse(
                "for get_ipython().claude_pm.turn in get_ipython().claude_pm.turns(): pass"
            ).body
            assert isinstance(loop, ast.For)  # noqa: S101 - for the type checker
            loop.body, block.body = body, [loop]
            around.append(loop)
        for node in (*around, body[-1], *after):
            ast.copy_location(node, last)
        for node in around:
            node.lineno, node.col_offset = tree.body[0].lineno, tree.body[0].col_offset
        tree.body = [*future, block, *after]
        return ast.fix_missing_locations(tree)

    def post_run_cell(self, result: ExecutionResult | None) -> None:
        """Show and keep the cell's profile, however the cell has ended."""
        # A blank cell ends without having begun.
        if not self._cells or (result is not None and _raw_cell(result) != self._cells[-1][0]):
            return
        _, recording = self._cells.pop()
        if recording is None or not recording.entered:
            return
        self._present(recording, has_value=result is not None and result.result is not None)

    def cell(self) -> Recording:
        """Return the context manager around the statements of a ``%%claude_pm_profile`` cell."""
        cell = self._cells[-1][1] if self._cells else None
        if cell is None:
            raise RecordingError("No cell is being profiled.")
        self.value = None
        return cell

    def turns(self) -> Iterator[int]:
        """Return what the loop around a cell with ``--repeat`` goes through."""
        cell = self._cells[-1][1] if self._cells else None
        if cell is None or cell.options.repeat is None:
            raise RecordingError("No cell is being repeated.")
        return cell.session.repeats(cell.options.repeat)

    def line(self, options: str, statement: str) -> Recording:
        """Return the context manager around the statement of a ``%claude_pm_profile`` line."""
        self.value = None
        line_number = sys._getframe(1).f_lineno  # noqa: SLF001 - the cell's own line
        return self._recording(
            parse_options(options),
            statement,
            "\n" * (line_number - 1) + statement,
            at_end=lambda ended: self._present(ended, has_value=self.value is not None),
        )

    def take_value(self) -> Any:
        """Return, once, the value of the last expression recorded; IPython then shows it."""
        value, self.value = self.value, None
        return value

    def _recording(
        self,
        options: ProfileOptions,
        source: str,
        python: str,
        at_end: Callable[[Recording], None] = lambda _ended: None,
    ) -> Recording:
        # The count is of the next cell already.
        cell = f"In[{self._shell.execution_count - 1}]"
        return Recording(
            # Made when the cell begins: an option that does not go with another is its error.
            lambda: ProfileSession(
                options.name or cell,
                cpu=options.cpu,
                memory=options.memory,
                internals=options.internals,
                source=source,
            ),
            options,
            at_end,
            lambda: second_run(self._shell, cell, source, python),
        )

    def _present(self, recording: Recording, *, has_value: bool) -> None:
        profile, options = recording.session.profile, recording.options
        if not options.quiet:
            display(profile)
        if recording.said is not None:
            print(recording.said)
        keep(self._shell, profile, options.keeping)
        if not has_value:
            _make_last_value(self._shell, profile)


class Recording:
    """Records the block it is around, then calls ``at_end`` with itself."""

    def __init__(
        self,
        make_session: Callable[[], ProfileSession],
        options: ProfileOptions,
        at_end: Callable[[Recording], None],
        prepare_second_run: Callable[[], SecondRun | LinesResult],
    ) -> None:
        self.options = options
        self.entered = False
        self.said: str | None = None
        self.session: ProfileSession
        self._make_session = make_session
        self._at_end = at_end
        self._prepare_second_run = prepare_second_run
        self._second_run: SecondRun | LinesResult | None = None

    def __enter__(self) -> None:
        self.session = self._make_session()
        if self.options.lines:
            # The code may change the variables that it needs: they are taken over now.
            self._second_run = self._prepare_second_run()
        self.session.start()
        self.entered = True

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        lines = None
        # Whatever goes wrong here, an interrupt too: what was recorded is kept.
        try:
            self.session.end_recording()
            lines = self._lines(error_type)
        finally:
            try:
                self.session.stop(more=None if lines is None else {"lines": lines.rows})
            finally:
                if lines is not None:
                    self.said = self.session.profile.meta["lines"] = lines.said
                self._at_end(self)

    def _lines(self, error_type: type[BaseException] | None) -> LinesResult | None:
        if self._second_run is None or isinstance(self._second_run, LinesResult):
            return self._second_run
        if error_type is not None:
            return not_run(f"the code ended with {error_type.__name__}, and runs only once then")
        return self._second_run.run()


def _raw_cell(result: ExecutionResult) -> str | None:
    return None if result.info is None else result.info.raw_cell


def _make_last_value(shell: InteractiveShell, profile: Profile) -> None:
    """Make the profile ``_``, as if IPython had shown it: what was there becomes ``__``.

    Setting the name alone would look as if the user had taken it, and IPython would leave it alone
    from then on. If the user has, it stays the user's.
    """
    hook: Any = shell.displayhook
    is_free = shell.user_ns.get("_") is hook._
    hook.___, hook.__, hook._ = hook.__, hook._, profile
    if is_free:
        shell.push({"_": hook._, "__": hook.__, "___": hook.___}, interactive=False)


def _is_future_import(node: ast.stmt) -> bool:
    return isinstance(node, ast.ImportFrom) and node.module == "__future__"


def _profile_options(first_line: str, body: str) -> ProfileOptions | None:
    """Return the options of a cell that ``%%claude_pm_profile`` can record, else None."""
    header = _PROFILE_CELL.match(first_line)
    return None if header is None or not body.strip() else _readable_options(header[1])


def _readable_options(text: str) -> ProfileOptions | None:
    try:
        return parse_options(text)
    except UsageError:
        return None


def _fits_in_with(statement: str) -> bool:
    """Whether a statement can stand behind ``with ...:`` on one line."""
    try:
        ast.parse(f"with x: {statement}")
    except SyntaxError:
        return False
    return bool(statement.strip())


def _is_expression(statement: str) -> bool:
    try:
        ast.parse(f"({statement})", mode="eval")
    except SyntaxError:
        return False
    return True
