"""The memory that a giant takes in training with LoRA, worked out on the meta device: a table for docs/cost.md.

``python benchmarks/memory/giant_memory.py``
"""

import argparse

from vpeft.apis.memory import training_memory
from vpeft.core.models.build import meta_build

KEPT = ((None, 1), (None, 2), (None, 8), ("bfloat16", 1), ("bfloat16", 2), ("bfloat16", 8))
FEW = ((["int8", "bfloat16"], 1), (["int4", "bfloat16"], 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_7b_patch16_dinov3", help="a model of timm of one width")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--sizes", type=int, nargs="+", default=[224, 518])
    args = parser.parse_args()
    import timm  # behind vpeft, which mends torchvision without its operators

    ends = [f"activations {size}" for size in args.sizes] + [f"total {size}" for size in args.sizes]
    print(f"| base_dtype | devices | frozen | gathered | adapter | optimiser | {' | '.join(ends)} |")
    print(f"|---|{'---:|' * (5 + len(ends))}")
    for kept, processes in (*KEPT, *FEW):
        found = []
        for size in args.sizes:
            with meta_build():
                model = timm.create_model(args.model, num_classes=0)
            found.append(training_memory(model, {"type": "LoRA", "rank": args.rank}, size, kept, 1, processes))
        one = found[0]
        values = [one.frozen, one.gathered, one.adapter, one.optimiser]
        values += [each.activations for each in found] + [each.total for each in found]
        name = "float32" if kept is None else kept if isinstance(kept, str) else ", ".join(kept)
        print(f"| {name} | {processes} | {' | '.join(f'{value / 2**30:.2f}' for value in values)} |")


if __name__ == "__main__":
    main()
