"""What a launcher starts, and what becomes of lost jobs."""

from __future__ import annotations

import importlib.util
import sys
from types import SimpleNamespace

import pytest
from helpers import result_files
from hydra import compose, initialize_config_dir
from hydra.core.plugins import Plugins

from experiments.config.schema import CONF
from experiments.config.sweep import run_configs
from experiments.runner.launching import is_local, report, unfinished, wait_for
from hydra_plugins import loradrop_launchers

SWEEP = ["method=lora,lora_drop", "seed=0,1"]


@pytest.mark.parametrize("name", ["cores", "slurm", "local"])
def test_hydra_accepts_each_launcher(name):
    with initialize_config_dir(CONF, version_base="1.3"):
        config = compose("run", [f"hydra/launcher={name}"], return_hydra_config=True)
    launcher = config.hydra.launcher
    assert launcher._target_ in Plugins.instance().class_name_to_class
    assert is_local(launcher._target_) == (name != "slurm")


@pytest.mark.parametrize("name", loradrop_launchers.PLUGINS)
def test_without_the_extra_there_are_no_launchers(name, monkeypatch):
    absent(monkeypatch, name)
    assert not hasattr(imported_again(), "CoresLauncher")


@pytest.mark.parametrize(
    "name",
    [
        "hydra_plugins.hydra_joblib_launcher.joblib_launcher",
        "hydra_plugins.hydra_submitit_launcher.submitit_launcher",
    ],
)
def test_a_damaged_extra_is_an_error(name, monkeypatch):
    absent(monkeypatch, name)
    with pytest.raises(ModuleNotFoundError, match=name):
        imported_again()


class Absent:
    """A finder of modules that does not find one."""

    def __init__(self, name):
        self.name = name

    def find_spec(self, name, path, target=None):
        if name == self.name:
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)


def absent(monkeypatch, name):
    """Let the import of a launcher's module fail."""
    for loaded in list(sys.modules):
        if loaded.startswith(loradrop_launchers.PLUGINS):
            monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setattr(sys, "meta_path", [Absent(name), *sys.meta_path])


def imported_again():
    spec = importlib.util.spec_from_file_location("again", loradrop_launchers.__file__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_finished_runs_get_no_job(tmp_path):
    runs = run_configs(SWEEP)
    result_files.write(tmp_path, *SWEEP, leave=lambda config: config["id"] != runs[1]["id"])
    result_files.fail(tmp_path, runs[2], "RuntimeError")
    damaged = tmp_path / "runs" / runs[3]["id"] / "result.json"
    damaged.parent.mkdir()
    damaged.write_text("{")
    names = ["method=lora", "seed=0"], ["method=lora", "seed=1"], ["method=lora_drop", "seed=0"]
    jobs = [[*job, f"paths.outputs={tmp_path}"] for job in (*names, ["method=lora_drop", "seed=1"])]
    assert unfinished(jobs) == [jobs[0], jobs[2], jobs[3]]
    # Hydra need not order a sweep as we do
    turned = [job[::-1] for job in jobs[::-1]]
    assert unfinished(turned) == [turned[0], turned[1], turned[3]]
    # the id of a run in `auto` depends on the machine, and so does what has changed
    for override in ("trainer.precision=auto", "rerun=changed", "~method.name"):
        given = [[*job, override] for job in jobs]
        assert unfinished(given) == given


def test_a_lost_job_does_not_hide_those_after_it(capsys):
    from submitit.core.utils import UncompletedJobError

    def lost():
        raise UncompletedJobError("Job 7 has not produced any output\n\n(state: CANCELLED)")

    first, third = (SimpleNamespace(results=lambda i=i: [i]) for i in (0, 2))
    paths = SimpleNamespace(folder="sweeps/.submitit/7_1")
    second = SimpleNamespace(results=lost, job_id="7_1", state="CANCELLED", paths=paths)
    assert list(wait_for([first, second, third])) == [0, 2]
    said = capsys.readouterr().out
    assert "job 7_1 (CANCELLED) is lost; its output: sweeps/.submitit/7_1" in said


def test_what_keeps_all_runs_from_starting_is_said_once(capsys):
    for run in ("a-s0", "a-s1", "a-s2"):
        report(f"{run}: backbone: quantization=nf4 needs bitsandbytes")
    report("a-s3: another reason")
    assert capsys.readouterr().out.splitlines() == [
        "a-s0: backbone: quantization=nf4 needs bitsandbytes",
        "a-s3: another reason",
    ]
