// The charts. All are drawn from `points` and `data`; brushes on the parallel axes thin out the scatter as well.
"use strict";

const FONT = {family: "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif", size: 13,
              color: "#1f2933"};
// Okabe and Ito's colours, which people with any colour vision tell apart, the light ones last.
const COLOURS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#7f7f7f", "#F0E442"];
const CONFIG = {displaylogo: false, responsive: true, displayModeBar: true,
                modeBarButtons: [["zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d", "toImage"]]};
const STILL = {...CONFIG, displayModeBar: false};
const LAYOUT = {modebar: {orientation: "v", color: "#9aa5b1", activecolor: "#1f2933", bgcolor: "#ffffff"}, font: FONT, paper_bgcolor: "#ffffff", plot_bgcolor: "#ffffff", hovermode: "closest",
                hoverlabel: {align: "left", bgcolor: "#ffffff", bordercolor: "#52606d", font: {...FONT, size: 12}}};
const GRID = {gridcolor: "#e4e7eb", linecolor: "#9aa5b1", zeroline: false, showline: true, ticks: "outside",
              tickcolor: "#9aa5b1", automargin: true};
const ROLE_ORDER = ["ok", "failed", "discarded", "infeasible", "front", "base", "knee"];

let brushes = [];  // [axis of the parallel coordinates, low, high]
let parallelAxes = [];
let chosen = null;

const passes = point => brushes.every(([axis, low, high]) => {
  const at = axis.place(point);
  return at !== null && at >= low && at <= high;
});

function axisOf(key, isLog) {
  return key[0] === "f" ? figureAxis(Number(key.slice(1)), isLog) : parameterAxis(Number(key.slice(1)));
}

function layoutAxis(axis) {
  const heading = brief(axis.name, 60) + (axis.better ? `<br><span style="font-size:11px;color:#52606d">${axis.better}</span>` : "");
  const result = {...GRID, title: {text: heading, standoff: 8}, type: axis.isLog ? "log" : "linear"};
  if (axis.ticks) return {...result, tickvals: axis.ticks.map(tick => tick[0]), ticktext: axis.ticks.map(tick => brief(tick[1]))};
  if (!axis.isLog) return {...result, tickformat: ","};
  const ticks = logTicks(axis.low, axis.high);
  return {...result, tickvals: ticks, ticktext: ticks.map(value => significantShort(value))};
}

// Round numbers over the range, few if it spans many decades.
function logTicks(low, high) {
  if (!(low > 0)) return [];
  const decades = Math.log10(high / low);
  if (decades < 0.25) return roundTicks(low, high);
  const steps = decades > 4 ? [1] : decades > 1.5 ? [1, 2, 5] : [1, 1.5, 2, 3, 4, 5, 7];
  const ticks = [];
  for (let power = Math.floor(Math.log10(low)) - 1; power <= Math.ceil(Math.log10(high)); power++) {
    ticks.push(...steps.map(step => Number((step * 10 ** power).toPrecision(3))));
  }
  return ticks.filter(tick => tick >= low / 1.5 && tick <= high * 1.5);
}

// Four to nine round numbers over a range so narrow that a logarithmic axis is nearly linear.
function roundTicks(low, high) {
  if (!(high > low)) return [low];
  const raw = Math.max((high - low) / 4, Math.abs(low) * 1e-3, 1e-12);
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = power * ([5, 2, 1].find(factor => factor * power <= raw) || 1);
  const first = Math.floor(low / step);
  return [...Array(Math.ceil(high / step) - first + 1).keys()].map(index => Number(((first + index) * step).toPrecision(6)));
}

function significantShort(value) {
  return value.toLocaleString("en-US", {maximumSignificantDigits: 4});
}

// Points that share a place are spread a little, the same way each time.
function spread(point, axis, salt) {
  const at = axis.at(point);
  if (at === null || !axis.ticks) return at;
  return at + (scattered(point.number, salt) - 0.5) * axis.gap * 0.6;
}

function scattered(number, salt) {
  const random = Math.sin((number + 1) * 12.9898 + salt * 78.233) * 43758.5453;
  return random - Math.floor(random);
}

