"""One style for all figures: colours that the colour-blind tell apart, and how lines differ.

The colours are those of Okabe and Ito (2008). Lines also differ in dashes and markers, so figures
work in greyscale.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import cycle
from typing import Any

BLACK, VERMILLION, GREY = "#000000", "#D55E00", "0.6"
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9")
OWN = {"lora": BLACK, "lora_drop": VERMILLION}  # in every figure
IMPORTANCE = "Blues"  # from zero
CORRELATION = "PuOr"  # around zero
DASHES, MARKERS = ("-", "--", ":", "-."), "sD^vPX<>ph"


def looks(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Colour, dashes and marker for each name; LoRA and LoRA-drop look the same in every figure."""
    free: Iterator[tuple[str, str, str]] = zip(
        cycle(COLOURS), cycle(DASHES), cycle(MARKERS), strict=False
    )
    found = {}
    for name in dict.fromkeys(names):
        own = OWN.get(name)
        colour, dash, marker = (own, "-", "o") if own else next(free)
        found[name] = {"color": colour, "linestyle": dash, "marker": marker}
    return found
