"""Recipes of a backbone, a task and a method: found, in force, and the numbers of their sources."""

from __future__ import annotations

import math
from fnmatch import fnmatch
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from experiments.config.optional_files import group_options
from experiments.config.schema import CONF
from experiments.config.validation import check

RECIPES = Path(CONF) / "recipe"
# rows of GLUE's training sets; AdaLoRA's scripts for DeBERTaV3-base: warm-up steps, t_i and t_f
# (its Table 8), batches of 32
ROWS = {
    "cola": 8551,
    "sst2": 67349,
    "mrpc": 3668,
    "stsb": 5749,
    "qqp": 363846,
    "mnli": 392702,
    "qnli": 104743,
    "rte": 2490,
}
WARMUP = {
    "cola": 100,
    "sst2": 1000,
    "stsb": 100,
    "qqp": 2000,
    "mnli": 1000,
    "qnli": 500,
    "rte": 200,
}
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
FILES = sorted(path for path in RECIPES.rglob("*.yaml") if not path.stem.startswith("_"))
OF_METHODS = [path for path in RECIPES.rglob("*-*.yaml") if not path.stem.startswith("_")]
DEFAULT = "_default"


@pytest.mark.parametrize("task", ROWS)
def test_deberta_s_ratios_are_the_scripts_steps(compose, task):
    config = compose("backbone=deberta_v3_base", f"task={task}", "method=adalora")
    steps = math.ceil(ROWS[task] / config.recipe.batch_size) * config.recipe.epochs
    if task in WARMUP:  # MRPC's script gives a ratio
        # as loradrop/training/module.py rounds
        assert math.ceil(config.recipe.warmup_ratio * steps) == WARMUP[task]
    for ratio, expected in zip(
        (config.method.warmup_ratio, config.method.final_ratio), BUDGET[task], strict=True
    ):
        assert ratio * steps == pytest.approx(expected, abs=0.5e-4 * steps)


@pytest.mark.slow
@pytest.mark.parametrize(
    "path", sorted(OF_METHODS), ids=lambda path: f"{path.parent.name}-{path.stem}"
)
def test_what_a_method_has_of_its_own_is_in_force_for_it_alone(compose, path):
    task, method = path.stem.split("-")
    where = [f"backbone={path.parent.name}", f"task={task}"]
    own = compose(*where, f"method={method}")
    for section, values in written(path).items():
        assert {key: own[section][key] for key in values} == values
    others = compose(*where, "method=linear_probe").recipe  # which has nothing of its own
    shared = written(path.with_stem(task))
    assert {key: others[key] for key in shared} == shared
    assert compose(*where, f"method={method}", "recipe.epochs=3").recipe.epochs == 3


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(path.relative_to(RECIPES).as_posix() for path in FILES))
def test_every_recipe_makes_valid_runs(compose, name):
    options = {group: group_options(Path(CONF, group)) for group in ("task", "method")}
    folder, _, file = name.removesuffix(".yaml").partition("/")
    task, _, method = file.rpartition("-") if file not in options["task"] else (file, "", "lora")
    overrides = [f"method={method}", *([f"task={task}"] if task else [])]
    if folder != DEFAULT:
        overrides.append(f"backbone={folder}")
    check(compose(*overrides))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "forms"), [("lora_drop", "lora_drop_*"), ("adapter_drop", "adapter_drop/*")]
)
def test_what_a_method_has_of_its_own_holds_for_its_other_forms(compose, method, forms):
    """So that an ablation differs from its method in nothing else. PRILoRA's forms vary what its
    recipes set, and have none of them.
    """
    names = [name for name in group_options(Path(CONF, "method")) if fnmatch(name, forms)]
    files = [path for path in RECIPES.rglob("*.yaml") if path.stem.split("-")[-1] == method]
    assert names and files
    for path in files:
        task = path.stem.removesuffix(method).removesuffix("-")
        where = [f"backbone={path.parent.name}", *([f"task={task}"] if task else [])]
        for name in names:
            other = compose(*where, f"method={name}")
            for section, values in written(path).items():
                assert {key: other[section][key] for key in values} == values


def load(path):
    return OmegaConf.to_container(OmegaConf.load(path), resolve=False)  # a number as Hydra reads it


def written(path):
    """The values of a recipe, with those of the files that it includes."""
    content = load(path)
    return merged(those_included(content), content)


def those_included(content):
    """The values of the files in a content's list of defaults, which it loses; but not of those
    that depend on the task.
    """
    values = {}
    for include in content.pop("defaults", []):
        if include != "_self_" and not isinstance(include, dict):
            values = merged(
                values, written(Path(CONF, f"{include.removesuffix('@_here_')[1:]}.yaml"))
            )
    return values


def merged(first, second):
    both = first.keys() & second.keys()
    deeper = {key: merged(first[key], second[key]) for key in both if isinstance(first[key], dict)}
    return first | second | deeper


