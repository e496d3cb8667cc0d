"""The ``claude-pm`` command, as a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import claude_pm
from tests import messages_server as api
from tests.messages_server import MessagesServer

COMMAND = Path(sys.executable).with_name("claude-pm")


def run(
    *arguments: str, cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMMAND, *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "COLUMNS": "200", **environment},
        timeout=120,
        check=False,
    )


class TestAgents:
    def test_list(self) -> None:
        """All nine agents are listed with what they are for."""
        listed = json.loads(run("agents", "list", "--json").stdout)
        assert [agent["name"] for agent in listed] == [
            "data_engineer", "documentation", "engineer", "ops", "qa", "research", "security",
            "ticketing", "version_control",
        ]  # fmt: skip
        text = run("agents", "list").stdout
        assert all(agent["description"] in text for agent in listed)

    def test_show(self) -> None:
        """An agent's parameters and its whole prompt are shown."""
        shown = json.loads(run("agents", "show", "data-engineer", "--json").stdout)
        text = run("agents", "show", "data-engineer").stdout
        assert shown["prompt"] in text
        assert f"max_tokens {shown['max_tokens']}" in text


def test_as_a_module() -> None:
    """``python -m claude_pm`` is the same command, for where it is not on PATH."""
    ran = subprocess.run(
        [sys.executable, "-m", "claude_pm", "--version"], capture_output=True, text=True, check=True
    )
    assert ran.stdout == run("--version").stdout


