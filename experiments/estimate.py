"""What a run will need, before anything is loaded: steps, and GPU memory.

python -m experiments.estimate backbone=llama2_7b task=e2e method=lora
python -m experiments.estimate backbone=roberta_large task=cola recipe.batch_size=64

Takes the overrides of experiments.run. The model is built without weights (where neither a folder nor the Hub has its
configuration, from the shape in paper/architectures.yaml), and its largest training step (a full batch of
texts of recipe.max_length) is carried out on the meta device: what it keeps for the backward pass is counted, not guessed.
Workspaces of kernels and fragmentation are not in it, so leave a tenth free.
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
NF4_BITS = 4 + 8 / 64 + 32 / (64 * 256)  # a number, its block's constant in 8 bits, and that constant's own
ADAM = 4 * 4  # bytes for each trainable float32 number: itself, its gradient, and AdamW's two moments
CHECKPOINTED = "with backbone.gradient_checkpointing=true, or a smaller recipe.batch_size or recipe.max_length"


def kept_for_backward(model: nn.Module, batch: dict[str, Tensor]) -> int:
    """Bytes of activations that a forward pass keeps until its backward pass; parameters are not among them."""
    own = {parameter.untyped_storage()._cdata for parameter in [*model.parameters(), *model.buffers()]}
    sizes: dict[int, tuple[int, Tensor]] = {}  # with the tensor, so that no storage is freed and its address used again

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            sizes[storage._cdata] = storage.nbytes(), tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model.train()(**batch).loss.backward()
    return sum(size for size, _ in sizes.values())


def frozen_bytes(model: Any, quantised: bool) -> int:
    """Of all weights that do not train; with NF4 those of the layers' linear modules take some 4 bits."""
    linear = {id(m.weight) for m in model.base_model.modules() if isinstance(m, nn.Linear)} if quantised else set()
    return sum(
        round(parameter.numel() * NF4_BITS / 8) if id(parameter) in linear else parameter.nbytes
        for parameter in model.parameters()
        if not parameter.requires_grad
    )


def memory(model: Any, task: Any, recipe: Recipe, decoding: Decoding | None, quantised: bool = False) -> dict[str, int]:
    """Bytes by what they hold, for training, and apart from that for generating."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    shape = (recipe.batch_size, recipe.max_length)
    ids = torch.ones(shape, dtype=torch.int64, device="meta")
    labels = ids if task.generates else torch.ones(shape[0], dtype=torch.float32 if task.is_regression else torch.int64)
    batch = {"input_ids": ids, "labels": labels.to("meta")}  # nothing is padded
    if hasattr(model.base_model, "rotary_emb"):  # a decoder looks into a mask of two dimensions, or into positions
        batch["attention_mask"] = torch.ones(shape[0], 1, shape[1], shape[1], dtype=torch.bool, device="meta")
    model.config.pad_token_id = model.config.pad_token_id or 0  # a classifier on the last token looks for it
    parts = {
        "frozen weights": frozen_bytes(model, quantised),
        "trained numbers, gradients, AdamW": ADAM * sum(parameter.numel() for parameter in trainable),
        "activations": kept_for_backward(model, batch),
    }
    if decoding is not None:
        config = model.config
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        width = 2 * heads * (getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
        texts, element = decoding.batch_size * decoding.num_beams, next(iter(frozen or trainable)).element_size()
        parts["keys and values while generating"] = texts * recipe.max_length * config.num_hidden_layers * width * element
    return parts


def steps(task: Task, recipe: Recipe, data: Path | None) -> str:
    """Optimiser steps, where the rows are at hand."""
    try:
        rows = len(task.load(data).train)
    except (FileNotFoundError, ValueError) as error:
        return f"unknown without the data ({str(error).partition('. ')[0]})"
    each = -(-rows // recipe.batch_size)
    return f"{each * recipe.epochs:,} ({recipe.epochs} epochs of {each:,} batches of {recipe.batch_size}; {rows:,} rows)"


def _shape(backbone: Backbone, models: Path | None) -> tuple[Any, list[tuple[str, str]]]:
    """The model's configuration; without a folder or the Hub the published one, and a line that says so."""
    try:
        return backbone.config(models), []
    except OSError:
        if backbone.name not in ARCHITECTURES:
            raise
        published = AutoConfig.for_model(**ARCHITECTURES[backbone.name])
        return published, [("shape", "as published: the model itself is not at hand")]


def describe(config: DictConfig) -> tuple[list[tuple[str, str]], str | None]:
    """Lines of the plan, and a warning where the GPU at hand is too small."""
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
    there = torch.cuda.get_device_properties(0).total_memory
    lines.append(("GPU at hand", f"{torch.cuda.get_device_name(0)}, {there / GIB:.1f} GiB"))
    needed = max(training, generating)
    tight = needed > 0.9 * there
    return lines, f"{needed / GIB:.1f} GiB will not fit it; try again {CHECKPOINTED}" if tight else None


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
