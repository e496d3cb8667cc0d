"""``%%orchestrate`` in a real kernel, with the embedded model."""

from __future__ import annotations

import json
import re

import pytest

from tests.notebook.kernel import Kernel

pytestmark = pytest.mark.slow


class TestAnswer:
    def test_shows_answer_and_profile(self, kernel: Kernel) -> None:
        """The answer is printed, the value is a profile of the whole road with real tokens."""
        ran = kernel.run("%%orchestrate qa --max-tokens 6 --as asked\nSay hello.")
        assert ran.error is None, ran.traceback
        assert set(ran.result) == {"text/plain", "text/html"}
        told = json.loads(
            kernel.run(
                "import json\n"
                "t = asked.spans.set_index('name')\n"
                "print(json.dumps([asked.meta['model_use'], t.loc['orchestrate', 'agent'],"
                " t.loc['orchestrate', 'mode'], int(t.loc['chat', 'output_tokens']),"
                " json.loads(t.loc['orchestrate', 'attributes'])['response']]))"
            ).stdout
        )
        assert told[:3] == ["live", "qa", "local"]
        assert 1 <= told[3] <= 6
        assert told[4] == ran.stdout.removesuffix("\n")
        assert kernel.run("_ is asked and claude_pm.last() is asked").text == "True"

    def test_modes_in_turns(self, kernel: Kernel) -> None:
        """Several modes and repeats are an experiment; each worker is a process of its own."""
        ran = kernel.run(
            "%%orchestrate qa --mode local,SUBPROCESS --repeat 2 --max-tokens 2 --as both\n"
            "Say hello."
        )
        assert ran.error is None, ran.traceback
        assert "subprocess" in ran.result["text/plain"]
        # It ends the sentence, or is followed by how many more it takes to decide.
        assert re.search(r"n = 2[.)]", ran.result["text/plain"])
        told = json.loads(
            kernel.run(
                "import json, claude_pm\nt = both.spans\n"
                "samples = both.samples\n"
                "answered = t[t['name'] == 'chat'].sort_values('start_s')\n"
                "print(json.dumps([type(both).__name__, samples['condition'].tolist(),"
                " samples['warmup'].tolist(), answered['mode'].tolist(),"
                " answered['pid'].nunique(), answered['cache_read_tokens'].tolist(),"
                " both.meta['cpu'], claude_pm.last() is both]))"
            ).stdout
        )
        assert told[0] == "Experiment"
        for first in (0, 2, 4):
            assert sorted(told[1][first : first + 2]) == ["local", "subprocess"]
        assert told[2] == [True] * 2 + [False] * 4
        assert told[3] == told[1]
        assert told[4] == 4
        # The first answer of all saved its agent's prompt, so even fresh processes start hot.
        assert min(told[5][2:]) > 100
        assert told[6:] == [None, True]

    def test_batch(self, kernel: Kernel) -> None:
        """Each line is a request of its own; one that fails does not lose the rest."""
        ran = kernel.run(
            "%%orchestrate research --batch --max-tokens 3 --as many\n"
            "qa: Say hello.\n\n"
            "Version-Control: Say: hello.\n"
            "Note: this goes to research."
        )
        assert ran.error is None, ran.traceback
        asked = ["qa: Say hello.", "version_control: Say: hello.", "research: Note: this goes to"]
        assert all(line in ran.stdout for line in asked)
        told = json.loads(
            kernel.run(
                "t = many.spans\n"
                "asked = t[t['name'] == 'orchestrate'].sort_values('start_s')\n"
                "print(json.dumps([t['name'].iloc[0], sorted(asked['agent']),"
                " asked['status'].unique().tolist()]))"
            ).stdout
        )
        assert told == ["batch", ["qa", "research", "version_control"], ["ok"]]

    def test_own_loop(self, kernel: Kernel) -> None:
        """The request runs on the kernel's own loop: the notebook's tasks go on meanwhile."""
        kernel.run(
            "ticks = 0\n"
            "async def tick():\n"
            "    global ticks\n"
            "    while True:\n"
            "        ticks += 1\n"
            "        await asyncio.sleep(0.001)\n"
            "ticking = asyncio.create_task(tick())"
        )
        kernel.run("before = ticks")
        kernel.run("%%orchestrate qa --max-tokens 8\nSay hello.")
        grown = kernel.run("during = ticks - before\nticking.cancel()\nduring > 3").text
        assert grown == "True"

    def test_interrupt_keeps_the_profile(self, kernel: Kernel) -> None:
        """An interrupted answer ends, and its spans are kept as cancelled."""
        ran = kernel.run_and_interrupt(
            "%%orchestrate qa --max-tokens 900 --as cut\nWrite a long story.", when_printed=" "
        )
        assert ran.error in ("KeyboardInterrupt", "CancelledError")
        statuses = "cut.spans.set_index('name')['status'][['orchestrate', 'chat']].tolist()"
        assert kernel.run(statuses).text == "['cancelled', 'cancelled']"

    def test_below_the_profile_magic(self, kernel: Kernel) -> None:
        """Under ``%%claude_pm_profile`` it still asks; its spans are in both profiles."""
        ran = kernel.run(
            "%%claude_pm_profile --cpu none --quiet --as whole\n"
            "%%orchestrate qa --cpu none --max-tokens 2 --as part\n"
            "Say hello."
        )
        assert ran.error is None, ran.traceback
        counted = "[int(t.spans['name'].eq('chat').sum()) for t in (whole, part)]"
        assert kernel.run(counted).text == "[1, 1]"

    def test_failed_start_leaves_the_last_result(self, kernel: Kernel) -> None:
        """A cell that could not start to record leaves ``claude_pm.last()`` as it was."""
        kernel.run("%%claude_pm_profile --quiet --name good\nx = 1")
        kernel.run("import cProfile\nown = cProfile.Profile()\nown.enable()")
        ran = kernel.run("%%orchestrate qa --save\nhi")
        kernel.run("own.disable()")
        assert (ran.error, ran.stdout) == ("RecordingError", "")
        assert kernel.run("claude_pm.last().name").text == "'good'"

    def test_cut_short_in_a_worker(self, kernel: Kernel) -> None:
        """A worker's request that runs out of time says that the model was called."""
        ran = kernel.run(
            "%%orchestrate qa --mode subprocess --timeout 3 --max-tokens 1000 --as late\n"
            "Write a very long story."
        )
        assert ran.error == "OrchestrationTimeoutError"
        assert kernel.run("late.meta['model_use']").text == "'live'"

    def test_waiting_for_the_model_is_no_prefill(self, kernel: Kernel) -> None:
        """Requests at the same time wait in the queue, not in the model's own time."""
        ran = kernel.run(
            "%%claude_pm_profile --cpu none --quiet --as crowd\n"
            "from claude_pm.orchestration import Orchestrator\n"
            "crowded = Orchestrator()\n"
            "await asyncio.gather(*(crowded.orchestrate_agent('qa', f'Count to {n}.', mode='local',"
            " max_tokens=8) for n in range(3)));"
        )
        assert ran.error is None, ran.traceback
        overlaps = kernel.run(
            "chats = crowd.spans[crowd.spans['name'] == 'chat'].sort_values('start_s')\n"
            "ends = chats['start_s'] + chats['duration_s']\n"
            "waits = crowd.spans[crowd.spans['attributes'].str.contains('waits_for')]\n"
            "(len(chats), len(waits), bool((chats['start_s'].iloc[1:].to_numpy()"
            " >= ends.iloc[:-1].to_numpy()).all()))"
        )
        assert overlaps.text == "(3, 2, True)"


@pytest.mark.parametrize(
    ("cell", "error", "said"),
    [
        ("%%orchestrate qaa\nhi", "UnknownAgentError", "Did you mean qa"),
        ("%%orchestrate qa --mode warp\nhi", "ModeError", "local, subprocess, hybrid"),
        ("%%orchestrate qa\n  \n", "RequestError", "empty"),
        ("%%orchestrate qa --model nobody-1\nhi", "SettingsError", "CLAUDE_PM_API_KEY"),
        ("%%orchestrate qa --model none.gguf\nhi", "WeightsError", "none.gguf"),
        ("%%orchestrate qa --timeout 0.001\nhi", "OrchestrationTimeoutError", "0.001 s"),
        ("%%orchestrate qa --repeat 0\nhi", "UsageError", "from 1"),
        ("%%orchestrate qa --mode local,local\nhi", "UsageError", "twice"),
    ],
)
def test_mistakes_get_a_sentence(kernel: Kernel, cell: str, error: str, said: str) -> None:
    """A mistake is one sentence, with the error's name and without a traceback."""
    ran = kernel.run(cell)
    shown = ran.traceback or ran.stderr
    assert shown.startswith(f"{error}: ")
    assert said in shown
    assert "Traceback" not in shown
    assert "File" not in shown
