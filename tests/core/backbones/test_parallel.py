"""Blocks in which attention and MLP stand side by side, and linears that are slices of one weight."""

import copy

import pytest
import torch
from support.hosts import build, inputs, perturb, tokens, trained

import vpeft
from vpeft.apis.hf_peft import save_peft
from vpeft.core.adaptation.find import get_adaptation
from vpeft.core.backbones.sites.stated_linear import bias_size

VARIANTS = [f"timm.VisionTransformer/{name}" for name in ("parallel", "parallel-differential")]


@pytest.fixture(params=VARIANTS)
def host(request):
    return request.param


def images(host):
    return inputs(host, 8, torch.float64)


def test_both_branches_share_a_draw_of_drop_path(host):
    plain = build(host)
    model = vpeft.attach(copy.deepcopy(plain), {"type": "AdaptFormer", "drop": 0.0})  # adds nothing yet
    plain.train(), model.train()
    expected = tokens(plain, images(host))
    torch.testing.assert_close(tokens(model, images(host)), expected, rtol=1e-10, atol=1e-10)
    assert not torch.allclose(expected, tokens(plain.eval(), images(host)))


def test_both_units_read_the_stream_of_the_block(host):
    plain = build(host)
    model = perturb(vpeft.attach(copy.deepcopy(plain), "AdaptFormer"))
    adaptation = get_adaptation(model)
    block, x = adaptation.host.blocks[0], {}
    model.blocks[0].register_forward_hook(lambda _, given, out: x.update(given=given[0], out=out))
    tokens(model, images(host))
    adapter = block.sites["mlp_residual"].entries[0].module
    torch.testing.assert_close(x["out"], plain.blocks[0](x["given"]) + adapter(x["given"], block.module.peft_flow))


def test_a_slice_of_a_weight_is_counted_once(host):
    model = vpeft.attach(build(host), "BitFit")
    for block in get_adaptation(model).host.blocks:
        assert sum(bias_size(site.module) for site in block.sites.values()) == sum(
            p.numel() for key, p in block.module.named_parameters() if key.endswith("proj.bias") or key == "mlp_bias"
        )


def test_updates_of_rows_of_one_weight_add_up(host):
    model = vpeft.attach(build(host), {"type": "LoRA", "rank": 2, "targets": ["q", "v", "fc1"]})
    before, hidden, dim = model.blocks[0].in_proj.weight.clone(), model.blocks[0].in_split[0], model.embed_dim
    perturb(model)
    updates = {e.module for n in ("qkv", "fc1") for e in get_adaptation(model).host.blocks[0].sites[n].entries}
    matrices = sorted((u.affine()[0] for u in updates), key=len)
    vpeft.merge(model)
    fc1, qkv = matrices if hidden < 3 * dim else matrices[::-1]
    torch.testing.assert_close(model.blocks[0].in_proj.weight - before, torch.cat((fc1, qkv)))
    assert not qkv[dim : 2 * dim].any()


@pytest.mark.parametrize("method", ["AttentionTune", "MLPTune"])
def test_one_kind_of_layer_of_a_shared_linear_is_refused(host, method):
    with pytest.raises(vpeft.UserError, match="is of attention and MLP at once"):
        vpeft.attach(build(host), method)


def test_a_slice_is_not_kept_in_the_form_of_peft(host, tmp_path):
    model = vpeft.attach(build(host), "LoRA")
    assert trained(model)
    with pytest.raises(vpeft.UserError, match="is a part of a linear, which peft would adapt as a whole"):
        save_peft(model, tmp_path)


def test_gps_chooses_entries_in_each_slice(host):
    plain = build(host, drop_path_rate=0.0).train()
    x, y = images(host), torch.arange(8) % 5
    torch.nn.functional.cross_entropy(plain(x), y).backward()
    model = build(host, drop_path_rate=0.0)
    vpeft.attach(model, {"type": "GPS", "entries": 2, "selection": "cross_entropy"})
    vpeft.learn(model, [(x, y)])
    block, hidden = plain.blocks[1], plain.blocks[1].in_split[0]
    slices = {"fc1": block.in_proj.weight.grad[:hidden], "qkv": block.in_proj.weight.grad[hidden:]}
    if block.out_proj is not None:
        slices |= {"proj": block.out_proj.weight.grad[:, :-hidden], "fc2": block.out_proj.weight.grad[:, -hidden:]}
    for site, gradient in slices.items():
        expected = gradient.abs().argsort(dim=1, descending=True)[:, :2].sort(1).values
        assert torch.equal(model.state_dict()[f"blocks.1.peft.gps.{site}.index"], expected)
