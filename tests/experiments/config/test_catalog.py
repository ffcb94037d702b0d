"""catalog.yaml: every entry is complete and can be carried out; a mistake in it names the entry and
the key.
"""

from __future__ import annotations

import inspect
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

from experiments.config.catalog import (
    CATALOG,
    EXPERIMENTS,
    FIGURE,
    STUDY,
    catalog,
    experiment,
    names,
    read_catalog,
)
from experiments.config.schema import UserError
from experiments.config.sweep import run_configs
from experiments.reporting.figures import FIGURES
from experiments.reporting.published import published

ENTRY = {"title": "What it asks.", "kind": "study", "expected": "nothing is known"}
OWN = sorted(EXPERIMENTS.glob("*/*.yaml"))


def written(folder: Path, entry: object) -> Path:
    path = folder / "catalog.yaml"
    path.write_text(yaml.safe_dump({"experiments": {"study1": entry}}, sort_keys=False))
    return path


def test_every_experiment_has_an_entry_and_every_entry_its_runs():
    assert sorted(names()) == sorted(path.stem for path in EXPERIMENTS.glob("*.yaml"))
    assert set(published()) <= set(names())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"titel": "x"},
            r"catalog\.yaml: study1\.titel: there is no such key\. Did you mean title\?",
        ),
        ({"title": None}, r"study1\.title must be a text, not None"),
        ({"cost": 3}, r"study1\.cost must be a text, not 3"),
        ({"kind": "tabel"}, r"study1\.kind must be one of table, figure, study, not 'tabel'"),
        ({"kind": "figure"}, r"study1\.figure is missing"),
        ({"paired": {"key": "a.b"}}, r"study1\.paired must be a mapping with the keys key and"),
        ({"mini": "seed=0"}, r"study1\.mini must be a mapping"),
        ({"mini": {}}, r"study1\.mini must be a mapping"),
        ({"mini": {"seed": []}}, r"study1\.mini\.seed must be a value or a list"),
        ({"mini": {"seed": None}}, r"study1\.mini\.seed must be a value or a list"),
        ({"figure": {"key": "x"}}, r"study1\.figure must be a mapping with the key `kind`"),
    ],
)
def test_a_mistake_names_the_entry_and_the_key(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        read_catalog(written(tmp_path, ENTRY | change))


@pytest.mark.parametrize("key", ENTRY)
def test_a_missing_key_is_named(tmp_path, key):
    with pytest.raises(UserError, match=rf"study1\.{key} is missing"):
        read_catalog(written(tmp_path, {k: v for k, v in ENTRY.items() if k != key}))


def test_a_file_that_is_no_catalogue_is_named(tmp_path):
    path = tmp_path / "catalog.yaml"
    for text in ("", "- a", "experiments: 3", "a: [", "experiments: {study1: text}"):
        path.write_text(text)
        with pytest.raises(UserError, match=r"catalog\.yaml"):
            read_catalog(path)


def test_a_mini_form_is_overrides_that_sweep_over_lists(tmp_path):
    mini = {
        "backbone": "tiny_roberta",
        "trainer.progress_bar": False,
        "seed": [0, 1],
        "recipe.learning_rate": ["1e-4", 0.1],
    }
    entry = read_catalog(written(tmp_path, ENTRY | {"mini": mini}))["study1"]
    own = (
        "backbone=tiny_roberta",
        "trainer.progress_bar=false",
        "seed=0,1",
        "recipe.learning_rate=1e-4,0.1",
    )
    assert entry.mini == own and entry.overrides(mini=True) == ["experiment=study1", *own]
    assert entry.overrides() == ["experiment=study1"] and entry.has_table and entry.figure is None
    with pytest.raises(UserError, match="demo has no mini form"):
        experiment("demo").overrides(mini=True)
    with pytest.raises(UserError, match=r"no experiment tabel1\. Did you mean table1\?"):
        experiment("tabel1")


def test_all_mini_forms_share_what_catalog_yaml_says_they_share():
    shared = yaml.safe_load(CATALOG.read_text())["shared"]["mini"]
    for entry in catalog().values():
        if entry.mini:
            keys = dict(override.split("=", 1) for override in entry.mini)
            assert {key: keys[key] for key in shared} == {
                key: str(value).lower() for key, value in shared.items()
            }


@pytest.mark.parametrize("name", names())
def test_what_is_expected_is_said_and_not_only_where_it_stands(name):
    assert len(re.sub(r"\S+\.(md|yaml)", "", experiment(name).expected).split()) >= 3


@pytest.mark.slow
@pytest.mark.parametrize("name", names())
def test_mini_forms_run_on_built_in_models(name):
    entry = experiment(name)
    configs = run_configs(entry.overrides(mini=bool(entry.mini)))
    assert {config["backbone"]["name"] for config in configs} <= {
        "tiny_roberta",
        "tiny_llama",
        "all_minilm_l6",
        "mpnet_base",
    }
    assert len({config["id"] for config in configs}) == len(configs)
    assert entry.mini or (name not in published() and entry.kind == STUDY)


@pytest.mark.parametrize("name", [name for name in names() if experiment(name).figure])
def test_figures_are_of_a_kind_that_takes_their_arguments(name):
    figure = experiment(name).figure
    kind = FIGURES[figure.kind]
    inspect.signature(kind.data).bind("frame", "outputs", **figure.arguments)
    inspect.signature(kind.plot).bind("data", **figure.arguments)


@pytest.mark.slow
@pytest.mark.parametrize("path", OWN, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_what_a_method_has_of_its_own_in_an_experiment_is_in_force(path):
    configs = run_configs(experiment(path.parent.name).overrides())
    method = [config["method"] for config in configs if config["method"]["name"] == path.stem]
    own = {"figure7": {"sample_ratio": 0.2, "sample_epochs": 4}}
    expected = own | {"figure8": own["figure7"]}
    assert method
    for config in method:
        assert expected.get(path.parent.name, {}).items() <= config.items()


def test_the_scaled_rank_study_keeps_alpha_over_rank():
    configs = run_configs(["experiment=rank_study_scaled", "task=rte", "method=lora", "seed=0"])
    found = {config["method"]["rank"]: config["method"]["alpha"] for config in configs}
    assert found == {rank: 2 * rank for rank in (2, 4, 8, 16, 32, 64)}


def test_kinds_of_tasks_are_compared_with_the_same_lora():
    for name in ("understanding_generation", "cross_kind_stability"):
        configs = run_configs([*experiment(name).overrides(), "seed=0"])
        assert {(c["method"]["rank"], c["method"]["alpha"]) for c in configs} == {(8, 16)}
        assert {c["recipe"]["epochs"] for c in configs} == {0}


def make(*words: str) -> list[list[str]]:
    """What `make <words>` would carry out of `experiments.reproduce`: its arguments, command by
    command.
    """
    done = subprocess.run(
        ["make", "-n", *words, "STAMP="],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    return [found.split() for found in re.findall(r"experiments\.reproduce (.*)", done.stdout)]


def test_the_makefile_reproduces_what_the_catalogue_has():
    papers = [name for name in names() if re.match("table|figure", name)]
    studies = [entry.name for entry in catalog().values() if entry.kind == STUDY and entry.mini]
    cores = "hydra/launcher=cores"
    mini = sorted([name, "--mini", cores] for name in papers)
    assert sorted(make("tables", "SCALE=mini")) == mini
    assert make("table7", "SCALE=mini", "LAUNCHER=") == [["table7", "--mini"]]
    assert make("studies", "ARGS=seed=0") == [[name, "seed=0"] for name in studies]
    demos = {name: [cores] for name in names() if name.startswith("demo")}
    assert sorted(make(*names())) == sorted([name, *demos.get(name, [])] for name in names())
    assert make("demo-nlg") == [["demo_nlg", cores]]
    assert all(experiment(name).kind == FIGURE for name in papers if name.startswith("figure"))
