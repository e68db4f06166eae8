"""Models for the libraries that their networks are of: timm, transformers, OpenMMLab, peft."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from mmengine import Config
from safetensors.torch import save
from torch import Tensor, nn

from vpeft.apis.config.load import plain_config
from vpeft.apis.export.plain import PlainModel, difference, flat_answers
from vpeft.apis.export.programs import facts
from vpeft.apis.hf_peft import save_peft
from vpeft.apis.predict.draw import colour_of
from vpeft.apis.predict.predictor import Predictor
from vpeft.core.adaptation.peft_backbone import CLIPS, NETWORK, find_peft, is_network, plain_settings
from vpeft.core.trained.merged_file import write_merged
from vpeft.core.trained.record import run_record
from vpeft.errors import UserError
from vpeft.files import write_atomically

#: How a library's model answers otherwise at most, both in float32, relative to the largest answer.
TOLERANCE = 1e-4
#: The plainest data set of each package of OpenMMLab, whose names and colours of classes its loaders ask for.
DATASETS = {
    "mmpretrain": "BaseDataset",
    "mmdet": "BaseDetDataset",
    "mmseg": "BaseSegDataset",
    "mmaction": "VideoDataset",
}
#: What loads a config and a checkpoint in each.
LOADERS = {
    "mmpretrain": "mmpretrain.get_model({cfg!r}, pretrained={out!r})",
    "mmdet": "mmdet.apis.init_detector({cfg!r}, {out!r}, device='cpu')",
    "mmseg": "mmseg.apis.init_model({cfg!r}, {out!r}, device='cpu')",
    "mmaction": "mmaction.apis.init_recognizer({cfg!r}, {out!r}, device='cpu')",
}
HEAD = "head.safetensors"


def write_openmmlab(plain: PlainModel, out: Path, to: str) -> list[str]:
    """Write a checkpoint of the package's own keys, and the config of the plain model beside it."""
    plain.need_merged(to)
    run = plain.run
    if run.scope != to:
        raise UserError(f"--to {to}: this run is of {run.scope}: take --to {run.scope}.")
    if out.suffix not in (".pth", ".safetensors"):
        raise UserError(f"{out}: give a name that ends in .pth or .safetensors.")
    cfg = plain_config(run.cfg)
    text = _config_text(cfg, run)
    write_merged(run.model.state_dict(), out, run_record(cfg), run.classes or None)
    beside = write_atomically(out.with_suffix(".py"), text.encode())
    lines = [f"the plain config stands beside it: {beside}"]
    if out.suffix == ".pth":
        lines.append(f"load it: {LOADERS[to].format(cfg=str(beside), out=str(out))}")
    else:
        lines.append(f"load it: vpeft.load({str(out)!r})")
    return lines


def _config_text(cfg: Config, run: Predictor) -> str:
    """The config as a file of Python; what loads the base's weights is left out, which the checkpoint holds."""
    plain = Config(cfg._cfg_dict.to_dict())
    backbone = plain.model.backbone
    for one in (backbone, backbone.get("image")):
        if isinstance(one, dict):
            one.pop("init_cfg", None)
    if is_network(backbone):
        backbone.weights = False
    if backbone.get("type") in (NETWORK, CLIPS):
        plain.custom_imports = {"imports": ["vpeft"], "allow_failed_imports": False}
    steps = plain.test_dataloader.dataset.pipeline
    if any(str(step["type"]).startswith("vpeft.") for step in steps):
        plain.custom_imports = {"imports": ["vpeft"], "allow_failed_imports": False}
    plain.test_pipeline = steps
    meta = {"classes": tuple(run.classes), "palette": [colour_of(i) for i in range(len(run.classes))]}
    plain.test_dataloader.dataset = {
        "type": DATASETS[run.scope],
        "metainfo": meta if run.classes else {},
        "pipeline": steps,
        "lazy_init": True,
    }
    return plain.pretty_text


def network_of(run: Predictor, library: str, to: str) -> tuple[nn.Module, dict[str, Any]]:
    """The library's own network in a run's model, and the settings of ``vpeft.Backbone`` that built it.

    Raises:
        UserError: The backbone is of something else.
    """
    place, adapted = find_peft(run.cfg)
    settings = plain_settings(adapted) if place else dict(run.cfg.model.get("backbone") or {})
    of = str(settings.get("of", ""))
    if settings.get("type") != NETWORK or of.partition("/")[0] != library:
        own = of or settings.get("type")
        raise UserError(f"--to {to}: the backbone of this run is {own} of {run.scope}: take --to {run.scope}, or onnx.")
    return run.model.backbone.network, settings


def head_tensors(run: Predictor) -> dict[str, Tensor]:
    """Tensors of a run's model outside its backbone."""
    return {k: v for k, v in run.model.state_dict().items() if not k.startswith(("backbone.", "data_preprocessor."))}


