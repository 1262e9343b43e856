// Time by op, the dots of the roofline, the theme; then everything is drawn.

const OPS_SHOWN = 8;
function drawOps() {
  const total = data.ops.reduce((sum, [, took]) => sum + took, 0) || 1;
  const shown = data.ops.slice(0, OPS_SHOWN).map(([op, took], group) => ({ op, took, group }));
  const rest = data.ops.slice(OPS_SHOWN);
  if (rest.length) shown.push({ op: `${rest.length} others`, took: rest.reduce((s, [, t]) => s + t, 0), group: 8, many: true });
  const bar = make("div", { className: "share", role: "img", "aria-label": "share of time by op" });
  const keyList = make("ul", { className: "keys" });
  shown.forEach(({ op, took, group, many }) => {
    const piece = make("i", { title: `${op} ${percent((100 * took) / total)}` });
    piece.style.background = css(groupColour(group));
    piece.style.flex = `${took / total} 0 0`;
    bar.append(piece);
    const dot = swatch(groupColour(group));
    const text = [dot, make("span", {}, op), make("b", {}, `${ms(took)} ms, ${percent((100 * took) / total)}`)];
    const button = make("button", { type: "button", disabled: Boolean(many), title: many ? "" : `show the nodes of ${op}` }, ...text);
    button.addEventListener("click", () => { $("search").value = op; fillTable(); $("search").scrollIntoView({ block: "center" }); });
    keyList.append(make("li", {}, button));
  });
  $("ops").replaceChildren(bar, keyList);
}
listeners.theme.push(drawOps);

const plot = document.querySelector("#roofline svg");
if (plot) {
  const nodeOf = (event) => byName.get(event.target.dataset?.point);
  plot.addEventListener("pointermove", (event) => {
    const n = nodeOf(event);
    if (n) showTip(n.name, nodeFacts(n), event.clientX, event.clientY);
    else hideTip();
  });
  plot.addEventListener("pointerleave", hideTip);
  plot.addEventListener("click", (event) => { const n = nodeOf(event); if (n) choose("node", n); });
  const dots = new Map([...plot.querySelectorAll(".dot")].map((d) => [d.dataset.point, d]));
  let lit = null;
  listeners.node.push((n) => {
    lit?.classList.remove("on");
    lit = n ? dots.get(n.name) : null;
    lit?.classList.add("on");
  });
}

const darkNow = () => {
  const forced = document.documentElement.style.colorScheme;
  return forced ? forced === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
};
function themeChanged() {
  palette = new Map();
  $("theme").textContent = darkNow() ? "Light" : "Dark";
  listeners.theme.forEach((tell) => tell());
}
$("theme").addEventListener("click", () => {
  document.documentElement.style.colorScheme = darkNow() ? "light" : "dark";
  themeChanged();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", themeChanged);

let drawnWidth = 0;
new ResizeObserver(() => {
  if (document.body.clientWidth === drawnWidth) return;
  drawnWidth = document.body.clientWidth;
  drawIcicle();
  drawTimes();
}).observe(document.body);
addEventListener("scroll", hideTip, { passive: true });

themeChanged();
choose("module", "");
