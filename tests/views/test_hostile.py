"""Whatever a model, a prompt, a file or an exception puts in stays text, and none of it is lost."""

from __future__ import annotations

import functools
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from ipywidgets import HTML
from playwright.sync_api import Browser

import claude_pm
from claude_pm.analysis.compare import Comparison
from claude_pm.profiles import Experiment, Profile, schema
from claude_pm.views import charts, words
from claude_pm.views.axes import label
from claude_pm.views.comparison import comparison_markdown
from claude_pm.views.critical_path import critical_path_html, critical_path_text
from claude_pm.views.explorer import explore
from claude_pm.views.flame import flame_svg
from claude_pm.views.memory_svg import memory_svg
from claude_pm.views.reading import Reading
from claude_pm.views.report import report_html
from claude_pm.views.span_details import details_html
from claude_pm.views.span_index import SpanIndex
from claude_pm.views.summary import summary_html, summary_text
from claude_pm.views.timeline_svg import timeline_svg
from tests.browser.jupyterlab import chromium
from tests.profile_builder import ProfileBuilder
from tests.views.payloads import PAYLOADS, RUN

HARMLESS = ("plain", "some longer words that are harmless, and " * 40)
_MODES = 3
PREFIX = 14
"""Characters of a text that are seen even where it is cut."""

ALL = list(PAYLOADS.values())
FEW = [ALL[first : first + 12] for first in range(0, len(ALL), 12)]
MANY = [ALL[first : first + 24] for first in range(0, len(ALL), 24)]

Shown = dict[str, str]


def encodable(text: str) -> str:
    """Return the text as a table can hold it: without halves of surrogate pairs."""
    return text.encode("utf-8", "replace").decode()


def everywhere(texts: Iterable[str], name: str = "hostile") -> Profile:
    """Return a profile with each text in every place that can hold one."""
    texts = list(texts)
    builder = ProfileBuilder(
        name,
        source="\n".join(texts),
        platform=texts[0],
        python=texts[0],
        packages={text: text for text in texts},
        settings={text: text for text in texts} | {"list": texts, "deep": {"x": texts}},
        model_use=texts[0],
        cpu="sample",
        memory=texts[0],
        git_commit=texts[0],
        lines=texts[0],
        overhead={texts[0]: {texts[0]: texts[0]}, "workers": [{texts[0]: {texts[0]: 1.0}}]},
        **{text: text for text in texts},
    )
    tables: dict[str, list[dict[str, Any]]] = {name: [] for name in schema.TABLES}
    for number, given in enumerate(texts):
        text, at = encodable(given), number / len(texts) * 9.0
        # Charts hold a few modes, and not hundreds.
        mode = text if number < _MODES else "local"
        place: dict[str, Any] = {"thread": text, "task": text, "cache": text, "model": text}
        request = builder.request(
            text, mode, at, 0.5, ttft_s=0.2, attributes={given: given, "request": given}, **place
        )
        builder.span(
            "chat", at, 0.4, parent=request, agent=text, mode=mode, ttft_s=0.2, input_tokens=10,
            cache_read_tokens=9, output_tokens=3, cost_usd=0.1,
            attributes={"response": given, "nested": {given: [given]}}, **place,
        )  # fmt: skip
        builder.request(text, "local", at, 0.3, status="error", error=text)
        builder.span(text, at, 0.9, agent=text, mode=mode, status=text, error=text, **place)
        builder.function(text, 0.5 - number / 1000, file=text)
        builder.memory(at, 10_000_000 + number, pid=number, role=text)
        tables["samples"] += [
            {"agent": text, "thread": text, "task": text, "state": state, "weight_s": 0.5,
             "stack": f"main (a.py:1);{text};{text} ({text}:3)"}
            for state in ("running", "waiting", text)
        ]  # fmt: skip
        tables["allocations"].append({"file": text, "line": 1, "size_bytes": 9, "count": 1})
        tables["lines"].append({"file": text, "line": 1, "source": text, "cpu_python_percent": 9.0})
        tables["callers"].append(dict.fromkeys(("caller_function", "callee_file"), text))
    built = builder.build()
    frames = {
        name: schema.frame_from_rows(schema.TABLES[name], tables[name])
        if tables[name]
        else built.table(name)
        for name in schema.TABLES
    }
    return Profile(built.meta, frames)


