"""What runs of detection and segmentation predict, drawn beside the truth."""

from __future__ import annotations

from collections.abc import Sequence

from vpeft.apis.commands.arguments import Parser, seed_number
from vpeft.apis.commands.ending import say


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("runs", nargs="+", help="folders of trained runs, all tested on the same data")
    parser.add_argument("--images", nargs="+", help="image files instead of test samples")
    parser.add_argument("--samples", type=int, nargs="+", help="test samples by place (random ones)")
    parser.add_argument("--count", type=int, default=3, help="how many random test samples (%(default)s)")
    parser.add_argument("--seed", type=seed_number, default=0, help="of the random choice (%(default)s)")
    parser.add_argument("--threshold", type=float, default=0.3, help="least score of boxes and masks (%(default)s)")
    parser.add_argument("--out", default="work_dirs/predictions.png", help="the picture (%(default)s)")
    parser.add_argument("--title", default="", help="a line above")
    args = parser.parse_args(argv)
    from vpeft.extension.predictions.draw import drawn, write_predictions

    grid, legend = drawn(args.runs, args.images, args.samples, args.count, args.seed, args.threshold)
    say(write_predictions(grid, legend, args.out, args.title))
