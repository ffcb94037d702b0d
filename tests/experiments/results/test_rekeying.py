"""Stored results get today's ids and keys, and nothing is lost on the way."""

from __future__ import annotations

import json

import pytest
import yaml
from helpers import result_files

from experiments import rekey as command
from experiments import results
from experiments.common.files import run_lock
from experiments.config.sweep import run_configs
from experiments.results import archive, rekeying, store
from experiments.results.migration import METHOD_KEYS, migrate_config
from experiments.results.rekeying import rekey
from experiments.results.result import to_plain

BACK = {new: old for old, new in METHOD_KEYS.items()}
DROP = ("experiment=demo", "method=lora_drop", "seed=0,1")


def as_before(plain):
    """A result's JSON as schema 1 had it, under another id."""
    plain = json.loads(json.dumps(plain))
    config = plain["config"]
    config["method"] = {BACK.get(key, key): value for key, value in config["method"].items()}
    config["task"]["_target_"] = "loradrop.tasks.mini.Mini"
    config["trainer"]["devices"] = 1
    plain |= {"schema": 1, "id": plain["id"][:-8] + "00000000"}
    return plain


@pytest.fixture
def old(tmp_path):
    """Two results of schema 1, with files beside them; the ids that they should get."""
    expected = []
    for result in result_files.write(tmp_path / "new", *DROP):
        plain = as_before(to_plain(result))
        folder = store.run_folder(tmp_path, plain["id"])
        folder.mkdir(parents=True)
        (folder / "result.json").write_text(json.dumps(plain))
        (folder / "config.yaml").write_text(
            yaml.safe_dump(plain["config"] | {"paths": {"outputs": "x"}})
        )
        (folder / "adapter.safetensors").write_text("weights")
        expected.append(result)
    return tmp_path, expected


def test_results_are_found_under_their_new_ids(old, capsys):
    outputs, expected = old
    assert results.load(DROP, outputs).status.tolist() == [results.MISSING] * 2
    assert command.main([str(outputs)]) == 0
    assert "2 runs, 2 with a new id, 0 left" in capsys.readouterr().out
    for result in expected:
        found = results.read(outputs, result.id)
        assert found.metrics == result.metrics and found.config["method"] == result.config["method"]
        folder = store.run_folder(outputs, result.id)
        assert (folder / "adapter.safetensors").read_text() == "weights"
        config = yaml.safe_load((folder / "config.yaml").read_text())
        assert config["method"]["strategy"] == "largest" and config["paths"] == {"outputs": "x"}
        assert config["task"]["_target_"] == result.config["task"]["_target_"]
    assert results.load(DROP, outputs).status.tolist() == [results.FINISHED] * 2
    assert command.main([str(outputs)]) == 0
    assert "2 runs, 0 with a new id, 0 left" in capsys.readouterr().out


def test_nothing_is_overwritten(old):
    outputs, (first, second) = old
    store.run_folder(outputs, first.id).mkdir()
    changes = list(rekey(outputs))
    assert [change.problem.endswith("exists") for change in changes] == [True, False]
    assert (
        results.read(outputs, changes[0].old).id == changes[0].old
        and results.read(outputs, first.id) is None
    )
    assert results.finished_result(outputs, second.id)
    assert command.main([str(outputs)]) == 1


