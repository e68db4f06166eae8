// The board: columns, filters, sorting, heat, cards.
const state = {};

// Columns: id, label, section, value of an entry, text, which way is good (1 high, -1 low, 0 neither), heat.
function columns() {
  const single = board.tasks.length === 1, some = of => board.entries.some(e => known(of(e))), averages = single ? "Result" : "Averages";
  const list = [{
    id: "mean", label: single ? capital(board.tasks[0].label) : `Mean of ${board.tasks.length}\u00a0tasks`, section: averages, good: 1, heat: true,
    value: e => e.mean, text: e => [percent(e.mean), spread(e.std)],
  }];
  if (board.entries.length > 1) list.push({
    id: "behind", label: "Behind the best", section: averages, good: 1,
    value: e => e.behind ? e.behind.difference : known(e.mean) ? 0 : null, text: behindText,
  });
  if (!single && board.groups.length > 1 && some(e => e.mean_of_groups)) list.push({
    id: "mean_of_groups", label: "Mean of groups", section: "Averages", good: 1, heat: true,
    value: e => e.mean_of_groups, text: e => [percent(e.mean_of_groups)],
  });
  if (!single && board.groups.length > 1) for (const g of board.groups) list.push({
    id: "group:" + g, label: `Mean of ${g}`, section: "Averages", group: g, good: 1, heat: true,
    value: e => e.groups[g], text: e => [percent(e.groups[g])],
  });
  list.push(
    {id: "ppt", label: "PPT", section: "Trade-off", good: 1, heat: true, value: e => e.ppt, text: e => [e.ppt.toFixed(3)]},
    {id: "parameters", label: "Parameters", section: "Trade-off", good: -1, value: e => e.parameters, text: e => [si(e.parameters)], title: e => Math.round(e.parameters).toLocaleString("en")},
  );
  if (!single) for (const task of board.tasks) list.push({
    id: "task:" + task.name, label: capital(task.label), section: task.group ? `Tasks: ${task.group}` : "Tasks", task: task.name, group: task.group, good: 1, heat: true,
    value: e => e.cells[task.name]?.mean, text: e => [percent(e.cells[task.name].mean) + mark(e, task.name), spread(e.cells[task.name].std)],
  });
  const cost = (id, label, text) => ({id, label, section: "Cost", good: -1, value: e => e.cost[id], text: e => [text(e.cost[id], e)]});
  list.push(
    cost("step_ratio", "Step / reference", (v, e) => "\u00d7" + v.toFixed(2) + busy(e)), cost("step_seconds", "Iteration", (v, e) => si(v, "s") + busy(e)),
    cost("saved_bytes", "Saved", v => si(v, "B")), cost("peak_bytes", "Peak", v => si(v, "B")), cost("parameter_bytes", "Parameters, bytes", v => si(v, "B")),
    cost("adapter_bytes", "Adapter", v => si(v, "B")), cost("inference_ratio", "Inference, adapted", v => "\u00d7" + v.toFixed(2)),
    cost("merged_ratio", "Inference, merged", v => "\u00d7" + v.toFixed(2)),
    {id: "memory", label: "Memory class", section: "About", good: -1, value: e => Object.keys(DATA.memory).indexOf(e.memory), text: e => [e.memory], title: e => DATA.memory[e.memory]},
    {id: "merges", label: "Merges", section: "About", good: 1, value: e => ["no", "partly", "yes"].indexOf(e.merges), text: e => [e.merges]},
    {id: "trials", label: "Trials", section: "About", good: 0, value: e => e.trials, text: e => [String(e.trials)]},
    {id: "seeds", label: "Seeds", section: "About", good: 1, value: e => e.seeds, text: e => [String(e.seeds)]},
  );
  return list;
}
const spread = std => known(std) ? "\u00b1 " + (100 * std < 0.05 ? "< 0.1" : percent(std)) : null;
const mark = (e, task) => e.cells[task].runs.some(i => DATA.runs[i].faults.length) ? "\u2020" : "";
// A row of several codes, and one whose setting was chosen by these results.
const marks = e => (e.mixed ? "\u00a0\u00a7" : "") + (e.selected ? "\u00a0\u00b6" : "");
// A step time of a busy machine.
const busy = e => e.busy ? "\u00a0\u2021" : "";
function behindText(e) {
  if (!e.behind) return ["best"];
  const {difference, interval, borrowed, tells} = e.behind, points = v => signed(100 * v, 1);
  if (!interval) return [points(difference), "not known: one seed"];
  // An interval alone may leave 0 out where all rows together do not.
  const open = tells ? "" : interval[0] <= 0 && 0 <= interval[1] ? ", holds 0" : ", holds 0 among so many rows";
  return [points(difference), `${points(interval[0])} to ${points(interval[1])}${open}${borrowed ? ", by other rows\u2019 seeds" : ""}`];
}
const toggled = section => section.startsWith("Tasks") ? "Tasks" : section;
// What rows are ranked by: the mean, or that of the chosen group.
const score = e => state.group ? (board.groups.length > 1 ? e.groups[state.group] : e.mean) : e.mean;

