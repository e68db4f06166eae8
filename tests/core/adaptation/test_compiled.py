"""``torch.compile`` of a model whose adapters come, go and change: what is compiled is what is there now."""

import copy
import pickle

import pytest
import torch
from support.hosts import build, inputs, perturb
from torch import _dynamo as dynamo

import vpeft

TIMM = "timm.VisionTransformer"
LORA = {"type": "LoRA", "rank": 4}


@pytest.fixture(autouse=True)
def _fresh(caplog):
    caplog.set_level("INFO", "torch.__trace")  # pytest would keep every line of it
    dynamo.reset()
    with dynamo.config.patch(recompile_limit=32):
        yield
    dynamo.reset()


@pytest.fixture
def model():
    return build(TIMM, torch.float32, depth=2)


@pytest.fixture
def images():
    return inputs(TIMM)


def whole(model, backend="eager"):
    return torch.compile(model, backend=backend, fullgraph=True)


@torch.no_grad()
def answer(compiled, model, images):
    """What the compiled model gives, once it is seen to be what the model gives uncompiled."""
    given = compiled(images)
    with torch.compiler.set_stance("force_eager"):
        truth = model(images)
    torch.testing.assert_close(given, truth)
    return given


def test_attached_merged_switched_off_and_detached_after_compiling(model, images, tmp_path):
    compiled = whole(model)
    plain = answer(compiled, model, images)
    perturb(vpeft.attach(compiled, LORA))
    adapted = answer(compiled, model, images)
    assert (adapted - plain).abs().max() > 0.01
    path = vpeft.save_adapter(compiled, tmp_path / "a")
    with vpeft.disabled(compiled):
        torch.testing.assert_close(answer(compiled, model, images), plain)
    vpeft.merge(compiled)
    torch.testing.assert_close(answer(compiled, model, images), adapted, rtol=1e-4, atol=1e-4)
    vpeft.unmerge(compiled)
    torch.testing.assert_close(answer(compiled, model, images), adapted)
    vpeft.detach(compiled)
    torch.testing.assert_close(answer(compiled, model, images), plain)
    vpeft.load_adapter(compiled, path)
    torch.testing.assert_close(answer(compiled, model, images), adapted)


def test_a_switch_to_what_stands_at_other_places(model, images):
    """The first places nothing, so that nothing of the second's modules was seen; torch guards no hooks."""
    compiled = whole(model)
    vpeft.attach(compiled, {"type": "Linear"}, name="linear")
    plain = answer(compiled, model, images)
    vpeft.attach(compiled, LORA, name="lora")
    vpeft.use(compiled, "lora")
    perturb(model)
    adapted = answer(compiled, model, images)
    assert (adapted - plain).abs().max() > 0.01
    vpeft.use(compiled, "linear")
    torch.testing.assert_close(answer(compiled, model, images), plain)
    vpeft.use(compiled, "lora")
    torch.testing.assert_close(answer(compiled, model, images), adapted)


def test_another_method_after_detaching(model, images):
    compiled = whole(model)
    vpeft.attach(compiled, {"type": "Linear"})
    plain = answer(compiled, model, images)
    vpeft.detach(compiled)
    perturb(vpeft.attach(compiled, LORA))
    assert (answer(compiled, model, images) - plain).abs().max() > 0.01


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_has_code_of_its_own(model, images, copied):
    model = vpeft.attach(model, {"type": "Linear"}, name="linear")
    other = copied(model)
    answer(whole(model), model, images)
    vpeft.attach(other, LORA, name="lora")
    vpeft.use(other, "lora")
    answer(whole(perturb(other)), other, images)
    answer(whole(model), model, images)


def test_trained_after_compiling(model, images):
    """Compiled in evaluation, then trained: the same gradients as uncompiled, and none of the frozen base."""
    perturb(vpeft.attach(model, [LORA, {"type": "VPTDeep", "prompt_length": 2}]))
    compiled = whole(model, "aot_eager")
    answer(compiled, model, images)
    grads: list[dict[str, torch.Tensor]] = []
    for one in (compiled, model):
        torch.manual_seed(3)
        model.train().zero_grad()
        one(images).square().sum().backward()
        grads.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert grads[0].keys() == grads[1].keys() == {n for n, p in model.named_parameters() if p.requires_grad}
    for name, grad in grads[0].items():
        torch.testing.assert_close(grad, grads[1][name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("method", "outputs"), [("DTL", 1), ("LST", 1), ("VPTDeep", 1), ("DyT", 1 + 2)])
def test_what_blocks_hand_on_is_no_output_of_the_graph(model, images, method, outputs):
    """As outputs it would be kept until the next pass; DyT's loss reads the masks of its blocks behind the pass."""
    seen = []

    def backend(graph, inputs):
        seen.append(len(next(node for node in graph.graph.nodes if node.op == "output").args[0]))
        return graph

    compiled = whole(vpeft.attach(model, {"type": method}).train(), backend)
    compiled(images), compiled(images)
    assert seen == [outputs]  # compiled once
    state = model.peft_adaptation.host.flow.state
    assert [mask.shape for mask in state.get("dyt", {}).values()] == [(2, 17)] * (outputs - 1)


def test_a_pass_goes_on_behind_a_break(model, images):
    """A hook of the user's that breaks the graph between two blocks; what blocks hand on is found behind it."""
    model = perturb(vpeft.attach(model, {"type": "DTL"})).eval()
    plain = model(images)
    model.blocks[0].register_forward_hook(dynamo.disable(lambda *_: None))
    torch.testing.assert_close(torch.compile(model, backend="eager")(images), plain)
