"""A forward pass with a method in its place, and with it merged, relative to the untouched host.

    OMP_NUM_THREADS=1 python benchmarks/steps/merged_pass.py --batch 2 --rounds 5

Every registered method that merges, wholly or in part, with its default hyper-parameters. One that is merged wholly is
the host with other weights, so it must be 1.00 within the noise, which the first line says: the untouched host against
itself. Methods that merge in part are marked.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import vpeft  # isort: skip  mends torchvision

from benchmarks.common.measuring import Entry, measure, spread, time_ratio
from benchmarks.steps.train_step import attached, base_and_images, clone
from vpeft.errors import UserError
from vpeft.registry import PEFT_METHODS


def merging_methods(names: Sequence[str] = ()) -> list[str]:
    """Registered methods that merge, of ``names`` or of all."""
    known = PEFT_METHODS.module_dict
    return [n for n in names or known if known[n].mergeable or known[n].partly_mergeable]


def measure_merged(
    name: str,
    build: dict[str, Any],
    batch: int,
    device: str,
    rounds: int,
    methods: Sequence[str],
    report: Callable[[str], None],
) -> list[dict[str, Any]]:
    """Forward passes relative to the plain host.

    Args:
        name: A model of timm.
        build: Further options of it.
        batch: Images of a pass.
        device: ``cpu`` or ``cuda``.
        rounds: Timed passes of each.
        methods: Registered names, of which those that merge are taken; all unless given.
        report: Told what is done.
    """
    base, images = base_and_images(name, build, batch, device)
    inputs = (images,)
    entries = [Entry(title, clone(base), inputs, train=False) for title in ("plain", "plain again")]
    refused = []
    for method in merging_methods(methods):
        try:
            placed, merged = attached(base, method), attached(base, method)
            left = vpeft.merge(merged.eval())
        except UserError as error:
            refused.append({"what": method, "refused": str(error)})
            continue
        entries.append(Entry(f"{method}, placed", placed, inputs, train=False))
        entries.append(Entry(f"{method}, merged{' in part' if left else ''}", merged, inputs, train=False))
    measure(entries, [(entry.name, "plain") for entry in entries[1:]], rounds, report)
    rows = []
    for entry in entries[1:]:
        ratio = time_ratio(entry, entries[0])
        row = {"what": entry.name, "value": ratio["median"], "unit": "x", "q1": ratio["q1"], "q3": ratio["q3"]}
        rows.append({**row, "milliseconds": 1e3 * spread(entry.times)["median"]})
    return rows + refused


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="vit_base_patch16_224")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--methods", nargs="+", default=[])
    args = parser.parse_args()
    rows = measure_merged(
        args.model, {}, args.batch, args.device, args.rounds, args.methods, lambda text: print(text, file=sys.stderr)
    )
    for row in rows:
        if "refused" in row:
            print(f"{row['what']}: {row['refused']}")
        else:
            print(f"{row['what']:36s} {row['value']:.3f} ({row['q1']:.3f}, {row['q3']:.3f})")


if __name__ == "__main__":
    main()
