"""``%claude_pm_profile`` and ``%%claude_pm_profile`` in a real kernel."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.notebook.kernel import Kernel

pytestmark = pytest.mark.slow


class TestCell:
    def test_await_output_value_and_names(self, kernel: Kernel) -> None:
        """A cell with top-level await shows its output, its value, then the profile."""
        ran = kernel.run(
            "%%claude_pm_profile --name first --as p\n"
            "with claude_pm.span('nap'):\n"
            "    await asyncio.sleep(0.01)\n"
            "x = '''two\n"
            "lines'''\n"
            "print('hello')\n"
            "x.upper()"
        )
        assert ran.error is None
        assert ran.stdout == "hello\n"
        assert ran.text == "'TWO\\nLINES'"
        assert ran.order == ["execute_result", "display_data"]
        assert set(ran.displays[0]) == {"text/plain", "text/html"}
        kept = kernel.run("x, _ == x.upper(), p.name, list(p.spans['name']), claude_pm.last() is p")
        assert kept.text == "('two\\nlines', True, 'first', ['nap'], True)"

    def test_profile_is_underscore_without_a_value(self, kernel: Kernel) -> None:
        """A cell without a value of its own leaves the profile in ``_``."""
        kernel.run("%%claude_pm_profile --name silent\ny = 1")
        assert kernel.run("_.name").text == "'silent'"

    def test_underscore_goes_on(self, kernel: Kernel) -> None:
        """The cells after it have their own last values, and the profile becomes ``__``."""
        kernel.run("%%claude_pm_profile --name silent --quiet\ny = 1")
        kernel.run("20 + 2")
        assert kernel.run("(_, __.name)").text == "(22, 'silent')"
        assert kernel.run("_[0]").text == "22"

    def test_cells_have_their_names_without_the_magic(self, kernel: Kernel) -> None:
        """``claude_pm.profile()`` in a cell names the notebook's functions by their cells too."""
        kernel.run("def thrice(x):\n    return 3 * x\nnumber = len(In) - 1")
        ran = kernel.run(
            "with claude_pm.profile('block') as block:\n    thrice(2)\n"
            "t = block.functions\n"
            "t.loc[t.function == 'thrice', 'file'].iloc[0] == f'In[{number}]'"
        )
        assert ran.text == "True", ran.traceback

    def test_cell_that_runs_a_cell(self, kernel: Kernel) -> None:
        """A profiled cell may run another one, and keeps its own profile."""
        ran = kernel.run(
            "%%claude_pm_profile --as around\n"
            "with claude_pm.span('outer'):\n"
            "    get_ipython().run_cell('inner = 1')\n"
            "    get_ipython().run_cell('')"
        )
        assert len(ran.displays) == 1
        assert kernel.run("(around.spans['name'].tolist(), inner)").text == "(['outer'], 1)"

    def test_functions_are_the_users(self, kernel: Kernel) -> None:
        """Only the cell's own calls are counted, under the cell's number, with true counts."""
        ran = kernel.run(
            "%%claude_pm_profile --as counted --quiet\n"
            "def twice(n): return 2 * n\n"
            "async def calls():\n"
            "    for n in range(10):\n"
            "        twice(n)\n"
            "        await asyncio.sleep(0)\n"
            "await calls()"
        )
        assert ran.displays == []
        counted = kernel.run(
            "t = counted.functions\n"
            "number = len(In) - 2\n"
            "(int(t.loc[t.function == 'twice', 'calls'].iloc[0]),"
            " t.loc[t.function == 'twice', 'file'].iloc[0] == f'In[{number}]',"
            " counted.name == f'In[{number}]',"
            " t.file.str.contains('IPython|ipykernel|tornado|traitlets|zmq').sum())"
        )
        assert counted.text == "(10, True, True, np.int64(0))"

    def test_error_is_the_users_and_profile_is_kept(self, kernel: Kernel) -> None:
        """The user's exception comes through as it is, and what was recorded is kept and shown."""
        ran = kernel.run(
            "%%claude_pm_profile --as failed\n"
            "with claude_pm.span('before'):\n"
            "    await asyncio.sleep(0)\n"
            "raise KeyError('gone')"
        )
        assert ran.error == "KeyError"
        assert "----> 4 raise KeyError('gone')" in ran.traceback
        assert "claude_pm/notebook" not in ran.traceback
        assert len(ran.displays) == 1
        assert kernel.run("list(failed.spans['name'])").text == "['before']"

    def test_profiler_is_off_after_an_error(self, kernel: Kernel) -> None:
        """A failed cell leaves no profiler on: cProfile works in the next cell."""
        kernel.run("%%claude_pm_profile --quiet\n1 / 0")
        ran = kernel.run("import cProfile\nown = cProfile.Profile()\nown.enable()\nown.disable()")
        assert ran.error is None

    def test_another_profiler_is_named(self, kernel: Kernel) -> None:
        """With another profiler on, the cell does not run and one sentence says why."""
        kernel.run("import cProfile\nown = cProfile.Profile()\nown.enable()\nran = False")
        ran = kernel.run("%%claude_pm_profile\nran = True")
        kernel.run("own.disable()")
        assert ran.error == "RecordingError"
        assert "Another profiler is already active" in ran.traceback
        assert "File" not in ran.traceback
        assert kernel.run("ran").text == "False"

    def test_interrupt_keeps_the_profile(self, kernel: Kernel) -> None:
        """An interrupted await ends; what was recorded until then is kept."""
        ran = kernel.run_and_interrupt(
            "%%claude_pm_profile --as stopped\n"
            "with claude_pm.span('long'):\n"
            "    print('go')\n"
            # ipykernel's signal handler does not wake a loop that sleeps: let this one tick.
            "    while True:\n"
            "        await asyncio.sleep(0.05)",
            when_printed="go",
        )
        assert ran.error in ("KeyboardInterrupt", "CancelledError")
        seen = kernel.run("stopped.spans.loc[0, ['name', 'status']].tolist()")
        assert seen.text == "['long', 'cancelled']"

    def test_interrupt_as_the_profile_is_made(self, kernel: Kernel) -> None:
        """A Ctrl-C after the cell's code has ended loses nothing of it."""
        kernel.run(
            "from claude_pm.recording import profile_session\n"
            "asks_git = profile_session._git_state\n"
            "def interrupted():\n    profile_session._git_state = asks_git\n"
            "    raise KeyboardInterrupt\n"
            "profile_session._git_state = interrupted"
        )
        ran = kernel.run("%%claude_pm_profile --as kept\nwith claude_pm.span('nap'):\n    pass")
        assert ran.error == "KeyboardInterrupt"
        assert kernel.run("list(kept.spans['name'])").text == "['nap']"

    def test_interrupt_of_a_busy_cell(self, kernel: Kernel) -> None:
        """The same holds for code that does not await."""
        ran = kernel.run_and_interrupt(
            "%%claude_pm_profile --as busy\n"
            "import time\n"
            "with claude_pm.span('loop'):\n"
            "    print('go', flush=True)\n"
            "    while True:\n"
            "        time.sleep(0.01)",
            when_printed="go",
        )
        assert ran.error == "KeyboardInterrupt"
        assert kernel.run("busy.spans['status'].tolist()").text == "['cancelled']"

    def test_next_cell_is_not_recorded(self, kernel: Kernel) -> None:
        """Spans of a later cell do not reach the profile of an earlier one."""
        kernel.run("%%claude_pm_profile --as one --quiet\nwith claude_pm.span('in'): pass")
        kernel.run("with claude_pm.span('after'): pass")
        assert kernel.run("list(one.spans['name'])").text == "['in']"

    def test_future_import_and_semicolon(self, kernel: Kernel) -> None:
        """A future import may stand in the cell, and a semicolon hides the value."""
        ran = kernel.run("%%claude_pm_profile --quiet\nfrom __future__ import annotations\n1 + 1;")
        assert (ran.error, ran.result) == (None, {})

    def test_syntax_error_is_the_users(self, kernel: Kernel) -> None:
        """A syntax error is shown as IPython does, and nothing is recorded."""
        before = kernel.run("claude_pm.last().id").text
        ran = kernel.run("%%claude_pm_profile\nx = = 1")
        assert ran.error == "SyntaxError"
        assert ran.displays == []
        assert kernel.run("claude_pm.last().id").text == before

    def test_save(self, kernel: Kernel) -> None:
        """``--save`` prints where the profile is; it can be loaded from there."""
        ran = kernel.run("%%claude_pm_profile --save --quiet --name kept\nx = 1")
        path = ran.stdout.removeprefix("Saved as ").strip()
        assert kernel.run(f"claude_pm.load({path!r}).name").text == "'kept'"

    def test_meta_has_the_source(self, kernel: Kernel) -> None:
        """The cell's text is in the meta record."""
        kernel.run("%%claude_pm_profile --quiet\nmarker = 'here'")
        assert "marker = 'here'" in kernel.run("claude_pm.last().meta['source']").text


