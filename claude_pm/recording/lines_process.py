"""The program that scalene runs: it runs the user's code, and records while that runs only.

``python -m scalene run --off ... lines_process.py --- JOB.json``. It imports nothing of claude_pm:
what is on the path is the user's.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import json
import os
import sys
import tempfile
import types
from pathlib import Path
from typing import Any


def main(job_file: str) -> None:
    """Run the code as the job says, and write how it ended."""
    job: dict[str, Any] = json.loads(Path(job_file).read_text(encoding="utf-8"))
    # What served to get here is not for the user's code.
    for name in ("PYTHONSAFEPATH", "TMPDIR"):
        os.environ.pop(name, None)
    os.environ.update(job["environment"])
    tempfile.tempdir = None
    sys.path[:] = job["path"]
    sys.argv = job["argv"]
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    error: str | None = None
    try:
        _run(job, vars(module))
    except SystemExit:
        pass  # a script's way to end
    except BaseException as problem:  # noqa: BLE001 - whatever the user's code raises
        error = f"{type(problem).__name__}: {problem}"
    Path(job["ended_file"]).write_text(json.dumps({"error": error}), encoding="utf-8")


def _run(job: dict[str, Any], namespace: dict[str, Any]) -> None:
    from scalene import scalene_profiler

    flags = 0
    if job["is_cell"]:
        flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        import cloudpickle

        with Path(job["names_file"]).open("rb") as file:
            namespace.update(cloudpickle.load(file))
        if job["needs_display"]:  # a built-in in a notebook
            from IPython.display import display

            namespace["display"] = display
    else:
        namespace["__file__"] = job["argv"][0]
    code = compile(
        Path(job["source_file"]).read_bytes(), job["source_file"], "exec", flags, dont_inherit=True
    )
    scalene_profiler.start()
    try:
        if job["is_cell"]:
            asyncio.run(_in_a_loop(code, namespace))
        else:
            exec(code, namespace)  # noqa: S102 - running it is what this is for
    finally:
        scalene_profiler.stop()


async def _in_a_loop(code: types.CodeType, namespace: dict[str, Any]) -> None:
    """Run a cell as a kernel does: where a loop runs, with ``await`` at the top or without."""
    value = eval(code, namespace)  # noqa: S307 - running it is what this is for
    if code.co_flags & inspect.CO_COROUTINE:
        await value


if __name__ == "__main__":
    main(sys.argv[1])
