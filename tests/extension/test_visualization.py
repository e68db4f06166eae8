"""Maps of runs side by side, Grad-CAM, predictions drawn, and the hook."""

import runpy
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.hosts import TINY, build, inputs
from support.refusals import unless_refused
from support.runs import write_run
from torch import nn

import vpeft
from vpeft.apis.config.load import load_config
from vpeft.apis.run.prepare import prepare
from vpeft.apis.run.test import test as run_test
from vpeft.core.backbones.find import find_host
from vpeft.core.backbones.sites.layout import MAP_FIRST
from vpeft.core.datasets.embedded.scenes import SPLITS
from vpeft.core.trained.run import open_run
from vpeft.extension.attention.figure import arrange, looked_at
from vpeft.extension.attention.gradcam import gradcam
from vpeft.extension.attention.record import record_attention, rollout_map
from vpeft.extension.drawing.grids import draw_grid
from vpeft.extension.predictions.draw import drawn, enlarge

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    return [write_run(root / name, f"{name}_nano_vit", samples=20) for name in ("lora", "prefix")]


def run_tool(name, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / f"tools/visualization/{name}.py"), run_name="__main__")
    return end.value.code


@pytest.mark.parametrize(
    ("option", "kinds", "says"),
    [
        ({"target": 3}, None, r"^--target is of --kinds gradcam, and the kinds here are class, rollout: name it too"),
        ({"target": 3}, ["rollout"], "^--target is of --kinds gradcam, and the kinds here are rollout"),
        (
            {"place": [0, 0]},
            ["class", "gradcam"],
            "^--token is of --kinds token, and the kinds here are class, gradcam",
        ),
    ],
)
def test_an_option_of_another_kind_is_refused(folders, option, kinds, says):
    with pytest.raises(vpeft.UserError, match=says):
        looked_at(folders[:1], kinds, indices=[3], **option)


def test_maps_of_runs_side_by_side(folders):
    found = looked_at(folders, ["class", "rollout"], indices=[3, 5])
    run = open_run(folders[1])
    model = run.model()
    batch = next(run.batches([5]))
    with torch.no_grad(), record_attention(model) as kept:
        score = model.test_step(batch)[0].pred_score
    look, maps = found["class"][1]
    assert look.name == "sample 5"
    assert list(maps) == ["LoRA", "PrefixTuning"]
    one = maps["PrefixTuning"]
    np.testing.assert_allclose(one.values, kept[5].of_class_token()[0].mean(0), rtol=1e-6)
    assert one.predicted == (int(score.argmax()), pytest.approx(float(score.max())))
    assert one.added == pytest.approx(kept[5].shares()["added"])
    assert one.added > 0
    assert maps["LoRA"].added == 0
    np.testing.assert_allclose(found["rollout"][1][1]["PrefixTuning"].values, rollout_map(kept)[0], rtol=1e-6)

    grid = arrange(found["class"])
    assert grid.top == ["input", "LoRA", "PrefixTuning"]
    assert [left.split("\n")[0] for left in grid.left] == ["sample 3", "sample 5"]
    assert "to added tokens" in grid.rows[1][2].text
    # Classes by their names, where they are known.
    assert open_run(folders[0]).classes == ()  # this file notes none
    run.__dict__["_said"] = {"classes": ["cat", "dog"]}
    assert run.classes == ("cat", "dog")
    named = arrange(found["class"], tuple("abcdefghij"))
    assert named.left[1] == f"sample 5\n{'abcdefghij'[one.label]}"
    assert named.rows[1][2].text.startswith(f"{'abcdefghij'[one.predicted[0]]} (")
    fig = draw_grid(grid, "attention")
    scales = {ax.images[1].get_clim() for ax in fig.axes if len(ax.images) == 2}
    assert len(scales) == 1  # one scale for all