class TestLine:
    def test_value_of_the_last_line(self, kernel: Kernel) -> None:
        """The last line of a cell shows the statement's value, and the profile before it."""
        ran = kernel.run("%claude_pm_profile sum([1, 2])")
        assert (ran.text, len(ran.displays)) == ("3", 1)

    def test_await_between_other_lines(self, kernel: Kernel) -> None:
        """A line awaits on the kernel's loop, and its variables are the cell's."""
        ran = kernel.run(
            "a = 1\n"
            "%claude_pm_profile --quiet --as q b = await asyncio.sleep(0, result=a + 1)\n"
            "(a, b, q.meta['source'])"
        )
        assert ran.text == "(1, 2, 'b = await asyncio.sleep(0, result=a + 1)')"

    def test_in_a_loop(self, kernel: Kernel) -> None:
        """An indented line records each time it runs."""
        ran = kernel.run(
            "ids = set()\n"
            "for n in range(3):\n"
            "    %claude_pm_profile --quiet n ** n\n"
            "    ids.add(claude_pm.last().id)\n"
            "len(ids)"
        )
        assert ran.text == "3"

    def test_error_keeps_the_profile(self, kernel: Kernel) -> None:
        """An exception passes through, and the profile is kept."""
        ran = kernel.run("%claude_pm_profile --quiet --as bad 1 / 0")
        assert ran.error == "ZeroDivisionError"
        assert kernel.run("bad.meta['source']").text == "'1 / 0'"

    def test_in_a_string_it_is_text(self, kernel: Kernel) -> None:
        """The same characters within a string stay a string."""
        assert kernel.run("'''\n%claude_pm_profile 1\n'''").text == "'\\n%claude_pm_profile 1\\n'"