function startTable() {
  Object.assign(state, {text: "", category: "", backbone: "", memory: "", merges: "", group: "", sort: "mean", down: true, off: new Set(state.off ?? []), shown: []});
  drawFilters();
  drawTable();
}

function drawFilters() {
  const options = of => [...new Set(board.entries.map(of))].sort();
  const pick = (id, label, values) => values.length < 2 ? null : el("label", {}, label,
    el("select", {id: "f-" + id, on: {change: event => { state[id] = event.target.value; if (id === "group") sortByScore(); drawTable(); }}},
      el("option", {value: ""}, "all"), values.map(v => el("option", {value: v}, v))));
  const sections = [...new Set(columns().map(c => toggled(c.section)))].filter(s => s !== columns()[0].section);
  $("filters").replaceChildren(...[
    el("label", {class: "wide"}, "Name", el("input", {id: "f-text", type: "search", placeholder: "such as lora", autocomplete: "off", on: {input: event => { state.text = event.target.value; drawTable(); }}})),
    pick("category", "Category", options(e => e.category)), pick("backbone", "Backbone", options(e => e.backbone)),
    pick("group", "Task group", board.groups), pick("memory", "Memory class", options(e => e.memory)), pick("merges", "Merges", options(e => e.merges)),
    el("fieldset", {}, el("legend", {class: "skip"}, "Columns"), "Columns:", sections.map(s => el("button", {
      type: "button", class: "toggle", "data-section": s, "aria-pressed": !state.off.has(s),
      on: {click: event => { state.off.has(s) ? state.off.delete(s) : state.off.add(s); event.target.setAttribute("aria-pressed", !state.off.has(s)); drawTable(); }},
    }, s)), el("button", {type: "button", class: "plain", id: "reset", on: {click: () => { state.off.clear(); startTable(); }}}, "Reset")),
  ].filter(Boolean));
  $("filters").onsubmit = event => event.preventDefault();
}
function sortByScore() {
  state.sort = state.group && board.groups.length > 1 ? "group:" + state.group : "mean";
  state.down = true;
}

function visible() {
  const text = state.text.trim().toLowerCase();
  return board.entries.filter(e => (!text || `${e.name} ${e.category}`.toLowerCase().includes(text)) &&
    ["category", "backbone", "memory", "merges"].every(f => !state[f] || e[f] === state[f]));
}

function drawTable() {
  const shown = columns().filter(c => !state.off.has(toggled(c.section)) && !(state.group && c.group && c.group !== state.group));
  let by = shown.find(c => c.id === state.sort);
  if (!by && state.sort !== "name") { sortByScore(); by = shown.find(c => c.id === state.sort); }
  const rows = visible().sort((a, b) => {
    if (!by) return (state.down ? -1 : 1) * a.name.localeCompare(b.name);
    const [x, y] = [by.value(a), by.value(b)];
    return known(x) && known(y) ? (state.down ? y - x : x - y) || a.name.localeCompare(b.name) : known(y) - known(x);
  });
  state.shown = rows;
  const ranked = rows.filter(e => known(score(e))).sort((a, b) => score(b) - score(a)), rank = new Map(ranked.map((e, i) => [e, i + 1]));
  for (const c of shown) {
    const values = rows.map(c.value).filter(known);
    Object.assign(c, {low: values.length ? fence(values, 1.5) : 0, high: Math.max(...values), min: Math.min(...values)});
    c.top = c.good > 0 ? c.high : c.min;
  }
  $("board").replaceChildren(
    el("caption", {class: "skip"}, `${board.title}, measured by us`), head(shown), el("tbody", {}, rows.map(e => tableRow(e, shown, rank.get(e)))),
    ...(board.without.length ? [el("tfoot", {}, board.without.map(b => withoutRow(b, shown)))] : []));
  const lacking = rows.filter(e => !known(e.mean)).length;
  $("shown").textContent = `${rows.length} of ${plural(board.entries.length, "row")}` + (lacking ? `; ${plural(lacking, "row lacks tasks and has", "rows lack tasks and have")} no average` : "");
  $("legend").replaceChildren(
    el("span", {}, "Colour: lowest", el("span", {class: "ramp"}), "best shown value of a column; far outliers below are plain"), el("span", {class: "keys"}, "Arrow keys go from cell to cell"),
    ...(DATA.everything ? [el("span", {}, "\u2020 off the protocol")] : []), ...(rows.some(e => e.busy) ? [el("span", {}, "\u2021 on a busy machine, may be too long")] : []),
    ...(rows.some(e => e.mixed) ? [el("span", {}, "\u00a7 of runs of different code")] : []), ...(rows.some(e => e.selected) ? [el("span", {}, "\u00b6 chosen by these results among several settings")] : []));
  rove();
  drawGlance(rows);
  drawPlots(rows);
}