class TestBatch:
    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        """Three queries, the second to an agent that is not there."""
        path = tmp_path / "questions.jsonl"
        agents = ("qa", "nobody", "ops")
        path.write_text(
            "".join(json.dumps({"agent": name, "request": "Hello?"}) + "\n" for name in agents)
        )
        return path

    def test_resumes(self, file: Path, server: MessagesServer) -> None:
        """What failed makes the exit code 1; the next run asks only that."""
        environment = {"CLAUDE_PM_BASE_URL": server.url, "CLAUDE_PM_MODEL": "m"}
        server.script(api.answer("one"), api.answer("three"))
        done = run("batch", str(file), cwd=file.parent, **environment)
        results = file.with_name("questions.results.jsonl")
        assert (done.returncode, done.stdout) == (1, f"3 asked, 1 failed: {results}\n")
        file.write_text(file.read_text().replace("nobody", "research"))
        server.script(api.answer("two"))
        done = run("batch", str(file), "--json", "--save", cwd=file.parent, **environment)
        assert done.returncode == 0
        report = json.loads(done.stdout)
        assert (report["asked"], report["answered_before"], report["failed"]) == (1, 2, 0)
        assert claude_pm.load(report["profile"]).spans["name"].iloc[0] == "batch"
        lines = [json.loads(line) for line in results.read_text().splitlines()]
        assert [line["agent"] for line in lines] == ["qa", "research", "ops"]
        assert len(server.received) == 3

    def test_interrupted(self, file: Path, server: MessagesServer) -> None:
        """Ctrl-C keeps what was answered, and says how to go on."""
        server.script(api.answer("one"), api.SILENT)
        process = subprocess.Popen(
            [COMMAND, "batch", str(file), "--concurrency", "1"],
            cwd=file.parent,
            env={**os.environ, "CLAUDE_PM_BASE_URL": server.url, "CLAUDE_PM_MODEL": "m"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        server.wait_for_requests(2)
        process.send_signal(signal.SIGINT)
        shown, said = process.communicate(timeout=60)
        assert (process.returncode, shown) == (130, "")
        assert "Run it again" in said
        assert "Traceback" not in said
        lines = file.with_name("questions.results.jsonl").read_text().splitlines()
        assert [json.loads(line)["status"] for line in lines] == ["ok", "error"]

    def test_bad_file(self, file: Path) -> None:
        """A line that is no query is one sentence, with its number."""
        file.write_text("hello\n")
        done = run("batch", str(file), cwd=file.parent)
        assert done.returncode == 1
        assert f"claude-pm: {file}, line 1 is no JSON" in done.stderr
        assert "Traceback" not in done.stderr


class TestProfile:
    def test_runs_the_script_as_itself(self, tmp_path: Path) -> None:
        """The script gets its arguments, prints as always, and its exit code is the command's."""
        script = tmp_path / "job.py"
        script.write_text(
            "import sys, claude_pm, helper\n"
            "if __name__ == '__main__':\n"
            "    with claude_pm.span('step'):\n"
            "        print(helper.double(21), sys.argv[1:])\n"
            "    sys.exit(3)\n"
        )
        (tmp_path / "helper.py").write_text("def double(n): return 2 * n\n")
        done = run("profile", "--name", "the job", str(script), "--flag", "x", cwd=tmp_path)
        assert (done.returncode, done.stdout) == (3, "42 ['--flag', 'x']\n")
        saved = claude_pm.load(done.stderr.rpartition("Saved as ")[2].strip())
        assert saved.name == "the job"
        assert saved.spans["name"].tolist() == ["step"]
        counted = saved.functions.set_index("function")["calls"]
        assert counted["double"] == 1
        assert not saved.functions["file"].str.contains("claude_pm/cli").any()

    def test_error_of_the_script(self, tmp_path: Path) -> None:
        """Its traceback begins in the script, the exit code is 1, and the profile is kept."""
        script = tmp_path / "bad.py"
        script.write_text("def f():\n    return 1 / 0\nf()\n")
        done = run("profile", str(script), cwd=tmp_path)
        assert done.returncode == 1
        assert "ZeroDivisionError" in done.stderr
        assert "claude_pm/cli" not in done.stderr
        assert "Saved as " in done.stderr

    def test_async_script(self, tmp_path: Path) -> None:
        """A script that runs an event loop of its own works, its tasks' spans included."""
        script = tmp_path / "loop.py"
        script.write_text(
            "import asyncio, claude_pm\n"
            "async def one(n):\n"
            "    with claude_pm.span('one', n=n): await asyncio.sleep(0)\n"
            "async def main(): await asyncio.gather(*(one(n) for n in range(3)))\n"
            "asyncio.run(main())\n"
        )
        done = run("profile", "--cpu", "none", str(script), cwd=tmp_path)
        saved = claude_pm.load(done.stderr.rpartition("Saved as ")[2].strip())
        assert saved.spans["name"].tolist() == ["one"] * 3


class TestReport:
    def test_written_from_a_saved_profile(self, tmp_path: Path) -> None:
        """A saved profile becomes one HTML file at the path that is printed."""
        with claude_pm.profile("tiny", cpu=None, memory=None) as profile:
            pass
        saved = profile.save()
        done = run("report", str(saved), "-o", str(tmp_path / "out.html"))
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == str(tmp_path / "out.html")
        assert "tiny" in (tmp_path / "out.html").read_text(encoding="utf-8")
        assert claude_pm.load(tmp_path / "out.html").id == profile.id

    def test_without_content(self, tmp_path: Path) -> None:
        """Prompts and answers are left out, of the tables in the file too; numbers stay."""
        with (
            claude_pm.profile("tiny", cpu=None, memory=None) as profile,
            claude_pm.span("orchestrate", request="my question", tokens=7),
        ):
            pass
        for options, shown in ((), True), (("--without-content",), False):
            done = run("report", str(profile.save()), "-o", str(tmp_path / "out.html"), *options)
            assert done.returncode == 0, done.stderr
            html = (tmp_path / "out.html").read_text(encoding="utf-8")
            loaded = claude_pm.load(tmp_path / "out.html")
            assert ("my question" in html) is shown
            assert ("my question" in loaded.spans["attributes"][0]) is shown
            assert len(loaded.spans) == 1

    def test_profiles_are_listed_and_shown(self) -> None:
        """A saved profile is in the list, and shown by its id."""
        with claude_pm.profile("tiny", cpu=None, memory=None) as profile:
            pass
        profile.save()
        listed = json.loads(run("profiles", "list", "--json").stdout)
        assert [row["id"] for row in listed] == [profile.id]
        assert profile.id in run("profiles", "list").stdout
        assert run("profiles", "show", profile.id).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        (["orchestrate", "qaa", "hi"], {}, "Did you mean qa"),
        (["orchestrate", "qa", "  "], {}, "empty"),
        (["orchestrate", "qa", "hi", "--mode", "warp"], {}, "local, subprocess, hybrid"),
        (["orchestrate", "qa", "hi", "--model", "nobody-1"], {}, "ANTHROPIC_API_KEY"),
        (["orchestrate", "qa", "hi", "--model", "x.gguf"], {}, "x.gguf"),
        (["orchestrate", "qa", "hi"], {"CLAUDE_PM_MAX_WORKERS": "0"}, "CLAUDE_PM_MAX_WORKERS"),
        (["orchestrate", "qa", "hi"], {"CLAUDE_PM_BASE_URL": "http://127.0.0.1:9"}, "127.0.0.1:9"),
        (["agents", "show", "nobody"], {}, "There is no agent"),
        (["report", "nothing-here"], {}, "There is no profile"),
        (["profile", "missing.py"], {}, "missing.py"),
        (["profile", "--cpu", "never", "missing.py"], {}, "missing.py"),
    ],
)
def test_mistakes_get_a_sentence(
    tmp_path: Path, arguments: list[str], environment: dict[str, str], said: str
) -> None:
    """A mistake is a sentence on standard error, exit code 1, and nothing on standard output."""
    done = run(*arguments, cwd=tmp_path, **environment)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("claude-pm: ")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_every_command_has_help() -> None:
    """``--help`` works everywhere, and says what each command is for."""
    for command in (
        [],
        ["orchestrate"],
        ["profile"],
        ["report"],
        ["doctor"],
        ["agents"],
        ["models"],
    ):
        done = run(*command, "--help")
        assert done.returncode == 0
        assert "Usage" in done.stdout


