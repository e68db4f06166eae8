"""ImageNet's shifted sets on tiny folders in the public layouts, the head from embeddings, the recipe's sizes."""

import numpy as np
import pytest
import torch
from mmengine.evaluator import Evaluator
from mmengine.registry import DATASETS, MODELS, init_default_scope
from mmpretrain.structures import DataSample
from PIL import Image
from safetensors.torch import save_file

import vpeft
from vpeft.apis.catalogue import config_parameters
from vpeft.apis.config.load import load_config
from vpeft.core.datasets.classification.imagenet import ImageNetShift

#: A training set of twelve classes, so that 10 sorts before 2 as text.
WNIDS = [f"n{number:08d}" for number in (1440764, 1443537, 1484850, 1491361, 1494475, 1496331)]
WNIDS += [f"n{number:08d}" for number in (1498041, 1514668, 1514859, 1518878, 1530575, 9999999)]


def picture(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 10, 3), value, np.uint8)).save(path)


@pytest.fixture
def root(tmp_path):
    for i, wnid in enumerate(WNIDS):
        for j in range(4):
            picture(tmp_path / f"train/{wnid}/{wnid}_{j}.JPEG", 10 * i)
    for i in (0, 1, 2, 10):
        picture(tmp_path / f"v2/{i}/image{i}.jpeg", 10 * i)
    for wnid in (WNIDS[3], WNIDS[11]):
        picture(tmp_path / f"imagenet-r/{wnid}/art_0.jpg")
    (tmp_path / "imagenet-r/README.txt").write_text("renditions")
    picture(tmp_path / f"sketch/sketch/{WNIDS[5]}/sketch_0.JPEG")
    return tmp_path


def dataset(root, folder, **kwargs):
    options = {"classes_root": str(root / "train"), "num_classes": 12, "name": folder, **kwargs}
    return ImageNetShift(data_root=str(root / folder), **options)


def test_the_training_set(root):
    data = dataset(root, "train")
    assert len(data) == 48
    assert [data.get_data_info(i)["gt_label"] for i in (0, 4, 47)] == [0, 1, 11]
    assert data.metainfo["classes"] == tuple(WNIDS)
    assert "subset" not in data.metainfo


def test_numbers_are_labels_not_places_in_the_alphabet(root):
    data = dataset(root, "v2")
    found = {data.get_data_info(i)["img_path"].split("/")[-2]: data.get_data_info(i)["gt_label"] for i in range(4)}
    assert found == {"0": 0, "1": 1, "2": 2, "10": 10}
    assert data.metainfo["subset"] == (0, 1, 2, 10)


def test_a_subset_of_classes_is_found_by_the_names_of_folders(root):
    data = dataset(root, "imagenet-r")
    assert [data.get_data_info(i)["gt_label"] for i in range(2)] == [3, 11]
    assert data.metainfo["subset"] == (3, 11)


def test_shots_are_the_same_every_time_and_differ_by_seed(root):
    def chosen(**kwargs):
        data = dataset(root, "train", shots=2, **kwargs)
        return [data.get_data_info(i)["img_path"] for i in range(len(data))]

    assert len(chosen()) == 24
    assert chosen() == chosen()
    assert chosen() != chosen(seed=1)
    with pytest.raises(vpeft.UserError, match="4 images where shots=5"):
        dataset(root, "train", shots=5)


def test_wrong_folders(root):
    with pytest.raises(vpeft.UserError, match=r"imagenet-a does not exist.*data_root"):
        dataset(root, "imagenet-a")
    with pytest.raises(vpeft.UserError, match=r"holds no class folders.*set data_root to .*sketch/sketch"):
        dataset(root, "sketch")
    with pytest.raises(vpeft.UserError, match="12 class folders where 1000 are expected"):
        dataset(root, "train", num_classes=1000)
    picture(root / "imagenet-r/n00000001/a.jpg")
    with pytest.raises(vpeft.UserError, match="n00000001, are no class of the training set"):
        dataset(root, "imagenet-r")
    picture(root / "v2/12/a.jpg")
    with pytest.raises(vpeft.UserError, match="12, are no class"):
        dataset(root, "v2")
    picture(root / "flat/ILSVRC2012_val_00000001.JPEG")
    with pytest.raises(vpeft.UserError, match="sort the images into a folder per class"):
        dataset(root, "flat")
    picture(root / "v2/n01440764/a.jpg")
    with pytest.raises(vpeft.UserError, match="both kinds"):
        dataset(root, "v2")
    (root / f"train/{WNIDS[0]}/{WNIDS[0]}_0.JPEG").write_bytes(b"\xff\xd8")
    pipeline = [{"type": "vpeft.LoadImage"}]
    with pytest.raises(vpeft.UserError, match="truncated or no image"):
        dataset(root, "train", pipeline=pipeline)[0]
    for file in (root / f"train/{WNIDS[0]}").iterdir():
        file.unlink()
    with pytest.raises(vpeft.UserError, match="holds none"):
        dataset(root, "train")


