// The run over time: modules and nodes nested on one canvas, the bytes alive below on the same axis.

const LANE = 19;
const AXIS = 22;
const lanes = $("timeline");
const memory = $("memory");
const ran = nodes.filter((n) => known(n.start_ms)).sort((a, b) => a.start_ms - b.start_ms);
const pieces = data.spans.map(([path, depth, start, end]) => ({ path, lane: depth - 1, start, end, node: null }));
ran.forEach((n) => {
  const lane = n.module === "" ? 0 : n.module.split(".").length;
  pieces.push({ path: n.module, lane, start: n.start_ms, end: n.start_ms + n.measured_ms, node: n });
});
pieces.sort((a, b) => a.lane - b.lane || a.start - b.start);
const laneCount = pieces.reduce((most, p) => Math.max(most, p.lane + 1), 1);
const endMs = Math.max(pieces.reduce((most, p) => Math.max(most, p.end), 0), 1e-9);
const view = { from: 0, to: endMs };

function setView(from, to) {
  const span = Math.min(endMs, Math.max(to - from, endMs / 1e5));
  view.from = Math.min(Math.max(0, from), endMs - span);
  view.to = view.from + span;
  drawTimes();
}
function context(canvas, height) {
  const width = canvas.clientWidth;
  const dots = window.devicePixelRatio || 1;
  canvas.style.height = `${height}px`;
  canvas.width = Math.round(width * dots);
  canvas.height = Math.round(height * dots);
  const to = canvas.getContext("2d");
  to.setTransform(dots, 0, 0, dots, 0, 0);
  to.clearRect(0, 0, width, height);
  to.font = "11.5px system-ui, sans-serif";
  to.textBaseline = "middle";
  return { to, width, x: (time) => ((time - view.from) / (view.to - view.from)) * width };
}
/** Round steps for an axis: about one for every `room` pixels. */
function ticks(from, to, count) {
  const rough = (to - from) / Math.max(1, count);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((s) => s * power).find((s) => s >= rough);
  const found = [];
  for (let i = Math.ceil(from / step - 1e-9); i * step <= to; i += 1) found.push(i * step);
  return { found, digits: Math.max(0, -Math.floor(Math.log10(step) + 1e-9)) };
}

function drawLanes() {
  const { to, width, x } = context(lanes, AXIS + laneCount * LANE);
  const { found, digits } = ticks(view.from, view.to, width / 110);
  to.fillStyle = css(rgb("line"));
  found.forEach((time) => to.fillRect(Math.round(x(time)), 14, 1, AXIS + laneCount * LANE));
  to.fillStyle = css(rgb("muted"));
  found.forEach((time) => {
    const text = `${time.toFixed(digits)} ms`;
    const at = x(time);
    if (at + 4 + to.measureText(text).width < width) to.fillText(text, at + 4, 8);
  });
  const drawn = new Array(laneCount).fill(-1);  // up to where each lane is painted: what is thinner than a dot is skipped
  pieces.forEach((p) => {
    const left = Math.max(0, x(p.start));
    const right = Math.min(width, x(p.end));
    if (right < 0 || left > width || right <= drawn[p.lane]) return;
    const from = Math.max(left, drawn[p.lane]);
    const wide = Math.max(0.6, right - from);
    drawn[p.lane] = from + wide;
    paint(to, p, from, AXIS + p.lane * LANE, wide);
  });
}
function paint(to, piece, left, top, wide) {
  const colour = piece.node ? groupColour(piece.node.group) : rgb("module");
  const chosenOne = piece.node && piece.node === chosen.node;
  to.fillStyle = css(chosenOne ? rgb("ink") : colour);
  to.fillRect(left, top, wide > 3 ? wide - 1 : wide, LANE - 1);
  if (wide < 22) return;
  to.fillStyle = inkOn(chosenOne ? rgb("ink") : colour);
  to.save();
  to.beginPath();
  to.rect(left, top, wide - 4, LANE);
  to.clip();
  to.fillText(piece.node ? piece.node.op : piece.path.slice(piece.path.lastIndexOf(".") + 1), left + 5, top + LANE / 2);
  to.restore();
}

// -- memory -------------------------------------------------------------------------------------------

const living = ran.filter((n) => known(n.live_bytes));
const peaks = Object.entries(data.peak_bytes).filter(([, value]) => known(value));
function drawMemory() {
  const height = 150;
  const { to, width, x } = context(memory, height);
  const top = Math.max(...living.map((n) => n.live_bytes), ...peaks.map(([, v]) => v)) * 1.08;
  const y = (value) => height - 4 - (value / top) * (height - 8);
  const step = 2 ** Math.floor(Math.log2(top / 2.5));
  const marks = [];
  for (let value = step; y(value) > 16; value += step) marks.push(value);
  to.fillStyle = css(rgb("line"));
  [0, ...marks].forEach((value) => to.fillRect(0, Math.round(y(value)), width, 1));
  to.beginPath();
  to.moveTo(x(0), y(0));
  living.forEach((n, i) => {
    to.lineTo(x(n.start_ms), y(n.live_bytes));
    to.lineTo(x(i + 1 < living.length ? living[i + 1].start_ms : n.start_ms + n.measured_ms), y(n.live_bytes));
  });
  to.lineTo(x(endMs), y(0));
  to.fillStyle = css(mix(rgb("paper"), rgb("accent"), 0.35));
  to.fill();
  peaks.forEach(([kind, value]) => {
    to.fillStyle = css(rgb(kind === "measured" ? "ink" : "accent"));
    for (let at = 0; at < width; at += 8) to.fillRect(at, Math.round(y(value)), 5, 1.5);
  });
  to.lineWidth = 4;
  to.strokeStyle = css(rgb("paper"));
  to.fillStyle = css(rgb("muted"));
  marks.forEach((value) => {
    to.strokeText(bytes(value), 4, y(value) - 8);
    to.fillText(bytes(value), 4, y(value) - 8);
  });
}
function memoryKey() {
  const said = [["alive in the plan (predicted), at most", Math.max(...living.map((n) => n.live_bytes)), "area"]];
  peaks.forEach(([kind, value]) => said.push([`peak of the process, ${kind}`, value, `dash ${kind}`]));
  $("memory-key").replaceChildren(...said.map(([text, value, kind]) => make("li", {}, make("i", { className: kind }), text, make("b", {}, bytes(value)))));
}

