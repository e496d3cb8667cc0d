"""Numbers and names as people read them."""

from __future__ import annotations

import pytest

from claude_pm.views import words


class TestClean:
    @pytest.mark.parametrize(
        "character",
        ["\x00", "\x07", "\x1b", "\r", "\x7f", "\x85", "\x9b", "\u202a", "\u202e", "\u2066",
         "\u2069", "\ud800", "\u200b", "\u2060", "\ufeff", "\U000e0041", "\uffff"],
        ids=ascii,
    )  # fmt: skip
    def test_replaces_what_could_disguise_a_text(self, character: str) -> None:
        """Control characters, overrides of direction and the unseen are shown as U+FFFD."""
        assert words.clean(f"a{character}b") == "a\ufffdb"

    def test_keeps_everything_else(self) -> None:
        """Newlines, tabs, markup and other scripts are text like any other."""
        text = "a\n\tb <i> é 日本 \u05d0\u200f \U0001f600 \U0001f468\u200d\U0001f467"
        assert words.clean(text) == text


class TestOneLine:
    def test_joins_and_cuts(self) -> None:
        """A text of several lines becomes one, cut to the limit with an ellipsis."""
        assert words.one_line("a\n  b\tc") == "a b c"
        assert words.one_line("abcdef", 4) == "abc…"
        assert words.one_line("abcd", 4) == "abcd"


class TestNumbers:
    @pytest.mark.parametrize(
        ("seconds", "text"),
        [
            (None, words.UNKNOWN),
            (0.0, "0 s"),
            (4e-8, "0.04 µs"),
            (9.5e-6, "9.50 µs"),
            (0.000_420, "420 µs"),
            (0.0012, "1.20 ms"),
            (0.0813, "81.3 ms"),
            (0.1, "0.10 s"),
            (0.42, "0.42 s"),
            (4.123, "4.12 s"),
            (9.996, "10.0 s"),
            (24.06, "24.1 s"),
            (99.96, "100 s"),
            (4321.0, "4,321 s"),
        ],
    )
    def test_duration(self, seconds: float | None, text: str) -> None:
        """A duration has the unit that suits it, and three digits."""
        assert words.duration(seconds) == text

    def test_percents_add_up(self) -> None:
        """Three thirds are 100 %, not 99 %; the largest remainders are rounded up."""
        assert words.percents([1 / 3, 1 / 3, 1 / 3]) == [34, 33, 33]
        assert words.percents([0.005, 0.006, 0.989]) == [0, 1, 99]
        assert words.percents([]) == []

    def test_shares(self) -> None:
        """What is there but rounds to nothing is not shown as nothing."""
        assert words.shares([0.996, 0.004, 0.0, None]) == ["100 %", "<1 %", "0 %", words.UNKNOWN]

    @pytest.mark.parametrize(
        ("cost", "text"),
        [
            (None, words.UNKNOWN),
            (0.0, "$0.00"),
            (0.000_123_4, "$0.000123"),
            (0.25, "$0.250"),
            (12.3, "$12.30"),
        ],
    )
    def test_usd(self, cost: float | None, text: str) -> None:
        """A cost that is not known is not 0."""
        assert words.usd(cost) == text

    def test_counts_and_ratios(self) -> None:
        """Counts have thousands separated; a median may end in .5; ratios below 1 keep digits."""
        assert [words.whole(n) for n in (None, 0, 12345, 101.5)] == [
            words.UNKNOWN,
            "0",
            "12,345",
            "101.5",
        ]
        assert [words.times(n) for n in (None, 9.83, 0.54321)] == [words.UNKNOWN, "9.8x", "0.54x"]
        assert [words.counted(n, "span") for n in (0, 1, 2)] == ["0 spans", "1 span", "2 spans"]
        assert words.counted(2, "process", "processes") == "2 processes"
