// Pareto plots, drawn for the rows that the table shows.
const AXES = [
  ["parameters", "Trained parameters without the head", e => e.parameters, v => si(v)],
  ["step_ratio", "Time of a training step / reference", e => e.cost.step_ratio, v => "\u00d7" + v.toFixed(2)],
  ["step_seconds", "Time of an iteration in training", e => e.cost.step_seconds, v => si(v, "s")],
  ["saved_bytes", "Saved for the backward pass", e => e.cost.saved_bytes, v => si(v, "B")],
  ["peak_bytes", "Peak with gradients and optimiser", e => e.cost.peak_bytes, v => si(v, "B")],
];

// Entries that none beats in score and cost both, by rising cost (as vpeft.apis.results.statistics.pareto).
function front(rows, cost) {
  const order = [...rows].sort((a, b) => cost(a) - cost(b) || score(b) - score(a)), best = [];
  for (const e of order) {
    const last = best.at(-1);
    if (!last || score(e) > score(last) || (score(e) === score(last) && cost(e) === cost(last))) best.push(e);
  }
  return best;
}

function drawPlots(rows) {
  const categories = [...new Set(rows.map(e => e.category))].sort();
  $("key").replaceChildren(...categories.map(c => el("span", {}, dot(c), c)));
  const plots = AXES.map(axis => plot(rows, ...axis)).filter(Boolean);
  $("plots").replaceChildren(...(plots.length ? plots : [el("p", {class: "muted"}, "No shown row has every task and a cost.")]));
}

// What a plot gets: three beside one another (as page.css has it) or the whole width.
function figureWidth() {
  const whole = $("plots").clientWidth || 480;
  return whole >= 960 ? (whole - 28) / 3 : Math.min(whole, 640);
}

function plot(rows, id, title, cost, text) {
  const all = rows.filter(e => known(score(e)) && known(cost(e))).sort((a, b) => cost(a) - cost(b) || score(b) - score(a));
  if (!all.length) return null;
  const best = front(all, cost), width = Math.max(280, figureWidth() - 30), height = 330;
  const box = {left: 44, right: width - 16, top: 16, bottom: height - 40};
  const x = scaleX(all.map(cost), box), [y, ticks] = scaleY(all, box);
  const node = svg("svg", {viewBox: `0 0 ${width} ${height}`, role: "application", tabindex: 0, "data-plot": id,
    "aria-label": `${title} against accuracy. On the front, by rising cost: ${best.map(e => `${e.name}, ${percent(score(e))} percent, ${text(cost(e))}`).join("; ")}.`});
  for (const t of ticks) node.append(svg("line", {class: "grid", x1: box.left, x2: box.right, y1: y(t), y2: y(t)}), svg("text", {x: box.left - 7, y: y(t) + 4, "text-anchor": "end"}, t));
  for (const t of x.ticks) node.append(svg("line", {class: "grid", x1: x(t), x2: x(t), y1: box.top, y2: box.bottom}), svg("text", {x: x(t), y: box.bottom + 16, "text-anchor": "middle"}, text(t).replace(/\.0+(?= |$)/, "")));
  node.append(svg("text", {x: (box.left + box.right) / 2, y: height - 6, "text-anchor": "middle"}, title + (x.log ? " (logarithmic)" : "")),
    svg("text", {x: box.left, y: 10}, `${state.group ? "mean of " + state.group : over(board.tasks.length)}, %`));
  const at = e => [x(cost(e)), y(100 * score(e))];
  let path = "";
  best.forEach((e, i) => { const [px, py] = at(e); path += i ? `H${px}V${py}` : `M${px},${py}`; });
  node.append(svg("path", {class: "front", d: path + `H${box.right}`}));
  const marks = new Map(), behind = all.filter(e => !best.includes(e));
  for (const e of [...behind, ...best]) {
    const [px, py] = at(e), [colour, shape] = looks(e.category), on = best.includes(e);
    if (on && !state.group && known(e.std)) node.append(svg("line", {class: "spread", x1: px, x2: px, y1: y(100 * (e.mean + e.std)), y2: y(100 * (e.mean - e.std))}));
    const drawn = svg("path", {class: "mark" + (on ? "" : " off"), d: shape, fill: colour, transform: `translate(${px.toFixed(1)},${py.toFixed(1)}) scale(${on ? 1.25 : 1})`, "data-name": e.name});
    drawn.addEventListener("pointerenter", event => point(e, event.clientX, event.clientY));
    drawn.addEventListener("click", () => showRow(e));
    marks.set(e, drawn);
    node.append(drawn);
  }
  node.append(...labels(best, all, at, box, e => 100 * score(e) < y.low));
  let chosen = -1;
  function point(e, px, py) {
    marks.forEach((m, other) => m.classList.toggle("at", other === e));
    chosen = all.indexOf(e);
    const own = score(e) === e.mean && known(e.std) ? " " + spread(e.std) : "";
    tip(px, py, el("b", {}, e.name), `${percent(score(e))} %${own}`, el("br"), `${text(cost(e))}${id.startsWith("step_") ? busy(e) : ""}, ${e.category}`, best.includes(e) ? [el("br"), "on the front"] : null);
  }
  const leave = () => { $("tip").hidden = true; marks.forEach(m => m.classList.remove("at")); };
  node.addEventListener("pointerleave", leave);
  node.addEventListener("blur", leave);
  node.addEventListener("keydown", event => {
    const step = {ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1}[event.key];
    if (step) {
      event.preventDefault();
      const e = all[(Math.max(chosen + step, chosen < 0 ? 0 : -1) + all.length) % all.length], place = marks.get(e).getBoundingClientRect();
      point(e, place.right, place.top);
    } else if (event.key === "Enter" && chosen >= 0) showRow(all[chosen]);
  });
  return el("figure", {}, el("figcaption", {}, title), node);
}

