"""The report as a browser shows it: sorted, searched, zoomed, and without a network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page

from claude_pm.views.report import write_report
from tests.browser.jupyterlab import chromium
from tests.profile_builder import ProfileBuilder
from tests.views.profiles import hostile, two_modes

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Return Chromium."""
    with chromium() as started:
        yield started


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """Return a page without a network; at its end nothing was asked for, nothing went wrong."""
    context = browser.new_context(offline=True, viewport={"width": 1200, "height": 900})
    opened = context.new_page()
    complaints: list[str] = []
    opened.on("console", lambda message: complaints.append(message.text))
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("dialog", lambda dialog: complaints.append(f"dialog: {dialog.message}"))
    opened.on("request", lambda request: complaints.append(request.url[:100]))
    yield opened
    context.close()
    assert [said for said in complaints if not said.startswith(("file:", "data:image/svg"))] == []


def opened(page: Page, builder: ProfileBuilder, folder: Path) -> Page:
    """Open the report of a profile."""
    page.goto(write_report(builder.build(), folder / "report.html").as_uri())
    return page


def section(page: Page, heading: str) -> Locator:
    """Return the section of that heading."""
    return page.locator("section").filter(has=page.get_by_role("heading", name=heading, exact=True))


def column(table: Locator, number: int) -> list[str]:
    """Return the texts of a column as they are shown."""
    return [cell.inner_text() for cell in table.locator(f"tr td:nth-child({number})").all()]


class TestTables:
    def test_sorted_by_what_the_numbers_are(self, page: Page, tmp_path: Path) -> None:
        """Largest first, then smallest, then as it was; what is not known stands last."""
        builder = ProfileBuilder()
        for name, seconds in (("a", 0.5), ("b", 0.000_9), ("c", 12.0), ("d", 0.07)):
            builder.span(name, 0.0, seconds, ttft_s=None if name == "a" else seconds / 2)
        table = section(opened(page, builder, tmp_path), "Spans").locator("table")
        as_it_was = column(table, 2)
        button = table.get_by_role("button", name="first text")
        button.click()
        assert column(table, 2) == ["c", "d", "b", "a"]
        assert table.locator("th[aria-sort=descending]").inner_text() == "first text"
        button.press("Enter")
        assert column(table, 2) == ["b", "d", "c", "a"]
        button.press("Enter")
        assert column(table, 2) == as_it_was
        assert table.locator("th[aria-sort=none]").count() == table.locator("th").count()

    def test_searched(self, page: Page, tmp_path: Path) -> None:
        """A row is shown that has all of the words, in whatever case; short tables have no box."""
        builder = ProfileBuilder()
        for number in range(40):
            builder.span(f"step {number}", number / 10, 0.1, agent="qa" if number % 4 else "Ops")
        spans = section(opened(page, builder, tmp_path), "Spans")
        spans.get_by_role("searchbox").fill("ops STEP")
        assert spans.locator("output").inner_text() == "10 of 40 rows"
        assert spans.locator("tbody tr:visible").count() == 10
        spans.get_by_role("searchbox").fill("")
        assert spans.locator("output").inner_text() == "40 rows"
        assert page.get_by_role("searchbox").count() == 2  # Spans, and Other spans


class TestTimeline:
    def test_zoomed(self, page: Page, tmp_path: Path) -> None:
        """By buttons, keys, wheel and dragging; memory shows the same time."""
        builder = two_modes()
        builder.memory(0.0, 1_000_000)
        builder.memory(39.0, 2_000_000)
        timeline = section(opened(page, builder, tmp_path), "Timeline")
        plots = timeline.locator("svg.claude-pm-plot")
        assert plots.count() == 2

        def shown() -> tuple[float, float]:
            parts = [str(plot.get_attribute("viewBox")).split() for plot in plots.all()]
            ((left, width),) = {(float(part[0]), float(part[2])) for part in parts}
            return left, width

        assert shown() == (0, 1000)
        timeline.get_by_role("button", name="Zoom in").click()
        assert shown() == pytest.approx((166.7, 666.7), abs=0.1)
        assert timeline.locator("output").inner_text() == "6.7 s to 33.3 s"
        labels = timeline.locator(".claude-pm-ticks").first.locator("text").all_text_contents()
        assert "10 s" in labels
        assert "0 s" not in labels
        holder = timeline.locator("div.drawing").first
        holder.press("ArrowRight")
        assert shown()[0] == pytest.approx(233.3, abs=0.1)
        holder.press("0")
        assert shown() == (0, 1000)
        box = plots.first.bounding_box()
        assert box is not None
        page.mouse.move(box["x"] + 300, box["y"] + 20)
        page.keyboard.down("Control")
        page.mouse.wheel(0, -200)
        page.keyboard.up("Control")
        page.wait_for_function(
            "document.querySelector('svg.claude-pm-plot').viewBox.baseVal.width < 999"
        )
        before = shown()
        page.mouse.down()
        page.mouse.move(box["x"] + 200, box["y"] + 20, steps=4)
        page.mouse.up()
        assert shown()[0] > before[0]
        assert shown()[1] == before[1]

    def test_frames_are_entered(self, page: Page, tmp_path: Path) -> None:
        """A click stretches a frame to the whole width, Escape brings the whole back."""
        flame = section(opened(page, two_modes(), tmp_path), "Flame graph")
        frame = flame.locator("g.claude-pm-frame").filter(has_text="decode").last
        box = frame.locator("rect")
        narrow = box.get_attribute("width")
        frame.click()
        assert box.get_attribute("width") == "100%"
        frame.press("Escape")
        assert float(str(box.get_attribute("width")).rstrip("%")) == pytest.approx(
            float(str(narrow).rstrip("%")), abs=0.01
        )


class TestPage:
    def test_hostile_text_runs_nothing(self, page: Page, tmp_path: Path) -> None:
        """Sorting, searching and zooming do not make markup of it either."""
        opened(page, hostile(), tmp_path)
        buttons = page.locator("th button, div.controls button")
        assert buttons.count() > 20
        for button in buttons.all():
            button.click()
        assert page.locator("img[src=x]").count() == 0
        assert page.locator("script").count() == 2

    def test_without_scripts(self, browser: Browser, tmp_path: Path) -> None:
        """All is there to read, and no control that would do nothing."""
        context = browser.new_context(java_script_enabled=False, offline=True)
        page = opened(context.new_page(), two_modes(), tmp_path)
        assert page.get_by_role("button").count() == 0
        assert page.get_by_role("searchbox").count() == 0
        assert section(page, "Spans").locator("tbody tr").count() == len(two_modes().build().spans)
        assert page.locator("svg.claude-pm-timeline").is_visible()
        context.close()

    def test_printed(self, page: Page, tmp_path: Path) -> None:
        """On paper there are no controls, and long tables are whole."""
        builder = ProfileBuilder()
        for number in range(100):
            builder.span(f"step {number}", number / 10, 0.1)
        opened(page, builder, tmp_path)
        page.emulate_media(media="print")
        assert page.locator("div.controls:visible").count() == 0
        scroll = section(page, "Spans").locator("div.scroll")
        assert scroll.evaluate("element => element.scrollHeight <= element.clientHeight")
