"""Mistakes: one clear message, no traceback, nothing written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from conftest import run_module
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from experiments.config.schema import CONF, UserError
from experiments.runner.execution import run
from experiments.runner.restore import restore

CASES = {
    "unknown key": (["method.treshold=0.5"], "treshold"),
    "unknown group": (["method=lora_dorp"], "Could not find 'method/lora_dorp'"),
    "threshold": (["method.threshold=1.2"], "threshold must lie in (0, 1], got 1.2"),
    "parameter_ratio": (
        ["method.threshold=null", "method.parameter_ratio=0"],
        "parameter_ratio must lie in (0, 1], got 0",
    ),
    "budget below the shared LoRAs": (
        ["method.threshold=null", "method.parameter_ratio=0.01"],
        "parameter_ratio 0.01 is too small",
    ),
    "sample ratio": (["method.sample_ratio=1.1"], "sample_ratio must lie in (0, 1], got 1.1"),
    "rank": (["method.rank=0"], "rank must be at least 1, got 0"),
    "rank above the width": (["method.rank=200"], "rank must lie between 1 and 128"),
    "k above the layers": (
        ["method.threshold=null", "method.num_layers=13"],
        "num_layers must not exceed the 12 layers there are, got 13",
    ),
    "sparsity": (
        ["method=sparse_adapter", "method.sparsity=1"],
        "sparsity must lie in (0, 1), got 1",
    ),
    "scores that are zero": (
        ["method=sparse_adapter", "method.init_std=null"],
        "every score is zero: set init_std",
    ),
    "rank of the last layer": (
        ["method=prilora", "method.rank_last=200"],
        "rank must lie between 1 and 128",
    ),
    "dropped layers": (
        ["method=adapter_drop", "method.dropped_layers=12"],
        "must be below the model's 12 layers, got 12",
    ),
    "target_modules": (
        ["method.target_modules=[qeury]"],
        "no linear module's name ends in 'qeury'. Linear modules: roberta.encoder",
    ),
    "a number in a list of names": (
        ["method.target_modules=[1]"],
        "method.target_modules must be ",
    ),
    "labels that are no texts": (["task.labels=[1,2]"], "task.labels must be tuple[str, ...] | "),
    "data folder": (
        ["task=rte", "paths.data=nowhere"],
        "paths.data (LORADROP_DATA): there is no folder nowhere",
    ),
    "no data and no Hub": (["task=rte"], "HF_HUB_OFFLINE is set"),
    "no backbone": (
        ["backbone=roberta_base"],
        "Put the model there (config.json, model.safetensors, tokenizer.json)",
    ),
    "too long for the backbone": (
        ["recipe.max_length=4000"],
        "recipe.max_length is 4000, but backbone tiny_roberta",
    ),
    "added key": (
        ["+recipe.lerning_rate=1"],
        "recipe.lerning_rate: there is no such key. Did you mean learning_rate?",
    ),
    "added top-level key": (["+sed=1"], "sed: there is no such key. Did you mean seed?"),
    "experiment": (["experiment=tabel7"], "Could not find 'experiment/tabel7'"),
    "no GPU": (["trainer=gpu"], "torch sees no GPU"),
    "a function for a metric": (
        ["task.metric=builtins.exit"],
        "task.metric: builtins.exit is no class of a metric",
    ),
    "a function for a method": (
        ["method._target_=builtins.exit"],
        "method._target_: builtins.exit is no Method",
    ),
    "a function for a logger": (
        ["logger=csv", "logger._target_=os.system"],
        "logger._target_: os.system takes no `run`",
    ),
    "a call inside a group": (
        ["method.target_modules={_target_: os.system}"],
        "method.target_modules._target_: no class can be named here",
    ),
    "weights elsewhere": (
        ["backbone.hub_id=../../x"],
        "backbone.hub_id must be a relative path without '..', got '../../x'",
    ),
    "weights anywhere": (["backbone.hub_id=/etc"], "must be a relative path without '..'"),
    "data elsewhere": (["task=rte", "task.official=../x"], "task.official must be a relative"),
    "data elsewhere, of a task inside": (
        ["task=rte_text", "decoding=greedy", "task.labelled.official=../x"],
        "task.labelled.official must be a relative path",
    ),
    "the name of a task inside": (
        ["task=rte_text", "decoding=greedy", "task.labelled.name=../x"],
        "task.labelled.name must be a word",
    ),
    "a revision elsewhere": (["task=rte", "task.revision=../x"], "task.revision must be a relat"),
    "a key in an address": (
        ["task=dart", "decoding=greedy", "task.url='https://me:key@example.com'"],
        "task.url must not hold a user's name or key",
    ),
    "a key behind an address": (
        ["task=dart", "decoding=greedy", "task.url='https://example.com/x?token=1'"],
        "task.url must not hold a user's name or key",
    ),
    "negative noise": (["task.label_noise=-1"], "task: label_noise must lie in [0, 1], got -1"),
    "no rows": (["task.train_size=0"], "task: train_size must be at least 1, got 0"),
    "fewer than no rows": (["task.validation_size=-5"], "validation_size must be at least 1, got"),
    "one class": (["task.labels=[a]"], "task: labels must name two or more classes"),
    "another generated task": (["task.name=mini"], "task: name must be one of mini_"),
}


def attempt(overrides: list[str], outputs: Path) -> str:
    """The message of a run that must not start."""
    with initialize_config_dir(CONF, version_base="1.3"):
        try:
            config = compose("run", [*overrides, f"paths.outputs={outputs}"])
        except (HydraException, OmegaConfBaseException) as error:
            return str(error)
    with pytest.raises(UserError) as caught:
        run(config)
    return str(caught.value)


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    for key in ("LORADROP_MODELS", "LORADROP_DATA"):
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_one_clear_message_and_nothing_written(case, tmp_path):
    overrides, message = CASES[case]
    if case == "no GPU" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert message in attempt(overrides, tmp_path / "outputs")
    assert not (tmp_path / "outputs").exists()


@pytest.mark.slow
def test_the_message_is_all_that_is_printed(tmp_path):
    done = run_module("experiments.run", "method.rank=0", outputs=tmp_path / "outputs")
    assert done.returncode == 1 and "method: rank must be at least 1, got 0" in done.stderr
    assert "Traceback" not in done.stderr + done.stdout and len(done.stderr.splitlines()) <= 4


@pytest.mark.slow
def test_a_traceback_is_there_for_the_asking(tmp_path):
    done = run_module("experiments.run", "method.rank=0", outputs=tmp_path, HYDRA_FULL_ERROR="1")
    assert "Traceback" in done.stderr and "rank must be at least 1" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "recipe=roberta_base-ret",
            "recipe=roberta_base-ret: there is no conf/recipe/roberta_base-ret.yaml",
        ),
        ("decoding=greedy,beem", "decoding=beem: there is no conf/decoding/beem.yaml"),
        ("decoding=null", "decoding=null: a group cannot be null; leave it out"),
    ],
)
def test_a_name_that_hydra_would_pass_over_is_named(override, message, tmp_path):
    for module, first in (("experiments.run", "-m"), ("experiments.table", "demo")):
        done = run_module(module, first, override, outputs=tmp_path / "outputs")
        assert (
            done.returncode == 1
            and done.stderr.startswith(message)
            and "Traceback" not in done.stderr
        )
    assert not (tmp_path / "outputs").exists()


@pytest.mark.slow
def test_outputs_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    assert "paths.outputs: cannot write to" in attempt([], tmp_path / "file" / "outputs")
    cache = attempt([f"paths.cache={tmp_path / 'file' / 'cache'}"], tmp_path / "outputs")
    assert "paths.cache: cannot write to" in cache and not (tmp_path / "outputs").exists()
    swept = run_module("experiments.run", "-m", "seed=0,1", outputs=tmp_path / "file" / "outputs")
    assert swept.returncode == 1 and "Traceback" not in swept.stderr
    assert (
        swept.stdout.startswith("paths.outputs: cannot write to")
        and len(swept.stdout.splitlines()) == 1
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("train", "message"),
    [
        ("index\tsentence1\tsentence2\tlabel\n0\ta\tb\tperhaps\n", "perhaps"),
        ("index\tsentence1\tlabel\n0\ta\tentailment\n", "sentence2"),
        ("index\tsentence1\tsentence2\tlabel\n", "train.tsv"),
        ("index\tsentence1\tsentence2\tlabel\n0\ta\tentailment\n", "train.tsv"),
    ],
    ids=["label outside the set", "missing column", "empty split", "row that cannot be parsed"],
)
def test_bad_data_files_are_named(train, message, tmp_path):
    folder = tmp_path / "data" / "RTE"
    folder.mkdir(parents=True)
    (folder / "train.tsv").write_text(train)
    (folder / "dev.tsv").write_text("index\tsentence1\tsentence2\tlabel\n0\ta\tb\tentailment\n")
    outputs = tmp_path / "outputs"
    text = attempt(["task=rte", f"paths.data={tmp_path / 'data'}"], outputs)
    assert message in text and "train.tsv" in text
    assert not outputs.exists()


@pytest.mark.slow
def test_in_a_sweep_the_other_runs_go_on(tmp_path):
    small = [
        "task.train_size=64",
        "task.validation_size=32",
        "recipe.epochs=1",
        "trainer.progress_bar=false",
    ]
    done = run_module(
        "experiments.run", "-m", "method=lora", "method.rank=0,4", *small, outputs=tmp_path
    )
    assert done.returncode == 1
    assert (
        "rank must be at least 1, got 0" in done.stdout
        and "1 of 2 runs did not finish" in done.stdout
    )
    assert len(list(Path(tmp_path).glob("runs/*/result.json"))) == 1


@pytest.mark.slow
def test_damaged_files_are_named(tmp_path):
    small = [
        "task.train_size=64",
        "task.validation_size=32",
        "recipe.epochs=1",
        "trainer.progress_bar=false",
    ]
    assert run_module("experiments.run", *small, outputs=tmp_path).returncode == 0
    (measured,) = tmp_path.glob("cache/stage1/*/*.safetensors")
    (weights,) = tmp_path.glob("runs/*/*.safetensors")
    whole = measured.read_bytes()
    measured.write_bytes(b"cut")
    done = run_module("experiments.run", *small, "method.threshold=0.5", outputs=tmp_path)
    assert done.returncode == 0 and f"stage 1 is done again: {measured} is damaged" in done.stdout
    assert measured.read_bytes() == whole
    weights.write_bytes(b"cut")
    with pytest.raises(ValueError, match=f"{weights.name} is damaged"):
        restore(weights.parent.name, tmp_path)
    path = weights.with_name("result.json")
    assert json.loads(path.read_text())["status"] == "finished"
    path.write_text("{")
    done = run_module("experiments.run", *small, outputs=tmp_path)
    assert done.returncode == 1 and "is damaged" in done.stderr and "Traceback" not in done.stderr
