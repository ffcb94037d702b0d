"""Selection by hand-made importances, and its invariants over random ones."""

from __future__ import annotations

import random

import pytest

from loradrop.importance.importance import Importance
from loradrop.selection import select


def importance(size=100, **values):
    """Importances by module type, each layer's LoRA of `size` parameters (or size[type])."""
    by_layer = {kind: dict(enumerate(layers)) for kind, layers in values.items()}
    sizes = {
        k: {i: size[k] if isinstance(size, dict) else size for i in layers}
        for k, layers in by_layer.items()
    }
    return Importance(by_layer, sizes)


SIX = importance(query=[30, 5, 10, 40, 10, 5], value=[1, 1, 1, 1, 1, 95])


def test_the_layer_that_crosses_the_threshold_is_kept():
    plan = select(SIX, threshold=0.75)
    # 40 + 30 = 70 < 75 <= 80; of the two 10s the lower layer
    assert plan.kept == {"query": (0, 2, 3), "value": (5,)}
    assert plan.others == {"query": (1, 4, 5), "value": (0, 1, 2, 3, 4)}
    assert (plan.lora_parameters, plan.parameters, plan.saved) == (1200, 600, 600)


def test_a_sum_that_equals_the_threshold_reaches_it():
    # 0.1 + 0.1 + 0.1 > 0.3 in floats
    assert select(importance(q=[0.1] * 10), threshold=0.3).kept == {"q": (0, 1, 2)}
    # 0.8999999999999999
    assert select(importance(q=[0.7, 0.1, 0.1, 0.1]), threshold=0.9).kept == {"q": (0, 1, 2)}


def test_threshold_one_keeps_all_even_what_rounding_hides():
    plan = select(importance(query=[1e20, 1, 0], value=[0.1] * 3), threshold=1)
    assert plan.kept == {"query": (0, 1, 2), "value": (0, 1, 2)} and plan.saved == 0


def test_jointly_ranks_all_types_together():
    # of 200 in all: 95, 40, 30 = 165 >= 0.8 * 200
    plan = select(SIX, threshold=0.8, across_module_types=True)
    assert plan.kept == {"query": (0, 3), "value": (5,)}


def test_ranking_all_types_together_compares_g_not_y():
    """Query's layers are small beside value's: within their types 0.6 is more than 0.5."""
    given = importance(query=[6, 4], value=[500, 300, 200])
    assert select(given, threshold=0.75, across_module_types=True).kept == {
        "query": (),
        "value": (0, 1),
    }
    assert select(given, num_layers=3, across_module_types=True).kept["query"] == ()


def test_invariants_over_random_importances():
    draw = random.Random(0)
    for _ in range(200):
        given = importance(
            query=[draw.random() ** 4 for _ in range(12)], value=[draw.random() for _ in range(12)]
        )
        threshold = draw.uniform(0.05, 1)
        plan = select(given, threshold=threshold)
        for kind, layers in given.normalized.items():
            kept = sum(layers[i] for i in plan.kept[kind])
            weakest = min(layers[i] for i in plan.kept[kind])
            assert kept >= threshold - 1e-9 and kept - weakest < threshold
            assert all(layers[i] <= weakest for i in plan.others[kind])
            assert sorted(plan.kept[kind] + plan.others[kind]) == list(range(12))


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("across_module_types", [True, False])
def test_a_budget_keeps_the_most_layers_that_fit(across_module_types, share):
    draw = random.Random(1)
    size = {"query": 64, "value": 48}  # as under grouped-query attention
    for _ in range(100):
        given = importance(
            size, query=[draw.random() for _ in range(6)], value=[draw.random() for _ in range(6)]
        )
        ratio = draw.uniform(0.2, 1)
        plan = select(
            given, parameter_ratio=ratio, across_module_types=across_module_types, share=share
        )
        cost = sum(
            size[k] * (len(plan.kept[k]) + (share and len(plan.others[k]) > 0)) for k in size
        )
        assert plan.parameters == cost <= ratio * 6 * (64 + 48) + 1e-6
        if not across_module_types:
            for kind in size:  # one layer more would not fit, counted by hand
                k = len(plan.kept[kind])
                if k < 6:
                    assert size[kind] * (k + 1 + (share and k + 1 < 6)) > ratio * 6 * size[kind]


def test_half_the_budget_of_twelve_layers():
    plan = select(importance(query=range(1, 13), value=range(12, 0, -1)), parameter_ratio=0.5)
    # five own and one shared: 6 of 12
    assert plan.kept == {"query": (7, 8, 9, 10, 11), "value": (0, 1, 2, 3, 4)}


