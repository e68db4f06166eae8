"""The packages' own inferencers on a run's checkpoint give the scores of the Runner's own test, or refuse."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine import Config
from mmengine.runner import Runner
from PIL import Image
from support.hosts import perturb

import vpeft
from vpeft.apis.config.load import load_config
from vpeft.apis.run.prepare import prepare
from vpeft.apis.run.test import test as run_test
from vpeft.core.adaptation.find import find_adaptation
from vpeft.core.adaptation.wrappers import unwrap
from vpeft.core.datasets.embedded import moving_shapes, scene_files

ROOT = Path(__file__).parents[3]
LOAD = {"type": "LoadImageFromFile"}
NO_BASE = "holds no base weights, and the base|got no weights"


class Trained:
    """A run as training leaves it, without the training.

    Attributes:
        config: Its config file.
        checkpoint: Its checkpoint.
        adapter: Its adapter file.
        results: What the Runner's own test predicted, sample by sample.
    """

    def __init__(self, cfg: Config, folder: Path) -> None:
        self.config, self.folder = str(folder / "user.py"), folder
        cfg.dump(self.config)
        runner = Runner.from_cfg(prepare(Config.fromfile(self.config), str(folder), seed=0))
        model = unwrap(runner.model)
        model.init_weights()
        perturb(model)
        runner.save_checkpoint(str(folder), "epoch_1.pth", save_optimizer=False, save_param_scheduler=False)
        self.checkpoint = str(folder / "epoch_1.pth")
        self.adapter = str(vpeft.save_adapter(model, folder / "adapter.safetensors"))
        self.results = self.test(self.checkpoint)

    def test(self, checkpoint: str) -> list:
        """Predictions of a test by the Runner."""
        cfg = prepare(Config.fromfile(self.config), str(self.folder))
        cfg.test_evaluator = [cfg.test_evaluator, {"type": "DumpResults", "out_file_path": f"{self.folder}/out.pkl"}]
        run_test(cfg, checkpoint)
        return pickle.loads((self.folder / "out.pkl").read_bytes())

    def without_init_cfg(self) -> str:
        """Its config file, where the backbone names no base."""
        cfg = Config.fromfile(self.config)
        cfg.model.backbone.pop("init_cfg")
        cfg.dump(file := str(self.folder / "nameless.py"))
        return file


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    root = tmp_path_factory.mktemp("classifier")
    rng = np.random.default_rng(0)
    for name in ("blue", "green", "red"):
        (root / "val" / name).mkdir(parents=True)
        for i in range(2):
            Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(root / "val" / name / f"{i}.png")
    cfg = load_config(ROOT / "configs/mini/lora_nano_vit.py", "digits", {"log_level": "ERROR"})
    data = {"type": "CustomDataset", "data_root": str(root), "data_prefix": "val", "pipeline": [LOAD]}
    for part in ("train", "test"):
        cfg[f"{part}_dataloader"].dataset = {**data, "pipeline": [LOAD, {"type": "PackInputs"}]}
    cfg.model.head.num_classes = 3
    cfg.model.data_preprocessor = {**cfg.pop("data_preprocessor"), "num_classes": 3}
    cfg.data_preprocessor = None
    return Trained(cfg, root)


def scenes(root: Path, recipe: str, module, **options) -> Trained:
    """A run on drawn scenes or clips, few of them."""
    with pytest.MonkeyPatch.context() as patch:
        for split in module.SPLITS:
            patch.setitem(module.SPLITS, split, 6)
        parts = ("train", "val", "test")
        folders = {f"{part}_dataloader.dataset.data_root": str(root / "data") for part in parts}
        cfg = load_config(ROOT / f"configs/mini/{recipe}.py", None, {"log_level": "ERROR", **folders, **options})
        cfg.test_pipeline = cfg.test_dataloader.dataset.pipeline
        return Trained(cfg, root)


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    root = tmp_path_factory.mktemp("detector")
    return scenes(root, "lora_nano_swin_detection", scene_files, **{"model.test_cfg.score_thr": 0.0})


@pytest.fixture(scope="module")
def segmentor(tmp_path_factory):
    root = tmp_path_factory.mktemp("segmentor")
    return scenes(root, "lora_nano_vit_segmentation", scene_files)


@pytest.fixture(scope="module")
def recognizer(tmp_path_factory):
    return scenes(tmp_path_factory.mktemp("recognizer"), "lora_nano_vit_video", moving_shapes)


FILES = pytest.mark.parametrize("file", ["checkpoint", "adapter"])


@FILES
def test_image_classification_inferencer(classifier, file):
    from mmpretrain import ImageClassificationInferencer

    inferencer = ImageClassificationInferencer(classifier.config, getattr(classifier, file), device="cpu")
    for sample in classifier.results:
        scores = inferencer(sample["img_path"], show=False)[0]["pred_scores"]
        np.testing.assert_allclose(scores, sample["pred_score"].numpy(), rtol=0, atol=1e-6)


@FILES
def test_get_model_and_feature_extractor(classifier, file):
    from mmpretrain import FeatureExtractor, get_model

    adapted = get_model(classifier.config, getattr(classifier, file))
    image = torch.from_numpy(np.array(Image.open(classifier.results[0]["img_path"]))[..., ::-1].copy()).permute(2, 0, 1)
    (sample,) = adapted.test_step({"inputs": [image], "data_samples": [None]})
    torch.testing.assert_close(sample.pred_score, classifier.results[0]["pred_score"], rtol=0, atol=1e-6)
    extract = FeatureExtractor(classifier.config, getattr(classifier, file), device="cpu")
    (feature,) = extract(classifier.results[0]["img_path"])
    assert feature[-1].shape == (64,)
    scores = adapted.head.fc(feature[-1][None]).softmax(1)[0]
    torch.testing.assert_close(scores, classifier.results[0]["pred_score"], rtol=0, atol=1e-6)


def test_a_classifier_without_a_named_base(classifier):
    """The checkpoint says which file its base came from; a state dict alone does not, and is refused."""
    from mmpretrain import get_model

    model = get_model(classifier.without_init_cfg(), classifier.checkpoint)
    assert find_adaptation(model).base.file == "vpeft://nano_vit"
    state = torch.load(classifier.checkpoint, weights_only=True)["state_dict"]
    torch.save(dict(state), classifier.folder / "bare.pth")
    with pytest.raises(vpeft.UserError, match=NO_BASE):
        get_model(classifier.without_init_cfg(), str(classifier.folder / "bare.pth"))


@pytest.mark.slow
@FILES
def test_det_inferencer_and_init_detector(detector, file):
    from mmdet.apis import DetInferencer, inference_detector, init_detector

    weights = getattr(detector, file)
    inferencer = DetInferencer(detector.config, weights, device="cpu", show_progress=False)
    model = init_detector(detector.config, weights, device="cpu")  # it takes init_cfg out of the config
    for sample in detector.results:
        own = sample["pred_instances"]
        assert len(own["scores"])
        theirs = inferencer(sample["img_path"], no_save_vis=True)["predictions"][0]
        np.testing.assert_allclose(theirs["scores"], own["scores"], atol=1e-5)
        np.testing.assert_allclose(theirs["bboxes"], own["bboxes"], atol=1e-3)
        again = inference_detector(model, sample["img_path"]).pred_instances
        torch.testing.assert_close(again.scores, own["scores"], rtol=0, atol=1e-5)


@pytest.mark.slow
@FILES
def test_mmseg_inferencer_and_init_model(segmentor, file):
    from mmseg.apis import MMSegInferencer, inference_model, init_model

    weights = getattr(segmentor, file)
    model = init_model(segmentor.config, weights, device="cpu")
    inferencer = MMSegInferencer(segmentor.config, weights, device="cpu", show_progress=False)
    for sample in segmentor.results:
        again = inference_model(model, sample["img_path"])
        torch.testing.assert_close(again.seg_logits.data, sample["seg_logits"]["data"], rtol=0, atol=1e-4)
        theirs = inferencer(sample["img_path"])["predictions"]
        np.testing.assert_array_equal(theirs, sample["pred_sem_seg"]["data"][0].numpy())
    own, theirs = model.state_dict(), inferencer.model.state_dict()
    assert all(torch.equal(own[key], theirs[key]) for key in own)


@FILES
def test_init_recognizer(recognizer, file):
    from mmaction.apis import inference_recognizer, init_recognizer

    model = init_recognizer(recognizer.config, getattr(recognizer, file), device="cpu")
    scores = torch.stack([sample["pred_scores"]["item"] for sample in recognizer.results])
    videos = sorted((recognizer.folder / "data" / "test").glob("*.mp4"))
    assert len(videos) == len(scores) > 3
    for video in videos:
        score = inference_recognizer(model, str(video)).pred_scores.item
        assert (scores - score).abs().amax(1).min() < 1e-5
