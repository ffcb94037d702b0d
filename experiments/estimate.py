"""Estimate the optimiser steps and the GPU memory of a run, without loading a model.

    python -m experiments.estimate backbone=llama2_7b task=e2e method=lora
    python -m experiments.estimate backbone=roberta_large task=cola recipe.batch_size=64

Takes the overrides of experiments.run. The model is built on the meta device, without weights. Its
shape comes from a local folder or the Hub, or else from paper/architectures.yaml. The largest
training step, a full batch of texts of recipe.max_length, is carried out there too, so activations
are counted, not guessed. Kernel workspaces and fragmentation are not included: leave 10 % free.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from hydra.errors import HydraException
from omegaconf import DictConfig
from torch import Tensor, nn
from transformers import AutoConfig

from experiments.cli import guarded
from experiments.common import console
from experiments.config import sweep
from experiments.config.schema import UserError
from experiments.config.validation import check
from experiments.parameters import ARCHITECTURES
from loradrop.backbones import Backbone
from loradrop.tasks.base import Task
from loradrop.training.recipe import Decoding, Recipe

GIB = 2**30
# per weight: itself, its share of a block's 8-bit constant, and of that constant's own constant
NF4_BITS = 4 + 8 / 64 + 32 / (64 * 256)
ADAM = 4 * 4  # bytes per trainable float32 number: itself, its gradient, AdamW's two moments
CHECKPOINTED = (
    "with backbone.gradient_checkpointing=true, or a smaller recipe.batch_size or recipe.max_length"
)


def kept_for_backward(model: nn.Module, batch: dict[str, Tensor]) -> int:
    """Bytes that a forward pass keeps for its backward pass, besides parameters and buffers."""
    own = {
        parameter.untyped_storage()._cdata for parameter in [*model.parameters(), *model.buffers()]
    }
    # holding on to the tensors keeps a freed storage's address from being used again
    sizes: dict[int, tuple[int, Tensor]] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            sizes[storage._cdata] = storage.nbytes(), tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model.train()(**batch).loss.backward()
    return sum(size for size, _ in sizes.values())


def frozen_bytes(model: Any, quantised: bool) -> int:
    """Bytes of all frozen weights. If `quantised`, linear modules of the layers are in NF4."""
    linear = (
        {id(m.weight) for m in model.base_model.modules() if isinstance(m, nn.Linear)}
        if quantised
        else set()
    )
    return sum(
        round(parameter.numel() * NF4_BITS / 8) if id(parameter) in linear else parameter.nbytes
        for parameter in model.parameters()
        if not parameter.requires_grad
    )


def memory(
    model: Any, task: Any, recipe: Recipe, decoding: Decoding | None, quantised: bool = False
) -> dict[str, int]:
    """Count the bytes that training, and separately generating, needs.

    Args:
        model: On the meta device, with its adapter.
        task: What it is trained on.
        recipe: The batch size and the length of texts.
        decoding: How texts are generated; None if none are.
        quantised: Whether the backbone is in NF4.

    Returns:
        Bytes by what they hold.
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    shape = (recipe.batch_size, recipe.max_length)
    ids = torch.ones(shape, dtype=torch.int64, device="meta")
    labels = (
        ids
        if task.generates
        else torch.ones(shape[0], dtype=torch.float32 if task.is_regression else torch.int64)
    )
    batch = {"input_ids": ids, "labels": labels.to("meta")}  # no padding
    if hasattr(model.base_model, "rotary_emb"):  # a decoder would read values of a 2-D mask
        batch["attention_mask"] = torch.ones(
            shape[0], 1, shape[1], shape[1], dtype=torch.bool, device="meta"
        )
    model.config.pad_token_id = model.config.pad_token_id or 0  # needed to find the last token
    parts = {
        "frozen weights": frozen_bytes(model, quantised),
        "trained numbers, gradients, AdamW": ADAM
        * sum(parameter.numel() for parameter in trainable),
        "activations": kept_for_backward(model, batch),
    }
    if decoding is not None:
        config = model.config
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        head_width = (
            getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        )
        width = 2 * heads * head_width
        texts = decoding.batch_size * decoding.num_beams
        element = next(iter(frozen or trainable)).element_size()
        positions = texts * recipe.max_length * config.num_hidden_layers
        parts["keys and values while generating"] = positions * width * element
    return parts


def steps(task: Task, recipe: Recipe, data: Path | None) -> str:
    """Describe the number of optimiser steps; unknown without the task's data."""
    try:
        rows = len(task.splits(data).train)
    except (FileNotFoundError, ValueError) as error:
        return f"unknown without the data ({str(error).partition('. ')[0]})"
    each = -(-rows // recipe.batch_size)
    batches = f"{recipe.epochs} epochs of {each:,} batches of {recipe.batch_size}"
    return f"{each * recipe.epochs:,} ({batches}; {rows:,} rows)"


def _shape(backbone: Backbone, models: Path | None) -> tuple[Any, list[tuple[str, str]]]:
    """The model's configuration; if it is unavailable, the published one and a line saying so."""
    try:
        return backbone.config(models), []
    except OSError:
        if backbone.name not in ARCHITECTURES:
            raise
        published = AutoConfig.for_model(**ARCHITECTURES[backbone.name])
        return published, [("shape", "as published: the model itself is not at hand")]


def describe(config: DictConfig) -> tuple[list[tuple[str, str]], str | None]:
    """Estimate what a run needs.

    Returns:
        Names and values to print, and a warning if this machine's GPU is too small.
    """
    built = check(config)
    recipe, decoding, backbone, task = built.recipe, built.decoding, built.backbone, built.task
    shape, note = _shape(backbone, built.models)
    model = backbone.skeleton(task, shape)
    built.method.install(model)
    parts = memory(model, task, recipe, decoding, backbone.quantization is not None)
    training = sum(parts[key] for key in list(parts)[:3])
    generating = parts["frozen weights"] + parts.get("keys and values while generating", 0)
    lines = [*note, ("optimiser steps", steps(task, recipe, built.data))]
    lines += [(name, f"{size / GIB:.2f} GiB") for name, size in parts.items()]
    lines.append(("training in all", f"{training / GIB:.2f} GiB"))
    if not torch.cuda.is_available():
        return [*lines, ("GPU at hand", "none")], None
    available = torch.cuda.get_device_properties(0).total_memory
    lines.append(("GPU at hand", f"{torch.cuda.get_device_name(0)}, {available / GIB:.1f} GiB"))
    needed = max(training, generating)
    if needed <= 0.9 * available:
        return lines, None
    return lines, f"{needed / GIB:.1f} GiB will not fit it; try again {CHECKPOINTED}"


def main(arguments: list[str] | None = None) -> int:
    overrides = sys.argv[1:] if arguments is None else arguments
    if {"-h", "--help"} & set(overrides):
        print(__doc__)
        return 0
    for config in sweep.expand_sweep(overrides):
        try:
            lines, warning = describe(config)
        except (ValueError, HydraException) as error:
            raise UserError(str(error)) from error
        console.started(f"{config.backbone.name}, {config.task.name}, {config.method.name}")
        console.key_values(lines)
        if warning:
            console.error(warning)
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
