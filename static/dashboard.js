// The dashboard: pieces of page that are kept fresh, and a chart with a table behind it for each question.

import { Broken, ask, listen, morph, watch } from "./live.js";

const HEIGHT = 190;
const COLOURS = 5;    // of nightshift.css
const EVERY = 2_000;  // ms: how often a page asks that may not listen
const dark = matchMedia("(prefers-color-scheme: dark)");

// --- Numbers as people say them: the same words as in apps/jobs/templatetags/durations.py ---

function inSeconds(value) {
  for (const [unit, size, least] of [["d", 86_400, 172_800], ["h", 3_600, 7_200], ["min", 60, 120], ["s", 1, 0.9995]]) {
    if (value >= least) return `${(value / size).toFixed(unit === "s" && value < 10 ? 1 : 0)} ${unit}`;
  }
  return `${(value * 1000).toFixed(0)} ms`;
}

const SAYS = {
  jobs: (value) => value.toLocaleString(),
  seconds: inSeconds,
  percent: (value) => `${(value * 100).toFixed(value > 0 && value < 0.1 ? 1 : 0)} %`,
};
const say = (unit, value) => value === null || value === undefined ? "–" : SAYS[unit](value);
const clock = (seconds) => new Date(seconds * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });

// --- Charts ---

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// A second line of its own unit is a share of the first: thin and dashed, on the right.
function seriesOf(line, at, alone, filled) {
  const stroke = colour(`--line-${at % COLOURS + 1}`);
  const series = { label: line.label, scale: line.unit, stroke, width: 2, value: (_, value) => say(line.unit, value) };
  if (line.unit === "percent" && !alone) return { ...series, width: 1.25, dash: [4, 3], points: { show: false } };
  const many = line.values.filter((value) => value !== null).length > 1;
  return { ...series, fill: filled ? `${stroke}22` : undefined, points: { show: !many, size: 6 } };
}

// Of a logarithmic scale the powers of ten alone.
const decade = (value) => Math.abs(Math.log10(value) % 1) < 1e-9 ? value : null;

function axisOf(unit, side, log) {
  const grid = { stroke: colour("--line"), width: 1, show: side === 3, filter: (_, found) => log ? found.map(decade) : found };
  const values = (_, found) => found.map((value) => value === null ? "" : say(unit, value));
  return { scale: unit, side, size: 58, stroke: colour("--ink-soft"), grid, ticks: { show: false }, values, font: FONT };
}

const FONT = "12px system-ui, sans-serif";

function rangeOf(unit, log) {
  if (log) return { distr: 3, range: (_, least, most) => uPlot.rangeLog(least || 0.01, most || 1, 10, false) };
  if (unit === "percent") return { range: (_, least, most) => [0, Math.min(1, Math.max(0.1, (most || 0) * 1.2))] };
  return { range: (_, least, most) => [0, Math.max(5, (most || 0) * 1.1)] };
}

function optionsOf(chart, place) {
  const units = [...new Set(chart.lines.map((line) => line.unit))];
  const log = place.closest("[data-scale=log]") !== null;
  const time = { stroke: colour("--ink-soft"), grid: { show: false }, ticks: { show: false }, font: FONT,
    values: (_, found) => found.map(clock), space: 70 };
  return {
    width: place.clientWidth,
    height: HEIGHT,
    cursor: { y: false, drag: { setScale: false } },
    legend: { live: true },
    series: [{ label: "at", value: (_, value) => value === null ? "–" : clock(value) },
      ...chart.lines.map((line, at) => seriesOf(line, at, chart.lines.length === 1, at === 0 && units.length === chart.lines.length))],
    scales: Object.fromEntries(units.map((unit) => [unit, rangeOf(unit, log)])),
    axes: [time, ...units.map((unit, at) => axisOf(unit, at === 0 ? 3 : 1, log))],
  };
}

class Chart {
  constructor(card) {
    this.place = card.querySelector(".plot");
    this.table = card.querySelector("details table");
    this.fold = card.querySelector("details");
    this.fold.addEventListener("toggle", () => this.fill());
    new ResizeObserver(() => this.plot?.setSize({ width: this.place.clientWidth, height: HEIGHT })).observe(this.place);
    dark.addEventListener("change", () => this.redraw());
  }

  show(times, chart) {
    const known = this.chart?.lines.map((line) => line.label).join() === chart.lines.map((line) => line.label).join();
    Object.assign(this, { times, chart });
    if (this.plot && known) this.plot.setData(this.data);
    else this.redraw();
    this.fill();
  }

  get data() { return [this.times, ...this.chart.lines.map((line) => line.values)]; }

  redraw() {
    if (!this.chart) return;
    this.plot?.destroy();
    this.plot = new uPlot(optionsOf(this.chart, this.place), this.data, this.place);
  }

  // The newest first. Only while somebody looks: a day's table is long.
  fill() {
    if (!this.fold.open || !this.chart) return;
    const row = (name, cells) => {
      const line = document.createElement("tr");
      line.append(...cells.map((text, at) => {
        const cell = document.createElement(at === 0 || name === "thead" ? "th" : "td");
        cell.textContent = text;
        if (cell.nodeName === "TH") cell.scope = name === "thead" ? "col" : "row";
        cell.className = at === 0 ? "tabular" : "number";
        return cell;
      }));
      return line;
    };
    const { lines } = this.chart;
    const fresh = document.createElement("table");
    fresh.createTHead().append(row("thead", ["At", ...lines.map((line) => line.label)]));
    fresh.createTBody().append(...this.times.map((time, at) =>
      row("tbody", [clock(time), ...lines.map((line) => say(line.unit, line.values[at]))])).reverse());
    morph(this.table, fresh);
  }
}

// --- The page ---

const board = document.querySelector("[data-board]");
const line = board.querySelector("[data-board-trouble]");
const charts = new Map([...board.querySelectorAll("[data-chart]")].map((card) => [card.dataset.chart, new Chart(card)]));

function trouble(lost, sentence) {
  line.textContent = lost ? sentence : "";
  line.hidden = !lost;
}

function showPiece(name, html) {
  const place = board.querySelector(`[data-piece=${name}]`);
  const fresh = place.cloneNode(false);
  fresh.innerHTML = html;
  morph(place, fresh);
}

function showCharts({ times, charts: found }) {
  for (const chart of found) charts.get(chart.slug)?.show(times, chart);
}

async function look() {
  const answer = await ask(`${board.dataset.board}&format=json`);
  if (!answer.ok) throw new Broken();
  const pieces = await answer.json();
  showPiece("levels", pieces.levels);
  showPiece("tasks", pieces.tasks);
  showCharts(pieces.charts);
  return "changed";
}

const told = {
  levels: (html) => showPiece("levels", html),
  tasks: (html) => showPiece("tasks", html),
  charts: (text) => showCharts(JSON.parse(text)),
};
listen(board.dataset.stream, told, trouble, () => watch(look, trouble, EVERY));
