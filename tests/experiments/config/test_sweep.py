"""Sweeps: what Hydra composes one by one; remembered until a file that they were made from
changes."""

from __future__ import annotations

import random
import re
import shutil
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from experiments.config import sweep, sweep_cache
from experiments.config.identity import run_id
from experiments.config.schema import CONF, UserError


@pytest.fixture
def conf(tmp_path, monkeypatch):
    """A copy of conf/ to edit, with a cache of its own."""
    copied = Path(shutil.copytree(CONF, tmp_path / "conf"))
    for module in (sweep, sweep_cache):
        monkeypatch.setattr(module, "CONF", str(copied))
    monkeypatch.setattr(sweep_cache, "SWEEPS", tmp_path / "sweeps")
    return copied


@pytest.fixture
def expanded(monkeypatch):
    """The overrides of the sweeps that Hydra expanded, and that were thus not remembered."""
    calls, expand = [], sweep._expand

    def counted(overrides, loader):
        calls.append(overrides)
        return expand(overrides, loader)

    monkeypatch.setattr(sweep, "_expand", counted)
    return calls


def edit(path: Path, text: str = "# edited\n") -> None:
    path.write_text((path.read_text() if path.exists() else "") + text)


@pytest.mark.slow
def test_a_sweep_is_what_hydra_composes_one_by_one():
    configs = sweep.expand_sweep(["experiment=learning_rate_sensitivity", "task=rte"])
    assert len(configs) == 144
    with initialize_config_dir(CONF, version_base="1.3"):
        for config in random.Random(0).sample(configs, 5):
            overrides = [f"{group}={config[group].name}" for group in ("task", "method")]
            overrides += [
                f"seed={config.seed}",
                f"recipe.learning_rate={config.recipe.learning_rate}",
            ]
            alone = compose("run", ["experiment=learning_rate_sensitivity", *overrides])
            assert alone == config and run_id(alone) == run_id(config)


def test_a_sweep_is_remembered_wherever_its_results_go(conf, expanded):
    first = sweep.run_configs(["experiment=demo", "paths.outputs=elsewhere"])
    assert sweep.run_configs(["experiment=demo"]) == first and len(expanded) == 1
    sweep.run_configs(["experiment=demo", "seed=0"])
    assert len(expanded) == 2


def test_an_edit_of_another_yaml_forgets_nothing(conf, expanded):
    sweep.run_configs(["experiment=demo"])
    edit(conf / "experiment" / "table1.yaml")
    edit(conf / "task" / "mini_entailment.yaml")
    edit(conf / "method" / "vera.yaml")
    edit(conf / "method" / "new.yaml", (conf / "method" / "lora.yaml").read_text())
    sweep.run_configs(["experiment=demo"])
    assert len(expanded) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "run",
        "experiment/demo",
        "task/mini_sentiment",
        "method/lora_drop_no_share",
        "experiment/demo/lora",
    ],
)
def test_an_edit_of_a_yaml_that_was_read_or_looked_for_is_seen(conf, expanded, name):
    sweep.run_configs(["experiment=demo"])
    path = conf / f"{name}.yaml"
    path.parent.mkdir(exist_ok=True)
    edit(path)
    sweep.run_configs(["experiment=demo"])
    assert len(expanded) == 2
    sweep.run_configs(["experiment=demo"])
    assert len(expanded) == 2


def test_an_optional_file_that_is_added_is_in_force(conf):
    before = sweep.run_configs(["experiment=demo", "method=lora", "seed=0"])
    (conf / "experiment" / "demo").mkdir()
    (conf / "experiment" / "demo" / "lora.yaml").write_text("recipe: {epochs: 7}\n")
    (after,) = sweep.run_configs(["experiment=demo", "method=lora", "seed=0"])
    assert after["recipe"]["epochs"] == 7 != before[0]["recipe"]["epochs"]


@pytest.mark.slow
def test_a_new_file_of_a_group_that_is_swept_by_pattern_is_seen(conf):
    narrowed = ["experiment=mini_methods", "method=glob(lora*)", "task=mini_sentiment"]
    before = sweep.run_configs(narrowed)
    text = (conf / "method" / "lora.yaml").read_text()
    (conf / "method" / "lora_new.yaml").write_text(text.replace("name: lora", "name: lora_new"))
    after = {config["method"]["name"] for config in sweep.run_configs(narrowed)}
    assert after == {config["method"]["name"] for config in before} | {"lora_new"}


