"""What Hydra and OmegaConf say, as one line of ours."""

from __future__ import annotations

import pytest
from conftest import run_module
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException, MissingConfigException

from experiments.config.errors import describe
from experiments.config.schema import CONF


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("recipe.epoch=1", "recipe.epoch: there is no such key. Did you mean epochs?"),
        ("method.treshold=1", "method.treshold: there is no such key. Did you mean threshold?"),
        ("sed=1", "sed: there is no such key. Did you mean seed?"),
        ("trainer.gpu=1", "trainer.gpu: there is no such key. There are: accelerator, "),
        (
            "recipe.epochs=many",
            "recipe.epochs: Value 'many' of type 'str' could not be converted to Integer",
        ),
        (
            "method=lora_dorp",
            "method=lora_dorp: there is no conf/method/lora_dorp.yaml. Did you mean lora_drop?",
        ),
        ("seed=1,2", "Ambiguous value for argument 'seed=1,2'"),
        ("~recipe.epochs", "recipe.epochs: Recipe (DictConfig) does not support deletion"),
        ("seed==", "Error parsing override 'seed=='"),
    ],
)
def test_one_line_that_names_the_key_and_the_remedy(override, message):
    with initialize_config_dir(CONF, version_base="1.3"), pytest.raises(HydraException) as caught:
        compose("run", [override])
    text = describe(caught.value)
    assert text.startswith(message) and "\n" not in text and "+recipe" not in text


@pytest.mark.slow
@pytest.mark.parametrize("module", ["experiments.run", "experiments.table"])
def test_every_command_says_it_so(module, tmp_path):
    first = ["demo"] if module == "experiments.table" else []
    done = run_module(module, *first, "recipe.epoch=1", outputs=tmp_path / "outputs")
    assert done.stderr == "recipe.epoch: there is no such key. Did you mean epochs?\n"
    assert done.returncode == 1 and not done.stdout


@pytest.mark.slow
def test_the_overrides_are_not_repeated(tmp_path):
    done = run_module("experiments.run", "recipe.epochs=-1", outputs=tmp_path / "outputs")
    assert done.stderr == "the config: recipe.epochs must not be negative, got -1\n"
    assert done.returncode == 1 and not (tmp_path / "outputs").exists()


def test_a_launcher_without_its_packages_names_the_extra():
    missing = MissingConfigException("", "hydra/launcher/joblib", ["basic"])
    assert describe(missing) == (
        "hydra/launcher: joblib comes with the extra `cluster`: pip install -e '.[cluster]'"
    )
