"""The table of `python -m experiments.table parameters`, kept until a source of it changes.

Counting (experiments/parameters.py) takes seconds, most of them for torch and transformers. The
table is kept in <outputs>/cache/parameters.json.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import pandas as pd

import loradrop
from experiments.common import console
from experiments.common.files import atomic_write
from experiments.config.schema import CONF
from loradrop.checksums import read_json, write_json

EXPERIMENTS = Path(__file__).parents[1]
KEPT = Path("cache") / "parameters.json"  # in the folder of results
# the published numbers and shapes, the code that counts, and the configs of the methods
FILES = (
    (EXPERIMENTS / "paper", "*.yaml"),
    (EXPERIMENTS / "config", "*.py"),
    (EXPERIMENTS, "parameters.py"),
    (Path(loradrop.__file__).parent, "**/*.py"),
    (Path(CONF), "**/*.yaml"),
)
LIBRARIES = ("torch", "transformers", "peft", "hydra-core", "omegaconf")
CAPTION = (
    "Trainable parameters: as published, and as counted on the meta device from each model's shape "
    "and each method's YAML. Heads are not counted. agrees: equal when rounded as published. "
    "n: the number of LoRAs of LoRA-drop, kept and shared. "
    "Made by `python -m experiments.table parameters`."
)


def table(count: Callable[[], pd.DataFrame], outputs: str | Path) -> pd.DataFrame:
    """The table: one row per published number.

    Args:
        count: Makes it, if none is kept of the sources as they are.
        outputs: The folder of results.
    """
    path = Path(outputs) / KEPT
    digest = sources()
    # none is kept yet, it is damaged, or of other sources
    with suppress(OSError, ValueError, KeyError):
        kept = read_json(path)
        if kept["sources"] == digest:
            return pd.DataFrame(kept["rows"])
    frame = count()
    with suppress(OSError), atomic_write(path) as file:  # the folder may be read-only
        write_json(file, {"sources": digest, "rows": frame.to_dict("records")})
    return frame


def sources() -> str:
    """Hash everything that the counts depend on: files by name and content, and versions."""
    digest = hashlib.sha256(json.dumps([version(name) for name in LIBRARIES]).encode())
    for folder, pattern in FILES:
        for path in sorted(folder.glob(pattern)):
            content = path.read_bytes()
            digest.update(f"{path.relative_to(folder)} {len(content)} ".encode() + content)
    return digest.hexdigest()


def show(frame: pd.DataFrame) -> None:
    """Print the table, without columns that do not fit."""
    visible = frame.drop(columns=["backbone", "note"]) if console.terminal.width < 110 else frame
    text = ("table", "backbone", "method", "note")
    console.print_frame(visible, "trainable parameters, heads not counted", text, wrapped=("note",))
    if "note" not in visible:
        for row in frame[frame.note != ""].itertuples():
            source = row.table if row.table == "PRILoRA" else f"Table {row.table}"
            console.terminal.print(f"{source}, {row.method}: {row.note}", highlight=False)
