"""LoRA-drop (arXiv 2402.07721): keep LoRA where its output matters, share it everywhere else.

    import loradrop

    loradrop.add_lora(model, rank=8)                    # train for a few epochs on a sample, then
    importance = loradrop.measure(model, batches)       # mean || B A x ||^2 of every layer
    plan = loradrop.select(importance, threshold=0.9)   # which layers keep their own LoRA
    loradrop.share(model, plan)                         # the others share one; go on training

.. include:: docs/guide.md
.. include:: docs/when.md
.. include:: docs/families.md
.. include:: docs/refused.md
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loradrop.callbacks.lightning import LoRADropLightningCallback as LoRADropLightningCallback
    from loradrop.callbacks.trainer import LoRADropTrainerCallback as LoRADropTrainerCallback
    from loradrop.importance.importance import Importance as Importance
    from loradrop.importance.measurement import measure as measure
    from loradrop.io.loralib import load_loralib as load_loralib
    from loradrop.io.merging import merge as merge
    from loradrop.io.pretrained import from_pretrained as from_pretrained
    from loradrop.io.pretrained import save_pretrained as save_pretrained
    from loradrop.lora.inject import add_lora as add_lora
    from loradrop.lora.inject import remove_lora as remove_lora
    from loradrop.lora.layer import LoRALinear as LoRALinear
    from loradrop.plan import SharingPlan as SharingPlan
    from loradrop.sampling import stratified_sample as stratified_sample
    from loradrop.selection import select as select
    from loradrop.sharing import plan_of as plan_of
    from loradrop.sharing import share as share

_HOME = {
    "LoRALinear": "lora.layer",
    "add_lora": "lora.inject",
    "remove_lora": "lora.inject",
    "Importance": "importance.importance",
    "measure": "importance.measurement",
    "SharingPlan": "plan",
    "select": "selection",
    "share": "sharing",
    "plan_of": "sharing",
    "stratified_sample": "sampling",
    "save_pretrained": "io.pretrained",
    "from_pretrained": "io.pretrained",
    "load_loralib": "io.loralib",
    "merge": "io.merging",
    "LoRADropTrainerCallback": "callbacks.trainer",
    "LoRADropLightningCallback": "callbacks.lightning",
}
__all__ = sorted(_HOME)
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # on first use, so that reading a config or a result file does not import torch
    if name not in _HOME:
        raise AttributeError(f"module 'loradrop' has no attribute '{name}'")
    return getattr(import_module(f"loradrop.{_HOME[name]}"), name)
