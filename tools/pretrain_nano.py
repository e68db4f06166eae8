"""Train one of the nano hosts on images drawn by rule; docs/nano_hosts.md tells what comes of it."""

from __future__ import annotations

import argparse
import sys

from vpeft.apis.run.pretrain import PretrainSettings, pretrain
from vpeft.errors import UserError


def parse_args() -> argparse.Namespace:
    """The command line."""
    formatter = argparse.ArgumentDefaultsHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    default = {name: field.default for name, field in PretrainSettings.__dataclass_fields__.items()}
    parser.add_argument("host", choices=("vit", "swin"), help="which nano host")
    parser.add_argument("--out", default="work_dirs/nano", help="folder for the weights and the log")
    parser.add_argument("--epochs", type=int, default=default["epochs"], help="how often every image is seen")
    parser.add_argument("--images", type=int, default=default["images"], help="images to draw and train on")
    parser.add_argument("--batch-size", type=int, default=default["batch_size"], help="images of one step")
    parser.add_argument("--lr", type=float, default=default["lr"], help="highest learning rate")
    parser.add_argument("--seed", type=int, default=default["seed"], help="of weights and images")
    parser.add_argument("--threads", type=int, default=default["threads"], help="CPU threads")
    return parser.parse_args()


def main() -> int:
    """Run the training; a wrong use ends with one line and exit status 2."""
    args = vars(parse_args())
    out, host = args.pop("out"), args.pop("host")
    try:
        accuracy = pretrain(PretrainSettings(host=f"nano_{host}", **args), out)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"held-out accuracy: {accuracy['both']:.1f} % shape and texture together; weights in {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
