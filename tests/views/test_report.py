"""The report: one file, no network, nothing of the profile becomes markup."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn
from xml.etree import ElementTree as ET

import pytest

from claude_pm.errors import ProfileStorageError
from claude_pm.profiles import Experiment, load
from claude_pm.views.fragments import MAX_ROWS
from claude_pm.views.report import write_report
from claude_pm.views.summary import summary_html
from tests.analysis.test_compare import trial
from tests.profile_builder import ProfileBuilder
from tests.views.markup import Markup, parse
from tests.views.profiles import HOSTILE, empty, hostile, two_modes

CSP = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{}'; "
    "base-uri 'none'; form-action 'none'"
)
SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)
DATA = "application/octet-stream"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """Return where to write a report."""
    return tmp_path / "report.html"


def written(builder: ProfileBuilder, target: Path) -> Markup:
    """Write the report and read it back."""
    return parse(write_report(builder.build(), target).read_text(encoding="utf-8"))


def names(folder: Path) -> list[str]:
    """Return what is in a folder."""
    return sorted(path.name for path in folder.iterdir())


class TestContents:
    def test_says_what_the_profile_says(self, target: Path) -> None:
        """Headline, ratio in words, tables, environment and how to reproduce it."""
        builder = two_modes()
        builder.meta |= {"source": "await main()\n", "cpu": "cprofile"}
        builder.function("slow", 1.5)
        text = written(builder, target).text
        assert "Answered 6 of 7 requests (1 warm-up, 1 timeout) in 40.0 s" in text
        assert "SUBPROCESS took 5.0 times as long as LOCAL" in text
        assert "OrchestrationTimeoutError: too long" in text
        assert "cProfile does not count awaited time" in text
        assert "2026-01-31 09:00:00 UTC" in text
        assert "live: called while this was recorded" in text
        assert "cProfile on" in text
        assert "pandas 3.1.1" in text
        assert "orchestration_mode = local" in text
        assert "await main()" in text
        assert 'claude_pm.load("report.html")' in text
        assert 'claude_pm.load("20260131T090000123-synthetic-1a2b")' in text

    def test_names_every_meta_item(self, target: Path) -> None:
        """What a later version adds is shown by its own name; what is not known is not hidden."""
        builder = ProfileBuilder(kept_warm=True)
        found = written(builder, target)
        environment = found.text[found.text.index("Environment") :]
        assert re.search(r"kept_warm\s+yes", environment)
        assert re.search(r"Git commit\s+not known", environment)
        assert re.search(r"CPU recording\s+off", environment)
        assert re.search(r"Model\s+not called", environment)

    def test_shows_only_the_charts_that_have_something_to_show(self, target: Path) -> None:
        """Spans alone make a timeline; requests and memory make more."""
        few, all_of_them = ProfileBuilder(), two_modes()
        few.span("step", 0.0, 1.0)
        all_of_them.memory(0.0, 1_000_000)
        for builder, alts, classes in (
            (few, [], {"claude-pm-timeline"}),
            (
                all_of_them,
                [
                    "Request duration by mode",
                    "Time to first text by mode",
                    "Time to first text, cold and warm",
                ],
                {"claude-pm-timeline", "claude-pm-memory"},
            ),
        ):
            found = written(builder, target)
            assert [str(alt).split(":")[0] for alt in found.values("alt")] == alts
            drawings = {"claude-pm-timeline", "claude-pm-memory"}
            assert drawings & set(found.values("class")) == classes

    def test_charts_are_svg_within_the_file(self, target: Path) -> None:
        """Each is a data URI that holds a whole SVG."""
        sources = written(two_modes(), target).values("src")
        assert sources
        for source in sources:
            kind, _, data = str(source).partition(",")
            assert kind == "data:image/svg+xml;base64"
            assert ET.fromstring(base64.b64decode(data)).tag.endswith("svg")

    def test_long_tables_say_what_they_leave_out(self, target: Path) -> None:
        """Of 510 spans the first 500 are shown, and the rest is counted."""
        builder = ProfileBuilder()
        for number in range(MAX_ROWS + 10):
            builder.span(f"step-{number}-", number / 100, 0.01)
        text = written(builder, target).text
        assert "10 more spans not shown here: the profile's tables have them all." in text
        rows = text[text.index("Spans\n") :]
        assert f"step-{MAX_ROWS - 1}-" in rows
        assert f"step-{MAX_ROWS}-" not in rows

    def test_long_texts_are_cut(self, target: Path) -> None:
        """An error of a megabyte does not make the report as large."""
        builder = ProfileBuilder()
        builder.request("a" * 10_000, "local", 0.0, 1.0, status="error", error="e" * 1_000_000)
        text = written(builder, target).text
        assert "a" * 301 not in text
        assert "e" * 301 not in text
        assert "e" * 200 in text

    def test_is_the_same_each_time(self, target: Path) -> None:
        """A profile has one report, byte for byte."""
        first = write_report(two_modes().build(), target).read_bytes()
        assert write_report(two_modes().build(), target).read_bytes() == first

    def test_numbers_are_sorted_by_what_they_are(self, target: Path) -> None:
        """A cell says its number, in the unit of its column, beside the text that is read."""
        builder = ProfileBuilder()
        builder.function("quick", 0.0000123, calls=12_345)
        builder.function("slow", 1234.5678)
        html = write_report(builder.build(), target).read_text(encoding="utf-8")
        assert '<td class="number" data-value="1.23e-05">12.3 µs</td>' in html
        assert '<td class="number" data-value="1234.5678">1,235 s</td>' in html
        assert '<td class="number" data-value="12345">12,345</td>' in html
        assert "data-value" not in summary_html(builder.build())

    def test_what_it_takes_to_trust_it(self, target: Path) -> None:
        """When, where, with what code and at what cost it was recorded, and in what order."""
        builder = two_modes()
        builder.meta |= {
            "git_commit": "0123456789abcdef",
            "git_dirty": True,
            "overhead": {
                "memory": {"readings": 676, "interval_s": 0.02, "own_cpu_s": 0.0679},
                "workers": [{"pid": 1, "memory": {"own_cpu_s": 0.25}}] * 2,
            },
        }
        text = written(builder, target).text
        assert (
            "Recorded 2026-01-31 09:00:00 UTC, model live, 2 CPUs, Linux-6.1-x86_64, Python "
            "3.11.7, claude-pm 0.1.0, git commit 0123456789 with changes that were not committed."
        ) in text
        assert "memory: readings 676, interval 20.0 ms, own CPU 67.9 ms" in text
        assert "2 workers: memory own CPU 0.50 s" in text
        assert "those changes are not in this file" in text
        assert "These modes were not measured in turns" in text
        experiment = trial({"a": [1.0, 2.0], "b": [2.0, 3.0]})
        seed = experiment.meta["experiment"]["seed"]
        text = parse(experiment.to_html(target).read_text(encoding="utf-8")).text
        assert "conditions in turns: a; b" in text
        assert f"the seed {seed}, with the same repeats" in text
        assert "n = 2" in text

    def test_many_dots_are_a_picture(self, target: Path) -> None:
        """A chart of thousands of requests does not make the report large, or slow to open."""
        builder = ProfileBuilder()
        for number in range(2000):
            builder.request("qa", "local", number / 10, 0.05 + number / 10_000)
        chart = str(written(builder, target).values("src")[0])
        svg = base64.b64decode(chart.partition(",")[2])
        assert svg.count(b"<image") >= 1
        assert svg.count(b"<use") < 1000

    def test_works_for_an_empty_profile(self, target: Path) -> None:
        """Title, environment and how to reproduce remain."""
        text = parse(write_report(empty(), target).read_text(encoding="utf-8")).text
        assert "nothing but the time was recorded" in text
        assert "How to reproduce" in text


class TestSafety:
    def test_asks_no_network(self, target: Path) -> None:
        """No element loads anything, and the policy would forbid it."""
        html = write_report(two_modes().build(), target).read_text(encoding="utf-8")
        found = parse(html)
        assert {"link", "iframe", "object", "base", "form"}.isdisjoint(found.elements)
        references = [*found.values("src"), *found.values("href"), *found.values("action")]
        assert all(str(reference).startswith("data:") for reference in references)
        assert "http:" not in html
        assert "https:" not in html
        assert "@import" not in html
        assert re.search(r"url\((?!#)", html) is None

    @pytest.mark.parametrize("make", [two_modes, hostile])
    def test_only_our_script_may_run(
        self, target: Path, make: Callable[[], ProfileBuilder]
    ) -> None:
        """There is one script, whatever was recorded, and the policy names it by its hash."""
        html = write_report(make().build(), target).read_text(encoding="utf-8")
        found = parse(html)
        assert found.elements.count("script") == 2
        assert found.values("type").count(DATA) == 1
        (script,) = SCRIPT.findall(html)
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert CSP.format(digest) in found.values("content")
        assert not re.search(r"innerHTML|eval|Function\(|document\.write|outerHTML", script)

    def test_hostile_text_stays_text(self, target: Path) -> None:
        """Nothing of the profile becomes an element or an attribute, wherever it stands."""
        found = written(hostile(), target)
        assert found.elements.count("script") == 2  # ours, and the tables
        assert "img" not in found.elements or all(found.values("alt"))
        assert all(str(source).startswith("data:") for source in found.values("src"))
        assert not [name for name, _ in found.attributes if name.startswith("on")]
        for place in ("Modes", "Requests", "Spans", "Functions", "Environment", "How to reproduce"):
            assert HOSTILE in found.text[found.text.index(f"{place}") :]
        assert found.text.count(HOSTILE) >= 20

    def test_halves_of_surrogate_pairs_can_be_written(self, target: Path) -> None:
        """A file name of bytes that are no text does not prevent the report."""
        builder = ProfileBuilder()
        builder.function("f", 1.0, file="caf\ufffd.py")
        builder.meta["source"] = "open('caf\udce9')"
        assert "open('caf\ufffd')" in written(builder, target).text


class TestSharing:
    KEY = f"sk-ant-api03-{'k3Yx' * 20}-AA"

    def builder(self) -> ProfileBuilder:
        """Return a profile that was told a key."""
        builder = two_modes()
        builder.meta["source"] = f"client = Client('{self.KEY}')"
        builder.request(
            "qa", "local", 30.0, 1.0, status="error", error=f"ModelError: not with {self.KEY}",
            attributes={"request": f"My key is {self.KEY}.", "attempt": 2},
        )  # fmt: skip
        return builder

    def test_secrets_are_out(self, target: Path) -> None:
        """Of what is shown, and of the tables in the file; the profile itself keeps them."""
        profile = self.builder().build()
        html = profile.to_html(target).read_text(encoding="utf-8")
        loaded = load(target)
        assert "My key is [secret: " in html
        for text in (html, json.dumps(loaded.meta), loaded.spans.to_csv()):
            assert self.KEY not in text
        assert self.KEY in profile.meta["source"]
        assert self.KEY in profile.spans.to_csv()

    def test_without_content(self, target: Path) -> None:
        """Prompts, answers and code go; numbers stay, and the report says so."""
        profile = self.builder().build()
        html = profile.to_html(target, content=False).read_text(encoding="utf-8")
        loaded = load(target)
        assert "Prompts and answers were left out of this file" in html
        for text in (html, json.dumps(loaded.meta), loaded.spans.to_csv()):
            assert "My key is" not in text
            assert "Client(" not in text
        assert '"attempt": 2' in loaded.spans.iloc[-1]["attributes"]
        assert loaded.spans["duration_s"].tolist() == profile.spans["duration_s"].tolist()
        assert "left out of this file" not in profile.to_html(target).read_text(encoding="utf-8")

    def test_experiments_too(self, target: Path) -> None:
        """An experiment's report takes the same option."""
        trial({"a": [1.0, 2.0], "b": [2.0, 3.0]}).to_html(target, content=False)
        assert "left out of this file" in target.read_text(encoding="utf-8")
        assert Experiment(load(target)).conditions == ["a", "b"]


