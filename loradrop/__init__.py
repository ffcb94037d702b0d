"""LoRA-drop (arXiv 2402.07721): keep LoRA where its output matters, share it everywhere else.

import loradrop

loradrop.add_lora(model, rank=8)                        # train for a few epochs on a sample, then
importance = loradrop.measure(model, batches)           # mean || B A x ||^2 of every layer
plan = loradrop.select(importance, threshold=0.9)       # which layers keep their own LoRA
loradrop.share(model, plan)                             # the others share one; go on training
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOME = {
    "LoRALinear": "lora",
    "add_lora": "lora",
    "remove_lora": "lora",
    "Importance": "importance",
    "measure": "importance",
    "Plan": "selection",
    "select": "selection",
    "share": "sharing",
    "stratified_sample": "sampling",
}
__all__ = sorted(_HOME)
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # on first use, so that reading a config or a result file does not import torch
    if name not in _HOME:
        raise AttributeError(f"module 'loradrop' has no attribute '{name}'")
    return getattr(import_module(f"loradrop.{_HOME[name]}"), name)
