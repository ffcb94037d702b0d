"""One style for all figures: colours that the colour-blind tell apart, and how lines differ.

The colours are those of Okabe and Ito (2008). Lines also differ in dashes and markers, so figures
work in greyscale.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import cycle
from typing import Any

import matplotlib
import numpy as np
from matplotlib.colors import to_hex

BLACK, VERMILLION, GREY = "#000000", "#D55E00", "0.6"
BLUE = "#0072B2"
COLOURS = (BLUE, "#E69F00", "#009E73", "#CC79A7", "#56B4E9")
OWN = {"LoRA": BLACK, "LoRA-drop": VERMILLION}  # in every figure
IMPORTANCE = "Blues"  # from zero
CORRELATION = "PuOr"  # around zero
DASHES, MARKERS = ("-", "--", ":", "-."), "sD^vPX<>ph*"
STYLE = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "0.9",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "legend.title_fontsize": 8,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "lines.markersize": 4.5,
    "lines.linewidth": 1.5,
    "hatch.linewidth": 0.6,
    "hatch.color": "0.6",
}


def looks(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Colour, dashes and marker of each line; LoRA and LoRA-drop look the same in every figure."""
    free: Iterator[tuple[str, str, str]] = zip(
        cycle(COLOURS), cycle(DASHES), cycle(MARKERS), strict=False
    )
    found = {}
    for name in dict.fromkeys(names):
        own = OWN.get(name)
        colour, dash, marker = (own, "-", "o") if own else next(free)
        found[name] = {"color": colour, "linestyle": dash, "marker": marker}
    return found


def ordered_looks(values: Iterable[float]) -> dict[str, dict[str, Any]]:
    """A look for each value of a quantity, from dark for the smallest to light for the largest."""
    labels = [f"{value:g}" for value in sorted(set(values))]
    shades = matplotlib.colormaps["viridis"](np.linspace(0, 0.8, len(labels)))
    marks = zip(labels, map(to_hex, shades), cycle(MARKERS))
    return {
        label: {"color": colour, "linestyle": "-", "marker": marker}
        for label, colour, marker in marks
    }
