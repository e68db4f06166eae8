"""From a plan to results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from rich.console import Console

from vpeft.apis.benchmark.estimate import Estimate
from vpeft.apis.benchmark.plan import Plan
from vpeft.apis.benchmark.run_job import RunJob
from vpeft.apis.jobs.engines.build import ENGINES, build_engine
from vpeft.apis.jobs.scheduler import clock, run_jobs
from vpeft.apis.jobs.shared_store import store_asked, store_of_job
from vpeft.core.trained.code import code_hash
from vpeft.errors import UserError, printable


def benchmark(
    plan: Plan, root: str, engine: str = "local", engine_options: Mapping[str, Any] | None = None, dry_run: bool = False
) -> list[RunJob]:
    """Show a plan, then run what of it is not done.

    Started again after it was stopped or killed it goes on where it was, and ends with the same results.

    Args:
        plan: The plan.
        root: Folder of the results.
        engine: Where it runs (:data:`~vpeft.apis.jobs.engines.build.ENGINES`).
        engine_options: Options of the engine.
        dry_run: Only show the plan.

    Returns:
        The runs that failed; the others' results are below ``root``. A plan with ``search`` has no runs.

    Raises:
        UserError: The plan or the engine's options are wrong. A run that fails raises nothing.
    """
    settings = None
    options = {"threads": plan.threads, **(engine_options or {})}
    one_machine = engine in ENGINES and ENGINES[engine].one_machine
    store, said = store_asked(plan.data_store, root, one_machine)
    if plan.search is not None:
        return _search(plan, root, engine, options, store, dry_run)
    if plan.tune is not None and not dry_run:
        settings = _tune(plan, root, engine, options, store)
    jobs = plan.jobs(root, settings, store)
    shared = said if any(job.data_store for job in jobs) else None
    if dry_run:
        show(plan, jobs, None, None, shared)
        return []
    with build_engine(engine, **options) as where:
        estimate = Estimate(root, [job for job in jobs if not job.done()])
        show(plan, jobs, estimate, where.slots, shared)
        return run_jobs(jobs, where, plan.retries, expected=estimate, figure=_figure)


def _search(plan: Plan, root: str, engine: str, options: Mapping[str, Any], store: str, dry_run: bool) -> list[RunJob]:
    from vpeft.apis.rates.search import search_rates, trials_of_plan

    Console(stderr=True, highlight=False).print(printable(trials_of_plan(plan)), markup=False, soft_wrap=True)
    if not dry_run:
        search_rates(plan, root, engine, options, store)
    return []


def _figure(job: RunJob) -> str | None:
    """The metric that counts of a run that is done."""
    metric = (job.result() or {}).get("main_metric")
    if not metric or metric["value"] is None:
        return None
    return f"{metric['name'].split('/')[-1]} {100 * metric['value']:.2f} %"


def _tune(
    plan: Plan, root: str, engine: str, options: Mapping[str, Any], store: str
) -> dict[tuple[str, str], dict[str, Any]]:
    from vpeft.apis.tune.study import Study, tune

    if plan.sweep:
        raise UserError(
            "plan: tune and sweep together would mix settings: tune first, then sweep configs/... by itself."
        )
    studies = [
        replace(
            Study.of(cell.entry.path, cell.task, cell.suite, root, options=cell.variant, **plan.tune),
            data_store=store_of_job(store, plan.data_store, cell.suite),
        )
        for cell in plan.cells()
    ]
    for study in studies:
        study.feature_cache = plan.feature_cache
    with build_engine(engine, **options) as where:
        found = tune(studies, where, plan.retries)
    return {(study.config, study.task): setting for study, setting in zip(studies, found, strict=True)}


def show(
    plan: Plan, jobs: Sequence[RunJob], estimate: Estimate | None, slots: int | None, images: str | None = None
) -> None:
    """Print what will be run, what becomes of its decoded images, and how long it is likely to take."""
    console = Console(stderr=True, highlight=False)

    def line(text: str) -> None:
        console.print(printable(text), markup=False, soft_wrap=True)

    results = [job.result() for job in jobs]
    done = [result for result in results if result is not None and result["status"] == "ok"]
    todo = [job for job, result in zip(jobs, results, strict=True) if result is None or result["status"] != "ok"]
    rows = {(job.method, job.backbone, repr(job.variant)) for job in jobs}
    size = f"{len(rows)} rows x {len({j.task for j in jobs})} tasks x {len(plan.seeds)} seeds"
    line(f"{size}: {len(jobs)} runs, {len(done)} done, {len(todo)} to do")
    for name in ("method", "backbone", "task", "seed"):
        values = dict.fromkeys(str(getattr(job, name)) for job in jobs)
        line(f"  {name + 's':<10} {', '.join(values)}")
    changed: dict[str, dict[str, None]] = {}
    for job in jobs:
        for key, value in job.variant.items():
            changed.setdefault(key, {})[str(value)] = None
    for key, values in changed.items():
        line(f"  with       {key} = {', '.join(values)}")
    faults = {}
    for job in {(j.config, j.task, repr(j.variant)): j for j in todo}.values():
        for fault in job.protocol()["faults"]:
            faults.setdefault(fault, []).append(job)
    for fault, of in faults.items():
        line(f"  off the protocol, left out of leaderboards: {len(of)} cells: {fault}")
    other = sum((result.get("code") or code_hash()) != code_hash() for result in done)
    if other:
        line(f"  {other} of the done runs are of other code; use another folder to run them again")
    if images is not None:
        line(f"  images     {images}")
    if estimate is not None and todo:
        left = estimate.total(todo, slots)
        workers = f"{slots} at a time" if slots else "as the cluster has room"
        line(f"  estimate   {clock(left)}, {workers}; {estimate.source}")
