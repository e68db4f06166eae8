"""What runs cost, and how long they will take."""

from pathlib import Path

import pytest
import torch
from mmengine.optim import OptimWrapper
from support.configs import mini_configs
from support.results import result, store

from vpeft.apis.benchmark import cost, step_cost
from vpeft.apis.benchmark.estimate import Estimate, probe
from vpeft.apis.benchmark.plan import Plan
from vpeft.apis.config.load import build_model, load_config
from vpeft.core.datasets.embedded.scenes import SPLITS
from vpeft.errors import UserError

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _root(monkeypatch):
    monkeypatch.chdir(ROOT)


def model_of(name):
    cfg = load_config(f"configs/mini/{name}_nano_vit.py", "digits")
    return cfg, build_model(cfg)


def test_memory_follows_what_has_to_be_kept():
    kept = {name: cost.kept_bytes(*model_of(name)) for name in ("linear", "lst", "lora", "full")}
    # The probe keeps the head's input (64 x 64) and little more; LoRA keeps activations of every block.
    assert 64 * 64 * 4 <= kept["linear"] < 1_000_000
    assert kept["linear"] < kept["lst"] < kept["lora"] < kept["full"]


class Two(torch.nn.Module):
    """Two linears with ReLU between; its hidden layer is kept by the ReLU and by the second linear."""

    def __init__(self):
        super().__init__()
        self.one, self.other = torch.nn.Linear(8, 16), torch.nn.Linear(16, 3)

    def data_preprocessor(self, batch, training):
        return batch

    def forward(self, inputs, mode):
        return self.other(self.one(inputs).relu()).square().sum()


def test_memory_is_of_whole_storages_once_without_weights_and_inputs():
    hidden, output = 4 * 16 * 4, 4 * 3 * 4
    assert cost.kept_bytes(None, Two(), {"inputs": torch.randn(4, 8)}) == hidden + output


def test_memory_leaves_the_model_as_it_was():
    cfg, model = model_of("lora")
    model.eval()
    model.head.train()
    cost.kept_bytes(cfg, model)
    assert not model.backbone.training
    assert model.head.training
    assert all(p.grad is None for p in model.parameters())


def test_price_at_inference(monkeypatch):
    monkeypatch.setattr(cost, "ROUNDS", 2)
    for name, merges in (("lora", True), ("adaptformer", False), ("vptdeep", False)):
        cfg, model = model_of(name)
        before = {k: v.clone() for k, v in model.state_dict().items()}
        found = cost.inference(cfg, model)
        assert found["inference_ratio"] > 0
        assert found["host_seconds"] > 0
        assert (found["merged_ratio"] is not None) == merges
        assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
        assert not model.backbone.peft_adaptation.merged


NAMES = [Path(f).stem.removesuffix("_nano_vit") for f in mini_configs() if f.endswith("_nano_vit.py")]


@pytest.mark.parametrize("name", [name for name in NAMES if "supernet" not in name])
def test_every_method_has_a_price(name, monkeypatch):
    """Also those whose head is wider than the host, which is what they are compared with."""
    monkeypatch.setattr(cost, "ROUNDS", 1)
    cfg, model = model_of(name)
    found = cost.inference(cfg, model)
    assert found["inference_ratio"] > 0
    assert not any(module._forward_pre_hooks for module in model.head.modules())


def test_maps_of_a_methods_own_have_a_price(monkeypatch, tmp_path):
    """The host alone gives one map, and the head reads four."""
    monkeypatch.setattr(cost, "ROUNDS", 1)
    for split in SPLITS:
        monkeypatch.setitem(SPLITS, split, 2)
    folder = {"test_dataloader.dataset.data_root": str(tmp_path / "scenes")}
    cfg = load_config("configs/mini/vit_adapter_nano_vit_pyramid_segmentation.py", None, folder)
    model = build_model(cfg)
    hooks = len(model.backbone._forward_hooks)
    assert cost.inference(cfg, model)["inference_ratio"] > 0
    assert len(model.backbone._forward_hooks) == hooks
    seen, forward = [], model.decode_head.forward
    monkeypatch.setattr(
        model.decode_head, "forward", lambda maps: (seen.append([one.shape for one in maps]), forward(maps))[1]
    )
    cost.inference(cfg, model)
    assert len(seen) == 4
    assert all(shapes == seen[0] and len(shapes) == 4 for shapes in seen)


def jobs(root, **fields):
    return Plan(["lora"], tasks=["digits", "tissue"], seeds=[0], **fields).jobs(str(root))


