"""Every method on every embedded task: ``tools/mini_table.py configs/mini/*_nano_vit.py --seeds 0 1 2 --jobs 2``."""

import argparse

from vpeft.apis.cli import run_main
from vpeft.apis.table import markdown, run_table
from vpeft.core.datasets.tasks import MINI, get_task


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("configs", nargs="+", help="configs of the mini suite")
    parser.add_argument("--tasks", nargs="+", default=list(MINI), help="tasks (all)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, one thread each")
    parser.add_argument(
        "--out", default="work_dirs/mini_table", help="folder of the runs; finished runs are not run again"
    )
    parser.add_argument("--cost", help="result of benchmarks/train_step.py, for step time and memory beside full")
    args = parser.parse_args()
    tasks = [get_task(task, "mini").name for task in args.tasks]
    results = run_table(args.configs, tasks, args.seeds, args.out, args.jobs)
    print("\n" + markdown(results, tasks, args.cost))
    return int(any("error" in result for result in results))


if __name__ == "__main__":
    run_main(main)
