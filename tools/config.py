"""A config as one text, with bases and method put in: ``tools/config.py configs/detection/mona_swin-b_coco.py``.

``--why optim_wrapper.optimizer.lr`` says who set a key, and what it was before.
"""

from vpeft.apis.commands.arguments import Parser, add_config_arguments
from vpeft.apis.commands.ending import run_main, say
from vpeft.apis.config.load import load_config
from vpeft.apis.config.origin import why
from vpeft.files import write_atomically


def main() -> None:
    parser = Parser(description=__doc__)
    add_config_arguments(parser)
    parser.add_argument("--out", help="write it there, as a config to edit")
    parser.add_argument("--why", metavar="KEY", help="say who set this key, such as train_cfg.max_epochs, instead")
    args = parser.parse_args()
    cfg = load_config(args.config, args.task, args.cfg_options)
    text = cfg.pretty_text if args.why is None else why(cfg, args.why)
    if args.out:
        write_atomically(args.out, text.encode())
    else:
        say(text)


if __name__ == "__main__":
    run_main(main)
