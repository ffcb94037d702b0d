"""Other criteria than the norm of the output: features of LoRA's parameters and of their gradients.

    weight_norm   || B A ||_F
    gradient      sum of |w dL/dw| over the entries of A and B, with dL/dw summed over batches
    sensitivity   AdaLoRA's smoothed importance (Zhang et al. 2023, arXiv 2303.10512, Eq. 7 to 11)
    count         the number of parameters

Each ranks the layers of a module type, as LoRA-drop's importance does. A criterion looks at the
parameters alone where LoRA-drop looks at what they do to the input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any, cast

import torch
from torch import Tensor, nn

from loradrop.importance.importance import ByLayer
from loradrop.importance.moments import evaluating
from loradrop.lora.inject import lora_modules, lora_sites

OUTPUT, WEIGHT_NORM, GRADIENT, SENSITIVITY, COUNT, RANDOM = CRITERIA = (
    *("output", "weight_norm", "gradient", "sensitivity", "count", "random"),
)


def lora_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return A and B of every LoRA module, by name."""
    modules = lora_modules(model)
    return {
        f"{name}.{matrix}": getattr(module, matrix)
        for name, module in modules.items()
        for matrix in ("lora_A", "lora_B")
    }


@torch.no_grad()
def weight_norms(model: nn.Module) -> ByLayer:
    """Return ||B A||_F of every LoRA by module type and layer.

    The d_out x d_in product is never formed: ||B A||_F^2 = trace(B^T B A A^T).
    """
    result: ByLayer = {}
    for site, module in lora_sites(model).items():
        A, B = module.lora_A.double(), module.lora_B.double()
        squared = torch.sum((B.T @ B) * (A @ A.T))
        result.setdefault(site.module_type, {})[site.layer] = float(squared.clamp(min=0).sqrt())
    return result


def counts(model: nn.Module) -> ByLayer:
    """Return the number of every LoRA's parameters by module type and layer."""
    result: ByLayer = {}
    for site, module in lora_sites(model).items():
        result.setdefault(site.module_type, {})[site.layer] = float(module.size)
    return result


def products(
    model: nn.Module,
    batches: Iterable[Mapping[str, Any]],
    autocast: Callable[[], AbstractContextManager],
) -> dict[str, Tensor]:
    """Compute w dL/dw for every entry of A and B in eval mode, with L summed over the batches.

    Gradients are cleared before and after.

    Args:
        model: The model with its adapters.
        batches: The model's arguments, with labels.
        autocast: Returns a context with the run's precision.

    Returns:
        The products by parameter name, in the shape of the parameter.

    Raises:
        ValueError: One of them is not finite.
    """
    model.zero_grad(set_to_none=True)
    with evaluating(model):
        for batch in batches:
            with autocast():
                loss = model(**batch).loss
            loss.backward()
    result = {
        name: parameter.detach() * cast(Tensor, parameter.grad)
        for name, parameter in lora_parameters(model).items()
    }
    model.zero_grad(set_to_none=True)
    if not all(product.isfinite().all() for product in result.values()):
        raise ValueError("a product of weight and gradient is not finite: one has overflowed")
    return result


class SmoothedSensitivity:
    """AdaLoRA's importance of single entries: smoothed sensitivity times smoothed uncertainty.

        I = |w dL/dw|,  I' = beta1 I' + (1 - beta1) I,  U' = beta2 U' + (1 - beta2) |I - I'|
        s = I' U'

    Args:
        beta1: The smoothing factor of the sensitivity, in (0, 1).
        beta2: The smoothing factor of the uncertainty, in (0, 1).
    """

    def __init__(self, beta1: float, beta2: float) -> None:
        self.beta1, self.beta2 = beta1, beta2
        self.sensitivity: dict[str, Tensor] = {}
        self.uncertainty: dict[str, Tensor] = {}

    @torch.no_grad()
    def update(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Take in the gradients of an optimiser step; call it before they are cleared.

        As in the authors' code, the weights are those after the step.
        """
        for name, parameter in parameters.items():
            if parameter.grad is None:
                continue
            # an overflow, for which float16 skips the step, must not stay in the averages
            now = (parameter * parameter.grad).abs().nan_to_num_(0, 0, 0)
            old = self.sensitivity.get(name, torch.zeros_like(now)).to(now.device)
            smooth = self.beta1 * old + (1 - self.beta1) * now
            doubt = self.uncertainty.get(name, torch.zeros_like(now)).to(now.device)
            self.sensitivity[name] = smooth
            self.uncertainty[name] = self.beta2 * doubt + (1 - self.beta2) * (now - smooth).abs()

    def scores(self) -> dict[str, Tensor]:
        """Return s of every entry, by parameter name."""
        return {name: smooth * self.uncertainty[name] for name, smooth in self.sensitivity.items()}


def doublets(A_scores: Tensor, B_scores: Tensor) -> Tensor:
    """Return the score of each doublet, a row of A (r, d_in) with its column of B (d_out, r): the
    mean over the row plus the mean over the column, as in AdaLoRA's Eq. 7.
    """
    return A_scores.mean(1) + B_scores.mean(0)


def by_layer(model: nn.Module, scores: Mapping[str, Tensor], criterion: str) -> ByLayer:
    """Add up the entries' scores of each LoRA.

    Args:
        model: The model with its adapters.
        scores: By name of A's and B's parameters.
        criterion: `gradient` adds up the entries, `sensitivity` the doublets.
    """
    result: ByLayer = {}
    for site in lora_sites(model):
        A, B = (scores[f"{site.name}.{matrix}"].double() for matrix in ("lora_A", "lora_B"))
        total = doublets(A, B).sum() if criterion == SENSITIVITY else A.sum() + B.sum()
        result.setdefault(site.module_type, {})[site.layer] = float(total)
    return result
