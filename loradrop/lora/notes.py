"""Warnings that point to the line of the user's own code that called the library."""

from __future__ import annotations

import inspect
import warnings
from pathlib import Path

_PACKAGE = str(Path(__file__).parents[1])


def note(text: str) -> None:
    """Warn, and name the first line of the call stack outside this package.

    Args:
        text: One line.
    """
    level, frame = 1, inspect.currentframe()
    while frame is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        level, frame = level + 1, frame.f_back
    warnings.warn(text, stacklevel=level)