function head(shown) {
  const sections = [];
  for (const c of shown) {
    if (sections.at(-1)?.name === c.section) sections.at(-1).span++;
    else { sections.push({name: c.section, span: 1}); c.edge = true; }
  }
  const sorter = (id, label, good, attributes) => el("th", {scope: "col", "aria-sort": state.sort === id ? (state.down ? "descending" : "ascending") : "none", ...attributes},
    el("button", {type: "button", "data-sort": id, on: {click: () => {
      state.down = state.sort === id ? !state.down : good > 0;
      state.sort = id;
      drawTable();
      $("board").querySelector(`[data-sort="${CSS.escape(id)}"]`).focus();
    }}}, breakable(label)));
  return el("thead", {},
    el("tr", {}, el("th", {class: "name"}), sections.map(s => el("th", {scope: "colgroup", colspan: s.span, class: "edge"}, s.name))),
    el("tr", {}, sorter("name", "Method", -1, {class: "name"}), shown.map(c => sorter(c.id, c.label, c.good, {class: c.edge ? "edge" : null}))));
}

function tableRow(e, shown, rank) {
  const about = [e.category, new Set(board.entries.map(x => x.backbone)).size > 1 ? e.backbone : null, e.variant || null].filter(Boolean).join(" \u00b7 ");
  return el("tr", {"data-name": e.name},
    el("th", {scope: "row", class: "name"}, el("button", {type: "button", class: "row", on: {click: () => showRow(e)}},
      el("i", {}, rank ?? ""), el("b", {}, breakable(e.method), marks(e)), el("small", {}, dot(e.category), about))),
    shown.map(c => tableCell(e, c)));
}

// What is reached without a pretrained host.
function withoutRow(b, shown) {
  const value = c => c.id === "mean" ? b.mean : c.task ? b.values[c.task] : null;
  return el("tr", {"data-name": b.name}, el("th", {scope: "row", class: "name", title: "without a pretrained host"}, el("b", {}, capital(b.name)), el("small", {}, "without a pretrained host")),
    shown.map(c => el("td", {class: c.edge ? "edge" : null, "data-col": c.id}, known(value(c) ?? null) ? percent(value(c)) : "")));
}

function tableCell(e, c) {
  const value = c.value(e), classes = [c.edge && "edge"];
  if (!known(value) || value === -1 && c.section === "About") {
    const why = c.task ? `no run of ${c.task}` : c.id === "merged_ratio" ? "not merged" : "not known";
    return el("td", {class: [...classes, "none"].filter(Boolean).join(" "), "data-col": c.id}, el("span", {title: why}, c.section === "About" && value === -1 ? c.text(e)[0] : "\u2013"));
  }
  const [text, small] = c.text(e), content = [el("span", {}, text), small ? el("small", {}, small) : null];
  if (c.heat) classes.push("heat");
  if (c.heat && value === c.top && state.shown.length > 1) classes.push("best");
  const h = c.high > c.low ? Math.max(0, (value - c.low) / (c.high - c.low)) : 0;
  const open = c.task ? () => showCell(e, c.task) : () => showRow(e);
  return el("td", {class: classes.filter(Boolean).join(" ") || null, style: c.heat ? `--h:${h.toFixed(3)}` : null, "data-col": c.id},
    el("button", {type: "button", class: "cell", title: c.title?.(e), on: {click: open}}, content));
}

