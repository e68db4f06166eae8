"""Options of the words that take a user's own data."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from vpeft.errors import UserError

if TYPE_CHECKING:
    from mmengine import Config

    from vpeft.apis.config.own import OwnOptions

FAMILIES = ("classification", "detection", "instances", "segmentation", "video")


def add_data_arguments(group: argparse._ActionsContainer) -> None:
    """What data are, and how they are divided."""
    group.add_argument("--family", choices=FAMILIES, help="where the data can be read as several")
    group.add_argument("--val-share", type=float, help="share that is validated on, where there is no such part (0.2)")
    group.add_argument("--test-share", type=float, help="share that is tested on, where there is no such part (0)")


def add_own_arguments(parser: argparse.ArgumentParser) -> None:
    """What is trained on a user's own data; each is None unless it is given."""
    group = parser.add_argument_group("with DATA instead of a config")
    add_data_arguments(group)
    group.add_argument("--model", help="timm/vit_base_patch14_dinov2, hf/..., or nano_vit, which is shipped")
    group.add_argument("--weights", help="file or folder of the model's weights; else its library fetches them")
    group.add_argument("--epochs", type=int, help="by the number of images")
    group.add_argument("--batch-size", type=int, help="images of a step")
    group.add_argument("--lr", type=float, help="learning rate (the method's own)")
    group.add_argument("--image-size", type=int, help="side of the images in pixels (the model's own)")
    group.add_argument("--augmentation", help="none, crop or crop_flip (crop_flip; of clips crop)")
    group.add_argument("--normalisation", help="imagenet, inception, clip or none, where nothing says it")
    group.add_argument("--random-base", action="store_const", const=True, help="train on a network without weights")
    group.add_argument("--tune", type=int, metavar="N", help="search the learning rate first, N trials on validation")
    group.add_argument("--show-config", action="store_const", const=True, help="print the config instead of training")


#: As the parser calls them.
OWN = (
    *("family", "val_share", "test_share", "model", "weights", "epochs", "batch_size", "lr", "image_size"),
    *("augmentation", "normalisation", "random_base", "tune", "show_config"),
)


def refuse_own(args: argparse.Namespace) -> None:
    """Refuse options of own data beside a config, of which they would say nothing.

    Raises:
        UserError: One is given.
    """
    if given := [name for name in OWN if getattr(args, name) is not None]:
        flag = f"--{given[0].replace('_', '-')}"
        raise UserError(
            f"{flag} is for DATA (a folder, a CSV, a COCO file), and {args.config} is a config: use --cfg-options."
        )


def own_options(args: argparse.Namespace) -> OwnOptions:
    """What a user has said of model, method and training.

    Raises:
        UserError: A task is named.
    """
    from vpeft.apis.config.own import OwnOptions

    if args.task is not None:
        raise UserError(f"--task {args.task} is for the config of a suite, and {args.config} is data: leave it out.")
    return OwnOptions(
        model=args.model,
        weights=args.weights,
        method=args.method or "lora",
        epochs=args.epochs,
        batch_size=args.batch_size,
        lr=args.lr,
        image_size=args.image_size,
        seed=args.seed or 0,
        augmentation=args.augmentation,
        normalisation=args.normalisation,
        random_base=bool(args.random_base),
        options=args.cfg_options or {},
    )


def share_options(args: argparse.Namespace) -> dict[str, float]:
    """The shares that are given."""
    return {name: getattr(args, name) for name in ("val_share", "test_share") if getattr(args, name) is not None}


def look_word(argv: Sequence[str], description: str) -> None:
    """The word ``data`` with a user's own: shown on a screen, and on a sheet."""
    from rich.console import Console

    from vpeft.apis.commands.arguments import Parser, seed_number
    from vpeft.apis.commands.ending import say
    from vpeft.apis.config.own.from_data import divided
    from vpeft.apis.data.own import own_screen, own_sheet
    from vpeft.core.datasets.own.recognise import recognise_data

    parser = Parser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="a folder, a CSV, a COCO file or a YOLO's data.yaml")
    add_data_arguments(parser)
    parser.add_argument("--seed", type=seed_number, default=0, help="of the division into parts (0)")
    parser.add_argument("--sheet", metavar="FILE", help="draw samples of every class into this PNG file")
    args = parser.parse_args(argv)
    seen = divided(recognise_data(args.data, args.family), seed=args.seed, quiet=False, **share_options(args))
    Console().print(own_screen(seen), soft_wrap=True)
    if args.sheet:
        say(own_sheet(seen, args.sheet))


def search_rate(cfg: Config, work_dir: str, trials: int, seed: int) -> None:
    """Search the learning rate on the validation part, show it, and put the best into the config (``--tune N``)."""
    from vpeft.apis.commands.screen import show_lines
    from vpeft.apis.run.own import own_study, tune_own
    from vpeft.apis.tune.shown import found_lines, search_lines

    study = own_study(cfg, work_dir, trials, seed)
    show_lines(*search_lines(study, 1))
    show_lines(*found_lines(study, tune_own(cfg, study)))
