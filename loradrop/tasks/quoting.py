"""Cells of a file in messages: what is a text, and how much of it is shown."""

from __future__ import annotations

import reprlib
from typing import Any

_shortener = reprlib.Repr()
_shortener.maxstring = _shortener.maxother = 80
_shortener.maxlist = 20


def brief(value: Any) -> str:
    """A value as Python writes it, shortened where it is long."""
    return _shortener.repr(value)


def is_text(value: Any) -> bool:
    """Whether a value is a text that UTF-8 can write: JSON may hold one half of a character."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
