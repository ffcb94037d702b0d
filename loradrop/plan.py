"""The result of the selection, which sharing carries out and adapters store. Pure Python."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from loradrop.checksums import read_json, write_json

Key = tuple[str, int]  # module type, layer


@dataclass(frozen=True)
class SharingPlan:
    """Which layers keep their own LoRA. The others share one for each module type, or have none."""

    kept: dict[str, tuple[int, ...]]  # module type -> layers, ascending
    others: dict[str, tuple[int, ...]]
    share: bool  # do the others share a LoRA (True) or get none (False)?
    lora_parameters: int  # of plain LoRA in all layers
    parameters: int  # of this plan, each shared LoRA counted once
    # layers of these types that LoRA was never put into, as plan_of finds them; not compared
    never_adapted: dict[str, tuple[int, ...]] = field(default_factory=dict, compare=False)

    @property
    def saved(self) -> int:
        """The number of LoRA parameters that the plan saves."""
        return self.lora_parameters - self.parameters

    @property
    def notes(self) -> list[str]:
        """What might surprise a user about this plan."""
        notes = [
            f"{kind}: layer {layers[0]} alone is left to share, which costs what it replaces"
            for kind, layers in self.others.items()
            if self.share and len(layers) == 1
        ]
        return [*notes, "the plan saves no parameters"] if self.saved == 0 else notes

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        values = asdict(self)
        if not self.never_adapted:
            del values["never_adapted"]
        return {
            key: _listed(value) if isinstance(value, dict) else value
            for key, value in values.items()
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SharingPlan:
        """Make a plan from the return value of `to_dict`."""
        parts = [part for part in ("kept", "others", "never_adapted") if part in data]
        layers = {part: {k: tuple(v) for k, v in data[part].items()} for part in parts}
        return cls(**{**data, **layers})

    def save(self, path: str | Path) -> None:
        """Write `to_dict` and its checksum to a JSON file."""
        write_json(Path(path), self.to_dict(), indent=1)

    @classmethod
    def load(cls, path: str | Path) -> SharingPlan:
        """Read a file of `save`; ValueError if it is damaged, or holds something else."""
        data = read_json(Path(path))
        try:
            return cls.from_dict(data)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} holds no plan ({error!r})") from error

    def __str__(self) -> str:
        lines = []
        for kind, layers in self.kept.items():
            rest = self.others[kind]
            fate = "one shared LoRA in" if self.share else "no LoRA in"
            never = self.never_adapted.get(kind)
            end = f"; never adapted: {_layers(never)}" if never else ""
            lines.append(f"{kind}: own LoRA in {_layers(layers)}; {fate} {_layers(rest)}{end}")
        percent = 100 * self.parameters / self.lora_parameters
        lines.append(
            f"{self.parameters:,} of LoRA's {self.lora_parameters:,} parameters ({percent:.1f} %)"
        )
        return "\n".join([*lines, *self.notes])


def _listed(layers: Mapping[str, tuple[int, ...]]) -> dict[str, list[int]]:
    return {kind: list(part) for kind, part in layers.items()}


def _layers(layers: tuple[int, ...]) -> str:
    return (
        ("layers " if len(layers) > 1 else "layer ") + ", ".join(map(str, layers))
        if layers
        else "no layer"
    )
