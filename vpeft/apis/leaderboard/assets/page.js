// Data, helpers, theme, boards, notes, guide. table.js, plots.js and panel.js follow it in one script.
// Objects without a prototype: a task may be called "constructor".
const DATA = JSON.parse(document.getElementById("data").textContent,
  (key, value) => value && typeof value === "object" && !Array.isArray(value) ? Object.setPrototypeOf(value, null) : value);
const $ = id => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";

// Children are text or nodes: no name ever becomes markup.
function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "on") for (const [event, call] of Object.entries(value)) node.addEventListener(event, call);
    else if (key.startsWith("aria-") || known(value) && value !== false) node.setAttribute(key, value === true && !key.startsWith("aria-") ? "" : value);
  }
  node.append(...children.flat().filter(child => child !== null && child !== undefined && child !== false));
  return node;
}
function svg(tag, attributes = {}, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

// Where the mass of values begins: below it an outlier would take the whole scale (Tukey's outer fence by default).
function fence(values, width = 3) {
  const sorted = [...values].sort((a, b) => a - b), at = q => sorted[Math.round(q * (sorted.length - 1))];
  return Math.max(sorted[0], at(.25) - width * (at(.75) - at(.25)));
}
const percent = value => (100 * value).toFixed(1);
const signed = (value, digits) => {
  const text = Math.abs(value).toFixed(digits);
  return (Number(text) === 0 ? "" : value < 0 ? "\u2212" : "+") + text;
};
const known = value => value !== null && value !== undefined;
const PREFIXES = [[1e9, "G"], [1e6, "M"], [1e3, "k"], [1, ""], [1e-3, "m"], [1e-6, "\u00b5"]];
// Three digits with a prefix: 36.9 k, 147 MB, 12.3 ms.
function si(value, unit = "") {
  if (!value) return "0" + (unit && " " + unit);
  const rounded = Number(Math.abs(value).toPrecision(3));
  const [size, prefix] = PREFIXES.find(([s]) => rounded >= s) ?? PREFIXES.at(-1);
  const x = value / size, whole = unit === "" && size === 1 && Number.isInteger(value);
  return ((whole ? x : x.toFixed(Math.abs(x) >= 99.95 ? 0 : Math.abs(x) >= 9.995 ? 1 : 2)) + " " + prefix + unit).trim();
}
const over = n => n === 1 ? board.tasks[0].label : `mean of ${n} tasks`;
const plural = (n, one, many = one + "s") => n + " " + (n === 1 ? one : many);
// Where a long name may go on in the next line: behind _ and /, and before a capitalised word.
const breakable = name => name.split(/(?<=[_/])|(?<=[a-z]{2})(?=[A-Z][a-z]{2})/).flatMap((part, i) => i ? [el("wbr"), part] : [part]);
const capital = text => text.slice(0, 1).toUpperCase() + text.slice(1);

// Okabe and Ito's colours, told apart by the colour-blind; the shape says it again.
const LOOKS = {
  baseline: ["#7d8793", "M-4,-4H4V4H-4Z"],
  adapter: ["#0072b2", "M-4.6,0A4.6,4.6 0 1 0 4.6,0A4.6,4.6 0 1 0 -4.6,0Z"],
  prompt: ["#e69f00", "M0,-5.4L5,4.2H-5Z"],
  prefix: ["#cc79a7", "M0,5.4L5,-4.2H-5Z"],
  side: ["#009e73", "M0,-5.8L5.8,0L0,5.8L-5.8,0Z"],
  specification: ["#d55e00", "M-1.9,-5H1.9V-1.9H5V1.9H1.9V5H-1.9V1.9H-5V-1.9H-1.9Z"],
  reparameter: ["#56b4e9", "M0,-5.6L1.5,-1.9L5.5,-1.7L2.4,.8L3.4,4.7L0,2.5L-3.4,4.7L-2.4,.8L-5.5,-1.7L-1.5,-1.9Z"],
  unified: ["#a58b00", "M-5,-2.2L-2.2,-5H2.2L5,-2.2V2.2L2.2,5H-2.2L-5,2.2Z"],
};
const looks = category => LOOKS[category.split(" + ")[0]] ?? LOOKS.baseline;
const dot = category => {
  const [colour, shape] = looks(category), node = svg("svg", {viewBox: "-6 -6 12 12", class: "dot", "aria-hidden": "true"});
  node.append(svg("path", {d: shape, fill: colour}));
  return node;
};

// Theme: the system's until the button is pressed.
const dark = () => (document.documentElement.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
function nameTheme() { $("theme").textContent = dark() ? "\u2600 Light" : "\u263e Dark"; $("theme").setAttribute("aria-label", dark() ? "Change to light colours" : "Change to dark colours"); }
$("theme").addEventListener("click", () => {
  const next = dark() ? "light" : "dark";
  document.documentElement.dataset.theme = next;
  try { localStorage.setItem("vpeft-theme", next); } catch { /* private windows and files may have no storage */ }
  nameTheme();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", nameTheme);
nameTheme();

let board = DATA.boards[0];

function chooseBoard(id) {
  board = DATA.boards.find(b => b.id === id) ?? DATA.boards[0];
  for (const tab of $("tabs").children) {
    tab.setAttribute("aria-selected", tab.dataset.id === board.id);
    tab.tabIndex = tab.dataset.id === board.id ? 0 : -1;
  }
  $("board-title").textContent = board.title;
  $("board-about").textContent = [capital(board.metrics.join(", ")) + " in percent, mean over seeds",
    board.tasks.length > 1 ? `${board.tasks.length} tasks` : board.tasks[0].name, `data: ${board.data}`].join(" \u00b7 ");
  $("notes").replaceChildren(
    ...(DATA.everything ? [el("p", {}, "Runs off the protocol are shown too, marked \u2020.")] : []),
    ...board.notes.map(note => el("p", {}, note)),
  );
  startTable();
}

function drawTabs() {
  $("tabs").hidden = DATA.boards.length < 2;
  $("tabs").append(...DATA.boards.map(b => el("button", {
    type: "button", role: "tab", "data-id": b.id, "aria-controls": "board",
    on: {click: () => { history.replaceState(null, "", "#" + b.id); chooseBoard(b.id); }},
  }, b.short)));
  $("tabs").addEventListener("keydown", event => {
    const step = {ArrowRight: 1, ArrowLeft: -1}[event.key], tabs = [...$("tabs").children];
    if (!step) return;
    event.preventDefault();
    const next = tabs[(tabs.indexOf(document.activeElement) + step + tabs.length) % tabs.length];
    next.focus();
    next.click();
  });
}

function drawLead() {
  const all = DATA.runs, last = all.map(r => r.written).sort().at(-1);
  const methods = new Set(DATA.boards.flatMap(b => b.entries.map(e => e.method)));
  $("lead").append(`${plural(all.length, "run")} of ${plural(methods.size, "method")} on ${plural(DATA.boards.length, "board")}, the last of ${last.slice(0, 10)}.` +
    (DATA.against.length ? " Published figures stand only where they are called so." : ""));
}

function drawOut() {
  const rows = DATA.left_out, why = {};
  for (const {file, why: reason} of rows) (why[reason] ??= []).push(file);
  const lists = Object.entries(why).map(([reason, files]) => el("details", {open: files.length <= 6},
    el("summary", {}, reason, " ", el("small", {}, plural(files.length, "run"))),
    el("ul", {}, files.map(file => el("li", {}, link(file))))));
  if (DATA.broken.length) lists.push(el("details", {open: true}, el("summary", {}, "Broken files"), el("ul", {}, DATA.broken.map(text => el("li", {}, text)))));
  $("out-section").hidden = !lists.length;
  $("out").replaceChildren(...lists);
}
const link = file => DATA.root === null ? el("code", {}, breakable(file)) : el("a", {href: (DATA.root + "/" + file).split("/").map(encodeURIComponent).join("/")}, el("code", {}, breakable(file)));

function drawGuide() {
  const commits = [...new Set(DATA.runs.map(r => r.git).filter(Boolean))].map(c => c.slice(0, 7)), published = DATA.against.length;
  const items = [
    commits.length ? ["Commits", `The runs are of ${commits.length > 8 ? `${commits.length} commits, among them ` : ""}${commits.slice(0, 8).join(", ")}; a cell\u2019s panel names that of each run.`] : null,
    published ? ["Ours, published", "Everything marked \u201cours\u201d is derived from the result files of this folder, one file a run. \u201cPublished\u201d figures are those printed in the named papers; they are never mixed into our tables, ranks or plots."] : null,
    ["A cell", "Mean over seeds of the task\u2019s main metric in percent; after \u00b1 the standard deviation over seeds (n \u2212 1), where there are two or more. It opens the runs that it is made of. The best of a column is bold and underlined."],
    ["Mean of tasks", "Plain mean over the board\u2019s tasks of the means over seeds. Its \u00b1 is the standard deviation over seeds of a seed\u2019s mean over tasks."],
    DATA.boards.some(b => b.groups.length > 1) ? ["Mean of groups", "Mean of the group means (natural, specialized, structured). It differs from the mean of tasks, and papers mix the two."] : null,
    ["Behind the best", "Difference to the row of the highest mean in points, on the same tasks and seeds, with its 95 % interval for other seeds (paired, Student\u2019s t, not corrected for the number of rows). Where the interval holds 0 the two cannot be told apart. One seed gives no interval: the difference may be chance."],
    ["PPT", `PPT = M \u00b7 exp(\u2212log10(P / C + 1)) with C = ${DATA.constant.toLocaleString("en")}, M the mean of tasks in [0, 1] and P the trained parameters without the head (survey arXiv 2402.02242).`],
    ["Parameters", "Trained parameters of the backbone and of what the method adds, without the head; averaged over tasks where they differ."],
    ["Step / reference, iteration", "Medians over runs. Step / reference: a training step at the end of the run, in turns with one of a fixed reference model. Iteration: wall time in training, data included. " +
      `\u2021: there were too few quiet rounds, or of a run that did not count them the machine had more than ${DATA.busy} times the work that its processors do at once, so that its time may be too long; ` +
      (DATA.runs.some(r => known(r.load)) ? "runs that did not note it are not marked." : "none of these runs noted it, so none is marked.")],
    ["Saved, peak, parameters", "Bytes, medians over runs. Saved: what autograd keeps of one batch for the backward pass. Peak: the most that one step allocates at once above the parameters, gradients and the optimiser\u2019s state included. Parameters: of the whole model, frozen and trained. What former runs on an accelerator held at most is none of these, and not shown."],
    ["Adapter", "Bytes of the file that a run leaves to be shipped."],
    ["Inference", "Time of a prediction relative to the frozen host without the method: as trained, and after merging where it can be merged."],
    ["Memory class", Object.entries(DATA.memory).map(([name, text]) => `${name}: ${text}`).join("; ") + "."],
    ["Trials", "Trials of the search behind the settings; \u2013 where they are the config\u2019s own."],
    ["Protocol", "Tuned on train800 against val200, trained again on all 1,000 images, tested once at the last epoch. Runs that were done otherwise are left out and listed with the reason."],
    published ? ["Beyond noise", "A difference to a published figure that is larger than the 95 % prediction interval of one more run by our seeds, and than the known re-run noise of the task (VTAB-1k: 0.55 points; 5 on KITTI, dSprites, smallNORB and Retinopathy; 0.7 on an average), plus rounding. With one seed only the latter can be used."] : null,
    published ? ["Order of methods", "The methods that a board and a table have in common, ranked among themselves by either mean of tasks, whatever the tasks and the backbone. Intervals are percentiles of a bootstrap over methods. Out of line: ranks a third of the methods apart, three places at the least; lower here is a suspect."] : null,
  ].filter(Boolean);
  $("guide").append(el("dl", {}, items.flatMap(([term, text]) => [el("dt", {}, term), el("dd", {}, text)])));
}
