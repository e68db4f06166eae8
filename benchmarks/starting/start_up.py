"""How long does it take until the command answers, and until a run begins?

    OMP_NUM_THREADS=1 python benchmarks/starting/start_up.py --rounds 5

Every entry is a process of its own. Shown is the time of the processor (user and system) that it takes until it ends,
or, of `vpeft train`, until the first step of training begins. Rounds go through all entries in an order drawn anew; the
ratio to `import torch, timm` is taken within a round, so that a machine that is busy harms both alike. Shown are the
median of the seconds, and the median and quartiles of the ratios. A round of warming up is left out.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.common.measuring import spread

#: Ends the process where the first step of training would begin.
UNTIL_THE_FIRST_STEP = """
import os, sys
from vpeft.compat.waiting import after_import

def stop(loops):
    loops.EpochBasedTrainLoop.run_iter = loops.IterBasedTrainLoop.run_iter = lambda *args: os._exit(0)

after_import("mmengine.runner.loops", stop)
sys.argv = ["vpeft", *sys.argv[1:]]
from vpeft.apis.commands.app import main
main()
os._exit(1)
"""
BASE = "import torch, timm"
#: vpeft comes first, where torchvision needs its mend; its own part is an entry of its own.
IMPORTS = {
    "import torch": "import torch",
    BASE: "import vpeft, torch, timm",
    "import vpeft": "import vpeft",
    "import vpeft, and what attach needs": "import vpeft, torch, timm\nvpeft.attach",
}
#: A shipped adapter, and any image.
ZOO, IMAGE = "vpeft/apis/zoo/adapters", "docs/images/mini_tasks.png"
COMMANDS = {
    "vpeft --help": ["--help"],
    "vpeft train --help": ["train", "--help"],
    "vpeft data --help": ["data", "--help"],
    "vpeft benchmark --help": ["benchmark", "--help"],
    "vpeft pretrain-nano --help": ["pretrain-nano", "--help"],
    "vpeft list methods": ["list", "methods"],
    "vpeft list hosts": ["list", "hosts"],
    "vpeft list configs": ["list", "configs"],
    "vpeft list zoo": ["list", "zoo"],
    "vpeft params": ["params", "configs/mini/lora_nano_vit.py"],
    "vpeft predict": ["predict", f"{ZOO}/lora_nano_vit_digits.safetensors", IMAGE],
}
#: From the repository's root.
TRAININGS = {
    "vpeft train, digits, nano ViT": ["configs/mini/lora_nano_vit.py"],
    "vpeft train, photographs, nano Swin": ["configs/mini/lora_nano_swin.py", "--task", "tissue"],
    "vpeft train, drawn boxes": ["configs/mini/lora_nano_swin_detection.py"],
    "vpeft train, drawn maps": ["configs/mini/lora_nano_swin_segmentation.py"],
    "vpeft train, drawn clips": ["configs/mini/lora_nano_vit_video.py"],
}


def entries(folder: str) -> dict[str, list[str]]:
    """Every entry with its command line; runs write into a folder."""
    python = sys.executable
    found = {name: [python, "-c", code] for name, code in IMPORTS.items()}
    found |= {name: [python, "-m", "vpeft", *words] for name, words in COMMANDS.items()}
    for name, words in TRAININGS.items():
        work_dir = os.path.join(folder, name.replace(" ", "_"))
        found[name] = [python, "-c", UNTIL_THE_FIRST_STEP, "train", *words, "--work-dir", work_dir]
    return found


def seconds(command: list[str]) -> float:
    """The processor's seconds of a process that must end well."""
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdout=said, stderr=said)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            raise SystemExit(f"{' '.join(command)} has failed:\n{said.read().decode(errors='replace')}")
    return usage.ru_utime + usage.ru_stime


def measure(rounds: int, only: str = "") -> list[dict[str, float]]:
    """Seconds by entry, of every round behind the first.

    Args:
        rounds: How often everything is measured.
        only: Entries whose names hold this, and :data:`BASE`.
    """
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        found = {name: command for name, command in entries(folder).items() if only in name or name == BASE}
        for _ in range(rounds + 1):
            rows.append({name: seconds(found[name]) for name in random.sample(list(found), len(found))})
    return [{name: row[name] for name in found} for row in rows[1:]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="entries whose names hold this")
    args = parser.parse_args()
    rows = measure(args.rounds, args.only)
    print("| entry | CPU seconds | x `import torch, timm` (q1, q3) |\n|---|---:|---:|")
    for name in rows[0]:
        found = spread([row[name] / row[BASE] for row in rows])
        median = statistics.median(row[name] for row in rows)
        print(f"| `{name}` | {median:.2f} | {found['median']:.2f} ({found['q1']:.2f}, {found['q3']:.2f}) |")


if __name__ == "__main__":
    main()
