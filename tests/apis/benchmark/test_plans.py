"""Plans, and how runs are known again."""

import re
from pathlib import Path

import pytest
from support.design import ON_IMAGES

from vpeft import UserError
from vpeft.apis.benchmark.plan import Plan, load_plan
from vpeft.apis.config.load import load_config
from vpeft.apis.config.setting import effective_config, setting_hash

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _root(monkeypatch):
    monkeypatch.chdir(ROOT)


def test_a_plan_file_and_flags(tmp_path):
    file = tmp_path / "plan.yaml"
    file.write_text(
        "methods: [lora, SSF]\ntasks: [digits, specialized]\nseeds: [4, 5]\noptions: {train_cfg.max_epochs: 2}\n"
    )
    jobs = load_plan(str(file)).jobs(str(tmp_path))
    assert len(jobs) == 2 * 3 * 2
    assert {(j.method, j.backbone, Path(j.config).name) for j in jobs} == {
        ("LoRA", "nano_vit", "lora_nano_vit.py"),
        ("SSF", "nano_vit", "ssf_nano_vit.py"),
    }
    assert {j.task for j in jobs} == {"digits", "textures", "tissue"}
    assert [j.seed for j in jobs] == [4] * 6 + [5] * 6
    assert all(j.load().train_cfg.max_epochs == 2 for j in jobs[:2])
    assert len(load_plan(str(file), seeds=[1]).jobs(str(tmp_path))) == 6


def test_a_plan_in_python(tmp_path):
    file = tmp_path / "plan.py"
    file.write_text('methods = ["lora"]\ntasks = ["digits"]\nseeds = list(range(3))\n')
    assert len(load_plan(str(file)).jobs(str(tmp_path))) == 3


def test_sweeps_go_through_shots_and_sizes(tmp_path):
    plan = Plan(["lora", "linear"], tasks=["digits"], seeds=[0], sweep={"shots": [1, None], "rank": [2, 4]})
    variants = [(j.method, j.variant) for j in plan.jobs(str(tmp_path))]
    key = "model.backbone.method.rank"
    assert variants == [
        ("LoRA", {"shots": 1, key: 2}),
        ("LoRA", {"shots": 1, key: 4}),
        ("LoRA", {key: 2}),
        ("LoRA", {key: 4}),
        ("Linear", {"shots": 1}),
        ("Linear", {}),
    ]


def test_all_methods_without_searches():
    labels = [e.label for e in Plan(["all"]).entries()]
    assert sorted(labels) == sorted([*ON_IMAGES, "bi_adaptformer", "bi_lora", "pace"])


def test_configs_by_path_and_without_suite(tmp_path):
    file = tmp_path / "odd_name.py"
    file.write_text(f'_base_ = ["{ROOT}/configs/mini/lora_nano_vit.py"]\nsuite = None\n')
    (job,) = Plan(configs=[str(file)], seeds=[0]).jobs(str(tmp_path))
    assert (job.method, job.backbone, job.task, job.suite) == ("LoRA", "name", "name", None)
    assert job.load().train_dataloader.dataset.task == "digits"


def test_two_configs_of_one_method_keep_rows_of_their_own(tmp_path):
    file = tmp_path / "other_nano_vit.py"
    rank = "model = dict(backbone=dict(method=dict(rank=2)))"
    file.write_text(f'_base_ = ["{ROOT}/configs/mini/lora_nano_vit.py"]\n{rank}\n')
    entries = Plan(["lora"], configs=[str(file)]).entries()
    assert [e.label for e in entries] == ["other", "lora"]
    assert [Path(e.path).stem for e in Plan(["LoRA", "LoRAmul"]).entries()] == ["lora_nano_vit", "loramul_nano_vit"]
    labels = [e.label for e in Plan(["lora", "bi_lora", "pace", "blocktune"]).entries()]
    assert labels == ["LoRA", "bi_lora", "pace", "BlockTune"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "nothing to run"),
        ({"methods": ["lorra"]}, "did you mean 'lora'"),
        ({"methods": ["lora"], "backbones": ["nano_vitt"]}, "did you mean 'nano_vit'"),
        ({"methods": ["lora"], "tasks": ["digit"]}, "did you mean 'digits'"),
        ({"methods": ["lora"], "seeds": ["a"]}, "each of it a whole number"),
        ({"methods": ["lora"], "sweep": {"rank": 4}}, "a key and a list"),
    ],
)
def test_wrong_plans_say_what_is_known(fields, message, tmp_path):
    with pytest.raises(UserError, match=message):
        Plan(**fields).jobs(str(tmp_path))


def test_broken_plan_files(tmp_path):
    file = tmp_path / "plan.yaml"
    for text, message in (
        ("method: [lora]", "did you mean 'methods'"),
        ("methods: [lora]\nseeds: [0]\nmethods: [ssf]", r"plan\.yaml:3 cannot be read: 'methods' stands twice"),
        ("methods: [lora]\na: [", r"plan\.yaml:2 cannot be read"),
        ("methods: [lora]\n# ä", r"plan\.yaml:2: byte 0xe4 is not UTF-8"),
        ("methods: [lora]\nseeds: 2026-99-99", r"plan\.yaml cannot be read"),
        ("- a", "must hold"),
    ):
        file.write_text(text, encoding="latin-1")
        with pytest.raises(UserError, match=message):
            load_plan(str(file))
    with pytest.raises(UserError, match="does not exist"):
        load_plan(str(tmp_path / "no.yaml"))


