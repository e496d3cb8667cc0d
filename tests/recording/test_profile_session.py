"""``profile()``: what it records, however the block ends, and what it says of itself."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import platform
import re
import subprocess
import threading
import time
import weakref
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pandas as pd
import pytest
from hypothesis import given, settings

import claude_pm
from claude_pm.errors import ProfileError, RecordingError, SettingsError
from claude_pm.profiles import Profile, schema
from claude_pm.recording import ProfileSession, current_recorder, profile, profile_session, span
from claude_pm.recording.instrument import RenameFile, Rows
from claude_pm.recording.recorder import Recorder
from claude_pm.recording.span import _active as active_recorders
from claude_pm.recording.span_rows import SpanRows

RECORDED_WITH = {
    "everything": {},
    "no cpu": {"cpu": None},
    "no memory": {"memory": None},
    "spans alone": {"cpu": None, "memory": None},
}
each_recording = pytest.mark.parametrize(
    "options", RECORDED_WITH.values(), ids=RECORDED_WITH.keys()
)


def work() -> int:
    """Be a function to be seen."""
    return sum(range(100))


class TestBlock:
    """A block of code, sync or async."""

    def test_time_begins_with_the_block(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What it takes to get ready to record is no part of the profile."""
        make = ProfileSession._make_instruments
        ready_ns = []

        def make_and_note(session: ProfileSession, recorder: Recorder) -> list[Any]:
            made = make(session, recorder)
            ready_ns.append(time.perf_counter_ns())
            return made

        monkeypatch.setattr(ProfileSession, "_make_instruments", make_and_note)
        session = profile(cpu=None, memory=None)
        with session:
            assert session.recorder is not None
            assert session.recorder.origin_ns >= ready_ns[0]

    @each_recording
    def test_sync(self, options: dict[str, Any]) -> None:
        """``with`` records the block: spans always, the rest as asked."""
        with profile("name", **options) as recorded, span("step"):
            work()
        assert recorded.spans["name"].tolist() == ["step"]
        assert recorded.functions.empty == ("cpu" in options)
        assert recorded.callers.empty == ("cpu" in options)
        assert recorded.memory.empty == ("memory" in options)
        assert recorded.name == "name"

    @each_recording
    async def test_async(self, options: dict[str, Any]) -> None:
        """``async with`` records the same."""
        async with profile("name", **options) as recorded:
            with span("step"):
                work()
        assert recorded.spans["name"].tolist() == ["step"]
        assert recorded.functions.empty == ("cpu" in options)
        assert recorded.memory.empty == ("memory" in options)

    @each_recording
    def test_tables(self, options: dict[str, Any]) -> None:
        """Every table has its columns and types, whether it was recorded or not."""
        with profile(**options) as recorded, span("step"):
            work()
        for name, table in schema.TABLES.items():
            schema.check(table, recorded.table(name), where="the profile")

    @pytest.mark.parametrize(
        "error", [ValueError("bad"), KeyboardInterrupt(), SystemExit(1)], ids=repr
    )
    def test_exceptions(self, error: BaseException) -> None:
        """However the block ends, the profile is kept, and the exception is the caller's."""

        def fail() -> None:
            work()
            raise error

        with pytest.raises(type(error)) as caught, profile() as recorded, span("step"):
            fail()
        assert caught.value is error
        assert recorded.spans["name"].tolist() == ["step"]
        assert "work" in recorded.functions["function"].tolist()
        assert len(recorded.memory) >= 2
        assert recorded.meta["duration_s"] > 0

    async def test_exceptions_async(self) -> None:
        """The same holds for an async block."""

        async def fail() -> None:
            work()
            raise ValueError("bad")

        with contextlib.suppress(ValueError):
            async with profile() as recorded:
                await fail()
            pytest.fail("The exception did not come through.")
        assert "work" in recorded.functions["function"].tolist()

    def test_one_after_the_other(self) -> None:
        """Each profile holds what happened in its own block."""
        with profile("first") as first, span("one"):
            pass
        with profile("second") as second, span("two"):
            work()
        assert first.spans["name"].tolist() == ["one"]
        assert second.spans["name"].tolist() == ["two"]
        assert "work" not in first.functions["function"].tolist()
        assert "work" in second.functions["function"].tolist()

    def test_public_name(self) -> None:
        """``claude_pm.profile`` is this one, and records by default CPU and memory."""
        assert claude_pm.profile is profile
        with claude_pm.profile() as recorded:
            pass
        assert (recorded.meta["cpu"], recorded.meta["memory"]) == ("cprofile", "rss")
        assert recorded.name == "profile"


