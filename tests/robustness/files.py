"""Every reader of files: a good file for it, and what it makes of a file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import safetensors.torch
import torch
from mmengine.registry import DATASETS, TRANSFORMS, init_default_scope
from PIL import Image
from support import hosts, weight_files
from support.results import result, store
from support.runs import write_run
from torch import nn

import vpeft
from robustness.compare import digest
from robustness.mutate import BYTES, VALUES
from vpeft.apis.benchmark.plan import load_plan
from vpeft.apis.config.load import load_config
from vpeft.apis.leaderboard.write import write_leaderboard
from vpeft.apis.results.files import read_result, read_results
from vpeft.apis.results.packed import write_packed
from vpeft.apis.run.prepare import prepare
from vpeft.apis.run.test import test
from vpeft.apis.run.train import train
from vpeft.apis.tune.noah import Fitness
from vpeft.apis.tune.study import Study
from vpeft.core.backbones.weights.load import load_pretrained
from vpeft.core.models.embedding_head import read_embeddings
from vpeft.core.trained.folder import ADAPTER
from vpeft.core.trained.load import load_trained
from vpeft.core.trained.logits import Logits, read_logits, write_logits
from vpeft.core.trained.run import open_run
from vpeft.errors import UserError

ROOT = Path(__file__).parents[2]
LORA = "configs/mini/lora_nano_vit.py"
SEALED = (BYTES, VALUES)


class Changed(Exception):
    """A reader refused a file and changed what it should have read it into."""


@dataclass(frozen=True)
class Reader:
    """One reader.

    Attributes:
        name: Its name in the table.
        formats: Keys of :data:`robustness.mutate.MUTATORS` that fit its file.
        write: Writes a good file and all that belongs to it into a folder; gives the file's path.
        read: Reads a file; gives all that it says, comparable by :func:`digest`.
        seals: Harms that are found out besides that of structure: ``BYTES`` where the format has a checksum, ``VALUES``
            too where the file carries a sum over what it says.
        share: How many files it gets, compared with others.
        runs_code: Files of this format could hold code: hostile pickles are given to it.
        optional: Where there is no file, there is nothing to read, and that is right.
    """

    name: str
    formats: tuple[str, ...]
    write: Callable[[Path], Path]
    read: Callable[[Path], Any]
    seals: tuple[str, ...] = ()
    share: float = 1.0
    runs_code: bool = False
    optional: bool = False


READERS: dict[str, Reader] = {}


def reader(name: str, formats: str, write: Callable[[Path], Path], **options: Any):
    """Register a function that reads."""

    def register(read):
        READERS[name] = Reader(name, tuple(formats.split()), write, read, **options)
        return read

    return register


def appearance(model: nn.Module) -> str:
    """All of a model that a loading may change."""
    modules = [(n, type(m).__name__, m.training, len(m._forward_hooks)) for n, m in model.named_modules()]
    return digest([modules, [(n, p.requires_grad) for n, p in model.named_parameters()], model.state_dict()])


def into(model: nn.Module, load: Callable[[nn.Module], Any]) -> dict[str, Any]:
    """A model's state after loading.

    Raises:
        Changed: The loading was refused and the model is not what it was.
    """
    before = appearance(model)
    try:
        load(model)
    except BaseException:
        if appearance(model) != before:
            raise Changed("the model was changed by a file that was refused") from None
        raise
    return dict(model.state_dict())


# Adapters and checkpoints -------------------------------------------------------------------------------------------


def plain() -> nn.Module:
    """A tiny ViT with the same weights every time."""
    torch.manual_seed(0)
    return hosts.TINY["mmpretrain.VisionTransformer"].build()


def write_adapter(folder: Path) -> Path:
    model = vpeft.attach(plain(), {"type": "LoRA", "rank": 2})
    with torch.no_grad():
        for name, param in model.named_parameters():
            if "peft" in name:
                param.copy_(torch.randn(param.shape, generator=torch.Generator().manual_seed(len(name))))
    return vpeft.save_adapter(model, folder / ADAPTER)


@reader("adapter, onto a plain model", "binary safetensors adapter", write_adapter, seals=SEALED, share=2)
def _(path):
    return into(plain(), lambda model: vpeft.load_adapter(model, path))


@reader("adapter, onto an adapted model", "binary safetensors adapter", write_adapter, seals=SEALED)
def _(path):
    model = vpeft.attach(plain(), {"type": "LoRA", "rank": 2})
    return into(model, lambda model: vpeft.load_adapter(model, path))


def config(epochs: int = 1, **options: Any) -> Any:
    """A run of seconds."""
    few = {f"{name}_dataloader.dataset.indices": 8 for name in ("train", "test")}
    small = {"train_dataloader.batch_size": 4, "default_hooks.checkpoint.interval": 1, "log_level": "ERROR"}
    # The warm-up of a whole run would leave the weights where they were.
    rest = {"train_cfg.max_epochs": epochs, "param_scheduler": []}
    return load_config(LORA, "digits", {**few, **small, **rest, **options})


_trained: dict[str, Path] = {}


def trained(folder: Path) -> Path:
    """The folder of a run of one epoch, trained once."""
    if "run" not in _trained:
        work = folder.parent / "trained"
        train(prepare(config(), str(work), seed=0))
        _trained["run"] = work
    return _trained["run"]


def write_checkpoint(folder: Path) -> Path:
    return Path(shutil.copy(trained(folder) / "epoch_1.pth", folder))


def write_run_adapter(folder: Path) -> Path:
    return Path(shutil.copy(trained(folder) / ADAPTER, folder))


@reader("adapter of a run", "binary safetensors adapter", write_run_adapter, seals=SEALED)
def _(path):
    return dict(load_trained(config(), str(path)).state_dict())


CHECKPOINT = "binary torch checkpoint"


@reader("checkpoint of a run", CHECKPOINT, write_checkpoint, seals=SEALED, share=2, runs_code=True)
def _(path):
    return dict(load_trained(config(), str(path)).state_dict())


@reader("checkpoint, tested", CHECKPOINT, write_checkpoint, seals=SEALED, share=0.5, runs_code=True)
def _(path):
    work = path.parent / "work"
    cfg = prepare(config(), str(work), seed=0)
    cfg.custom_hooks = [*cfg.get("custom_hooks", []), {"type": "vpeft.LogitsHook"}]
    metrics = test(cfg, str(path))["metrics"]
    return metrics, read_logits(work).logits


@reader("checkpoint, resumed", f"{CHECKPOINT} resumed", write_checkpoint, seals=SEALED, share=0.7, runs_code=True)
def _(path):
    work = path.parent / "work"
    train(prepare(config(2), str(work), seed=0, resume=str(path)))
    return safetensors.torch.load_file(work / ADAPTER)


@reader("checkpoint, as load_from", CHECKPOINT, write_checkpoint, seals=SEALED, share=0.5, runs_code=True)
def _(path):
    work = path.parent / "work"
    train(prepare(config(load_from=str(path)), str(work), seed=0))
    return safetensors.torch.load_file(work / ADAPTER)


# Pretrained weights -------------------------------------------------------------------------------------------------


def _weights(folder: Path, name: str) -> Path:
    model, path = weight_files.timm_vit(), folder / name
    if path.suffix == ".npz":
        weight_files.save_npz(model, path)
    elif path.suffix == ".safetensors":
        safetensors.torch.save_file(model.state_dict(), path)
    else:
        torch.save({"model": model.state_dict(), "epoch": 3}, path)
    return path


def _load_pretrained(path: Path) -> dict[str, Any]:
    torch.manual_seed(0)
    return into(weight_files.mm_vit(), lambda model: load_pretrained(model, str(path)))


for _name, _formats, _code in (
    ("weights.pth", "binary torch", True),
    ("weights.safetensors", "binary safetensors", False),
    ("weights.npz", "binary npz", True),
):
    READERS[f"pretrained {_name}"] = Reader(
        f"pretrained {_name}",
        tuple(_formats.split()),
        lambda folder, name=_name: _weights(folder, name),
        _load_pretrained,
        seals=() if _name.endswith("safetensors") else (BYTES,),
        share=1.5,
        runs_code=_code,
    )


def write_embeddings(folder: Path, name: str = "classes.npz") -> Path:
    rng = np.random.default_rng(0)
    arrays = {"weight": rng.normal(size=(5, 8)).astype(np.float32), "projection": np.eye(8, dtype=np.float32)}
    np.savez(folder / name, **arrays)
    return folder / name


@reader("embeddings of classes", "binary npz", write_embeddings, seals=(BYTES,), share=0.4)
def _(path):
    tensors = read_embeddings(str(path))
    shapes = {"weight": (5, 8), "projection": (8, 8)}  # the head asks for these
    if {key: tuple(value.shape) for key, value in tensors.items() if key in shapes} != shapes:
        raise UserError(f"{path}: other shapes than the head's.")
    return {key: tensors[key] for key in shapes}


# Images -------------------------------------------------------------------------------------------------------------


def pixels(height: int = 24, width: int = 20) -> np.ndarray:
    """A picture that is neither flat nor noise."""
    y, x = np.mgrid[:height, :width]
    return np.stack([(y * 9) % 256, (x * 11) % 256, (x * y) % 256], -1).astype(np.uint8)


PICTURES: dict[str, tuple[str, Callable[[Path], None], bool]] = {
    "a.png": ("binary image png", lambda p: Image.fromarray(pixels()).save(p), True),
    "sixteen.png": (
        "binary image png",
        lambda p: Image.fromarray(pixels()[..., 2].astype(np.uint16) * 257).save(p),
        True,
    ),
    "palette.png": ("binary image png", lambda p: Image.fromarray(pixels()).quantize(16).save(p), True),
    "a.jpg": ("binary image jpeg", lambda p: Image.fromarray(pixels(64, 48)).save(p), False),
    "a.bmp": ("binary image bmp", lambda p: Image.fromarray(pixels()).save(p), False),
    "a.tif": ("binary image", lambda p: Image.fromarray(pixels()).save(p, compression="tiff_lzw"), False),
    "a.webp": ("binary image", lambda p: Image.fromarray(pixels()).save(p), False),
    "a.gif": ("binary image gif", lambda p: Image.fromarray(pixels()).save(p), False),
}


def _read_image(path: Path) -> np.ndarray:
    return TRANSFORMS.build({"type": "vpeft.LoadImage"}).transform({"img_path": str(path)})["img"]


def _picture(folder: Path, name: str) -> Path:
    PICTURES[name][1](folder / name)
    return folder / name


for _name, (_formats, _, _sealed) in PICTURES.items():
    READERS[f"image {_name}"] = Reader(
        f"image {_name}",
        tuple(_formats.split()),
        lambda folder, name=_name: _picture(folder, name),
        _read_image,
        seals=(BYTES,) if _sealed else (),
        share=0.7,
    )


def write_label_map(folder: Path) -> Path:
    Image.fromarray(pixels()).save(folder / "image.png")
    Image.fromarray((pixels()[..., 0] // 32) % 6).save(folder / "map.png")
    return folder / "map.png"


@reader("label map", "binary image png", write_label_map, seals=(BYTES,))
def _(path):
    import vpeft.core.datasets.load.label_map  # noqa: F401  (registers the reader)

    sample = {"img_path": str(path.with_name("image.png")), "ori_shape": (24, 20), "seg_map_path": str(path)}
    sample |= {"seg_fields": [], "label_map": None, "reduce_zero_label": False}
    load = TRANSFORMS.build({"type": "vpeft.LoadLabelMap", "num_classes": 6})
    return load.transform(sample)["gt_seg_map"]


# Lists and annotations ----------------------------------------------------------------------------------------------


def write_vtab(folder: Path) -> Path:
    (folder / "dtd" / "images").mkdir(parents=True)
    lines = []
    for i in range(6):
        Image.fromarray(pixels(8 + i, 9)).save(folder / "dtd" / "images" / f"{i:06d}.png")
        lines.append(f"images/{i:06d}.png {(7 * i) % 47}\n")
    (folder / "dtd" / "test.txt").write_text("".join(lines))
    return folder / "dtd" / "test.txt"


def _samples(data: Any, root: Path, keys: tuple[str, ...]) -> list[Any]:
    """All samples; paths as seen from the folder."""
    found = []
    for i in range(len(data)):
        sample = data[i]
        found.append([str(Path(v).relative_to(root)) if isinstance(v := sample[k], str) else v for k in keys])
    return found


@reader("list of VTAB-1k", "list", write_vtab)
def _(path):
    root = path.parents[1]
    pipeline = [{"type": "vpeft.LoadImage"}]
    data = DATASETS.build(
        {"type": "vpeft.VTAB1k", "data_root": str(root), "task": "dtd", "split": "test", "pipeline": pipeline}
    )
    return _samples(data, root, ("img_path", "gt_label", "img"))


def write_fgvc(folder: Path) -> Path:
    root = folder / "flowers102"
    root.mkdir()
    entries = {f"jpg/{i:05d}.jpg": i % 102 + 1 for i in range(110)}
    (root / "train.json").write_text(json.dumps(entries))
    (root / "test.json").write_text(json.dumps(dict(list(entries.items())[:12])))
    return root / "test.json"


@reader("list of FGVC", "json", write_fgvc)
def _(path):
    root = path.parents[1]
    data = DATASETS.build(
        {"type": "vpeft.FGVC", "data_root": str(root), "task": path.parent.name, "split": "test", "pipeline": []}
    )
    return _samples(data, root, ("img_path", "gt_label"))


CLASSES = ("cat", "dog", "kite")


def write_coco(folder: Path) -> Path:
    (folder / "images").mkdir()
    square = [[2, 2, 10, 2, 10, 10, 2, 10]]
    content = {
        "info": {"year": 2017, "version": "1.0"},
        "licenses": [{"id": 1, "name": "x", "url": ""}],
        "images": [{"id": i, "file_name": f"{i:06d}.png", "height": 24, "width": 20, "license": 1} for i in (1, 2, 3)],
        "annotations": [
            {
                "id": n,
                "image_id": n % 3 + 1,
                "category_id": n % 3 + 1,
                "bbox": [2, 2, 8, 8],
                "area": 64,
                "segmentation": square,
                "iscrowd": 0,
            }
            for n in range(1, 7)
        ],
        "categories": [{"id": i, "name": name, "supercategory": "x"} for i, name in enumerate(CLASSES, 1)],
    }
    for i in (1, 2, 3):
        Image.fromarray(pixels() // i).save(folder / "images" / f"{i:06d}.png")
    (folder / "annotations.json").write_text(json.dumps(content))
    return folder / "annotations.json"


@reader("annotations of COCO", "json", write_coco, share=1.5)
def _(path):
    import vpeft.core.datasets.detection.coco  # noqa: F401

    init_default_scope("mmdet")
    pipeline = [{"type": "vpeft.LoadImage"}, {"type": "LoadAnnotations", "with_bbox": True, "with_mask": True}]
    data = DATASETS.build(
        {
            "type": "vpeft.CheckedCoco",
            "data_root": str(path.parent),
            "ann_file": path.name,
            "data_prefix": {"img": "images/"},
            "metainfo": {"classes": CLASSES},
            "pipeline": pipeline,
            "filter_cfg": {"filter_empty_gt": True},
        }
    )
    found = []
    for i in range(len(data)):
        sample = data[i]
        boxes, masks = sample["gt_bboxes"].tensor, sample["gt_masks"].to_ndarray()
        found.append([sample["img"], boxes, masks, sample["gt_bboxes_labels"], sample["gt_ignore_flags"]])
    return found


XML = """<annotation><filename>{name}.jpg</filename>
<size>
<width>20</width>
<height>24</height>
<depth>3</depth>
</size>
<object><name>cat</name><difficult>0</difficult>
<bndbox>
<xmin>2</xmin>
<ymin>3</ymin>
<xmax>10</xmax>
<ymax>12</ymax>
</bndbox></object>
<object><name>dog</name><difficult>1</difficult>
<bndbox>
<xmin>5</xmin>
<ymin>5</ymin>
<xmax>18</xmax>
<ymax>20</ymax>
</bndbox></object>
</annotation>
"""


def write_voc(folder: Path) -> Path:
    for name in ("JPEGImages", "Annotations", "ImageSets"):
        (folder / "VOC2007" / name).mkdir(parents=True)
    for name in ("000001", "000002"):
        Image.fromarray(pixels()).save(folder / "VOC2007" / "JPEGImages" / f"{name}.jpg")
        (folder / "VOC2007" / "Annotations" / f"{name}.xml").write_text(XML.format(name=name))
    (folder / "VOC2007" / "ImageSets" / "train.txt").write_text("000001\n000002\n")
    return folder / "VOC2007" / "Annotations" / "000001.xml"


@reader("annotation of VOC", "xml", write_voc)
def _(path):
    import vpeft.core.datasets.detection.voc  # noqa: F401

    init_default_scope("mmdet")
    data = DATASETS.build(
        {
            "type": "vpeft.CheckedVOC",
            "data_root": str(path.parents[2]),
            "ann_file": "VOC2007/ImageSets/train.txt",
            "data_prefix": {"sub_data_root": "VOC2007/"},
            "metainfo": {"classes": CLASSES},
            "pipeline": [{"type": "vpeft.LoadImage"}, {"type": "LoadAnnotations", "with_bbox": True}],
        }
    )
    found = []
    for i in range(len(data)):
        sample = data[i]
        found.append([sample["gt_bboxes"].tensor, sample["gt_bboxes_labels"], sample["gt_ignore_flags"]])
    return found


# Videos -------------------------------------------------------------------------------------------------------------

_DECODE = [{"type": "DecordInit"}, {"type": "SampleFrames", "clip_len": 8, "test_mode": True}, {"type": "DecordDecode"}]
_DECODE += [{"type": "FormatShape", "input_format": "NCTHW"}]


def write_videos(folder: Path) -> Path:
    from vpeft.core.datasets.embedded.moving_shapes import clip, write_video

    for i in range(3):
        write_video(folder / f"{i}.mp4", clip(np.random.default_rng(i), i))
    (folder / "train.csv").write_text("0.mp4,0\n1.mp4,1\n2.mp4,2\n")
    return folder / "0.mp4"


def _read_videos(root: Path) -> list[Any]:
    init_default_scope("mmaction")
    data = DATASETS.build(
        {
            "type": "vpeft.VideoList",
            "data_root": str(root),
            "ann_file": "train.csv",
            "num_classes": 3,
            "name": "clips",
            "pipeline": _DECODE,
        }
    )
    return _samples(data, root, ("filename", "label", "imgs"))


@reader("video", "binary", write_videos, share=1.5)
def _(path):
    return _read_videos(path.parent)


@reader("list of videos", "list", lambda folder: write_videos(folder).with_name("train.csv"))
def _(path):
    return _read_videos(path.parent)


# What runs and benchmarks write -------------------------------------------------------------------------------------

PLAN = """methods: [lora, bitfit]
backbones: [nano_vit]
tasks: [digits, tissue]
seeds: [0, 1]
options:
  train_cfg.max_epochs: 2
