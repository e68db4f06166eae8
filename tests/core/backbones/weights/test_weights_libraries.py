"""Files of the libraries, written with random weights: loaded as the library itself loads them."""

import logging
import re

import open_clip
import pytest
import timm
import torch
import torchvision
import transformers
from mmpretrain.models import ConvNeXt
from open_clip.model import CLIPTextCfg, CLIPVisionCfg
from safetensors.torch import save_file
from support.weight_files import SMALL, meta_dinov2, meta_dinov3, meta_sam, randomise, save_torch
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformerBlockV2
from torchvision.models.vision_transformer import interpolate_embeddings

from vpeft.core.backbones.weights import load_pretrained
from vpeft.errors import UserError

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
}
PYRAMID = {"hidden_sizes": [8, 16, 16, 16], "depths": [1, 1, 1, 1]}
TEXT = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "vocab_size": 9,
    "max_position_embeddings": 8,
}
SAM = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "mlp_dim": 64,
    "image_size": 64,
    "patch_size": 8,
    "window_size": 4,
    "global_attn_indexes": [1],
    "output_channels": 16,
}
SWIN = {
    "image_size": 32,
    "patch_size": 2,
    "embed_dim": 16,
    "depths": [1, 1],
    "num_heads": [2, 4],
    "window_size": 4,
}
HF = transformers
#: Config of a file's model, its class, the class that it is loaded into, and options of the latter.
HF_FILES = {
    "vit": (HF.ViTConfig(**SIZES), HF.ViTForImageClassification, HF.ViTModel, {"add_pooling_layer": False}),
    "vit_mae": (HF.ViTMAEConfig(**SIZES), HF.ViTMAEForPreTraining, HF.ViTMAEModel, {}),
    "deit": (HF.DeiTConfig(**SIZES), HF.DeiTForImageClassification, HF.DeiTModel, {"add_pooling_layer": False}),
    "dinov2": (HF.Dinov2Config(**SIZES), HF.Dinov2ForImageClassification, HF.Dinov2Model, {}),
    "dinov2_backbone": (HF.Dinov2Config(**SIZES), HF.Dinov2Model, HF.Dinov2Backbone, {}),
    "registers": (
        HF.Dinov2WithRegistersConfig(**SIZES),
        HF.Dinov2WithRegistersForImageClassification,
        HF.Dinov2WithRegistersModel,
        {},
    ),
    "dinov3": (HF.DINOv3ViTConfig(**SIZES, num_register_tokens=4), HF.DINOv3ViTModel, HF.DINOv3ViTModel, {}),
    "dinov3_convnext": (HF.DINOv3ConvNextConfig(**PYRAMID), HF.DINOv3ConvNextModel, HF.DINOv3ConvNextModel, {}),
    "clip": (
        HF.CLIPConfig(text_config=TEXT, vision_config=SIZES),
        HF.CLIPModel,
        HF.CLIPVisionModel,
        {},
    ),
    "siglip": (
        HF.SiglipConfig(text_config=TEXT, vision_config=SIZES),
        HF.SiglipModel,
        HF.SiglipVisionModel,
        {},
    ),
    "sam": (HF.SamConfig(vision_config=SAM), HF.SamModel, HF.SamVisionModel, {}),
    "beit": (
        HF.BeitConfig(**SIZES, use_relative_position_bias=True),
        HF.BeitForImageClassification,
        HF.BeitModel,
        {},
    ),
    "swin": (HF.SwinConfig(**SWIN), HF.SwinForImageClassification, HF.SwinModel, {"add_pooling_layer": False}),
    "swin_backbone": (HF.SwinConfig(**SWIN), HF.SwinForImageClassification, HF.SwinBackbone, {}),
    "swinv2": (HF.Swinv2Config(**SWIN), HF.Swinv2ForImageClassification, HF.Swinv2Model, {"add_pooling_layer": False}),
    "convnextv2": (HF.ConvNextV2Config(**PYRAMID), HF.ConvNextV2ForImageClassification, HF.ConvNextV2Model, {}),
}


