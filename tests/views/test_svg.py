"""Drawing: escaped, cleaned, and with an axis that can be read."""

from __future__ import annotations

import pytest

from claude_pm.views import svg
from tests.profile_builder import ProfileBuilder
from tests.views.drawings import text_of, tree
from tests.views.profiles import HOSTILE


def test_every_value_is_escaped_and_cleaned() -> None:
    """In text and in attributes, numbers aside; what is drawn already is kept."""
    found = tree(svg.element("g", svg.element("text", f"{HOSTILE}\u202e\x00"), data_x=HOSTILE))
    assert [element.tag for element in found.iter()] == ["g", "text"]
    assert found.findtext("text") == f"{HOSTILE}\ufffd\ufffd"
    assert found.get("data-x") == HOSTILE


@pytest.mark.parametrize(
    ("duration_s", "first", "last"),
    [
        (7.0, "0 s", "7 s"),
        (0.25, "0 ms", "250 ms"),
        (1.0, "0.0 s", "1.0 s"),
        (3878.0, "0 s", "3,500 s"),
        (3e-6, "0.0 µs", "3.0 µs"),
        (1e-9, "0.0000 µs", "0.0010 µs"),
    ],
)
def test_ticks_are_round_numbers_in_a_unit(duration_s: float, first: str, last: str) -> None:
    """A few of them, from zero on, whatever the duration."""
    ticks = tree(svg.time_ticks(duration_s, 50.0))
    said = [text.text for text in ticks.findall("text")]
    assert (said[0], said[-1]) == (first, last)
    assert 3 <= len(said) <= 10


def test_ticks_of_a_part_count_from_the_whole() -> None:
    """Round numbers of the whole's time, where they are in the part."""
    ticks = tree(svg.time_ticks(0.4, 50.0, start_s=1.25))
    said = {text.text: text.get("x") for text in ticks.findall("text")}
    assert list(said) == [f"1.{hundredths} s" for hundredths in range(25, 66, 5)]
    assert float(str(said["1.30 s"]).rstrip("%")) == pytest.approx(
        svg.PLOT_X + svg.PLOT_WIDTH / 8, abs=0.01
    )


def test_the_axis_is_never_of_no_length() -> None:
    """A profile that lasted no time is drawn all the same."""
    from claude_pm.views.reading import Reading
    from claude_pm.views.timeline_svg import timeline_svg

    builder = ProfileBuilder(duration_s=0.0)
    builder.span("instant", 0.0, 0.0)
    assert "instant" in text_of(tree(timeline_svg(Reading(builder.build()))))


@pytest.mark.parametrize(("pixels", "said"), [(200.0, "parse_all"), (40.0, "pars…"), (20.0, "")])
def test_a_name_is_cut_to_its_place(pixels: float, said: str) -> None:
    """With an ellipsis; where hardly a letter would fit there is none."""
    assert svg.fitted("parse_all", pixels) == said