def test_it_goes_on_where_it_was_broken_off(old, monkeypatch):
    outputs, expected = old
    with monkeypatch.context() as broken:
        broken.setattr(rekeying.Path, "rename", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            list(rekey(outputs))
    assert len(list(rekey(outputs))) == 2
    assert all(results.finished_result(outputs, result.id) for result in expected)


def test_runs_under_way_and_damaged_files_are_left(old):
    outputs, _ = old
    folders = sorted((outputs / "runs").iterdir())
    (folders[1] / "result.json").write_text("{")
    with run_lock(folders[0]):
        first, second = rekey(outputs)
    assert "a process is using it" in first.problem and "cannot be read" in second.problem
    assert sorted((outputs / "runs").iterdir()) == folders


def test_an_interrupted_run_keeps_its_checkpoint(old):
    outputs, (first, _) = old
    folder = sorted((outputs / "runs").iterdir())[0]
    (folder / "result.json").unlink()
    (folder / "checkpoint.ckpt").write_text("steps")
    list(rekey(outputs))
    assert (store.run_folder(outputs, first.id) / "checkpoint.ckpt").read_text() == "steps"


def test_an_archive_is_rekeyed_with_its_analyses(tmp_path):
    done = result_files.write(tmp_path / "new", *DROP)
    lines = [
        as_before(to_plain(result)) | {archive.ANALYSES: {"removal": {"version": 1}}}
        for result in done
    ]
    for line in lines:
        line["config"]["backbone"]["name"] = "minilm"
    archive.write(tmp_path, lines)
    assert all(change.is_renamed for change in rekey(tmp_path))
    assert [path.name for path in tmp_path.glob("*.jsonl")] == ["all_minilm_l6.jsonl"]
    (first, _) = archive.lines(tmp_path)
    assert first.startswith("all_minilm_l6-") and results.read_analysis(
        tmp_path, first, "removal"
    ) == {"version": 1}
    before = (tmp_path / "all_minilm_l6.jsonl").read_bytes()
    assert not any(change.is_renamed for change in rekey(tmp_path))
    assert (tmp_path / "all_minilm_l6.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("group", "before", "after"),
    [
        ("backbone", {"name": "minilm"}, {"name": "all_minilm_l6"}),
        ("method", {"name": "head"}, {"name": "linear_probe"}),
        ("method", {"name": "last_quarter"}, {"name": "last_layers"}),
        ("method", {"which": "top", "k": 2}, {"strategy": "upper_layers", "num_layers": 2}),
        (
            "method",
            {"budget": 0.5, "jointly": True},
            {"parameter_ratio": 0.5, "across_module_types": True},
        ),
        (
            "method",
            {"weights": "keep", "shared_weights": "mean"},
            {"kept_init": "keep", "shared_init": "mean"},
        ),
        (
            "method",
            {"average": "tokens", "targets": None},
            {"average_over": "tokens", "target_modules": None},
        ),
        (
            "task",
            {"metric": "loradrop.metrics.Accuracy"},
            {"metric": "loradrop.metrics.labels.Accuracy"},
        ),
    ],
)
def test_renamed_keys_names_and_classes(group, before, after):
    config = {
        "backbone": {"name": "b"},
        "task": {"name": "t"},
        "method": {"name": "m"},
        "recipe": {},
    }
    config["method"]["_target_"] = "loradrop.methods.lora_drop.LoRADrop"
    migrated = migrate_config({**config, group: {**config[group], **before}})
    assert migrated[group] == {**config[group], **after}
    assert migrate_config(migrated) == migrated


def test_the_rate_of_an_adapter_moves_to_the_recipe():
    config = {"backbone": {"name": "b"}, "task": {"name": "t"}, "recipe": {"learning_rate": 0.1}}
    config["method"] = {
        "_target_": "loradrop.methods.vera.VeRA",
        "name": "vera",
        "learning_rate": 0.01,
    }
    migrated = migrate_config(config)
    assert migrated["recipe"] == {"learning_rate": 0.1, "adapter_learning_rate": 0.01}
    assert (
        "learning_rate" not in migrated["method"]
        and "adapter_learning_rate" not in config["recipe"]
    )
    assert migrate_config(migrated) == migrated


def test_a_method_of_the_users_own_keeps_its_keys():
    method = {"_target_": "mine.Method", "name": "mine", "k": 2, "learning_rate": 1}
    config = {"backbone": {"name": "b"}, "task": {"name": "t"}, "recipe": {}, "method": method}
    assert migrate_config(config)["method"] == method


@pytest.mark.slow
def test_planned_configs_need_no_migration():
    for config in run_configs(["experiment=mini_methods", "task=mini_sentiment"]):
        plain = {key: value for key, value in config.items() if key != "id"}
        assert migrate_config(plain) == plain