class TestLines:
    def test_cell_with_a_function_of_another(self, kernel: Kernel) -> None:
        """Lines are numbered as typed, under the cells' numbers; the code ran here just once."""
        kernel.run(
            "def work(n):\n    while n:\n        n -= 1\n    return offset\noffset = 4\nruns = []"
        )
        ran = kernel.run(
            "%%claude_pm_profile --lines --as lined\n"
            "print('once')\n"
            "runs.append(len(runs))\n"
            "assert runs == [0]\n"
            "await asyncio.sleep(0)\n"
            "work(3_000_000)"
        )
        assert (ran.error, ran.stdout, ran.text) == (None, "once\n", "4")
        seen = kernel.run(
            "t = lined.lines\n"
            "cell, before = lined.name, f'In[{len(In) - 3}]'\n"
            "(runs, set(t.file) <= {cell, before}, set(t[t.file == before].line) >= {2, 3},"
            " t.loc[t.file == before, 'source'].iloc[-1], lined.meta['lines'],"
            " len(lined.functions) > 0)"
        )
        assert seen.text == "([0], True, True, '        n -= 1', None, True)"

    def test_statement(self, kernel: Kernel) -> None:
        """A statement's line has the number that it has in its cell."""
        kernel.run("x = 1\n\n%claude_pm_profile --lines --as lined held = bytearray(80_000_000)")
        seen = kernel.run("lined.lines[['line', 'source']].values.tolist()")
        assert seen.text == "[[3, 'held = bytearray(80_000_000)']]"

    def test_failed_code_is_not_run_again(self, kernel: Kernel) -> None:
        """An error stays the user's own; under the summary it is said why there are no lines."""
        ran = kernel.run("%%claude_pm_profile --lines --as lined\nsorted([1])\n1 / 0")
        assert ran.error == "ZeroDivisionError"
        assert ran.stdout == (
            "No lines were recorded: the code ended with ZeroDivisionError, and runs only once "
            "then.\n"
        )
        assert kernel.run("len(lined.lines), len(lined.functions) > 0").text == "(0, True)"

    def test_syntax_of_ipython(self, kernel: Kernel) -> None:
        """A cell with a magic is recorded, and told that its lines cannot be."""
        ran = kernel.run("%%claude_pm_profile --lines --quiet\nx = 1\n%who_ls\nx")
        assert ran.error is None
        assert "has syntax of IPython in line 3" in ran.stdout

    def test_interrupt_keeps_the_profile(self, kernel: Kernel, tmp_path: Path) -> None:
        """An interrupt of the second run ends that alone, in a cell that awaits too."""
        started = tmp_path / "runs"
        message = kernel.client.execute(
            "%%claude_pm_profile --lines --as lined\n"
            "import time\n"
            "await asyncio.sleep(0)\n"
            f"with open({str(started)!r}, 'a') as file: file.write('x')\n"
            f"if open({str(started)!r}).read() == 'xx': time.sleep(100)\n"
            "'value'"
        )
        while not started.exists() or started.read_text() != "xx":
            time.sleep(0.05)
        kernel._manager.interrupt_kernel()
        ran = kernel.collect(message)
        assert (ran.error, ran.text) == (None, "'value'")
        assert "was interrupted" in ran.stdout
        assert kernel.run("len(lined.lines), len(lined.functions) > 0").text == "(0, True)"

    def test_missing_package(self, kernel: Kernel) -> None:
        """Without scalene nothing runs, and one sentence says what to install."""
        kernel.run(
            "import importlib.util\n"
            "there = importlib.util.find_spec\n"
            "importlib.util.find_spec = lambda n, *a: None if n == 'scalene' else there(n, *a)"
        )
        ran = kernel.run("%%claude_pm_profile --lines\nhas_run = True")
        kernel.run("importlib.util.find_spec = there")
        assert ran.error == "RecordingError"
        assert 'pip install "claude-pm[lines]"' in ran.traceback
        assert "File" not in ran.traceback
        assert kernel.run("'has_run' in globals()").text == "False"


