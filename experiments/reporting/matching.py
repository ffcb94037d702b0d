"""Which runs belong to which row of a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
import yaml


def runs_of_row(frame: pd.DataFrame, key: str, rows: Mapping[str, Any]) -> pd.DataFrame:
    """The runs of a row: those of its method that fit no other row of that method better."""
    method = rows[key].get("method", key)
    overrides = [
        set(row.get("overrides", ()))
        for name, row in rows.items()
        if row.get("method", name) == method
    ]
    common = set.intersection(*overrides)
    own = set(rows[key].get("overrides", ())) - common
    closer = [other - common for other in overrides if other - common > own]  # more specific rows

    def belongs(run: Any) -> bool:
        holds = [all(_holds(run.config, text) for text in texts) for texts in (own, *closer)]
        return holds[0] and not any(holds[1:])

    return frame[[run.method == method and belongs(run) for run in frame.itertuples()]]


def _holds(config: Any, override: str) -> bool:
    key, value = override.split("=", 1)
    for part in key.split("."):
        config = config[part]
    return config == yaml.safe_load(value)