def equal(model, other):
    """Whether two models hold the same values."""
    own, theirs = model.state_dict(), other.state_dict()
    return own.keys() == theirs.keys() and all(torch.equal(own[key], theirs[key]) for key in own)


@pytest.mark.parametrize("name", HF_FILES)
def test_a_folder_of_transformers(tmp_path, name):
    config, theirs, ours, options = HF_FILES[name]
    torch.manual_seed(0)
    randomise(theirs(config)).save_pretrained(tmp_path)
    reference = ours.from_pretrained(tmp_path, **options)
    model = ours(reference.config, **options)
    report = load_pretrained(model, tmp_path)
    assert report.missing == report.unexpected == []
    assert {*report.loaded, *report.kept} == {k for k, v in model.state_dict().items() if v.is_floating_point()} | {
        key for key in report.loaded if not model.state_dict()[key].is_floating_point()
    }
    assert all(key.startswith("hidden_states_norms.") for key in report.kept)
    assert equal(model, reference)


def test_parts_of_pretraining_and_of_other_tasks(tmp_path):
    config = HF.SwinConfig(**SWIN)
    masked = randomise(HF.SwinForMaskedImageModeling(HF.SwinConfig(**SWIN, encoder_stride=4)))
    masked.save_pretrained(tmp_path)
    model = HF.SwinModel(config, add_pooling_layer=False)
    report = load_pretrained(model, tmp_path)
    assert report.left_out["swin.embeddings.mask_token"] == "decoder of masked pretraining"
    assert report.left_out["decoder.0.weight"] == "outside 'swin.'"
    assert torch.equal(model.layernorm.weight, masked.swin.layernorm.weight)
    # The other way round the token keeps its start; of an image and text model the part that sees goes in.
    assert load_pretrained(masked, save_torch(model.state_dict(), tmp_path / "swin.bin")).kept[0].endswith("mask_token")
    both = HF.CLIPConfig(text_config=TEXT, vision_config=SIZES)
    clip, model = randomise(HF.CLIPModel(both)), HF.CLIPForImageClassification(both)
    report = load_pretrained(model, save_torch(clip.state_dict(), tmp_path / "clip.bin"))
    assert report.kept == ["classifier.weight", "classifier.bias"]
    assert equal(model.vision_model, clip.vision_model)
    # Positions that old files hold are worked out.
    state = {**clip.state_dict(), "vision_model.embeddings.position_ids": torch.arange(17)[None]}
    report = load_pretrained(HF.CLIPVisionModel(both.vision_config), save_torch(state, tmp_path / "old.bin"))
    assert report.left_out["vision_model.embeddings.position_ids"] == "buffer, worked out from the sizes"


def test_a_bare_file_into_a_model_for_a_task(tmp_path):
    config = HF.Dinov2Config(**SIZES, num_labels=7)
    bare = randomise(HF.Dinov2Model(config))
    bare.save_pretrained(tmp_path, safe_serialization=False)
    model = HF.Dinov2ForImageClassification(config)
    start = model.classifier.weight.clone()
    report = load_pretrained(model, tmp_path / "pytorch_model.bin")
    assert report.kept == ["classifier.weight", "classifier.bias"]
    assert "at their start: classifier.weight, classifier.bias" in str(report)
    assert equal(model.dinov2, bare)
    assert torch.equal(model.classifier.weight, start)
    # A head of another number of classes is left out, one of the same is loaded.
    randomise(model).save_pretrained(tmp_path)
    other = HF.Dinov2ForImageClassification(HF.Dinov2Config(**SIZES, num_labels=3))
    report = load_pretrained(other, tmp_path)
    assert set(report.left_out) == {"classifier.weight", "classifier.bias"}
    assert equal(other.dinov2, model.dinov2)
    same = HF.Dinov2ForImageClassification(config)
    assert load_pretrained(same, tmp_path).kept == []
    assert equal(same, model)


