"""NOAH's three stages, for any method with subnets: train a supernet, search a subnet, train it or cut it out."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine import Config
from mmengine.device import get_device
from mmengine.runner import Runner
from torch import nn

from vpeft.apis.config.load import load_config
from vpeft.apis.config.names import located
from vpeft.apis.export.merged import load_trained
from vpeft.apis.run.prepare import prepare
from vpeft.apis.run.test import test
from vpeft.apis.run.train import train
from vpeft.core.adaptation.find import find_adaptation
from vpeft.core.adaptation.storing.adapter_file import adapter_state, put_adapter, read_adapter, save_adapter
from vpeft.core.contract.subnets import Subnet, SubnetSpace, find_space
from vpeft.core.models.build import build_model
from vpeft.core.trained.folder import ADAPTER
from vpeft.core.trained.record import run_record
from vpeft.errors import UserError
from vpeft.files import read_json, write_atomically, write_json

SEARCH = "search.json"


def noah(
    path: str, task: str | None, work_dir: str, seed: int | None = None, options: dict[str, Any] | None = None
) -> dict[str, Any]:
    """All three stages in ``work_dir/{supernet,search,subnet}``; each goes on where it was left.

    Args:
        path: Config of the supernet, with a field ``noah`` (``configs/mini/noah_supernet_nano_vit.py``), where
            ``retrain=False`` cuts the subnet out of the supernet, as GLoRA's authors do, and trains nothing again.
        task: Another task than the config's.
        work_dir: Where everything is written.
        seed: Seed of all stages.
        options: Further settings of the supernet's config by dotted key.

    Returns:
        The result of the subnet's test.

    Raises:
        UserError: The config has no field ``noah``, or trains on the images that the search looks at.
    """
    folder = Path(work_dir)
    cfg = prepare(load_config(path, task, options), str(folder / "supernet"), seed=seed, resume=True)
    if "noah" not in cfg:
        raise UserError(f"{path} has no field `noah`, which says what to search: use a noah_supernet config.")
    if cfg.get("val_dataloader") is None:
        raise UserError(f"{path}: the search compares subnets on val200, so train_split must be 'train800'.")
    supernet = folder / "supernet" / ADAPTER
    if not supernet.is_file():
        train(cfg)
    best = search(cfg, str(supernet), str(folder / "search"), seed or 0)
    config = write_subnet(cfg, path, best, folder / "subnet.py")
    adapter = folder / "subnet" / ADAPTER
    if not adapter.is_file():
        alone = prepare(load_config(config, cfg.task), str(folder / "subnet"), seed=seed, resume=True)
        train(alone) if cfg.noah.get("retrain", True) else cut_out(alone, str(supernet), adapter)
    return test(prepare(load_config(config, cfg.task), str(folder / "subnet"), seed=seed), str(adapter))


def search(cfg: Config, supernet: str, work_dir: str, seed: int = 0) -> dict[str, Any]:
    """Evolutionary search for the subnet with the best accuracy on val200.

    Everything is drawn from the seed, and every accuracy is written down as soon as it is known: a search that was cut
    off and started again takes the known ones from the file, and so comes to the same result.

    Args:
        cfg: The supernet's config; its field ``noah`` has ``limit, epochs, population, parents, mutations,
            crossovers``, and what the method's space takes.
        supernet: The trained supernet's adapter file.
        work_dir: Where ``search.json`` is written.
        seed: Seed of the search.

    Returns:
        The method's hyper-parameters of the best subnet; of equal ones the smallest.
    """
    model = load_trained(cfg, supernet).to(get_device())
    loader = Runner.build_dataloader(cfg.val_dataloader, seed=0)
    settings = cfg.noah
    space = find_space(find_adaptation(model).on_host.values(), settings)
    fitness = Fitness(space, lambda: accuracy(model, loader), Path(work_dir) / SEARCH, cfg, seed)
    rng = random.Random(seed)
    parents: list[Subnet] = []
    for epoch in range(settings.epochs):
        population = _population(space, parents, settings, rng)
        for i, subnet in enumerate(population, start=1):
            value = fitness(subnet)
            print(f"[epoch {epoch + 1}/{settings.epochs}, {i}/{len(population)}] {value:6.2f} %", flush=True)
        known = sorted({*parents, *population}, key=lambda s: (-fitness(s), space.count(s), s))
        parents = known[: settings.parents]
    return space.fields(parents[0])


def _population(space: SubnetSpace, parents: list[Subnet], settings: Any, rng: random.Random) -> list[Subnet]:
    """Mutants and children of the parents, filled up with random subnets; each once and within the limit."""
    found: list[Subnet] = []

    def fill(count: int, make: Callable[[], Subnet]) -> None:
        for _ in range(100 * count):  # a space may be too small to give as many
            subnet = make()
            if len(found) < count and subnet not in found and space.fits(subnet):
                found.append(subnet)

    if parents:
        fill(settings.mutations, lambda: space.mutate(rng.choice(parents), rng))
        both = settings.mutations + settings.crossovers
        fill(both, lambda: space.cross(rng.choice(parents), rng.choice(parents), rng))
    fill(settings.population, lambda: space.draw(rng))
    if not found:
        raise UserError(f"no subnet has at most {space.limit} parameters: raise noah.limit.")
    return found


class Fitness:
    """Accuracies of subnets, kept in a file.

    Raises:
        UserError: The file is of another search.
    """

    def __init__(self, space: SubnetSpace, measure: Callable[[], float], file: Path, cfg: Config, seed: int) -> None:
        self.space, self.measure, self.file = space, measure, file
        self.search = {"task": cfg.task, "seed": seed, "noah": cfg.noah.to_dict()}
        self.values: dict[str, float] = {}
        if file.exists() or file.is_symlink():
            stored = read_json(file, "search", broken="delete it, and all is measured again")
            if not isinstance(stored, dict) or not _are_accuracies(stored.get("accuracy")):
                raise UserError(f"{file} holds no search: delete it, and all is measured again.")
            if stored.get("search") != self.search:
                raise UserError(f"{file} is of another search, {stored.get('search')}: use another --work-dir.")
            self.values = stored["accuracy"]

    def __call__(self, subnet: Subnet) -> float:
        key = json.dumps(subnet)
        if key not in self.values:
            self.space.apply(subnet)
            self.values[key] = self.measure()
            write_json(self.file, {"search": self.search, "accuracy": self.values})
        return self.values[key]


def _are_accuracies(values: Any) -> bool:
    return isinstance(values, dict) and all(type(value) is float and 0 <= value <= 100 for value in values.values())


@torch.no_grad()
def accuracy(model: nn.Module, loader: Any) -> float:
    """Top-1 accuracy in percent."""
    right = total = 0
    for batch in loader:
        for sample in model.test_step(batch):
            right += int(sample.pred_label.item() == sample.gt_label.item())
            total += 1
    return 100.0 * right / total


def cut_out(cfg: Config, supernet: str, adapter: Path) -> None:
    """Write the adapter of a subnet whose tensors are the first rows and columns of the supernet's."""
    model = build_model(cfg)
    model.init_weights()
    tensors, metadata = read_adapter(supernet)
    own = adapter_state(model, metadata["head"])
    cut = {key: tensors[key][tuple(slice(size) for size in value.shape)] for key, value in own.items()}
    put_adapter(model, cut, metadata, supernet)
    given = {key: metadata.get(key) for key in ("classes", "task")}
    adapter.parent.mkdir(parents=True, exist_ok=True)
    save_adapter(model, adapter, head=metadata["head"], run=run_record(cfg), **given)


def write_subnet(cfg: Config, path: str, subnet: Mapping[str, Any], file: Path) -> str:
    """Write the config of a found subnet alone: that of ``noah.subnet_config`` with its fields and task."""
    base = (located(path).parent / cfg.noah.subnet_config).resolve()
    relative = os.path.relpath(base, file.resolve().parent)
    sizes = ", ".join(f"{field}={value!r}" for field, value in subnet.items())
    text = (
        f"# The subnet found on {cfg.task}.\n_base_ = [{json.dumps(relative)}]\ntask = {json.dumps(cfg.task)}\n"
        f"model = dict(backbone=dict(method=dict({sizes})))\n"
    )
    if cfg.get("data_root"):
        text += f"data_root = {json.dumps(os.path.abspath(cfg.data_root))}\n"
    write_atomically(file, text.encode())
    return str(file)
