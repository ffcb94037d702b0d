"""Count the trainable parameters of our methods beside the published numbers.

Models are built on the meta device, without weights, tokenizer or network: their shapes come from
paper/architectures.yaml, the methods from conf/method. The published numbers, and why some differ,
are in paper/lora_drop.yaml and paper/prilora.yaml. reporting/parameter_table.py shows the table.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from hydra import compose, initialize_config_dir
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from experiments.config.schema import CONF
from experiments.config.validation import instantiate_group
from loradrop.backbones import meta_device
from loradrop.heads import freeze_encoder, parameter_counts
from loradrop.importance.measurement import uniform
from loradrop.methods.base import Method
from loradrop.methods.lora_drop import LoRADrop
from loradrop.selection import select
from loradrop.sharing import share

PAPER = Path(__file__).parent / "paper"
ARCHITECTURES = yaml.safe_load((PAPER / "architectures.yaml").read_text(encoding="utf-8"))
UNITS = {"M": 1e6, "B": 1e9}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One published number of trainable parameters."""

    table: str
    backbone: str
    row: str
    published: str
    method: str
    overrides: tuple[str, ...]
    generates: bool
    note: str

    def matches(self, count: int) -> bool:
        """Whether a count equals the published number when rounded to its digits."""
        number, unit = self.published[:-1], UNITS[self.published[-1]]
        return f"{count / unit:.{len(number.partition('.')[2])}f}" == number

    def build_method(self) -> Method:
        """Build the method as a run would. Call this inside Hydra's initialize_config_dir."""
        overrides = [f"backbone={self.backbone}", f"method={self.method}", *self.overrides]
        return instantiate_group("method", compose("run", overrides).method)

    def installed(self, method: Method) -> nn.Module:
        """Build the published model without weights, and install the method."""
        model = skeleton(self.backbone, self.generates)
        method.install(model)
        return model


def skeleton(backbone: str, generates: bool = False) -> nn.Module:
    """Build a published model on the meta device.

    Args:
        backbone: A key of ARCHITECTURES.
        generates: Whether it has its lm_head, instead of a head for two classes.
    """
    auto = AutoModelForCausalLM if generates else AutoModelForSequenceClassification
    with meta_device():
        return freeze_encoder(auto.from_config(AutoConfig.for_model(**ARCHITECTURES[backbone])))


def cells() -> Iterator[Cell]:
    """All published numbers of trainable parameters of methods that we have."""
    for file in ("lora_drop", "prilora"):
        for table, content in yaml.safe_load(
            (PAPER / f"{file}.yaml").read_text(encoding="utf-8")
        ).items():
            for backbone, rows in content["models"].items():
                for name, row in rows.items():
                    method = row.get("method", name)
                    if method and row.get("counted", True) and "trainable_params" in row:
                        yield Cell(
                            table=table.removeprefix("table"),
                            backbone=backbone,
                            row=name,
                            published=row["trainable_params"],
                            method=method,
                            overrides=tuple(row.get("overrides", ())),
                            generates=content.get("generates", False),
                            note=row.get("note", ""),
                        )


def count(cell: Cell) -> dict[str, Any]:
    """Count the parameters of one cell.

    Returns:
        Its row: table, backbone, method, published, ours, agrees, note.
    """
    method = cell.build_method()
    model = cell.installed(method)
    if isinstance(method, LoRADrop):
        counts, note = _instances(cell, method, model)
    else:
        sizes = parameter_counts(model, method.result_fields().get("inactive", 0))
        counts, note = [sizes["adapter"]], cell.note.format(whole=sizes["total"])
    return {
        "table": cell.table,
        "backbone": cell.backbone,
        "method": cell.row,
        "published": cell.published,
        "ours": " or ".join(f"{count:,}" for count in counts) or "-",
        "agrees": "yes" if counts and all(map(cell.matches, counts)) else "no",
        "note": note,
    }


def _instances(cell: Cell, method: LoRADrop, model: nn.Module) -> tuple[list[int], str]:
    """The counts after sharing that agree with the published one, and a note on their LoRAs."""
    importance = uniform(model)
    sizes = [size for layers in importance.parameters.values() for size in layers.values()]
    counts = {}
    for n in range(len(importance.parameters), len(sizes) + 1):  # at least one per module type
        if cell.matches(n * sizes[0]):
            model = cell.installed(method)
            share(
                model, select(importance, parameter_ratio=n / len(sizes), across_module_types=True)
            )
            counts[n] = parameter_counts(model)["adapter"]
    numbers = " or ".join(map(str, counts)) or "no number"
    note = f"n = {numbers} of {len(sizes)} LoRAs of {sizes[0]:,} each, kept and shared. {cell.note}"
    return list(counts.values()), note.strip()


def table() -> pd.DataFrame:
    """The table: one row per published number."""
    with initialize_config_dir(CONF, version_base="1.3"):
        return pd.DataFrame([count(cell) for cell in cells()])
