"""Mends of mmengine; each waits for the module that it mends, so that none of them imports anything."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import importlib.util
import os
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vpeft.compat.waiting import after_import, hidden, while_importing
from vpeft.errors import UserError, nearest

if TYPE_CHECKING:
    import torch

#: Make a file of a config whose name no file has: put in by who composes configs (vpeft.apis.config.recipes).
COMPOSERS: list[Callable[[Path], Path | None]] = []
#: What a library's inferencer looks for, by the reader of this package that a config may have in its place.
THEIR_READERS = {"vpeft.LoadImage": "LoadImageFromFile", "vpeft.LoadLabelMap": "LoadAnnotations"}
#: Modules, and the distributions that carry them on where the original ones stopped.
CONTINUED = {"mmpretrain": "onedl-mmpretrain", "mmdet": "onedl-mmdetection", "mmseg": "onedl-mmsegmentation"}


def mmengine_non_reentrant_checkpointing() -> None:
    """mmengine 0.10.12: ``activation_checkpointing`` uses the re-entrant form of torch, and takes no keywords.

    Over a frozen first block that form gives the adapters inside no gradient, with a warning only. Blocks of other
    libraries are called with keywords. A name that the model does not have is an error of attributes there.
    """
    after_import("mmengine.runner.activation_checkpointing", _non_reentrant)


def _non_reentrant(module: types.ModuleType) -> None:
    import torch

    original = torch.utils.checkpoint.checkpoint
    if module.checkpoint is original:
        module.checkpoint = functools.partial(original, use_reentrant=False)

    def wrap_forward(forward: Callable[..., Any]) -> Callable[..., Any]:
        return functools.wraps(forward)(functools.partial(module.checkpoint, forward))

    module.wrap_forward = wrap_forward
    turn_on = module.turn_on_activation_checkpointing

    @functools.wraps(turn_on)
    def checked(model: torch.nn.Module, modules: list[str] | str) -> None:
        known = [name for name, _ in model.named_modules() if name]
        for name in [modules] if isinstance(modules, str) else modules:
            if name not in known:
                raise UserError(f"activation_checkpointing: the model has no module {name!r}: {nearest(name, known)}")
        turn_on(model, modules)

    module.turn_on_activation_checkpointing = checked


def mmengine_imports_transformers_later() -> None:
    """mmengine 0.10.12: importing its models imports transformers, for one optimiser that few use.

    ``type='Adafactor'`` goes on working; it is imported when it is built.
    """
    while_importing("mmengine.optim.optimizer.builder", _adafactor_later)


@contextlib.contextmanager
def _adafactor_later(module: types.ModuleType) -> Iterator[None]:
    with hidden("transformers") as is_hidden:
        yield
    if not is_hidden:
        return

    def adafactor(*args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        from transformers import Adafactor

        return Adafactor(*args, **kwargs)

    module.OPTIMIZERS.register_module(name="Adafactor", module=adafactor)
    module.TRANSFORMERS_OPTIMIZERS.append("Adafactor")


def mmengine_draws_later() -> None:
    """mmengine 0.10.12: building a visualizer, which every Runner does, imports matplotlib for a figure to draw into.

    The figure is made when it is first asked for.
    """
    after_import("mmengine.visualization.visualizer", _figure_later)


def _figure_later(module: types.ModuleType) -> None:
    original = module.Visualizer.__init__
    figure = ("fig_save_canvas", "fig_save", "ax_save")

    @functools.wraps(original)
    def init(self: Any, name: str = "visualizer", image: Any = None, *args: Any, **options: Any) -> None:
        self._initialize_fig = lambda settings: (None, types.SimpleNamespace(get_dpi=lambda: None), None)
        original(self, name, None, *args, **options)
        for key in ("_initialize_fig", *figure, "dpi"):
            del self.__dict__[key]
        if image is not None:
            self.set_image(image)

    def make(self: Any, name: str) -> Any:
        if name not in (*figure, "dpi") or "fig_save_cfg" not in self.__dict__:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        self.__dict__.update(zip(figure, self._initialize_fig(self.fig_save_cfg), strict=True))
        self.dpi = self.fig_save.get_dpi()
        return self.__dict__[name]

    module.Visualizer.__init__, module.Visualizer.__getattr__ = init, make


def mmengine_silent_debug() -> None:
    """mmengine 0.10.12: ``print_log`` without a logger prints messages of the level DEBUG to the standard output.

    mmpretrain, mmdet and mmseg so announce at import an extra that is not installed, and spoil what is piped.
    """
    after_import("mmengine.logging", _silent_debug)


def _silent_debug(module: types.ModuleType) -> None:
    import logging

    original = module.print_log

    @functools.wraps(original)
    def print_log(msg: Any, logger: Any = None, level: int = logging.INFO) -> None:
        if logger is not None or level > logging.DEBUG:
            original(msg, logger, level)

    module.print_log = module.logger.print_log = print_log


def mmengine_safe_load() -> None:
    """mmengine 0.10.12: three ways by which loading a checkpoint runs code of it.

    ``load_checkpoint`` allows ``getattr`` and falls back to full unpickling, and unpickles what comes from an address;
    ``Runner.resume`` runs the config that stands in old checkpoints as text; an inferencer without a config does too.
    Here a file that is no plain checkpoint is refused, a damaged one is named, and a config comes from its own file.
    """
    after_import("mmengine.runner.checkpoint", _load_safely)
    after_import("mmengine.infer.infer", _configs_from_files)


def _load_safely(module: types.ModuleType) -> None:
    from urllib.parse import urlparse

    import torch

    from vpeft.compat.torch_load import Damaged, HoldsObjects, read_torch

    def load(file: Any, map_location: Any = None, weights_only: Any = None) -> Any:
        name = file if isinstance(file, (str, os.PathLike)) else "the checkpoint"
        try:
            return _without_code(read_torch(file, map_location))
        except HoldsObjects as error:
            raise UserError(
                f"{name} holds objects that only running its code could load ({error}): "
                "convert it to tensors (safetensors) where you trust it."
            ) from error
        except Damaged as error:
            raise UserError(f"{name} is truncated or no checkpoint ({error}): copy or train it again.") from error
        except OSError as error:
            raise UserError(f"{name} cannot be read ({error.strerror}).") from error

    def load_url(
        url: str, model_dir: str | None = None, map_location: Any = None, progress: bool = True, **options: Any
    ) -> Any:
        folder = model_dir or os.path.join(torch.hub.get_dir(), "checkpoints")
        file = os.path.join(folder, options.get("file_name") or os.path.basename(urlparse(url).path))
        if not os.path.exists(file):
            os.makedirs(folder, exist_ok=True)
            torch.hub.download_url_to_file(url, file, progress=progress)
        return load(file, map_location)

    module._safe_torch_load, module.load_url = load, load_url


def _configs_from_files(module: types.ModuleType) -> None:
    original = module.BaseInferencer._init_model

    @functools.wraps(original)
    def init_model(self: Any, cfg: Any, weights: Any, device: str = "cpu") -> Any:
        if not cfg:
            raise UserError(
                f"{weights}: a config inside a checkpoint is code, which is not run: give the config too (model=...)."
            )
        return original(self, cfg, weights, device)

    module.BaseInferencer._init_model = init_model


def with_own_readers(original: Callable[..., Any]) -> Callable[..., Any]:
    """An inferencer's ``_init_pipeline`` that knows the readers of this package: files are read as in a run.

    It looks for a library's readers by name, puts its own in the place of the one of images, and leaves out that of
    label maps.
    """

    @functools.wraps(original)
    def init_pipeline(self: Any, cfg: Any) -> Any:
        from mmengine.registry import TRANSFORMS

        steps = cfg.test_dataloader.dataset.pipeline
        reader = next((dict(step) for step in steps if step["type"] == "vpeft.LoadImage"), None)
        for step in steps:
            if (name := THEIR_READERS.get(step["type"])) is not None:
                step.clear()
                step["type"] = name
        pipeline = original(self, cfg)
        if reader is not None:
            (loader,) = (one for one in pipeline.transforms if type(one).__name__ == "InferencerLoader")
            loader.from_file = TRANSFORMS.build(reader)
        return pipeline

    return init_pipeline


def _without_code(loaded: Any) -> Any:
    """mmengine runs the text ``meta.config`` of old checkpoints, only to compare numbers of GPUs."""
    if isinstance(loaded, dict) and isinstance(loaded.get("meta"), dict):
        loaded["meta"].pop("config", None)
    return loaded


def mmengine_atomic_write() -> None:
    """mmengine 0.10.12: files are written in place, so a kill or a full disk leaves half a checkpoint behind.

    Checkpoints get a sum over all their bytes too.
    """
    after_import("mmengine.fileio.backends.local_backend", _write_atomically)


def _write_atomically(module: types.ModuleType) -> None:
    from vpeft.files import write_atomically

    def put(self: Any, obj: bytes, filepath: str) -> None:
        if str(filepath).endswith(".pth"):
            from vpeft.compat.torch_load import sealed_archive

            obj = sealed_archive(obj)
        write_atomically(filepath, obj)

    def put_text(self: Any, obj: str, filepath: str, encoding: str = "utf-8") -> None:
        write_atomically(filepath, obj.encode(encoding))

    module.LocalBackend.put, module.LocalBackend.put_text = put, put_text


def mmengine_distributed_on_cpu() -> None:
    """mmengine 0.10.12: its launcher sets a CUDA device even for gloo on a machine without one."""
    after_import("mmengine.dist.utils", _distributed_on_cpu)


def _distributed_on_cpu(module: types.ModuleType) -> None:
    import torch

    original = module._init_dist_pytorch

    @functools.wraps(original)
    def init(backend: str, init_backend: str = "torch", **kwargs: Any) -> None:
        if backend == "gloo" and init_backend == "torch" and not torch.cuda.is_available():
            torch.distributed.init_process_group(backend=backend, **kwargs)
        else:
            original(backend, init_backend=init_backend, **kwargs)

    module._init_dist_pytorch = init


def mmengine_no_pickled_data() -> None:
    """mmengine 0.10.12: ``mmengine.load`` unpickles what ends in ``.pkl``, such as annotations that a config names.

    Writing such files goes on.
    """
    after_import("mmengine.fileio.handlers.pickle_handler", _no_pickled_data)


def _no_pickled_data(module: types.ModuleType) -> None:
    def load_from_fileobj(self: Any, file: Any, **kwargs) -> Any:
        raise UserError(
            f"{getattr(file, 'name', 'a .pkl file')} is a pickle, which runs code when it is read: convert it to JSON "
            "where you trust it."
        )

    module.PickleHandler.load_from_fileobj = load_from_fileobj


def mmengine_configs_of_packages() -> None:
    """mmengine 0.10.12: ``_base_ = "mmseg::..."`` asks for the distribution that first had the module.

    So it calls mmseg not installed where ``onedl-mmsegmentation`` is, and ``mmengine.hub`` would put the original
    beside it. In mmaction2 it stumbles over a model that is listed with several configs.
    """
    after_import("mmengine.config.config", _configs_of_packages)


def _configs_of_packages(module: types.ModuleType) -> None:
    from mmengine.config.utils import MODULE2PACKAGE

    for name, package in CONTINUED.items():
        if not _is_distribution(MODULE2PACKAGE[name]) and _is_distribution(package):
            MODULE2PACKAGE[name] = package
    original = module.Config._get_cfg_path

    @functools.wraps(original)
    def get_cfg_path(cfg_path: str, filename: str) -> tuple[str, str | None]:
        package, mark, name = cfg_path.partition("::")
        if not mark:
            path, scope = original(cfg_path, filename)
            return str(_file_of(Path(path)) or path), scope
        # ours name their types with the package before them, and the rest is their default_scope's
        return str(_config_of(package, name)), None if package == "vpeft" else package

    module.Config._get_cfg_path = staticmethod(get_cfg_path)


def _is_distribution(name: str) -> bool:
    try:
        return importlib.metadata.distribution(name) is not None
    except importlib.metadata.PackageNotFoundError:
        return False


def _file_of(path: Path) -> Path | None:
    """The path where it is a file, or the file that a composer makes of it."""
    return path if path.is_file() else next((made for make in COMPOSERS if (made := make(path)) is not None), None)


def configs_of(package: str, name: str = "") -> Path:
    """The folder of an installed package's configs: inside of it, or beside it where it was installed in place.

    Args:
        package: Its name.
        name: Of the config that is sought, for messages.

    Raises:
        UserError: There is no such package, or it has no configs.
    """
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        from mmengine.config.utils import MODULE2PACKAGE

        raise UserError(
            f"config {package}::{name}: there is no package {package!r}: pip install "
            f"{MODULE2PACKAGE.get(package, package)}, or correct the name before the colons."
        )
    location = Path(next(iter(spec.submodule_search_locations)))
    inside, beside = location / ".mim" / "configs", location.parent / "configs"
    if inside.is_dir():
        return inside
    if not (beside / "_base_").is_dir():
        raise UserError(
            f"config {package}::{name}: {package} was installed without its configs (no {inside}): take the file from "
            "its repository and name it by its path."
        )
    return beside


def _config_of(package: str, name: str) -> Path:
    """The file of ``_base_ = "<package>::<name>"`` in the installed package."""
    from vpeft.errors import closest

    folder = configs_of(package, name)
    if (found := _file_of(folder / name)) is None:
        close = closest(name, [str(file.relative_to(folder)) for file in folder.rglob("*.py")])
        hint = "" if close is None else f": did you mean {package}::{close}?"
        raise UserError(f"config {package}::{name}: {package} has no such config{hint or f' below {folder}.'}")
    return found