// Logarithmic where the costs span more than a factor of 3; zero stands left of the rest.
function scaleX(values, box) {
  const positive = values.filter(v => v > 0), zero = positive.length < values.length;
  const low = Math.min(...positive, 1 / 0), high = Math.max(...positive, 0);
  if (!positive.length) return Object.assign(() => (box.left + box.right) / 2, {ticks: [0], log: false});
  const log = high / low > 3 || zero, f = log ? Math.log10 : v => v, pad = (f(high) - f(low)) * .08 || (log ? .3 : high * .1);
  const [from, to] = [f(low) - pad, f(high) + pad], start = box.left + (zero ? 34 : 0);
  const scale = v => v > 0 ? start + (f(v) - from) / (to - from) * (box.right - start) : box.left + 10;
  let ticks = [];
  if (log) {
    for (const steps of [[1], [1, 3], [1, 2, 5]]) {
      ticks = [];
      for (let p = Math.floor(from); p <= to; p++) for (const s of steps) { const t = s * 10 ** p; if (f(t) >= from && f(t) <= to) ticks.push(t); }
      if (ticks.length >= 3) break;
    }
    while (ticks.length > 6) ticks = ticks.filter((_, i) => i % 2 === 0);
  } else ticks = nice(from, to, 5);
  return Object.assign(scale, {ticks: zero ? [0, ...ticks] : ticks, log});
}
// Far outliers below stand on the bottom, with an arrow and their value.
function scaleY(all, box) {
  const off = e => state.group ? 0 : e.std ?? 0, low = fence(all.map(e => 100 * (score(e) - off(e))));
  const high = Math.max(...all.map(e => 100 * (score(e) + off(e)))), pad = (high - low) * .1 || 1;
  const scale = v => Math.min(box.bottom, box.bottom - (v - low + pad) / (high - low + 2 * pad) * (box.bottom - box.top));
  return [Object.assign(scale, {low: low - pad}), nice(low - pad, high + pad, 5)];
}
function nice(low, high, count) {
  const raw = (high - low) / count, size = 10 ** Math.floor(Math.log10(raw)), step = [1, 2, 5, 10].map(s => s * size).find(s => s >= raw);
  const ticks = [];
  for (let i = Math.ceil(low / step); i * step <= high; i++) ticks.push(Number((i * step).toPrecision(6)));
  return ticks;
}

// Names of the front and values of far outliers, where there is room: the best first, each at the first free place around
// its mark.
function labels(best, all, at, box, below) {
  const taken = all.map(e => { const [px, py] = at(e); return [px - 5, py - 5, px + 5, py + 5]; }), drawn = [];
  for (const e of [...[...best].reverse(), ...all.filter(e => below(e) && !best.includes(e))]) {
    const on = best.includes(e), text = [on && e.name, below(e) && `\u2193 ${percent(score(e))}`].filter(Boolean).join(" ");
    const [px, py] = at(e), w = text.length * 7.2, own = all.indexOf(e);
    const places = [[px + 9, py - 6, "start"], [px - 9, py - 6, "end"], [px + 9, py + 15, "start"], [px - 9, py + 15, "end"], [px, py - 11, "middle"]];
    for (const [lx, ly, anchor] of places) {
      const left = anchor === "start" ? lx : anchor === "end" ? lx - w : lx - w / 2, area = [left, ly - 10, left + w, ly + 3];
      const free = left >= box.left - 4 && left + w <= box.right + 12 && area[1] >= 0 && area[3] <= box.bottom &&
        taken.every((o, i) => i === own || area[2] < o[0] || area[0] > o[2] || area[3] < o[1] || area[1] > o[3]);
      if (!free) continue;
      taken.push(area);
      drawn.push(svg("text", {class: on ? "label" : "", x: lx, y: ly, "text-anchor": anchor}, text));
      break;
    }
  }
  return drawn;
}

function tip(px, py, ...content) {
  const node = $("tip");
  node.replaceChildren(...content.flat().filter(Boolean));
  node.hidden = false;
  const {width, height} = node.getBoundingClientRect();
  node.style.left = Math.max(6, Math.min(px + 14, innerWidth - width - 6)) + "px";
  node.style.top = Math.max(6, py - height - 12) + "px";
}
