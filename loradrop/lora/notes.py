"""Notes to the user: warnings that point to the line of their own code that called the library."""

from __future__ import annotations

import inspect
import warnings
from pathlib import Path

_PACKAGE = str(Path(__file__).parents[1])


def note(text: str) -> None:
    """Warn, in the name of the first line outside of this package.

    Args:
        text: One line.
    """
    level, frame = 1, inspect.currentframe()
    while frame is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        level, frame = level + 1, frame.f_back
    warnings.warn(text, stacklevel=level)