class TestRepeat:
    @pytest.fixture(autouse=True)
    def _stub(self, kernel: Kernel) -> Iterator[None]:
        """Count the turns in place of the tracing, which is tested where it is made."""
        kernel.run(
            "from claude_pm.recording import ProfileSession as S\n"
            "kept = {n: vars(S).get(n) for n in ('repeats', '_make_instruments')}\n"
            "S.repeats = lambda self, n: (turns.append(i) or i for i in range(n))\n"
            "S._make_instruments = lambda self, recorder: []\n"
            "turns, runs = [], []"
        )
        yield
        kernel.run("for n, f in kept.items(): setattr(S, n, f) if f else delattr(S, n)")

    def test_body_runs_so_often(self, kernel: Kernel) -> None:
        """The whole cell runs N times, awaits included; its value is shown once."""
        ran = kernel.run(
            "%%claude_pm_profile --memory trace --repeat 3 --as p\n"
            "from __future__ import annotations\n"
            "_ = 'mine'\n"
            "runs.append(await asyncio.sleep(0, result=len(runs)))\n"
            "len(runs)"
        )
        assert (ran.error, ran.text) == (None, "3")
        seen = kernel.run("turns, runs, p.meta['memory'], p.meta['cpu']")
        assert seen.text == "([0, 1, 2], [0, 1, 2], 'trace', None)"
        kernel.run("del _")

    def test_error_ends_it(self, kernel: Kernel) -> None:
        """An error ends the cell in the turn that it comes in, at its own line."""
        ran = kernel.run(
            "%%claude_pm_profile --memory trace --repeat 3 --quiet\n"
            "runs.append(1)\n"
            "1 / (2 - len(runs))"
        )
        assert ran.error == "ZeroDivisionError"
        assert "----> 3 1 / (2 - len(runs))" in ran.traceback
        assert kernel.run("turns").text == "[0, 1]"


