// The panel of a cell or a row, the comparison with published tables, and the start of the page.
function openPanel(title, ...content) {
  $("panel-title").textContent = title;
  $("panel-body").replaceChildren(...content.flat().filter(Boolean));
  $("tip").hidden = true;
  if (!$("panel").open) $("panel").showModal();
  $("panel").scrollTop = 0;
}
$("close").addEventListener("click", () => $("panel").close());
$("panel").addEventListener("click", event => { if (event.target === $("panel")) $("panel").close(); });

const facts = pairs => el("dl", {class: "facts"}, pairs.filter(([, v]) => known(v) && v !== "").flatMap(([k, v]) => [el("dt", {}, k), el("dd", {}, v)]));
const figure = (value, std) => el("p", {class: "big"}, value, " ", el("small", {}, std ?? ""));

function showCell(e, task) {
  const cell = e.cells[task], runs = cell.runs.map(i => DATA.runs[i]), faults = [...new Set(runs.flatMap(r => r.faults))];
  openPanel(`${e.name}: ${board.tasks.find(t => t.name === task).label}`,
    el("span", {class: "tag ours"}, "ours"), figure(percent(cell.mean) + " %", [spread(cell.std), plural(runs.length, "seed")].filter(Boolean).join(", ")),
    faults.length ? el("p", {class: "banner"}, "\u2020 Off the protocol: " + faults.join("; ")) : null, runTable(runs), el("h3", {}, "How it was run"), shared(runs), configOf(runs[0]),
    el("p", {}, el("button", {type: "button", class: "plain", on: {click: () => showRow(e)}}, `All of ${e.name}`)));
}

function showRow(e) {
  const lacking = board.tasks.filter(t => !e.cells[t.name]).map(t => t.name), c = e.cost, b = e.behind;
  const all = Object.values(e.cells).flatMap(cell => cell.runs.map(i => DATA.runs[i]));
  openPanel(e.name, el("span", {class: "tag ours"}, "ours"),
    known(e.mean) ? figure(percent(e.mean) + " %", [spread(e.std), over(board.tasks.length)].filter(Boolean).join(", "))
      : el("p", {class: "banner"}, `No average: no run of ${lacking.join(", ")}.`),
    facts([
      ["Category", e.category], ["Backbone", e.backbone], ["Variant", e.variant],
      ["Mean of groups", known(e.mean_of_groups) && percent(e.mean_of_groups) + " %"],
      ["Behind the best", b && behindText(e).join(b.interval ? " points, 95 % interval " : " points; ")],
      ["With other test images", b && b.images && `95 % interval ${b.images.map(v => signed(100 * v, 1)).join(" to ")} points`],
      ["PPT", known(e.ppt) && e.ppt.toFixed(4)], ["Parameters without head", Math.round(e.parameters).toLocaleString("en")],
      ["Training step", known(c.step_ratio) && `\u00d7${c.step_ratio.toFixed(2)} of the reference\u2019s` + (e.busy ? " \u2021, on a busy machine: may be too long" : "")],
      ["Iteration in training", known(c.step_seconds) && si(c.step_seconds, "s") + (e.busy ? " \u2021, on a busy machine: may be too long" : "")],
      ["Saved", known(c.saved_bytes) && si(c.saved_bytes, "B") + " for the backward pass"], ["Peak", known(c.peak_bytes) && si(c.peak_bytes, "B") + " with gradients and optimiser"],
      ["Parameters", known(c.parameter_bytes) && si(c.parameter_bytes, "B") + ", frozen and trained"],
      ["Adapter file", known(c.adapter_bytes) && si(c.adapter_bytes, "B")],
      ["Inference", known(c.inference_ratio) && `\u00d7${c.inference_ratio.toFixed(2)} as trained, ` + (known(c.merged_ratio) ? `\u00d7${c.merged_ratio.toFixed(2)} merged` : "not merged")],
      ["Memory class", e.memory + (DATA.memory[e.memory] ? `: ${DATA.memory[e.memory]}` : "")], ["Merges", e.merges],
      ["Trials of its search", e.trials ?? "none, the config\u2019s own settings"],
    ].filter(([, v]) => v)),
    el("h3", {}, board.tasks.length > 1 ? "Its tasks" : "Its task"),
    el("table", {class: "list"}, el("tbody", {}, board.tasks.filter(t => e.cells[t.name]).map(t => el("tr", {},
      el("td", {}, el("button", {type: "button", class: "go", on: {click: () => showCell(e, t.name)}}, t.label)),
      el("td", {class: "num"}, percent(e.cells[t.name].mean) + " %"), el("td", {class: "num"}, spread(e.cells[t.name].std) ?? ""),
      el("td", {}, plural(e.cells[t.name].runs.length, "seed")))))),
    el("h3", {}, "How it was run"), shared(all));
}

