"""The summary as text and as HTML."""

from __future__ import annotations

import re

import pytest

from claude_pm.profiles import Profile
from claude_pm.views.summary import headline, summary_bundle, summary_html, summary_text
from tests.profile_builder import ProfileBuilder
from tests.views.drawings import dangling_ids, sampled
from tests.views.markup import parse
from tests.views.profiles import HOSTILE, empty, hostile, of_allocations, of_lines, two_modes

AWAITED = "cProfile does not count awaited time"


class TestSummaryText:
    def test_holds_headline_phases_modes_functions_and_failures(self) -> None:
        """Everything that was recorded has its paragraph."""
        builder = two_modes()
        builder.span("my step", 39.0, 0.5)
        for number in range(7):
            builder.function(f"function_{number}", 7.0 - number)
        builder.memory(0.0, 123_000_000)
        text = summary_text(builder.build())
        assert text.startswith(headline(builder.build()))
        # Of 33 s: prefill 4 + 3 x 0.5 + 2 x 4, decode 1 + (0.5 + 1.5 + 2.5) + (4 + 8).
        assert re.search(r"^prefill +6 +13\.5 s +41 %", text, re.MULTILINE)
        assert re.search(r"^decode +6 +17\.5 s +53 %", text, re.MULTILINE)
        assert re.search(r"^my step +1 +0\.50 s", text, re.MULTILINE)
        assert re.search(r"^LOCAL +3 +1 +2\.00 s .* 1\.0x$", text, re.MULTILINE)
        assert re.search(r"^SUBPROCESS +2 +0 +10\.0 s .* 5\.0x$", text, re.MULTILINE)
        assert "function_4" in text
        assert "function_5" not in text
        assert AWAITED in text
        assert "123 MB (kernel)" in text
        assert "ops (LOCAL), timeout: OrchestrationTimeoutError: too long" in text

    def test_has_a_timeline(self) -> None:
        """A terminal sees who did what when, below the headline."""
        builder = two_modes()
        text = summary_text(builder.build())
        assert re.search(r"^qa +░+█", text, re.MULTILINE)
        assert text.index("█ working") < text.index("\nphase ")

    def test_one_mode_needs_no_comparison(self) -> None:
        """The table of modes is for more than one mode."""
        builder = ProfileBuilder()
        builder.answered("qa", "local", 0.0, 1.0, ttft_s=0.5)
        assert "LOCAL" not in summary_text(builder.build())

    def test_empty_profile_is_one_sentence(self) -> None:
        """Where nothing was recorded, nothing else is said."""
        assert summary_text(empty()) == headline(empty())

    def test_cannot_steer_a_terminal(self) -> None:
        """Escape sequences and newlines in names cannot colour, erase or forge lines."""
        builder = ProfileBuilder("x")
        name = "\x1b[2Jgone\nFailures:\n  forged \u202eevil"
        builder.request(name, "local", 0.0, 1.0, status="error", error=name)
        builder.span(name, 2.0, 1.0)
        builder.function(name, 1.0, file=name)
        text = summary_text(builder.build())
        assert "\x1b" not in text
        assert "\u202e" not in text
        assert text.splitlines().count("Failures:") == 1
        assert "\ufffd[2Jgone Failures: forged \ufffdevil" in text

    def test_long_names_are_cut(self) -> None:
        """A name of a thousand characters does not make a table as wide."""
        builder = ProfileBuilder()
        builder.function("f" * 1000, 1.0)
        builder.span("s" * 1000, 0.0, 1.0)
        assert max(map(len, summary_text(builder.build()).splitlines())) < 200

    def test_spans_outside_requests_are_listed_without_requests(self) -> None:
        """A chat of one's own, without a request, is shown by its phases."""
        builder = ProfileBuilder()
        builder.span("chat", 0.0, 3.0, ttft_s=1.0)
        text = summary_text(builder.build())
        assert re.search(r"^decode +1 +2\.00 s", text, re.MULTILINE)
        assert re.search(r"^prefill +1 +1\.00 s", text, re.MULTILINE)


