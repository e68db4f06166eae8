"""Classes of clips: data, model and metric."""

from __future__ import annotations

from typing import Any

from vpeft.apis.config.own.parts import OwnParts

#: Frames of a clip that the models of the video configs take.
CLIP = 8
#: Frames from one that is taken to the next, at the most.
_INTERVAL = 4
#: The shorter edge over the side of the crop.
_EDGE = 8 / 7
#: What reads the features of an image network's clips.
_HEAD = {"type": "TimeSformerHead", "average_clips": "prob"}
#: Of image networks on clips, as for images: the rate of the video configs is for steps of many more clips.
OPTIMIZER = {"type": "AdamW", "lr": 1e-3, "weight_decay": 1e-4}
#: Clips that the learning rate of the video configs is stated for.
BATCH = 8


def clip_settings(base: dict[str, Any], parts: OwnParts, frames: bool, shortest: int) -> dict[str, Any]:
    """The settings of a model of clips.

    Args:
        base: The config of method and model.
        parts: What there is of the run.
        frames: Whether clips are folders of frames.
        shortest: Frames of the shortest clip.
    """
    model, scaled = base["model"], base.pop("auto_scale_lr", {})
    model.pop("test_cfg", None)  # several views of a sample, which are then looked at one sample at a time
    if parts.network is not None:
        model["backbone"] = parts.adapted(model["backbone"]["method"])
        model["cls_head"] = {**_HEAD, "in_channels": parts.network.channels[-1]}
        base["optim_wrapper"]["optimizer"] = dict(OPTIMIZER)
    elif scaled.get("enable"):  # as mmengine would, so that a learning rate of the user's own stays as it is
        base["optim_wrapper"]["optimizer"]["lr"] *= parts.plan.batch / scaled["base_batch_size"]
    model["cls_head"]["num_classes"] = len(parts.classes)
    model["data_preprocessor"] |= {"mean": list(parts.preprocessing.mean), "std": list(parts.preprocessing.std)}
    interval = max(1, min(_INTERVAL, shortest // CLIP))
    data = {"type": "vpeft.ListedClips", "num_classes": len(parts.classes)}
    loaders = parts.loaders(
        data,
        _steps(parts, frames, interval, train=True),
        _steps(parts, frames, interval, train=False),
        held_batch=BATCH,
        evaluator=lambda file: {"type": "AccMetric", "metric_options": {"top_k_accuracy": {"topk": (1,)}}},
    )
    return {**base, **loaders, "main_metric": "acc/top1"}


def _steps(parts: OwnParts, frames: bool, interval: int, train: bool) -> list[dict[str, Any]]:
    sample = {"type": "SampleFrames", "clip_len": CLIP, "frame_interval": interval, "num_clips": 1}
    sample |= {} if train else {"test_mode": True}
    read = (
        [sample, {"type": "vpeft.LoadFrames"}] if frames else [{"type": "DecordInit"}, sample, {"type": "DecordDecode"}]
    )
    edge = [{"type": "Resize", "scale": (-1, round(_EDGE * parts.size))}]
    if train and parts.augmentation != "none":
        crop = [{"type": "RandomCrop", "size": parts.size}]
        crop += [{"type": "Flip", "flip_ratio": 0.5}] if parts.augmentation == "crop_flip" else []
    else:
        crop = [{"type": "CenterCrop", "crop_size": parts.size}]
    return [*read, *edge, *crop, {"type": "FormatShape", "input_format": "NCTHW"}, {"type": "PackActionInputs"}]