function cloud(shown, x, y) {
  return ROLE_ORDER.map(role => {
    const style = ROLES[role];
    const members = shown.filter(point => point.role === role && x.at(point) !== null && y.at(point) !== null);
    return {
      type: "scatter", mode: "markers", name: style.label, showlegend: members.length > 0,
      x: members.map(point => spread(point, x, 0)), y: members.map(point => spread(point, y, 1)),
      customdata: members.map(point => point.number), text: members.map(hoverText), hoverinfo: "text",
      marker: {color: style.colour, symbol: style.symbol, size: style.size, opacity: style.opacity,
               line: {width: style.symbol.endsWith("open") ? 1.5 : 0.7, color: style.symbol.endsWith("open") ? style.colour : "#ffffff"}},
    };
  });
}

// An arrow to the chosen design: an annotation, since these are drawn anew without the marks.
function pointer(x, y) {
  if (!chosen || x.at(chosen) === null || y.at(chosen) === null) return [];
  const at = (axis, salt) => axis.isLog ? Math.log10(axis.at(chosen)) : spread(chosen, axis, salt);
  return [{x: at(x, 0), y: at(y, 1), text: title(chosen), ax: 34, ay: -38, standoff: 7, arrowhead: 2, arrowwidth: 1.5,
           arrowcolor: "#1f2933", bgcolor: "rgba(255,255,255,0.9)", bordercolor: "#9aa5b1", borderpad: 2, font: {...FONT, size: 12}}];
}

// The front of the two objectives alone, as the staircase of what is not dominated.
function frontLine(xKey, yKey, x, y) {
  const [a, b] = [Number(xKey.slice(1)), Number(yKey.slice(1))];
  const line = xKey[0] === "f" && yKey[0] === "f" &&
    data.lines.find(found => (found.x === a && found.y === b) || (found.x === b && found.y === a));
  if (!line) return [];
  const scaled = (values, index) => values.map(value => value / data.figures[index].divisor);
  const [xs, ys] = line.x === a ? [line.xs, line.ys] : [line.ys, line.xs];
  // Between two points the corner is the worse of both in each objective: it bulges away from the better side.
  const shape = line.x === a ? "hv" : "vh";
  return [{type: "scatter", mode: "lines", name: "front of these two alone", x: scaled(xs, a), y: scaled(ys, b),
           line: {color: "#0072B2", width: 1.5, shape}, hoverinfo: "skip"}];
}

function tradeOffAxes() {
  const isLog = document.getElementById("is-log").checked;
  return ["x-axis", "y-axis"].map(id => axisOf(document.getElementById(id).value, isLog));
}

function drawTradeOffs() {
  const [xKey, yKey] = ["x-axis", "y-axis"].map(id => document.getElementById(id).value);
  const isLog = document.getElementById("is-log").checked;
  const showAll = document.getElementById("show-dominated").checked;
  const [x, y] = tradeOffAxes();
  const shown = points.filter(point => (showAll || ["front", "knee", "base"].includes(point.role)) &&
    (passes(point) || point.role === "base"));
  const layout = {...LAYOUT, xaxis: layoutAxis(x), yaxis: layoutAxis(y), margin: {l: 70, r: 44, t: 8, b: 60},
                  legend: {orientation: "h", y: 1.02, yanchor: "bottom", x: 0}, dragmode: "zoom", uirevision: xKey + yKey + isLog,
                  annotations: pointer(x, y)};
  Plotly.react("trade-offs", [...frontLine(xKey, yKey, x, y), ...cloud(shown, x, y)], layout, CONFIG);
  document.querySelectorAll("#pairs button").forEach(button =>
    button.setAttribute("aria-pressed", String(button.dataset.x === xKey && button.dataset.y === yKey)));
}

function drawFeasibility() {
  if (!document.getElementById("feasibility")) return;
  const [x, y] = ["x-parameter", "y-parameter"].map(id => parameterAxis(Number(document.getElementById(id).value)));
  const shown = points.filter(point => point.role !== "base");
  const layout = {...LAYOUT, xaxis: layoutAxis(x), yaxis: layoutAxis(y), margin: {l: 70, r: 44, t: 8, b: 60},
                  legend: {orientation: "h", y: 1.02, yanchor: "bottom", x: 0}};
  Plotly.react("feasibility", cloud(shown, x, y), layout, CONFIG);
}

