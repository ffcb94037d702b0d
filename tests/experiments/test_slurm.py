"""A sweep on a real Slurm: one job is cancelled, one is told that its time is up and goes on later.

The test sends the signal that Slurm sends before a time limit: Slurm's own may come up to a minute
early, and then how often a run is queued depends on the machine's speed.

`make test-slurm`; root and the packages slurm-wlm, munge, slurmdbd and mariadb-server are needed.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, clean_environment

from experiments import results
from experiments.config.sweep import run_configs

TOOLS = ("munged", "slurmctld", "slurmd", "slurmdbd", "sacct", "mariadbd")
MISSING = [
    tool for tool in TOOLS if shutil.which(tool, path=f"{os.environ['PATH']}:/usr/sbin") is None
]
SCRIPT = ROOT / "tests" / "helpers" / "one_node_slurm.sh"
SWEEP = (
    "method=lora,lora_drop",
    "seed=0",
    "recipe.epochs=8",
    "task.train_size=1500",
    "trainer.num_threads=1",
    "trainer.progress_bar=false",
    "trainer.checkpoint_minutes=0.05",
)
SLURM = ("gpus_per_node=null", "cpus_per_task=1", "mem_gb=2", "timeout_min=9")

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"Slurm's {', '.join(MISSING)} are not installed"),
    pytest.mark.skipif(os.geteuid() != 0, reason="a Slurm of one node is started by root alone"),
]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture
def cluster(tmp_path_factory):
    """The environment in which commands talk to a Slurm of one node."""
    folder = tmp_path_factory.mktemp("slurm")
    folder.parent.chmod(0o755)  # munge's socket must be reachable
    environment = clean_environment() | {"SL": str(folder)}
    environment |= {"SLURM_CONF": str(folder / "slurm.conf")}
    environment["PATH"] += ":/usr/sbin"
    environment |= {name: str(free_port()) for name in ("CPORT", "DPORT", "BPORT", "MPORT")}
    subprocess.run([SCRIPT, "start"], env=environment, check=True, stdout=subprocess.DEVNULL)
    yield environment
    subprocess.run(["scancel", "--user=root"], env=environment, check=False)
    subprocess.run([SCRIPT, "stop"], env=environment, check=False)


def sweep(outputs: Path, environment: dict[str, str], *overrides: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "experiments.run", "-m", *SWEEP, *overrides]
    return subprocess.Popen(
        [*command, f"paths.outputs={outputs}"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
    )


def on_slurm(outputs: Path, environment: dict[str, str]) -> subprocess.Popen:
    settings = [f"hydra.launcher.{setting}" for setting in SLURM]
    return sweep(outputs, environment, "hydra/launcher=slurm", *settings)


def started_training(process: subprocess.Popen, outputs: Path, id: str) -> None:
    while not (outputs / "runs" / id / "checkpoint.ckpt").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)


def accounted(environment: dict[str, str]) -> dict[str, set[str]]:
    """The states that each job has had."""
    command = ["sacct", "-X", "-D", "-n", "-P", "-o", "JobID,State"]
    lines = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    states: dict[str, set[str]] = {}
    for line in lines.stdout.splitlines():
        job, state = line.split("|")
        states.setdefault(job, set()).add(state.split()[0])
    return states


def numbers(outputs: Path) -> list[tuple]:
    """What must not depend on how the sweep was carried out."""
    found = [results.finished_result(outputs, run["id"]) for run in run_configs(SWEEP)]
    return [(r.id, r.metrics, r.importance, r.plan, r.parameters) for r in found]


def test_a_sweep_survives_a_cancelled_and_a_timed_out_job(cluster, tmp_path):
    outputs = tmp_path / "slurm"
    lora, lora_drop = (run["id"] for run in run_configs(SWEEP))
    process = on_slurm(outputs, cluster)
    started_training(process, outputs, lora)
    subprocess.run(["scancel", "1_0"], env=cluster, check=True)
    started_training(process, outputs, lora_drop)
    subprocess.run(["scancel", "--signal=USR2", "1_1"], env=cluster, check=True)
    output, _ = process.communicate()
    assert process.returncode == 1 and "Traceback" not in output, output
    assert f"missing: {lora}" in output and "1 of 2 runs did not finish" in output
    assert "job 1_0 (CANCELLED" in output
    while "RUNNING" in (states := accounted(cluster))["1_1"]:  # its result comes before its end
        time.sleep(0.5)
    assert states["1_0"] == {"CANCELLED"} and states["1_1"] == {"REQUEUED", "COMPLETED"}

    again = on_slurm(outputs, cluster)  # the same command, for what is left
    output, _ = again.communicate()
    assert again.returncode == 0, output
    assert len(set(accounted(cluster)) - set(states)) == 1  # nothing finished is sent
    for id in (lora, lora_drop):
        assert "went on after an interruption" in str(results.finished_result(outputs, id).notes)

    serial = sweep(tmp_path / "serial", clean_environment())
    output, _ = serial.communicate()
    assert serial.returncode == 0, output
    assert numbers(outputs) == numbers(tmp_path / "serial")
