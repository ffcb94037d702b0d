"""Remember which modules have lost their LoRA, to tell them from those that never had one.

A note is an attribute of the base module: it follows the module into copies and wrappers, but not
into state dicts. It is valid for one adapter only, since PEFT may later add another one of the same
name.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

_NOTES = "_loradrop_dropped"


def note_dropped(
    module: nn.Module, rank: int, adapter: str | None = None, config: Any = None
) -> None:
    """Note that a module has lost its LoRA.

    Args:
        module: The base module.
        rank: The rank of that LoRA.
        adapter: The name of the PEFT adapter; None for LoRA of add_lora.
        config: That adapter's config, if there is one.
    """
    notes = vars(module).setdefault(_NOTES, {})
    notes[adapter] = (config, rank)


def dropped_rank(module: nn.Module, adapter: str | None = None, config: Any = None) -> int | None:
    """Return the rank of the LoRA that a module has lost, None if this adapter never had one there.

    Args:
        module: The base module.
        adapter: As for note_dropped.
        config: As for note_dropped, the present one.
    """
    of, rank = vars(module).get(_NOTES, {}).get(adapter, (None, None))
    return rank if of is config else None


def forget_dropped(modules: Iterable[nn.Module], adapter: str | None = None) -> None:
    """Remove the notes of an adapter that is added again or has been deleted.

    Args:
        modules: All modules of a model.
        adapter: As for note_dropped.
    """
    for module in modules:
        notes = vars(module).get(_NOTES, {})
        notes.pop(adapter, None)
        if not notes:
            vars(module).pop(_NOTES, None)
