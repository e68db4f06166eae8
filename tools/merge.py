"""Merge a trained adapter into a plain checkpoint that the plain config loads; verified before it is written."""

from vpeft.apis.commands.arguments import Parser, add_config_arguments
from vpeft.apis.commands.ending import run_main, say
from vpeft.apis.config.load import load_config
from vpeft.apis.export.merged import export_merged


def main() -> None:
    parser = Parser(description=__doc__)
    add_config_arguments(parser)
    parser.add_argument("checkpoint", help="epoch_*.pth or adapter.safetensors of a run")
    parser.add_argument("out", help="the plain checkpoint to write, .pth or .safetensors")
    args = parser.parse_args()
    done = export_merged(load_config(args.config, args.task, args.cfg_options), args.checkpoint, args.out)
    say(
        f"{args.out}: {done['tensors']} tensors; outputs differ by {done['merged']:.1e} merged and "
        f"{done['written']:.1e} as written (relative, random input)"
    )


if __name__ == "__main__":
    run_main(main)
