"""A run in two processes (gloo, on the CPU) against the same run in one."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, clean_environment, run_module
from datasets import Dataset
from safetensors.torch import load_file

from experiments import results
from experiments.config.identity import identity, run_id, stage1_id
from experiments.config.sweep import run_configs
from experiments.results.result import to_plain
from experiments.runner import processes
from loradrop.tasks.text import IGNORED
from loradrop.training.batches import WEIGHT, PartOfBatches

# a decoder has no dropout; the last of 129 rows is a batch for one process only
LABELS = ("task=mini_sentiment", "task.train_size=129", "task.validation_size=70")
TEXTS = ("task=mini_table2text", "task.train_size=97", "task.validation_size=20")
SHARED = (
    "backbone=tiny_llama",
    "method=lora_drop",
    "method.sample_ratio=0.35",
    "recipe.batch_size=32",
    "recipe.epochs=2",
    "trainer.num_threads=1",
    "trainer.progress_bar=false",
)
TWO = "trainer.devices=2"

# experiments.run whose second process is killed after two steps of fine-tuning
KILLED = """
import os, signal
from experiments.run import main
from loradrop.training.module import RunModule

step = RunModule.training_step

def killing_step(self, *args):
    if self.data.rank == 1 and self.method is not None and self.global_step == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, *args)

RunModule.training_step = killing_step
main()
"""


def carried_out(outputs, *overrides):
    done = run_module("experiments.run", *SHARED, *overrides, outputs=outputs)
    assert done.returncode == 0, done.stderr
    return found(outputs)


def found(outputs):
    """The result of the only run, and its adapter."""
    (folder,) = (outputs / "runs").iterdir()
    result = results.finished_result(outputs, folder.name)
    assert not list(folder.glob("*.ckpt"))
    return result, load_file(folder / "adapter.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "strategy"), [(LABELS, "auto"), (LABELS, "fsdp"), (TEXTS, "fsdp")], ids=str
)
def test_two_processes_reach_what_one_does(task, strategy, tmp_path):
    one, weights = carried_out(tmp_path / "one", *task)
    two, divided = carried_out(tmp_path / "two", *task, TWO, f"trainer.strategy={strategy}")
    assert two.plan == one.plan and two.importance.tokens == one.importance.tokens
    for kind, layers in one.importance.values.items():
        assert two.importance.values[kind] == pytest.approx(layers, rel=1e-4)
    assert two.parameters == one.parameters
    scores = [to_plain(result)["metrics"]["epochs"] for result in (one, two)]
    for alone, together in zip(*scores, strict=True):
        assert together == pytest.approx(alone, rel=1e-4)
    assert weights.keys() == divided.keys()
    for name, value in weights.items():
        torch.testing.assert_close(divided[name], value, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_a_killed_process_ends_the_run_and_the_same_command_goes_on(tmp_path):
    whole, weights = carried_out(tmp_path / "whole", *LABELS, TWO)
    outputs = tmp_path / "killed"
    given = [*SHARED, *LABELS, TWO, "trainer.checkpoint_minutes=0", f"paths.outputs={outputs}"]
    ranks = [as_torchrun(rank, ["-c", KILLED, *given]) for rank in (0, 1)]
    assert ranks[1].wait() == -9
    ranks[0].wait()
    (folder,) = (outputs / "runs").iterdir()
    assert (folder / "checkpoint.ckpt").exists()
    done = run_module("experiments.run", *given, outputs=outputs)
    assert done.returncode == 0, done.stderr
    resumed, values = found(outputs)
    assert resumed.plan == whole.plan
    scores = [to_plain(result)["metrics"]["epochs"] for result in (whole, resumed)]
    for unbroken, again in zip(*scores, strict=True):  # the mean loss is rounded once more
        assert again == pytest.approx(unbroken, rel=1e-6)
    assert any("went on after an interruption" in note for note in resumed.notes)
    assert all(torch.equal(values[name], value) for name, value in weights.items())


def as_torchrun(rank, arguments, cache={}):  # noqa: B006 (one port for both)
    if rank == 0:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            cache["port"] = str(free.getsockname()[1])
    group = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    group |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": cache["port"]}
    return subprocess.Popen([sys.executable, *arguments], cwd=ROOT, env=clean_environment() | group)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["method=full", "trainer.strategy=fsdp", TWO], "this method leaves none frozen"),
        (["trainer.num_nodes=2"], "trainer.num_nodes=2 needs a process for each device"),
    ],
)
def test_what_cannot_work_is_refused_by_name(overrides, message, tmp_path):
    shared = [override for override in SHARED if not override.startswith("method")]
    done = run_module("experiments.run", *shared, *LABELS, *overrides, outputs=tmp_path)
    assert done.returncode == 1 and message in done.stderr + done.stdout
    assert "Traceback" not in done.stderr and not list(tmp_path.rglob("result.json"))


def work(path, fails):
    """What a process does; `start` finds it by its name."""
    rank = int(os.environ["RANK"])
    if rank == fails:
        raise ValueError("an error of one process")
    (path / f"{rank}.json").write_text(json.dumps(os.environ["WORLD_SIZE"]))


@pytest.mark.slow
def test_started_processes_know_their_number_and_an_error_ends_all(tmp_path):
    processes.start(work, 2, tmp_path, None)
    assert {file.name: json.loads(file.read_text()) for file in tmp_path.iterdir()} == {
        "0.json": "2",
        "1.json": "2",
    }
    with pytest.raises(processes.UserError, match="ValueError: an error of one"):
        processes.start(work, 2, tmp_path, 1)


def part(rows, rank, world_size, batch):
    taken = PartOfBatches(Dataset.from_dict(rows), rank, world_size)[batch]
    return taken["value"], taken[WEIGHT][0]


@pytest.mark.parametrize("size", [1, 2, 5, 8])
@pytest.mark.parametrize("world_size", [2, 3])
def test_the_mean_of_weighted_losses_is_that_of_the_whole_batch(size, world_size):
    values = [3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0, 6.0]
    batch, total = list(range(size)), 0.0
    for rank in range(world_size):
        taken, weight = part({"value": values}, rank, world_size, batch)
        total += weight * sum(taken) / len(taken)
    assert total / world_size == pytest.approx(sum(values[:size]) / size)


def test_texts_weigh_by_the_tokens_of_their_targets():
    labels = [[IGNORED, 5, 6, 7], [IGNORED, IGNORED, 8], [IGNORED, 9, 4]]
    rows = {"value": [1.0, 2.0, 3.0], "labels": labels}
    weights = [part(rows, rank, 2, [0, 1, 2])[1] for rank in (0, 1)]
    assert weights == [pytest.approx(2 * 5 / 6), pytest.approx(2 * 1 / 6)]


def test_an_id_counts_processes_and_how_they_divide_but_not_over_how_many_machines():
    def ids(**trainer):
        (config,) = run_configs(["trainer=cpu"])
        config["trainer"] |= trainer
        return run_id(config), stage1_id(config)

    alone, two, fsdp = ids(), ids(devices=2), ids(devices=2, strategy="fsdp")
    assert len({alone, two, fsdp}) == len({i for pair in (alone, two, fsdp) for i in pair}) / 2
    assert ids(devices=1, num_nodes=2) == two == ids(devices=2, strategy="ddp")
    (config,) = run_configs(["trainer=cpu"])
    for key in ("devices", "num_nodes", "strategy"):  # results from before these keys
        del config["trainer"][key]
    assert run_id(config) == alone[0] and "processes" not in identity(config)["trainer"]
