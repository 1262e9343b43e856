// Nodes: a row each, found by typing, sorted by any column.

const mark = (n) => { const i = make("i", { className: "mark" }); i.style.background = `var(--g${n.group})`; return i; };
function meter(n) {
  if (!known(n.percent_of_roof)) return ["–"];
  const inner = make("i");
  inner.style.width = `${Math.min(100, n.percent_of_roof)}%`;
  return [make("i", { className: "meter" }, inner), percent(n.percent_of_roof, 0)];
}
// title, how it is shown, what it is sorted by, class
const COLUMNS = [
  ["Node", (n) => [mark(n), n.name], "name", "text"],
  ["Op", (n) => [n.op], "op", "text"],
  ["Measured ms", (n) => [ms(n.measured_ms)], "measured_ms", ""],
  ["±", (n) => [percent((50 * n.iqr_ms) / n.measured_ms, n.spread < 0.2 ? 1 : 0)], "spread", "soft"],
  ["Share", (n) => [ofTotal(n.measured_ms)], "measured_ms", "soft"],
  ["Predicted ms", (n) => [ms(n.predicted_ms)], "predicted_ms", "predicted"],
  ["GFLOP/s", (n) => [n.hardware_flops ? giga(n.flops_per_s) : "–"], "flops_per_s", ""],
  ["GB/s", (n) => [giga(n.bytes_per_s)], "bytes_per_s", ""],
  ["% of roof", meter, "percent_of_roof", ""],
  ["Roof", (n) => [n.roof ?? "–"], "roof", "text"],
  ["Module", (n) => [make("bdi", {}, n.module || "(root)")], "module", "text tail"],
  ["Source", (n) => [make("bdi", {}, n.source)], "source", "text tail"],
];
const table = $("nodes");
const body = table.tBodies[0];
const order = { column: 2, up: false };
const headings = COLUMNS.map(([title, , , kind], i) => {
  const button = make("button", { type: "button" }, title);
  button.addEventListener("click", () => {
    order.up = order.column === i ? !order.up : kind.includes("text");
    order.column = i;
    fillTable();
  });
  return make("th", { scope: "col", className: kind.includes("text") ? "text" : "" }, button);
});
table.tHead.append(make("tr", {}, ...headings));
nodes.forEach((n) => {
  n.spread = n.measured_ms ? n.iqr_ms / n.measured_ms : null;
  n.text = [n.name, n.op, n.module, n.source, n.kernel, n.roof ?? ""].join("\n").toLowerCase();
  n.row = make("tr", { "data-node": n.name }, ...COLUMNS.map(([, show, , kind]) => {
    const content = show(n);
    const cell = make("td", { className: kind }, ...content);
    if (kind.includes("text")) cell.title = cell.textContent;
    return cell;
  }));
});

function compare(a, b, key) {
  const [left, right] = [a[key], b[key]];
  if (!known(left) || !known(right)) return known(right) - known(left) || a.index - b.index;  // unknown stays last
  const sign = order.up ? 1 : -1;
  const way = typeof left === "string" ? left.localeCompare(right, undefined, { numeric: true }) : left - right;
  return sign * way || a.index - b.index;
}
function fillTable() {
  const words = $("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const key = COLUMNS[order.column][2];
  const found = nodes.filter((n) => inside(n.module, chosen.module) && words.every((w) => n.text.includes(w)));
  found.sort((a, b) => compare(a, b, key));
  body.replaceChildren(...found.map((n) => n.row));
  headings.forEach((th, i) => {
    if (i === order.column) th.setAttribute("aria-sort", order.up ? "ascending" : "descending");
    else th.removeAttribute("aria-sort");
  });
  const took = found.reduce((sum, n) => sum + n.measured_ms, 0);
  $("shown").textContent = `${found.length === nodes.length ? nodes.length : `${found.length} of ${nodes.length}`} nodes, ${ms(took)} ms, ${ofTotal(took)} of the run`;
  $("within").hidden = chosen.module === "";
  $("within").replaceChildren(`in ${chosen.module} `, make("span", { "aria-hidden": "true" }, "✕"));
  $("within").setAttribute("aria-label", `Only nodes in ${chosen.module}: show all`);
}
function footer(title, value) {
  const shown = { Node: title, "Measured ms": ms(value), Share: ofTotal(value) };
  const cells = COLUMNS.filter(([name]) => name !== "Op").map(([name, , , kind]) => make("td", { className: kind }, shown[name] ?? ""));
  return make("tr", {}, ...cells);
}
table.tFoot.append(footer("unattributed", data.unattributed_ms), footer("whole run", data.total_ms));

let marked = null;
listeners.node.push((n) => {
  if (marked) marked.row.classList.remove("on");
  marked = n;
  if (!n) return;
  if (!n.row.isConnected) {
    $("search").value = "";
    if (!inside(n.module, chosen.module)) choose("module", "");
    fillTable();
  }
  n.row.classList.add("on");
  n.row.scrollIntoView({ block: "center" });
});
body.addEventListener("click", (event) => {
  const n = byName.get(event.target.closest("tr")?.dataset.node);
  if (n && String(getSelection()) === "" && n !== chosen.node) choose("node", n);
});
$("search").addEventListener("input", fillTable);
$("within").addEventListener("click", () => choose("module", ""));
listeners.module.push(fillTable);
