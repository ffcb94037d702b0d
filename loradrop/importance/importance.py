"""What `measure` returns: the importance of each layer, by module type."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from loradrop.checksums import read_json, write_json
from loradrop.extras import extra

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

ByLayer = dict[str, dict[int, float]]  # module type -> layer -> value


@dataclass
class Importance:
    """Squared norms of the LoRA outputs by module type and layer.

    Args:
        values: g_i, the mean squared norm.
        parameters: Trainable numbers of each LoRA, r (d_in + d_out).
        tokens: The number of tokens averaged over, without padding; the largest of all modules.
        squared_norms: The squared norm of each token, (tokens,), if `measure` was asked to keep
            them.
    """

    values: ByLayer
    parameters: dict[str, dict[int, int]]
    tokens: int = 0
    squared_norms: dict[str, dict[int, Tensor]] = field(default_factory=dict, repr=False)

    @property
    def normalized(self) -> ByLayer:
        """y_i = g_i / sum_j g_j within each module type.

        Raises:
            ValueError: All values of a module type are zero, or one is not finite.
        """
        return {kind: normalize(kind, layers) for kind, layers in self.values.items()}

    def to_frame(self) -> pandas.DataFrame:
        """Return a table with a row for each LoRA.

        Returns:
            Columns module_type, layer, squared_norm (g_i), importance (y_i) and parameters.

        Raises:
            ModuleNotFoundError: pandas is not installed.
            ValueError: As for `normalized`.
        """
        with extra("experiments"):
            import pandas

        normalized = self.normalized
        rows = [
            (kind, layer, g, normalized[kind][layer], self.parameters[kind][layer])
            for kind, layers in self.values.items()
            for layer, g in layers.items()
        ]
        return pandas.DataFrame(
            rows, columns=["module_type", "layer", "squared_norm", "importance", "parameters"]
        )

    def plot(self) -> Figure:
        """Draw y_i over the layers, a bar for each module type, as in the paper's Figure 9.

        Here the bars of a module type sum to 1.

        Returns:
            A figure without a window: save it (`figure.savefig(path)`), or show it in a notebook.

        Raises:
            ModuleNotFoundError: matplotlib is not installed.
            ValueError: As for `normalized`.
        """
        with extra("experiments"):
            from matplotlib.figure import Figure

        normalized = self.normalized
        figure = Figure(figsize=(7, 3), layout="constrained")
        axes = figure.subplots()
        width = 0.8 / len(normalized)
        for i, (kind, layers) in enumerate(normalized.items()):
            places = [layer + (i - (len(normalized) - 1) / 2) * width for layer in layers]
            axes.bar(places, list(layers.values()), width, label=kind)
        axes.set(
            xlabel="layer",
            ylabel="importance",
            xticks=sorted({i for layers in normalized.values() for i in layers}),
        )
        axes.legend()
        return figure

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold: everything but the squared norms of single tokens."""
        parts: dict[str, Mapping[str, Mapping[int, float]]] = {
            "values": self.values,
            "normalized": self.normalized,
            "parameters": self.parameters,
        }
        by_text = {
            key: {
                kind: {str(layer): value for layer, value in layers.items()}
                for kind, layers in part.items()
            }
            for key, part in parts.items()
        }
        return {**by_text, "tokens": self.tokens}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Importance:
        """Make an importance from the return value of `to_dict`."""
        values, parameters = (
            {
                kind: {int(layer): value for layer, value in layers.items()}
                for kind, layers in data[key].items()
            }
            for key in ("values", "parameters")
        )
        return cls(values, parameters, data["tokens"])

    def save(self, path: str | Path) -> None:
        """Write `to_dict` and its checksum to a JSON file."""
        write_json(Path(path), self.to_dict(), indent=1)

    @classmethod
    def load(cls, path: str | Path) -> Importance:
        """Read a file of `save`; ValueError if it is damaged, or holds something else."""
        data = read_json(Path(path))
        try:
            return cls.from_dict(data)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} holds no importances ({error!r})") from error


def normalize(kind: str, layers: Mapping[int, float]) -> dict[int, float]:
    """Divide values by their sum.

    Args:
        kind: Their module type.
        layers: The values by layer.

    Raises:
        ValueError: All are zero, or one is not finite, so that there is nothing to compare.
    """
    wrong = next((layer for layer, value in layers.items() if not math.isfinite(value)), None)
    if wrong is not None:
        raise ValueError(
            f"{kind} {wrong}: the importance is not finite: training on the sample has diverged"
        )
    total = math.fsum(layers.values())
    if total <= 0:
        raise ValueError(
            f"{kind}: all importances are zero: train the LoRA on a sample first (B starts at zero)"
        )
    return {layer: value / total for layer, value in layers.items()}
