"""The magics and widgets in a real JupyterLab with a real kernel."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Browser, Locator, expect

from tests.browser.conftest import ARTEFACTS, OpenNotebook
from tests.browser.jupyterlab import JupyterLab, Notebook, complaints_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

LOAD = "%load_ext claude_pm"
# As JupyterLab shows an error; a sentence on the standard error stream looks the same to it.
ERROR = "[data-mime-type='application/vnd.jupyter.stderr']"
AWAITING = """\
%%claude_pm_profile --name awaiting --as awaiting
import asyncio
import claude_pm

async def step(number):
    with claude_pm.span("step", agent=f"agent {number}"):
        await asyncio.sleep(0.05 * (number + 1))

await asyncio.gather(*(step(number) for number in range(3)))
sum(range(10))"""


def loaded(notebook: Notebook) -> Notebook:
    """Run the notebook's first cell, which loads the extension."""
    assert notebook.run(0).inner_text().strip() == ""
    return notebook


def is_drawn(output: Locator) -> None:
    """The summary's picture is there, and has a size."""
    box = output.locator(".claude-pm svg").first.bounding_box()
    assert box is not None
    assert box["width"] > 300
    assert box["height"] > 20


def test_asks_an_agent(notebook: OpenNotebook) -> None:
    """The answer is seen, and below it the summary with its drawing."""
    opened = loaded(
        notebook(LOAD, "%%orchestrate documentation --max-tokens 8\nWhat is this project?")
    )
    output = opened.run(1)
    expect(output.locator(".claude-pm")).to_contain_text("Answered 1 request in")
    expect(output.locator(".claude-pm")).to_contain_text("model live")
    is_drawn(output)
    assert output.locator(ERROR).count() == 0


def test_profiles_a_cell_that_awaits(notebook: OpenNotebook) -> None:
    """Its value and its summary are shown; the lanes are the agents'."""
    opened = loaded(notebook(LOAD, AWAITING, "awaiting.spans['name'].tolist()"))
    output = opened.run(1)
    expect(output).to_contain_text("45")
    is_drawn(output)
    for number in range(3):
        expect(output.locator(".claude-pm svg").first).to_contain_text(f"agent {number}")
    expect(opened.run(2)).to_contain_text("['step', 'step', 'step']")


@pytest.mark.parametrize(
    "work", ["await asyncio.sleep(0.05)", "sum(range(100_000))"], ids=["awaits", "computes"]
)
def test_an_interrupt_keeps_what_was_recorded(work: str, notebook: OpenNotebook) -> None:
    """The cell ends, its profile is shown, and the kernel goes on."""
    opened = loaded(
        notebook(
            LOAD,
            "%%claude_pm_profile --as cut\nimport asyncio, claude_pm\nprint('begun')\n"
            f"while True:\n    with claude_pm.span('turn'):\n        {work}",
            # The last one may have been interrupted as it began or ended: then that is said.
            "last = cut.spans.iloc[-1]\n"
            "len(cut.spans) > 1, set(cut.spans['status'][:-1]) == {'ok'}, "
            "bool('unfinished' in last['attributes'] or last['status'] in ('ok', 'cancelled'))",
        )
    )
    opened.start(1)
    expect(opened.output(1)).to_contain_text("begun", timeout=60_000)
    opened.interrupt()
    expect(opened.output(1).locator(ERROR)).to_contain_text(
        re.compile("KeyboardInterrupt|CancelledError")
    )
    is_drawn(opened.output(1))
    expect(opened.run(2)).to_contain_text("(True, True, True)")


def test_an_error_stands_beside_its_profile(notebook: OpenNotebook) -> None:
    """A failing cell shows its own error, and what was recorded."""
    opened = loaded(
        notebook(
            LOAD,
            "%%claude_pm_profile\nimport claude_pm\nwith claude_pm.span('divide'):\n    1 / 0",
        )
    )
    output = opened.run(1)
    expect(output.locator(ERROR)).to_contain_text("ZeroDivisionError: division by zero")
    expect(output.locator(".claude-pm")).to_contain_text("divide")
    is_drawn(output)


def test_a_mistake_is_a_sentence(notebook: OpenNotebook) -> None:
    """An agent or option that does not exist: what is wrong, and no traceback."""
    opened = loaded(
        notebook(LOAD, "%%orchestrate documentaton\nHello", "%%claude_pm_profile --bogus\n1")
    )
    agent, option = opened.run(1), opened.run(2)
    expect(agent).to_contain_text("documentaton")
    expect(agent).to_contain_text("documentation")
    expect(option).to_contain_text("--bogus")
    for output in (agent, option):
        assert "Traceback" not in output.inner_text()
        assert "site-packages" not in output.inner_text()


