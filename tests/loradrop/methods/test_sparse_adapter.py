"""SNIP's scores against finite differences; what is masked stays masked."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.methods import COMMON, Batches, installed, sparse, train

from loradrop.importance.criteria import lora_parameters
from loradrop.methods import pruning_scores
from loradrop.methods.lora import LoRA
from loradrop.seeds import Seeds


def test_snip_scores_are_the_loss_s_sensitivity_to_the_mask(batch):
    model = installed(sparse(init_std=0.3)).double()
    model.train()  # scores are taken without dropout all the same
    scores = pruning_scores.snip(model, Batches(batch, batch), [0])
    assert model.training
    model.eval()
    step = 1e-5
    for name, parameter in lora_parameters(model).items():
        for index in ((0, 0), (2, 3)):
            losses = []
            for mask in (1 + step, 1 - step):
                with torch.no_grad():
                    value = parameter[index].clone()
                    parameter[index] = mask * value
                    losses.append(2 * float(model(**batch).loss))  # two batches
                    parameter[index] = value
            assert float(scores[name][index]) == pytest.approx(
                abs(losses[0] - losses[1]) / (2 * step), rel=1e-4, abs=1e-9
            )
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(("sparsity", "scope"), [(0.5, "model"), (0.3, "model"), (0.77, "matrix")])
def test_exactly_the_lowest_scores_are_masked_for_good(batch, sparsity, scope):
    method = sparse(sparsity=sparsity, scope=scope)
    model = installed(method)
    scores = pruning_scores.snip(model, Batches(batch), [0])
    method.prepare(model, Batches(batch))
    parameters = lora_parameters(model)
    groups = [list(parameters)] if scope == "model" else [[name] for name in parameters]
    for names in groups:
        kept = torch.cat([scores[name][method.masks[name]] for name in names])
        gone = torch.cat([scores[name][~method.masks[name]] for name in names])
        rounded = math.ceil if scope == "model" else math.floor  # as the released code
        assert len(gone) == rounded(sparsity * (len(gone) + len(kept)))
        assert gone.max() <= kept.min()
    train(model, batch)
    for name, parameter in parameters.items():
        assert not parameter[~method.masks[name]].any() and parameter[method.masks[name]].all()
        assert not parameter.grad[~method.masks[name]].any()
    nonzero = sum(int((parameter != 0).sum()) for parameter in parameters.values())
    assert method.result_fields()["inactive"] == method.result_fields()["lora_parameters"] - nonzero


def test_scores_that_are_all_zero_are_refused(batch):
    with pytest.raises(ValueError, match="every score is zero: set init_std"):
        sparse(init_std=None)
    model = installed(LoRA(**COMMON))  # B = 0
    with pytest.raises(ValueError, match="all SNIP scores are zero"):
        pruning_scores.snip(model, Batches(batch), [0])
    method = sparse(init_std=None, warmup_epochs=1)
    method.prepare(installed(method), Batches(batch))
    assert any(mask.any() for mask in method.masks.values())


def test_grasp_is_the_weight_times_the_hessian_times_the_gradient(batch):
    """By central differences of the gradient along itself."""
    model = installed(sparse(init_std=0.3)).double()
    halves = [{key: value[part] for key, value in batch.items()} for part in ([0, 1], [2, 3])]
    scores = pruning_scores.grasp(model, Batches(*halves), [0])
    parameters = lora_parameters(model)

    def gradient():
        loss = sum(model.eval()(**half).loss for half in halves)
        return torch.autograd.grad(loss, list(parameters.values()))

    direction, step, found = gradient(), 1e-4, []
    for sign in (1, -1):
        with torch.no_grad():
            for parameter, part in zip(parameters.values(), direction, strict=True):
                parameter += sign * step * part
        found.append(gradient())
        with torch.no_grad():
            for parameter, part in zip(parameters.values(), direction, strict=True):
                parameter -= sign * step * part
    for (name, parameter), plus, minus in zip(parameters.items(), *found, strict=True):
        expected = parameter.detach() * (plus - minus) / (2 * step)
        torch.testing.assert_close(scores[name], expected, rtol=1e-3, atol=1e-9)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("pruner", ["snip", "mag", "rand", "grasp"])
def test_every_pruner_masks_what_it_scores_lowest(pruner, batch):
    masks = []
    for seed in (0, 0, 1):
        method = sparse(pruner=pruner, init_std=0.3)
        model, probe = installed(method), Batches(batch)
        probe.seeds = Seeds(seed)
        scores = pruning_scores.PRUNERS[pruner](model, probe, [0])
        method.prepare(model, probe)
        kept = torch.cat([scores[name][mask] for name, mask in method.masks.items()])
        gone = torch.cat([scores[name][~mask] for name, mask in method.masks.items()])
        assert len(gone) == len(kept) and gone.max() <= kept.min()
        masks.append(torch.cat([mask.flatten() for mask in method.masks.values()]))
    assert torch.equal(masks[0], masks[1])
    assert torch.equal(masks[1], masks[2]) == (pruner != "rand")


def test_the_magnitude_is_the_entry_s():
    method = sparse(pruner="mag", init_std=0.3)
    model = installed(method)
    for name, score in pruning_scores.mag(model, Batches(), []).items():
        assert torch.equal(score, lora_parameters(model)[name].abs())
    with pytest.raises(ValueError, match="pruner must be one of snip, mag, rand, grasp, got 'x'"):
        sparse(pruner="x")
