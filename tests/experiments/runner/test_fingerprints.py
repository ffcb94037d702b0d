"""A finished run is skipped only if its data and weights are those that are here now."""

from __future__ import annotations

import os
import shutil
from types import SimpleNamespace

import pytest
from hydra import compose, initialize_config_dir

from experiments.config.schema import CONF, UserError
from experiments.runner import fingerprints
from experiments.runner.execution import run
from experiments.runner.fingerprints import difference
from loradrop.hub import ASSETS, files_fingerprint

HEAD = "index\tsentence1\tsentence2\tlabel\n"


def write_rte(folder, label="entailment"):
    folder.mkdir(parents=True, exist_ok=True)
    rows = [f"{i}\tthe cat sees {i} dogs\tit sees a dog\t{label}" for i in range(12)]
    rows += [f"{i}\ta dog\tno cat\tnot_entailment" for i in range(12, 24)]
    for name in ("train", "dev"):
        (folder / f"{name}.tsv").write_text(HEAD + "\n".join(rows) + "\n")


@pytest.fixture
def config(tmp_path):
    write_rte(tmp_path / "data" / "RTE")
    models = tmp_path / "models"
    shutil.copytree(ASSETS / "tiny_roberta", models / "loradrop" / "tiny_roberta")
    small = ["task=rte", "method=linear_probe", "recipe.epochs=1", "trainer.progress_bar=false"]
    paths = [f"paths.{key}={tmp_path / key}" for key in ("outputs", "data", "models")]
    with initialize_config_dir(CONF, version_base="1.3"):
        return compose("run", [*small, *paths, "trainer.num_threads=1"])


def test_changed_data_and_weights_are_named_before_a_run_is_skipped(config, tmp_path, monkeypatch):
    assert not run(config).again
    with monkeypatch.context() as patched:  # nothing is read again while its files stay as they are
        patched.setattr(fingerprints, "instantiate_group", None)
        assert run(config).again
    train = tmp_path / "data" / "RTE" / "train.tsv"
    os.utime(train, (0, 0))  # another date, the same rows
    assert run(config).again
    write_rte(train.parent, label="not_entailment")
    with pytest.raises(
        UserError,
        match=r"with other rows of task rte than those here now: name another paths\.outputs",
    ):
        run(config)
    write_rte(train.parent)
    assert run(config).again
    weights = tmp_path / "models" / "loradrop" / "tiny_roberta" / "config.json"
    weights.write_text(weights.read_text() + "\n")
    with pytest.raises(
        UserError, match="with other weights of loradrop/tiny_roberta than those here now"
    ):
        run(config)


def test_what_is_not_here_is_not_compared(config, tmp_path):
    result = SimpleNamespace(id="a", weights_fingerprint="0" * 16, data_fingerprint="1")
    config.paths.models, config.paths.data = None, None
    config.backbone.hub_id = "roberta-base"
    assert difference(config, result) is None
    config.backbone.hub_id = "loradrop/tiny_roberta"
    assert "other weights" in difference(config, result)
    result.weights_fingerprint = files_fingerprint(ASSETS / "tiny_roberta")
    assert difference(config, result) is None
