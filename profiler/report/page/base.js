"use strict";
// What the charts share: the profile's rows, numbers as text, colours, the tip, and what is selected.

const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const rows = (columns, lists) => lists.map((list, index) => {
  const row = { index };
  columns.forEach((name, i) => { row[name] = list[i]; });
  return row;
});
const nodes = rows(data.node_columns, data.nodes);
const modules = rows(data.module_columns, data.modules);
const byName = new Map(nodes.map((n) => [n.name, n]));

function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined) continue;
    if (name in element && name !== "role") element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

// -- numbers as text ----------------------------------------------------------------------------------

const known = (value) => value !== null && value !== undefined;
function ms(value) {
  if (!known(value)) return "–";
  return value.toFixed(value < 10 ? 3 : value < 100 ? 2 : value < 1000 ? 1 : 0);
}
const percent = (value, digits = 1) => (known(value) && Number.isFinite(value) ? `${value.toFixed(value < 99.95 ? digits : 0)}%` : "–");
const ofTotal = (value) => percent(data.total_ms ? (100 * value) / data.total_ms : NaN);
function scaled(value, unit, step, prefixes) {
  if (!known(value)) return "–";
  let i = 0;
  while (Math.abs(value) >= step * 0.9995 && i < prefixes.length - 1) { value /= step; i += 1; }
  const digits = value < 10 && i ? 2 : value < 100 && i ? 1 : 0;
  return `${Number(value.toFixed(digits))} ${prefixes[i]}${unit}`;
}
const rate = (value, unit) => scaled(value, unit, 1000, ["", "k", "M", "G", "T", "P"]);
const bytes = (value) => scaled(value, "B", 1024, ["", "Ki", "Mi", "Gi", "Ti"]);
const giga = (value) => (known(value) ? (value / 1e9).toFixed(value < 1e9 ? 2 : value < 1e11 ? 1 : 0) : "–");

// -- colours ------------------------------------------------------------------------------------------

const probe = make("i", { hidden: true });
document.body.append(probe);
let palette = new Map();
/** The colour of a variable of the style sheet as [r, g, b] in the theme that is shown. */
function rgb(name) {
  if (!palette.has(name)) {
    probe.style.color = `var(--${name})`;
    palette.set(name, getComputedStyle(probe).color.match(/[\d.]+/g).slice(0, 3).map(Number));
  }
  return palette.get(name);
}
const css = (colour) => `rgb(${colour.map(Math.round).join(" ")})`;
const mix = (a, b, share) => a.map((v, i) => v + (b[i] - v) * share);
function luminance(colour) {
  const [r, g, b] = colour.map((v) => ((v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}
/** Black or white, whichever reads better on a colour. */
const inkOn = (colour) => (luminance(colour) > 0.19 ? "#111418" : "#ffffff");
function ramp(stops, share) {
  const at = Math.min(1, Math.max(0, share)) * (stops.length - 1);
  const i = Math.min(stops.length - 2, Math.floor(at));
  return mix(rgb(stops[i]), rgb(stops[i + 1]), at - i);
}
const groupColour = (group) => rgb(`g${group}`);

// -- the tip ------------------------------------------------------------------------------------------

const tip = $("tip");
function showTip(title, facts, x, y) {
  const list = make("dl");
  for (const [name, value] of facts) {
    if (known(value) && value !== "" && value !== "–") list.append(make("dt", {}, name), make("dd", {}, String(value)));
  }
  tip.replaceChildren(make("b", {}, title), list);
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  const left = x + 14 + box.width > innerWidth - 8 ? x - 14 - box.width : x + 14;
  const top = y + 16 + box.height > innerHeight - 8 ? y - 12 - box.height : y + 16;
  tip.style.left = `${Math.max(8, Math.min(left, innerWidth - box.width - 8))}px`;
  tip.style.top = `${Math.max(8, top)}px`;
}
const hideTip = () => { tip.hidden = true; };
function nodeFacts(n) {
  const interval = known(n.predicted_low_ms) && known(n.predicted_high_ms)
    ? ` (${ms(n.predicted_low_ms)} to ${ms(n.predicted_high_ms)})` : "";
  return [
    ["op", n.op], ["module", n.module || "(root)"], ["source", n.source], ["kernel", n.kernel],
    ["measured", `${ms(n.measured_ms)} ms ± ${ms(n.iqr_ms / 2)}, ${ofTotal(n.measured_ms)}`],
    ["predicted", known(n.predicted_ms) ? `${ms(n.predicted_ms)} ms${interval}` : null],
    ["does", n.hardware_flops ? `${rate(n.hardware_flops, "FLOP")}, ${rate(n.flops_per_s, "FLOP/s")}` : null],
    ["moves", `${bytes(n.read_bytes)} in, ${bytes(n.written_bytes)} out, ${rate(n.bytes_per_s, "B/s")}`],
    ["of roof", known(n.percent_of_roof) ? `${percent(n.percent_of_roof)} (${n.roof})` : n.roof],
  ];
}
function moduleFacts(m) {
  return [
    ["measured", `${ms(m.measured_ms)} ms, ${ofTotal(m.measured_ms)} of the run`],
    ["own nodes", m.self_ms !== m.measured_ms ? `${ms(m.self_ms)} ms` : null],
    ["predicted", known(m.predicted_ms) ? `${ms(m.predicted_ms)} ms` : null],
    ["of roof", known(m.percent_of_roof) ? `${percent(m.percent_of_roof)}, mostly ${m.roof}` : null],
    ["does", m.hardware_flops ? rate(m.hardware_flops, "FLOP") : null],
    ["moves", bytes(m.read_bytes + m.written_bytes)],
    ["nodes", m.nodes], ["source", m.source],
  ];
}

// -- what is chosen, and who wants to know ------------------------------------------------------------

const listeners = { module: [], node: [], theme: [] };
const chosen = { module: "", node: null };
function choose(kind, value) {
  chosen[kind] = value;
  listeners[kind].forEach((tell) => tell(value));
}
const inside = (path, module) => module === "" || path === module || path.startsWith(`${module}.`);