def test_the_explorer_by_keyboard(notebook: OpenNotebook) -> None:
    """Choose an agent, a span and a time by keys; running the cell again keeps what was chosen."""
    opened = loaded(notebook(LOAD, f"{AWAITING};", "awaiting.explore()"))
    opened.run(1)
    explorer = opened.run(2)
    spans = explorer.get_by_label("Span", exact=True)
    expect(spans.locator("option")).to_have_count(3)

    # JupyterLab takes arrow keys from an open page's lists, but not from an opened one.
    agent = explorer.get_by_label("Agent", exact=True)
    agent.focus()
    for key in ("Space", "ArrowDown", "Enter"):
        opened.page.keyboard.press(key)
    expect(agent).to_have_value("agent 0")
    expect(spans.locator("option")).to_have_count(1)

    opened.run(2)
    expect(agent).to_have_value("agent 0")
    expect(spans.locator("option")).to_have_count(1)

    agent.focus()
    for key in ("Space", "ArrowUp", "Enter"):
        opened.page.keyboard.press(key)
    expect(spans.locator("option")).to_have_count(3)
    spans.focus()
    opened.page.keyboard.press("End")
    expect(explorer).to_contain_text("agent 0, ok")
    previous = explorer.get_by_role("button", name="Previous")
    previous.focus()
    opened.page.keyboard.press("Enter")
    expect(explorer).to_contain_text("agent 1, ok")

    # The begin of the time, moved behind the end of the shortest span.
    handle = explorer.locator(".noUi-handle").first
    handle.focus()
    for _ in range(20):
        for _ in range(10):
            opened.page.keyboard.press("ArrowRight")
        opened.page.wait_for_timeout(100)
        if spans.locator("option").count() < 3:
            break
    expect(spans.locator("option")).to_have_count(2)


def test_a_report_without_a_network(
    lab: JupyterLab, browser: Browser, notebook: OpenNotebook
) -> None:
    """What a notebook writes can be zoomed, sorted and searched with the network off."""
    opened = loaded(notebook(LOAD, AWAITING, "awaiting.to_html('awaiting.html')"))
    opened.run(1)
    expect(opened.run(2)).to_contain_text("awaiting.html")
    context = browser.new_context(offline=True)
    page = context.new_page()
    complaints = complaints_of(page)
    page.goto((lab.folder / "awaiting.html").as_uri())
    page.get_by_role("button", name="Zoom in").first.click()
    plot = page.locator("svg.claude-pm-plot").first
    assert str(plot.get_attribute("viewBox")).split()[0] != "0"
    functions = page.locator("section").filter(
        has=page.get_by_role("heading", name="Functions with most time of their own")
    )
    calls = functions.locator("td:nth-child(3)")
    functions.get_by_role("button", name="calls").click()
    counts = [int(text.replace(",", "")) for text in calls.all_inner_texts()]
    assert counts == sorted(counts, reverse=True)
    assert len(counts) > 5
    functions.get_by_role("searchbox").fill("step")
    assert set(functions.locator("tbody tr:visible td:first-child").all_inner_texts()) == {"step"}
    page.screenshot(path=ARTEFACTS / "report_without_a_network.png")
    context.close()
    assert complaints == []


def test_dark_theme(lab: JupyterLab, notebook: OpenNotebook) -> None:
    """In a dark JupyterLab the summary's texts can be read: WCAG's contrast of 4.5 to 1."""
    lab.use_theme("JupyterLab Dark")
    try:
        opened = loaded(notebook(LOAD, AWAITING))
        output = opened.run(1)
        is_drawn(output)
        contrasts = output.locator(".claude-pm").evaluate(CONTRASTS)
    finally:
        lab.use_theme("JupyterLab Light")
    assert len(contrasts) > 5
    assert {text: ratio for text, ratio in contrasts if ratio < 4.5} == {}


# The contrast of each text in the summary with the bar that it stands on, or else with the nearest
# background that is painted, as WCAG 2 defines it. (SVG texts have fill for a colour.)
CONTRASTS = """
root => {
  const channels = color => {
    const canvas = document.createElement("canvas").getContext("2d");
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const luminance = color => {
    const [r, g, b] = channels(color).map(v => v / 255)
      .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const background = element => {
    const box = element.getBoundingClientRect();
    const [x, y] = [box.x + box.width / 2, box.y + box.height / 2];
    for (const bar of [...(element.ownerSVGElement?.querySelectorAll("rect") ?? [])].reverse()) {
      const around = bar.getBoundingClientRect();
      const isBeside = x < around.left || around.right < x || y < around.top || around.bottom < y;
      const fill = getComputedStyle(bar).fill;
      if (!isBeside && fill.startsWith("rgb") && channels(fill)[3] === 255) return fill;
    }
    for (let at = element; at; at = at.parentElement) {
      const color = getComputedStyle(at).backgroundColor;
      if (channels(color)[3] === 255) return color;
    }
    return "white";
  };
  const found = [];
  for (const element of root.querySelectorAll("*")) {
    const own = [...element.childNodes].filter(node => node.nodeType === 3)
      .map(node => node.textContent.trim()).join(" ").trim();
    const box = element.getBoundingClientRect();
    if (!own || box.width === 0 || /^(style|title|script)$/i.test(element.tagName)) continue;
    const style = getComputedStyle(element);
    if (style.visibility === "hidden") continue;
    const inSvg = element.ownerSVGElement;
    const light = [luminance(inSvg ? style.fill : style.color), luminance(background(element))];
    const ratio = (Math.max(...light) + 0.05) / (Math.min(...light) + 0.05);
    found.push([own.slice(0, 60), ratio]);
  }
  return found;
}
"""
