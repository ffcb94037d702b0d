"""A file of conf/ that no run looks for is an error; so is a name on the command line that does not
exist.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from experiments.config.optional_files import check_files, group_options
from experiments.config.schema import CONF, UserError
from experiments.config.sweep import check_names


@pytest.fixture
def conf(tmp_path):
    """The groups with two options each."""
    for group, names in {
        "backbone": "big small",
        "task": "rte cola",
        "method": "lora vera kind/of",
        "experiment": "table1",
    }.items():
        for name in names.split():
            put(tmp_path, f"{group}/{name}")
    return tmp_path


def put(conf, name):
    path = conf / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("")


def test_every_optional_file_of_the_tree_is_looked_for_by_some_run():
    check_files()


def test_no_task_could_be_taken_for_a_method():
    tasks, methods = (group_options(Path(CONF, group)) for group in ("task", "method"))
    pairs = {f"{task}-{method}" for task, method in itertools.product(tasks, methods)}
    assert len(tasks | methods | pairs) == len(tasks) + len(methods) + len(tasks) * len(methods)


@pytest.mark.parametrize(
    "name",
    [
        "recipe/big/rte",
        "recipe/big/lora",
        "recipe/small/cola-vera",
        "recipe/small/cola-kind/of",
        "recipe/big/_common",
        "recipe/big/_common-vera",
        "recipe/_default/_common",
        "recipe/_default/vera",
        "experiment/table1/vera",
        "experiment/table1/kind/of",
    ],
)
def test_what_a_run_looks_for_may_be_there(conf, name):
    put(conf, name)
    check_files(conf)


@pytest.mark.parametrize(
    ("name", "named", "hint"),
    [
        ("recipe/bih/rte", "conf/recipe/bih", "big"),
        ("recipe/big/rtee", "conf/recipe/big/rtee.yaml", "rte"),
        ("recipe/big/verra", "conf/recipe/big/verra.yaml", "vera"),
        ("recipe/big/rte-verra", "conf/recipe/big/rte-verra.yaml", "rte-vera"),
        ("recipe/big/vera-rte", "conf/recipe/big/vera-rte.yaml", ""),
        ("recipe/big/_comon", "conf/recipe/big/_comon.yaml", "_common"),
        ("recipe/_default/rte", "conf/recipe/_default/rte.yaml", ""),
        ("recipe/big-rte", "conf/recipe/big-rte", ""),
        ("experiment/tabel1/vera", "conf/experiment/tabel1", "table1"),
        ("experiment/table1/verra", "conf/experiment/table1/verra.yaml", "vera"),
    ],
)
def test_what_no_run_looks_for_is_an_error(conf, name, named, hint):
    put(conf, name)
    with pytest.raises(UserError) as error:
        check_files(conf)
    assert str(error.value).startswith(f"{named}: no run looks for it")
    assert f"Did you mean {hint}?" in str(error.value) if hint else True


@pytest.mark.parametrize(
    "name", ["roberta_base/ret", "roberta_bas/rte", "roberta_base-rte", "rte", "roberta_base"]
)
def test_a_recipe_that_is_not_there_is_an_error(name):
    with pytest.raises(UserError, match=f"there is no conf/recipe/{name}.yaml"):
        check_names([f"recipe={name}"])
    with pytest.raises(UserError, match=f"there is no conf/recipe/{name}.yaml"):
        check_names(["seed=0", f"recipe=roberta_base/rte,{name}"])


def test_a_recipe_that_is_there_is_none():
    check_names(["recipe=roberta_base/rte", "decoding=greedy", "recipe.epochs=1"])
