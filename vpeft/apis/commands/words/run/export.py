"""Write a trained run for elsewhere: timm, transformers, OpenMMLab, ONNX, TorchScript, peft.

The adapter is merged where it merges, and what is written is held against the run before it is kept.
"""

from __future__ import annotations

from collections.abc import Sequence

from vpeft.apis.commands.arguments import Parser
from vpeft.apis.commands.ending import say


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("run", help="a run's folder, or its adapter.safetensors, epoch_*.pth or merged file")
    forms = "timm, hf, mmpretrain, mmdet, mmseg, mmaction, onnx, torchscript, pt2 or peft"
    parser.add_argument("--to", required=True, help=forms)
    parser.add_argument("--out", required=True, help="the file to write; of hf and peft a folder")
    parser.add_argument("--weights", help="the base's file, where it no longer stands where the run has noted")
    parser.add_argument(
        "--dynamic-size",
        action="store_true",
        help="a program for images of any height and width, or none (docs/export.md)",
    )
    parser.add_argument(
        "--size",
        nargs=2,
        type=int,
        metavar=("HEIGHT", "WIDTH"),
        help="of the images that a program takes (default: that of the run's own reading)",
    )
    args = parser.parse_args(argv)
    from vpeft.apis.export.run import export_run

    say(*export_run(args.run, args.to, args.out, args.weights, args.dynamic_size, args.size))
