// Modules: a cell each, as wide as the time it took, below the module that holds it.

const ROW = 25;
const tree = $("icicle");
const cells = new Map();
const below = new Map();
const lefts = new Map();

modules.forEach((m) => {
  m.name = m.path.slice(m.path.lastIndexOf(".") + 1) || data.model;
  m.parent = m.path === "" ? null : m.path.includes(".") ? m.path.slice(0, m.path.lastIndexOf(".")) : "";
  below.set(m.path, []);
  if (m.parent !== null) below.get(m.parent).push(m);
});
const modulesByPath = new Map(modules.map((m) => [m.path, m]));
const rootMs = modules[0].measured_ms || 1;
lefts.set("", 0);
modules.forEach((m) => {  // parents come first
  let left = lefts.get(m.path);
  below.get(m.path).forEach((child) => { lefts.set(child.path, left); left += child.measured_ms; });
});
modules.forEach((m) => {
  const label = `${m.path || data.model}, ${ms(m.measured_ms)} ms, ${ofTotal(m.measured_ms)}, ${m.source}`;
  const text = make("span", {}, m.name, make("b", {}, `${ms(m.measured_ms)} ms`));
  const cell = make("div", { role: "treeitem", tabIndex: -1, "aria-level": m.depth + 1, "aria-label": label, "data-module": m.path }, text);
  cells.set(m.path, cell);
  tree.append(cell);
});

function drawIcicle() {
  const top = modulesByPath.get(chosen.module);
  const from = lefts.get(top.path);
  const span = top.measured_ms || rootMs;
  const width = tree.clientWidth;
  let deepest = 0;
  modules.forEach((m) => {
    const cell = cells.get(m.path);
    const above = m !== top && inside(top.path, m.path);
    const shown = above || inside(m.path, top.path);
    const share = above ? 1 : m.measured_ms / span;
    cell.hidden = !shown || share * width < 0.4;
    if (cell.hidden) return;
    deepest = Math.max(deepest, m.depth);
    cell.style.left = `${above ? 0 : (100 * (lefts.get(m.path) - from)) / span}%`;
    cell.style.width = `${100 * share}%`;
    cell.style.top = `${m.depth * ROW}px`;
    cell.classList.toggle("thin", share * width < 26);
    cell.classList.toggle("above", above);
    const known = below.get(m.path).length > 0;
    if (known) cell.setAttribute("aria-expanded", String(!above || m === top));
    cell.tabIndex = m === top ? 0 : -1;
  });
  tree.style.height = `${(deepest + 1) * ROW}px`;
  drawCrumbs(top);
}

function drawCrumbs(top) {
  const path = [];
  for (let m = top; m; m = m.parent === null ? null : modulesByPath.get(m.parent)) path.unshift(m);
  $("crumbs").replaceChildren(...path.map((m) => {
    const crumb = make("button", { type: "button" }, m.name);
    crumb.addEventListener("click", () => choose("module", m.path));
    return crumb;
  }));
}

// -- colours: three things that a cell can say --------------------------------------------------------

const SLOW = ["slow", "mid", "good"];
const ERROR = ["fast", "good", "slow"];
const ROOFS = [...new Set(nodes.map((n) => n.roof).filter(known))];
const roofColour = (roof) => groupColour(Math.min(ROOFS.indexOf(roof), 8));
const unknownColour = () => rgb("line");
const colourings = {
  percent: (m) => (known(m.percent_of_roof) ? ramp(SLOW, m.percent_of_roof / 100) : unknownColour()),
  error: (m) => (m.predicted_ms && m.measured_ms ? ramp(ERROR, (Math.log2(m.measured_ms / m.predicted_ms) + 1) / 2) : unknownColour()),
  roof: (m) => (known(m.roof) ? roofColour(m.roof) : unknownColour()),
};
const swatch = (colour) => { const i = make("i"); i.style.background = css(colour); return i; };
function rampKey(stops, low, high) {
  const bar = make("span", { className: "ramp" });
  bar.style.background = `linear-gradient(90deg, ${stops.map((s) => css(rgb(s))).join(", ")})`;
  return [make("span", {}, low, bar, high)];
}
const keys = {
  percent: () => rampKey(SLOW, "0", "100% of roof"),
  error: () => rampKey(ERROR, "half of predicted", "twice predicted"),
  roof: () => ROOFS.map((roof) => make("span", {}, swatch(roofColour(roof)), roof)),
};
function colourIcicle() {
  const kind = $("colour").value;
  modules.forEach((m) => {
    const colour = colourings[kind](m);
    const cell = cells.get(m.path);
    cell.style.background = css(colour);
    cell.style.color = inkOn(colour);
  });
  $("scale").replaceChildren(...keys[kind]());
}

// -- moving about -------------------------------------------------------------------------------------

const moduleOf = (event) => {
  const cell = event.target.closest("[data-module]");
  return cell ? modulesByPath.get(cell.dataset.module) : null;
};
const zoomTo = (m) => {
  choose("module", m.path);
  cells.get(m.path).focus({ preventScroll: true });
};
tree.addEventListener("click", (event) => {
  const m = moduleOf(event);
  if (m) zoomTo(m.path === chosen.module && m.parent !== null ? modulesByPath.get(m.parent) : m);
});
tree.addEventListener("pointermove", (event) => {
  const m = moduleOf(event);
  if (m) showTip(m.path || data.model, moduleFacts(m), event.clientX, event.clientY);
  else hideTip();
});
tree.addEventListener("pointerleave", hideTip);
tree.addEventListener("focusin", (event) => {
  const m = moduleOf(event);
  if (!m || !event.target.matches(":focus-visible")) return;
  const box = event.target.getBoundingClientRect();
  showTip(m.path || data.model, moduleFacts(m), box.left, box.bottom - 8);
});
tree.addEventListener("focusout", hideTip);
function nextTo(m, step) {
  const siblings = m.parent === null ? [m] : below.get(m.parent).filter((s) => !cells.get(s.path).hidden);
  return siblings[siblings.indexOf(m) + step];
}
const moves = {
  ArrowRight: (m) => nextTo(m, 1),
  ArrowLeft: (m) => nextTo(m, -1),
  ArrowDown: (m) => below.get(m.path).find((s) => !cells.get(s.path).hidden),
  ArrowUp: (m) => (m.parent === null ? null : modulesByPath.get(m.parent)),
  Home: () => modulesByPath.get(chosen.module),
};
tree.addEventListener("keydown", (event) => {
  const m = moduleOf(event);
  if (!m) return;
  if (event.key === "Enter" || event.key === " ") zoomTo(m);
  else if (event.key === "Escape") zoomTo(modulesByPath.get(modulesByPath.get(chosen.module).parent ?? ""));
  else if (event.key in moves) {
    const next = moves[event.key](m);
    if (next) {
      cells.get(m.path).tabIndex = -1;
      cells.get(next.path).tabIndex = 0;
      cells.get(next.path).focus();
    }
  } else return;
  event.preventDefault();
});
$("colour").addEventListener("change", colourIcicle);
listeners.module.push(drawIcicle);
listeners.theme.push(colourIcicle);
