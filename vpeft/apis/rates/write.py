"""From a folder of trials to the evidence beside the configs, and its page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vpeft.apis.config.names import configs_folder
from vpeft.apis.config.recipes import recipes
from vpeft.apis.rates.evidence import EVIDENCE, FixedSetting, read_evidence, searched_tasks, write_evidence
from vpeft.apis.rates.page import rate_faults, rate_settings, rates_page
from vpeft.apis.rates.search import read_trials
from vpeft.errors import UserError
from vpeft.files import write_atomically
from vpeft.registry import nearest


@dataclass
class RatesFound:
    """What there is after new trials have been put in.

    Attributes:
        settings: Of all methods and hosts of the folder of configs.
        faults: What is wrong with them, and what was left out.
        written: Files.
    """

    settings: list[FixedSetting]
    faults: list[str]
    written: list[Path]


def tasks_of_hosts(folder: Path) -> dict[str, list[str]]:
    """What every host that a folder of configs has a recipe of is searched on."""
    return {name: searched_tasks(recipe.load(imports=False), name) for name, recipe in recipes(folder).items()}


def write_rates(results: str | None, folder: str, page: Path | None) -> RatesFound:
    """Put the trials of a folder of results into the evidence, and write the page of all.

    Args:
        results: Folder that a plan with ``search`` wrote to; None to look at what there is.
        folder: Folder of configs, such as ``mini``.
        page: Where the page is written; None for no page.

    Raises:
        UserError: No such folder of configs, no trials, or a broken file.
    """
    root = configs_folder()
    if not (root / folder / "_base_").is_dir():
        known = [base.parent.name for base in root.glob("*/_base_")]
        raise UserError(f"--folder {folder}: {root} has no recipes of that name: {nearest(folder, known)}")
    tasks = tasks_of_hosts(root / folder)
    file, faults, written = root / folder / EVIDENCE, [], []
    if results is not None:
        found = read_trials(results)
        faults += [f"{one} is not gone through: it is left out" for one in found.unfinished]
        faults += found.at_end
        other = sorted({trial.host for trial in found.trials} - tasks.keys())
        if other or not (found.trials or found.searches):
            said = f"has trials of {', '.join(other)}, no hosts of {folder}" if other else "has no trials of rates"
            raise UserError(f"{results} {said}: give the folder of a plan with `search`, and its --folder.")
        if found.trials:
            written.append(write_evidence(file, found.trials))
    trials = read_evidence(file)
    settings = rate_settings(trials, tasks)
    if page is not None:
        source = f"configs/{folder}/{EVIDENCE}"
        written.append(write_atomically(page, rates_page(trials, tasks, source).encode()))
    return RatesFound(settings, [*rate_faults(settings), *faults], written)
