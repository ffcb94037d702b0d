"""What the commands that take an experiment make of their arguments."""

from __future__ import annotations

from experiments.cli import parse
from experiments.config.sweep import run_configs


def test_a_key_given_again_replaces_the_mini_forms():
    options = parse("", ["layer_removal", "--mini", "task=mini_sentiment", "seed=0,1"], None, "")
    assert [o for o in options.overrides if o.startswith("task=")] == ["task=mini_sentiment"]
    ids = [config["id"] for config in run_configs(options.overrides)]
    assert len(ids) == len(set(ids)) == 2


def test_a_sweep_of_the_mini_form_is_not_multiplied():
    options = parse("", ["shared_init", "--mini", "seed=0,1", "task=mini_sentiment"], None, "")
    ids = [config["id"] for config in run_configs(options.overrides)]
    assert len(ids) == len(set(ids)) == 2 * 3
