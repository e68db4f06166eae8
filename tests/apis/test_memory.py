"""The memory of training, worked out on the meta device, against what a small model really keeps."""

import pytest
import timm
import torch

import vpeft
from vpeft.apis.memory import training_memory
from vpeft.core.backbones.kept.few_bits import FewBits
from vpeft.core.models.build import meta_build
from vpeft.errors import UserError

LORA = {"type": "LoRA", "rank": 4}
#: A plain MLP, and rotary positions with a gated one.
MODELS = {
    "vit": ("vit_tiny_patch16_224", {"img_size": 64, "depth": 4, "num_classes": 0}),
    "dinov3": (
        "vit_7b_patch16_dinov3",
        {"img_size": 64, "embed_dim": 128, "depth": 4, "num_heads": 4, "num_classes": 0},
    ),
}


def worked_out(name, **options):
    with meta_build():
        model = timm.create_model(MODELS[name][0], **MODELS[name][1])
    return training_memory(model, LORA, 64, **options)


def built(name, base_dtype=None):
    model = timm.create_model(MODELS[name][0], **MODELS[name][1])
    return vpeft.attach(model, LORA, base_dtype=base_dtype).train()


@pytest.mark.parametrize("kind", [None, "bfloat16", "int8", ["int4", "bfloat16"]])
@pytest.mark.parametrize("name", MODELS)
def test_weights_and_adapter(name, kind):
    model, found = built(name, kind), worked_out(name, base_dtype=kind)
    frozen = [p for p in model.parameters() if not p.requires_grad]
    assert found.frozen == sum(p.stored_bytes() if isinstance(p, FewBits) else p.nbytes for p in frozen)
    trained = sum(p.nbytes for p in model.parameters() if p.requires_grad)
    assert (found.adapter, found.optimiser) == (2 * trained, 2 * trained)


@pytest.mark.parametrize("name", MODELS)
def test_activations(name):
    model, kept = built(name), {}
    static = {p.untyped_storage().data_ptr() for p in (*model.parameters(), *model.buffers())}
    x = torch.randn(2, 3, 64, 64)

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in {*static, x.untyped_storage().data_ptr()}:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = model(x)
    found = worked_out(name, batch=2).activations
    assert 0.93 < sum(kept.values()) / found < 1.07, out.shape


def test_shares_of_processes():
    alone, eight = worked_out("vit"), worked_out("vit", processes=8)
    block = 4 * (192 * 576 + 576 + 192 * 192 + 192 + 2 * 192 * 768 + 768 + 192 + 4 * 192)
    assert (alone.gathered, eight.gathered) == (0, block)
    assert eight.frozen == alone.frozen - 4 * block + 4 * block // 8
    with pytest.raises(UserError, match="few bits are not shared out"):
        worked_out("vit", base_dtype="int8", processes=2)


def test_stages_are_refused():
    with meta_build():
        model = timm.create_model("swin_tiny_patch4_window7_224", num_classes=0)
    with pytest.raises(UserError, match="this one has stages"):
        training_memory(model, "LoRA", 224)