class TestWhileRecording:
    """Until the block has ended there are no tables."""

    @pytest.mark.parametrize(
        "ask",
        [
            pytest.param(lambda recorded: recorded.spans, id="spans"),
            pytest.param(lambda recorded: recorded.functions, id="functions"),
            pytest.param(lambda recorded: recorded.memory, id="memory"),
            pytest.param(lambda recorded: recorded.table("lines"), id="table"),
            pytest.param(lambda recorded: recorded.summary(), id="summary"),
            pytest.param(lambda recorded: recorded.id, id="id"),
            pytest.param(lambda recorded: recorded.save(), id="save"),
        ],
    )
    def test_reading_is_an_error(self, ask: Callable[[Profile], Any]) -> None:
        """Asking for any of it says that the profile is still being recorded, and harms nothing."""
        with profile("early", cpu=None, memory=None) as recorded, span("step"):
            with pytest.raises(ProfileError) as caught:
                ask(recorded)
            message = str(caught.value)
        assert "'early' is still being recorded" in message
        assert message.endswith("when the block has ended.")
        ask(recorded)
        assert recorded.spans["name"].tolist() == ["step"]

    def test_repr(self) -> None:
        """The profile says that it is recording, then how long it took."""
        with profile("early", cpu=None, memory=None) as recorded:
            assert repr(recorded) == "<Profile 'early', recording>"
            assert recorded._repr_mimebundle_() == {"text/plain": repr(recorded)}
        seconds = recorded.meta["duration_s"]
        assert repr(recorded) == f"<Profile 'early', {seconds:.3f} s, {recorded.id}>"


class TestOptions:
    """What can be recorded."""

    @pytest.mark.parametrize(
        ("option", "value", "may_be"),
        [
            ("cpu", "perf", "'cprofile'"),
            ("cpu", "", "'cprofile'"),
            ("cpu", "none", "'cprofile'"),
            ("memory", "heap", "'rss'"),
            ("memory", True, "'rss'"),
        ],
    )
    def test_refused(self, option: str, value: Any, may_be: str) -> None:
        """A bad option is one sentence: which, its value, what it may be."""
        with pytest.raises(RecordingError) as caught:
            profile("name", **{option: value})
        message = str(caught.value)
        assert message.startswith(f"{option}={value!r} is not something that can be recorded")
        assert may_be in message
        assert message.endswith("or None.")

    def test_bad_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A bad variable is refused before the block runs, not when its profile would be lost."""
        monkeypatch.setenv("CLAUDE_PM_MAX_WORKERS", "none")
        ran = False
        with pytest.raises(SettingsError, match="CLAUDE_PM_MAX_WORKERS"), profile():
            ran = True
        assert not ran
        assert active_recorders == []

    def test_environment_broken_meanwhile(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What the block does to the environment costs it neither its error nor its profile."""

        def break_and_fail() -> None:
            monkeypatch.setenv("CLAUDE_PM_MAX_WORKERS", "none")
            raise ValueError("bad")

        with pytest.raises(ValueError, match="bad"), profile() as recorded, span("step"):
            break_and_fail()
        assert recorded.spans["error"].tolist() == ["ValueError: bad"]
        assert recorded.meta["settings"]["max_workers"] == 4


