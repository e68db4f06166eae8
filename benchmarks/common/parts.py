"""The parts of ``benchmarks/all.py``: what each measures, with the functions of the other files here.

A part is a function of the settings that gives figures; :func:`part` puts it into :data:`PARTS`, in the order of the
page. It runs in a process of its own and imports what it needs itself: a library that is missing is a line on the page.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

#: Models by how much is measured: timm's name, options, batch on a CPU.
MODELS = {
    "quick": ("vit_tiny_patch16_224", {"img_size": 64, "depth": 2}, 2),
    "full": ("vit_base_patch16_224", {}, 2),
}


@dataclass(frozen=True)
class Settings:
    """What is asked for.

    Attributes:
        mode: ``quick`` or ``full``.
        device: ``cpu`` or ``cuda``.
        rounds: Timed rounds of a part.
        methods: Registered methods; empty for all.
    """

    mode: str = "quick"
    device: str = "cpu"
    rounds: int = 3
    methods: tuple[str, ...] = ()

    @property
    def quick(self) -> bool:
        """Whether the models are tiny."""
        return self.mode == "quick"

    @property
    def model(self) -> tuple[str, dict[str, Any], int]:
        """timm's name, its options, images of a step."""
        return MODELS[self.mode]

    @property
    def key(self) -> str:
        """Names the expected times."""
        return "cuda" if self.device.startswith("cuda") and not self.quick else self.mode

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        return {**asdict(self), "methods": list(self.methods)}


#: A line of the page: what, its value, its unit (``x`` for a ratio), and, of a ratio, quartiles.
Figure = dict[str, Any]


@dataclass(frozen=True)
class Part:
    """A part of the page.

    Attributes:
        name: On the command line.
        title: On the page.
        run: Measures it.
        seconds: Expected, by :attr:`Settings.key`; it is left out where it has none.
        needs: Modules without which it is not run.
    """

    name: str
    title: str
    run: Callable[[Settings], list[Figure]]
    seconds: Mapping[str, float]
    needs: Sequence[str] = ()


PARTS: dict[str, Part] = {}


def part(
    name: str, title: str, needs: Sequence[str] = (), **seconds: float
) -> Callable[[Callable[[Settings], list[Figure]]], Callable[[Settings], list[Figure]]]:
    """Register a part; ``seconds`` by ``quick``, ``full``, ``cuda`` (that of a quiet machine)."""

    def register(run: Callable[[Settings], list[Figure]]) -> Callable[[Settings], list[Figure]]:
        PARTS[name] = Part(name, title, run, seconds, needs)
        return run

    return register


def figure(what: str, values: float | Sequence[float], unit: str = "x", **more: Any) -> Figure:
    """A figure; of several values the median with the quartiles."""
    if isinstance(values, (int, float)):
        return {"what": what, "value": float(values), "unit": unit, **more}
    from benchmarks.common.measuring import spread

    found = spread(list(values))
    return {"what": what, "value": found["median"], "unit": unit, "q1": found["q1"], "q3": found["q3"], **more}


def say(text: str) -> None:
    """Into the part's log."""
    print(text, file=sys.stderr, flush=True)


def step_arguments(settings: Settings, *more: str) -> list[str]:
    """The command line of ``train_step.py``."""
    name, _, batch = settings.model
    size = ["--quick"] if settings.quick else ["--model", name, "--batch", str(batch)]
    methods = ["--methods", *settings.methods] if settings.methods else []
    return [*size, *methods, "--rounds", str(settings.rounds), "--device", settings.device, *more]


# Steps --------------------------------------------------------------------------------------------------------------


@part("step", "A training step, relative to the floor", ["peft", "timm"], quick=60, full=5400)
def step(settings: Settings) -> list[Figure]:
    """Every method, the floor, peft's LoRA: time, bytes that are saved and at the peak."""
    from benchmarks.steps import train_step

    found = train_step.run(train_step.parse(step_arguments(settings)), say)
    rows = [
        {
            "what": row["name"],
            "value": row["time_ratio"]["median"],
            "unit": "x",
            "q1": row["time_ratio"]["q1"],
            "q3": row["time_ratio"]["q3"],
            "milliseconds": row["time_ms"]["median"],
            "saved": row["saved_ratio"],
            "peak": row["peak_ratio"],
        }
        for row in found["entries"]
    ]
    rows += [_pair(pair) for pair in found["comparisons"]]
    return rows + [{"what": name, "refused": why} for name, why in found["refused"].items()]


