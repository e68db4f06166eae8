"""What a method draws once and never trains is drawn by its seed alone."""

import pytest
import torch
from support.hosts import build

import vpeft
from vpeft.core.adaptation.find import get_adaptation

HOST = "mmpretrain.VisionTransformer"


@pytest.mark.parametrize(
    ("method", "settings"), [("VeRA", {"rank": 4}), ("FourierFT", {"frequencies": 20}), ("RandLoRA", {"rank": 4})]
)
def test_the_seed_draws_what_is_frozen(method, settings):
    def drawn(seed, around):
        torch.manual_seed(around)
        model = vpeft.attach(build(HOST), {"type": method, "seed": seed, **settings})
        host = get_adaptation(model).host
        found = {key: value for key, value in host.backbone.state_dict().items() if ".peft." in f".{key}"}
        trained = {name for name, _ in model.named_parameters()}
        return torch.cat([value.double().flatten() for key, value in sorted(found.items()) if key not in trained])

    one, again, other = drawn(1, 0), drawn(1, 5), drawn(2, 0)
    assert one.numel()
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