def test_heads_have_columns_of_their_own(folders):
    found = looked_at(folders, ["class"], indices=[3], heads=True, block=0)
    grid = arrange(found["class"])
    assert grid.top == ["input", "head 0", "head 1"]
    assert [left.split("\n")[0] for left in grid.left] == ["LoRA", "PrefixTuning"]
    mean = looked_at(folders, ["class"], indices=[3], block=0)["class"][0][1]["LoRA"].values
    np.testing.assert_allclose(found["class"][0][1]["LoRA"].values.mean(0), mean, rtol=1e-6)


def test_a_file_is_read_as_test_images_are(folders, tmp_path, monkeypatch):
    run = open_run(folders[0])
    Image.fromarray(np.ascontiguousarray(run.dataset().get_data_info(7)["img"][..., ::-1])).save(tmp_path / "seven.png")
    (look, maps), *_ = looked_at(folders[:1], ["class"], images=[tmp_path / "seven.png"])["class"]
    (_, same), *_ = looked_at(folders[:1], ["class"], indices=[7])["class"]
    assert look.name == "seven.png"
    assert np.array_equal(maps["LoRA"].values, same["LoRA"].values)
    assert np.array_equal(maps["LoRA"].image, same["LoRA"].image)
    assert (maps["LoRA"].label, same["LoRA"].label is None) == (None, False)
    code = run_tool("attention", monkeypatch, *folders, "--samples", 1, "--out", tmp_path / "a", "--kinds", "token",
                    "--token", 1, 2)  # fmt: skip
    assert code == 0
    assert Image.open(tmp_path / "a_token.png").width > 300


def test_wrong_use_helps(folders, tmp_path, monkeypatch, capsys):
    tissue = write_run(tmp_path / "tissue", "linear_nano_vit", "tissue", samples=20)
    swin = write_run(tmp_path / "swin", "lora_nano_swin", samples=20)
    for arguments, message in {
        (folders[0], tissue): "tested on different data: task is 'digits' and 'tissue'",
        (folders[0], "--images", "no.png"): "image no.png does not exist",
        (folders[0], "--samples", 20): "no test sample 20: the test set has the samples 0 to 19",
        (swin, "--kinds", "class"): "this host has no class token",
        (swin, "--kinds", "rollout"): "rollout needs blocks that all attend over the whole map",
        (swin, "--kinds", "gradcam", "--heads"): "gradcam is no attention of single heads",
        (swin, "--kinds", "token"): "which token?",
        (swin, "--block", 6): "no block 6: mmpretrain.SwinTransformer has the blocks 0 to 5",
    }.items():
        assert run_tool("attention", monkeypatch, *arguments, "--out", tmp_path / "no") == 2
        assert message in capsys.readouterr().err
    assert run_tool("predictions", monkeypatch, folders[0], "--out", tmp_path / "no") == 2
    assert "holds neither boxes nor label maps" in capsys.readouterr().err
    assert run_tool("tsne", monkeypatch, folders[0], tissue, "--out", tmp_path / "no") == 2
    assert "tested on different data" in capsys.readouterr().err
    assert not list(tmp_path.glob("no*"))


