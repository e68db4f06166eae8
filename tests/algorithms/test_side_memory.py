"""Memory classes as bytes: what autograd keeps for the backward pass."""

import pytest
import torch
from support.hosts import build, tokens

import vpeft
from vpeft.core.adaptation.find import get_adaptation


def saved_bytes(model, x):
    """Bytes of the tensors that autograd saves, parameters left out, each storage once."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    seen = {}

    def pack(t):
        storage = t.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage.nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        out = tokens(model, x)
    assert out.requires_grad
    return sum(seen.values())


ARCH = {"embed_dims": 64, "num_layers": 12, "num_heads": 4, "feedforward_channels": 256}


def bytes_of(method):
    model = build("mmpretrain.VisionTransformer", torch.float32, arch=ARCH, img_size=64, drop_path_rate=0.0)
    vpeft.attach(model, method)
    return saved_bytes(model.train(), torch.randn(4, 3, 64, 64)), model


def test_side_networks_keep_nothing_of_the_backbone():
    """Against LoRA of rank 1, whose memory is that of the backbone's activations alone."""
    floor, _ = bytes_of({"type": "LoRA", "rank": 1})
    half, _ = bytes_of({"type": "DTL", "rank": 1})
    assert half < 0.65 * floor  # blocks 7 to 11 of 12, and the side state of all
    for method in (
        {"type": "LAST", "rank": 4},
        {"type": "LST", "reduction": 8},
        {"type": "E3VA", "reduction": 8},
        {"type": "VQT", "prompt_length": 1},
    ):
        size, model = bytes_of(method)
        assert size < 0.5 * floor, method
        for block in get_adaptation(model).host.blocks:
            inner = [
                m for n, m in block.module.named_modules() if "peft" not in n.split(".") and not list(m.children())
            ]
            assert not any(m.training for m in inner)


@pytest.mark.parametrize("method", ["LST", "LAST", "E3VA"])
def test_frozen_blocks_run_without_a_graph(method):
    """No operation of the backbone's own modules leaves a graph, not only no gradient of its weights."""
    model = build("mmpretrain.VisionTransformer", torch.float32)
    vpeft.attach(model, method)
    graphs = []
    for block in get_adaptation(model).host.blocks:
        for name in ("norm1", "qkv", "proj", "norm2", "fc1", "fc2"):
            site = block.sites[name]
            site.module.register_forward_hook(lambda m, a, out: graphs.append(out.requires_grad))
    out = tokens(model.train(), torch.randn(2, 3, 32, 32))
    assert out.requires_grad
    assert len(graphs) == 18
    assert not any(graphs)


def test_dtl_needs_no_graph_below_the_first_changed_block():
    model = build("mmpretrain.VisionTransformer", torch.float32, arch=ARCH)
    vpeft.attach(model, "DTL")
    seen = []
    for block in get_adaptation(model).host.blocks:
        block.sites["fc2"].module.register_forward_hook(lambda m, a, out: seen.append(out.requires_grad))
    tokens(model.train(), torch.randn(2, 3, 32, 32))
    assert seen == [False] * 7 + [True] * 5


def test_vit_split_copies_the_blocks_of_the_base_and_lets_them_learn_slower():
    """Its deformable convolution without offsets is a plain one, and no gradient reaches the frozen blocks."""
    model = build("timm.VisionTransformer")
    vpeft.attach(model, {"type": "ViT-Split", "tuned": 2, "block_lr": 0.2})
    head = get_adaptation(model).host.backbone.peft["vit_split"]["head"]
    assert head.lr_factors == {"blocks": 0.2}
    for own, block in zip(head.blocks, model.blocks[1:], strict=True):
        assert type(own) is type(block).plain_class
        base = dict(block.named_parameters())
        assert all(torch.equal(param, base[name]) for name, param in own.named_parameters())
    conv = head.frozen[2]
    with torch.no_grad():
        conv.offsets.weight.zero_()
        conv.offsets.bias.zero_()
    x = torch.randn(2, 64, 5, 4, dtype=torch.float64)
    torch.testing.assert_close(conv(x), torch.nn.functional.conv2d(x, conv.weight, padding=1), rtol=1e-10, atol=1e-12)
    with pytest.raises(vpeft.UserError, match="tuned=3 must be less than the host's 3 blocks"):
        vpeft.attach(build("timm.VisionTransformer"), {"type": "ViT-Split", "tuned": 3})
