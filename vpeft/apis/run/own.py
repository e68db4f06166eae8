"""A run on a user's own data: trained, the best moment chosen on the validation part, the test part looked at once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmengine import Config
from mmengine.dist import barrier, is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner

from vpeft.apis.config.origin import give_origin, origin_of
from vpeft.apis.config.own.from_data import LISTS
from vpeft.apis.jobs.shared_store import share_store
from vpeft.apis.results.files import write_result
from vpeft.apis.run.test import test
from vpeft.apis.run.train import train
from vpeft.core.datasets.own.found import TRAIN
from vpeft.core.families.metrics import main_metric
from vpeft.core.families.per_class import class_lines
from vpeft.core.trained.folder import ADAPTER, BEST_ADAPTER, RESULT, read_origin
from vpeft.errors import UserError
from vpeft.files import read_config, read_json, write_atomically, write_json

if TYPE_CHECKING:
    from vpeft.apis.tune.study import Study

#: What is said of the part that a figure is of.
PARTS = {"test": "test part, looked at once", "val": "validation part, by which the moment was chosen too"}
#: Learning rates of a search: the method's own, then half a decade below and above it, and so on.
STEP = 10**0.5


def train_own(cfg: Config) -> dict[str, Any]:
    """Train, and test what was best on the validation part: once on the test part, or where there is none, which the
    result says, on the validation part again.

    Args:
        cfg: A config of :func:`~vpeft.apis.config.own.from_data.run_on_data`, with a command's flags put in.

    Returns:
        The result, as ``result.json`` holds it: ``eval_split`` is ``test`` or ``val``, ``validation`` says what the
        choice was made by.
    """
    runner = train(cfg)
    barrier()  # the first process has written the adapters that all of them test
    folder = Path(runner.work_dir)
    best = folder / BEST_ADAPTER
    file = best if best.is_file() else folder / ADAPTER
    result = test(held_config(cfg), str(file))
    result |= {"validation": _validation(runner, cfg), "tested": "best" if file == best else "last"}
    if runner.rank == 0:
        _write(folder / RESULT, result)
    return result


def need_same_data(work_dir: str, lists: Mapping[str, Path], resume: str | bool = True) -> None:
    """Refuse to go on with a run of other images, or of the same ones that are divided otherwise: what it has trained
    on would be validated on.

    Args:
        work_dir: The run's folder.
        lists: The lists of the parts that are asked for now.
        resume: The checkpoint, if it is another one than the folder's last.

    Raises:
        UserError: They differ from those in the folder.
    """
    folder = Path(work_dir) if resume is True else Path(str(resume)).parent
    name = (read_origin(folder) or {}).get("config")
    if not name or not (folder / name).is_file():
        return
    loader = read_config(folder / name, "config of a run").get("train_dataloader") or {}
    old = Path(str((loader.get("dataset") or {}).get("ann_file")))
    old = folder / LISTS / old.parent.name / old.name  # wherever the folder has stood before
    if old.is_file() and old.read_bytes() != lists[TRAIN].read_bytes():
        raise UserError(
            f"--resume: {folder} was trained on other images, or on another division of them (--seed, --val-share, "
            "--test-share, files that were added or removed): give the same, or another --work-dir to train anew."
        )


def is_of_own_data(cfg: Config) -> bool:
    """Whether a run's config is of a user's own data, and not of a suite or a recipe."""
    return cfg.get("eval_split") in PARTS and not cfg.get("suite") and not cfg.get("methods_table")


def test_own(cfg: Config, checkpoint: str, results: str | None = None) -> dict[str, Any]:  # noqa: PT028  (no test)
    """Test what was trained on a user's own data again; arguments and result as of :func:`~vpeft.apis.run.test.test`.

    What the training has noted of its choice of the tested file stays in ``result.json``.
    """
    file = Path(cfg.work_dir) / RESULT
    before = read_json(file, "result", broken="delete it") if file.is_file() else {}
    result = test(held_config(cfg), checkpoint, results)
    if Path(str(before.get("checkpoint"))).name == Path(checkpoint).name:
        result |= {key: before[key] for key in ("validation", "tested") if key in before}
    if is_main_process():
        _write(file, result)
    return result


def _write(file: Path, result: Mapping[str, Any]) -> None:
    write = write_result if "checksum" in result or "status" in result else write_json
    write(file, {key: value for key, value in result.items() if key not in ("checksum", "written")})


def held_config(cfg: Config) -> Config:
    """The config of the last test: the test part, or the validation part where there is none."""
    held = Config(cfg._cfg_dict.to_dict(), cfg_text=cfg.text, filename=cfg.filename)
    give_origin(held, origin_of(cfg))
    if not held.get("test_dataloader"):
        held.merge_from_dict(
            {f"test_{key}": held.get(f"val_{key}") for key in ("dataloader", "evaluator", "cfg")}
            | {"eval_split": "val"}
        )
    held.experiment_name = f"{cfg.get('experiment_name', 'own')}_test"
    return held


def _validation(runner: Runner, cfg: Config) -> dict[str, Any] | None:
    """The best value on the validation part, None where validation gave none."""
    hook = next(hook for hook in runner.hooks if isinstance(hook, CheckpointHook))
    score = runner.message_hub.get_info("best_score", None) if "best_score" in runner.message_hub.runtime_info else None
    if score is None or not getattr(hook, "best_ckpt_path", None):
        return None
    return main_metric({cfg.main_metric: score}, cfg.main_metric)


def learning_rates(lr: float, trials: int) -> list[float]:
    """The rates that a search tries: ``lr`` first, then by half decades below and above."""
    steps = sorted(range(-trials, trials + 1), key=lambda step: (abs(step), step))[:trials]
    return [float(f"{lr * STEP**step:.3g}") for step in steps]


def own_study(cfg: Config, work_dir: str, trials: int, seed: int) -> Study:
    """A search of the learning rate on the validation part.

    Args:
        cfg: The config.
        work_dir: The run's folder; the search stands below it.
        trials: How many rates.
        seed: Of every training.

    Raises:
        UserError: There is no trial.
    """
    from vpeft.apis.tune.study import Study

    if trials < 1:
        raise UserError(f"--tune {trials}: it must be at least 1.")
    file = Path(work_dir) / "tune" / "own.py"
    trials_cfg = share_store(Config(cfg._cfg_dict.to_dict()), work_dir)  # that of the run, which goes with it
    write_atomically(file, trials_cfg.pretty_text.encode())
    rates = learning_rates(cfg.optim_wrapper.optimizer.lr, trials)
    return Study.of(str(file), None, None, str(Path(work_dir) / "tune"), seed=seed, space={"lr": rates}, grid=True)


def tune_own(cfg: Config, study: Study) -> dict[str, Any]:
    """Work a search off, and put the best rate into the config.

    Args:
        cfg: The config, changed in place.
        study: Of :func:`own_study`.

    Returns:
        What the search found: ``options`` and ``tuning``.
    """
    from vpeft.apis.jobs.engines.build import build_engine
    from vpeft.apis.tune.study import tune

    with build_engine("local", workers=1) as engine:
        (best,) = tune([study], engine)
    cfg.merge_from_dict(best["options"])
    cfg.tuned = best["tuning"]
    origin_of(cfg).record(f"--tune {study.trials}", cfg, best["options"])
    return best


def own_summary(result: Mapping[str, Any], work_dir: str) -> str:
    """A result in a few lines, which say which part each figure is of."""
    lines = []
    if (held := result["main_metric"]) is not None:
        value = "no finite number" if held["value"] is None else f"{100 * held['value']:.2f} %"
        lines.append(f"{held['name']} {value} on the {PARTS[result['eval_split']]}")
    else:
        lines.append("the evaluator gave no figure: the model finds nothing yet; train longer")
    if (chosen := result.get("validation")) is not None and result["eval_split"] == "test":
        lines.append(f"{chosen['name']} {100 * chosen['value']:.2f} % on the validation part, at its best")
    lines += class_lines(result.get("per_class"))
    lines.append(
        f"trained in the backbone: {result['parameters']['trainable_without_head']:,} parameters, head "
        f"{result['parameters']['head']:,}"
    )
    lines.append(f"tested file: {result['checkpoint']}; result: {Path(work_dir) / RESULT}")
    return "\n".join(lines)
