"""``claude-pm profile SCRIPT.py [args]``."""

from __future__ import annotations

import shlex
import sys
import traceback
import types
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from claude_pm.errors import RecordingError

if TYPE_CHECKING:
    from claude_pm.recording.lines import LinesResult, SecondRun


def profile_script(
    script: Annotated[Path, typer.Argument(help="The Python script to run.")],
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[ARGS]...", help="The script's own arguments.")
    ] = None,
    *,
    name: Annotated[str | None, typer.Option(help="What to call the profile.")] = None,
    cpu: Annotated[
        str | None,
        typer.Option(help="cprofile (unless memory is trace), sample or none."),
    ] = None,
    memory: Annotated[str, typer.Option(help="rss, trace, memray or none.")] = "rss",
    internals: Annotated[
        bool, typer.Option("--internals", help="Show claude_pm's own frames too.")
    ] = False,
    lines: Annotated[
        bool,
        typer.Option(
            "--lines",
            help="Record CPU and memory of each line too: the script runs a second time for that, "
            'and what it prints then is dropped (needs pip install "claude-pm\\[lines]").',
        ),
    ] = False,
) -> None:
    """Run a script, save its profile and show the summary.

    The script runs as it would by itself; the exit code is its own.
    """
    from claude_pm.recording import ProfileSession
    from claude_pm.recording.lines import SecondRun
    from claude_pm.views.summary import summary_text

    try:
        code = compile(script.read_bytes(), str(script), "exec", dont_inherit=True)
    except (OSError, SyntaxError, ValueError) as error:
        raise RecordingError(f"The script {script} cannot be run: {error}.") from error
    session = ProfileSession(
        name or script.stem,
        cpu={"none": None, None: ...}.get(cpu, cpu),
        memory=None if memory == "none" else memory,
        internals=internals,
        source=shlex.join([str(script), *(arguments or [])]),
    )
    second_run = SecondRun.of_script(script, arguments or []) if lines else None
    failure: BaseException | None = None
    exit_code = 0
    # Held until the recording has ended: what the script holds at its end is a part of it.
    module = types.ModuleType("__main__")
    session.start()
    try:
        _run(code, module, script, arguments or [])
    except SystemExit as exit_request:
        exit_code = _exit_code(exit_request)
    except Exception as problem:  # noqa: BLE001 - the script's own, shown as Python would
        _show_error(problem, script)
        failure, exit_code = problem, 1
    except KeyboardInterrupt as interrupt:
        failure, exit_code = interrupt, 130
    finally:
        # An interrupt may come here too: what was recorded is saved.
        try:
            session.end_recording()
        except KeyboardInterrupt as interrupt:
            failure, exit_code = interrupt, 130
        found = _lines(second_run, failure)
        try:
            session.stop(more={"lines": found.rows})
        except KeyboardInterrupt:
            exit_code = 130
        profile = session.profile
        if lines:
            profile.meta["lines"] = found.said
        saved = profile.save()
    # What the script printed stays alone on standard output.
    typer.echo(summary_text(profile), err=True)
    if found.said is not None:
        typer.echo(found.said, err=True)
    typer.echo(f"Saved as {saved}", err=True)
    raise typer.Exit(exit_code)


def _lines(second_run: SecondRun | None, error: BaseException | None) -> LinesResult:
    """Return what a second run tells of the lines, where one is wanted and worth it."""
    from claude_pm.recording.lines import LinesResult, not_run

    if second_run is None:
        return LinesResult([], None)
    if error is not None:
        return not_run(f"the script ended with {type(error).__name__}, and runs only once then")
    return second_run.run()


def _run(
    code: types.CodeType, module: types.ModuleType, script: Path, arguments: list[str]
) -> None:
    """Execute the script as ``__main__``, with its own arguments and folder."""
    module.__dict__.update(__file__=str(script), __builtins__=__builtins__)
    before = sys.argv, sys.path[0], sys.modules["__main__"]
    sys.argv = [str(script), *arguments]
    sys.path[0] = str(script.resolve().parent)
    sys.modules["__main__"] = module
    try:
        exec(code, module.__dict__)  # noqa: S102 - running it is the command's purpose
    finally:
        sys.argv, sys.path[0], sys.modules["__main__"] = before


def _show_error(error: Exception, script: Path) -> None:
    """Print the traceback from the script's first frame on."""
    tb = error.__traceback__
    while tb is not None and tb.tb_frame.f_code.co_filename != str(script):
        tb = tb.tb_next
    traceback.print_exception(type(error), error, tb)


def _exit_code(request: SystemExit) -> int:
    if request.code is None or isinstance(request.code, int):
        return request.code or 0
    typer.echo(request.code, err=True)
    return 1