def _pair(pair: Mapping[str, Any]) -> Figure:
    time = pair["time_ratio"]
    row = {"what": pair["name"], "value": time["median"], "unit": "x", "q1": time["q1"], "q3": time["q3"]}
    return {**row, "saved": pair["saved_ratio"], "peak": pair["peak_ratio"]}


@part("pairs", "LoRA against peft's and nothing placed, more rounds", ["peft", "timm"], quick=20, full=900, cuda=25)
def pairs(settings: Settings) -> list[Figure]:
    """The paired comparisons alone."""
    from benchmarks.steps import train_step

    batch = ["--batch", "64"] if settings.key == "cuda" else []
    alone = Settings(settings.mode, settings.device, max(settings.rounds, 13 if not settings.quick else 1), ("LoRA",))
    found = train_step.run(train_step.parse(step_arguments(alone, *batch)), say)
    return [_pair(pair) for pair in found["comparisons"]]


@part(
    "memory",
    "Numbers kept for the backward pass, relative to the floor's equation",
    ["peft", "timm"],
    quick=45,
    full=600,
)
def memory(settings: Settings) -> list[Figure]:
    """The floor as its equation says, and every method, per token of a block."""
    from benchmarks.memory import kept_bytes

    name, size = ("vit_tiny_patch16_224", 32) if settings.quick else ("vit_base_patch16_224", 224)
    return kept_bytes.measure_kept(name, size, settings.methods)


@part("throughput", "Images a second in bfloat16", ["peft", "timm"], quick=60, full=1200, cuda=170)
def throughput(settings: Settings) -> list[Figure]:
    """A training step of each method of the VTAB-1k table, or of those asked for, at two batch sizes."""
    from benchmarks.steps import bf16_step

    batches = (2, 4) if settings.quick else (64, 256) if settings.key == "cuda" else (2,)
    name, build, _ = settings.model
    found = []
    for batch in batches:
        rows = bf16_step.measure_methods(name, build, batch, settings.device, settings.rounds, settings.methods, say)
        found += [{**row, "what": f"{row['what']}, batch {batch}", "batch": batch} for row in rows]
    return found


@part(
    "forward",
    "A forward pass, placed and merged, relative to the plain host",
    ["peft", "timm"],
    quick=30,
    full=600,
    cuda=30,
)
def forward(settings: Settings) -> list[Figure]:
    """Every method that merges, beside the untouched host."""
    from benchmarks.steps import merged_pass

    name, build, batch = settings.model
    batch = 64 if settings.key == "cuda" else batch
    return merged_pass.measure_merged(name, build, batch, settings.device, settings.rounds, settings.methods, say)


@part("compiled", "A compiled step and pass, relative to the same uncompiled", ["timm"], quick=180, full=1800, cuda=60)
def compiled(settings: Settings) -> list[Figure]:
    """The plain model, nothing placed, LoRA; with --device cuda as CUDA graphs. On a CPU it needs a C++ compiler."""
    from benchmarks.steps import compiled_step

    name, build, batch = settings.model
    size, depth = build.get("img_size", 224), build.get("depth", 12)
    batch = 64 if settings.key == "cuda" else batch
    words = [f"--model={name}", f"--size={size}", "--patch=16", f"--depth={depth}", f"--batch={batch}"]
    words += [
        f"--rounds={settings.rounds}",
        f"--device={settings.device}",
        "--methods",
        *(settings.methods or ["LoRA"]),
    ]
    found = compiled_step.measured(compiled_step.options(words), say)
    return [
        figure(f"{row.name}: {kind}", row.ratios(kind), compiled_in=row.first[kind])
        for kind in compiled_step.KINDS
        for row in found
    ]


# Epochs -------------------------------------------------------------------------------------------------------------


@part("cache", "An epoch with kept features, how many times faster", ["timm", "lmdb"], quick=30, full=1500)
def cache(settings: Settings) -> list[Figure]:
    """Methods whose frozen part is computed once."""
    from benchmarks.once import feature_cache

    name, build, _ = settings.model
    images, batch = (12, 4) if settings.quick else (64, 16)  # from three batches on the epoch that fills compares
    rows = []
    for title, method in feature_cache.METHODS.items():
        found = feature_cache.compare_epochs(name, method, images, batch, settings.rounds, **build)
        bits = "the same bits" if found["same_bits"] else "OTHER BITS"
        rows.append(figure(title, found["ratios"], megabytes=found["megabytes"], note=bits))
        say(f"{title}: {statistics.median(found['ratios']):.2f}")
    return rows


