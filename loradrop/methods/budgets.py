"""AdaLoRA's schedule of the rank budget, for the methods that follow it (arXiv 2303.10512)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CubicBudget:
    """AdaLoRA's schedule (Eq. 12).

    Args:
        initial: The number of doublets during the warm-up.
        target: The number at the end.
        warmup: The number of steps t_i with the initial budget.
        last: The step after which the target budget is fixed, T - t_f.
        interval: The number of steps between two cuts.
    """

    initial: int
    target: int
    warmup: int
    last: int
    interval: int

    def at(self, step: int) -> int:
        """Return the budget after optimiser step `step`, counted from 1."""
        if step <= self.warmup:
            return self.initial
        if step >= self.last:
            return self.target
        left = 1 - (step - self.warmup) / (self.last - self.warmup)
        return int(self.target + (self.initial - self.target) * left**3)

    def cuts(self, step: int) -> bool:
        """Whether doublets are pruned after this step."""
        return step == self.last or (self.warmup < step < self.last and step % self.interval == 0)


def check_schedule(
    init_rank: int,
    target_rank: int,
    warmup_ratio: float,
    final_ratio: float,
    interval: int,
    beta1: float,
    beta2: float,
) -> None:
    """Check the settings of a schedule.

    Raises:
        ValueError: A number is out of range.
    """
    if not 1 <= target_rank < init_rank:
        raise ValueError(
            f"target_rank must be at least 1 and below init_rank ({init_rank}), got {target_rank}"
        )
    if interval < 1:
        raise ValueError(f"interval must be at least 1, got {interval}")
    for key, value in (("warmup_ratio", warmup_ratio), ("final_ratio", final_ratio)):
        if not 0 <= value < 1:
            raise ValueError(f"{key} must lie in [0, 1), got {value}")
    for key, value in (("beta1", beta1), ("beta2", beta2)):
        if not 0 < value < 1:
            raise ValueError(f"{key} must lie in (0, 1), got {value}")
