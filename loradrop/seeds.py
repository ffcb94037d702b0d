"""One seed, and every random stream of a run that follows from it.

Each stream depends on the seed and on its own counter alone, never on what was drawn before. So a
resumed run continues exactly where it stopped, and a head or an adapter can be made again.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Seeds:
    """The seeds of a run's random streams.

    Args:
        run: The run's seed.
    """

    run: int

    @property
    def weights(self) -> int:
        """The seed of torch for new weights, set before the head and again before the adapters."""
        return self.run

    def order(self, epoch: int) -> str:
        """Return the seed of `random.Random` for the order of an epoch's batches."""
        return f"{self.run}-{epoch}"

    def step(self, step: int, rank: int = 0) -> int:
        """Return the seed of torch before optimiser step `step`; dropout draws from it.

        Args:
            step: The step.
            rank: The number of the process, of several that train together.
        """
        return 1_000_003 * self.run + step + (rank << 53)

    @property
    def sample(self) -> int:
        """The seed of `random.Random` for a stratified sample of the training set."""
        return self.run

    @property
    def selection(self) -> int:
        """The seed of `random.Random` for the layers of LoRA-drop's random ablation."""
        return self.run
