"""Criteria of parameters and gradients against plain double loops, and what LoRA-drop keeps by
them.
"""

from __future__ import annotations

import math
from contextlib import nullcontext

import pytest
import torch
from conftest import tiny_model, train_b
from helpers.methods import Batches, lora_drop

from loradrop.backbones import freeze_encoder
from loradrop.importance import criteria
from loradrop.importance.measurement import measure
from loradrop.lora.inject import add_lora, lora_sites
from loradrop.seeds import Seeds


def adapted(family="roberta"):
    model = tiny_model(family)
    add_lora(model, rank=4, alpha=8)
    train_b(model)
    return model


def entries(matrix):
    """(row, column, value) of a matrix, in a plain double loop."""
    return [(i, j, v) for i, row in enumerate(matrix.tolist()) for j, v in enumerate(row)]


@pytest.mark.parametrize("family", ["roberta", "llama"])
def test_the_weight_norm_is_that_of_the_product(family):
    model = adapted(family)
    found = criteria.weight_norms(model)
    for site, module in lora_sites(model).items():
        product = module.lora_B.detach() @ module.lora_A.detach()
        expected = math.sqrt(sum(v * v for _, _, v in entries(product)))
        assert found[site.module_type][site.layer] == pytest.approx(expected, rel=1e-5)


def test_the_count_is_that_of_the_parameters():
    for site, module in lora_sites(model := adapted("llama")).items():
        count = criteria.counts(model)[site.module_type][site.layer]
        assert count == len(entries(module.lora_A)) + len(entries(module.lora_B))


def test_the_gradient_criterion_adds_up_every_entry_over_all_batches(batch):
    model = adapted()
    halves = [{key: value[part] for key, value in batch.items()} for part in ([0, 1], [2, 3])]
    model.train()  # without dropout all the same
    found = criteria.products(model, halves, nullcontext)
    assert model.training and all(p.grad is None for p in model.parameters())
    scores = {name: product.abs() for name, product in found.items()}
    layers = criteria.by_layer(model, scores, criteria.GRADIENT)
    model.eval()
    sum(model(**half).loss for half in halves).backward()
    for site, module in lora_sites(model).items():
        total = 0.0
        for matrix in (module.lora_A, module.lora_B):
            for i, j, value in entries(matrix):
                total += abs(value * float(matrix.grad[i, j]))
        assert layers[site.module_type][site.layer] == pytest.approx(total, rel=1e-4)


def test_the_sensitivity_is_adaloras_over_steps():
    """Its equations 7 to 11, entry by entry and step by step."""
    torch.manual_seed(0)
    model = adapted()
    parameters = criteria.lora_parameters(model)
    smoothed = criteria.SmoothedSensitivity(0.8, 0.7)
    averages = {name: ([0.0] * p.numel(), [0.0] * p.numel()) for name, p in parameters.items()}
    for _ in range(4):
        for name, parameter in parameters.items():
            parameter.grad = torch.randn_like(parameter)
            parameter.data += 0.1 * torch.randn_like(parameter)
            smooth, doubt = averages[name]
            weights, gradients = (x.flatten().tolist() for x in (parameter, parameter.grad))
            for k, (weight, gradient) in enumerate(zip(weights, gradients, strict=True)):
                now = abs(weight * gradient)
                smooth[k] = 0.8 * smooth[k] + 0.2 * now
                doubt[k] = 0.7 * doubt[k] + 0.3 * abs(now - smooth[k])
        smoothed.update(parameters)
    layers = criteria.by_layer(model, smoothed.scores(), criteria.SENSITIVITY)
    for site, module in lora_sites(model).items():
        total = 0.0
        for matrix in ("lora_A", "lora_B"):
            smooth, doubt = averages[f"{site.name}.{matrix}"]
            width = getattr(module, matrix).numel() // module.rank  # entries of one doublet
            total += sum(s * u for s, u in zip(smooth, doubt, strict=True)) / width
        assert layers[site.module_type][site.layer] == pytest.approx(total, rel=1e-4)


def test_a_doublet_is_a_row_of_a_with_its_column_of_b():
    A = torch.tensor([[1.0, 3.0], [5.0, 7.0]])
    B = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    assert criteria.doublets(A, B).tolist() == [2.0 + 3.0, 6.0 + 4.0]


