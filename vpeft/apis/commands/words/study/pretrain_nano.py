"""Train one of the nano hosts on images drawn by rule (docs/nano_hosts.md)."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from vpeft.apis.commands.arguments import Parser, seed_number
from vpeft.apis.commands.ending import say
from vpeft.apis.pretrain.settings import PretrainSettings


def _parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    formatter = argparse.ArgumentDefaultsHelpFormatter
    parser = Parser(description=__doc__, formatter_class=formatter)
    default = {name: field.default for name, field in PretrainSettings.__dataclass_fields__.items()}
    parser.add_argument("host", choices=("vit", "swin"), help="which nano host")
    parser.add_argument("--out", default="work_dirs/nano", help="folder for the weights and the log")
    parser.add_argument("--epochs", type=int, default=default["epochs"], help="how often every image is seen")
    parser.add_argument("--images", type=int, default=default["images"], help="images to draw and train on")
    parser.add_argument("--batch-size", type=int, default=default["batch_size"], help="images of one step")
    parser.add_argument("--lr", type=float, default=default["lr"], help="highest learning rate")
    parser.add_argument("--seed", type=seed_number, default=default["seed"], help="of weights and images")
    parser.add_argument("--threads", type=int, default=default["threads"], help="CPU threads")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the training."""
    args = vars(_parsed(argv))
    from vpeft.apis.pretrain.nano import pretrain

    out, host = args.pop("out"), args.pop("host")
    accuracy = pretrain(PretrainSettings(host=f"nano_{host}", **args), out)
    say(f"held-out accuracy: {accuracy['both']:.1f} % shape and texture together; weights in {out}")