def test_an_edit_while_hydra_composes_is_not_taken_for_what_it_read(conf, monkeypatch):
    expand = sweep._expand

    def slow(overrides, loader):
        yield from expand(overrides, loader)
        edit(conf / "experiment" / "demo.yaml")

    monkeypatch.setattr(sweep, "_expand", slow)
    sweep.run_configs(["experiment=demo"])
    assert sweep_cache.load_sweep(["experiment=demo"]) is None


@pytest.mark.slow
@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"sources": {}}', '{"sources": 1, "configs": []}']
)
def test_a_damaged_cache_is_made_again(conf, content):
    first = sweep.run_configs(["experiment=demo"])
    (path,) = sweep_cache.SWEEPS.glob("*.json")
    path.write_text(content)
    assert sweep.run_configs(["experiment=demo"]) == first
    assert path.read_text() != content


def test_a_cache_that_cannot_be_written_hinders_nothing(conf, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(sweep_cache, "SWEEPS", tmp_path / "file" / "sweeps")
    assert len(sweep.run_configs(["experiment=demo"])) == 9


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("recipe=/etc/passwd", "recipe=/etc/passwd: there is no conf/recipe//etc/passwd.yaml"),
        ("recipe=..", "recipe=..: there is no conf/recipe/...yaml"),
        ("recipe=[a,b]", "recipe=[a,b]: there is no"),
        ("decoding=.", "decoding=.: there is no"),
        ("decoding=gredy", "there is no conf/decoding/gredy.yaml. Did you mean greedy?"),
        ("+decoding=gredy", "decoding=gredy: there is no"),
        ("backbone=../task/rte", "backbone=../task/rte: there is no"),
        ("method=1", "method=1: there is no"),
        ("=1", "=1: there is no key before '='"),
    ],
)
def test_names_that_hydra_passes_over_or_stumbles_on_are_refused(override, message):
    with pytest.raises(UserError, match=re.escape(message)):
        sweep.check_names(["seed=0", override])


def test_names_that_exist_and_options_are_let_through():
    sweep.check_names(
        ["-m", "method=lora,lora_drop", "decoding=greedy", "recipe=glob(*)", "~recipe"]
    )


def test_what_depends_on_more_than_files_is_not_remembered(conf, expanded, monkeypatch):
    for override, key in (("recipe.learning_rate=${oc.env:RATE}", "learning_rate"),):
        found = []
        for rate in (0.1, 0.2):
            monkeypatch.setenv("RATE", str(rate))
            (config,) = sweep.run_configs([override])
            found.append(config["recipe"][key])
        assert found == [0.1, 0.2]
    edit(conf / "experiment" / "demo.yaml", "recipe: {lora_alpha: '${oc.env:RATE}'}\n")
    assert sweep.run_configs(["experiment=demo"])[0]["recipe"]["lora_alpha"] == 0.2
    monkeypatch.setenv("RATE", "0.3")
    assert sweep.run_configs(["experiment=demo"])[0]["recipe"]["lora_alpha"] == 0.3


def test_a_mapping_keeps_nothing_of_another_job():
    configs = sweep.expand_sweep(["method=lora", "+method.x={a: 1},{b: 2}"])
    assert [config.method.x for config in configs] == [{"a": 1}, {"b": 2}]


def test_folders_that_a_file_names_are_those_of_every_command(conf):
    edit(conf / "experiment" / "demo.yaml", "paths: {outputs: elsewhere}\n")
    assert sweep.paths_of(["experiment=demo", "seed=0,1"])["cache"] == "elsewhere/cache"
    assert sweep.paths_of(["experiment=demo", "paths={outputs: x}"])["outputs"] == "x"
    with pytest.raises(UserError, match=r"paths\.outputs: all runs of a sweep share their folders"):
        sweep.paths_of(["paths.outputs=a,b"])


def test_folders_are_read_as_hydra_reads_them(monkeypatch):
    monkeypatch.setenv("PLACE", "/tmp")
    assert sweep.paths_of(["experiment=demo", "seed=0,1"])["outputs"] == "outputs"
    found = sweep.paths_of(["paths.outputs='a folder, with=signs'", "method=glob(*)"])
    assert found["outputs"] == "a folder, with=signs" and found["cache"].startswith("a folder, ")
    found = sweep.paths_of(["++paths.data=/x", "paths.outputs=${oc.env:PLACE}/y"])
    assert (found["data"], found["cache"]) == ("/x", "/tmp/y/cache")
