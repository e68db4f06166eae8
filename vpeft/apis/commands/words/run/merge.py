"""Merge a trained adapter into a plain checkpoint, verified before it is written.

``--to adapter`` writes the adapter file of a checkpoint instead, such as that of an epoch before the last; ``--to
folded`` that of a plainer method that answers the same (VFPT as VPTDeep).
"""

from __future__ import annotations

from collections.abc import Sequence

from vpeft.apis.commands.arguments import Parser, add_config_arguments, add_verbose, named_config
from vpeft.apis.commands.ending import say


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(description=__doc__)
    add_config_arguments(parser)
    parser.add_argument("checkpoint", help="epoch_*.pth or adapter.safetensors of a run")
    parser.add_argument("out", help="the file to write: .pth or .safetensors, an adapter's .safetensors")
    parser.add_argument("--to", choices=["plain", "adapter", "folded"], default="plain", help="what is written (plain)")
    add_verbose(parser)
    args = parser.parse_args(argv)
    from vpeft.apis.catalogue import config_parameters
    from vpeft.apis.commands.screen import report_lines, run_screen, show_lines
    from vpeft.apis.config.load import load_config
    from vpeft.apis.export.adapter import export_adapter
    from vpeft.apis.export.merged import export_merged

    with run_screen(args.verbose):
        cfg = load_config(named_config(args), args.task, args.cfg_options)
        show_lines(*report_lines(config_parameters(cfg), "merged" if args.to == "plain" else "stored"))
        if args.to != "plain":
            size = export_adapter(cfg, args.checkpoint, args.out, folded=args.to == "folded")
            say(f"{args.out}: the adapter of {args.checkpoint}{', folded' * (args.to == 'folded')}, {size:,} bytes")
            return
        done = export_merged(cfg, args.checkpoint, args.out)
    say(
        f"{args.out}: {done['tensors']} tensors; outputs differ by {done['merged']:.1e} merged and "
        f"{done['written']:.1e} as written (relative, random input)"
    )