class TestSummaryHtml:
    def test_is_one_scoped_element(self) -> None:
        """Its rules hold for nothing else on the page, and nothing in it can run or load."""
        html = summary_html(two_modes().build())
        assert html.strip().startswith('<div class="claude-pm">')
        assert html.strip().endswith("</div>")
        style = html[html.index("<style>") + len("<style>") : html.index("</style>")]
        selectors = [
            selector.strip()
            for rule in re.findall(r"([^{}]+)\{", style)
            for selector in rule.split(",")
        ]
        assert len(selectors) > 10
        assert all(selector.startswith("div.claude-pm") for selector in selectors)
        assert "url(" not in style
        found = parse(html)
        assert {"script", "link", "iframe", "img"}.isdisjoint(found.elements)

    def test_the_phase_bar_is_as_wide_as_the_shares(self) -> None:
        """The widths of the bar's parts add up to the whole."""
        html = summary_html(two_modes().build())
        widths = [float(width) for width in re.findall(r"width:([0-9.]+)%", html)]
        # prefill 13.5, decode 17.5, other 2 of 33 seconds
        assert widths == [40.909, 53.030, 6.061]

    def test_functions_are_folded_away_beside_what_they_do_not_count(self) -> None:
        """They are in a details element, with the sentence on awaited time; open where no
        request says where the time went."""
        builder = ProfileBuilder()
        assert "<details" not in summary_html(builder.build())
        builder.function("f", 1.0)
        html = summary_html(builder.build())
        details = html[html.index("<details open>") : html.index("</details>")]
        assert AWAITED in details
        assert "<td>f</td>" in details
        builder.answered("qa", "local", 0.0, 1.0, ttft_s=0.5)
        html = summary_html(builder.build())
        assert "<details open>" not in html
        assert html.count("<details>") == 2

    @pytest.mark.parametrize("profile", [of_lines(), of_allocations()], ids=["lines", "memory"])
    def test_what_was_asked_for_is_seen_at_once(self, profile: Profile) -> None:
        """Lines are recorded by request alone: nobody has to unfold them."""
        html = summary_html(profile)
        details = html[html.index("<details open>") : html.index("</details>")]
        assert "<td>work.py:1</td>" in details

    def test_shows_the_pictures(self) -> None:
        """The timeline, memory over the same axis, and the flame graph, folded where requests
        say enough."""
        builder = two_modes()
        builder.memory(0.0, 123_000_000)
        html = summary_html(builder.build())
        places = [html.index(f'<svg class="claude-pm-{name}"') for name in (
            "timeline", "memory", "flame")]  # fmt: skip
        assert places == sorted(places)
        assert html.index("<details>") < places[2]
        assert "Flame graph of time in spans, by agent" in html
        code = summary_html(sampled([{"stack": "main (app.py:1)"}]))
        assert "Flame graph of sampled wall time, by agent" in code
        assert code.index("<details open>") < code.index('<svg class="claude-pm-flame"')
        assert "claude-pm-timeline" not in code

    def test_ids_are_its_own(self) -> None:
        """No id stands twice, and every reference within the drawings is met."""
        builder = two_modes()
        builder.memory(0.0, 123_000_000)
        html = summary_html(builder.build())
        ids = parse(html).values("id")
        assert len(ids) == len(set(ids))
        assert not dangling_ids(html)

    def test_can_be_used_by_keyboard(self) -> None:
        """What folds is a native element, and where the focus is can be seen."""
        html = summary_html(hostile().build())
        assert html.count("<summary>") == html.count("<details")
        assert "summary:focus-visible { outline:" in html

    def test_hostile_text_stays_text(self) -> None:
        """Names, errors and functions are shown as they are, and none becomes markup."""
        found = parse(summary_html(hostile().build()))
        assert {"script", "img"}.isdisjoint(found.elements)
        assert not [name for name, _ in found.attributes if name.startswith("on")]
        # Two requests and a span failed; function and file; the span, the model and two modes.
        assert found.text.count(HOSTILE) >= 6

    def test_control_characters_are_shown_as_replaced(self) -> None:
        """Bidirectional overrides cannot make a name read as another."""
        builder = ProfileBuilder()
        builder.function("f\u202ecod.exe\x00", 1.0)
        found = parse(summary_html(builder.build()))
        assert "f\ufffdcod.exe\ufffd" in found.text

    def test_empty_profile_is_one_sentence(self) -> None:
        """Where nothing was recorded, nothing else is said."""
        assert parse(summary_html(empty())).text.strip() == headline(empty())


def test_both_forms_of_a_display() -> None:
    """A notebook shows the one, a terminal the other; each is as if made by itself."""
    profile = two_modes().build()
    assert summary_bundle(profile) == {
        "text/plain": summary_text(profile),
        "text/html": summary_html(profile),
    }
