"""Keys that methods got after results existed, with the value that older results stand for.

A run with that value is the same run as one without the key: it has the same id, and a stored
config without the key can still be built. Does not import torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# by class: key -> value
ADDED: dict[str, dict[str, Any]] = {
    "LoRADrop": {
        "num_layers": None,
        "sample_steps": None,
        "measure_on": "sample",
        "criterion": "output",
    },
    "PrefixTuning": {"dropout": 0.0},
    "AdapterDrop": {"robust": False},
    "PRILoRA": {"distribution": "linear"},
    "SparseAdapter": {"pruner": "snip"},
}


def without_added(node: Mapping[str, Any]) -> dict[str, Any]:
    """Return a method's settings without added keys that have their old meaning."""
    added = added_to(node)
    return {
        key: value
        for key, value in node.items()
        # True equals 1, which a switch must not
        if not (
            key in added and (value, type(value) is bool) == (added[key], type(added[key]) is bool)
        )
    }


def with_added(node: Mapping[str, Any]) -> dict[str, Any]:
    """Return a method's settings with the added keys that a stored config lacks."""
    return {**added_to(node), **node}


def added_to(node: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys that a method's class got later, with their old meaning."""
    return ADDED.get(str(node.get("_target_")).rpartition(".")[2], {})