def test_an_overflow_does_not_stay_in_the_smoothed_averages():
    parameter = torch.nn.Parameter(torch.ones(2))
    smoothed = criteria.SmoothedSensitivity(0.5, 0.5)
    for gradient in (torch.tensor([math.inf, math.nan]), torch.ones(2)):
        parameter.grad = gradient
        smoothed.update({"w": parameter})
    assert smoothed.scores()["w"].isfinite().all() and smoothed.scores()["w"].all()


class Rows(Batches):
    """A probe that remembers what was measured; its stage 1 is not cached."""

    def __init__(self, batch, seed=0):
        super().__init__(batch)
        self.seeds, self.asked, self.settings = Seeds(seed), [], {}

    def sample(self, ratio):
        self.asked.append(ratio)
        return list(range(round(4 * ratio)))

    def fit(self, model, rows, epochs, batch_size, steps=None, on_step=None):
        train_b(model)
        if on_step is not None:
            for _ in range(2):
                model(**self.given[0]).loss.backward()
                on_step()
                model.zero_grad()

    def batches(self, rows, gradients=False, divided=False):
        return [{key: value[list(rows)] for key, value in self.given[0].items()}]

    def stage1(self, settings, compute):
        self.settings = settings
        return compute()


def prepared(batch, seed=0, **changes):
    model = freeze_encoder(tiny_model())
    method = lora_drop(**changes)
    method.install(model)
    probe = Rows(batch, seed)
    method.prepare(model, probe)
    return method, probe


@pytest.mark.parametrize("criterion", ["weight_norm", "gradient", "sensitivity", "count"])
def test_every_criterion_keeps_as_many_layers_by_its_own_ranking(criterion, batch):
    method, _ = prepared(batch, criterion=criterion)
    assert set(method.ranking) == set(method.plan.kept) == {"query", "value"}
    for kind, values in method.ranking.items():
        best = max(values, key=lambda layer: (values[layer], -layer))
        assert method.plan.kept[kind] == (best,)
    assert method.result_fields()["notes"][0].startswith(f"layers by {criterion}: query ")
    state = method.state_dict()
    again = lora_drop(criterion=criterion)
    model = freeze_encoder(tiny_model())
    again.install(model)
    again.load_state_dict(model, state)
    assert (again.plan, again.ranking) == (method.plan, method.ranking)


def test_the_number_of_layers_is_the_outputs(batch):
    counts = {}
    for criterion in criteria.CRITERIA:
        method, _ = prepared(batch, criterion=criterion, num_layers=None, threshold=0.5)
        counts[criterion] = {kind: len(kept) for kind, kept in method.plan.kept.items()}
    assert all(count == counts["output"] for count in counts.values())


def test_the_random_criterion_is_the_random_ablation(batch):
    plans = set()
    for seed in range(6):
        method, _ = prepared(batch, seed, criterion="random")
        ablation, _ = prepared(batch, seed, strategy="random")
        assert method.plan == ablation.plan
        plans.add(str(method.plan))
    assert len(plans) > 1


def test_stage_1_is_shared_unless_a_criterion_needs_the_training_set(batch):
    """None stands for a default, which ids leave out."""
    _, plain = prepared(batch)
    assert plain.settings["criterion"] is plain.settings["measure_on"] is None
    for criterion in ("weight_norm", "count", "random"):
        assert prepared(batch, criterion=criterion)[1].settings == plain.settings
    for criterion in ("gradient", "sensitivity"):
        assert prepared(batch, criterion=criterion)[1].settings["criterion"] == criterion
    assert prepared(batch, measure_on="train")[1].settings["measure_on"] == "train"


@pytest.mark.parametrize("measure_on", ["sample", "train"])
def test_the_importance_is_averaged_over_the_rows_it_says(measure_on, batch):
    method, probe = prepared(batch, measure_on=measure_on)
    fresh = freeze_encoder(tiny_model())
    lora_drop().install(fresh)
    train_b(fresh)
    rows = slice(2 if measure_on == "sample" else 4)
    expected = measure(fresh, [{key: value[rows] for key, value in batch.items()}])
    assert method.importance.tokens == expected.tokens
    assert probe.asked == ([0.5] if measure_on == "sample" else [0.5, 1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"criterion": "size"}, "criterion must be one of output, weight_norm, .* got 'size'"),
        ({"measure_on": "test"}, "measure_on must be one of sample, train, got 'test'"),
        (
            {"criterion": "gradient", "strategy": "smallest"},
            "criterion=gradient ranks for strategy=largest, not smallest",
        ),
    ],
)
def test_values_that_make_no_sense_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        lora_drop(**changes)
