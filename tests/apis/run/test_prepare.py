"""What flags put into a config before a run."""

from pathlib import Path

from vpeft.apis.config.load import load_config
from vpeft.apis.run.prepare import prepare

CONFIG = Path(__file__).parents[3] / "configs/mini/lora_nano_vit.py"


def test_seed_zero_is_a_seed(tmp_path):
    """A base of the config may have another: None leaves that, 0 does not."""
    for seed, wanted in ((0, 0), (3, 3), (None, 7)):
        cfg = load_config(CONFIG, "digits")
        cfg.randomness = {"seed": 7}
        assert prepare(cfg, str(tmp_path), seed=seed).randomness.seed == wanted