def test_what_a_model_does_without_is_left_out(tmp_path):
    # The pooler of a bare file has no place in a model for a task.
    bare = randomise(HF.ViTModel(HF.ViTConfig(**SIZES)))
    model = HF.ViTForImageClassification(HF.ViTConfig(**SIZES))
    report = load_pretrained(model, save_torch(bare.state_dict(), tmp_path / "vit.bin"))
    assert report.left_out == dict.fromkeys(["pooler.dense.weight", "pooler.dense.bias"], "part that the model lacks")
    assert torch.equal(model.vit.layernorm.weight, bare.layernorm.weight)
    # So has a classifier where there is none.
    options = {"depths": (1, 1, 1, 1), "dims": (8, 8, 16, 16)}
    source = randomise(timm.create_model("convnext_atto", num_classes=3, **options))
    path = save_torch(source.state_dict(), tmp_path / "convnext.pth")
    model = timm.create_model("convnext_atto", num_classes=0, **options)
    assert set(load_pretrained(model, path).left_out) == {"head.fc.weight", "head.fc.bias"}
    assert torch.equal(model.head.norm.weight, source.head.norm.weight)
    model = timm.create_model("convnext_atto", features_only=True, **options)
    load_pretrained(model, path)
    assert torch.equal(model.stages_1.blocks[0].mlp.fc1.weight, source.stages[1].blocks[0].mlp.fc1.weight)
    vit = randomise(timm.create_model("test_vit"))
    maps = timm.create_model("test_vit", features_only=True)
    report = load_pretrained(maps, save_torch(vit.state_dict(), tmp_path / "vit.pth"))
    assert set(report.left_out) == {"norm.weight", "norm.bias", "head.weight", "head.bias"}
    assert torch.equal(maps.model.blocks[0].mlp.fc1.weight, vit.blocks[0].mlp.fc1.weight)


def test_a_file_in_parts(tmp_path):
    source = randomise(HF.ViTModel(HF.ViTConfig(**SIZES), add_pooling_layer=False))
    source.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    model = HF.ViTModel(source.config, add_pooling_layer=False)
    load_pretrained(model, tmp_path)
    assert equal(model, source)
    first = sorted(tmp_path.glob("*.safetensors"))[0]
    first.unlink()
    with pytest.raises(UserError, match=f"names {first.name}, which do not lie beside it"):
        load_pretrained(model, tmp_path)


def test_what_lacks_or_is_left_over_is_named(tmp_path):
    source = randomise(HF.ViTModel(HF.ViTConfig(**SIZES)))
    state = source.state_dict()
    bare = {key: value for key, value in state.items() if not key.startswith("pooler.")}
    path = save_torch(bare, tmp_path / "bare.bin")
    with pytest.raises(UserError, match=r"lacks pooler\.dense\.weight, pooler\.dense\.bias\."):
        load_pretrained(source, path)
    state["encoder.layer.2.output.dense.weight"] = torch.ones(2)
    state.pop("encoder.layer.1.layernorm_before.bias")
    before = {key: value.clone() for key, value in source.state_dict().items()}
    with pytest.raises(UserError) as caught:
        load_pretrained(source, save_torch(state, tmp_path / "other.bin"))
    message = str(caught.value)
    assert "it lacks encoder.layer.1.layernorm_before.bias and has encoder.layer.2.output.dense.weight with" in message
    assert "\n" not in message
    assert all(torch.equal(value, before[key]) for key, value in source.state_dict().items())
    wide = HF.ViTModel(HF.ViTConfig(**{**SIZES, "intermediate_size": 32}))
    with pytest.raises(UserError, match=r"6 of 40 tensors have the wrong shape, first encoder\.layer\.0"):
        load_pretrained(wide, save_torch(source.state_dict(), tmp_path / "vit.bin"))


def test_settings_of_the_folder_that_change_the_function(tmp_path):
    source = HF.ViTModel(HF.ViTConfig(**SIZES, hidden_dropout_prob=0.1), add_pooling_layer=False)
    source.save_pretrained(tmp_path)
    other = HF.ViTModel(HF.ViTConfig(**{**SIZES, "num_attention_heads": 2}), add_pooling_layer=False)
    with pytest.raises(UserError, match=r"config\.json beside it has num_attention_heads=4 \(the model's is 2\)"):
        load_pretrained(other, tmp_path)
    report = load_pretrained(other, tmp_path / "model.safetensors", strict=False)
    assert report.differing == ["num_attention_heads=4 (the model's is 2)"]
    assert "OTHER SETTINGS" in str(report)


