"""`--explain` names the file that set a value: looked up in that file, it is this value."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from experiments.config.explain import COMMAND_LINE, Setting, explain, explain_command, lines
from experiments.config.schema import CONF, UserError

NOWHERE = object()
# groups whose files hold their part of a config alone; other files hold several parts
PARTS = ("backbone", "task", "method", "decoding", "trainer", "logger")


def stated(source, key):
    """What a file says of a key; NOWHERE if nothing."""
    node = yaml.safe_load(Path(CONF, source).read_text())
    names = key.split(".")
    if names[0] == "recipe" and "recipe" not in node and source.startswith("recipe/"):
        names = names[1:]  # of a task
    elif source.partition("/")[0] in PARTS:
        names = names[1:]
    for name in names:
        if not isinstance(node, dict) or name not in node:
            return NOWHERE
        node = node[name]
    return node


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        ["backbone=roberta_base", "task=rte", "method=vera"],
        ["backbone=deberta_v3_base", "task=cola", "method=adalora"],
        ["backbone=llama2_7b", "task=dialogsum", "method=lora_drop"],
        ["backbone=llama2_7b", "method=full"],
        ["backbone=tiny_llama", "task=mini_summary", "method=last_layers"],
        ["backbone=tiny_roberta", "task=mini_similarity", "method=bitfit"],
        ["backbone=deberta_v3_base", "task=stsb", "method=prilora/inverted"],
        ["backbone=bert_base", "recipe=roberta_base/rte"],
        ["experiment=figure8", "task=rte", "method=lora_drop"],
    ],
    ids=" ".join,
)
def test_a_value_stands_in_the_file_that_is_named(compose, overrides):
    explanation = explain([*overrides, "seed=1"])
    config = OmegaConf.to_container(compose(*overrides, "seed=1"))
    for setting in explanation.settings:
        if setting.source in (COMMAND_LINE, "schema") or setting.key.startswith("paths."):
            continue
        there = stated(setting.source, setting.key)
        assert there is not NOWHERE, setting
        written = setting.written or setting.value
        assert there == written or float(there) == float(written), setting
    assert [setting.key for setting in explanation.settings] == keys(config, "")


def keys(node, name):
    if not isinstance(node, dict) or not node:
        return [name]
    return [
        each for key, value in node.items() for each in keys(value, f"{name}.{key}".lstrip("."))
    ]


def sources(*overrides):
    return {setting.key: setting.source for setting in explain(list(overrides)).settings}


def test_the_later_of_recipe_experiment_and_command_line_is_named():
    figure = ["experiment=figure7", "method=lora_drop"]
    found = sources(*figure)
    assert found["recipe.learning_rate"] == "recipe/roberta_base/rte.yaml"
    assert found["recipe.epochs"] == "experiment/figure7.yaml"
    assert found["method.sample_epochs"] == "experiment/figure7/lora_drop.yaml"
    assert found["seed"] == "experiment/figure7.yaml"  # of what it sweeps over
    given = sources(*figure, "recipe.epochs=4", "method.sample_epochs=4", "seed=0")
    assert {given[key] for key in ("recipe.epochs", "method.sample_epochs", "seed")} == {
        COMMAND_LINE
    }
    assert (
        found | dict.fromkeys(("recipe.epochs", "method.sample_epochs", "seed"), COMMAND_LINE)
        == given
    )


def test_what_refers_to_another_key_is_shown_with_its_value():
    (alpha,) = (
        s
        for s in explain(["method=lora", "recipe.lora_alpha=24"]).settings
        if s.key == "method.alpha"
    )
    assert alpha == Setting("method.alpha", 24.0, "method/lora.yaml", "${recipe.lora_alpha}")
    assert alpha.text == "alpha: 24.0 = ${recipe.lora_alpha}"


@pytest.mark.parametrize("added", ["+method.new=1", "method.threshold=0.8", "task.columns=[a]"])
def test_what_the_command_line_sets_is_its_own(added):
    assert sources(added)[added.partition("=")[0].lstrip("+")] == COMMAND_LINE


def test_of_a_sweep_the_first_run_is_explained(capsys):
    explanation = explain(["task=rte,cola", "seed=0,1,2", "method=vera"])
    assert explanation.runs == 6
    assert {s.key: s.value for s in explanation.settings if s.key in ("task.name", "seed")} == {
        "task.name": "rte",
        "seed": 0,
    }
    explain_command(["--explain", "-m", "task=rte,cola"])
    assert capsys.readouterr().out.startswith("The first of 2 runs")


@pytest.mark.parametrize("width", [80, 200])
def test_lines_fit_and_no_source_is_cut(width):
    settings = explain(["experiment=learning_rate_sensitivity", "task=rte", "method=vera"]).settings
    shown = list(lines(settings, width))
    assert max(map(len, shown)) <= width
    found = [match[1] for line in shown if (match := re.search(r"  # (.+)$", line))]
    assert found == [setting.source for setting in settings]
    assert ("…" in "".join(shown)) == (width < 120)  # of the long values


def test_other_options_and_unknown_names_are_refused():
    with pytest.raises(UserError, match="--cfg does not go with --explain"):
        explain_command(["--explain", "--cfg", "job"])
    with pytest.raises(UserError, match=r"there is no conf/recipe/rte\.yaml"):
        explain_command(["recipe=rte", "--explain"])