def compared(texts: list[str]) -> Profile:
    """Return the profile of an experiment whose conditions, agents and modes are called so."""
    names = [encodable(text) for text in (*texts, f"{texts[0]} 2")]
    plan = {"conditions": names, "repeat": 1, "warmup": 0, "seed": texts[0], "complete": True}
    builder = ProfileBuilder(texts[0], model_use="live", experiment=plan)
    for number in range(len(names)):
        name = names[number % len(names)]
        sample = builder.span(
            "sample", float(number), 0.6 + number % len(names) / 30,
            attributes={"condition": name, "block": number // len(names), "order": number},
        )  # fmt: skip
        builder.answered(
            name, name, float(number), 0.5, ttft_s=0.1 + number / 100, parent=sample,
            input_tokens=10, cache_read_tokens=number % 10, output_tokens=5,
        )  # fmt: skip
    return builder.build()


def comparison(name: str) -> Comparison:
    """Return a comparison of two profiles of that name."""
    made = []
    for number in (1, 2):
        builder = ProfileBuilder(f"{name}{' b' * (number - 1)}")
        builder.answered(encodable(name), "local", 0.0, 1.0 * number, ttft_s=0.1)
        made.append(builder.build())
    return claude_pm.compare(*made)


def in_html(texts: list[str]) -> Shown:
    """Return every view in HTML or SVG of profiles with the texts in every place."""
    profile = everywhere(texts, texts[0])
    reading = Reading(profile)
    return {
        "summary": profile._repr_mimebundle_()["text/html"],
        "summary of an experiment": summary_html(compared(texts)),
        "timeline": str(timeline_svg(reading)),
        "flame": str(flame_svg(reading)),
        "memory": str(memory_svg(reading)),
        "critical path": critical_path_html(profile.critical_path()),
        "explorer": explorer_html(profile, compared(texts)),
    }


def explorer_html(profile: Profile, other: Profile) -> str:
    """Return the HTML of the explorer of two profiles, and the details of each span of the first.

    What its lists hold is text, which has a test of its own.
    """
    index, widgets = SpanIndex(profile), [explore(profile, other)]
    for widget in widgets:
        widgets += getattr(widget, "children", ())
    shown = [widget.value for widget in widgets if isinstance(widget, HTML)]
    return "".join([*shown, *(details_html(index, place) for place in range(len(index)))])


class Structure(HTMLParser):
    """The elements of a page with the names of their attributes, their values, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: set[tuple[str, ...]] = set()
        self.values: list[tuple[str, str, str]] = []
        self.others: list[str] = []
        self._texts: list[str] = []
        self._within = ""
        self.feed(html)
        self.close()
        self.text = "".join(self._texts)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._within = tag
        self.elements.add((tag, *sorted(name for name, _ in attrs)))
        self.values += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        self._within = ""

    def handle_data(self, data: str) -> None:
        if self._within not in {"style", "script"}:
            self._texts.append(data)

    def handle_comment(self, data: str) -> None:
        self.others.append(data)

    def handle_pi(self, data: str) -> None:
        self.others.append(data)

    def unknown_decl(self, data: str) -> None:
        self.others.append(data)


@functools.cache
def elements(html: str) -> frozenset[tuple[str, ...]]:
    """Return those of a harmless page, to which many are compared."""
    return frozenset(Structure(html).elements)


_WORDS = {"title", "alt", "aria-label", "content", "data-value", "placeholder", "value"}
"""Attributes that hold words of a profile, and do nothing with them."""
_OWN = re.compile(
    r"(data:image/svg\+xml;base64,[\w+/=]*|[\w #.,:;%()+/*'\"=-]*)", re.ASCII | re.DOTALL
)


def assert_only_text(html: str, like: Iterable[str]) -> None:
    """Check that a page has no element, attribute or address but those of harmless ones."""
    found = Structure(html)
    known = frozenset[tuple[str, ...]]().union(*(elements(other) for other in like))
    # What is drawn differs with the length of a text, in attributes that we write alone.
    tags = {element[0] for element in known}
    names = {(element[0], name) for element in known for name in element[1:]}
    assert {element[0] for element in found.elements} <= tags
    assert {(e[0], name) for e in found.elements for name in e[1:]} <= names
    assert found.others == []
    for _, name, value in found.values:
        assert not name.startswith("on")
        if name in {"href", "src", "style", "action", "fill", "class", "id"}:
            assert "evil" not in value
            assert RUN not in value
            assert _OWN.fullmatch(value), (name, value[:200])


def joined(text: str) -> str:
    """Return the text with whitespace made even, as it is in a line."""
    return " ".join(text.split())


def assert_is_seen(payload: str, text: str) -> None:
    """Check that what can be printed of a payload's start is there, and the rest replaced.

    The text is a joined one.
    """
    starts = [joined(words.clean(given))[:PREFIX] for given in (payload, encodable(payload))]
    assert any(start in text for start in starts), starts


@pytest.fixture(scope="module")
def harmless() -> dict[str, list[str]]:
    """Return each view of harmless profiles."""
    views = [in_html([f"{text} {number}" for number in range(12)]) for text in HARMLESS]
    return {name: [view[name] for view in views] for name in views[0]}


@pytest.fixture(scope="module")
def reports() -> list[str]:
    """Return reports of harmless profiles."""
    many = [f"{text} {number}" for number in range(12) for text in HARMLESS]
    profiles = [everywhere(many), compared(many[:4])]
    profiles += [ProfileBuilder(text, source=text).build() for text in HARMLESS]
    return [report_html(profile) for profile in profiles]


@pytest.fixture(scope="module")
def comparisons() -> list[str]:
    """Return comparisons of profiles with harmless names."""
    return [comparison(text)._repr_mimebundle_()["text/html"] for text in HARMLESS]


def test_there_are_enough_of_them() -> None:
    assert len(set(ALL)) == len(PAYLOADS) > 150


@pytest.mark.parametrize("few", FEW, ids=lambda few: few[0][:12].encode("ascii", "replace"))
class TestFew:
    def test_in_html_they_are_text(self, few: list[str], harmless: dict[str, list[str]]) -> None:
        for name, html in in_html(few).items():
            assert_only_text(html, harmless[name])
            found = Structure(html)
            said = " ".join(value for _, key, value in found.values if key in _WORDS)
            text = joined(f"{found.text} {said}")
            for payload in few:
                if name not in {"memory", "critical path"}:
                    assert_is_seen(payload, text)

    def test_drawings_are_well_formed(self, few: list[str]) -> None:
        reading = Reading(everywhere(few))
        for draw in (timeline_svg, flame_svg, memory_svg):
            assert ET.fromstring(str(draw(reading))).tag.endswith("svg")

    def test_in_a_terminal_they_steer_nothing(self, few: list[str]) -> None:
        profile = everywhere(few, few[0])
        texts = [
            profile._repr_mimebundle_()["text/plain"], summary_text(compared(few)),
            critical_path_text(profile.critical_path()),
        ]  # fmt: skip
        for text in texts:
            assert words.clean(text) == text
        for payload in few:
            assert_is_seen(payload, joined(texts[1]))


@pytest.mark.slow
@pytest.mark.parametrize("payload", ALL, ids=PAYLOADS)
class TestEach:
    def test_of_a_comparison_it_is_text(self, payload: str, comparisons: list[str]) -> None:
        found = comparison(payload)
        html = found._repr_mimebundle_()["text/html"]
        assert_only_text(html, comparisons)
        assert_is_seen(payload, joined(Structure(html).text))
        assert words.clean(str(found)) == str(found)
        assert_is_seen(payload, joined(str(found)))
        written = comparison_markdown(found)
        assert words.clean(written) == written
        assert not re.search(r"[<\[\]`~$&*]", re.sub(r"\\[^A-Za-z0-9\s]", "", written))
        assert_is_seen(payload, joined(re.sub(r"\\([^A-Za-z0-9\s])", r"\1", written)))

    def test_of_a_report_it_is_text(self, payload: str, reports: list[str]) -> None:
        html = report_html(ProfileBuilder(payload, source=payload).build(), file_name=payload)
        assert_only_text(html, reports)
        whole = joined(words.clean(payload))
        assert whole in joined(Structure(html).text)


@pytest.mark.slow
class TestTogether:
    def test_a_report_of_all(self, reports: list[str]) -> None:
        html = report_html(everywhere(ALL))
        assert_only_text(html, reports)
        text = joined(Structure(html).text)
        for payload in ALL:
            assert_is_seen(payload, text)

    @pytest.mark.parametrize("few", MANY)
    def test_charts(self, few: list[str]) -> None:
        """Nothing in a chart is a formula, and each can be drawn and written."""
        from matplotlib import pyplot as plt

        profile, experiment = everywhere(few, few[0]), Experiment(compared(few))
        draws: list[Callable[[], Any]] = [
            lambda: charts.plot_timeline(profile), lambda: charts.plot_modes(profile),
            lambda: charts.plot_memory(profile), lambda: charts.plot_cache(profile),
            lambda: charts.plot_hit_rate(profile), lambda: charts.plot_conditions(experiment),
        ]  # fmt: skip
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            for draw in draws:
                ax = draw()
                ax.figure.canvas.draw()
                plt.close(ax.figure)

    def test_a_label_is_no_formula(self) -> None:
        from matplotlib.figure import Figure

        figure = Figure()
        texts = [figure.text(0, 0, label(payload, 500)) for payload in ALL]
        for text, payload in zip(texts, ALL, strict=True):
            shown, is_formula = text._preprocess_math(text.get_text())  # type: ignore[attr-defined]
            assert not is_formula
            assert shown == words.one_line(payload, 500)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Return Chromium."""
    with chromium() as started:
        yield started


_TOUCH_ALL = """() => {
  for (const element of document.querySelectorAll('body *'))
    for (const kind of ['mouseover', 'mouseenter', 'pointerenter', 'focus', 'mousedown', 'click',
                        'toggle', 'load', 'error', 'begin'])
      element.dispatchEvent(new Event(kind, {bubbles: true, cancelable: true}));
}"""


@pytest.mark.slow
class TestInABrowser:
    @pytest.mark.parametrize("view", ["report", "summary", "comparison", "experiment", "each"])
    def test_nothing_runs_and_nothing_is_asked_for(
        self, view: str, browser: Browser, tmp_path: Path
    ) -> None:
        """In a page without a policy, as a notebook is, it is the escaping alone that holds."""
        html = _page(view)
        # In the report a script would be stopped by its policy: that it was tried, is said.
        page_file = tmp_path / "page.html"
        page_file.write_text(html, encoding="utf-8", errors="replace")
        context = browser.new_context(viewport={"width": 1200, "height": 900})
        page = context.new_page()
        said: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: said.append(f"dialog: {dialog.message}"))
        page.on("request", lambda request: said.append(request.url[:100]))
        page.goto(page_file.as_uri())
        page.evaluate(_TOUCH_ALL)
        page.emulate_media(media="print")
        page.wait_for_timeout(200)
        assert page.evaluate("window.__ran === undefined")
        assert [line for line in said if not line.startswith(("file:", "data:image/svg"))] == []
        assert said.count(page_file.as_uri()[:100]) == 1
        assert page.locator("iframe, object, embed, base, form, math, foreignObject").count() == 0
        assert page.locator("a:not([href^='#'])").count() == 0
        text = joined(page.evaluate("document.documentElement.textContent"))
        for payload in ALL:
            assert_is_seen(payload, text)
        context.close()


def _page(view: str) -> str:
    if view == "report":
        return report_html(everywhere(ALL))
    if view == "each":
        parts = [part for few in FEW for part in in_html(few).values()]
    elif view == "summary":
        profile = everywhere(ALL)
        parts = [summary_html(profile), critical_path_html(profile.critical_path())]
    elif view == "experiment":
        parts = [summary_html(compared(few)) for few in FEW]
    else:
        parts = [comparison(text)._repr_mimebundle_()["text/html"] for text in ALL]
    return f'<!DOCTYPE html><meta charset="utf-8"><title>x</title><body>{"".join(parts)}</body>'