function choose(point) {
  chosen = point;
  showCard(point);
  Plotly.relayout("trade-offs", {annotations: pointer(...tradeOffAxes())});
  Plotly.relayout("parallel", {shapes: [...axisLines(), ...chosenLine()]});
}

// Lines of one kind of point as a single trace: they are many, and drawn as one path.
function parallelLines(members, style, width, opacity) {
  const trace = {type: "scatter", mode: "lines", x: [], y: [], text: [], customdata: [], hoverinfo: "text", showlegend: false,
                 line: {color: style.colour, width}, opacity, connectgaps: false};
  for (const point of members) {
    const text = hoverText(point);
    parallelAxes.forEach((axis, index) => {
      const at = axis.place(point);
      trace.x.push(index); trace.y.push(at); trace.text.push(text); trace.customdata.push(point.number);
    });
    trace.x.push(null); trace.y.push(null); trace.text.push(""); trace.customdata.push(null);
  }
  return trace;
}

function placedAxis(axis) {
  const scale = axis.isLog ? Math.log : value => value;
  const [low, high] = axis.ticks ? [0, 1] : [scale(axis.low), scale(axis.high)];
  const place = value => high > low ? (scale(value) - low) / (high - low) : 0.5;
  const ticks = axis.ticks || spacedTicks(axis, place).map(value => [place(value), significantShort(value)]);
  return {...axis, marks: ticks, place: point => axis.at(point) === null ? null : axis.ticks ? axis.at(point) : place(axis.at(point))};
}

function spacedTicks(axis, place) {
  if (!(axis.high > axis.low)) return [axis.low];
  const middle = (axis.isLog ? logTicks : roundTicks)(axis.low, axis.high).filter(tick => place(tick) > 0.05 && place(tick) < 0.95);
  const step = Math.ceil(middle.length / 5);
  return [axis.low, ...middle.filter((_, index) => index % step === 0), axis.high];
}

function axisLines() {
  return parallelAxes.map((_, index) => (
    {type: "line", x0: index, x1: index, y0: -0.12, y1: 1, layer: "below", line: {color: "#52606d", width: 1}}));
}

function chosenLine() {
  if (!chosen || chosen.role === "knee") return [];
  const places = parallelAxes.map((axis, index) => [index, axis.place(chosen)]).filter(([, at]) => at !== null);
  const path = places.map(([index, at], place) => `${place ? "L" : "M"}${index},${at}`).join(" ");
  return [{type: "path", path, line: {color: "#1f2933", width: 2.5, dash: "dot"}}];
}

function parallelLayout() {
  const marks = parallelAxes.flatMap((axis, index) => axis.marks.map(([at, text]) => (
    {x: index, y: at, text: brief(text, 14), showarrow: false, xanchor: "right", xshift: -5, font: {...FONT, size: 11}, bgcolor: "rgba(255,255,255,0.8)"})));
  const heads = parallelAxes.map((axis, index) => ({x: index, y: 1, yref: "paper", yanchor: "bottom", showarrow: false,
    text: wrapped(axis.name, 14).slice(0, 3).map(line => brief(line, 16)).join("<br>") + (axis.better ? `<br><span style="font-size:10px;color:#52606d">${axis.better}</span>` : ""),
    font: {...FONT, size: 12, color: axis.better ? "#0b4f78" : FONT.color}}));
  return {...LAYOUT, annotations: [...marks, ...heads], shapes: [...axisLines(), ...chosenLine()], dragmode: "select", selectdirection: "d",
          margin: {l: 60, r: 36, t: 66, b: 8}, newselection: {line: {color: "#D55E00", width: 1.5, dash: "solid"}},
          xaxis: {visible: false, range: [-0.35, parallelAxes.length - 0.8], fixedrange: true},
          yaxis: {visible: false, range: [-0.16, 1.03], fixedrange: true}, uirevision: "parallel"};
}