def test_two_towers_with_the_same_names(tmp_path):
    model = HF.ViTModel(HF.ViTConfig(**SIZES), add_pooling_layer=False)
    both = {f"{tower}.{key}": value for tower in ("teacher", "student") for key, value in model.state_dict().items()}
    path = save_torch(both, tmp_path / "both.pth")
    with pytest.raises(UserError, match=r"below 'teacher\.', 'student\.': say which by prefix"):
        load_pretrained(model, path)
    assert load_pretrained(model, path, prefix="student").missing == []


# timm -----------------------------------------------------------------------------------------------------------------


def from_timm(model):
    """What timm's own loading makes of a state dict: a model as ``model``, with those weights."""

    def load(state):
        cfg = {**model.pretrained_cfg, "state_dict": dict(state), "num_classes": model.num_classes}
        return timm.create_model(
            model.pretrained_cfg["architecture"], pretrained=True, pretrained_cfg=cfg, **model.options
        )

    return load


def timm_model(name, **options):
    model = timm.create_model(name, **options)
    model.options = options
    return model


def clip_visual(model):
    """An EVA tower as open_clip writes it, below ``visual.trunk.``."""
    state = {f"visual.trunk.{key}": value for key, value in model.state_dict().items()}
    return {**state, "text.token_embedding.weight": torch.ones(2, 2), "logit_scale": torch.ones(())}


def official_convnext(model):
    """A timm ConvNeXt as Facebook writes it."""
    state = {}
    for key, value in model.state_dict().items():
        key = re.sub(r"^stem\.", "downsample_layers.0.", key)
        key = re.sub(r"^stages\.(\d)\.downsample", r"downsample_layers.\1", key)
        key = re.sub(r"^(stages\.\d)\.blocks", r"\1", key).replace("conv_dw", "dwconv").replace("mlp.fc", "pwconv")
        state[key.replace("head.norm.", "norm.").replace("head.fc.", "head.")] = value
    return state


def official_swinv2(model):
    """A timm Swin V2 as Microsoft writes it: a merging at the end of the stage before, and tables as buffers."""
    state = {}
    for key, value in model.state_dict().items():
        key = re.sub(r"^layers\.(\d)\.downsample", lambda found: f"layers.{int(found[1]) - 1}.downsample", key)
        state[key.replace("head.fc.", "head.")] = value
    return {**state, "layers.0.blocks.0.attn.relative_position_index": torch.ones(2, 2)}


def official_beit(model):
    """A timm BEiT as Microsoft writes it, with an index and below ``module``."""
    return {**model.state_dict(), "blocks.0.attn.relative_position_index": torch.ones(2, 2)}


TIMM_FILES = {
    "vit_small_patch14_dinov2": (meta_dinov2, {**SMALL, "img_size": 56}),
    "vit_small_patch14_reg4_dinov2": (meta_dinov2, {**SMALL, "img_size": 56}),
    "vit_small_patch16_dinov3": (meta_dinov3, {**SMALL, "img_size": 32}),
    "vit_small_plus_patch16_dinov3": (meta_dinov3, {**SMALL, "img_size": 32}),
    "samvit_base_patch16": (meta_sam, {**SMALL, "img_size": 64, "global_attn_indexes": (1,), "neck_chans": 16}),
    "eva02_tiny_patch14_224": (clip_visual, {**SMALL, "img_size": 56}),
    "vit_base_patch16_siglip_224": (clip_visual, {**SMALL, "img_size": 32}),
    "convnext_atto": (official_convnext, {"depths": (1, 1, 1, 1), "dims": (8, 8, 16, 16), "num_classes": 3}),
    "swinv2_tiny_window8_256": (
        official_swinv2,
        {"img_size": 64, "window_size": 4, "embed_dim": 16, "depths": (1, 1), "num_heads": (1, 2), "num_classes": 0},
    ),
    "beit_base_patch16_224": (official_beit, {**SMALL, "img_size": 32}),
}


