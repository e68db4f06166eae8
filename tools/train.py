"""``vpeft train``, where only the files of the repository are at hand."""

from vpeft.apis.commands.ending import run_main
from vpeft.apis.commands.words.run.train import main

if __name__ == "__main__":
    run_main(main)