@part(
    "data", "An epoch of reading from the data store, how many times faster", ["lmdb", "mmpretrain"], quick=40, full=180
)
def data(settings: Settings) -> list[Figure]:
    """Files of a camera's size and of the model's, each through three pipelines."""
    from benchmarks.once import data_store

    rows = []
    for size in list(data_store.SIZES)[1:] if settings.quick else data_store.SIZES:
        for found in data_store.compare_reading(size, 12 if settings.quick else 60, settings.rounds):
            bits = "the same bits" if found["same_bits"] else "OTHER BITS"
            more = {
                "megabytes": found["megabytes"],
                "note": f"first epoch {found['filling']:.2f} of a plain one; {bits}",
            }
            rows.append(figure(f"{size}, {found['name']}", found["ratios"], **more))
    return rows


# Around a run -------------------------------------------------------------------------------------------------------


@part("attach", "Attaching and loading", ["peft", "timm", "transformers"], quick=30, full=120, cuda=25)
def attach(settings: Settings) -> list[Figure]:
    """Attaching against peft's, and an adapter file put into a fresh model."""
    from benchmarks.starting import attach_time, load_time

    rows = []
    models = dict(list(attach_time.MODELS.items())[:1] if settings.quick else attach_time.MODELS)
    for name, (build, targets, linears) in models.items():
        found = attach_time.compare_attaching(build, targets, linears, settings.rounds)
        rows.append(figure(f"attach LoRA against peft: {name}", [row["ours"] / row["theirs"] for row in found]))
        rows.append(figure(f"attach LoRA: {name}", [1e3 * row["ours"] for row in found], "ms"))
    name, build, _ = settings.model
    return rows + [figure(what, values, "ms") for what, values in load_time.times(name, build, settings.rounds).items()]


@part(
    "start_up",
    "From the command to its answer, relative to importing torch and timm",
    ["timm"],
    quick=60,
    full=300,
    cuda=45,
)
def start_up(settings: Settings) -> list[Figure]:
    """Imports, commands, and runs until their first step; of the processor's time."""
    import benchmarks.starting.start_up as starting

    short = settings.quick or settings.key == "cuda"
    with tempfile.TemporaryDirectory() as folder:
        commands = starting.entries(folder)
        names = list(commands)
        if short:
            names = ["import vpeft", "vpeft --help", "vpeft list methods", next(iter(starting.TRAININGS))]
        rows = []
        for _ in range(1 if short else settings.rounds):
            rows.append({name: starting.seconds(commands[name]) for name in (starting.BASE, *names)})
            say(str(rows[-1]))
    return [
        figure(
            name,
            [row[name] / row[starting.BASE] for row in rows],
            seconds=statistics.median(row[name] for row in rows),
        )
        for name in names
    ]


@part("serving", "Several adapters on one base, relative to the plain base", ["peft", "timm"], quick=30, full=600)
def serving(settings: Settings) -> list[Figure]:
    """A switch, one adapter, batches of several."""
    import benchmarks.runs.serving as server

    name, build, _ = settings.model
    size = (2, 4) if settings.quick else (8, 8)
    rows, switch = server.compare_serving(name, *size, settings.rounds, **build)
    found = [figure(title, ratios) for title, ratios in rows.items()]
    return found + [figure(f"{library}: a switch", value, "ms") for library, value in switch.items()]


@part("scale", "Many runs: result files, page, plan", ["timm"], quick=60, full=900)
def scale(settings: Settings) -> list[Figure]:
    """Drawn result files and a plan that is walked through."""
    import benchmarks.runs.scale as many

    files, plan = (500, (2, 2, 1)) if settings.quick else (100_000, (19, 70, 3))
    rows = []
    for row in [*many.read_files(files, say), *many.walk_plan(*plan, say)]:
        unit = next(unit for unit in ("seconds", "times", "bytes", "mib", "count") if unit in row)
        rest = {key: value for key, value in row.items() if key not in ("what", unit)}
        units = {"seconds": "s", "mib": "MiB", "count": "", "times": "x"}
        rows.append(figure(row["what"], row[unit], units.get(unit, unit), **rest))
    return rows