@pytest.mark.parametrize("name", TIMM_FILES)
def test_original_files_into_timm(tmp_path, name):
    write, options = TIMM_FILES[name]
    source = timm_model(name, **options)
    randomise(source)
    state = {key: value.clone().contiguous() for key, value in write(source).items()}
    reference = from_timm(source)(state)
    model = timm_model(name, **options)
    save_file(state, tmp_path / "model.safetensors")
    report = load_pretrained(model, tmp_path / "model.safetensors")
    assert report.missing == report.unexpected == report.kept == []
    assert equal(model, reference)


def test_another_grid_is_resized_by_timm(tmp_path):
    source = timm_model("vit_base_patch16_siglip_224", **{**SMALL, "img_size": 64})
    path = save_torch(clip_visual(randomise(source)), tmp_path / "clip.bin")
    model = timm_model("vit_base_patch16_siglip_224", **{**SMALL, "img_size": 32})
    report = load_pretrained(model, path)
    assert report.format == "timm's own converter reads it"
    assert equal(model, from_timm(model)(clip_visual(source)))
    assert report.resized == {"pos_embed": ((1, 16, 64), (1, 4, 64))}  # below visual.trunk. in the file
    assert "1 position tables resized (pos_embed (1, 16, 64) to (1, 4, 64), ...)" in str(report)


@pytest.mark.parametrize("written_as", [timm.models.VisionTransformer.state_dict, clip_visual])
def test_another_patch_size_is_a_warning(tmp_path, caplog, written_as):
    """timm resamples the kernel by itself and says so to nobody who asked for the weights."""
    source = randomise(timm_model("vit_base_patch16_siglip_224", **{**SMALL, "img_size": 32, "patch_size": 8}))
    model = timm_model("vit_base_patch16_siglip_224", **{**SMALL, "img_size": 64, "patch_size": 16})
    logger = logging.getLogger("weights")
    path = save_torch(written_as(source), tmp_path / "vit.pth")
    report = load_pretrained(model, path, logger=logger)
    assert report.resized == {"patch_embed.proj.weight": ((64, 3, 8, 8), (64, 3, 16, 16))}
    (record,) = [one for one in caplog.records if one.name == "weights"]
    assert record.levelname == "WARNING"
    assert "1 KERNELS RESAMPLED TO ANOTHER PATCH SIZE (patch_embed.proj.weight (64, 3, 8, 8) to" in record.message


def test_sam_2_below_a_prefix(tmp_path):
    source = randomise(timm.create_model("hieradet_small", embed_dim=16, stages=(1, 1, 1, 1), num_heads=1))
    state = {
        key.replace("mlp.fc1", "mlp.layers.0").replace("mlp.fc2", "mlp.layers.1"): value
        for key, value in source.state_dict().items()
    }
    whole = {f"image_encoder.trunk.{key}": value for key, value in state.items()}
    path = save_torch(
        {"model": {**whole, "image_encoder.neck.convs.0.conv.weight": torch.ones(2)}}, tmp_path / "sam2.pt"
    )
    model = timm.create_model("hieradet_small", embed_dim=16, stages=(1, 1, 1, 1), num_heads=1)
    load_pretrained(model, path)
    assert equal(model, source)


# open_clip, torchvision, OpenMMLab ------------------------------------------------------------------------------------


def clip(image_size=32, **vision):
    tower = CLIPVisionCfg(
        **{"layers": 2, "width": 32, "head_width": 8, "patch_size": 8, "image_size": image_size, **vision}
    )
    kind = open_clip.CustomTextCLIP if vision else open_clip.CLIP
    return kind(16, tower, CLIPTextCfg(layers=1, width=16, heads=2, vocab_size=9, context_length=8))


@pytest.mark.parametrize("image_size", [32, 64])
def test_a_file_of_open_clip_into_its_tower(tmp_path, image_size):
    source = randomise(clip())
    path = save_torch({"state_dict": {f"module.{k}": v for k, v in source.state_dict().items()}}, tmp_path / "clip.pt")
    reference = clip(image_size)
    open_clip.factory.load_checkpoint(reference, str(path))
    tower = clip(image_size).visual
    report = load_pretrained(tower, path)
    assert equal(tower, reference.visual)
    assert (
        image_size == 64 or report.left_out["module.transformer.resblocks.0.ln_1.weight"] == "outside 'module.visual.'"
    )
    whole = clip()
    load_pretrained(whole, path)
    assert equal(whole, source)