function drawTimes() {
  drawLanes();
  if (living.length) drawMemory();
}
if (living.length) memoryKey();
else {
  memory.replaceWith(make("p", { className: "empty" }, "This profile holds no memory over time."));
}

// -- moving about -------------------------------------------------------------------------------------

const timeAt = (canvas, event) => view.from + ((event.clientX - canvas.getBoundingClientRect().left) / canvas.clientWidth) * (view.to - view.from);
function pieceAt(event) {
  const lane = Math.floor((event.clientY - lanes.getBoundingClientRect().top - AXIS) / LANE);
  const time = timeAt(lanes, event);
  const slack = (view.to - view.from) / lanes.clientWidth;
  return pieces.find((p) => p.lane === lane && p.start <= time && time < p.end)
    || pieces.find((p) => p.lane === lane && p.start - slack <= time && time < p.end + slack);
}
function zoomTime(factor, around = (view.from + view.to) / 2) {
  setView(around - (around - view.from) * factor, around + (view.to - around) * factor);
}
let dragged = null;
[lanes, memory].forEach((canvas) => {
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    dragged = { from: timeAt(canvas, event), x: event.clientX, touch: event.pointerType === "touch" };
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => onMove(canvas, event));
  canvas.addEventListener("pointerup", (event) => onUp(canvas, event));
  canvas.addEventListener("pointercancel", () => { dragged = null; drawTimes(); });
  canvas.addEventListener("pointerleave", hideTip);
  canvas.addEventListener("dblclick", () => setView(0, endMs));
  canvas.addEventListener("wheel", (event) => {
    if (event.ctrlKey || event.metaKey) zoomTime(Math.exp(event.deltaY / 300), timeAt(canvas, event));
    else if (Math.abs(event.deltaX) > Math.abs(event.deltaY)) {
      const moved = (event.deltaX / canvas.clientWidth) * (view.to - view.from);
      setView(view.from + moved, view.to + moved);
    } else return;
    event.preventDefault();
  }, { passive: false });
});
function onMove(canvas, event) {
  if (!dragged) return hover(canvas, event);
  hideTip();
  if (dragged.touch) {  // a finger moves the picture, a mouse marks a part of it
    const moved = dragged.from - timeAt(canvas, event);
    return setView(view.from + moved, view.to + moved);
  }
  if (Math.abs(event.clientX - dragged.x) < 4) return undefined;
  drawTimes();
  const to = canvas.getContext("2d");
  const left = canvas.getBoundingClientRect().left;
  const [r, g, b] = rgb("accent");
  to.fillStyle = `rgb(${r} ${g} ${b} / .25)`;
  return to.fillRect(dragged.x - left, 0, event.clientX - dragged.x, canvas.clientHeight);
}
function onUp(canvas, event) {
  const began = dragged;
  dragged = null;
  if (!began) return;
  const now = timeAt(canvas, event);
  if (!began.touch && Math.abs(event.clientX - began.x) >= 4) setView(Math.min(began.from, now), Math.max(began.from, now));
  else if (canvas === lanes && Math.abs(event.clientX - began.x) < 4) press(pieceAt(event));
}
function press(piece) {
  if (!piece) return;
  if (piece.node) choose("node", piece.node);
  else setView(piece.start, piece.end);
}
function hover(canvas, event) {
  if (canvas === memory) {
    const time = timeAt(canvas, event);
    const n = living.findLast((m) => m.start_ms <= time);
    if (n) showTip(`${bytes(n.live_bytes)} alive`, [["at", `${ms(time)} ms`], ["while", `${n.op} ${n.module}`]], event.clientX, event.clientY);
    return;
  }
  const piece = pieceAt(event);
  canvas.style.cursor = piece ? "pointer" : "crosshair";
  if (!piece) hideTip();
  else if (piece.node) showTip(piece.node.name, nodeFacts(piece.node), event.clientX, event.clientY);
  else showTip(piece.path, [["from", `${ms(piece.start)} ms`], ["lasts", `${ms(piece.end - piece.start)} ms`]], event.clientX, event.clientY);
}
const zooms = { in: () => zoomTime(0.5), out: () => zoomTime(2), all: () => setView(0, endMs) };
document.querySelectorAll("[data-zoom]").forEach((b) => b.addEventListener("click", () => zooms[b.dataset.zoom]()));
lanes.addEventListener("keydown", (event) => {
  const step = (view.to - view.from) / 8;
  const acts = {
    "+": zooms.in, "=": zooms.in, "-": zooms.out, 0: zooms.all,
    ArrowLeft: () => setView(view.from - step, view.to - step), ArrowRight: () => setView(view.from + step, view.to + step),
  };
  if (!(event.key in acts)) return;
  acts[event.key]();
  event.preventDefault();
});
listeners.theme.push(drawTimes);
listeners.node.push(drawTimes);
