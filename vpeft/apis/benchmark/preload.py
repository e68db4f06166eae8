"""Imported once by the server that local workers are forked from: what a job of image classification would import."""

import mmpretrain.datasets
import mmpretrain.engine
import mmpretrain.evaluation
import mmpretrain.visualization  # noqa: F401
import torchvision  # noqa: F401
import yapf.yapflib.yapf_api  # noqa: F401  (mmengine writes configs with it)

import vpeft.apis.benchmark.run_job
import vpeft.core.datasets.embedded.mini  # noqa: F401
