"""Workarounds for other packages, each named after package and version and applied only where it is needed.

Importing this applies those that concern every use of :mod:`vpeft`; it must therefore be imported before
mmpretrain or timm, and :mod:`vpeft` does so first.
"""

from vpeft.compat.later import imports_wait
from vpeft.compat.mmaction import mmaction_masks_of_programs, mmaction_on_new_mmcv
from vpeft.compat.mmcv import mmcv_drop_path_of_numbers, mmcv_without_ops
from vpeft.compat.mmdet import (
    mmdet_inferencer_reads_as_a_run,
    mmdet_without_lost_transformers,
    mmdet_without_notes,
)
from vpeft.compat.mmengine import (
    mmengine_atomic_write,
    mmengine_configs_of_packages,
    mmengine_distributed_on_cpu,
    mmengine_draws_later,
    mmengine_imports_transformers_later,
    mmengine_no_pickled_data,
    mmengine_non_reentrant_checkpointing,
    mmengine_safe_load,
    mmengine_silent_debug,
)
from vpeft.compat.mmpretrain import (
    mmpretrain_imports_mmdet_later,
    mmpretrain_imports_multimodal_later,
    mmpretrain_non_reentrant_checkpointing,
)
from vpeft.compat.mmseg import mmseg_inferencers_read_as_a_run
from vpeft.compat.pycocotools import pycocotools_prints_to_log
from vpeft.compat.torchvision import torchvision_without_ops

torchvision_without_ops()
mmengine_imports_transformers_later()
mmpretrain_imports_mmdet_later()
mmpretrain_imports_multimodal_later()
mmengine_draws_later()
mmengine_silent_debug()  # before anything imports mmpretrain
mmcv_without_ops()
mmcv_drop_path_of_numbers()
mmaction_on_new_mmcv()
mmaction_masks_of_programs()
imports_wait()
mmdet_without_lost_transformers()
mmdet_without_notes()
mmdet_inferencer_reads_as_a_run()
mmseg_inferencers_read_as_a_run()
pycocotools_prints_to_log()
mmengine_non_reentrant_checkpointing()
mmpretrain_non_reentrant_checkpointing()
mmengine_safe_load()
mmengine_no_pickled_data()
mmengine_distributed_on_cpu()
mmengine_atomic_write()
mmengine_configs_of_packages()
