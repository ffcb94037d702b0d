"""The callbacks in two processes (gloo, on the CPU) against one process with the same batches."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from helpers.callbacks import BATCH, Module, Ordered, arguments, lightning, ours, rows, same, values
from pytorch_lightning.plugins.environments import LightningEnvironment
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

import loradrop

pytestmark = pytest.mark.slow
WHEN = ({"epochs": 1}, {"steps": 4}, {})


def process(rank, folder, port):
    torch.set_num_threads(1)
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in names.items()} | {"MASTER_ADDR": "127.0.0.1"}
    dist.init_process_group("gloo")
    own = DataLoader(rows()[rank::2], BATCH // 2)
    found = []
    for when in WHEN:
        callback = loradrop.LoRADropLightningCallback(own, "model", num_layers=1, **when)
        module = Module(ours())
        options = {"strategy": "ddp", "devices": 2, "plugins": [LightningEnvironment()]}
        trainer = lightning(folder, 2, callback, use_distributed_sampler=False, **options)
        trainer.fit(module, own)
        assert loradrop.plan_of(module.model) == callback.plan
        found.append((callback.plan.to_dict(), values(module.model)))
    callback = loradrop.LoRADropTrainerCallback(own, num_layers=1)
    # otherwise the Trainer multiplies the loss by the number of processes
    settings = {"average_tokens_across_devices": False}
    options = arguments(folder, per_device_train_batch_size=BATCH // 2, **settings)
    trainer = Ordered(ours(), options, train_dataset=rows(), callbacks=[callback])
    trainer.train()
    found.append((callback.plan.to_dict(), values(trainer.model)))
    trainer.evaluate(rows())
    refused(callback.plan)
    torch.save(found, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


def refused(plan):
    """The module inside a live wrapper is refused as the wrapper is, and stays as it was."""
    wrapper = DistributedDataParallel(ours())
    before = list(wrapper.parameters())
    with pytest.raises(ValueError, match="wrapped in DistributedDataParallel"):
        loradrop.share(wrapper.module, plan)
    assert all(a is b for a, b in zip(before, wrapper.parameters(), strict=True))


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What each process has found in all trainings."""
    folder = tmp_path_factory.mktemp("processes")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(process, (str(folder), port), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


@pytest.mark.parametrize("case", [*range(len(WHEN)), len(WHEN)])
def test_two_processes_reach_what_one_does(case, found, tmp_path):
    when = (*WHEN, {})[case]
    callback = loradrop.LoRADropLightningCallback(
        DataLoader(rows(), BATCH), "model", num_layers=1, **when
    )
    module = Module(ours())
    lightning(tmp_path, 2, callback).fit(module, DataLoader(rows(), BATCH))
    for plan, trained in (of_rank[case] for of_rank in found):
        assert plan == callback.plan.to_dict()
        same(trained, values(module.model))