sweep:
  rank: [2, 4]
retries: 1
"""


def write_plan(folder: Path) -> Path:
    (folder / "plan.yaml").write_text(PLAN)
    return folder / "plan.yaml"


@reader("plan", "yaml", write_plan)
def _(path):
    plan = load_plan(str(path))
    try:
        jobs = [Path(job.name).parts[:2] for job in plan.jobs(str(path.parent))]
    except UserError as error:  # what a plan asks for is read, and names the field instead of the file
        raise UserError(f"{path}: {error}") from error
    return asdict(plan), jobs


def write_results(folder: Path) -> Path:
    made = [result("LoRA", "digits", seed, 0.5 + seed / 10) for seed in range(3)]
    return store(folder, *made)[1]


@reader("result", "json", write_results, seals=SEALED)
def _(path):
    return read_result(path)


def write_packed_results(folder: Path) -> Path:
    write_results(folder)
    return write_packed(
        folder / "runs.jsonl.xz", {path.relative_to(folder): r for path, r in read_results(folder).runs.items()}
    )


@reader("packed results", "binary", write_packed_results, seals=SEALED)
def _(path):
    return list(read_results(path).runs.values())


@reader("leaderboard", "json", write_results, seals=SEALED, share=0.5, optional=True)
def _(path):
    root = path.parents[3]
    results = read_results(root)
    write_leaderboard(results, root / "board")
    if results.broken:
        raise UserError(results.broken[0])
    return list(results.runs.values()), (root / "board" / "runs.csv").read_text().replace(str(root), "")


def write_stored_logits(folder: Path) -> Path:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(12, 4, generator=generator)
    logits = Logits(scores, torch.arange(12) % 4, [str(i) for i in range(12)], {"task": "digits"}, "LoRA")
    return write_logits(logits, folder / "logits.safetensors")


@reader("stored logits", "binary safetensors adapter", write_stored_logits, seals=SEALED)
def _(path):
    return vars(read_logits(path))


def write_result_of_a_run(folder: Path) -> Path:
    run = write_run(folder / "run", samples=list(range(4)))
    content = {"config": "lora_nano_vit.py", "metrics": {"accuracy/top1": 50.0}, "seed": 0}
    (run / "result.json").write_text(json.dumps(content))
    return run / "result.json"


@reader("result of a run", "json", write_result_of_a_run, share=0.5, optional=True)
def _(path):
    run = open_run(path.parent)
    return run.cfg.pretty_text.replace(str(path.parent), ""), run.label


def write_search(folder: Path) -> Path:
    _fitness(folder / "search.json")(((1, 1),))
    return folder / "search.json"


def _fitness(path: Path) -> Fitness:
    cfg = load_config("configs/mini/noah_supernet_nano_vit.py", "digits")
    return Fitness(SimpleNamespace(apply=lambda subnet: None), lambda: 50.0, path, cfg, 0)


@reader("search of NOAH", "json", write_search, share=0.5, optional=True)
def _(path):
    return _fitness(path).values


def _study(root: Path) -> Study:
    return Study.of(LORA, "digits", "mini", str(root), 2, space={"lr": [0.01, 0.001]}, grid=True)


def write_study(folder: Path) -> Path:
    study = _study(folder)
    found = study.open()
    trial = found.ask()
    found.tell(trial, 0.5)
    found._storage.remove_session()
    return study.folder / "study.db"


@reader("study of tuning", "binary", write_study, share=0.3, optional=True)
def _(path):
    study = _study(path.parents[3]).open()
    try:
        return [(t.number, t.params, t.value, t.state.name) for t in study.trials]
    finally:
        study._storage.remove_session()


def good_files(folder: Path, names: list[str]) -> dict[str, Path]:
    """A good file for each reader, each in a folder of its own."""
    found = {}
    for number, name in enumerate(names):
        own = folder / f"{number:02d}"
        own.mkdir(parents=True)
        found[name] = READERS[name].write(own)
    return found
