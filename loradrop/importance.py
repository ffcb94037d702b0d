"""Measure: how strongly each LoRA's output moves the frozen model (LoRA-drop, arXiv 2402.07721, Section 3).

    g_i = mean over tokens of || dW_i x_i ||^2,  dW_i = (alpha / r) B_i A_i,  x_i the input of the adapted module
    y_i = g_i / sum_j g_j                        over the layers of one module type

The d_out-dimensional output is never formed: with z = A x (r) and the moment M = mean of z z^T (r x r),
mean || B z ||^2 = trace(B^T B M). One forward pass over the data, in eval mode, without padding tokens.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from loradrop.lora import LoRALinear, Site, lora_sites

TOKENS, EXAMPLES, TARGET_TOKENS = AVERAGES = ("tokens", "examples", "target_tokens")
IGNORED = -100  # a label that no loss is taken of
ByLayer = dict[str, dict[int, float]]  # module type -> layer -> value


@dataclass
class Importance:
    """Squared norms of the LoRA outputs by module type and layer."""

    values: ByLayer  # g_i, mean squared norm
    parameters: dict[str, dict[int, int]]  # trainable numbers of each LoRA: r (d_in + d_out)
    tokens: int = 0  # that were averaged over, padding excluded
    squared_norms: dict[str, dict[int, Tensor]] = field(default_factory=dict, repr=False)  # (tokens,) each, on request

    @property
    def normalized(self) -> ByLayer:
        """y_i = g_i / sum_j g_j within each module type."""
        return {kind: normalize(layers) for kind, layers in self.values.items()}

    def to_dict(self) -> dict[str, Any]:
        """What JSON can hold: everything but the squared norms of single tokens."""
        parts = {"values": self.values, "normalized": self.normalized, "parameters": self.parameters}
        by_text = {
            key: {kind: {str(layer): value for layer, value in layers.items()} for kind, layers in part.items()}
            for key, part in parts.items()
        }
        return {**by_text, "tokens": self.tokens}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Importance:
        values, parameters = (
            {kind: {int(layer): value for layer, value in layers.items()} for kind, layers in data[key].items()}
            for key in ("values", "parameters")
        )
        return cls(values, parameters, data["tokens"])

    def save(self, path: str | Path) -> None:
        Path(path).write_text(json.dumps(self.to_dict(), indent=1))

    @classmethod
    def load(cls, path: str | Path) -> Importance:
        return cls.from_dict(json.loads(Path(path).read_text()))


def normalize(layers: Mapping[int, float]) -> dict[int, float]:
    """Values divided by their sum. ValueError where there is nothing to compare: all zero, or not finite."""
    total = math.fsum(layers.values())
    if not math.isfinite(total):
        raise ValueError("an importance is not finite: training on the sample has diverged")
    if total <= 0:
        raise ValueError("all importances are zero: train the LoRA on a sample first (B starts at zero)")
    return {layer: value / total for layer, value in layers.items()}


def measure(
    model: nn.Module,
    batches: Iterable[Mapping[str, Any]],
    average: str = "tokens",
    squared_norms: bool = False,
) -> Importance:
    """Importances of all LoRA modules of `model`, in one pass over `batches`.

    Each batch holds the keyword arguments of the model; `attention_mask` (batch, tokens) of ones and zeros, where given,
    excludes padding. What a module is applied to besides the batch's tokens (DeBERTa's relative positions) does not count.
    `average`: over all `tokens`; over the tokens of each example and then over `examples`; or over the `target_tokens` of
    generation alone, whose `labels` (batch, tokens) are not -100.
    `squared_norms` also keeps || dW x ||^2 of every token (for histograms). Gradients are off; the training flags of all
    modules are put back afterwards. ValueError: no LoRA, no batch, an unknown average, a mask that fits no input.
    """
    if average not in AVERAGES:
        raise ValueError(f"average must be one of {', '.join(AVERAGES)}, got '{average}'")
    sites = lora_sites(model)
    if not sites:
        raise ValueError("the model holds no LoRA: call add_lora first")
    meters = {site: _Meter(module, average, squared_norms) for site, module in sites.items()}
    device = next(model.parameters()).device
    with torch.no_grad(), evaluating(model), _hooked(meters):
        for batch in batches:
            inputs = {key: value.to(device) if isinstance(value, Tensor) else value for key, value in batch.items()}
            mask = _counted(inputs, average)
            for meter in meters.values():
                meter.mask = mask
            model(**inputs)
    if any(meter.tokens == 0 for meter in meters.values()):
        raise ValueError(
            "nothing was measured: the batches are empty, their attention_mask fits no input of a LoRA module, or the model "
            "does not use all of its LoRA modules"
        )
    return _collect(meters)


def _counted(inputs: Mapping[str, Any], average: str) -> Tensor | None:
    """Ones for the tokens that count, zeros for the others, (batch, tokens); None where all count."""
    mask = inputs.get("attention_mask")
    if mask is not None and mask.dim() != 2:
        raise ValueError(f"attention_mask must be (batch, tokens), got {tuple(mask.shape)}")
    if mask is None and "input_ids" in inputs:
        mask = torch.ones_like(inputs["input_ids"])
    if average != TARGET_TOKENS:
        return mask
    labels = inputs.get("labels")
    if labels is None or labels.dim() != 2:
        raise ValueError(f"average={TARGET_TOKENS} needs labels of (batch, tokens), -100 where a token is no target")
    return (labels != IGNORED).long() if mask is None else mask * (labels != IGNORED)


def _collect(meters: Mapping[Site, _Meter]) -> Importance:
    importance = Importance({}, {}, int(max(meter.tokens for meter in meters.values())))
    for site, meter in meters.items():
        importance.values.setdefault(site.module_type, {})[site.layer] = meter.mean_squared_norm()
        importance.parameters.setdefault(site.module_type, {})[site.layer] = meter.module.size
        if meter.norms is not None:
            importance.squared_norms.setdefault(site.module_type, {})[site.layer] = torch.cat(meter.norms)
    return importance


class _Meter:
    """Accumulates the r x r moment of z = A x of one LoRA."""

    def __init__(self, module: LoRALinear, average: str, keep_norms: bool) -> None:
        device = module.lora_A.device
        self.module, self.average = module, average
        self.moment = torch.zeros(module.rank, module.rank, dtype=torch.float64, device=device)
        # sums stay on the device: reading them here would make a GPU wait at every module
        self.weight = torch.zeros((), dtype=torch.float64, device=device)
        self.tokens = torch.zeros((), dtype=torch.int64, device=device)
        self.mask: Tensor | None = None  # (batch, tokens) of the batch under way
        self.norms: list[Tensor] | None = [] if keep_norms else None

    def __call__(self, module: LoRALinear, args: tuple[Tensor, ...]) -> None:
        """Forward pre-hook; args[0] is x (batch, tokens, d_in), or with the first two flattened into one."""
        x = args[0]
        if self.mask is not None and not holds_tokens(x, self.mask):
            return
        weights = (torch.ones(x.shape[:-1], device=x.device) if self.mask is None else self.mask != 0).float()
        counted = weights.flatten() > 0  # (N,)
        if self.average == EXAMPLES:
            weights = weights / weights.sum(-1, keepdim=True).clamp(min=1)
        weights = weights.flatten()  # (N,)
        with torch.autocast(x.device.type, enabled=False):
            z = module.down(x.flatten(0, -2))  # (N, r)
            self.moment += (z.T @ (z * weights[:, None])).double()
            if self.norms is not None:
                self.norms.append(((module.scaling * module.up(z[counted])) ** 2).sum(-1).cpu())
        self.weight += weights.sum()
        self.tokens += counted.sum()

    def mean_squared_norm(self) -> float:
        rows = self.module.up(torch.eye(self.module.rank, device=self.moment.device)).detach().double()  # (r, d_out), B^T
        return float(self.module.scaling**2 * torch.sum((rows @ rows.T) * self.moment) / self.weight)


def holds_tokens(x: Tensor, mask: Tensor) -> bool:
    """Is x (..., d_in) what a mask (batch, tokens) is about, as (batch, tokens, d_in) or with the first two made one?"""
    return x.shape[:-1] in (mask.shape, (mask.numel(),))


def uniform(model: nn.Module) -> Importance:
    """The same importance for every LoRA: what can be said of a selection before anything is measured."""
    importance = Importance({}, {})
    for site, module in lora_sites(model).items():
        importance.values.setdefault(site.module_type, {})[site.layer] = 1.0
        importance.parameters.setdefault(site.module_type, {})[site.layer] = module.size
    return importance


@contextmanager
def _hooked(meters: Mapping[Site, _Meter]) -> Iterator[None]:
    handles = [meter.module.register_forward_pre_hook(meter) for meter in meters.values()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode inside the block; every module's own training flag is put back afterwards."""
    flags = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, flag in flags.items():
            module.training = flag