class TestMeta:
    """What the profile says of itself."""

    def test_keys(self) -> None:
        """All that the contract names is there, and all of it is JSON."""
        with profile("name") as recorded:
            pass
        assert set(recorded.meta) >= {
            "schema_version", "id", "name", "created_at", "duration_s", "source", "python",
            "platform", "cpu_count", "packages", "git_commit", "git_dirty", "settings",
            "model_use",
        }  # fmt: skip
        assert json.loads(json.dumps(recorded.meta, allow_nan=False)) == recorded.meta

    def test_values(self) -> None:
        """The values are those of this machine and moment."""
        before = datetime.now(UTC)
        with profile("name", cpu=None) as recorded:
            pass
        meta = recorded.meta
        created_at = datetime.fromisoformat(meta["created_at"])
        assert before <= created_at <= datetime.now(UTC)
        assert created_at.utcoffset() == timedelta(0)
        assert meta["schema_version"] == schema.SCHEMA_VERSION
        assert meta["duration_s"] > 0
        assert meta["source"] is None
        assert (meta["cpu"], meta["memory"]) == (None, "rss")
        assert meta["python"] == platform.python_version()
        assert meta["cpu_count"] == os.cpu_count()
        assert meta["packages"]["pandas"] == pd.__version__
        assert meta["pid"] == os.getpid()

    @pytest.mark.parametrize("use", ["not called", "replayed", "live"])
    def test_model_use(self, use: str) -> None:
        """A profile says whether a model was called; without a word of one it was not."""
        with profile(cpu=None, memory=None) as recorded:
            recorder = current_recorder()
            assert recorder is not None
            if use != "not called":
                recorder.note_model_use(use)
        assert recorded.meta["model_use"] == use

    def test_no_secret(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The settings are there, the key is not."""
        monkeypatch.setenv("CLAUDE_PM_API_KEY", "sk-very-secret")
        monkeypatch.setenv("CLAUDE_PM_MODEL", "claude-haiku-4-5")
        with profile(cpu=None, memory=None) as recorded:
            pass
        assert recorded.meta["settings"]["model"] == "claude-haiku-4-5"
        assert recorded.meta["settings"]["api_key_set"] is True
        assert "sk-very-secret" not in json.dumps(recorded.meta)

    def test_source(self) -> None:
        """A cell's or command's text is kept; the one known at the end comes first."""
        for at_start, at_end, kept in (
            ("1 + 1", None, "1 + 1"),
            (None, "2 + 2", "2 + 2"),
            ("1 + 1", "2 + 2", "2 + 2"),
        ):
            session = ProfileSession("cell", cpu=None, memory=None, source=at_start)
            session.start()
            assert session.stop(source=at_end).meta["source"] == kept

    def test_outside_git(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Outside of a repository there is no commit, and nobody knows of changes."""
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
        with profile(cpu=None, memory=None) as recorded:
            pass
        assert recorded.meta["git_commit"] is None
        assert recorded.meta["git_dirty"] is None

    def test_git(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """In a repository it is the commit of the working folder, dirty with a tracked change."""

        def git(*arguments: str) -> str:
            identity = ["-c", "user.name=t", "-c", "user.email=t@example.com"]
            done = subprocess.run(
                ["git", *identity, *arguments], check=True, capture_output=True, text=True
            )
            return done.stdout.strip()

        def recorded_git() -> tuple[str, bool]:
            with profile(cpu=None, memory=None) as recorded:
                pass
            return recorded.meta["git_commit"], recorded.meta["git_dirty"]

        monkeypatch.chdir(tmp_path)
        git("init", "-q")
        Path("tracked.txt").write_text("one", encoding="utf-8")
        git("add", "tracked.txt")
        git("commit", "-q", "-m", "first")
        commit = git("rev-parse", "HEAD")
        assert recorded_git() == (commit, False)
        Path("untracked.txt").write_text("new", encoding="utf-8")
        assert recorded_git() == (commit, False)
        Path("tracked.txt").write_text("two", encoding="utf-8")
        assert recorded_git() == (commit, True)

    def test_without_git(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without git installed a profile is recorded all the same."""
        monkeypatch.setenv("PATH", "")
        with profile(cpu=None, memory=None) as recorded:
            pass
        assert recorded.meta["git_commit"] is None


class TestId:
    """The id names the folder, and sorts by time."""

    @settings(deadline=None, max_examples=60)
    @given(name=st.text(max_size=300))
    def test_safe_for_any_name(self, name: str) -> None:
        """Whatever the name, the id is a folder's name on every system; the name itself is kept."""
        session = ProfileSession(name, cpu=None, memory=None)
        session.start()
        recorded = session.stop()
        assert re.fullmatch(r"\d{8}T\d{9}-[a-z0-9]+(-[a-z0-9]+)*-[0-9a-f]{4}", recorded.id)
        assert len(recorded.id) <= 64
        assert recorded.name == name

    @pytest.mark.parametrize(
        ("name", "part"),
        [
            ("Load documents", "-load-documents-"),
            ("In[3]", "-in-3-"),
            ("../../etc/passwd", "-etc-passwd-"),
            ("", "-profile-"),
            ("äöü", "-profile-"),
            ("CON", "-con-"),
            ("a" * 300, f"-{'a' * 40}-"),
            ("a" * 39 + " b", f"-{'a' * 39}-"),
        ],
    )
    def test_readable(self, name: str, part: str) -> None:
        """The id holds the name as far as a folder can."""
        with profile(name, cpu=None, memory=None) as recorded:
            pass
        assert part in recorded.id

    def test_sorts_by_time(self) -> None:
        """Ids sort in the order of recording, whatever the names."""
        ids = []
        for name in ("c", "a", "b"):
            with profile(name, cpu=None, memory=None) as recorded:
                time.sleep(0.002)
            ids.append(recorded.id)
        assert ids == sorted(ids)
        assert len(set(ids)) == 3

    def test_is_the_time_of_the_beginning(self) -> None:
        """The id's time is that of ``created_at``, when the block began."""
        with profile(cpu=None, memory=None) as recorded:
            time.sleep(0.01)
        created_at = datetime.fromisoformat(recorded.meta["created_at"])
        assert recorded.id.startswith(created_at.strftime("%Y%m%dT%H%M%S"))


class Failing:
    """An instrument that raises what it is told, each the first time that it is asked."""

    def __init__(self, label: str, **raises: BaseException) -> None:
        self.label = label
        self.raises = raises
        self.stopped = False

    def raise_first(self, call: str) -> None:
        """Raise it, if there is something to be raised."""
        error = self.raises.pop(call, None)
        if error is not None:
            raise error

    def start(self) -> None:
        """Begin."""
        self.raise_first("start")

    def stop(self) -> None:
        """End."""
        self.raise_first("stop")
        self.stopped = True

    def tables(self, rename_file: RenameFile) -> dict[str, Rows]:
        """Return one row."""
        self.raise_first("tables")
        row = {"file": self.label, "line": 1, "size_bytes": 1, "count": 1, "pid": 1}
        return {"allocations": [row]}

    def overhead(self) -> dict[str, Any]:
        """Return one fact."""
        self.raise_first("overhead")
        return {self.label: {"known": True}}


class TestEnd:
    """What goes wrong, or is interrupted, while a profile ends costs no more than itself."""

    @staticmethod
    def recorded_with(
        monkeypatch: pytest.MonkeyPatch, *instruments: Failing
    ) -> tuple[ProfileSession, Profile]:
        """Record a span with these instruments; the session is not stopped yet."""
        monkeypatch.setattr(ProfileSession, "_make_instruments", lambda *_: list(instruments))
        session = ProfileSession("ending", cpu=None, memory=None)
        recorded = session.start()
        with span("precious"):
            pass
        return session, recorded

    @pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError("no more")], ids=repr)
    @pytest.mark.parametrize("call", ["stop", "tables", "overhead"])
    def test_one_of_three(
        self, monkeypatch: pytest.MonkeyPatch, call: str, error: BaseException
    ) -> None:
        """All are stopped and read, the profile is filled, then it is raised."""
        instruments = Failing("a"), Failing("b", **{call: error}), Failing("c")
        session, recorded = self.recorded_with(monkeypatch, *instruments)
        with pytest.raises(type(error)) as caught:
            session.stop()
        assert caught.value is error
        assert recorded.spans["name"].tolist() == ["precious"]
        # An interrupt says nothing against asking again.
        missing = {"b"} if isinstance(error, OSError) else set()
        stopped = {each.label for each in instruments if each.stopped}
        assert stopped == {"a", "b", "c"} - (missing if call == "stop" else set())
        files = set(recorded.allocations["file"])
        assert files == {"a", "b", "c"} - (missing if call == "tables" else set())
        overhead = recorded.meta["overhead"].keys() - {"workers"}
        assert overhead == {"a", "b", "c"} - (missing if call == "overhead" else set())
        assert active_recorders == []
        assert current_recorder() is None
        assert session.stop() is recorded

    def test_first_error_is_raised(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Of several that go wrong, the one that did so first is raised: the last one started."""
        first = KeyboardInterrupt()
        session, recorded = self.recorded_with(
            monkeypatch, Failing("a", stop=OSError()), Failing("b", stop=first)
        )
        with pytest.raises(KeyboardInterrupt) as caught:
            session.end_recording()
        assert caught.value is first
        assert session.stop() is recorded
        assert len(recorded.allocations) == 2

    def test_interrupted_start(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What has begun before a start that fails is ended, whatever ends badly."""
        begun = Failing("a"), Failing("b", stop=OSError()), Failing("c", start=OSError())
        monkeypatch.setattr(ProfileSession, "_make_instruments", lambda *_: list(begun))
        with pytest.raises(OSError):  # noqa: PT011
            ProfileSession("ending", cpu=None, memory=None).start()
        assert begun[0].stopped
        assert active_recorders == []

    def test_interrupted_before_it_is_saved(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The profile is saved, and then the interrupt is raised."""

        def interrupted() -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(profile_session, "_git_state", interrupted)
        session = ProfileSession("work", cpu=None, memory=None)
        session.start()
        with span("nap"):
            pass
        with pytest.raises(KeyboardInterrupt):
            session.stop_and_save()
        (saved,) = claude_pm.list_profiles()["id"]
        assert claude_pm.load(saved).spans["name"].tolist() == ["nap"]

    def test_interrupted_git(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A Ctrl-C while git is asked leaves its state unknown, and is raised in the end."""

        def interrupted(*_: Any, **__: Any) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(subprocess, "run", interrupted)
        with pytest.raises(KeyboardInterrupt), profile(cpu=None) as recorded, span("precious"):
            pass
        assert recorded.spans["name"].tolist() == ["precious"]
        assert (recorded.meta["git_commit"], recorded.meta["git_dirty"]) == (None, None)
        assert "claude_pm-rss" not in [thread.name for thread in threading.enumerate()]

    def test_stopped_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where nothing could be filled, a second stop does it; an outer profile has it once."""

        def interrupted(*_: Any) -> str:
            raise KeyboardInterrupt

        with profile(cpu=None, memory=None) as outer:
            session, recorded = self.recorded_with(monkeypatch, Failing("a"))
            with monkeypatch.context() as patched:
                patched.setattr(profile_session, "_profile_id", interrupted)
                with pytest.raises(KeyboardInterrupt):
                    session.stop()
            assert session.stop() is recorded
        for each in (outer, recorded):
            assert each.spans["name"].tolist() == ["precious"]


@pytest.mark.parametrize(
    ("cpu", "memory"), [("cprofile", "rss"), ("sample", "rss"), (None, "trace"), (None, None)]
)
def test_rows_go_when_the_table_is_there(cpu: Any, memory: Any) -> None:
    """What was recorded is held once: as its table, and not until a garbage collection as well."""

    async def record() -> tuple[Profile, weakref.ref[SpanRows]]:
        with profile(cpu=cpu, memory=memory) as recorded:
            recorder = current_recorder()
            assert recorder is not None
            with span("nap"):
                await asyncio.sleep(0.02)
        return recorded, weakref.ref(recorder.rows)

    gc.disable()
    try:
        recorded, rows = asyncio.run(record())
        assert rows() is not None
        assert recorded.spans["name"].tolist() == ["nap"]
        assert rows() is None
    finally:
        gc.enable()


class TestSession:
    """The session, for the faces that start and stop it themselves."""

    def test_stop_twice(self) -> None:
        """A second stop changes nothing."""
        session = ProfileSession("name", cpu=None, memory=None)
        session.start()
        recorded = session.stop()
        meta = dict(recorded.meta)
        assert session.stop() is recorded
        assert recorded.meta == meta

    def test_stop_without_start(self) -> None:
        """A session that never began has nothing to end."""
        session = ProfileSession("name")
        session.stop()
        with pytest.raises(ProfileError):
            _ = session.profile.spans

    def test_dump_without_start(self) -> None:
        """Nor has it anything to hand over."""
        with pytest.raises(RecordingError, match="never started"):
            ProfileSession("name").dump()

    def test_dump_into_another_profile(self) -> None:
        """A worker's dump, sent as JSON, becomes rows of every table it recorded."""
        worker = ProfileSession("worker", role="worker")
        worker.start()
        with span("chat"):
            work()
        sent = json.loads(json.dumps(worker.dump()))
        with profile("kernel") as recorded:
            recorder = current_recorder()
            assert recorder is not None
            recorder.merge(sent)
        assert recorded.spans["name"].tolist() == ["chat"]
        assert set(recorded.memory["role"]) == {"kernel", "worker"}
        assert recorded.memory["t_s"].is_monotonic_increasing
        assert "work" in recorded.functions["function"].tolist()
        callers = recorded.callers
        assert "work" in callers["caller_function"].tolist()
        for name, table in schema.TABLES.items():
            schema.check(table, recorded.table(name), where="the profile")

    def test_memory_of_an_inner_profile(self) -> None:
        """The outer profile keeps one series of its own process, and gains the workers'."""
        reading = {"t_ns": time.perf_counter_ns(), "pid": -7, "role": "worker", "rss_bytes": 1}
        outer_session = ProfileSession("outer", cpu=None)
        outer = outer_session.start()
        with profile("inner", cpu=None) as inner:
            recorder = current_recorder()
            assert recorder is not None
            recorder.merge(
                {"spans": [], "tables": {"memory": [reading]}, "model_use": "not called"}
            )
        assert outer_session.recorder is not None
        assert outer_session.recorder.worker_tables["memory"] == [reading]
        outer_session.stop()
        for recorded in (outer, inner):
            assert set(recorded.memory["pid"]) == {-7, os.getpid()}

    def test_stopped_elsewhere(self) -> None:
        """A notebook ends a cell in another context than it began in: nothing stays behind."""
        import contextvars

        session = ProfileSession("cell", cpu=None, memory=None)
        contextvars.copy_context().run(session.start)
        contextvars.copy_context().run(session.stop)
        assert active_recorders == []
        assert current_recorder() is None