class TestWriting:
    def test_returns_the_path_and_leaves_nothing_else(self, target: Path) -> None:
        """A string does as well as a Path, and an older report is replaced."""
        target.write_text("old", encoding="utf-8")
        assert write_report(empty(), str(target)) == target
        assert "old" not in target.read_text(encoding="utf-8").split()
        assert names(target.parent) == ["report.html"]

    def test_a_full_disk_leaves_the_old_report(
        self, target: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nothing half-written stays behind, and the error says what happened."""

        def refuse(*_: object, **__: object) -> NoReturn:
            raise OSError(28, "No space left on device")

        target.write_text("old", encoding="utf-8")
        monkeypatch.setattr(os, "replace", refuse)
        with pytest.raises(ProfileStorageError, match="No space left on device") as caught:
            write_report(empty(), target)
        assert isinstance(caught.value.__cause__, OSError)
        assert names(target.parent) == ["report.html"]
        assert target.read_text(encoding="utf-8") == "old"

    def test_refuses_a_folder(self, tmp_path: Path) -> None:
        """The message suggests a file in it."""
        with pytest.raises(ProfileStorageError, match=r"is a folder: name a file.*report\.html"):
            write_report(empty(), tmp_path)

    @pytest.mark.parametrize("parent", ["missing", "file"])
    def test_refuses_a_parent_that_is_no_folder(self, tmp_path: Path, parent: str) -> None:
        """It makes no folders: a slip in a path should not."""
        (tmp_path / "file").touch()
        with pytest.raises(ProfileStorageError, match="there is no folder"):
            write_report(empty(), tmp_path / parent / "report.html")
        assert names(tmp_path) == ["file"]
