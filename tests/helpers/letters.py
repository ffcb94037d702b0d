"""A tokenizer of letters."""

from __future__ import annotations

LETTERS = "abcdefghijklmnopqrstuvwxyz"
