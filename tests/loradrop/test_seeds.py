"""The streams of a run's seed. A change of a formula changes the numbers of all stored results."""

from __future__ import annotations

from loradrop.seeds import Seeds


def test_the_formulas():
    seeds = Seeds(3)
    assert (seeds.weights, seeds.sample, seeds.selection) == (3, 3, 3)
    assert seeds.order(2) == "3-2"
    assert seeds.step(5) == 3_000_014


def test_no_two_steps_of_neighbouring_seeds_draw_the_same():
    drawn = {Seeds(run).step(step) for run in range(5) for step in range(1000)}
    assert len(drawn) == 5 * 1000