function runTable(runs) {
  return el("table", {class: "list", id: "runs"},
    el("thead", {}, el("tr", {}, ["Seed", "Value", "Written", "Commit", "File"].map(name => el("th", {scope: "col"}, name)))),
    el("tbody", {}, runs.map(r => el("tr", {}, el("td", {}, String(r.seed)), el("td", {class: "num"}, (100 * r.value).toFixed(2)),
      el("td", {}, r.written.slice(0, 16).replace("T", " ")), el("td", {}, r.git ? el("code", {title: r.git}, r.git.slice(0, 7)) : "\u2013"), el("td", {class: "file"}, link(r.file))))));
}

// What the runs were made with; several values where they differ.
function shared(runs) {
  const values = of => [...new Set(runs.map(of).filter(v => known(v) && v !== ""))].join("; ");
  return facts([
    ["Metric", values(r => r.metric)], ["Config", values(r => r.config_file)], ["Host", values(r => r.host)], ["Data", values(r => r.data_variant)],
    ["Device", values(r => r.device && `${r.device}, ${plural(r.threads ?? 0, "thread")}`)],
    ["Load", values(r => known(r.load) ? `${r.load.toFixed(2)} times what its processors do at once${r.load > DATA.busy ? " \u2021 busy" : ""}` : null)],
    ["Tuning", values(r => r.tuning && JSON.stringify(r.tuning))], ["Versions", values(r => DATA.versions[r.versions])],
  ]);
}

let configs = null;
async function unpacked() {
  const bytes = Uint8Array.from(atob(DATA.configs), c => c.charCodeAt(0));
  return JSON.parse(await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text());
}
function configOf(run) {
  const text = el("pre", {id: "config", tabindex: 0}, "\u2026");
  return el("details", {on: {toggle: async () => {
    try { text.textContent = (await (configs ??= unpacked()))[run.config] || "The result holds no config text."; }
    catch (error) { text.textContent = `This browser cannot unpack it (${error}); the run\u2019s file holds it as full_config.`; }
  }}}, el("summary", {}, "Config ", el("small", {}, `of seed ${run.seed}; other seeds differ in the seed and the working folder alone`)), text);
}

function drawAgainst() {
  const compared = DATA.against.filter(a => a.found.length || a.orders.length), idle = DATA.against.filter(a => !compared.includes(a));
  document.documentElement.toggleAttribute("data-published", DATA.against.length > 0);
  $("against-section").hidden = !DATA.against.length;
  $("against").replaceChildren(...compared.map((a, i) => comparison(a, i === 0)), ...(idle.length ? [el("details", {},
    el("summary", {}, `${plural(idle.length, compared.length ? "other table" : "table")} with nothing to compare`), idle.map(a => comparison(a, false)))] : []));
}

function comparison(a, open) {
  const beyond = a.found.filter(d => d.verdict === "beyond noise").length, judged = a.found.filter(d => !["equal", "differs"].includes(d.verdict)).length;
  const skipped = a.reasons.reduce((n, r) => n + r.cells.length, 0);
  const summary = [a.found.length && `${plural(judged, "difference")}, ${beyond} beyond noise`, a.orders.length && `the order of methods on ${plural(a.orders.length, "board")}`]
    .filter(Boolean).concat(a.found.length || a.orders.length ? `${plural(skipped, "entry", "entries")} not compared` : "nothing to compare").join("; ");
  return el("details", {open, "data-table": a.table},
    el("summary", {}, a.table, " ", el("small", {}, `(published, ${a.source}): ${summary}`)),
    a.remark ? el("p", {class: "muted"}, `About the published table: ${a.remark}.`) : "",
    a.found.length ? matrix(a) : "",
    a.found.length ? el("p", {class: "muted"}, "Ours minus published, in points (parameters: \u201c=\u201d where ours round to the printed figure, in millions). Blue: ours is higher, orange: lower; framed with \u25b2 or \u25bc: beyond noise.") : "",
    a.orders.map(order),
    el("div", {}, a.reasons.map(r => el("details", {}, el("summary", {}, "Not compared: " + r.why, " ", el("small", {}, r.cells.length)), el("ul", {}, r.cells.map(cell => el("li", {}, cell)))))));
}

