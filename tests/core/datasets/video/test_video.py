"""Lists of videos, broken videos, and the pipelines of the real recipes on files in the public layout."""

from pathlib import Path

import av
import numpy as np
import pytest
from mmcv.transforms import BaseTransform
from mmengine.registry import DATASETS, init_default_scope
from torch.utils.data import DataLoader

from vpeft.apis.config.load import load_config
from vpeft.core.datasets.embedded.moving_shapes import clip, write_video
from vpeft.core.datasets.load.video import fault, undecodable
from vpeft.core.datasets.video.lists import VideoList
from vpeft.errors import UserError
from vpeft.registry import TRANSFORMS

READ = [{"type": "DecordInit"}, {"type": "SampleFrames", "clip_len": 8, "test_mode": True}, {"type": "DecordDecode"}]
READ += [{"type": "FormatShape", "input_format": "NCTHW"}, {"type": "PackActionInputs"}]
LIST = {"name": "pets", "num_classes": 3, "ann_file": "train.csv"}


@pytest.fixture(autouse=True)
def scope():
    init_default_scope("mmaction")


@pytest.fixture
def videos(tmp_path):
    """A folder with a whole video ``a/b c.mp4`` and a list."""
    (tmp_path / "a").mkdir()
    write_video(tmp_path / "a" / "b c.mp4", clip(np.random.default_rng(0), 2))
    (tmp_path / "train.csv").write_text("a/b c.mp4,1\n")
    return tmp_path


def listed(root, text=None, **options):
    if text is not None:
        (root / "train.csv").write_text(text)
    return VideoList(data_root=str(root), pipeline=options.pop("pipeline", READ), **{**LIST, **options})


@pytest.mark.parametrize(
    "line", ["a/b c.mp4,1", "a/b c.mp4 1", "a/b c.mp4, 1", "a/b c.mp4\t1", '"a/b c.mp4",1', "a/b c,1"]
)
def test_lines(videos, line):
    data = listed(videos, f"{line}\n\n")
    assert len(data) == 1
    assert data.get_data_info(0)["filename"] == str(videos / "a" / "b c.mp4")
    sample = data[0]
    assert sample["inputs"].shape == (1, 3, 8, 32, 32)
    assert sample["data_samples"].gt_labels.item.tolist() == [1]


def test_frames_are_those_of_the_file(videos):
    frames = clip(np.random.default_rng(0), 2)[2:10]  # the middle of 12
    read = listed(videos)[0]["inputs"][0].permute(1, 2, 3, 0).numpy()
    assert np.abs(read.astype(int) - frames).mean() < 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a/b c.mp4,1\nnothing\n", r"pets: .*train\.csv:2: 'nothing' is not `<path>,<label>`"),
        ("a/b c.mp4,1.5\n", r"train\.csv:1: .* is not"),
        ("a/b c.mp4,3\n", r"train\.csv:1: label 3 is out of range: the classes are 0 to 2"),
        ("a/b c.mp4,-1\n", r"label -1 is out of range"),
        ("\n", r"list .*train\.csv is empty"),
        ("a,,1\n", r"train\.csv:1: 'a,,1' is not"),
        (f"{'a' * 300}.mp4,1\n", r"train\.csv:1: 'aaa.* is no path of a file"),
    ],
)
def test_broken_lists(videos, text, message):
    with pytest.raises(UserError, match=message):
        listed(videos, text)


def test_a_missing_list_is_named(tmp_path):
    with pytest.raises(UserError, match=r"pets: list .*train_2\.csv does not exist"):
        listed(tmp_path, ann_file="train_2.csv")


def test_the_name_of_the_list_chooses_the_split(videos):
    (videos / "train_2.csv").write_text("a/b c.mp4,2\n")
    assert [listed(videos, ann_file=f).get_data_info(0)["label"] for f in ("train.csv", "train_2.csv")] == [1, 2]


def moved_to_front(path: Path) -> bytes:
    """The same video with its index before the pictures."""
    out = path.with_name("front.mp4")
    with av.open(str(path)) as source, av.open(str(out), "w", options={"movflags": "faststart"}) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    return out.read_bytes()