def jobs_of(tmp_path, **fields):
    return Plan(**{"methods": ["lora"], "tasks": ["digits"], "seeds": [0], **fields}).jobs(str(tmp_path))


def test_a_run_is_known_by_what_is_run(tmp_path):
    (plain,) = jobs_of(tmp_path)
    assert jobs_of(tmp_path)[0].name == plain.name
    others = [
        jobs_of(tmp_path, seeds=[1]),
        jobs_of(tmp_path, tasks=["tissue"]),
        jobs_of(tmp_path, options={"optim_wrapper.optimizer.lr": 0.1}),
        jobs_of(tmp_path, options={"data_variant": "other"}),
        jobs_of(tmp_path, sweep={"shots": [3]}),
    ]
    assert len({job.name for (job,) in others} | {plain.name}) == 6


def test_what_changes_nothing_does_not_count():
    config = ROOT / "configs/mini/lora_nano_vit.py"
    plain = setting_hash(load_config(config, "digits"))
    same = {
        "work_dir": "/elsewhere",
        "log_level": "ERROR",
        "randomness.seed": 7,
        "default_hooks.logger.interval": 1,
        "tuned": {"trials": 5},
    }
    assert setting_hash(load_config(config, "digits", same)) == plain
    vtab = ROOT / "configs/vtab/lora_vit.py"
    assert setting_hash(load_config(vtab, "dtd", {"data_root": "/a"})) == setting_hash(load_config(vtab, "dtd"))


@pytest.mark.parametrize(
    "option",
    [
        {"model.backbone.method.rank": 4},
        {"load_from": "start.pth"},
        {"default_hooks.checkpoint.save_best": "auto"},
        {"authors_values": True, "per_task": {"columns": [], "digits": []}},
    ],
    ids=lambda option: next(iter(option)),
)
def test_what_changes_a_result_counts(option):
    config = ROOT / "configs/mini/lora_nano_vit.py"
    assert setting_hash(load_config(config, "digits", option)) != setting_hash(load_config(config, "digits"))


def test_the_contents_of_the_lists_count(tmp_path):
    vtab, hashes = ROOT / "configs/vtab/lora_vit.py", set()
    (tmp_path / "dtd").mkdir()
    for line in ("images/a.jpg 3", "images/a.jpg 4"):
        (tmp_path / "dtd" / "train800val200.txt").write_text(line)
        hashes.add(setting_hash(load_config(vtab, "dtd", {"data_root": str(tmp_path)})))
    assert len(hashes) == 2


def test_the_effective_config_has_one_look_at_the_test_images():
    cfg = effective_config(str(ROOT / "configs/mini/lora_nano_vit.py"), "digits", {}, {"shots": 1})
    assert cfg.val_dataloader is None
    assert len(cfg.train_dataloader.dataset.indices) == 10


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("methods", None),
        ("methods", [1]),
        ("methods", {"a": 1}),
        ("tasks", [["digits"]]),
        ("seeds", ["0"]),
        ("seeds", True),
        ("seeds", [-1]),
        ("seeds", [1.5]),
        ("folder", 3),
        ("options", ["a=1"]),
        ("options", {1: 2}),
        ("sweep", {"rank": 8}),
        ("sweep", {"rank": []}),
        ("tune", 5),
        ("retries", "two"),
        ("retries", -1),
        ("threads", 0),
        ("keep_checkpoints", "yes"),
    ],
)
def test_values_of_a_plan(field, value):
    with pytest.raises(UserError, match=rf"^plan: {'sweep' if field == 'sweep' else field}"):
        load_plan(None, **{"methods": ["lora"], field: [None] if value is None else value})


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("backbones: [1.5]", "{file}: backbones=[1.5] must be a list, each of it a text."),
        ("seeds: [-1]", "{file}: seeds=[-1] must be a list, each of it a whole number from 0 to 4.29497e+09."),
        ("sweep: {rank: 8}", "{file}: sweep={'rank': 8} must be"),
        ("search: {trials: 0}", "{file}: "),
    ],
)
def test_a_fault_names_the_file(tmp_path, line, words):
    file = tmp_path / "a.yaml"
    file.write_text(f"methods: [lora]\n{line}\n")
    with pytest.raises(UserError) as error:
        load_plan(str(file))
    assert str(error.value).startswith(f"plan {words.replace('{file}', str(file))}")
    with pytest.raises(UserError, match=f"^plan {re.escape(str(file))}, with what the command sets: "):
        load_plan(str(file), retries=2)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("train_cfg.mex_epochs", 2, "train_cfg has no 'mex_epochs': did you mean 'max_epochs'?"),
        ("train_cfg.max_epochs", "", "train_cfg.max_epochs must be a whole number of at least 1, not ''"),
    ],
)
def test_an_option_that_a_config_refuses(tmp_path, key, value, words):
    plan = load_plan(None, methods=["lora"], tasks=["digits"], options={key: value})
    with pytest.raises(UserError) as error:
        plan.jobs(str(tmp_path))
    assert str(error.value).startswith(f"plan: options: {key}={value!r}: {words}")


@pytest.mark.parametrize("name", ["a.yaml", "a.py"])
@pytest.mark.parametrize("text", [b"\xff\xfe\x00", b"a: [", b"a = 1 / 0", b"[" * 5000, b"\0"])
def test_plan_files_that_cannot_be_read(tmp_path, name, text):
    (tmp_path / name).write_bytes(text)
    with pytest.raises(UserError, match=rf"plan {tmp_path / name}") as refusal:
        load_plan(str(tmp_path / name))
    assert "\n" not in str(refusal.value)
