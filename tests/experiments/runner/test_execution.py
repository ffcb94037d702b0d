"""One pass from a config to its result: each object is built once, and set-up comes after
the lock."""

from __future__ import annotations

import gc
import weakref
from collections import Counter

import pytest
from hydra import compose, initialize_config_dir

from experiments import results
from experiments.common.files import run_lock
from experiments.config import validation
from experiments.config.identity import run_id
from experiments.config.schema import CONF, UserError
from experiments.runner import execution
from experiments.runner.execution import run

SMALL = ["task.train_size=64", "task.validation_size=32", "recipe.epochs=1", "recipe.batch_size=32"]
QUICK = [
    "trainer.num_threads=1",
    "trainer.progress_bar=false",
    "paths.models=null",
    "paths.data=null",
]


@pytest.fixture
def composed(tmp_path):
    def compose_run(*overrides):
        with initialize_config_dir(CONF, version_base="1.3"):
            paths = f"paths.outputs={tmp_path / 'outputs'}"
            return compose("run", [*SMALL, *QUICK, paths, *overrides])

    return compose_run


@pytest.fixture
def nothing_is_built(monkeypatch):
    def build(config):
        raise AssertionError("set up without need")

    monkeypatch.setattr(execution, "build", build)


def test_each_object_of_a_run_is_built_once_and_a_finished_run_builds_none(composed, monkeypatch):
    built = Counter()
    original = validation.instantiate

    def counting(node, **supplied):
        built[node._target_] += 1
        return original(node, **supplied)

    monkeypatch.setattr(validation, "instantiate", counting)
    config = composed("method=lora")
    first = run(config)
    targets = [config[group]._target_ for group in ("backbone", "task", "method")]
    assert built == dict.fromkeys(targets, 1)
    assert not first.again and first.id == run_id(config)
    monkeypatch.setattr(execution, "build", None)
    second = run(config)
    assert second.again and second.result == first.result


@pytest.mark.slow
def test_the_model_of_the_last_run_is_gone_before_the_next_is_loaded(composed, monkeypatch):
    """Else a sweep over large models would need the memory of two."""
    from experiments.runner import components

    models = []

    def loading(built):
        assert all(model() is None for model in models)
        loaded = original(built)
        models.append(weakref.ref(loaded[0]))
        return loaded

    original = components.load_model
    monkeypatch.setattr(components, "load_model", loading)
    gc.disable()  # it might come by chance
    try:
        for seed in (0, 1):
            run(composed("method=lora", f"seed={seed}"))
    finally:
        gc.enable()
    assert len(models) == 2


def test_what_another_process_has_is_not_set_up(composed, nothing_is_built):
    config = composed("method=lora")
    folder = results.run_folder(config.paths.outputs, run_id(config))
    with run_lock(folder):
        outcome = run(config, wait=False)
    assert outcome.result is None and not outcome.again


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["recipe.epochs=0", "method=lora"],
            "recipe.epochs=0 leaves nothing to do: method lora measures nothing",
        ),
        (["method=lora", "method.rank=0"], "method: rank must be at least 1, got 0"),
        (["method=lora", "decoding=greedy"], "generates nothing: leave decoding out"),
    ],
)
def test_mistakes_are_said_before_anything_is_loaded_and_are_no_failed_run(
    composed, monkeypatch, overrides, message
):
    monkeypatch.setattr("experiments.runner.components.RunComponents", None)
    config = composed(*overrides)
    with pytest.raises(UserError, match=message) as caught:
        run(config)
    assert len(str(caught.value).splitlines()) == 1
    assert not (results.run_folder(config.paths.outputs, run_id(config))).exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["backbone.name=../../../x"], "backbone.name must be a word"),
        (["method.name=/../../x"], "method.name must be a word"),
        (["backbone.name=1e3"], "backbone.name must be a word .* got 1000.0"),
        (["task.name=''"], "task.name must be a word .* got ''"),
        (["~method.name"], "method.name must be a word .* got None"),
        (["~seed"], "seed is missing"),
        (["seed=-1"], "seed must lie in"),
        (["recipe.epochs=-1"], "recipe.epochs must not be negative, got -1"),
        (["trainer.num_threads=0"], "trainer.num_threads must be at least 1, got 0"),
        (["trainer.num_workers=100000"], "trainer.num_workers must be at most 1024, got 100000"),
        (["trainer.checkpoint_minutes=1e30"], "trainer.checkpoint_minutes must be at most"),
        (["trainer.precision=float8"], "trainer.precision must be one of"),
    ],
)
def test_names_and_numbers_are_checked_without_the_classes(
    composed, nothing_is_built, overrides, message
):
    config = composed(*overrides)
    with pytest.raises(UserError, match=message) as caught:
        run(config)
    assert len(str(caught.value).splitlines()) == 1


def test_measuring_alone_is_for_methods_that_measure(composed):
    config = composed("recipe.epochs=0", "method=lora_drop", "method.sample_ratio=1")
    result = run(config).result
    assert result.metrics is None and result.importance is not None