def test_options_that_do_not_go_together(kernel: Kernel) -> None:
    """CPU times beside traced memory: one sentence, and the cell does not run."""
    for use in ("%%claude_pm_profile {}\nfine = 1", "%claude_pm_profile {} fine = 1"):
        ran = kernel.run(use.format("--memory trace --cpu cprofile"))
        assert ran.error == "RecordingError"
        assert "a pass of its own" in ran.traceback
        assert "File" not in ran.traceback
    assert kernel.run("'fine' in globals()").text == "False"


def test_help_names_every_option(kernel: Kernel) -> None:
    """``?`` shows the options with what they are for."""
    kernel.run("text = get_ipython().magics_manager.magics['cell']['claude_pm_profile'].__doc__")
    text = kernel.run("print(text)").stdout
    for option in ("--lines", "--repeat", "--internals", "--cpu", "--memory", "--save", "--as"):
        assert option in text
    assert "runs a second time" in " ".join(text.split())


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("%claude_pm_profile", "one simple statement"),
        ("%claude_pm_profile for n in range(3): pass", "one simple statement"),
        ("x = %claude_pm_profile f()", "one simple statement"),
        ("%claude_pm_profile --bogus f()", "--bogus"),
        ("%%claude_pm_profile --cpu never\nx", "never"),
        ("%%claude_pm_profile --as 1x\nx", "1x"),
        ("%%claude_pm_profile\n\n", "there is none"),
        ("%%claude_pm_profile --memory all\nx", "all"),
        ("%%claude_pm_profile --repeat 2\nx", "--memory trace"),
        ("%%claude_pm_profile --memory trace --repeat 0\nx", "whole number from 1"),
        ("%claude_pm_profile --memory trace --repeat 2 f()", "whole cell"),
    ],
)
def test_mistakes_get_a_sentence(kernel: Kernel, cell: str, said: str) -> None:
    """A mistake in the line is one usage sentence, without a traceback."""
    ran = kernel.run(cell)
    assert ran.stderr.startswith("UsageError: ")
    assert said in ran.stderr
    assert ran.traceback.count("\n") <= 1
    assert ran.displays == []


def test_unload_takes_everything_away(kernel: Kernel) -> None:
    """After ``%unload_ext`` the magics are gone; loading again brings them back."""
    ran = kernel.run("%unload_ext claude_pm\n")
    assert ran.error is None
    gone = kernel.run("%%claude_pm_profile\nx")
    kernel.run("%load_ext claude_pm\n")
    back = kernel.run("%%claude_pm_profile --quiet\n'back'")
    assert "not found" in gone.stderr
    assert back.text == "'back'"


def test_bundle_is_json(kernel: Kernel) -> None:
    """A profile as the last value is one bundle of text and HTML."""
    kernel.run("%%claude_pm_profile --quiet --as shown\nx = 1")
    ran = kernel.run("shown")
    assert set(ran.result) == {"text/plain", "text/html"}
    assert json.dumps(ran.result)