def test_a_recipe_goes_from_the_general_to_the_particular(compose):
    here = ["backbone=tiny_roberta", "task=mini_similarity"]
    assert compose(*here, "method=lora").recipe.learning_rate == 3e-3  # of the backbone
    assert compose(*here, "method=bitfit").recipe.learning_rate == 3e-3  # there on the task
    assert compose("backbone=tiny_roberta", "method=bitfit").recipe.learning_rate == 6e-3
    full = compose("backbone=roberta_base", "task=cola", "method=full").recipe
    assert (full.learning_rate, full.epochs, full.max_length) == (2e-5, 10, 512)
    assert compose("backbone=llama2_7b", "method=full").recipe.epochs == 2
    assert compose("backbone=llama2_7b", "method=full").backbone.dtype == "float32"


def test_a_backbone_and_a_task_without_a_recipe_have_the_default_one(compose):
    default = written(RECIPES / DEFAULT / "_common.yaml")
    assert compose("backbone=bert_base", "task=rte", "method=lora").recipe == default
    assert compose("backbone=roberta_base", "task=mini_sentiment", "method=lora").recipe == default


def test_another_recipe_can_be_named(compose):
    mine = compose(
        "backbone=bert_base", "task=rte", "recipe=roberta_base/rte", "method=lora"
    ).recipe
    assert mine == compose("backbone=roberta_base", "task=rte", "method=lora").recipe


@pytest.mark.parametrize("name", ["figure7", "figure8"])
def test_an_experiment_comes_after_the_recipe_and_before_the_command_line(compose, name):
    ours = compose(f"experiment={name}", "task=rte", "method=lora_drop", "method.sample_epochs=5")
    assert ours.recipe.epochs == 4
    assert (ours.method.sample_ratio, ours.method.sample_epochs) == (0.2, 5)


@pytest.mark.parametrize(
    ("method", "where", "rate"),
    [
        ("lora", [], None),
        ("vera", [], 1e-2),
        ("vera", ["backbone=roberta_base", "task=rte"], 4e-3),
        ("prompt_tuning", ["backbone=bert_base"], 1e-2),
        ("prompt_tuning", [], 3e-1),
        ("prefix_tuning", ["backbone=bert_base"], 5e-3),
        ("prefix_tuning", [], 3e-2),
    ],
)
def test_the_adapter_s_learning_rate(compose, method, where, rate):
    assert compose(f"method={method}", *where).recipe.adapter_learning_rate == rate


def test_every_task_of_vera_s_and_adalora_s_tables_has_its_recipe(compose):
    names = {f"{path.parent.name}/{path.stem}" for path in OF_METHODS}
    sizes = ("roberta_base", "roberta_large")
    assert {f"{size}/{task}-vera" for size in sizes for task in ROWS} <= names
    assert {f"deberta_v3_base/{task}-adalora" for task in ROWS} <= names
    assert compose("backbone=deberta_v3_base", "task=stsb", "method=prilora").method.ratio == 0.75
    assert compose("backbone=roberta_base", "task=rte", "method=vera").method.rank == 512


METHODS = [name for name in group_options(Path(CONF, "method")) if "/" not in name]


@pytest.mark.slow
@pytest.mark.parametrize("task", ["dialogsum", "e2e"])
def test_every_method_of_lora_s_family_has_the_task_s_rank_and_scale(compose, task):
    seen = set()
    for name in METHODS:
        config = compose("backbone=llama2_7b", f"task={task}", f"method={name}")
        method = config.method
        ends = [method[key] for key in ("rank_first", "rank_last") if key in method]
        rank = method.get("target_rank") or method.get("rank") or sum(ends) / 2
        if "alpha" not in method or name in ("tied_lora", "s2_lora"):
            continue  # no LoRA, or a rank of its own
        assert (rank, method.alpha) == (config.recipe.lora_rank, 2 * rank), name
        seen.add(name)
    assert {"lora", "lora_drop_random", "sparse_adapter", "adapter_drop", "adalora"} <= seen


@pytest.mark.parametrize("method", ["tied_lora", "s2_lora"])
@pytest.mark.parametrize("task", ["rte", "dialogsum"])
def test_a_shared_lora_is_not_scaled_down_by_its_large_rank(compose, method, task):
    config = compose("backbone=llama2_7b", f"task={task}", f"method={method}").method
    assert config.alpha == config.rank


@pytest.mark.parametrize(
    "path", sorted(RECIPES.rglob("_common*.yaml")), ids=lambda path: str(path.relative_to(RECIPES))
)
def test_shared_values_are_used_by_several_files(path):
    name = f"/{path.relative_to(RECIPES.parent).with_suffix('')}@_here_"
    users = [other for other in RECIPES.rglob("*.yaml") if name in load(other).get("defaults", [])]
    assert path.parent.name == DEFAULT or len(users) > 1


@pytest.mark.parametrize(
    "path", sorted(RECIPES.rglob("*.yaml")), ids=lambda path: str(path.relative_to(RECIPES))
)
def test_a_recipe_says_only_what_differs_from_what_it_includes(path):
    content = load(path)
    included = those_included(content)
    for key, value in content.items():
        below = value.items() if isinstance(value, dict) else [(key, value)]
        before = included.get(key, {}) if isinstance(value, dict) else included
        assert not [name for name, each in below if name in before and before[name] == each]
