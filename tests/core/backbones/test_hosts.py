"""The re-stated forward is the untouched backbone's, bit for bit; what is not re-stated is refused."""

import copy
from functools import partial

import open_clip
import pytest
import torch
from mmpretrain.models import ImageClassifier, VisionTransformer
from support.hosts import TINY, _tensors, build, inputs, tokens
from torch import nn

import vpeft
from vpeft.apis.testing.contract import check_pair
from vpeft.apis.testing.hosts.mmpretrain.vit import mm_vit
from vpeft.apis.testing.hosts.open_clip.vit import clip_vit
from vpeft.apis.testing.hosts.timm.vit import t_vit
from vpeft.apis.testing.hosts.torchvision.vit import tv_vit
from vpeft.core.backbones.find import find_host
from vpeft.core.backbones.roles import keepers, role
from vpeft.registry import BLOCKS, HOSTS

DENSE_AND_VIDEO = ["mmseg.VisionTransformer", "mmaction.VisionTransformer", "mmaction.SwinTransformer3D"]
CASES = [(host, variant) for host in TINY if "/" not in host for variant in TINY[host].variants]


def test_every_host_has_builders():
    assert {name.split("/")[0] for name in TINY} == set(HOSTS.module_dict)


def test_every_block_kind_is_gone_through():
    """Where none has it by itself, a variant of a host is named among its ``kinds``."""
    kinds = {block.kind for name in TINY for block in find_host(build(name, torch.float32)).blocks}
    assert kinds == set(BLOCKS.module_dict.values())


def test_every_output_is_read():
    """Of hosts that give tuples, or the mappings of transformers."""

    class Nested(nn.Module):
        def forward(self, x):
            return {"last_hidden_state": x, "hidden_states": (x[:, :1], [2 * x]), "attentions": None}

    x = torch.randn(2, 3, 4)
    assert torch.equal(tokens(Nested(), x), torch.cat([x.flatten(1), x[:, 0], 2 * x.flatten(1)], 1))
    assert tokens(nn.Identity(), x) is x


def gradients(model, images):
    images = images.clone().requires_grad_()
    out = tokens(model, images)
    (out * torch.arange(out.numel()).reshape(out.shape).cos()).sum().backward()
    grads = {k: p.grad for k, p in model.named_parameters() if p.grad is not None}
    return out.detach(), {**grads, "images": images.grad}


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize(("host", "variant"), CASES)
def test_untouched_host_is_bit_identical(host, variant, training):
    options, shape = TINY[host].variants[variant]
    plain = build(host, torch.float32, **options)
    sited = vpeft.attach(copy.deepcopy(plain), "Full")  # the sites are in use, nothing is placed
    assert type(sited) is not type(plain)
    assert isinstance(sited, type(plain))
    for model in (plain, sited):
        model.train(training)
    for _, module in keepers(plain):
        module.eval()  # an adapted host keeps the base's running statistics, in training too
    images = inputs(host, shape=shape)
    out, grads = gradients(plain, images)
    sited_out, sited_grads = gradients(sited, images)
    assert torch.equal(out, sited_out)
    unused = {p.name for p in sited.peft_adaptation.host.parameters() if p.role == "unused"}
    assert grads.keys() - unused == sited_grads.keys()
    for key in sited_grads:
        assert torch.equal(grads[key], sited_grads[key]), key
    heads = tuple(f"{name}." for name in sited.peft_adaptation.host.heads())
    trained = {key for key, p in sited.named_parameters() if p.requires_grad and not (heads and key.startswith(heads))}
    if trained - sited_grads.keys():  # timm pools, and norms what is pooled, ahead of its head
        sum(one.sum() for one in _tensors(sited(images))).backward()
    without = {key for key, p in sited.named_parameters() if key in trained and p.grad is None}
    assert not without, "is trained and leads to no output: its role is 'unused'"
    if training and "dropout" in variant:
        assert not torch.equal(out, tokens(plain, images, seed=1))


@pytest.mark.parametrize("host", [name for name in TINY if "/" not in name])
def test_an_output_norm_stands_behind_the_block_that_it_reads(host):
    for options, _ in TINY[host].variants.values():
        read = find_host(build(host, torch.float32, **options))
        norms = [read.last_block(name).index for name in read.output_norms]
        assert norms == (read.outputs if len(norms) > 1 else read.outputs[-1:] if norms else []), options


@pytest.mark.parametrize("host", [name for name in TINY if "/" not in name and "other-size" in TINY[name].variants])
def test_what_was_trained_at_another_size_is_loaded_and_merged(host, tmp_path):
    for number, check in enumerate(("4_merge", "5_files_and_detach")):
        (tmp_path / str(number)).mkdir()
        check_pair(check, f"{host}/other-size", {"type": "LoRA"}, tmp_path / str(number))