// One stop for Tab in the table's body; arrow keys go on from there.
function rove() {
  const rows = [...$("board").tBodies[0].rows].map(r => [...r.querySelectorAll(":scope > * > button")]);
  rows.flat().forEach((b, i) => { b.tabIndex = i ? -1 : 0; });
  $("board").tBodies[0].onkeydown = event => {
    const step = {ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0], Home: [0, -1e6], End: [0, 1e6]}[event.key];
    const cell = event.target.closest("td, th");
    if (!step || !cell) return;
    event.preventDefault();
    const y = cell.parentNode.sectionRowIndex + step[0], all = $("board").tBodies[0].rows;
    let x = Math.min(Math.max(cell.cellIndex + step[1], 0), cell.parentNode.cells.length - 1);
    if (y < 0 || y >= all.length) return;
    const way = Math.sign(step[1]) || 1, at = () => all[y].cells[x]?.querySelector("button");
    while (!at() && x > 0 && x < all[y].cells.length) x += Math.abs(step[1]) > 1 ? -way : way;
    const next = at() ?? all[y].cells[0].querySelector("button");
    event.target.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
    next.scrollIntoView({block: "nearest", inline: "nearest"});
  };
}

// Four cards, of different rows where that can be: best, cheapest near it, fastest, smallest.
function drawGlance(rows) {
  const whole = rows.filter(e => known(score(e))), best = whole.reduce((a, b) => score(b) > score(a) ? b : a, whole[0]);
  if (!best) return $("glance").replaceChildren(el("p", {class: "muted"}, "No shown row has every task."));
  const least = (of, cost) => of.filter(e => known(cost(e))).reduce((a, b) => !a || cost(b) < cost(a) || cost(b) === cost(a) && score(b) > score(a) ? b : a, null);
  const overall = board.entries.find(e => known(e.mean) && !e.behind), behind = board.entries.map(e => e.behind).filter(Boolean);
  const open = behind.filter(b => !b.interval).length, alike = behind.filter(b => b.interval && !b.tells).length;
  const told = () => open === behind.length ? "one seed does not tell it from the others"
    : (alike ? `${plural(alike, "other")} cannot be told from it` : `${open ? "the" : "all"} others are behind it`) + " (95\u00a0%)" + (open ? `; ${open} not known, with one seed` : "");
  const sure = best === overall && !state.group && board.entries.length > 1 ? told() : `of ${plural(whole.length, "shown row")}`;
  const count = e => e.parameters, within = (points, e) => score(best) - score(e) <= points / 100, given = e => e === best ? `${percent(score(e))} %` : `${percent(score(e))} %, ${(100 * (score(best) - score(e))).toFixed(1)} points behind the best`;
  const cards = [["Best", best, percent(score(best)) + " %" + (!state.group && known(best.std) ? " " + spread(best.std) : ""), [state.group ? `mean of ${state.group}` : over(board.tasks.length), sure]]];
  // The nearest at which another row than the best one is the cheapest.
  const cheapest = points => least(whole.filter(e => within(points, e)), count), points = [1, 2, 5, 10].find(p => cheapest(p) !== best);
  if (whole.length > 1 && cheapest(1) === best) cards[0][0] = "Best, cheapest within 1 point";
  if (points) cards.push([`Cheapest within ${plural(points, "point")}`, cheapest(points), si(count(cheapest(points))) + " parameters", [given(cheapest(points))]]);
  else if (whole.length > 1) cards[0][3].push("nothing within 10 points is cheaper");
  // Baselines are the fastest and smallest by definition.
  const methods = whole.some(e => e.category !== "baseline") ? whole.filter(e => e.category !== "baseline") : whole;
  // Of results before there was a reference the time of an iteration.
  const ratio = methods.some(e => known(e.cost.step_ratio)), small = least(methods, count), fast = least(methods, e => ratio ? e.cost.step_ratio : e.cost.step_seconds);
  if (fast) cards.push(["Fastest", fast, (ratio ? `\u00d7${fast.cost.step_ratio.toFixed(2)}${busy(fast)} of the reference\u2019s step` : si(fast.cost.step_seconds, "s") + busy(fast) + " a step"), [given(fast)]]);
  if (small) cards.push(["Smallest", small, si(small.parameters) + " parameters", [given(small)]]);
  const merged = [];
  for (const [title, e, figure, more] of cards) {
    const same = merged.find(card => card.e === e);
    if (!same) merged.push({titles: [title], e, figures: [figure], more});
    else { same.titles.push(title.toLowerCase()); if (!same.figures.includes(figure)) same.figures.push(figure); }
  }
  $("glance").replaceChildren(...merged.map(({titles, e, figures, more}) => el("button", {type: "button", class: "card", on: {click: () => showRow(e)}},
    el("span", {}, titles.join(", ")), el("b", {}, breakable(e.name)), el("em", {}, figures.join(", ")), el("span", {}, more.join("; ")))));
}
