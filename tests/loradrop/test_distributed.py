"""Two processes on the CPU (gloo) against one process with the same batches."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from conftest import tiny_model, train_b
from peft import LoraConfig, get_peft_model
from torch.nn.parallel import DistributedDataParallel

import loradrop

pytestmark = pytest.mark.slow

STEPS = 3
# whose LoRA, and whether the other layers share
CASES = [("ours", True), ("peft", True), ("peft", False)]


def batches():
    """Batches of four examples of different lengths; each process takes two of the four."""
    generator = torch.Generator().manual_seed(7)
    found = []
    for _ in range(STEPS):
        lengths = torch.tensor([9, 9, 6, 3])
        mask = (torch.arange(9) < lengths[:, None]).long()
        ids = torch.randint(3, 60, (4, 9), generator=generator) * mask + (1 - mask)
        found.append(
            {"input_ids": ids, "attention_mask": mask, "labels": torch.tensor([0, 1, 1, 0])}
        )
    return found


def adapted(kind):
    model = tiny_model()
    if kind == "ours":
        loradrop.add_lora(model, rank=4)
        train_b(model)
        return model
    torch.manual_seed(1)
    config = LoraConfig(
        r=4, lora_alpha=16, target_modules=["query", "value"], init_lora_weights=False
    )
    return get_peft_model(model, config).eval()


def work(kind, share, given, wrap):
    """Measure, select, share, and train for some steps: (importance, plan, trained values)."""
    model = adapted(kind)
    importance = loradrop.measure(DistributedDataParallel(model) if wrap else model, given)
    plan = loradrop.select(importance, num_layers=1, share=share)
    loradrop.share(model, plan)
    net = DistributedDataParallel(model) if wrap else model
    adam = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], lr=0.01)
    for batch in given:
        adam.zero_grad()
        net(**batch).loss.backward()
        adam.step()
    return importance, plan, {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}


def process(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    given = [
        {key: value[2 * rank : 2 * rank + 2] for key, value in batch.items()} for batch in batches()
    ]
    results = []
    for kind, share in CASES:
        importance, plan, values = work(kind, share, given, wrap=True)
        results.append((importance.to_dict(), plan.to_dict(), values))
        with pytest.raises(
            ValueError,
            match="wrapped in DistributedDataParallel, which knows its parameters by now",
        ):
            loradrop.share(DistributedDataParallel(adapted(kind)), plan)
    torch.save(results, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What each process has found in all cases: starting processes takes longer than what
    they do."""
    folder = tmp_path_factory.mktemp("processes")
    mp.spawn(process, (str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


@pytest.mark.parametrize("case", range(len(CASES)), ids=lambda case: str(CASES[case]))
def test_two_processes_reach_what_one_does(case, results):
    first, second = (of_rank[case] for of_rank in results)
    assert first[:2] == second[:2]
    importance, plan, values = work(*CASES[case], batches(), wrap=False)
    assert first[1] == plan.to_dict() and first[0]["tokens"] == importance.tokens
    for kind, layers in importance.values.items():
        assert {int(i): g for i, g in first[0]["values"][kind].items()} == pytest.approx(
            layers, rel=1e-5
        )
    for name, value in values.items():
        torch.testing.assert_close(first[2][name], value, rtol=1e-4, atol=1e-5)
        assert torch.equal(first[2][name], second[2][name])
