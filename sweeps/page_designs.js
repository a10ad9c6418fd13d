// What is known of the points: numbers as text, positions on axes, hover texts, and the card of one design.
"use strict";

const data = JSON.parse(document.getElementById("sweep-data").textContent);

const PREFIXES = [[1e15, "P"], [1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"], [1, ""], [1e-3, "m"], [1e-6, "µ"],
                  [1e-9, "n"], [1e-12, "p"]];
const ROLES = {
  ok: {label: "feasible, dominated", colour: "#9cc3df", symbol: "circle", size: 6, opacity: 0.55},
  failed: {label: "failed", colour: "#868e96", symbol: "cross-thin-open", size: 8, opacity: 0.8},
  infeasible: {label: "infeasible", colour: "#868e96", symbol: "x-thin-open", size: 7, opacity: 0.8},
  discarded: {label: "discarded early", colour: "#868e96", symbol: "triangle-down-open", size: 6, opacity: 0.8},
  front: {label: "on the Pareto front", colour: "#0072B2", symbol: "circle", size: 9, opacity: 1},
  base: {label: "base machine", colour: "#000000", symbol: "square", size: 12, opacity: 1},
  knee: {label: "knee of the front", colour: "#D55E00", symbol: "star", size: 18, opacity: 1},
};
const onFront = new Set(data.front);

const points = data.points.map(([number, status, values, told, figures, why, machine]) => ({
  number, status, values, figures, machine,
  told: told.map(place => data.texts[place]),
  why: data.texts[why],
  role: number === data.knee ? "knee" : number === data.base ? "base" : status !== "ok" ? status :
    onFront.has(number) ? "front" : "ok",
}));
const byNumber = new Map(points.map(point => [point.number, point]));
const base = byNumber.get(data.base);

function significant(value, digits) {
  if (value !== 0 && Math.abs(value) < 1e-4) return value.toExponential(digits - 1);
  const before = value === 0 ? 1 : Math.floor(Math.log10(Math.abs(value) * (1 + 0.5 * 10 ** -digits))) + 1;
  const after = Math.max(0, digits - before);
  return value.toLocaleString("en-US", {minimumFractionDigits: after, maximumFractionDigits: after});
}

function amount(value, figure) {
  if (figure.unit === "$") return "$" + significant(value, 4);
  if (!figure.has_prefix || value === 0) return `${significant(value, 4)} ${figure.unit}`.trim();
  const [scale, prefix] = PREFIXES.find(([least]) => Math.abs(value) >= least * 0.99995) || PREFIXES.at(-1);
  return `${significant(value / scale, 4)} ${prefix}${figure.unit}`;
}

function change(value, before) {
  if (!before || value / before < 0) return "";
  const ratio = value / before;
  if (ratio >= 10) return `× ${significant(ratio, 3)}`;
  return `${ratio >= 1 ? "+" : "−"}${Math.abs(100 * (ratio - 1)).toFixed(1)} %`;
}

// Plotly reads a few tags in texts: none may come from the data.
function safe(text) {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}

// Labels of axes have little room.
function brief(text, most = 24) {
  return safe(text.length > most ? text.slice(0, most - 1) + "…" : text);
}

function title(point) {
  return point.role === "base" ? "base machine" : `point ${point.number}`;
}

function wrapped(text, columns) {
  const lines = [""];
  for (const word of text.split(" ")) {
    if (lines.at(-1) && lines.at(-1).length + word.length >= columns) lines.push("");
    lines.push((lines.pop() + " " + word).trim());
  }
  return lines;
}

function hoverText(point) {
  point.text ??= describe(point);
  return point.text;
}

function describe(point) {
  const lines = [`<b>${title(point)}</b>, ${ROLES[point.role].label}`];
  data.figures.slice(0, data.objectives).forEach((figure, index) => {
    if (point.figures[index] !== null) lines.push(`${safe(figure.label)}: <b>${safe(amount(point.figures[index], figure))}</b>`);
  });
  data.parameters.forEach((parameter, index) => lines.push(`${safe(parameter.label)}: ${safe(point.told[index])}`));
  const why = point.status === "ok" ? "limited by " : "why: ";
  if (point.why) lines.push(...(why + point.why).split("; ").flatMap(part => wrapped(part, 60)).map(safe));
  return lines.join("<br>");
}

// An axis of a figure or a parameter: where a point lies on it, its range, and its ticks.
function figureAxis(index, isLog) {
  const figure = data.figures[index];
  const values = points.map(point => point.figures[index]).filter(value => value !== null);
  if (!values.length) values.push(0);
  const log = isLog && Math.min(...values) > 0;
  return {
    name: figure.label + (figure.scaled_unit ? ` [${figure.scaled_unit}]` : ""),
    better: figure.goal === "minimize" ? "lower is better" : figure.goal === "maximize" ? "higher is better" : "",
    isLog: log,
    at: point => point.figures[index] === null ? null : point.figures[index] / figure.divisor,
    low: Math.min(...values) / figure.divisor,
    high: Math.max(...values) / figure.divisor,
  };
}

// Positions of a parameter run from 0 to 1; points that lack it lie below.
function parameterPosition(parameter, value) {
  if (value === null) return -0.12;
  if (typeof value === "string") return place(parameter.words.indexOf(value), parameter.words.length);
  const numbers = parameter.words.length ? 0.5 : 1;
  const scale = parameter.is_log ? Math.log : number => number;
  const [low, high] = [scale(parameter.low), scale(parameter.high)];
  return numbers * (high > low ? (scale(value) - low) / (high - low) : 0.5);
}

function place(index, count) {
  return count > 1 ? index / (count - 1) : 0.5;
}

function parameterAxis(index) {
  const parameter = data.parameters[index];
  const ticks = parameter.words.map(word => [parameterPosition(parameter, word), word]);
  ticks.push(...parameter.ticks.map(tick => [parameterPosition(parameter, tick.value), tick.text]));
  if (parameter.is_absent) ticks.push([-0.12, "none"]);
  const places = ticks.map(tick => tick[0]).sort((a, b) => a - b);
  const gaps = places.slice(1).map((at, index) => at - places[index]);
  return {
    gap: Math.min(0.2, ...gaps.filter(gap => gap > 0)),
    name: parameter.label, better: "", isLog: false, low: parameter.is_absent ? -0.12 : 0, high: 1, ticks,
    // That the base machine has no value says only that the parameter is none of its fields.
    at: point => point.role === "base" && point.values[index] === null ? null
      : parameterPosition(parameter, point.values[index]),
  };
}

function element(tag, text, className) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function cardRow(table, cells, className) {
  const row = table.appendChild(element("tr", undefined, className));
  cells.forEach((cell, index) => row.appendChild(element(index ? "td" : "th", cell)));
}

function cardFigures(table, point, heading, from, to) {
  const isBase = !base || base === point || base.status !== "ok";
  cardRow(table, [heading, "", isBase ? "" : "against base"], "head");
  data.figures.slice(from, to).forEach((figure, offset) => {
    const value = point.figures[from + offset];
    const before = isBase ? null : base.figures[from + offset];
    if (value !== null) cardRow(table, [figure.label, amount(value, figure), before === null ? "" : change(value, before)]);
  });
}

function cardParameters(table, point) {
  const isBase = !base || base === point;
  cardRow(table, ["parameters", "", isBase ? "" : "base"], "head");
  data.parameters.forEach((parameter, index) => {
    const differs = !isBase && base.told[index] !== point.told[index];
    cardRow(table, [parameter.label, point.told[index], differs ? base.told[index] : ""], differs ? "differs" : "");
  });
}

function showCard(point) {
  const card = document.getElementById("card");
  card.replaceChildren(element("h3", title(point)), element("p", ROLES[point.role].label, `role ${point.role}`));
  if (point.status === "ok") cardFigures(card.appendChild(element("table")), point, "objectives", 0, data.objectives);
  if (point.why) {
    card.appendChild(element("h4", point.status === "ok" ? "limited by" : "why"));
    const list = card.appendChild(element("ul"));
    point.why.split("; ").forEach(part => list.appendChild(element("li", part)));
  }
  const table = card.appendChild(element("table"));
  cardParameters(table, point);
  if (point.status === "ok") cardFigures(table, point, "further figures", data.objectives);
  if (point.machine) card.appendChild(element("p", `machine ${point.machine}`, "small"));
}
