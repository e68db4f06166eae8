"""Write docs/methods.md: methods by hosts, parameters beside the published figures."""

import argparse

from vpeft.apis.cli import run_main
from vpeft.apis.methods_page import methods_page
from vpeft.files import write_atomically


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default="docs/methods.md")
    args = parser.parse_args()
    print(write_atomically(args.out, methods_page().encode()))


if __name__ == "__main__":
    run_main(main)