function drawParallel() {
  const of = role => points.filter(point => point.role === role && passes(point));
  const some = members => members.sort((a, b) => scattered(a.number, 2) - scattered(b.number, 2)).slice(0, data.most_lines);
  const lost = points.filter(point => point.status !== "ok" && point.role !== "base" && passes(point));
  const traces = [
    parallelLines(some(of("ok")), ROLES.ok, 1, 0.35), parallelLines(some(lost), ROLES.infeasible, 1, 0.35),
    parallelLines(of("front"), ROLES.front, 1.6, 0.9), parallelLines(points.filter(point => point.role === "base"), ROLES.base, 2.5, 1),
    parallelLines(of("knee"), ROLES.knee, 3, 1)];
  const chart = document.getElementById("parallel");
  const layout = parallelLayout();
  if (chart.layout && chart.layout.selections) layout.selections = chart.layout.selections;
  Plotly.react(chart, traces, layout, STILL);
  const rest = points.filter(point => point.status === "ok" && point.role !== "base");
  const left = rest.filter(passes);
  document.getElementById("brushed").textContent = brushes.length === 0 ? "" :
    `${left.length.toLocaleString("en-US")} of ${rest.length.toLocaleString("en-US")} feasible designs shown pass, ` +
    `${left.filter(point => point.role !== "ok").length.toLocaleString("en-US")} of them on the front.`;
}

// A box over an axis keeps what passes through it.
function readBrushes() {
  const boxes = document.getElementById("parallel").layout.selections || [];
  brushes = boxes.flatMap(box => {
    const [x0, x1] = [Math.min(box.x0, box.x1), Math.max(box.x0, box.x1)];
    const [y0, y1] = [Math.min(box.y0, box.y1), Math.max(box.y0, box.y1)];
    return parallelAxes.filter((_, index) => index >= x0 - 0.2 && index <= x1 + 0.2).map(axis => [axis, y0, y1]);
  });
  drawParallel();
  drawTradeOffs();
}

function drawImportance() {
  const total = index => data.importance.reduce((sum, found) => sum + found.shares[index], 0);
  const order = data.parameters.map((_, index) => index).sort((a, b) => total(b) - total(a) || a - b);
  const names = [...order.map(index => data.parameters[index].label), "interactions and rest"];
  const traces = data.importance.map((found, index) => ({
    type: "bar", orientation: "h", name: safe(found.label), y: names.map(name => brief(name, 40)), x: [...order.map(place => found.shares[place]), found.rest],
    marker: {color: COLOURS[index % COLOURS.length]},
    hovertemplate: "%{y}: %{x:.1%}<extra>%{fullData.name}</extra>"}));
  Plotly.react("importance", traces, {...LAYOUT, barmode: "group", bargap: 0.25, hovermode: "closest", margin: {l: 8, r: 16, t: 8, b: 44},
    xaxis: {...GRID, tickformat: ".0%", rangemode: "tozero", title: {text: "share of the variance of the objective", standoff: 8}},
    yaxis: {...GRID, autorange: "reversed", ticks: ""}, legend: {orientation: "h", y: 1.02, yanchor: "bottom", x: 0}}, STILL);
}

