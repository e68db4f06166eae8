"""What runs look at: attention maps, rollout and Grad-CAM, with input and prediction."""

from __future__ import annotations

from collections.abc import Sequence

from vpeft.apis.commands.arguments import Parser, seed_number
from vpeft.apis.commands.ending import say
from vpeft.extension.attention import KINDS


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("runs", nargs="+", help="folders of trained runs, all tested on the same data")
    parser.add_argument("--images", nargs="+", help="image or video files instead of test samples")
    parser.add_argument("--samples", type=int, nargs="+", help="test samples by place (random ones)")
    parser.add_argument("--count", type=int, default=4, help="how many random test samples (%(default)s)")
    parser.add_argument("--seed", type=seed_number, default=0, help="of the random choice (%(default)s)")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, help="kinds of maps (those that suit the host)")
    parser.add_argument("--block", type=int, default=-1, help="whose attention, from the end if negative (%(default)s)")
    parser.add_argument("--heads", action="store_true", help="head by head instead of their mean")
    parser.add_argument("--token", type=int, nargs="+", help="row and column of the token of --kinds token")
    parser.add_argument("--target", type=int, help="class that Grad-CAM explains (the predicted one)")
    parser.add_argument("--out", default="work_dirs/attention", help="path of the pictures, <out>_<kind>.png")
    parser.add_argument("--title", default="", help="a line above the pictures")
    args = parser.parse_args(argv)
    from vpeft.core.trained.run import open_run
    from vpeft.extension.attention.figure import looked_at, write_attention

    found = looked_at(
        args.runs,
        args.kinds,
        args.images,
        args.samples,
        args.count,
        args.seed,
        block=args.block,
        heads=args.heads,
        place=args.token,
        target=args.target,
    )
    say(*write_attention(found, args.out, open_run(args.runs[0]).classes, args.title))
