"""The scores of Sparse Adapter's released code for the entries of A and B.

    snip   |w dL/dw|                    Lee et al. 2019
    grasp  w (H g), with g = dL/dw      Wang et al. 2020; H is the Hessian of L
    mag    |w|
    rand   normal random numbers

L is summed over the batches of a sample, in eval mode. The entries with the lowest scores are
masked (Shwai-He/SparseAdapter@b190084, src/transformers/pruning/pruners.py). Its `synflow` is not
here: it looks at bottleneck adapters alone, and so scores no entry of a LoRA.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from loradrop.importance.criteria import lora_parameters, products
from loradrop.importance.moments import evaluating
from loradrop.methods.base import Probe


def snip(model: nn.Module, probe: Probe, rows: Sequence[int]) -> dict[str, Tensor]:
    """Compute |w dL/dw| for every entry of A and B, with L summed over the batches.

    Args:
        model: The model with its adapters.
        probe: Gives the batches and the precision.
        rows: The rows of the training set to score on.

    Returns:
        The scores by parameter name, in the shape of the parameter.

    Raises:
        ValueError: All scores are zero, or one is not finite.
    """
    found = products(model, probe.batches(rows, gradients=True), probe.autocast)
    scores = {name: product.abs() for name, product in found.items()}
    if not any(score.any() for score in scores.values()):
        raise ValueError("all SNIP scores are zero, as with B = 0; set init_std or warmup_epochs")
    return scores


def grasp(model: nn.Module, probe: Probe, rows: Sequence[int]) -> dict[str, Tensor]:
    """Compute w (H g) for every entry of A and B; see `snip` for arguments and result."""
    parameters = lora_parameters(model)
    gradient = [torch.zeros_like(parameter) for parameter in parameters.values()]
    curvature = [torch.zeros_like(parameter) for parameter in parameters.values()]
    # fused attention has no second derivative
    with evaluating(model), sdpa_kernel(SDPBackend.MATH):
        for batch in probe.batches(rows, gradients=True):
            with probe.autocast():
                loss = model(**batch).loss
            for total, part in zip(
                gradient, torch.autograd.grad(loss, list(parameters.values())), strict=True
            ):
                total += part
        for batch in probe.batches(rows, gradients=True):
            with probe.autocast():
                loss = model(**batch).loss
            parts = torch.autograd.grad(loss, list(parameters.values()), create_graph=True)
            agreement = torch.stack(
                [(total * part).sum() for total, part in zip(gradient, parts, strict=True)]
            ).sum()
            for total, part in zip(
                curvature, torch.autograd.grad(agreement, list(parameters.values())), strict=True
            ):
                total += part
    scores = {
        name: parameter.detach() * total
        for (name, parameter), total in zip(parameters.items(), curvature, strict=True)
    }
    if not all(score.isfinite().all() for score in scores.values()):
        raise ValueError("a GraSP score is not finite: the loss or a derivative has overflowed")
    if not any(score.any() for score in scores.values()):
        raise ValueError("all GraSP scores are zero, as with A = B = 0")
    return scores


def mag(model: nn.Module, probe: Probe, rows: Sequence[int]) -> dict[str, Tensor]:
    """Return |w| for every entry of A and B; see `snip`."""
    return {name: p.detach().abs() for name, p in lora_parameters(model).items()}


def rand(model: nn.Module, probe: Probe, rows: Sequence[int]) -> dict[str, Tensor]:
    """Return random scores for every entry of A and B, from the run's seed; see `snip`."""
    generator = torch.Generator().manual_seed(probe.seeds.selection)
    return {
        name: torch.randn(p.shape, generator=generator).to(p.device)
        for name, p in lora_parameters(model).items()
    }


PRUNERS = {"snip": snip, "mag": mag, "rand": rand, "grasp": grasp}