@pytest.mark.parametrize("host", ["mmpretrain.ConvNeXt", "mmpretrain.SwinTransformer", "mmpretrain.VisionTransformer"])
def test_blocks_that_lead_to_nothing_are_not_adapted(host):
    model = build(host, torch.float32, out_indices=(0,))
    with pytest.raises(vpeft.UserError, match=r"gives the outputs of blocks .* alone, and what is placed"):
        vpeft.attach(model, "LoRA")
    vpeft.attach(model, "Linear")
    vpeft.detach(model)
    (last,) = find_host(model).outputs
    vpeft.attach(model, {"type": "LoRA", "blocks": list(range(last + 1))})


def test_a_highway_of_branches_refuses_norms_between_them():
    with pytest.raises(vpeft.UserError, match="adds something else between its blocks"):
        vpeft.attach(build("mmpretrain.SwinTransformerV2/extra-norm", torch.float32), "E3VA")


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("host", ["timm.VisionTransformer", "timm.SwinTransformer"])
def test_fused_and_plain_attention(host, fused):
    plain = build(host, torch.float32)
    for module in plain.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = fused
    sited = vpeft.attach(copy.deepcopy(plain), "Full")
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(tokens(plain, images), tokens(sited, images))


@pytest.mark.parametrize("host", ["open_clip.VisionTransformer", "torchvision.VisionTransformer"])
def test_torchs_kernel_for_inference_is_taken_as_before(host):
    plain = build(host, torch.float32)
    sited = vpeft.attach(copy.deepcopy(plain), "Full")
    with torch.no_grad(), torch.profiler.profile() as profile:
        assert torch.equal(tokens(plain, inputs(host)), tokens(sited, inputs(host)))
    calls = [event.name for event in profile.events()].count("aten::_native_multi_head_attention")
    assert calls == 2 * len(find_host(plain).blocks)


def test_other_uses_of_torchs_attention_are_refused():
    model = clip_vit()
    model.transformer.resblocks[1] = open_clip.transformer.ResidualAttentionBlock(64, 4, is_cross_attention=True)
    with pytest.raises(vpeft.UserError, match=r"transformer\.resblocks\.1: cross attention"):
        vpeft.attach(model, "LoRA")
    model = tv_vit()
    model.encoder.layers[2].self_attention = nn.MultiheadAttention(64, 4, add_zero_attn=True)
    with pytest.raises(vpeft.UserError, match=r"encoder\.layers\.2: an nn\.MultiheadAttention with .*add_zero_attn"):
        vpeft.attach(model, "LoRA")
    masked = vpeft.attach(clip_vit(), "LoRA")
    with pytest.raises(vpeft.UserError, match="attention mask"):
        masked.transformer(torch.randn(1, 17, 64), attn_mask=torch.ones(17, 17, dtype=torch.bool))


def test_tokens_before_images_are_the_same_stream():
    """open_clip's blocks in the order of older releases."""
    model = clip_vit().double().eval()
    block = model.transformer.resblocks[0]
    x = torch.randn(17, 2, 64, dtype=torch.float64)
    vpeft.attach(model, "LoRA")
    model(torch.randn(2, 3, 32, 32, dtype=torch.float64))
    expected = block(x.transpose(0, 1)).transpose(0, 1)
    block.attn.batch_first = False
    torch.testing.assert_close(block(x), expected)


@pytest.mark.parametrize("host", TINY)
def test_map_size_prefix_and_block_order(host):
    model = build(host, torch.float32)
    view = find_host(model)
    assert [b.index for b in view.blocks] == list(range(len(view.blocks)))
    assert [b.stage for b in view.blocks] == sorted(b.stage for b in view.blocks)
    for block in view.blocks:
        into, out = block.size("fc1")  # both halves where the MLP is gated
        assert into == block.dim
        assert out == block.hidden or (out == 2 * block.hidden and block.sites["act"].module is None)
        if "qkv" in block.sites:
            assert block.size("qkv")[0] == block.dim_in
            assert block.inner % block.heads == 0
    vpeft.attach(model, "Full")
    model(inputs(host, 1))
    flow = model.peft_adaptation.host.flow
    assert (flow.grid, flow.prefix) == (TINY[host].grid, TINY[host].prefix)


@pytest.mark.parametrize(
    "norm",
    [
        nn.LayerNorm(4),
        nn.GroupNorm(2, 4),
        nn.RMSNorm(4),  # its epsilon is None, that of its dtype
        nn.RMSNorm(4, eps=1e-6),
        nn.BatchNorm1d(4),
        nn.SyncBatchNorm(4),
    ],
)
def test_a_norm_has_the_role_of_a_norm(norm):
    for name, _ in norm.named_parameters():
        assert role(norm, name) == f"norm_{name}"


