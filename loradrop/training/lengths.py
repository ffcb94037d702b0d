"""What becomes of rows that are longer than recipe.max_length."""

from __future__ import annotations

from datasets import Dataset

from loradrop.tasks.base import FITS, NEEDED, TRAIN
from loradrop.training.recipe import DROP, ERROR


def limit(
    encoded: Dataset, name: str, split: str, max_length: int, long_rows: str
) -> tuple[list[int], list[str]]:
    """Decide about the rows of a split that are longer than `max_length`.

    Scores are always of all rows, so only training rows are left out.

    Args:
        encoded: What the task's `encode` returned.
        name: The task's name.
        split: The split's name.
        max_length: The largest number of tokens.
        long_rows: As in the recipe.

    Returns:
        The rows to keep, and what a reader of the result must know.

    Raises:
        ValueError: A row is too long and must not, or cannot, be cut.
    """
    needed = encoded[NEEDED][:]
    fitting = [row for row, tokens in enumerate(needed) if tokens <= max_length]
    long = len(needed) - len(fitting)
    every_row = list(range(len(needed)))
    if not long:
        return every_row, []
    found = (
        f"{name}: {long} of {len(needed)} rows of {split} are longer than recipe.max_length = "
        f"{max_length}; {max(needed)} would suffice"
    )
    if long_rows == ERROR:
        raise ValueError(f"{found}. recipe.long_rows=truncate cuts them, drop leaves them out.")
    if long_rows == DROP and split == TRAIN:
        if not fitting:
            raise ValueError(f"{found}. recipe.long_rows=drop leaves no row to train on.")
        return fitting, [f"{found}. They were left out."]
    uncut = encoded[FITS][:].count(0)
    if uncut:
        raise ValueError(
            f"{found}. {uncut} of them cannot be cut: the template and the target or "
            "task.max_new_tokens alone are longer. "
            "recipe.long_rows=drop leaves such rows out of training."
        )
    return every_row, [f"{found}. They were cut."]