def test_accuracy_among_the_classes_of_a_set():
    def samples():
        scores = torch.tensor([[0.6, 0.1, 0.3], [0.1, 0.2, 0.7]])
        return [DataSample().set_gt_label(label).set_pred_score(row) for label, row in zip((2, 1), scores, strict=True)]

    for subset, accuracy in ((None, 0.0), ((1, 2), 50.0)):
        init_default_scope("mmpretrain")
        evaluator = Evaluator({"type": "vpeft.SubsetAccuracy", "topk": (1,)})
        evaluator.dataset_meta = {} if subset is None else {"subset": subset}
        evaluator.process(samples())
        assert evaluator.evaluate(2) == {"accuracy/top1": accuracy}


# The head -------------------------------------------------------------------------------------------------------------


def head(file, **kwargs):
    init_default_scope("mmpretrain")
    options = {"num_classes": 3, "in_channels": 4, "dim": 2, **kwargs}
    return MODELS.build({"type": "vpeft.EmbeddingHead", "file": str(file), **options})


def test_the_zero_shot_head_by_hand(tmp_path):
    weight = torch.tensor([[3.0, 4.0], [0.0, 2.0], [-1.0, 0.0]])
    projection = torch.tensor([[1.0, 0, 0, 0], [0, 1, 0, 0]])
    save_file({"weight": weight, "projection": projection}, tmp_path / "h.safetensors")
    np.savez(tmp_path / "h.npz", weight=weight.numpy(), projection=projection.numpy())
    for file in ("h.safetensors", "h.npz"):
        built = head(tmp_path / file, scale=10.0)
        built.init_weights()
        scores = built((torch.tensor([[0.0, 5.0, 9.0, 9.0]]),))
        torch.testing.assert_close(scores, torch.tensor([[8.0, 10.0, 0.0]]))
    assert {k: p.requires_grad for k, p in built.named_parameters()} == {"fc.weight": True, "projection.weight": False}


def test_wrong_files_of_embeddings(tmp_path):
    with pytest.raises(vpeft.UserError, match="do not exist"):
        head(tmp_path / "none.safetensors").init_weights()
    file = tmp_path / "h.safetensors"
    save_file({"weight": torch.zeros(5, 2)}, file)
    with pytest.raises(vpeft.UserError, match=r"'weight' has the shape \(5, 2\), and the head needs \(3, 2\)"):
        head(file).init_weights()
    save_file({"weight": torch.ones(3, 2)}, file)
    with pytest.raises(vpeft.UserError, match="'projection' is missing"):
        head(file).init_weights()
    file.write_bytes(file.read_bytes()[:20])
    with pytest.raises(vpeft.UserError, match="cut short"):
        head(file).init_weights()
    save_file({"weight": torch.full((3, 2), torch.nan)}, file)
    with pytest.raises(vpeft.UserError, match="NaN"):
        head(file).init_weights()


#: Trained parameters without head in millions, as the study publishes them.
PUBLISHED = {
    "full": 85.799,
    "linear": 0.0,
    "lntune": 0.040,
    "bitfit": 0.103,
    "difffit": 0.141,
    "vptdeep": 0.461,
    "fact_tk": 0.087,
    "houlsby": 1.199,
    "adaptformer": 0.599,
    "repadapter": 0.904,
    "lora": 1.180,
    "convpass": 1.421,
}


@pytest.mark.parametrize(("method", "millions"), PUBLISHED.items())
def test_published_counts(method, millions):
    report = config_parameters(load_config(f"configs/robustness/{method}_clip-vit-b_imagenet.py"))
    assert report.trainable_without_head / 1e6 == pytest.approx(millions, abs=5.1e-4)
    assert report.head == 1000 * 512


def test_the_recipes_sets_build_on_tiny_folders(root):
    cfg = load_config("configs/robustness/lora_clip-vit-b_imagenet.py")
    init_default_scope("mmpretrain")
    own = {**cfg.test_dataloader.dataset, "classes_root": str(root / "train"), "num_classes": 12}
    sets = {"v2": "v2", "r": "imagenet-r", "sketch": "sketch/sketch"}
    for name, folder in sets.items():
        data = DATASETS.build({**own, **cfg.shifted[name], "data_root": str(root / folder)})
        sample = data[0]
        assert sample["inputs"].shape == (3, 224, 224)
        assert data.metainfo["name"] == cfg.shifted[name].name
