"""The command-line tools, each in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from support.configs import mini_configs
from support.design import ON_IMAGES
from support.hosts import build

import vpeft
from vpeft.apis.catalogue import config_parameters
from vpeft.apis.config.listing import config_files
from vpeft.apis.config.load import load_config
from vpeft.apis.data.check import check_suite
from vpeft.core.datasets.tasks import SUITES, TASKS
from vpeft.registry import HOSTS, PEFT_METHODS

ROOT = Path(__file__).parents[1]
CONFIGS = sorted({str(Path(f).relative_to(ROOT)) for f in [*config_files(ROOT / "configs"), *mini_configs()]})
#: Those with a table of the authors' values.
WITH_TABLE = [p for p in CONFIGS if (ROOT / p).is_file() and "authors_values/" in (ROOT / p).read_text()]

#: Trained parameters without head of the shipped ViT-B/16 and Swin-B configs (shared specification of the methods).
PUBLISHED = {
    "lora_vit": 294912,
    "adaptformer_vit": 156768,
    "pfeiffer_vit": 156768,
    "bitfit_vit": 102912,
    "lntune_vit": 38400,
    "ssf_vit": 205824,
    "vptshallow_vit": 76800,
    "vptdeep_vit": 92160,
    "linear_vit": 0,
    "mona_swin": 3667456,
    "fact_tt_vit": 61440,
    "fact_tk_vit": 86528,
    "repadapter_vit": 239808,
    "hydra_vit": 239712,
    "sct_vit": 111744,
    "lst_vit": 2376492,
    "prefix_vit": 184320,
    "difffit_vit": 140544,
    "arc_vit": 96432,
    "convpass_vit": 327552,
    "gps_vit": 167424,
    "hst_vit": 764840,
    "last_vit": 618048,
    "snf_vit": 73752,
    "dtl_vit": 36864,
    "dtlplus_vit": 43776,
    "bapat_vit": 2093184,
    "krona_vit": 38400,
    "kadaptation_vit": 50176,
    "dyt_vit": 165996,
    "utuning_vit": 184320,
    "lorand_swin": 1197312,
    "e3va_swin": 1197312,
    "partial1_swin": 12601632,
}


def tool(name, *args, cwd=ROOT):
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, str(ROOT / "tools" / name), *args]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=600)


@pytest.mark.parametrize("path", CONFIGS)
def test_every_config_builds(path):
    report = config_parameters(load_config(ROOT / path))
    assert report.head > 0
    assert report.frozen > 0 or "full_" in path
    assert (report.trainable_without_head > 0) == ("linear_" not in path)


def test_every_table_of_the_authors_has_a_config():
    with_table = {path for path in CONFIGS if load_config(ROOT / path).get("per_task")}
    assert with_table == set(WITH_TABLE)
    assert len(WITH_TABLE) == len(list((ROOT / "configs/_base_/authors_values").glob("*.py")))


@pytest.mark.parametrize("path", WITH_TABLE)
def test_the_authors_values_of_every_task_build(path):
    tasks = [task for task in load_config(ROOT / path).per_task if task != "columns"]
    assert tasks == list(SUITES["vtab"])
    texts = {}
    for task in ("cifar", "kitti"):  # one of the rows may be the config's own values
        plain = load_config(ROOT / path, task)
        tuned = load_config(ROOT / path, task, {"authors_values": True})
        texts[tuned.pretty_text.replace("authors_values = True", "authors_values = False")] = plain.pretty_text
        assert config_parameters(tuned).head == config_parameters(plain).head
    assert any(tuned != plain for tuned, plain in texts.items())
    by_hand = {"authors_values": True, "optim_wrapper.optimizer.lr": 0.123}
    assert load_config(ROOT / path, "cifar", by_hand).optim_wrapper.optimizer.lr == 0.123


@pytest.mark.parametrize(
    ("name", "mean"), [("fact_tt", 39_734), ("fact_tk", 68_985), ("noah", 360_134), ("adapterplus", 231_023)]
)
def test_mean_of_the_released_sizes(name, mean):
    """The tables hold what the authors released: their mean counts are the published ones."""
    path = ROOT / f"configs/vtab/{name}_vit.py"
    counts = [config_parameters(load_config(path, t, {"authors_values": True})) for t in SUITES["vtab"]]
    assert round(sum(c.trainable_without_head for c in counts) / len(counts)) == mean


def attaches(host, method):
    try:
        vpeft.attach(build(host), method)
    except vpeft.UserError:
        return False
    return True


def test_every_method_has_its_configs():
    names = {Path(f).stem for f in CONFIGS}
    used = set()
    for path in CONFIGS:
        method = load_config(ROOT / path).model.backbone.method
        used.add((method["type"], Path(path).parent.name, Path(path).stem.rsplit("_", 1)[1]))
    hosts = {"vit": "mmpretrain.VisionTransformer", "swin": "mmpretrain.SwinTransformer"}
    refused = {(m, host) for m in ON_IMAGES for host, name in hosts.items() if not attaches(name, m)}
    assert {host for _, host in refused} == {"swin"}
    assert {m for m, _ in refused} == {"LST", "LAST", "HST", "VQT", "ViT-Split", "ViT-Adapter"}
    pairs = {(m, host) for m in ON_IMAGES for host in hosts} - refused
    assert used >= {(m, folder, host) for m, host in pairs for folder in ("vtab", "mini")}
    assert len(names) == len(CONFIGS)


@pytest.mark.parametrize(("name", "count"), PUBLISHED.items())
def test_parameters_of_the_shipped_configs(name, count):
    assert config_parameters(load_config(ROOT / f"configs/vtab/{name}.py")).trainable_without_head == count


def test_params_tool():
    out = tool("params.py", "configs/vtab/lora_vit.py", "--task", "dtd", "--json")
    assert out.returncode == 0, out.stderr
    report = json.loads(out.stdout)
    assert report["trainable_without_head"] == 294912
    assert report["head"] == 769 * 47
    assert report["total"] == 294912 + 769 * 47
    pyramid = "model.backbone.out_indices=[0,1,2,3]"
    out = tool("params.py", "configs/vtab/lntune_swin.py", "--json", "--cfg-options", pyramid)
    assert json.loads(out.stdout)["trainable_without_head"] == 59392


@pytest.mark.parametrize(("what", "names"), [("methods", PEFT_METHODS.module_dict), ("hosts", HOSTS.module_dict)])
def test_list_tool(what, names):
    rows = json.loads(tool("list.py", what, "--json").stdout)
    assert {row["name"] for row in rows} == set(names)


def test_list_configs_and_unknown_list():
    names = [row["name"] for row in json.loads(tool("list.py", "configs", "--json").stdout)]
    assert set(CONFIGS) < set(names)
    assert {"configs/detection/mona_swin-b_coco.py", "configs/video/bapat_vit-b_hmdb51.py"} <= set(names)
    assert names == sorted(names)
    out = tool("list.py", "method")
    assert out.returncode == 2
    assert "did you mean 'methods'?" in out.stderr


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["configs/vtab/mona_swine.py"], "did you mean 'configs/vtab/mona_swin.py'?"),
        (["configs/vtab/mona_swin.py", "--task", "oxford_pat"], "oxford_iiit_pet"),
        (["configs/vtab/mona_swin.py", "--cfg-options", "model.backbone.method.type=Monna"], "did you mean 'Mona'?"),
        (["configs/vtab/lora_vit.py", "--cfg-options", "model.backbone.method.rank=0"], "rank=0"),
        (["configs/vtab/lora_vit.py", "--cfg-options", "model.backbone.method.rank=769"], "from 1 to 768"),
        (["configs/vtab/lora_vit.py", "--cfg-options", "model.backbone.method.rnk=8"], "did you mean 'rank'?"),
        (["configs/vtab/lora_vit.py", "--cfg-options", "model.backbone.method={'rank':[8,4]}"], "key by key"),
    ],
)
def test_wrong_use_ends_in_one_line_that_helps(args, message):
    out = tool("params.py", *args)
    assert out.returncode == 2
    (line,) = [line for line in out.stderr.splitlines() if line.startswith("error: ")]
    assert message in line
    assert "Traceback" not in out.stderr


def vtab_folder(root: Path, task: str) -> Path:
    """A VTAB-1k folder in the public layout with a few images per split."""
    classes = TASKS[task].num_classes if task in TASKS else 47
    for split, count in (("train800", 6), ("val200", 3), ("test", 4)):
        lines = []
        for i in range(count):
            file = Path("images") / split / f"{i:06d}.jpg"
            (root / task / file).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (40, 30), (i * 20, 90, 200)).save(root / task / file)
            lines.append(f"{file} {i % classes}")
        (root / task / f"{split}.txt").write_text("\n".join(lines) + "\n")
    lines = (root / task / "train800.txt").read_text() + (root / task / "val200.txt").read_text()
    (root / task / "train800val200.txt").write_text(lines)
    return root


SMALL_SWIN = """
_base_ = ["{root}/configs/vtab/mona_swin.py"]
data_root = "{data}"
model = dict(
    backbone=dict(
        arch=dict(_delete_=True, embed_dims=16, depths=[1, 1], num_heads=[1, 2]),
        out_indices=[1],
        init_cfg=None,
        base="random",
        method=dict(bottleneck=8),
    ),
    head=dict(in_channels=32),
)
train_cfg = dict(max_epochs=1)
train_dataloader = dict(num_workers=0, persistent_workers=False)
val_dataloader = dict(num_workers=0, persistent_workers=False)
test_dataloader = dict(num_workers=0, persistent_workers=False)
"""


def small_swin(tmp_path: Path, data: Path) -> str:
    """The shipped config with a tiny backbone."""
    file = tmp_path / "mona_small_swin.py"
    file.write_text(SMALL_SWIN.format(root=ROOT, data=data))
    return str(file)


@pytest.mark.slow
def test_mona_on_a_vtab_folder(tmp_path):
    root = vtab_folder(tmp_path / "vtab-1k", "dtd")
    out = tool("train.py", small_swin(tmp_path, root), "--task", "dtd", "--work-dir", str(tmp_path / "run"))
    assert out.returncode == 0, out.stderr[-3000:]
    assert (tmp_path / "run" / "adapter.safetensors").exists()


def test_missing_vtab_folder_ends_in_one_line(tmp_path):
    missing = tmp_path / "nowhere"
    args = ["--work-dir", str(tmp_path / "run"), "--cfg-options", f"data_root={missing}"]
    out = tool("train.py", "configs/vtab/mona_swin.py", *args)
    assert out.returncode == 2
    (line,) = [line for line in out.stderr.splitlines() if line.startswith("error: ")]
    assert str(missing) in line
    assert "Traceback" not in out.stderr


def test_missing_pretrained_file_ends_in_one_line(tmp_path):
    root = vtab_folder(tmp_path / "vtab-1k", "dtd")
    options = ["--cfg-options", f"data_root={root}", "model.backbone.init_cfg.checkpoint=nowhere/ViT.npz"]
    args = ["configs/vtab/lora_vit.py", "--task", "dtd", "--work-dir", str(tmp_path / "run"), *options]
    out = tool("train.py", *args, "train_dataloader.num_workers=0", "train_dataloader.persistent_workers=False")
    assert out.returncode == 2
    (line,) = [line for line in out.stderr.splitlines() if line.startswith("error: ")]
    assert "nowhere/ViT.npz" in line


def test_data_tool_names_what_is_broken(tmp_path):
    root = vtab_folder(tmp_path / "vtab-1k", "dtd")
    out = tool("data.py", "check", str(root))
    assert out.returncode == 1
    assert "0 of 19 tasks whole, 1 broken" in out.stdout

    def problem():
        (state,) = [state for state in check_suite(root, decode=True) if state.present]
        assert state.task == "dtd"
        return state.problem

    assert "lists 6 images, the public one 800" in problem()
    broken = root / "dtd" / "images" / "test" / "000000.jpg"
    broken.write_bytes(broken.read_bytes()[:100])
    assert "000000.jpg" in problem()
