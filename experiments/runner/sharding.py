"""trainer.strategy=fsdp: divide a model's frozen weights among the processes (torch's FSDP2).

What trains (LoRA, the head) is small. It stays whole in every process and is synchronised as in
DistributedDataParallel, so that importances, sharing, checkpoints and adapters are those of one
process. It may also have another dtype than frozen bfloat16 weights.
"""

from __future__ import annotations

from collections import Counter
from inspect import signature

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from experiments.runner import processes


def shard_frozen(model: nn.Module, device: torch.device) -> list[str]:
    """Divide the frozen weights among all processes, block by block, in place.

    Args:
        model: A model on which a method is installed.
        device: The device on which this process trains.

    Returns:
        The names of the divided weights. Between forward passes some of them may be whole.

    Raises:
        ValueError: If there is nothing to divide, or torch is too old for it.
    """
    if "ignored_params" not in signature(fully_shard).parameters:
        raise ValueError(
            f"trainer.strategy=fsdp needs a torch whose fully_shard has ignored_params, later than "
            f"{torch.__version__}; use trainer.strategy=ddp"
        )
    named = model.named_parameters(remove_duplicate=False)
    users = Counter(id(parameter) for _, parameter in named)
    # tied weights (embeddings, VeRA's matrices) have no block of their own
    whole = {p for p in model.parameters() if p.requires_grad or users[id(p)] > 1}
    blocks = [
        block
        for module in model.modules()
        if isinstance(module, nn.ModuleList)
        for block in module
        if any(parameter not in whole for parameter in block.parameters())
    ]
    if not blocks:
        raise ValueError(
            "trainer.strategy=fsdp divides frozen weights, and this method leaves none frozen: "
            "use trainer.strategy=ddp"
        )
    mesh = init_device_mesh(device.type, (processes.world_size(),))
    for block in blocks:
        fully_shard(block, mesh=mesh, ignored_params=whole)
    fully_shard(model, mesh=mesh, ignored_params=whole)
    return [name for name, p in model.named_parameters() if isinstance(p, DTensor)]
