"use strict";
// What a report can do beyond being read: tables are sorted and searched, the timeline is zoomed,
// the flame graph is entered. Every control is made here, so that without scripts there is none
// that does nothing. Texts of the profile are only ever set as text.

const SEARCH_FROM_ROWS = 9;
const count = new Intl.NumberFormat("en");
const collator = new Intl.Collator("en", { numeric: true });

function make(name, properties = {}, ...children) {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
}

// ---- Tables -------------------------------------------------------------------------------

function valueOf(row, column) {
  const cell = row.cells[column];
  return cell.dataset.value === undefined ? cell.textContent : Number(cell.dataset.value);
}

function makeSortable(table) {
  const body = table.tBodies[0];
  const original = [...body.rows];
  const headings = [...table.tHead.rows[0].cells];

  function sort(column, direction) {
    headings.forEach((heading, i) => {
      heading.setAttribute("aria-sort", i === column && direction ? direction : "none");
    });
    table.classList.toggle("sorted", Boolean(direction));
    if (!direction) return body.append(...original);
    const sign = direction === "ascending" ? 1 : -1;
    const keyed = original.map((row) => [valueOf(row, column), row]);
    const numbers = keyed.filter(([value]) => typeof value === "number");
    const texts = keyed.filter(([value]) => typeof value !== "number");
    numbers.sort(([a], [b]) => sign * (a - b));
    texts.sort(([a], [b]) => sign * collator.compare(a, b));
    // What is not known, a dash among numbers, stands last whichever way it is sorted.
    return body.append(...[...numbers, ...texts].map(([, row]) => row));
  }

  headings.forEach((heading, column) => {
    const button = make("button", { type: "button", title: "Sort by this column" });
    button.append(...heading.childNodes);
    heading.append(button);
    heading.setAttribute("aria-sort", "none");
    // Of numbers one looks for the largest first, of names for the first. The third click
    // brings back the order of the report.
    const isNumber = original.some((row) => row.cells[column].dataset.value !== undefined);
    const turns = isNumber ? ["descending", "ascending"] : ["ascending", "descending"];
    button.addEventListener("click", () => {
      const next = turns.indexOf(heading.getAttribute("aria-sort")) + 1;
      sort(column, next < turns.length ? turns[next] : "");
    });
  });
}

function makeSearchable(table) {
  const rows = [...table.tBodies[0].rows];
  const texts = rows.map((row) => row.textContent.toLowerCase());
  const total = count.format(rows.length);
  const box = make("input", { type: "search", placeholder: "Search", autocomplete: "off" });
  const heading = table.closest("section")?.querySelector("h2")?.textContent ?? "the table";
  box.setAttribute("aria-label", `Search ${heading}`);
  const said = make("output", { textContent: `${total} rows` });
  box.addEventListener("input", () => {
    const wanted = box.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    rows.forEach((row, i) => {
      row.hidden = !wanted.every((word) => texts[i].includes(word));
      shown += row.hidden ? 0 : 1;
    });
    said.textContent = wanted.length ? `${count.format(shown)} of ${total} rows` : `${total} rows`;
  });
  table.parentElement.before(make("div", { className: "controls" }, box, said));
}

for (const table of document.querySelectorAll("table.sortable")) {
  const rows = table.tBodies[0].rows.length;
  if (rows > 1) makeSortable(table);
  if (rows >= SEARCH_FROM_ROWS) makeSearchable(table);
}

// ---- Time axes ----------------------------------------------------------------------------
// A chart with a time axis is an SVG with another in it, the plot, in which 0 to 1000 is the whole
// duration. Zooming shows a part of the plot and writes the ticks anew; the charts of a page show
// the same part.

const WHOLE = 1000;
const LEAST = 0.1;
const ZOOM = 1.5;
const TICKS = 8;
const UNITS = [[1, "s"], [1e-3, "ms"], [1e-6, "µs"], [1e-9, "ns"]];

// The unit is that of the last moment shown, so that an axis has one.
function seconds(value, step, lastS) {
  const [size, unit] = UNITS.find(([size]) => lastS >= size / 10) ?? UNITS.at(-1);
  const digits = Math.max(0, Math.ceil(-Math.log10(step / size) - 1e-9));
  return `${(value / size).toFixed(digits)} ${unit}`;
}

// The next larger of 1, 2, 5, 10, 20, ...
function roundStep(rough) {
  const power = 10 ** Math.floor(Math.log10(rough));
  return power * [1, 2, 5, 10].find((factor) => factor * power >= rough * (1 - 1e-9));
}

