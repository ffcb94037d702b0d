"""What the commands that take an experiment make of their arguments."""

from __future__ import annotations

import shlex
from contextlib import suppress
from importlib import import_module

import pytest
from conftest import ROOT

from experiments import report, results, status
from experiments.cli import combined, parse
from experiments.config.sweep import run_configs

COMMANDS = [
    path.stem for path in (ROOT / "experiments").glob("*.py") if "guarded(main)" in path.read_text()
]


@pytest.mark.parametrize("name", sorted({*COMMANDS} - {"run"}))  # Hydra's has its own help
def test_help_says_what_a_command_does_and_does_nothing(name, monkeypatch, capsys):
    module = import_module(f"experiments.{name}")
    for work in ("rendered", "table", "parse_intermixed_args"):
        monkeypatch.setattr(module, work, None, raising=False)
    with suppress(SystemExit):
        assert module.main(["--help"]) == 0
    assert module.__doc__.strip().splitlines()[0] in capsys.readouterr().out


def test_a_key_given_again_replaces_the_mini_forms():
    options = parse("", ["layer_removal", "--mini", "task=mini_sentiment", "seed=0,1"], None, "")
    assert [o for o in options.overrides if o.startswith("task=")] == ["task=mini_sentiment"]
    ids = [config["id"] for config in run_configs(options.overrides)]
    assert len(ids) == len(set(ids)) == 2


def test_a_sweep_of_the_mini_form_is_not_multiplied():
    options = parse("", ["shared_init", "--mini", "seed=0,1", "task=mini_sentiment"], None, "")
    ids = [config["id"] for config in run_configs(options.overrides)]
    assert len(ids) == len(set(ids)) == 2 * 3


def test_keys_are_compared_as_hydra_reads_them():
    own = ["experiment=demo", "seed=0,1", "task=a,b", "recipe.epochs=1"]
    assert combined(own, ["++seed=0", "~recipe.epochs", "+x=1"]) == [
        *("experiment=demo", "task=a,b", "++seed=0", "~recipe.epochs", "+x=1")
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", [lambda *words: status.main(["all", *words]), lambda *words: report.main([*words])]
)
def test_commands_about_all_experiments_replace_keys_too(command, monkeypatch, tmp_path):
    asked, load = [], results.load

    def noted(overrides):
        asked.append(overrides)
        return load(["method=lora", "seed=0"])

    monkeypatch.setattr(results, "load", noted)
    command("--mini", "++seed=0", f"paths.outputs={tmp_path}")
    seeds = [[each for each in given if "seed=" in each] for given in asked]
    assert len(seeds) > 5 and all(own == ["++seed=0"] for own in seeds)


def test_a_deletion_is_an_override_and_another_experiment_is_not(capsys):
    options = parse("", ["demo", "~decoding", "seed=0"], None, "")
    assert options.overrides[-2:] == ["~decoding", "seed=0"]
    with pytest.raises(SystemExit):
        parse("", ["demo", "experiment=table1"], None, "")
    assert "'experiment=table1' is not an override" in capsys.readouterr().err


def test_the_command_that_makes_the_runs_can_be_pasted_into_a_shell():
    given = ["paths.outputs='a folder'", "method=glob(lora*)", "seed=0,1"]
    options = parse("", ["demo", *given], None, "")
    words = ["python", "-m", "experiments.run", "experiment=demo", *given]
    assert shlex.split(options.command) == words and options.command.endswith(" seed=0,1")
    assert options.outputs == "a folder"
