"""reproduce: runs, then what shows them; a failed step shows in the exit status, and a signal ends
everything.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT, clean_environment, run_module
from helpers import result_files

from experiments import figure, reproduce, table
from experiments.common.files import is_locked
from experiments.config.catalog import catalog

SMALL = ("seed=0", "method=lora_drop,lora_drop_no_share")


@pytest.fixture
def steps(monkeypatch):
    """The steps that would be made, in order, with their arguments."""
    made = []
    monkeypatch.setattr(
        reproduce, "carry_out", lambda overrides: made.append(("runs", overrides)) or 0
    )
    monkeypatch.setattr(table, "main", lambda arguments: made.append(("table", arguments)) or 0)
    monkeypatch.setattr(figure, "main", lambda arguments: made.append(("figure", arguments)) or 0)
    return made


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("table7", ["runs", "table"]),
        ("figure2", ["runs", "figure"]),
        ("rank_study", ["runs", "table", "figure"]),
    ],
)
def test_the_kind_of_an_experiment_says_what_is_made(steps, name, expected):
    assert reproduce.main([name, "--mini", "seed=3"]) == 0
    assert [step for step, _ in steps] == expected
    runs, *shown = (arguments for _, arguments in steps)
    mini = [override for override in catalog()[name].mini if not override.startswith("seed=")]
    assert runs == [f"experiment={name}", *mini, "seed=3"]
    assert all(arguments == [name, "--mini", "seed=3"] for arguments in shown)


@pytest.mark.parametrize("failing", ["runs", "table", "figure"])
def test_a_failed_step_hides_no_other_and_is_not_hidden(steps, monkeypatch, capsys, failing):
    where = {
        "runs": (reproduce, "carry_out"),
        "table": (table, "main"),
        "figure": (figure, "main"),
    }[failing]
    monkeypatch.setattr(*where, lambda _: steps.append((failing, None)) or 3)
    assert reproduce.main(["demo", "seed=0"]) == 1
    assert [step for step, _ in steps] == ["runs", "table", "figure"]
    assert f"demo: failed: {failing} (exit status 3)" in capsys.readouterr().out


@pytest.mark.slow
def test_a_mistake_is_one_message_before_any_step(tmp_path):
    done = run_module(
        "experiments.reproduce", "demo", "method=lora", "method.rnak=4", outputs=tmp_path
    )
    assert done.returncode == 1 and "rnak" in done.stderr and "Traceback" not in done.stderr
    assert not any(tmp_path.iterdir())
    done = run_module("experiments.reproduce", "demo", "--mini", outputs=tmp_path)
    assert done.returncode == 1 and done.stderr == "demo has no mini form; leave it out\n"


@pytest.mark.slow
def test_finished_runs_are_shown_and_failed_ones_are_in_the_status(tmp_path):
    overrides = ("experiment=demo", *SMALL, "method.threshold=2")  # which every run refuses
    result_files.write(
        tmp_path, *overrides, leave=lambda config: config["method"]["name"] == "lora_drop_no_share"
    )
    done = run_module("experiments.reproduce", "demo", *overrides[1:], outputs=tmp_path)
    assert (
        done.returncode == 1
        and "demo: failed: runs (exit status 1); the same command tries again" in done.stdout
    )
    assert (
        "threshold must lie in" in done.stdout
        and "1 of 2 runs are missing and not in the figure" in done.stdout
    )
    assert (tmp_path / "tables" / "demo.md").exists() and (
        tmp_path / "figures" / "demo.png"
    ).exists()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_run_and_all_that_follows(tmp_path, number, status):
    command = [
        "experiments.reproduce",
        "demo",
        "seed=0",
        "recipe.epochs=50",
        f"paths.outputs={tmp_path}",
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        start_new_session=True,
    )
    try:
        while not (locked := [path for path in tmp_path.glob("runs/*") if is_locked(path)]):
            assert process.poll() is None
            time.sleep(0.2)
        if number == signal.SIGINT:  # Ctrl-C reaches every process of the terminal
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        output, _ = process.communicate()
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    assert process.returncode == status, output
    assert not any(is_locked(path) for path in locked) and not (tmp_path / "tables").exists()
    assert "the same command goes on where it stopped" in output and "Traceback" not in output
