"""Recipes of a backbone, a task and a method: found, in force, and the numbers of their sources."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir

from experiments.config.schema import CONF

RECIPES = Path(CONF) / "recipe"
# rows of GLUE's training sets; AdaLoRA's scripts for DeBERTaV3-base: warm-up steps, t_i and t_f (its Table 8), batches of 32
ROWS = {"cola": 8551, "sst2": 67349, "mrpc": 3668, "stsb": 5749, "qqp": 363846, "mnli": 392702, "qnli": 104743, "rte": 2490}
WARMUP = {"cola": 100, "sst2": 1000, "stsb": 100, "qqp": 2000, "mnli": 1000, "qnli": 500, "rte": 200}
BUDGET = {
    "mnli": (8000, 50000),
    "rte": (600, 1800),
    "qnli": (2000, 8000),
    "mrpc": (600, 1800),
    "qqp": (8000, 25000),
    "sst2": (6000, 22000),
    "cola": (800, 3500),
    "stsb": (800, 2000),
}
THREE_PARTS = sorted(path for path in RECIPES.glob("*.yaml") if path.stem.count("-") == 2)


def composed(*overrides):
    with initialize_config_dir(CONF, version_base="1.3"):
        return compose("run", [*overrides, "paths.models=null", "paths.data=null"])


@pytest.mark.parametrize("task", ROWS)
def test_deberta_s_ratios_are_the_scripts_steps(task):
    config = composed("backbone=deberta_v3_base", f"task={task}", "method=adalora")
    steps = math.ceil(ROWS[task] / config.recipe.batch_size) * config.recipe.epochs
    if task in WARMUP:  # MRPC's script gives a ratio
        assert math.ceil(config.recipe.warmup_ratio * steps) == WARMUP[task]  # as loradrop/training/module.py rounds
    for ratio, expected in zip((config.method.warmup_ratio, config.method.final_ratio), BUDGET[task], strict=True):
        assert ratio * steps == pytest.approx(expected, abs=0.5e-4 * steps)


@pytest.mark.slow
@pytest.mark.parametrize("path", THREE_PARTS, ids=lambda path: path.stem)
def test_what_a_method_has_of_its_own_is_in_force_for_it_alone(path):
    backbone, task, method = path.stem.split("-")
    own = yaml.safe_load(path.read_text())
    where = [f"backbone={backbone}", f"task={task}"]
    config = composed(*where, f"method={method}")
    for section, values in own.items():
        assert {key: config[section][key] for key in values} == values
    shared = yaml.safe_load((RECIPES / f"{backbone}-{task}.yaml").read_text())
    assert {key: composed(*where, "method=lora").recipe[key] for key in shared} == shared
    assert composed(*where, f"method={method}", "recipe.epochs=3").recipe.epochs == 3


def test_every_task_of_vera_s_and_adalora_s_tables_has_its_recipe():
    names = {path.stem for path in THREE_PARTS}
    vera = set(ROWS) - {"mnli", "qqp"}  # VeRA's paper leaves these out
    assert {f"{size}-{task}-vera" for size in ("roberta_base", "roberta_large") for task in vera} <= names
    assert {f"deberta_v3_base-{task}-adalora" for task in ROWS} <= names
    assert composed("backbone=deberta_v3_base", "task=stsb", "method=prilora").method.ratio == 0.75
    assert composed("backbone=roberta_base", "task=rte", "method=vera").method.rank == 512
