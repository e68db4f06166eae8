"""Every mergeable method: the merged checkpoint of its config loads strictly into the plain config."""

from pathlib import Path

import pytest
import torch
from mmengine.runner.checkpoint import CheckpointLoader
from support.configs import mini_configs
from support.hosts import perturb

from vpeft.apis.adapters import save_adapter
from vpeft.apis.config.load import build_model, load_config, plain_config
from vpeft.apis.export.merged import export_merged
from vpeft.core.contract.build import build_method

ROOT = Path(__file__).parents[3]
CONFIGS = [
    Path(path).stem for path in mini_configs() if build_method(dict(load_config(path).model.backbone.method)).mergeable
]


def test_they_are_the_ones_of_the_specification():
    types = {load_config(ROOT / f"configs/mini/{name}.py").model.backbone.method["type"] for name in CONFIGS}
    parametric = {"LoRA", "SSF", "FacT-TT", "FacT-TK", "RepAdapter", "Hydra", "ARC", "KronA", "KAdaptation"}
    in_place = {"Full", "Linear", "BitFit", "LNTune", "GPS", "PartialK", "BlockTune", "AttentionTune", "MLPTune"}
    parametric |= {"DoRA", "rsLoRA", "LoRA+", "LoRA-FA", "PiSSA", "OLoRA", "VeRA", "IA3", "LoHa", "LoKr", "FourierFT"}
    parametric |= {"GLoRA", "SPT-LoRA", "RLRR", "MLAE", "LoRAmul"}
    parametric |= {"OFT", "BOFT", "RandLoRA", "AdaLoRA", "Consolidator", "SNELL"}
    assert types == parametric | in_place | {"DiffFit", "AdapterBias"}


@pytest.mark.parametrize("name", CONFIGS)
def test_merged_checkpoint_loads_strictly(name, tmp_path):
    cfg = load_config(ROOT / f"configs/mini/{name}.py", "digits")
    torch.manual_seed(0)
    model = build_model(cfg)
    model.init_weights()
    adapter = save_adapter(perturb(model.eval(), 0.02), tmp_path / "adapter.safetensors")
    found = export_merged(cfg, str(adapter), str(tmp_path / "plain.pth"))
    assert found["merged"] <= 1e-10
    plain = build_model(plain_config(cfg)).eval()
    plain.load_state_dict(
        CheckpointLoader.load_checkpoint(str(tmp_path / "plain.pth"), "cpu")["state_dict"], strict=True
    )
    x = torch.randn(2, 3, 32, 32)
    expected = model(x, mode="tensor")
    torch.testing.assert_close(plain(x, mode="tensor"), expected, rtol=1e-4, atol=1e-4)