// Both ranks of the methods that a board and a table have in common.
function order(o) {
  const head = ["published / ours", "published mean", "our mean", "published rank", "our rank", "lower here by", "out of line"];
  return el("div", {class: "order"}, o.sentences.map(text => el("p", {}, text)),
    el("details", {}, el("summary", {}, `Both ranks of ${plural(o.methods.length, "method")}`),
      el("div", {class: "scroller", tabindex: 0, role: "region", "aria-label": `Ranks on ${o.board}, ${o.backbone}`}, el("table", {class: "plainhead"},
        el("thead", {}, el("tr", {}, head.map((text, i) => el("th", {scope: "col", class: i ? null : "name"}, text)))),
        el("tbody", {}, o.methods.map(m => el("tr", {},
          el("th", {scope: "row", class: "name"}, el("b", {}, m.row), el("br"), el("small", {class: "muted"}, m.ours_name)),
          [m.published.toFixed(2), m.ours.toFixed(2), m.published_rank, m.our_rank, signed(m.lower, 1).replace(/\.0$/, ""), m.far].map(text => el("td", {}, String(text))))))))));
}

function matrix(a) {
  const names = [...new Set(a.found.map(d => d.column))], rows = new Map();
  for (const d of a.found) {
    const key = JSON.stringify([d.row, d.ours_name, d.board]);
    if (!rows.has(key)) rows.set(key, {first: d, cells: {}});
    rows.get(key).cells[d.column] = d;
  }
  return el("div", {class: "scroller", tabindex: 0, role: "region", "aria-label": `Ours minus ${a.table}`}, el("table", {class: "plainhead"},
    el("thead", {}, el("tr", {}, el("th", {class: "name", scope: "col"}, "published / ours"), names.map(n => el("th", {scope: "col"}, breakable(n))))),
    el("tbody", {}, [...rows.values()].map(({first, cells}) => el("tr", {},
      el("th", {scope: "row", class: "name"}, el("b", {}, first.row), el("br"), el("small", {class: "muted"}, first.ours_name)),
      names.map(n => differenceCell(a, cells[n])))))));
}

function differenceCell(a, d) {
  if (!d) return el("td", {class: "none"}, el("span", {}, "\u2013"));
  const digits = {PPT: 3, parameters: 3}[d.kind] ?? 1, beyond = d.verdict === "beyond noise", full = {PPT: 4, parameters: 4}[d.kind] ?? 2;
  const text = d.verdict === "equal" ? "=" : signed(d.difference, digits) + (beyond ? (d.difference > 0 ? " \u25b2" : " \u25bc") : "");
  const strength = d.kind === "parameters" ? 0 : Math.min(1, Math.abs(d.difference) / (d.kind === "PPT" ? .05 : 5));
  const unit = d.kind === "parameters" ? " M" : d.kind === "PPT" ? "" : " %", show = () => openPanel(`${d.ours_name}: ${d.what}`,
    facts([
      ["Ours", d.ours.toFixed(full) + unit + (known(d.std) ? ` \u00b1 ${d.std.toFixed(full)}` : "") + `, ${plural(d.seeds, "seed")}`], ["Published", `${d.published}${unit}, row ${d.row}, column ${d.column}`],
      ["Table", `${a.table}, ${a.source}`], ["Ours minus published", signed(d.difference, full)],
      [d.kind === "parameters" ? "Rounding of the printed figure" : "Noise", known(d.noise) ? d.noise.toFixed(full) : "not known: one seed"], ["Verdict", d.verdict],
      ["Of", d.kind], ["Our board", d.board],
    ]), a.remark ? el("p", {class: "muted"}, `About the published table: ${a.remark}.`) : null);
  return el("td", {class: [d.difference > 0 ? "up" : "down", beyond ? "beyond" : ""].join(" ").trim(), style: `--h:${strength.toFixed(3)}`},
    el("button", {type: "button", class: "cell", on: {click: show}}, text));
}

drawTabs();
drawLead();
drawOut();
drawGuide();
drawAgainst();
chooseBoard(decodeURIComponent(location.hash.slice(1)));
let width = innerWidth;
addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; drawPlots(state.shown); } });