def test_estimate_from_earlier_runs(tmp_path):
    own = [
        result("LoRA", "digits", s, 0.5, cost={**COST, "train_seconds": t})
        for s, t in ((1, 10.0), (2, 20.0), (3, 90.0))
    ]
    store(tmp_path, *own)
    estimate = Estimate(str(tmp_path), jobs(tmp_path))
    digits, tissue = jobs(tmp_path)
    assert estimate(digits) == 20.0
    assert estimate(tissue) == 20.0  # of the same config
    assert estimate.total([digits, tissue], 2) == 20.0
    assert estimate.source == "from 3 earlier runs"


COST = {"step_seconds": 0.1, "saved_bytes": 1, "adapter_bytes": 7}


def test_estimate_from_a_few_steps_grows_with_the_epochs(tmp_path):
    short, _ = jobs(tmp_path, options={"train_cfg.max_epochs": 1})
    long, _ = jobs(tmp_path, options={"train_cfg.max_epochs": 100})
    assert 0 < probe(short) < probe(long)


def test_estimate_tells_few_images_from_all(tmp_path, monkeypatch):
    """One try of a few steps for each number of shots, whatever the method's size."""
    tried = []
    monkeypatch.setattr(
        "vpeft.apis.benchmark.estimate.probe", lambda job: tried.append(job.name) or 10.0 * job.variant.get("shots", 9)
    )
    found = jobs(tmp_path, sweep={"shots": [1, None], "rank": [1, 4]})
    estimate = Estimate(str(tmp_path), found)
    assert len(tried) == 2
    assert sorted(estimate(job) for job in found) == [10.0] * 4 + [90.0] * 4
    assert estimate.total(found, 2) == 200.0


def test_no_estimate_says_why(tmp_path):
    vtab = Plan(["lora"], backbones=["vit"], folder="vtab", tasks=["dtd"], seeds=[0])
    estimate = Estimate(str(tmp_path), vtab.jobs(str(tmp_path)))
    assert estimate(vtab.jobs(str(tmp_path))[0]) is None
    assert "data/vtab-1k does not exist" in estimate.source


def test_a_task_without_its_data_leaves_the_estimate_to_the_others(tmp_path, monkeypatch):
    def tried(job):
        if job.task == "digits":
            raise UserError("its data are not there")
        return 7.0

    monkeypatch.setattr("vpeft.apis.benchmark.estimate.probe", tried)
    estimate = Estimate(str(tmp_path), jobs(tmp_path))
    assert estimate.total(jobs(tmp_path), 1) == 14.0
    assert estimate.source == "from a few steps here"


class _Run:
    """A run that has ended, of one step's length."""

    def __init__(self, name):
        self.cfg, self.model = model_of(name)
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optim_wrapper = OptimWrapper(torch.optim.AdamW(trained, lr=1e-3))
        self.trained = sum(p.numel() for p in trained)


def test_a_step_beside_the_reference():
    runs = [_Run(name) for name in ("linear", "lora", "full")]
    linear, lora, full = found = [step_cost.training_cost(run, 1, lambda: 0.0) for run in runs]
    assert 0 < linear["step_ratio"] < lora["step_ratio"] < 20
    assert lora["saved_bytes"] < full["saved_bytes"]
    for run, one in zip(runs, found, strict=True):
        # Gradients, and two numbers of AdamW for each, beside what is saved.
        assert one["peak_bytes"] > 3 * 4 * run.trained
        assert one["peak_bytes"] > one["saved_bytes"] * 0.9
    total = sum(p.numel() for p in runs[2].model.parameters())
    assert 4 * total <= full["parameter_bytes"] < 4 * total + 10_000


def test_only_quiet_rounds_count_and_too_few_are_said(monkeypatch):
    """Rounds as a busy machine gives them: the wall goes on while the process waits."""
    walls = iter([(1.0, 1.0), (9.0, 5.0), (2.0, 2.0), (9.0, 5.0), (3.0, 3.0), *[(9.0, 5.0)] * 30])
    monkeypatch.setattr(step_cost, "step_peak_bytes", lambda step, device: 5)
    monkeypatch.setattr(step_cost, "kept_bytes", lambda *args: 3)
    reference = step_cost.ReferenceStep
    times = lambda step, device: (1.0, 1.0) if isinstance(step, reference) else next(walls)  # noqa: E731
    monkeypatch.setattr(step_cost, "_times", times)
    run = _Run("linear")
    found = step_cost.training_cost(run, 1, lambda: 9.0)
    assert (found["step_ratio"], found["quiet_rounds"], found["step_rounds"]) == (2.0, 3, 3)
    found = step_cost.training_cost(run, 1, lambda: 0.0)
    assert (found["step_ratio"], found["quiet_rounds"]) == (9.0, 0)
    assert step_cost.training_cost(run, 2, lambda: 9.0)["quiet_rounds"] == 0  # of several threads the load says it
    assert step_cost.training_cost(run, 2, lambda: None)["quiet_rounds"] is None