class Classifier(nn.Module):
    """A backbone with a linear over the last of its outputs."""

    def __init__(self, host):
        super().__init__()
        self.backbone = build(host)

    def forward(self, images, mode="tensor"):
        out = getattr(self.backbone, "forward_features", self.backbone)(images)
        while not isinstance(out, torch.Tensor):
            out = next(iter(out.values())) if isinstance(out, Mapping) else out[-1]
        out = out.flatten(1)
        return out @ torch.randn(out.shape[1], 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("method", [None, "VPTDeep"])
@pytest.mark.parametrize("host", TINY)
def test_gradcam_is_its_formula(host, method):
    torch.manual_seed(0)
    model = Classifier(host)
    if method:
        unless_refused(lambda: vpeft.attach(model, {"type": method, "prompt_length": 2}), "take none")
    model.eval()
    images = inputs(host, dtype=torch.float64)
    # Where everything speaks against a class, its map is zero.
    cams = ((target, gradcam(model, images, target=target, block=-1)) for target in range(8))
    target, cam = next((target, cam) for target, cam in cams if cam.max() > 0)
    assert (cam >= 0).all()
    assert hasattr(model.backbone, "peft_adaptation") == bool(method)

    # The same from the whole graph, image by image and channel by channel.
    last = find_host(model).blocks[-1]
    kept = []
    hook = last.module.register_forward_pre_hook(lambda module, args: kept.append(args[0]))
    leaf = images.clone().requires_grad_()
    scores = model(leaf)
    hook.remove()
    (gradient,) = torch.autograd.grad(scores[:, target].sum(), kept[0])
    own, (layout, _) = TINY[host].prefix, last.kind.site_layouts(last.module)
    streams = [t.transpose(0, 1) if last.kind.tokens_first else t for t in (kept[0].detach(), gradient)]
    for image in range(len(cam)):
        x, g = (t[image] for t in streams)
        if layout is MAP_FIRST or x.shape[-1] != last.dim_in:
            x, g = x.movedim(0, -1), g.movedim(0, -1)
        x, g = (t.reshape(-1, t.shape[-1])[own:] for t in (x, g))
        expected = torch.zeros(len(x), dtype=torch.float64)
        for channel in range(x.shape[1]):
            expected += g[:, channel].mean() * x[:, channel]
        if last.kind.frames_last:
            expected = expected.view(-1, TINY[host].grid[0]).t().flatten()
        if host in ("timm.Hiera", "transformers.HieraModel"):  # sorted by their places inside cells of 2 x 2
            expected = expected.view(2, 2, 4, 4).permute(2, 0, 3, 1).flatten()
        torch.testing.assert_close(cam[image].flatten(), expected.clamp_min(0), atol=1e-10, rtol=1e-8)


def test_gradcam_needs_class_scores():
    model = build("mmseg.SwinTransformer")
    model.forward = lambda inputs, mode: type(model).forward(model, inputs)
    with pytest.raises(vpeft.UserError, match="gives no class scores"):
        gradcam(model, torch.randn(1, 3, 16, 16, dtype=torch.float64))


@pytest.fixture
def scenes(tmp_path, monkeypatch):
    for split in SPLITS:
        monkeypatch.setitem(SPLITS, split, 4)
    root = str(tmp_path / "scenes")
    options = {f"{part}_dataloader.dataset.data_root": root for part in ("train", "val", "test")}
    return [write_run(tmp_path / name, f"{name}_nano_swin_segmentation", None, options) for name in ("lora", "linear")]


def test_label_maps_are_drawn_beside_the_truth(scenes, tmp_path, monkeypatch):
    grid, legend = drawn(scenes, indices=[1, 2])
    assert grid.top == ["input", "truth", "LoRA", "Linear"]
    assert grid.left == ["sample 1", "sample 2"]
    run = open_run(scenes[0])
    (sample,) = run.outputs(run.model(), [2])
    right = float((sample.gt_sem_seg.data == sample.pred_sem_seg.data).float().mean())
    assert grid.rows[1][2].text == f"{100 * right:.1f} % of pixels right"
    assert grid.rows[1][0].image.shape == (320, 320, 3)  # 64 pixels, five times
    assert "background" in dict(legend)
    image, truth, said = (cell.image for cell in grid.rows[1][:3])
    plain = np.asarray(Image.open(sample.img_path))
    assert np.array_equal(image[::5, ::5], plain)
    assert not np.array_equal(image, truth)
    assert not np.array_equal(truth, said)
    found = looked_at(scenes[:1], ["received"], indices=[1])
    assert found["received"][0][1]["LoRA"].values.ndim == 2
    assert run_tool("predictions", monkeypatch, *scenes, "--count", 1, "--out", tmp_path / "p.png") == 0
    assert Image.open(tmp_path / "p.png").width > 300


def test_small_images_are_enlarged_with_what_is_on_them():
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData

    image = np.arange(100 * 120 * 3, dtype=np.uint8).reshape(100, 120, 3)
    masks = torch.zeros(1, 100, 120, dtype=torch.bool)
    masks[0, 10:20, 5:8] = True
    box = torch.tensor([[5.0, 10.0, 8.0, 20.0]])
    instances = InstanceData(bboxes=box, labels=torch.tensor([1]), scores=torch.tensor([0.9]), masks=masks)
    sample = DetDataSample(pred_instances=instances)
    larger, found = enlarge(image, sample)
    assert larger.shape == (400, 480, 3)
    assert (larger[4:8, 8:12] == image[1, 2]).all()
    assert found.pred_instances.bboxes.tolist() == [[20.0, 40.0, 32.0, 80.0]]
    assert found.pred_instances.masks[0].nonzero().amin(0).tolist() == [40, 20]
    assert int(found.pred_instances.masks.sum()) == 16 * 30
    assert sample.pred_instances.bboxes.tolist() == box.tolist()  # the sample itself stays
    large = np.zeros((320, 400, 3), np.uint8)
    assert enlarge(large, sample)[0] is large


def test_the_hook_gives_pictures_to_the_visualizer(folders, tmp_path):
    cfg = load_config(ROOT / "configs/mini/lora_nano_vit.py", "digits")
    cfg.test_dataloader.dataset.indices = 20
    cfg.custom_hooks.append({"type": "vpeft.AttentionHook", "samples": [0, 3], "kinds": ["class"]})
    cfg.visualizer = {"type": "Visualizer", "vis_backends": [{"type": "LocalVisBackend"}]}
    run_test(prepare(cfg, str(tmp_path)), str(folders[0] / "adapter.safetensors"))
    (file,) = tmp_path.rglob("attention_class_*.png")
    assert Image.open(file).height > 200
    cfg.custom_hooks[-1]["samples"] = [20]
    with pytest.raises(vpeft.UserError, match="no sample 20: the data set has the samples 0 to 19"):
        run_test(prepare(cfg, str(tmp_path)), str(folders[0] / "adapter.safetensors"))


def test_samples_of_both_packages_are_read_alike():
    from mmaction.structures import ActionDataSample
    from mmpretrain.structures import DataSample

    from vpeft.core.families.samples import label_of, prediction_of

    for sample in (DataSample(), ActionDataSample()):
        assert label_of(sample) is None
        assert prediction_of(sample) is None
        (sample.set_gt_labels if hasattr(sample, "set_gt_labels") else sample.set_gt_label)(2)
        sample.set_pred_score(torch.tensor([0.25, 0.75]))
        assert label_of(sample) == 2
        assert prediction_of(sample) == (1, 0.75)


def test_clips_are_shown_frame_by_frame():
    from vpeft.core.trained.inputs import Look
    from vpeft.extension.attention.maps import Map

    clip = np.arange(8, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 3), np.uint8)
    maps = {"one": Map(clip, np.arange(4.0)[:, None, None] * np.ones((4, 2, 2)), 1, (1, 0.5)), "two": None}
    maps["two"] = Map(clip, maps["one"].values + 1, 1, (0, 0.9))
    grid = arrange([(Look("sample 3", {}), maps)])
    assert grid.top == ["frame 1", "frame 3", "frame 5", "frame 7"]  # the middle of every two
    assert [left.split("\n")[0] for left in grid.left] == ["sample 3", "one", "two"]
    assert [int(cell.image[0, 0, 0]) for cell in grid.rows[1]] == [1, 3, 5, 7]
    assert [float(cell.values[0, 0]) for cell in grid.rows[2]] == [1.0, 2.0, 3.0, 4.0]
    assert [cell.text for cell in grid.rows[2] if cell.text] == ["class 0 (90 %) ✗"]
