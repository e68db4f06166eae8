"""Train, prune, train again from the start: for methods that say what they become (``Method.pruned``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmengine import Config
from mmengine.device import get_device

from vpeft.apis.config.load import load_config
from vpeft.apis.run.prepare import prepare
from vpeft.apis.run.test import test
from vpeft.apis.run.train import train
from vpeft.core.adaptation.find import find_adaptation
from vpeft.core.adaptation.peft_backbone import find_peft, methods_of
from vpeft.core.adaptation.training.selection_data import selection_batches, training_data
from vpeft.core.trained.folder import ADAPTER
from vpeft.core.trained.load import load_trained
from vpeft.errors import UserError
from vpeft.files import read_json, write_json

PRUNED = "pruned.json"


def rewind(
    path: str, task: str | None, work_dir: str, seed: int | None = None, options: dict[str, Any] | None = None
) -> dict[str, Any]:
    """All stages in ``work_dir``: ``first/``, what is left in ``pruned.json``, ``rewound/``; each goes on where it was.

    Args:
        path: A config whose method prunes.
        task: Another task than the config's.
        work_dir: Where everything is written.
        seed: Seed of both trainings.
        options: Further settings of the config by dotted key.

    Returns:
        The result of the test of the second training.

    Raises:
        UserError: No method of the config prunes, or ``pruned.json`` is of other methods.
    """
    folder = Path(work_dir)
    cfg = prepare(load_config(path, task, options), str(folder / "first"), seed=seed, resume=True)
    if not (folder / "first" / ADAPTER).is_file():
        train(cfg)
    wanted, file = Config({"of": methods_of(cfg)}).to_dict()["of"], folder / PRUNED
    stored = read_json(file, "what was pruned", broken="delete it, and it is made again") if file.is_file() else None
    if stored is None:
        stored = {"of": wanted, "methods": _pruned(cfg, str(folder / "first" / ADAPTER))}
        write_json(file, stored)
    elif not isinstance(stored, dict) or stored.get("of") != wanted:
        raise UserError(f"{file} is of other methods: use another --work-dir.")
    key = f"{find_peft(cfg)[0]}.method"
    options = {**(options or {}), key: stored["methods"]}

    def second(resume: bool) -> Any:
        return prepare(load_config(path, task, options), str(folder / "rewound"), seed=seed, resume=resume)

    adapter = folder / "rewound" / ADAPTER
    if not adapter.is_file():
        train(second(True))
    return test(second(False), str(adapter))


def _pruned(cfg: Any, adapter: str) -> list[dict[str, Any]]:
    """Configs of the methods after pruning."""
    model = load_trained(cfg, adapter).to(get_device())
    adaptation = find_adaptation(model)
    found, any_pruned = [], False
    for one in adaptation.on_host.values():
        left = one.pruned(training_data(model, selection_batches(cfg, model)))
        found.append((left or one.method).config())
        any_pruned |= left is not None
    if not any_pruned:
        names = ", ".join(method.registered_name() for method in adaptation.methods.values())
        raise UserError(f"{names} prunes nothing: train it with vpeft train.")
    return found
