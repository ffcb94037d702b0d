"""Measure: how strongly each LoRA's output moves the frozen model (LoRA-drop, arXiv 2402.07721,
Section 3).

    g_i = mean over tokens of || dW_i x_i ||^2,  dW_i = (alpha / r) B_i A_i
    y_i = g_i / sum_j g_j                        over the layers of one module type

x_i is the input of the adapted module. The d_out-dimensional output is never formed: with z = A x
(r) and the moment M = mean of z z^T (r x r), mean || B z ||^2 = trace(B^T B M). One forward pass
over the data, in eval mode, without padding.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from loradrop.importance.importance import Importance
from loradrop.importance.moments import (
    AVERAGES,
    TARGET_TOKENS,
    MomentAccumulator,
    evaluating,
    hooked,
    sum_over_processes,
    tensors_in,
    to_device,
    uncompiled,
)
from loradrop.importance.token_masks import TokenMask
from loradrop.importance.told_masks import Mask, ToldMasks
from loradrop.lora.bypass import check_called, recorded_calls, without_effect
from loradrop.lora.notes import note
from loradrop.lora.peft import LoRA, activated, adapted_sites, skipped_parameters
from loradrop.lora.peft_layer import PeftLoRA
from loradrop.lora.sites import Site
from loradrop.lora.wrappers import unwrap


def measure(
    model: nn.Module,
    batches: Iterable[Any],
    average_over: str = "tokens",
    squared_norms: bool = False,
    adapter: str | None = None,
    autocast: torch.dtype | None = None,
    token_mask: Mask | Mapping[str, Mask] = None,
) -> Importance:
    """Measure how strongly each LoRA's output moves the frozen model: g_i of Section 3.

    One pass over `batches` in eval mode without gradients; training flags are put back afterwards.
    A compiled model runs uncompiled during the measurement. Under torch.distributed every process
    has to call this, with batches of its own: moments are added up over all, so that all get the
    same importances.

    A mask applies to what is made of its own input: `attention_mask` for the text,
    `decoder_attention_mask` or labels of -100 for the target of an encoder-decoder, a mask of audio
    samples for the frames, mapped as the model does it. All patches of an image count. What a
    module is applied to besides that (DeBERTa's relative positions) does not count.

    Args:
        model: One that add_lora has adapted, or a PEFT model with LoRA.
        batches: What the model takes, on any device. Each is a dictionary of keyword arguments, or
            a tensor, list or tuple of positional ones.
        average_over: `tokens`: all of them. `examples`: first the tokens of each example, then the
            examples. `target_tokens`: those of generation alone, whose `labels` (batch, tokens)
            are not -100.
        squared_norms: Whether to keep || dW x ||^2 of every token, for histograms; under
            torch.distributed, of this process's own.
        adapter: Which adapter of a PEFT model to measure; None: the active one.
        autocast: The type in which the model computes (torch.bfloat16), if it was trained so.
            Moments are taken in the LoRA's own precision.
        token_mask: Which positions count, where that does not follow from the batch: packed texts,
            masks of four axes, texts and images in one sequence. A tensor (rows, positions), not
            zero for what counts; a function that makes it from a batch; or None, if all count.
            Given as a dictionary it is for some modules alone: {part of their names: mask}, such as
            {"vision_model": None}. If several parts are in a name, the one nearest its end counts.

    Returns:
        The importances by module type and layer.

    Raises:
        TypeError: Not a module, one batch instead of several, a row instead of a batch, or a mask
            of another type.
        ValueError: No LoRA, no batch, an unknown average, LoRA of a kind that cannot be measured
            (lora.peft.adapted_sites), or padding that cannot be told from the batch.
    """
    check_measurement(batches, average_over)
    # a forward pass of DistributedDataParallel waits for processes that may have fewer batches
    model = unwrap(model)
    sites = adapted_sites(model, adapter)
    check_called(model, [site.name for site in sites])
    if skipped := skipped_parameters(model, adapter):
        note(
            f"{len(skipped)} LoRAs of parameters ({skipped[0]}, ...) are not measured, and keep"
            " their own"
        )
    masks = TokenMask(model, average_over == TARGET_TOKENS, ToldMasks(token_mask, sites))
    meters = {
        site: MomentAccumulator(site, lora, masks, average_over, squared_norms)
        for site, lora in sites.items()
    }
    device = next(model.parameters()).device
    mixed = torch.autocast(device.type, dtype=autocast) if autocast else nullcontext()
    with torch.no_grad(), evaluating(model), activated(model, sites.values()):
        smallest = _Smallest()
        with hooked(meters.values()):
            for batch in batches:
                given = to_device(batch, device)
                with uncompiled(), mixed:
                    reached = _run(model, given, masks, meters)
                smallest.see(given, reached)
        with uncompiled(), mixed:
            _check_effect(model, smallest.batch, {site: sites[site] for site in smallest.sites})
    sum_over_processes(meters.values())
    unseen = next((site.name for site, meter in meters.items() if meter.moment.tokens == 0), None)
    if unseen is not None:
        raise ValueError(
            f"nothing was measured at {unseen}: the batches are empty, their masks leave nothing,"
            " or the model does not call that module"
        )
    return _collect(meters)


def check_measurement(batches: Iterable[Any], average_over: str) -> None:
    """Check those arguments of `measure` that do not depend on the model.

    Raises:
        TypeError: One batch instead of several, or nothing to iterate over.
        ValueError: An unknown average.
    """
    if average_over not in AVERAGES:
        raise ValueError(f"average_over must be one of {', '.join(AVERAGES)}, got '{average_over}'")
    if isinstance(batches, Mapping | Tensor):
        raise TypeError(
            "batches must be an iterable of batches, got a single one: put it into a list"
        )
    if isinstance(batches, str) or not (
        hasattr(batches, "__iter__") or hasattr(batches, "__getitem__")
    ):
        raise TypeError(f"batches must be an iterable of batches, got {type(batches).__name__}")


def _run(
    model: nn.Module, batch: Any, masks: TokenMask, meters: Mapping[Site, MomentAccumulator]
) -> list[Site]:
    """Run a forward pass that the meters see, and return the sites that it has reached."""
    if not isinstance(batch, dict | list | Tensor):
        raise TypeError(
            f"a batch must be a dictionary, tensor, list or tuple, got {type(batch).__name__}"
        )
    for meter in meters.values():
        meter.called = False
    marked = masks.read([batch] if isinstance(batch, Tensor) else batch)
    with masks.lineage:
        if isinstance(marked, dict):
            model(**marked)
        else:
            model(*marked)
    return [site for site, meter in meters.items() if meter.called]


class _Smallest:
    """The smallest batch so far, on which the model can be run once more at little cost."""

    def __init__(self) -> None:
        self.size, self.batch, self.sites = math.inf, None, list[Site]()

    def see(self, batch: Any, sites: list[Site]) -> None:
        """Take note of a batch and of the sites that it has reached."""
        size = sum(tensor.numel() for tensor in tensors_in(batch))
        if sites and size < self.size:
            self.size, self.batch, self.sites = size, batch, sites


def _check_effect(model: nn.Module, batch: Any, sites: Mapping[Site, LoRA]) -> None:
    """Raise ValueError if the model bypasses an adapted module, as fused paths without hooks do."""
    modules = {
        site: lora.layer if isinstance(lora, PeftLoRA) else lora for site, lora in sites.items()
    }
    if not modules:
        return  # nothing was reached, which `measure` says
    with recorded_calls(modules.values()) as called:
        if isinstance(batch, dict):
            model(**batch)
        else:
            model(*([batch] if isinstance(batch, Tensor) else batch))
    bypassed = next(
        (site.name for site, module in modules.items() if id(module) not in called), None
    )
    if bypassed is not None:
        raise ValueError(
            without_effect(
                bypassed, "in eval mode the model computes without calling it (a fused path)"
            )
        )


def _collect(meters: Mapping[Site, MomentAccumulator]) -> Importance:
    importance = Importance({}, {}, int(max(meter.moment.tokens for meter in meters.values())))
    for site, meter in meters.items():
        importance.values.setdefault(site.module_type, {})[site.layer] = meter.mean_squared_norm()
        importance.parameters.setdefault(site.module_type, {})[site.layer] = meter.lora.size
        if meter.keep_norms:
            norms = torch.cat(meter.moment.norms)
            importance.squared_norms.setdefault(site.module_type, {})[site.layer] = norms
    return importance


def uniform(model: nn.Module, adapter: str | None = None) -> Importance:
    """Return the same importance for every LoRA, to try a selection before anything is measured.

    Args:
        model: As for `measure`.
        adapter: As for `measure`.

    Raises:
        ValueError: As for lora.peft.adapted_sites.
    """
    importance = Importance({}, {})
    for site, lora in adapted_sites(model, adapter).items():
        importance.values.setdefault(site.module_type, {})[site.layer] = 1.0
        importance.parameters.setdefault(site.module_type, {})[site.layer] = lora.size
    return importance
