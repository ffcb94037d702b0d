"""A finished run counts only if its data and weights are those that are here now, in every
command.
"""

from __future__ import annotations

import os
import shutil
from types import SimpleNamespace

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from experiments import results, status, table
from experiments.config.schema import CONF, UserError
from experiments.config.validation import instantiate_group
from experiments.results import fingerprints
from experiments.results.fingerprints import difference
from experiments.results.migration import UNKNOWN
from experiments.runner import record
from experiments.runner.execution import run
from loradrop.hub import ASSETS, files_fingerprint

HEAD = "index\tsentence1\tsentence2\tlabel\n"
RUN = ("task=rte", "method=linear_probe", "recipe.epochs=1", "trainer.num_threads=1")


def write_rte(folder, label="entailment"):
    folder.mkdir(parents=True, exist_ok=True)
    rows = [f"{i}\tthe cat sees {i} dogs\tit sees a dog\t{label}" for i in range(12)]
    rows += [f"{i}\ta dog\tno cat\tnot_entailment" for i in range(12, 24)]
    for name in ("train", "dev"):
        (folder / f"{name}.tsv").write_text(HEAD + "\n".join(rows) + "\n")


@pytest.fixture
def overrides(tmp_path):
    write_rte(tmp_path / "data" / "RTE")
    models = tmp_path / "models"
    shutil.copytree(ASSETS / "tiny_roberta", models / "loradrop" / "tiny_roberta")
    paths = [f"paths.{key}={tmp_path / key}" for key in ("outputs", "data", "models")]
    return [*RUN, *paths, "trainer.progress_bar=false"]


@pytest.fixture
def config(overrides):
    with initialize_config_dir(CONF, version_base="1.3"):
        return compose("run", overrides)


def test_changed_data_and_weights_are_named_before_a_run_is_skipped(config, tmp_path, monkeypatch):
    assert not run(config).again
    with monkeypatch.context() as patched:  # nothing is read again while its files stay as they are
        patched.setattr(fingerprints, "instantiate_group", None)
        assert run(config).again
    train = tmp_path / "data" / "RTE" / "train.tsv"
    os.utime(train, (0, 0))  # another date, the same rows
    assert run(config).again
    write_rte(train.parent, label="not_entailment")
    with pytest.raises(UserError, match="with other rows of task rte than those here now: name"):
        run(config)
    weights = tmp_path / "models" / "loradrop" / "tiny_roberta" / "config.json"
    weights.write_text(weights.read_text() + "\n")
    with pytest.raises(UserError, match="other weights of tiny_roberta and rows of task rte"):
        run(config)
    write_rte(train.parent)
    with pytest.raises(UserError, match="with other weights of tiny_roberta than those here now"):
        run(config)


@pytest.mark.slow
def test_every_command_says_what_has_changed_until_the_run_is_done_again(
    overrides, config, tmp_path, capsys
):
    before = run(config).result
    results.write_analysis(config.paths.outputs, before.id, "removal", {"version": 1})
    assert results.load(overrides).status.tolist() == [results.FINISHED]
    write_rte(tmp_path / "data" / "RTE", label="not_entailment")
    frame = results.load(overrides)
    assert frame.status.tolist() == [results.CHANGED] and frame.best.isna().all()
    with pytest.raises(FileNotFoundError, match="no finished run"):
        results.load(overrides, finished=True)
    shown = ["demo", "backbone=tiny_roberta", "seed=0", *overrides]
    assert table.main(shown) == 1 and status.main(shown) == 0
    printed = " ".join(capsys.readouterr().out.split())
    line = (
        f"{before.id}: finished, but with other rows of task rte than those here now: name another "
        "paths.outputs, or run it again with rerun=changed"
    )
    assert printed.count(line) == 3 and "changed" in printed
    config.rerun = "changed"
    after = run(config)
    assert not after.again and after.result.id == before.id
    assert after.result.data_fingerprint != before.data_fingerprint
    assert results.read_analysis(config.paths.outputs, before.id, "removal") is None
    assert run(config).again and results.load(overrides).status.tolist() == [results.FINISHED]


def test_a_task_that_is_made_of_another_one_has_its_files(tmp_path):
    write_rte(tmp_path / "data" / "RTE")
    with initialize_config_dir(CONF, version_base="1.3"):
        paths = [f"paths.{key}={tmp_path / key}" for key in ("outputs", "data")]
        config = compose("run", ["backbone=tiny_llama", "task=rte_text", "decoding=greedy", *paths])
    plain = OmegaConf.to_container(config, resolve=True)
    rows = instantiate_group("task", config.task).splits(tmp_path / "data").fingerprint()
    result = SimpleNamespace(
        task="rte_text", weights_fingerprint=UNKNOWN, data_fingerprint=rows, backbone="tiny_llama"
    )
    fingerprints.remember(plain["task"], plain["paths"], rows)
    assert difference(plain, result, plain["paths"]) is None
    write_rte(tmp_path / "data" / "RTE", label="not_entailment")
    assert "other rows of task rte_text" in difference(plain, result, plain["paths"])
    shutil.rmtree(tmp_path / "data" / "RTE")  # then they are the Hub's, at a pinned revision
    assert difference(plain, result, plain["paths"]) is None


def test_files_behind_links_are_looked_at(tmp_path):
    (tmp_path / "far" / "train").mkdir(parents=True)
    (tmp_path / "far" / "train" / "rows").write_text("a")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train").symlink_to(tmp_path / "far" / "train")
    before = fingerprints._stamps(tmp_path / "data", "**/*")
    (tmp_path / "far" / "train" / "rows").write_text("ab")
    assert before and fingerprints._stamps(tmp_path / "data", "**/*") != before


def test_while_a_run_is_done_again_its_files_are_not_those_of_the_old_result(
    config, tmp_path, monkeypatch
):
    before = run(config).result
    write_rte(tmp_path / "data" / "RTE", label="not_entailment")
    config.rerun = "changed"

    def killed(*_):
        raise SystemExit

    monkeypatch.setattr(record, "write_beside", killed)  # the adapter comes after that
    with pytest.raises(SystemExit):
        run(config)
    assert results.read(config.paths.outputs, before.id) is None


def test_what_is_not_here_is_not_compared(config, tmp_path):
    fields = {"id": "a", "backbone": "tiny", "task": "rte"}
    result = SimpleNamespace(**fields, weights_fingerprint="0" * 16, data_fingerprint="1")
    plain = OmegaConf.to_container(config, resolve=True)
    paths = {**plain["paths"], "models": None, "data": None}
    plain["backbone"]["hub_id"] = "roberta-base"
    assert difference(plain, result, paths) is None
    plain["backbone"]["hub_id"] = "loradrop/tiny_roberta"
    assert "other weights" in difference(plain, result, paths)
    result.weights_fingerprint = files_fingerprint(ASSETS / "tiny_roberta")
    assert difference(plain, result, paths) is None


def test_only_changed_is_a_value_of_rerun(config):
    config.rerun = "all"
    with pytest.raises(UserError, match="rerun must be changed or null, got 'all'"):
        run(config)