function drawLimits() {
  const {order, strips} = data.limits;
  if (!strips.length) return;
  const counts = new Map();
  strips.forEach(strip => strip.what.forEach(what => what && counts.set(what, (counts.get(what) || 0) + 1)));
  const kinds = [...counts.keys()].sort((a, b) => counts.get(b) - counts.get(a) || (a < b ? -1 : 1));
  const layout = {...LAYOUT, barmode: "stack", bargap: order.length > 60 ? 0 : 0.08, margin: {l: 8, r: 16, t: 8, b: 60},
                  legend: {orientation: "h", y: 1.1, yanchor: "bottom", x: 0}, annotations: []};
  const texts = order.map(number => byNumber.has(number) ? hoverText(byNumber.get(number)) : `point ${number}`);
  const traces = strips.flatMap((strip, row) => kinds.map((kind, index) => ({
    type: "bar", name: brief(kind, 40), legendgroup: kind, showlegend: row === strips.findIndex(other => other.what.includes(kind)),
    x: order.map((_, at) => at), y: strip.what.map((what, at) => what === kind ? strip.percent[at] ?? 100 : null),
    xaxis: "x", yaxis: row ? `y${row + 1}` : "y", text: texts, textposition: "none", hoverinfo: "text", customdata: order,
    marker: {color: COLOURS[index % COLOURS.length], pattern: {shape: index < COLOURS.length ? "" : "/"}}})));
  strips.forEach((strip, row) => {
    layout[row ? `yaxis${row + 1}` : "yaxis"] = {...GRID, range: [0, 100], ticksuffix: " %", nticks: 3, title: {text: brief(strip.workload, 16), standoff: 4},
      domain: [1 - (row + 1) / strips.length + 0.03, 1 - row / strips.length - 0.03]};
  });
  const objective = data.figures[0];
  layout.xaxis = {...GRID, anchor: strips.length > 1 ? `y${strips.length}` : "y", tickvals: evenly(order.length), ticktext: evenly(order.length).map(at =>
    safe(byNumber.has(order[at]) ? amount(byNumber.get(order[at]).figures[0], objective) : "")),
    title: {text: `points of the front, by ${safe(objective.label)}`, standoff: 8}};
  const at = order.indexOf(data.knee);
  if (at >= 0) layout.annotations.push({x: at, y: 1, yref: "paper", yanchor: "bottom", text: "▼ knee", showarrow: false, font: {...FONT, size: 12, color: "#D55E00"}});
  Plotly.react("limits", traces, layout, STILL);
}

function evenly(count) {
  const most = Math.min(count, 9);
  return [...Array(most).keys()].map(index => Math.round(index * (count - 1) / Math.max(1, most - 1)));
}

function followPointer(id) {
  const chart = document.getElementById(id);
  const point = event => byNumber.get(event.points[0].customdata);
  chart.on("plotly_hover", event => point(event) && showCard(point(event)));
  chart.on("plotly_unhover", () => chosen && showCard(chosen));
  chart.on("plotly_click", event => point(event) && choose(point(event)));
}

function start() {
  const isLog = true;
  parallelAxes = [...data.parameters.map((_, index) => parameterAxis(index)),
                  ...data.figures.slice(0, data.objectives).map((_, index) => figureAxis(index, isLog))].map(placedAxis);
  document.querySelectorAll("#pairs button").forEach(button => button.addEventListener("click", () => {
    document.getElementById("x-axis").value = button.dataset.x;
    document.getElementById("y-axis").value = button.dataset.y;
    drawTradeOffs();
  }));
  ["x-axis", "y-axis", "is-log", "show-dominated"].forEach(id => document.getElementById(id).addEventListener("change", drawTradeOffs));
  ["x-parameter", "y-parameter"].forEach(id => document.getElementById(id)?.addEventListener("change", drawFeasibility));
  document.querySelectorAll("[data-point]").forEach(row => row.addEventListener("click", () => {
    const point = byNumber.get(Number(row.dataset.point));
    if (point) choose(point);
  }));
  ["x-parameter", "y-parameter"].forEach((id, index) => {
    const select = document.getElementById(id);
    if (select) select.value = String(data.feasibility[index] ?? data.feasibility[0]);
  });
  chosen = byNumber.get(data.knee) || base || points[0] || null;
  if (chosen) showCard(chosen);
  const keepAll = () => {
    brushes = [];
    Plotly.relayout("parallel", {selections: []}).then(() => { drawParallel(); drawTradeOffs(); });
  };
  document.getElementById("clear").addEventListener("click", keepAll);
  // The first screen first: each further chart when the page has answered what came in between.
  const steps = [
    () => { drawTradeOffs(); followPointer("trade-offs"); },
    () => {
      drawParallel();
      followPointer("parallel");
      const parallel = document.getElementById("parallel");
      parallel.on("plotly_relayout", event => event.selections && event.selections.length && readBrushes());
      parallel.on("plotly_deselect", keepAll);
    },
    drawImportance,
    () => { drawLimits(); if (data.limits.strips.length) followPointer("limits"); },
    () => { drawFeasibility(); if (document.getElementById("feasibility")) followPointer("feasibility"); },
    () => { document.body.dataset.ready = "yes"; },
  ];
  const next = () => { steps.shift()(); if (steps.length) setTimeout(next, 0); };
  next();
}

start();