def test_every_parameter_has_a_role():
    for host in TINY:
        model = build(host, torch.float32)
        view = find_host(model)
        roles = {p.role for p in view.parameters()}
        assert "other" not in roles
        names = {p.name for p in view.parameters()}
        heads = tuple(f"{h}." for h in view.heads())
        assert names == {k for k, _ in model.named_parameters() if not (heads and k.startswith(heads))}
    roles = {p.name: p.role for p in find_host(build("mmpretrain.SwinTransformer")).parameters()}
    assert roles["stages.0.blocks.0.attn.w_msa.relative_position_bias_table"] == "rel_pos_bias"
    assert roles["stages.0.downsample.norm.weight"] == "norm_weight"
    roles = {p.name: p.role for p in find_host(build("timm.VisionTransformer", init_values=0.1)).parameters()}
    assert roles["blocks.0.ls1.gamma"] == "layer_scale"
    assert roles["pos_embed"] == "pos_embed"
    assert roles["blocks.1.norm1.bias"] == "norm_bias"


def test_a_host_inside_a_model_is_found():
    head = {"type": "mmpretrain.LinearClsHead", "num_classes": 3, "in_channels": 64}
    model = ImageClassifier(backbone=mm_vit(out_type="cls_token"), head=head)
    vpeft.attach(model, "LoRA")
    trained = {k for k, p in model.named_parameters() if p.requires_grad}
    assert {k.split(".")[0] for k in trained} == {"backbone", "head"}


class Derived(VisionTransformer):
    """Another backbone, for all we know; its blocks are known where they are the same."""


def test_what_is_not_restated_is_refused():
    model = Derived(arch=vars(mm_vit())["arch_settings"], img_size=32, patch_size=8)
    assert find_host(model).registered_name() == "backbone of mmpretrain.TransformerEncoderLayer"
    for block in model.layers:
        block.__class__ = type("OtherLayer", (type(block),), {})
    with pytest.raises(vpeft.UserError, match=r"derives from mmpretrain.*Hosts: mmaction\.MViT, "):
        vpeft.attach(model, "AdaptFormer")
    with pytest.raises(vpeft.UserError, match="no host found in Linear"):
        vpeft.attach(nn.Linear(2, 2), "LoRA")
    model = t_vit()

    class OtherAttention(type(model.blocks[0].attn)):
        pass

    model.blocks[1].attn.__class__ = OtherAttention
    with pytest.raises(vpeft.UserError, match=r"blocks\.1\.attn is a .*OtherAttention"):
        vpeft.attach(model, "LoRA")
    with pytest.raises(vpeft.UserError, match="patch_drop_rate"):
        vpeft.attach(t_vit(patch_drop_rate=0.5), "LoRA")
    masked = vpeft.attach(t_vit(), "LoRA")
    with pytest.raises(vpeft.UserError, match="a causal pass"):
        masked.forward_features(torch.randn(1, 3, 32, 32), is_causal=True)


@pytest.mark.parametrize("host", ["mmdet.SwinTransformer", "mmseg.SwinTransformer", *DENSE_AND_VIDEO])
def test_a_derived_block_of_a_dense_or_video_host_is_refused(host):
    model = build(host, torch.float32)
    block = find_host(model).blocks[1].module

    class OtherBlock(type(block)):
        pass

    block.__class__ = OtherBlock
    with pytest.raises(vpeft.UserError, match=r"OtherBlock, and only the forward of .* is re-stated"):
        vpeft.attach(model, "LoRA")


@pytest.mark.parametrize(
    ("host", "options", "words"),
    [
        ("mmseg.VisionTransformer", {"num_fcs": 3}, "num_fcs=3"),
        ("mmaction.SwinTransformer3D", {"out_after_downsample": True}, "out_after_downsample"),
        ("mmaction.TimeSformer", {"attention_type": "space_only"}, "attention_type='space_only'"),
        ("open_clip.VisionTransformer", {"patch_dropout": 0.5}, "patch_dropout"),
        ("open_clip.VisionTransformer", {"attentional_pool": "parallel"}, "two poolings"),
    ],
)
def test_an_option_that_is_not_stated_is_refused(host, options, words):
    with pytest.raises(vpeft.UserError, match=words):
        vpeft.attach(build(host, torch.float32, **options), "LoRA")


def test_a_class_token_that_is_cut_off_again_is_not_trained():
    for own in (True, False):
        model = vpeft.attach(build("mmseg.VisionTransformer", with_cls_token=own), "Full")
        assert model.cls_token.requires_grad == own


def test_a_tensor_without_numbers_is_not_trained():
    model = vpeft.attach(build("transformers.DINOv3ViTModel/no-registers"), "Full")
    assert model.embeddings.register_tokens.numel() == 0
    assert not model.embeddings.register_tokens.requires_grad


def test_what_is_no_module_is_named():
    model = build("mmpretrain.ConvNeXt")
    for call in (partial(vpeft.attach, cfg="LoRA"), vpeft.merge, vpeft.detach):
        with pytest.raises(vpeft.UserError, match=r"a model is expected, and this is None: .*\.eval\(\)"):
            call(model.eval())  # which this class does not return
    with pytest.raises(vpeft.UserError, match="a model is expected, and this is of the class OrderedDict"):
        vpeft.attach(model.state_dict(), "LoRA")
