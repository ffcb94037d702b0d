"""What is planned, finished, running, failed and missing; the list of experiments."""

from __future__ import annotations

import dataclasses
import os
import re
import socket
import threading

import pytest
from conftest import run_module
from helpers import result_files
from omegaconf import OmegaConf

from experiments import catalog, results, status
from experiments.common import files
from experiments.common.console import first_line
from experiments.common.files import is_locked, run_lock
from experiments.config import sweep
from experiments.config.catalog import experiment
from experiments.config.identity import run_id
from experiments.config.schema import CONF, UserError
from experiments.results import frames

NARROWED = ("task=rte,mrpc", "seed=0")


@pytest.fixture
def half(tmp_path):
    """Of ten runs of Table 7 six are finished, one is failed, one running, two are missing."""
    overrides = ("experiment=table7", *NARROWED)
    configs = sweep.run_configs(overrides)
    result_files.write(tmp_path, *overrides, leave=lambda config: config in configs[6:])
    try:
        raise ValueError("the head of it\nand more")
    except ValueError:
        import traceback

        result_files.fail(tmp_path, configs[6], traceback.format_exc())
    return tmp_path, configs


@pytest.mark.slow
def test_the_status_counts_and_names_what_is_left(half):
    outputs, configs = half
    folder = results.run_folder(outputs, configs[7]["id"])
    with run_lock(folder):
        shown = run_module("experiments.status", "experiment=table7", *NARROWED, outputs=outputs)
    assert shown.returncode == 0, shown.stderr
    assert re.search(r"table7\W+10\W+6\W+1\W+1\W+2\W", shown.stdout), shown.stdout
    assert (
        f"failed: {configs[6]['id']}: ValueError: the head of it\n" in shown.stdout
        and "and more" not in shown.stdout
    )
    holder = f"({socket.gethostname()}, process {os.getpid()})"
    assert f"running: {configs[7]['id']} {holder}" in shown.stdout


@pytest.mark.slow
def test_time_left_is_that_of_runs_like_the_missing_ones(half):
    outputs, _ = half
    shown = run_module("experiments.status", "table7", *NARROWED, outputs=outputs)
    assert "4 min" in shown.stdout  # four runs of a minute
    nothing = run_module("experiments.status", "table7", *NARROWED, outputs=outputs / "empty")
    assert nothing.returncode == 0 and "?" in nothing.stdout
    result_files.write(
        outputs / "rte", "experiment=table7", "task=rte", "seed=0", "method=lora_drop"
    )
    known = run_module("experiments.status", "table7", *NARROWED, outputs=outputs / "rte")
    assert (
        "> 4 min" in known.stdout
    )  # four of RTE's are like a finished one, five of MRPC's are like none


@pytest.mark.slow
def test_all_experiments_have_a_line(tmp_path):
    shown = run_module("experiments.status", "all", outputs=tmp_path)
    assert shown.returncode == 0, shown.stderr
    for path in sweep.Path(CONF, "experiment").glob("*.yaml"):
        assert path.stem in shown.stdout


def test_the_first_line_of_an_error():
    text = "Traceback (most recent call last):\n  File x\n    raise\nValueError: what\nit says\n"
    assert first_line(text) == "ValueError: what" and first_line("alone") == "alone"
    chained = (
        f"{text}  and this\nand that\n\nDuring handling, another:\n\n{text.replace('what', 'why')} "
        " see:\nend\n"
    )
    assert first_line(chained) == "ValueError: why"


@pytest.mark.slow
def test_a_file_that_is_no_result_is_named_and_hinders_nothing(half):
    outputs, configs = half
    contents = (b"", b"\xff\xfe", b"null", b"[]", b"{}", b'{"status": "finished"}')
    for config, content in zip(configs, contents, strict=False):
        (results.run_folder(outputs, config["id"]) / "result.json").write_bytes(content)
    frame = results.load(["experiment=table7", *NARROWED], outputs)
    assert frame.status.tolist()[:6] == [results.DAMAGED] * 6
    shown = run_module("experiments.status", "table7", *NARROWED, outputs=outputs, COLUMNS="80")
    assert (
        shown.returncode == 0
        and shown.stdout.count("is damaged") == 6
        and results.times(outputs).empty
    )


def test_results_can_be_looked_at_without_the_right_to_write(tmp_path, monkeypatch):
    def refused(*_, **__):
        raise PermissionError("not yours")

    (tmp_path / ".lock").touch()
    monkeypatch.setattr(files, "FileLock", refused)
    assert not is_locked(tmp_path)


@pytest.mark.slow
def test_the_status_fits_a_narrow_terminal(tmp_path):
    shown = run_module("experiments.status", "all", outputs=tmp_path, COLUMNS="80").stdout
    assert "…" not in shown and "left" in shown and "learning_rate_sensitivity" in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_a_folder_is_one_process_at_a_time(tmp_path):
    order = []

    def other():
        with run_lock(tmp_path):
            order.append("other")

    with run_lock(tmp_path):
        assert is_locked(tmp_path)
        thread = threading.Thread(target=other)
        thread.start()
        thread.join(0.3)
        order.append("first")
    thread.join()
    assert order == ["first", "other"] and not is_locked(tmp_path)


def test_a_key_that_is_null_changes_no_id(tmp_path):
    (config,) = sweep.expand_sweep(["method=lora_drop", "seed=0"])
    before = run_id(config)
    OmegaConf.set_struct(config, False)
    del config.method["parameter_ratio"]
    config.method.new_key = None
    assert run_id(config) == before
    config.method.num_layers = 2
    assert run_id(config) != before


@pytest.mark.slow
def test_the_list_of_experiments_is_up_to_date(tmp_path, monkeypatch):
    before = catalog.README.read_text()
    monkeypatch.setattr(catalog, "README", tmp_path / "README.md")
    catalog.README.write_text(before)
    catalog.main([])
    assert catalog.README.read_text() == before


def test_a_cost_that_nobody_knows_is_an_error():
    entry, configs = experiment("demo"), sweep.run_configs(["experiment=demo"])
    assert catalog.cost(entry, configs) == entry.cost
    with pytest.raises(UserError, match=r"demo\.cost is missing"):
        catalog.cost(dataclasses.replace(entry, cost=None), configs)


def test_one_experiment_is_all_that_its_status_expands(tmp_path, monkeypatch):
    asked, load = [], sweep.run_configs
    monkeypatch.setattr(
        frames, "run_configs", lambda overrides: asked.append(overrides) or load(overrides)
    )
    assert status.main(["demo", f"paths.outputs={tmp_path}"]) == 0
    assert asked == [["experiment=demo", f"paths.outputs={tmp_path}"]]


def test_runs_that_another_experiment_needs_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(status, "names", lambda: ["figure2", "figure4", "demo"])
    shown = []
    monkeypatch.setattr(status, "_show", shown.extend)
    assert status.main(["all", f"paths.outputs={tmp_path}"]) == 0
    assert [row["needed elsewhere"] for row in shown] == [1, 1, ""]
    result_files.write(tmp_path, "experiment=figure2")
    shown.clear()
    status.main(["all", f"paths.outputs={tmp_path}"])
    assert [row["needed elsewhere"] for row in shown] == ["", "", ""]
