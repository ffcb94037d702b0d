"""The two forms of the fault suite: short in `make test`, long in `make test-faults`.

The long form draws other examples each time, and adds what it counts to outputs/faults.txt, for
docs/reliability.md.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from hypothesis import HealthCheck, settings

OUTCOMES = Path(__file__).parents[2] / "outputs" / "faults.txt"
LONG = os.environ.get("FAULTS") == "long"


def examples(short: int, long: int) -> settings:
    """How many examples hypothesis draws in either form."""
    return settings(
        max_examples=long if LONG else short,
        deadline=None,
        database=None,
        derandomize=not LONG,
        suppress_health_check=list(HealthCheck),
    )


def report(fault: str, counts: Counter[str]) -> None:
    """Print the outcomes of a fault; in the long form, keep them."""
    outcomes = ", ".join(f"{outcome} {count:,}" for outcome, count in sorted(counts.items()))
    line = f"{fault}: {counts.total():,} injected: {outcomes}"
    print(line)
    if LONG:
        OUTCOMES.parent.mkdir(exist_ok=True)
        with OUTCOMES.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
