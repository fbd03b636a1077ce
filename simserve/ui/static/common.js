"use strict";
// What the other scripts share: asking the server, making elements, colours of figures.
const $ = id => document.getElementById(id);

class Mistake extends Error {
  constructor(told) { super(told.message || "the server did not say why"); this.field = told.field || ""; this.line = told.line; }
}

async function ask(address, sent) {
  const how = sent === undefined ? {} : {method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify(sent)};
  let answer;
  try {
    answer = await fetch(address, how);
  } catch {
    throw new Mistake({message: "simserve does not answer; is `simserve ui` still running?"});
  }
  const found = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Mistake(found);
  return found;
}

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter(child => child !== null && child !== undefined));
  return element;
}

function number(value, digits = 3) {
  if (value === null || value === undefined) return "-";
  return Math.abs(value) >= 10 ** (digits - 1)
    ? Math.round(value).toLocaleString("en-US") : String(Number(value.toPrecision(digits)));
}

const narrow = matchMedia("(max-width: 600px)");
const drawn = new Map();

function colours() {
  const style = getComputedStyle(document.documentElement), of = name => style.getPropertyValue(name).trim();
  const axis = {gridcolor: of("--grid"), zerolinecolor: of("--grid"), linecolor: of("--line"), automargin: true};
  return {font: {color: of("--fg"), family: "system-ui, sans-serif", size: 12.5}, axis,
    hoverlabel: {bgcolor: of("--soft"), bordercolor: of("--line"), font: {color: of("--fg")}, align: "left"}};
}

// Logarithmic with round numbers where values differ much, else linear.
function scale(values) {
  const low = Math.min(...values), high = Math.max(...values), ticks = [];
  if (high < 8 * low) return {type: "linear", nticks: narrow.matches ? 5 : 9};
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++) {
    for (const digit of [1, 2, 5]) ticks.push(digit * 10 ** power);
  }
  const shown = ticks.filter(tick => tick >= low / 1.3 && tick <= high * 1.3);
  return {type: "log", tickmode: "array", tickvals: shown, ticktext: shown.map(tick => String(Number(tick.toPrecision(1))))};
}

// Runs as points: throughput per GPU against TPOT, the SLO a dotted line, the recommended one a star.
function scatter(place, runs, slo, recommended, chosen) {
  const known = runs.map((run, index) => ({...run, index})).filter(run => run.tpot_ms);
  const groups = [
    ["misses the SLO", known.filter(run => !run.meets_slo), {symbol: "x-thin-open", size: 8, color: "#808080", line: {width: 1.5}}],
    ["meets it", known.filter(run => run.meets_slo && run.index !== recommended), {symbol: "circle-open", size: 10, color: "#2A84C6", line: {width: 1.8}}],
    ["best", known.filter(run => run.index === recommended), {symbol: "star", size: 18, color: "#009E73"}],
  ];
  const hover = run => [run.configuration, `${number(run.tokens_per_s_per_gpu, 4)} tokens/s per GPU`, `TPOT ${number(run.tpot_ms)} ms`,
    `TTFT ${number(run.ttft_ms)} ms`, `${run.num_gpus} GPUs, ${run.usd_per_hour.toFixed(2)} USD/h`].join("<br>");
  const data = groups.filter(([, own]) => own.length).map(([name, own, marker]) => ({
    type: "scatter", mode: "markers", name, x: own.map(run => run.tpot_ms), y: own.map(run => run.tokens_per_s_per_gpu),
    text: own.map(hover), hoverinfo: "text", marker, customdata: own.map(run => run.index),
  }));
  const bound = slo && slo.tpot_ms, theme = colours();
  const values = known.map(run => run.tpot_ms).concat(bound || []);
  const line = bound ? [{type: "line", x0: bound, x1: bound, y0: 0, y1: 1, yref: "paper", line: {dash: "dot", width: 2, color: "#808080"}}] : [];
  const layout = {
    font: theme.font, hoverlabel: theme.hoverlabel, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", shapes: line,
    margin: {l: 60, r: 14, t: 30, b: 48}, showlegend: true, legend: {orientation: "h", x: 0, y: 1.02, yanchor: "bottom"}, hovermode: "closest",
    xaxis: {...theme.axis, title: {text: "TPOT, ms"}, ...scale(values)},
    yaxis: {...theme.axis, title: {text: "tokens/s per GPU"}, rangemode: "tozero", tickformat: ","},
  };
  Plotly.react(place, data, layout, {responsive: true, displayModeBar: false, displaylogo: false});
  if (!drawn.has(place)) place.on("plotly_click", event => drawn.get(place).chosen?.(event.points[0].customdata));
  drawn.set(place, {again: () => scatter(place, runs, slo, recommended, chosen), chosen});
}
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawn.forEach(one => one.again()));