function makeTimeChart(plot) {
  const svg = plot.ownerSVGElement;
  const startS = Number(svg.dataset.startS);
  const durationS = Number(svg.dataset.durationS);
  const height = plot.viewBox.baseVal.height;
  // Where the plot is in the drawing, both as it is written: percents stay percents.
  const left = parseFloat(plot.getAttribute("x"));
  const width = parseFloat(plot.getAttribute("width"));
  const unit = plot.getAttribute("x").endsWith("%") ? "%" : "";
  const ticks = svg.querySelector("g.claude-pm-ticks");
  const original = [...ticks.children];
  const line = ticks.querySelector("line");
  const label = ticks.querySelector("text");
  // Texts at a moment of the plot, such as a span's name, stand with the ticks.
  const words = original.filter((text) => text.matches("text:not([text-anchor=middle])"));
  const secondsAt = (x) => startS + (x / WHOLE) * durationS;

  function placed(element, x, ...names) {
    const copy = element.cloneNode(true);
    for (const name of names) copy.setAttribute(name, `${left + x * width}${unit}`);
    return copy;
  }

  function ticksBetween(from, span) {
    const firstS = secondsAt(from);
    const lastS = secondsAt(from + span);
    const step = roundStep((lastS - firstS) / TICKS);
    const made = [];
    for (let i = Math.ceil(firstS / step - 1e-6); i * step <= lastS + 1e-6 * step; i += 1) {
      const share = (i * step - firstS) / (lastS - firstS);
      const text = placed(label, share, "x");
      text.textContent = seconds(i * step, step, lastS);
      made.push(placed(line, share, "x1", "x2"), text);
    }
    for (const word of words) {
      const whole = (parseFloat(word.getAttribute("x")) - left) / width;
      const share = (whole * WHOLE - from) / span;
      if (share >= 0 && share <= 1) made.push(placed(word, share, "x"));
    }
    return made;
  }

  return {
    svg,
    show(from, span) {
      plot.setAttribute("viewBox", `${from} 0 ${span} ${height}`);
      ticks.replaceChildren(...(span < WHOLE ? ticksBetween(from, span) : original));
    },
    // Where a pointer is, as a share of the plot's width.
    share(event) {
      const point = new DOMPoint(event.clientX, event.clientY);
      const { x } = point.matrixTransform(svg.getScreenCTM().inverse());
      return (x - plot.x.baseVal.value) / plot.width.baseVal.value;
    },
    said(from, span) {
      const ends = [secondsAt(from), secondsAt(from + span)];
      const step = roundStep((ends[1] - ends[0]) / 100);
      return ends.map((end) => seconds(end, step, ends[1])).join(" to ");
    },
  };
}

function makeZoomable(plots) {
  const charts = plots.map(makeTimeChart);
  const output = make("output");
  let from = 0;
  let span = WHOLE;

  function show(newFrom, newSpan) {
    span = Math.min(WHOLE, Math.max(LEAST, newSpan));
    from = Math.min(WHOLE - span, Math.max(0, newFrom));
    for (const chart of charts) chart.show(from, span);
    output.textContent = span < WHOLE ? charts[0].said(from, span) : "";
  }

  // The moment at this share of the width stays where it is.
  function zoom(factor, share = 0.5) {
    const newSpan = Math.min(WHOLE, Math.max(LEAST, span / factor));
    show(from + share * (span - newSpan), newSpan);
  }

  const whole = () => show(0, WHOLE);
  const move = (share) => show(from + share * span, span);
  const keys = {
    "+": () => zoom(ZOOM),
    "=": () => zoom(ZOOM),
    "-": () => zoom(1 / ZOOM),
    0: whole,
    ArrowLeft: () => move(-0.1),
    ArrowRight: () => move(0.1),
  };

  const hint = "Drag to move; Ctrl and wheel, or + and −, to zoom";
  charts[0].svg.parentElement.before(
    make("div", { className: "controls" },
      make("button", { type: "button", textContent: "Zoom in", onclick: () => zoom(ZOOM) }),
      make("button", { type: "button", textContent: "Zoom out", onclick: () => zoom(1 / ZOOM) }),
      make("button", { type: "button", textContent: "Whole", onclick: whole }),
      make("span", { className: "hint", textContent: hint }),
      output),
  );
  for (const chart of charts) {
    const holder = chart.svg.parentElement;
    holder.tabIndex = 0;
    holder.setAttribute("role", "group");
    holder.setAttribute("aria-label", "Chart over time: + and - zoom, arrows move, 0 shows the whole");
    holder.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || !(event.key in keys)) return;
      event.preventDefault();
      keys[event.key]();
    });
    chart.svg.addEventListener("wheel", (event) => {
      if (!event.ctrlKey) return;
      event.preventDefault();
      zoom(ZOOM ** (-event.deltaY / 100), Math.min(1, Math.max(0, chart.share(event))));
    }, { passive: false });
    makeDraggable(chart, (share) => move(share));
  }
}

function makeDraggable(chart, move) {
  let last = null;
  chart.svg.classList.add("draggable");
  chart.svg.addEventListener("pointerdown", (event) => {
    if (event.button === 0) last = chart.share(event);
  });
  chart.svg.addEventListener("pointermove", (event) => {
    if (last === null) return;
    // Only now is it no click.
    chart.svg.setPointerCapture(event.pointerId);
    const share = chart.share(event);
    move(last - share);
    last = share;
  });
  for (const end of ["pointerup", "pointercancel"]) {
    chart.svg.addEventListener(end, () => { last = null; });
  }
}

