"""Adapted models travel whole: pickle, torch.save, deepcopy, and into a fresh process."""

import copy
import os
import pickle
import subprocess
import sys

import pytest
import torch
from support.hosts import TINY, build, inputs, perturb, tokens

import vpeft


def adapted(host, method="LoRA"):
    return perturb(vpeft.attach(build(host, torch.float32), method))


@pytest.mark.parametrize("host", TINY)
def test_a_pickled_model_is_the_model(host):
    model = adapted(host)
    model.eval()
    x = inputs(host)
    twin = pickle.loads(pickle.dumps(model))
    assert type(twin) is type(model)
    assert torch.equal(tokens(twin, x), tokens(model, x))
    vpeft.merge(twin)
    torch.testing.assert_close(tokens(twin, x), tokens(model, x), atol=1e-4, rtol=1e-4)
    vpeft.unmerge(twin)
    assert torch.equal(tokens(twin, x), tokens(model, x))
    vpeft.detach(twin)
    assert type(twin) is type(build(host))
    with vpeft.disabled(model):
        # Without a graph torch's own attention takes another path.
        torch.testing.assert_close(tokens(twin, x), tokens(model, x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("method", ["VPTShallow", "LST", "DTL+", "KAdaptation", "DyT"])
def test_modules_that_refer_to_others_keep_their_references(method):
    model = adapted("timm.VisionTransformer", method).eval()
    x = torch.randn(2, 3, 32, 32)
    for twin in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        want = model(x)
        with torch.no_grad():
            for param in model.parameters():
                param.add_(0.01 * torch.ones_like(param))
        assert not torch.equal(model(x), want)
        assert torch.equal(twin(x), want)
        with torch.no_grad():
            for param, value in zip(model.parameters(), twin.parameters(), strict=True):
                param.copy_(value)


@pytest.mark.slow
def test_a_saved_model_loads_in_a_fresh_process(tmp_path):
    model = adapted("timm.VisionTransformer", "VPTShallow").eval()
    x = torch.randn(2, 3, 32, 32)
    torch.save(model, tmp_path / "model.pt")
    torch.save((x, model(x)), tmp_path / "seen.pt")
    code = (
        "import vpeft, torch; model = torch.load('model.pt', weights_only=False); x, want = torch.load('seen.pt'); "
        "assert torch.equal(model(x), want); vpeft.save_adapter(model, 'adapter.safetensors'); vpeft.detach(model); "
        "print(type(model).__module__)"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == "timm.models.vision_transformer"
    assert (tmp_path / "adapter.safetensors").is_file()