def test_a_plan_that_saves_nothing_says_so():
    # 5 of 6, one left to share
    plan = select(importance(query=[1] * 6, value=[1] * 6), threshold=0.8)
    assert plan.saved == 0 and len(plan.kept["query"]) == 5
    assert "layer 5 alone is left to share" in str(plan) and "saves no parameters" in str(plan)
    assert "saves no parameters" not in str(select(SIX, threshold=0.75))


def test_the_ablations_keep_as_many_layers_of_each_type():
    chosen = {
        name: select(SIX, threshold=0.75, strategy=name)
        for name in ("smallest", "unselected", "random", "upper_layers")
    }
    assert chosen["smallest"].kept == {"query": (1, 2, 5), "value": (0,)}
    assert chosen["unselected"].kept == select(SIX, threshold=0.75).others
    assert chosen["upper_layers"].kept == {"query": (3, 4, 5), "value": (5,)}
    assert {k: len(v) for k, v in chosen["random"].kept.items()} == {"query": 3, "value": 1}
    assert (
        len(
            {
                str(select(SIX, threshold=0.75, strategy="random", seed=seed).kept)
                for seed in range(20)
            }
        )
        > 5
    )
    assert select(SIX, threshold=0.75, strategy="random", seed=3) == select(
        SIX, threshold=0.75, strategy="random", seed=3
    )


def test_without_sharing_the_others_cost_nothing():
    assert select(SIX, threshold=0.75, share=False).parameters == 400


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"threshold": 0}, r"threshold must lie in \(0, 1\], got 0"),
        ({"threshold": 1.1}, "threshold must lie"),
        ({"parameter_ratio": -0.5}, r"parameter_ratio must lie in \(0, 1\], got -0.5"),
        ({"num_layers": 0}, "num_layers must be at least 1, got 0"),
        ({"num_layers": 2.5}, "num_layers must be a whole number, got 2.5"),
        (
            {"num_layers": 1, "ranking": {"query": dict.fromkeys(range(6), 1.0)}},
            "ranking must have the layers of the importance; not in both: value 0, ",
        ),
        ({"num_layers": 7}, "num_layers must not exceed the 6 layers there are, got 7"),
        (
            {"num_layers": 2, "threshold": 0.9},
            "give one of threshold, parameter_ratio and num_layers",
        ),
        ({"num_layers": 2, "strategy": "unselected"}, "give a threshold"),
        (
            {"threshold": 1, "strategy": "unselected", "share": False},
            "strategy=unselected leaves no layer with a LoRA",
        ),
        (
            {"parameter_ratio": 0.1},
            "parameter_ratio 0.1 is too small: the shared LoRAs alone need 0.167",
        ),
        ({}, "give one of threshold, parameter_ratio and num_layers"),
        (
            {"threshold": 0.9, "parameter_ratio": 0.5},
            "give one of threshold, parameter_ratio and num_layers",
        ),
        ({"threshold": 0.9, "strategy": "best"}, "strategy must be one of largest, "),
    ],
)
def test_what_makes_no_sense_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        select(SIX, **arguments)


def test_k_layers_of_each_type_or_of_all():
    assert select(SIX, num_layers=2).kept == {"query": (0, 3), "value": (0, 5)}
    assert select(SIX, num_layers=2, across_module_types=True).kept == {
        "query": (3,),
        "value": (5,),
    }
    assert select(SIX, num_layers=2, strategy="upper_layers").kept == {
        "query": (4, 5),
        "value": (4, 5),
    }


@pytest.mark.parametrize("values", [[0, 0], [float("nan"), 1], [float("inf"), 1]])
@pytest.mark.parametrize("across_module_types", [True, False])
def test_importances_that_say_nothing_are_refused(values, across_module_types):
    with pytest.raises(ValueError, match=r"^q: all .* are zero|^q [01]: .* is not finite"):
        select(importance(q=values), threshold=0.9, across_module_types=across_module_types)


def test_as_many_layers_as_there_are_may_be_asked_for():
    assert select(importance(q=[0.1, 0.2]), num_layers=2).kept == {"q": (0, 1)}


def test_ranking_all_types_together_takes_a_small_sum():
    given = importance(q=[0.1, 0.2])
    assert select(given, threshold=0.5, across_module_types=True).kept == {"q": (1,)}


def test_the_seed_of_the_random_strategy_is_0_by_default():
    plans = [select(SIX, seed, num_layers=3, strategy="random") for seed in (0, 1)]
    assert select(SIX, num_layers=3, strategy="random") == plans[0] != plans[1]
