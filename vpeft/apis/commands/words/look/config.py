"""Show a config as one text, with bases and method put in.

``--why optim_wrapper.optimizer.lr`` says who set a key, and what it was before.
"""

from __future__ import annotations

from collections.abc import Sequence

from vpeft.apis.commands.arguments import Parser, add_config_arguments, named_config
from vpeft.apis.commands.ending import say


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(description=__doc__)
    add_config_arguments(parser)
    parser.add_argument("--out", help="write it there, as a config to edit")
    parser.add_argument("--why", metavar="KEY", help="say who set this key, such as train_cfg.max_epochs, instead")
    args = parser.parse_args(argv)
    from vpeft.apis.config.load import load_config
    from vpeft.apis.config.origin import why
    from vpeft.files import write_atomically

    cfg = load_config(named_config(args), args.task, args.cfg_options)
    text = cfg.pretty_text if args.why is None else why(cfg, args.why)
    if args.out:
        write_atomically(args.out, text.encode())
    else:
        say(text)
