"""GLoRA's space, and what is cut out of its supernet."""

import json
import random
from pathlib import Path

import pytest
import torch
from support.hosts import build, perturb, tokens

import vpeft
from vpeft.apis.config.load import load_config
from vpeft.apis.run.prepare import prepare
from vpeft.apis.tune.noah import _population, cut_out, write_subnet
from vpeft.core.adaptation.find import get_adaptation
from vpeft.core.contract.subnets import find_space
from vpeft.core.models.build import build_model
from vpeft.core.trained.load import load_trained

ROOT = Path(__file__).parents[3]
HOST = "mmpretrain.VisionTransformer"
LETTERS = ("lvcn", "lvcn", "lvn", "vcn", "vcn")


def supernet(limit=None, host=HOST):
    model = perturb(vpeft.attach(build(host), {"type": "GLoRA", "rank": 3}))
    return model, find_space(get_adaptation(model).on_host.values(), {"limit": limit, "form_prob": 0.2})


@pytest.mark.parametrize("host", [HOST, "timm.SwinTransformer"])
def test_a_subnet_is_the_method_with_the_first_of_the_shared_tensors_and_merges(host):
    model, space = supernet(host=host)
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    subnet = space.draw(random.Random(3))
    whole = tokens(model, x)
    space.apply(subnet)
    out = tokens(model, x)
    alone = vpeft.attach(build(host), {"type": "GLoRA", "rank": 3, **space.fields(subnet)})
    state = model.state_dict()
    with torch.no_grad():
        for key, param in alone.named_parameters():
            if "peft" in key:
                param.copy_(state[key][tuple(slice(n) for n in param.shape)])
    torch.testing.assert_close(tokens(alone, x), out, rtol=1e-10, atol=1e-10)
    assert space.count(subnet) == sum(p.numel() for k, p in alone.named_parameters() if "peft" in k)
    for adapted in (alone, model):
        assert vpeft.merge(adapted) == []
        torch.testing.assert_close(tokens(adapted, x), out, rtol=1e-10, atol=1e-10)
    vpeft.unmerge(model)
    space.apply(space.largest)
    torch.testing.assert_close(tokens(model, x), whole, rtol=0, atol=0)


def test_draws_mutants_and_children_keep_to_the_forms():
    _, space = supernet()
    rng = random.Random(0)
    drawn = [space.draw(rng) for _ in range(60)]
    assert all(len(subnet) == 12 for subnet in drawn)
    found = [{word[i] for subnet in drawn for word in subnet} for i in range(5)]
    assert found == [set(letters) for letters in LETTERS]
    a, b = drawn[:2]
    changed = [
        old != new
        for _ in range(60)
        for pair in zip(a, space.mutate(a, rng), strict=True)
        for old, new in zip(*pair, strict=True)
    ]
    assert 0.2 * 2 / 3 - 0.03 < sum(changed) / len(changed) < 0.2 * 3 / 4 + 0.03  # some draws give the same form
    for child in (space.cross(a, b, rng) for _ in range(20)):
        assert all(c in pair for words in zip(child, a, b, strict=True) for c, *pair in zip(*words, strict=True))
    space.form_prob = 0.0
    assert space.mutate(a, rng) == a


def test_population_keeps_the_limit():
    _, space = supernet(limit=6000)
    settings = load_config(ROOT / "configs/mini/glora_supernet_nano_vit.py").noah
    population = _population(space, [], settings, random.Random(0))
    assert len(population) == len(set(population)) == settings.population
    assert all(0 < space.count(subnet) <= 6000 for subnet in population)


def test_a_supernet_in_some_blocks_has_subnets_there_alone():
    model = perturb(vpeft.attach(build(HOST), {"type": "GLoRA", "rank": 2, "blocks": "last 2"}))
    space = find_space(get_adaptation(model).on_host.values(), {})
    subnet = space.draw(random.Random(0))
    assert len(subnet) == 8
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    out = tokens(model, x)
    space.apply(subnet)
    assert not torch.equal(tokens(model, x), out)
    model = vpeft.attach(build(HOST), {"type": "GLoRA", "rank": {"block0": 2, "rest": 3}})
    with pytest.raises(vpeft.UserError, match="GLoRA: a supernet has the same sizes in all blocks"):
        find_space(get_adaptation(model).on_host.values(), {})


def test_a_supernet_with_paths_is_refused():
    adaptation = get_adaptation(vpeft.attach(build(HOST), {"type": "GLoRA", "paths": ["lvnvv"]}))
    with pytest.raises(vpeft.UserError, match="leave paths out"):
        find_space(adaptation.on_host.values(), {})


@pytest.mark.parametrize(
    ("paths", "said"), [(["lllv"], "five letters"), (["lllvv"] * 2, "2 words"), (["nnnnn"], "none")]
)
def test_wrong_paths_are_refused(paths, said):
    with pytest.raises(vpeft.UserError, match=rf"GLoRA: paths.*{said}"):
        vpeft.attach(build(HOST), {"type": "GLoRA", "paths": paths})


def test_the_subnet_is_cut_out_of_the_supernet(tmp_path):
    """The file of the subnet answers as the supernet does with the subnet in use, head included."""
    path = ROOT / "configs/mini/glora_supernet_nano_vit.py"
    cfg = prepare(load_config(path, "digits"), str(tmp_path / "supernet"), seed=0)
    model = build_model(cfg)
    model.init_weights()
    perturb(model.eval(), 0.02)
    file = vpeft.save_adapter(model, tmp_path / "supernet.safetensors", task="digits")
    adaptation = get_adaptation(model.backbone)
    space = find_space(adaptation.on_host.values(), cfg.noah)
    subnet = space.draw(random.Random(1))
    space.apply(subnet)
    config = write_subnet(cfg, str(path), space.fields(subnet), tmp_path / "subnet.py")
    alone = prepare(load_config(config, "digits"), str(tmp_path / "subnet"), seed=0)
    assert list(alone.model.backbone.method.paths) == json.loads(json.dumps(list(subnet)))
    cut_out(alone, str(file), tmp_path / "subnet" / "adapter.safetensors")
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = model(x, mode="tensor")
        got = load_trained(alone, str(tmp_path / "subnet" / "adapter.safetensors"))(x, mode="tensor")
    torch.testing.assert_close(got, expected)