def test_models() -> None:
    """The weights' place is printed, and whether they are in use."""
    path = run("models", "path").stdout.strip()
    listed = json.loads(run("models", "list", "--json").stdout)
    assert path.endswith(".gguf")
    assert [row["in use"] for row in listed] == ["yes"]


@pytest.mark.slow
class TestWithTheModel:
    def test_guides_command(self) -> None:
        """The guide's command answers on standard output; the figures go to standard error."""
        done = run(
            "orchestrate", "documentation", "Generate quick summary", CLAUDE_PM_MAX_TOKENS="8"
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip()
        assert "tokens in" in done.stderr
        assert "tokens in" not in done.stdout

    def test_saved_profile(self) -> None:
        """``--save`` keeps a profile of the request, with the model's tokens in it."""
        done = run("orchestrate", "qa", "Say hello.", "--max-tokens", "4", "--json", "--save")
        told = json.loads(done.stdout)
        chat = claude_pm.load(told["profile"]).spans.set_index("name").loc["chat"]
        assert chat["output_tokens"] == told["usage"]["output_tokens"]
        assert chat["trace_id"] == told["trace_id"]

    def test_doctor(self) -> None:
        """The doctor tries everything, the model included, and finds nothing wrong."""
        done = run("doctor", "--json")
        findings = {finding["what"]: finding for finding in json.loads(done.stdout)}
        assert done.returncode == 0, findings
        assert "SmolLM2" in findings["model"]["seen"]
        assert "in LOCAL mode" in findings["model"]["seen"]
        assert findings["settings"]["seen"] == "LOCAL mode (default), model embedded"
        assert findings["settings"]["warning"] is None
        assert "4 requests at once, 60 s each" in findings["limits"]["seen"]

    def test_doctor_says_what_makes_it_slow(self) -> None:
        """Each setting that costs time is named with what to do, and it is no failure."""
        done = run("doctor", CLAUDE_PM_FORCE_SUBPROCESS_MODE="1", CLAUDE_PM_CACHE_ENABLED="false")
        assert done.returncode == 0, done.stdout
        assert "SUBPROCESS mode (CLAUDE_PM_FORCE_SUBPROCESS_MODE is set)" in done.stdout
        assert "unset CLAUDE_PM_FORCE_SUBPROCESS_MODE" in done.stdout
        assert "unset CLAUDE_PM_CACHE_ENABLED" in done.stdout

    def test_doctor_finds_what_is_wrong(self, tmp_path: Path) -> None:
        """A model that cannot be had is a failure with its sentence, and exit code 1."""
        wrong = tmp_path / "wrong.gguf"
        wrong.write_text("no model")
        done = run("doctor", "--json", CLAUDE_PM_MODEL=str(wrong))
        findings = {finding["what"]: finding for finding in json.loads(done.stdout)}
        assert done.returncode == 1
        assert not findings["model"]["works"]
        assert "not a GGUF file" in findings["model"]["seen"]