// Charts of the same time show the same part of it.
const byDuration = new Map();
for (const plot of document.querySelectorAll("svg.claude-pm-plot")) {
  const { durationS } = plot.ownerSVGElement.dataset;
  if (Number(durationS) > 0) byDuration.set(durationS, [...(byDuration.get(durationS) ?? []), plot]);
}
for (const plots of byDuration.values()) makeZoomable(plots);

// ---- The flame graph ----------------------------------------------------------------------
// A frame says where it is as shares of the whole. Entering one stretches it to the whole width.

const CHARACTER_PX = 6.2;
const LEAST_LETTERS = 3;
const EPSILON = 1e-5;

// As much of a name as fits, as the drawing itself does it.
function fitted(name, pixels) {
  const fitting = Math.floor((pixels - 6) / CHARACTER_PX);
  if (fitting < LEAST_LETTERS) return "";
  return name.length <= fitting ? name : `${name.slice(0, fitting - 1).trimEnd()}…`;
}

function makeFlame(svg) {
  const whole = { x: 0, width: 1, depth: -1 };
  const frames = [...svg.querySelectorAll("g.claude-pm-frame")].map((group) => {
    const said = group.querySelector("title").textContent;
    const full = said.split("\n")[0];
    return {
      group,
      said: said.replace("\n", ": "),
      name: full.split(" (")[0] || full,
      rect: group.querySelector("rect"),
      text: group.querySelector("text"),
      x: Number(group.dataset.x),
      width: Number(group.dataset.width),
      depth: Number(group.dataset.depth),
    };
  });
  const output = make("output");
  let entered = whole;

  const holds = (outer, inner) =>
    outer.depth <= inner.depth &&
    outer.x <= inner.x + EPSILON &&
    outer.x + outer.width >= inner.x + inner.width - EPSILON;

  function draw() {
    const pixels = svg.getBoundingClientRect().width;
    for (const frame of frames) {
      const isShown = holds(entered, frame) || holds(frame, entered);
      frame.group.style.display = isShown ? "" : "none";
      if (!isShown) continue;
      const x = Math.max(0, (frame.x - entered.x) / entered.width);
      const width = Math.min(1, frame.width / entered.width);
      frame.rect.setAttribute("x", `${100 * x}%`);
      frame.rect.setAttribute("width", `${100 * width}%`);
      frame.rect.style.opacity = frame.depth < entered.depth ? 0.55 : "";
      frame.text.setAttribute("x", `${100 * x}%`);
      frame.text.textContent = fitted(frame.name, pixels * width);
    }
  }

  function enter(frame) {
    entered = frame;
    draw();
    output.textContent = frame.said ?? "";
  }

  // One frame at a time can be reached with Tab; the arrows go on from there.
  function focus(frame) {
    if (!frame) return;
    for (const { group } of frames) group.tabIndex = group === frame.group ? 0 : -1;
    frame.group.focus();
  }

  function near(frame, key) {
    const shown = frames.filter(({ group }) => group.style.display !== "none");
    const of = (depth) => shown.filter((other) => other.depth === depth);
    const row = of(frame.depth).sort((a, b) => a.x - b.x);
    switch (key) {
      case "ArrowUp": return of(frame.depth - 1).find((other) => holds(other, frame));
      case "ArrowDown": return of(frame.depth + 1).find((other) => holds(frame, other));
      case "ArrowLeft": return row[row.indexOf(frame) - 1];
      case "ArrowRight": return row[row.indexOf(frame) + 1];
      default: return undefined;
    }
  }

  frames.forEach((frame, i) => {
    frame.group.tabIndex = i === 0 ? 0 : -1;
    frame.group.setAttribute("role", "button");
    frame.group.setAttribute("aria-label", frame.said);
    frame.group.addEventListener("click", () => enter(frame === entered ? whole : frame));
    frame.group.addEventListener("pointerenter", () => { output.textContent = frame.said; });
    frame.group.addEventListener("focus", () => { output.textContent = frame.said; });
    frame.group.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.key === "Enter" || event.key === " ") enter(frame === entered ? whole : frame);
      else if (event.key === "Escape" || event.key === "0") enter(whole);
      else if (event.key.startsWith("Arrow")) focus(near(frame, event.key));
      else return;
      event.preventDefault();
    });
  });
  svg.setAttribute("role", "group");
  svg.parentElement.before(
    make("div", { className: "controls" },
      make("button", { type: "button", textContent: "Whole", onclick: () => enter(whole) }),
      make("span", { className: "hint", textContent: "Click a frame to enter it; arrows and Enter do it too" }),
      output),
  );
  addEventListener("resize", draw);
  draw();
}

for (const svg of document.querySelectorAll("svg.claude-pm-flame")) makeFlame(svg);