def broken(kind: str, path: Path) -> bytes | None:
    data, front = path.read_bytes(), moved_to_front(path)
    return {
        "missing": None,
        "empty": b"",
        "random": np.random.default_rng(0).bytes(4000),
        "text": b"404: not found\n",
        "truncated": data[: len(data) * 3 // 4],
        **{f"truncated at {part} %": front[: len(front) * part // 100] for part in (5, 15, 30, 45, 60, 75, 90, 97)},
        "overwritten": front[: len(front) // 2] + bytes(400) + front[len(front) // 2 + 400 :],
    }[kind]


KINDS = ["missing", "empty", "random", "text", "truncated", "overwritten"]
KINDS += [f"truncated at {part} %" for part in (5, 15, 30, 45, 60, 75, 90, 97)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("test_mode", [False, True])
def test_a_broken_video_stops_with_its_name(videos, kind, test_mode):
    """Between whole ones: neither is another one taken in its place, nor is it scored."""
    data = broken(kind, videos / "a" / "b c.mp4")
    if data is not None:
        (videos / "bad.mp4").write_bytes(data)
    samples = listed(videos, "a/b c.mp4,1\nbad.mp4,1\na/b c.mp4,1\n", test_mode=test_mode)
    assert samples[0] is not None
    with pytest.raises(UserError, match=r"pets: video .*bad\.mp4 ") as raised:
        samples[1]
    assert "\n" not in str(raised.value)


def test_a_whole_video_passes_with_its_index_in_either_place(videos):
    whole = videos / "a" / "b c.mp4"
    moved_to_front(whole)
    for path in (whole, whole.with_name("front.mp4")):
        assert fault(str(path)) is None
        assert undecodable(str(path)) is None


def test_a_worker_passes_the_message_on(videos):
    (videos / "bad.mp4").write_bytes(b"")
    loader = DataLoader(listed(videos, "bad.mp4,1\n"), num_workers=1, collate_fn=list)
    with pytest.raises(UserError, match=r"(?s)DataLoader worker.*pets: video .*bad\.mp4 is empty"):
        next(iter(loader))


def test_sound_alone_is_no_video(videos):
    with av.open(str(videos / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(UserError, match=r"sound\.mp4 has no picture"):
        listed(videos, "sound.mp4,0\n")[0]


def test_a_short_clip_starts_again(videos):
    """As mmaction2 documents ``out_of_bound_opt='loop'``."""
    write_video(videos / "short.mp4", clip(np.random.default_rng(1), 2)[:3])
    read = listed(videos, "short.mp4,0\n")[0]["inputs"][0]
    assert all((read[:, t] == read[:, t % 3]).all() for t in range(8))
    assert not (read[:, 0] == read[:, 1]).all()


@TRANSFORMS.register_module()
class Raises(BaseTransform):
    def transform(self, results):
        raise IndexError("not the file's fault")


@TRANSFORMS.register_module()
class GivesNothing(BaseTransform):
    def transform(self, results):
        return None


def test_a_fault_of_the_pipeline_is_not_laid_on_the_video(videos):
    with pytest.raises(IndexError, match="not the file's fault"):
        listed(videos, pipeline=[READ[0], {"type": "vpeft.Raises"}])[0]


def test_a_pipeline_that_gives_nothing_stops(videos):
    with pytest.raises(UserError, match=r"b c\.mp4: the pipeline gave nothing"):
        listed(videos, pipeline=[READ[0], {"type": "vpeft.GivesNothing"}])[0]


@pytest.mark.parametrize("kind", ["Flip", "mmaction.Flip"])
def test_labels_that_tell_left_from_right_are_not_flipped(videos, kind):
    with pytest.raises(UserError, match="pets: its labels tell left from right"):
        listed(videos, pipeline=[*READ[:3], {"type": kind}], flip_safe=False)
    listed(videos, pipeline=[*READ[:3], {"type": kind, "flip_ratio": 0.0}], flip_safe=False)
    listed(videos, pipeline=[*READ[:3], {"type": kind}])


SETS = {"ssv2": 174, "hmdb51": 51, "ucf101": 101, "k400": 400}


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("model", ["vit-b", "swin-b"])
def test_real_recipes_name_their_data_sets(name, model):
    cfg = load_config(f"configs/video/lora_{model}_{name}.py")
    assert cfg.model.cls_head.num_classes == SETS[name]
    assert "data_sets" not in cfg
    for part in ("train", "val", "test"):
        data = cfg[f"{part}_dataloader"].dataset
        assert (data.name, data.num_classes, data.data_root) == (name, SETS[name], f"data/{name}")
        assert data.ann_file == f"{part}.csv"
    (flip,) = [step for step in cfg.train_dataloader.dataset.pipeline if step.type == "Flip"]
    assert flip.flip_ratio == (0.0 if name == "ssv2" else 0.5)
    assert cfg.train_dataloader.dataset.flip_safe == (name != "ssv2")


def test_real_pipelines(tmp_path):
    """Clips of 8 frames, every fourth; at test 4 clips x 3 crops, no two alike."""
    y, x = np.mgrid[:64, :96]
    frames = np.stack([np.stack([x * 2, y * 2, np.full_like(x, 5 * t)], -1) for t in range(48)]).astype(np.uint8)
    write_video(tmp_path / "wide.mp4", frames)
    cfg = load_config("configs/video/lora_vit-b_hmdb51.py")
    sizes = {}
    for part in ("train", "val", "test"):
        (tmp_path / f"{part}.csv").write_text("wide.mp4 50\n")
        data = DATASETS.build({**cfg[f"{part}_dataloader"].dataset, "data_root": str(tmp_path)})
        sizes[part] = data[0]["inputs"]
    assert sizes["train"].shape == sizes["val"].shape == (1, 3, 8, 224, 224)
    views = sizes["test"].float()
    assert views.shape == (12, 3, 8, 224, 224)
    # The red channel tells where a crop is, the blue one when a frame was.
    columns = views[:, 0].mean((1, 2, 3)).view(3, 4) / 2
    assert (columns.std(1) < 0.5).all()
    assert np.allclose(columns[:, 0].sort().values, [31.5, 47.5, 63.5], atol=0.5)
    times = views[:, 2].mean((2, 3)).view(3, 4, 8)[0] / 5
    assert np.allclose(times[:, 0], [0, 6, 13, 19], atol=0.5)
    assert np.allclose(times.diff(dim=1), 4, atol=0.5)
