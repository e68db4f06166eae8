"""Features of runs side by side in the plane: PNG, SVG and an interactive page."""

from __future__ import annotations

from collections.abc import Sequence

from vpeft.apis.commands.arguments import Parser, seed_number
from vpeft.apis.commands.ending import say
from vpeft.extension.features import EMBEDDINGS


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("runs", nargs="+", help="folders of trained runs, all tested on the same data")
    parser.add_argument("--out", default="work_dirs/tsne", help="path of the .png, .svg and .html (%(default)s)")
    parser.add_argument("--method", choices=EMBEDDINGS, default="tsne", help="umap needs umap-learn (%(default)s)")
    parser.add_argument("--count", type=int, default=1000, help="random test samples, the same for all (%(default)s)")
    parser.add_argument("--classes", type=int, nargs="+", help="show these classes alone, by number")
    parser.add_argument("--perplexity", type=float, default=30.0, help="of t-SNE (%(default)s)")
    parser.add_argument("--seed", type=seed_number, default=0, help="of samples and embedding (%(default)s)")
    parser.add_argument("--title", default="", help="a line above the panels")
    parser.add_argument("--no-cache", action="store_true", help="neither read nor keep features in the runs' folders")
    args = parser.parse_args(argv)
    from vpeft.extension.features.tsne import panels, write_tsne

    made, names = panels(
        args.runs, args.method, args.count, args.classes, args.seed, args.perplexity, cache=not args.no_cache
    )
    for panel in made:
        say(panel.title.replace("\n", ": "))
    say(*write_tsne(made, names, args.out, args.title))
