"""The two forms of the fault suite: short in `make test`, long in `make test-faults`.

The long form draws other examples each time, and prints what it has counted (docs/reliability.md).
"""

from __future__ import annotations

import os
from collections import Counter

from hypothesis import HealthCheck, settings

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
    """Print the outcomes of a fault; pytest shows them with -s."""
    outcomes = ", ".join(f"{outcome} {count:,}" for outcome, count in sorted(counts.items()))
    print(f"\n{fault}: {counts.total():,} injected: {outcomes}")
