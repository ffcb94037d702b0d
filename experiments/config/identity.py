"""The identity of a run: which values of its config count, and their digest."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from omegaconf import DictConfig, OmegaConf

# what cannot change a number
NOT_IN_HASH = ("paths", "logger", "save_weights", "wait")
NOT_IN_TRAINER_HASH = ("progress_bar", "num_workers", "checkpoint_minutes")


def run_id(config: DictConfig) -> str:
    """<backbone>-<task>-<method>-s<seed>-<hash of the resolved config without what cannot change a number>."""
    plain = OmegaConf.to_container(config, resolve=True)
    plain = {key: value for key, value in plain.items() if key not in NOT_IN_HASH}
    plain["trainer"] = {key: value for key, value in plain["trainer"].items() if key not in NOT_IN_TRAINER_HASH}
    names = (plain[group]["name"] for group in ("backbone", "task", "method"))
    return "-".join([*names, f"s{plain['seed']}", digest(plain)])


def digest(plain: Any) -> str:
    """Eight hexadecimal digits that stand for a JSON value.

    A key that is null is as good as absent: a run has no use for it, and one that a later version adds changes no id.
    """
    return hashlib.sha256(json.dumps(_without_nulls(plain), sort_keys=True).encode()).hexdigest()[:8]


def _without_nulls(plain: Any) -> Any:
    if isinstance(plain, dict):
        return {key: _without_nulls(value) for key, value in plain.items() if value is not None}
    return plain
