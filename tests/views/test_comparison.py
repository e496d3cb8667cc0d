"""How verdicts read: in a terminal, a notebook, a pull request and a report."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import pytest
from matplotlib.figure import Figure

from claude_pm.analysis import compare
from claude_pm.errors import ProfileError
from claude_pm.profiles import Experiment
from claude_pm.views.comparison import value
from claude_pm.views.report import report_html
from claude_pm.views.summary import summary_html, summary_text
from tests.analysis.test_compare import requests, trial

STEADY = [1.0, 1.01, 0.99, 1.0, 1.005, 0.995, 1.0, 1.0]


def three(name: str = "b") -> Experiment:
    """Return an experiment with one condition slower, one the same, one noisy."""
    return trial(
        {
            "a": STEADY,
            name: [3 * seconds for seconds in STEADY],
            "same": STEADY[::-1],
            "noisy": [0.2, 3.0, 1.0, 2.0, 0.4, 1.5, 0.9, 1.1],
        }
    )


class TestText:
    def test_sentences(self) -> None:
        """Each verdict is a sentence with both medians, the ratio, its interval and n."""
        slower, _, same, _, unclear, _ = str(three().compare()).splitlines()
        assert slower.startswith("b is slower than a: duration 3.00 s against 1.00 s, 3.00 times (")
        assert slower.endswith("), n = 8.")
        assert same.startswith("same and a: no difference beyond 5 % (duration")
        assert unclear.startswith("noisy and a: not enough data (duration")
        assert "more samples of each would likely decide it." in unclear

    @pytest.mark.parametrize(("p_value", "is_explained"), [(0.08, True), (0.01, False)])
    def test_undecided_though_the_interval_is_clear(
        self, p_value: float, is_explained: bool
    ) -> None:
        """Then it is said that p was corrected; not where the margin is what leaves it open."""
        comparison = trial({"a": STEADY, "b": [1.04 * seconds for seconds in STEADY]}).compare()
        row = comparison.rows[0]
        verdict = replace(row.verdict, verdict="unclear", ci_low=1.02, ci_high=1.3, p_value=p_value)
        (said,) = str(
            replace(comparison, rows=(replace(row, verdict=verdict, word="unclear"),), notes=())
        ).splitlines()
        assert "not enough data" in said
        assert ("The interval leaves out 1, but p is 0.080, corrected" in said) == is_explained

    def test_less(self) -> None:
        """Of what has no speed it is said that it takes less or more."""
        before, after = requests("before"), requests("after")
        after.spans["input_tokens"] = after.spans["input_tokens"] * 3
        assert "after takes more than before: input tokens 300 against 100" in str(
            compare(before, after)
        )

    @pytest.mark.parametrize(
        ("metric", "number", "text"),
        [
            ("duration_s", 0.0123, "12.3 ms"),
            ("tokens_per_s", 71.26, "71.3/s"),
            ("peak_rss_bytes", 2.5e8, "250.0 MB"),
            ("input_tokens", 1200, "1,200"),
            ("cost_usd", 0.0021, "$0.00210"),
            ("ttft_s", None, "\N{EN DASH}"),
        ],
    )
    def test_units(self, metric: str, number: float | None, text: str) -> None:
        """Each metric has its unit."""
        assert value(metric, number) == text


class TestMarkdown:
    def test_table(self) -> None:
        """A pull request gets sentences and a table of every metric."""
        lines = three().compare().to_markdown().splitlines()
        table = [line for line in lines if line.startswith("|")]
        assert table[0].startswith("| compared | metric | baseline | compared | ratio |")
        assert len(table) == 2 + 6
        assert len({line.count("|") for line in table}) == 1

    def test_names_break_nothing(self) -> None:
        """A name with a bar or a line break stays in its cell."""
        table = [
            line
            for line in three("b|c\nd").compare().to_markdown().splitlines()
            if line.startswith("|")
        ]
        assert len(table) == 2 + 6
        assert "b\\|c d" in table[2]


class TestHtml:
    def test_escaped(self, tmp_path: Path) -> None:
        """Nothing that a condition is called becomes markup."""
        found = three("<script>alert(1)</script>")
        compared = found.compare()
        path = compared.to_html(tmp_path / "comparison.html")
        for html in (
            compared._repr_mimebundle_()["text/html"],
            path.read_text(),
            summary_html(found.profile),
            report_html(found.profile),
        ):
            assert "<script>alert" not in html
            assert "&lt;script&gt;alert" in html
        assert "default-src 'none'" in path.read_text()
        assert path.read_text().count("<script") == 1

    def test_report_can_be_sorted(self, tmp_path: Path) -> None:
        """Every number of the table says what it is sorted by, in seconds or bytes or tokens."""
        html = three().compare().to_html(tmp_path / "comparison.html").read_text()
        assert '<table class="sortable">' in html
        assert re.search(r'data-value="1\.0[0-9.]*">1\.00 s</td>', html)
        assert re.search(r'data-value="8">8</td>', html)
        assert "script-src 'sha256-" in html

    def test_summary_and_report(self) -> None:
        """An experiment shows its conditions and verdicts, in place of modes."""
        found = three()
        text = summary_text(found.profile)
        assert found._repr_mimebundle_()["text/plain"] == text
        assert "condition" in text
        assert "b is slower than a" in text
        html = report_html(found.profile)
        assert "Conditions compared" in html
        assert "b is slower than a" in html
        assert "Duration by condition" in html

    def test_one_condition(self) -> None:
        """One condition has medians, but no verdict."""
        text = summary_text(trial({"a": STEADY}).profile)
        assert "condition" in text
        assert "against" not in text


class TestPlot:
    def test_every_sample(self) -> None:
        """Each condition is a row with all of its samples; the title has the verdicts."""
        ax = three().plot(ax=Figure().add_subplot())
        dots = [len(drawn.get_offsets()) for drawn in ax.collections if hasattr(drawn, "get_sizes")]
        assert [count for count in dots if count == 8] == [8] * 4
        assert [tick.get_text() for tick in ax.get_yticklabels()][1] == "b\nn = 8"
        seen = ax.get_title(loc="left")
        assert seen == (
            "a 1.00 s; b 3.00 s: slower; same 1.00 s: no difference; noisy 1.05 s: not enough data"
        )

    def test_other_metrics(self) -> None:
        """Every metric of the samples can be drawn, in its unit; no other."""
        with mpl.rc_context():
            ax = three().plot("cpu_s", ax=Figure().add_subplot())
        assert ax.get_xlabel().startswith("CPU time (ms)")
        assert "No cost" in three().plot("cost_usd", ax=Figure().add_subplot()).texts[0].get_text()
        with pytest.raises(ProfileError, match="no metric 'speed'"):
            three().plot("speed")
