"""Predict images or clips by a trained run: classes with their names, boxes, masks, label maps.

RUN is a run's folder, an adapter file, a checkpoint or a merged file; it explains itself, no config is needed. What
cannot be read is named, and the others go on; the exit status is 1 then.
"""

from __future__ import annotations

from collections.abc import Sequence

from vpeft.apis.commands.arguments import Parser


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(description=__doc__)
    parser.add_argument("run", help="a run's folder, or its adapter.safetensors, epoch_*.pth or merged file")
    parser.add_argument("images", nargs="+", help="files, folders, patterns such as 'photos/*.jpg', videos")
    parser.add_argument("--weights", help="the base's file, where it no longer stands where the run has noted")
    parser.add_argument("--top", type=int, default=5, help="classes of an image that has one (%(default)s)")
    parser.add_argument("--threshold", type=float, help="least score of boxes (0.3), of several labels (the head's)")
    parser.add_argument("--batch-size", type=int, help="images of a pass (those of the run's test)")
    parser.add_argument("--every", type=int, default=1, help="each so-manieth frame of a video (%(default)s)")
    parser.add_argument("--json", help="write a JSON file; - prints it in the place of the table")
    parser.add_argument("--csv", help="write a CSV file, a row for each class or box; - as above")
    parser.add_argument("--draw", help="folder for the images with what is predicted of them")
    parser.add_argument("--auto-label", help="folder for a data set of what is above --threshold (0.5), to train on")
    parser.add_argument("--device", help="cpu, cuda, ... (an accelerator where there is one)")
    args = parser.parse_args(argv)
    from vpeft.apis.predict.load import load
    from vpeft.apis.predict.run import predict_files

    failed = predict_files(
        load(args.run, args.weights, args.device),
        args.images,
        args.json,
        args.csv,
        args.draw,
        args.auto_label,
        args.threshold,
        top=args.top,
        batch_size=args.batch_size,
        every=args.every,
    )
    return int(failed > 0)