def write_timm(plain: PlainModel, out: Path) -> list[str]:
    """Write the tensors of timm's own model, with the run's head as its classifier where both answer the same."""
    plain.need_merged("timm")
    if out.suffix != ".safetensors":
        raise UserError(f"{out}: the name ends in .safetensors.")
    import timm

    network, settings = network_of(plain.run, "timm", "timm")
    name = settings["of"].partition("/")[2]
    options = {k: v for k, v in settings.items() if k not in (*_OWN, "num_classes")}
    head = plain.run.model.head if plain.run.family == "classification" else None
    fc = getattr(head, "fc", None)
    count = fc.out_features if isinstance(fc, nn.Linear) else 0
    model = timm.create_model(name, num_classes=count, **options).eval()
    state = dict(model.state_dict())
    known = network.state_dict()
    state |= {key: known[key] for key in state if key in known and state[key].shape == known[key].shape}
    model.load_state_dict(state)
    if count:
        classifier = model.get_classifier()
        with torch.no_grad():
            classifier.weight.copy_(fc.weight)
            classifier.bias.copy_(fc.bias if fc.bias is not None else torch.zeros(count))
        far = difference(flat_answers(plain.answers, plain.images), flat_answers(model, plain.images))
    else:
        far = _far_features(network, model, plain.images)
    if not far <= TOLERANCE:
        raise UserError(
            f"--to timm: timm's own model answers otherwise by {far:.1e} (relative), so its pooling or head is another "
            "than this run's: take --to onnx. Nothing is kept."
        )
    state = {key: value.contiguous() for key, value in model.state_dict().items()}
    write_atomically(out, save(state, {"format": "pt", **facts(plain)}))
    said = "".join(f", {key}={value!r}" for key, value in options.items())
    return [
        f"timm's own model differs by {far:.1e} (relative)",
        f"load it: timm.create_model({name!r}, num_classes={count}{said}, checkpoint_path={str(out)!r})",
    ]


#: Settings of ``vpeft.Backbone`` itself; the others are of the library's own function.
_OWN = ("type", "of", "weights", "out", "out_indices", "norm", "as_tuple")


def _far_features(network: nn.Module, model: nn.Module, images: Tensor) -> float:
    with torch.no_grad():
        a, b = (one.forward_features(images) for one in (network.eval(), model))
    pairs = zip(*((one,) if isinstance(one, Tensor) else one for one in (a, b)), strict=True)
    return max(difference(x.double(), y.double()) for x, y in pairs)


def write_hf(plain: PlainModel, out: Path) -> list[str]:
    """Write a folder for ``AutoModel.from_pretrained``; the run's head stands beside it, by its own names."""
    plain.need_merged("hf")
    if out.exists() and (out.is_file() or any(out.iterdir())):
        raise UserError(f"{out} holds something already: give a new folder.")
    network, _ = network_of(plain.run, "hf", "hf")
    from transformers import AutoModel

    if plain.run.classes:
        network.config.id2label = dict(enumerate(plain.run.classes))
        network.config.label2id = {name: i for i, name in enumerate(plain.run.classes)}
    network.save_pretrained(out)
    images = plain.images
    with torch.no_grad():
        want = network.eval()(pixel_values=images).last_hidden_state
        found = AutoModel.from_pretrained(out).eval()(pixel_values=images).last_hidden_state
    if not (far := difference(want.double(), found.double())) <= TOLERANCE:
        raise UserError(f"--to hf: the model in {out} answers otherwise by {far:.1e} (relative): delete it.")
    (out / "preprocessing.json").write_text(json.dumps(plain.run.preprocessing, indent=2) + "\n")
    lines = [f"transformers' own model differs by {far:.1e} (relative)"]
    return [*lines, *_write_head(plain.run, out), f"load it: transformers.AutoModel.from_pretrained({str(out)!r})"]


def write_peft(run: Predictor, out: Path) -> list[str]:
    """Write the folder of HuggingFace's ``peft``; the run's head stands beside it, by its own names."""
    said = {"classes": json.dumps(list(run.classes)), "preprocessing": json.dumps(run.preprocessing)}
    save_peft(run.model, out, said)
    place, settings = find_peft(run.cfg)
    of = settings.get("of", "the network") if place else "the network"
    return [
        *_write_head(run, out),
        f"load it: peft.PeftModel.from_pretrained(network, {str(out)!r})  # network: {of}, with its own weights",
    ]


def _write_head(run: Predictor, folder: Path) -> list[str]:
    head = {key: value.detach().cpu().contiguous() for key, value in head_tensors(run).items()}
    if not head:
        return []
    write_atomically(folder / HEAD, save(head, {"format": "pt", "classes": json.dumps(list(run.classes))}))
    return [f"what stands behind the network ({', '.join(list(head)[:2])}, ...) is in {folder / HEAD}"]
