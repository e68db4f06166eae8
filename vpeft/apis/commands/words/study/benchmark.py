"""Run methods by tasks by seeds, and rank them.

``vpeft benchmark PLAN.yaml``, or ``vpeft benchmark --methods lora mona --tasks digits --seeds 0 1``.

Shows the plan and an estimate, then runs what is not done yet. Run again, also after a kill, it goes on where it was.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from vpeft.apis.commands.arguments import OptionsAction, Parser, add_data_store, add_feature_cache, seed_number
from vpeft.apis.commands.ending import say
from vpeft.apis.jobs.engines.build import ENGINES


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "plan", nargs="?", help="plan file, .yaml or .py (docs/benchmark.md), named first; a flag outweighs its field"
    )
    parser.add_argument("--methods", nargs="+", help="methods by name, or all")
    parser.add_argument("--backbones", nargs="+", help="what follows the method in the configs' names (nano_vit)")
    parser.add_argument("--folder", help="folder of configs (mini)")
    parser.add_argument("--configs", nargs="+", help="further configs by path")
    parser.add_argument("--tasks", nargs="+", help="tasks, groups, or all (all)")
    parser.add_argument("--seeds", nargs="+", type=seed_number, help="seeds (0 1 2)")
    parser.add_argument("--options", nargs="+", action=OptionsAction, help="settings of every run by dotted key")
    parser.add_argument("--sweep", nargs="+", action=OptionsAction, help="lists to go through, shots=[1,5] rank=[2,8]")
    parser.add_argument("--trials", type=int, help="tune every config on every task first, so many trials each")
    parser.add_argument("--search", nargs="+", action=OptionsAction, help="only search rates and sizes, trials=19")
    parser.add_argument("--retries", type=int, help="further attempts at a run that failed (1)")
    parser.add_argument("--out", help="folder of the results (work_dirs/benchmark/<name of the plan>)")
    parser.add_argument("--engine", default="local", help=f"where it runs: {', '.join(ENGINES)}")
    parser.add_argument("--workers", type=int, help="runs at once")
    parser.add_argument("--address", help="of a Ray cluster")
    parser.add_argument("--engine-options", nargs="+", action=OptionsAction, default={}, help="others of the engine")
    parser.add_argument("--dry-run", action="store_true", help="only show the plan")
    add_data_store(parser, "20GB for suites of files, in the folder of the results")
    add_feature_cache(parser)
    args = parser.parse_args(argv)
    from vpeft.apis.benchmark.plan import load_plan
    from vpeft.apis.benchmark.run_plan import benchmark
    from vpeft.apis.leaderboard.write import write_leaderboard
    from vpeft.apis.results.files import read_results
    from vpeft.apis.results.tables import markdown

    names = ("methods", "backbones", "folder", "configs", "tasks", "seeds", "options", "sweep", "search", "retries")
    names += ("data_store", "feature_cache")
    flags = {name: getattr(args, name) for name in names}
    plan = load_plan(args.plan, **flags, tune=None if args.trials is None else {"trials": args.trials})
    out = args.out or f"work_dirs/benchmark/{Path(args.plan).stem if args.plan else 'flags'}"
    engine_options = {"workers": args.workers, "address": args.address, **args.engine_options}
    failed = benchmark(plan, out, args.engine, engine_options, args.dry_run)
    if plan.search is not None and not args.dry_run:
        say(f"what was found: vpeft rates {out} --folder {plan.folder}")
    elif not args.dry_run:
        results = read_results(out)
        say(markdown(results))
        if results.honest().runs:
            say(write_leaderboard(results)[0])
    return int(bool(failed))
