"""mmengine's ``compile`` of a config: the steps of a run compiled, with what the run leaves as without."""

import pytest
import torch
from safetensors.torch import load_file
from test_run import config
from torch import _dynamo as dynamo

from vpeft.apis.run.train import train


@pytest.fixture(autouse=True)
def _fresh(caplog):
    caplog.set_level("INFO", "torch.__trace")  # pytest would keep every line of it
    dynamo.reset()
    dynamo.utils.counters.clear()
    yield
    dynamo.reset()


def test_a_compiled_run_learns_the_same(tmp_path):
    train(config("lora_nano_vit", tmp_path / "plain"))
    assert not dynamo.utils.counters["stats"]
    options = {"compile.backend": "eager", "feature_cache.limit": "1GB", "log_level": "INFO"}
    train(config("lora_nano_vit", tmp_path / "compiled", **options))
    assert dynamo.utils.counters["stats"]["unique_graphs"] > 0
    plain, compiled = (load_file(tmp_path / name / "adapter.safetensors") for name in ("plain", "compiled"))
    assert plain.keys() == compiled.keys()
    for name, value in plain.items():
        torch.testing.assert_close(compiled[name], value, rtol=1e-4, atol=1e-5)
    (log,) = (tmp_path / "compiled").glob("*/*.log")
    assert "the step is compiled" in log.read_text()