def test_a_trunk_of_timm_in_open_clip(tmp_path):
    options = {"timm_model_name": "test_vit", "timm_pool": "", "timm_proj": "linear"}
    source = randomise(clip(160, **options))
    save_file({key: value.contiguous() for key, value in source.state_dict().items()}, tmp_path / "model.safetensors")
    tower = clip(160, **options).visual
    load_pretrained(tower, tmp_path)
    assert equal(tower, source.visual)
    load_pretrained(tower.trunk, tmp_path)
    assert equal(tower.trunk, source.visual.trunk)


TORCHVISION = {
    "vit": lambda **o: torchvision.models.VisionTransformer(
        **{
            "image_size": 32,
            "patch_size": 8,
            "num_layers": 2,
            "num_heads": 4,
            "hidden_dim": 32,
            "mlp_dim": 64,
            "num_classes": 5,
            **o,
        }
    ),
    "swin": lambda **o: torchvision.models.SwinTransformer(
        **{
            "patch_size": [2, 2],
            "embed_dim": 16,
            "depths": [1, 1],
            "num_heads": [2, 4],
            "window_size": [4, 4],
            "num_classes": 5,
            **o,
        }
    ),
    "swin_v2": lambda **o: TORCHVISION["swin"](block=SwinTransformerBlockV2, downsample_layer=PatchMergingV2, **o),
    "convnext": lambda **o: torchvision.models.ConvNeXt(
        [CNBlockConfig(8, 16, 1), CNBlockConfig(16, None, 1)], **{"num_classes": 5, **o}
    ),
}


@pytest.mark.parametrize("name", TORCHVISION)
def test_a_file_of_torchvision(tmp_path, name):
    source = randomise(TORCHVISION[name]())
    path = save_torch(source.state_dict(), tmp_path / "model.pth")
    model = TORCHVISION[name]()
    report = load_pretrained(model, path)
    assert report.kept == []
    assert equal(model, source)
    other = TORCHVISION[name](num_classes=3)
    report = load_pretrained(other, path)
    assert len(report.left_out) == len(report.kept) == 2
    with torch.no_grad():
        x = torch.randn(2, 3, 32, 32)
        for each in (model, other):
            each.heads = each.head = each.classifier = torch.nn.Identity()
            each.eval()
        assert torch.equal(model(x), other(x))


def test_another_grid_is_resized_by_torchvision(tmp_path):
    source = randomise(TORCHVISION["vit"]())
    model = TORCHVISION["vit"](image_size=64)
    reference = TORCHVISION["vit"](image_size=64)
    reference.load_state_dict(interpolate_embeddings(64, 8, source.state_dict()))
    report = load_pretrained(model, save_torch(source.state_dict(), tmp_path / "vit.pth"))
    assert equal(model, reference)
    assert list(report.resized) == ["encoder.pos_embedding"]


def test_a_backbone_of_openmmlab_by_its_own_names(tmp_path):
    source = randomise(ConvNeXt(arch={"depths": [1, 1], "channels": [8, 16]}, out_indices=(1,)))
    whole = {f"backbone.{key}": value for key, value in source.state_dict().items()} | {"head.fc.weight": torch.ones(2)}
    model = ConvNeXt(arch={"depths": [1, 1], "channels": [8, 16]}, out_indices=(1,))
    report = load_pretrained(model, save_torch({"state_dict": whole}, tmp_path / "convnext.pth"))
    assert report.format == "ConvNeXt's own names"
    assert report.left_out == {"head.fc.weight": "outside 'backbone.'"}
    assert equal(model, source)


def test_a_program_is_no_weight_file(tmp_path):
    torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)).save(tmp_path / "clip.pt")
    with pytest.raises(UserError, match=r"other than tensors \(a TorchScript program\).*save only its weights anew"):
        load_pretrained(torch.nn.Linear(2, 2), tmp_path / "clip.pt")
