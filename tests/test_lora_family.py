"""LoRA's relatives against PEFT, finite differences, plain loops and each other."""

from __future__ import annotations

import math
from contextlib import nullcontext

import pytest
import torch
from conftest import FAMILIES, build, train_b
from peft import VeraConfig, get_peft_model
from transformers import RobertaConfig, RobertaForSequenceClassification

from loradrop.importance import measure
from loradrop.lora import lora_modules, lora_sites
from loradrop.methods.adapter_drop import AdapterDrop
from loradrop.methods.lora import LoRA
from loradrop.methods.prilora import PRILoRA, keep_largest, linear_ranks
from loradrop.methods.s2_lora import S2LoRA
from loradrop.methods.sparse_adapter import SparseAdapter, lora_parameters, snip_scores
from loradrop.methods.tied_lora import TiedLoRA
from loradrop.methods.vera import VeRA

COMMON = {"name": "x", "rank": 4, "alpha": 8, "dropout": 0.0, "targets": None}


def vera(**changes):
    settings = {key: value for key, value in COMMON.items() if key != "alpha"} | {"d_initial": 0.1, "learning_rate": 1e-2}
    return VeRA(**(settings | changes))


def sparse(**changes):
    settings = {"sparsity": 0.5, "scope": "model", "init_std": 0.02, "sample_ratio": 1.0}
    return SparseAdapter(**(COMMON | settings | {"warmup_epochs": 0, "warmup_batch_size": 8} | changes))


def prilora(**changes):
    settings = {"name": "x", "rank_first": 2, "rank_last": 6, "alpha": 8, "dropout": 0.0, "targets": "all-linear"}
    settings |= {"pruning": "importance", "matrix": "A", "ratio": 0.5, "scope": "row", "interval": 2, "decay": 0.9}
    return PRILoRA(**(settings | {"regrow": True} | changes))


def installed(method, family="roberta", seed=0):
    """A frozen model with the method's adapters; the head trains."""
    model = build(family, seed).requires_grad_(False)
    head = model.classifier if hasattr(model, "classifier") else model.score
    head.requires_grad_(True)
    method.install(model)
    return model


def randomise(model, *suffixes, scale=0.3):
    """Values, as training would give them, for the parameters whose names end so."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(suffixes):
                parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))


class Batches:
    """A probe that has these batches as its training set."""

    seed, steps = 0, 10

    def __init__(self, *batches):
        self.given = batches

    def sample(self, ratio):
        return [0]

    def fit(self, model, rows, epochs, batch_size):
        train_b(model)

    def batches(self, rows):
        return self.given

    def autocast(self):
        return nullcontext()


# VeRA


@pytest.mark.parametrize("family", FAMILIES)
def test_veras_outputs_and_gradients_equal_pefts(family, batch):
    ours = installed(vera(), family)
    randomise(ours, "lora_v")
    config = VeraConfig(r=4, target_modules=list(FAMILIES[family][2]), vera_dropout=0.0, d_initial=0.1)
    theirs = get_peft_model(build(family), config).eval()
    pairs = []
    for name, module in lora_modules(ours).items():
        other = theirs.base_model.model.get_submodule(name)
        # PEFT's matrices are as wide as the widest module, too
        assert other.vera_A["default"].shape == module.lora_A.shape and other.vera_B["default"].shape == module.lora_B.shape
        other.vera_A["default"].copy_(module.lora_A.detach())
        other.vera_B["default"].copy_(module.lora_B.detach())
        other.vera_lambda_b["default"].data.copy_(module.lora_v.data)
        pairs += [(module.lora_u, other.vera_lambda_d["default"]), (module.lora_v, other.vera_lambda_b["default"])]
        torch.testing.assert_close(module.lora_u, other.vera_lambda_d["default"])  # 0.1 at the start
    left, right = ours(**batch), theirs(**batch)
    torch.testing.assert_close(left.logits, right.logits)
    left.loss.backward()
    right.loss.backward()
    assert len(pairs) == 2 * 2 * 3
    for mine, other in pairs:
        torch.testing.assert_close(mine.grad, other.grad)
        assert mine.grad.abs().max() > 0


def test_veras_projection_follows_the_seed_and_is_drawn_as_pefts():
    def projections(seed):
        torch.manual_seed(seed)
        method, model = vera(rank=512), build()
        torch.manual_seed(seed)
        method.install(model)
        module = next(iter(lora_modules(model).values()))
        return module.lora_A, module.lora_B

    first, again, other = projections(0), projections(0), projections(1)
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1]) and not torch.equal(first[0], other[0])
    for matrix in first:  # U(-sqrt(6 / fan_in), sqrt(6 / fan_in))
        bound = math.sqrt(6 / matrix.shape[1])
        assert not matrix.requires_grad and 0.99 * bound < matrix.abs().max() <= bound


def test_veras_vectors_have_a_learning_rate_of_their_own():
    model = installed(vera())
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    groups = vera().parameter_groups(model)
    assert set(groups) == {"lora_u", "lora_v"} and all(group == {"lr": 1e-2} for group in groups.values())
    assert {n for n in trained if not n.startswith("classifier")} == {n for n in trained if n.endswith(tuple(groups))}


# Tied-LoRA and S2-LoRA


def single_layer():
    torch.manual_seed(0)
    shape = {"vocab_size": 60, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48}
    config = RobertaConfig(**shape, num_hidden_layers=1, max_position_embeddings=40)
    return RobertaForSequenceClassification(config).eval()


def test_tied_lora_of_one_layer_is_lora_whose_modules_share_a(batch):
    tied, plain = single_layer(), single_layer()
    TiedLoRA(**COMMON, vectors=True).install(tied)
    LoRA(**COMMON).install(plain)
    randomise(tied, "lora_A", "lora_B")
    assert all(bool((m.lora_u == 1).all() and (m.lora_v == 1).all()) for m in lora_modules(tied).values())
    for name, module in lora_modules(plain).items():
        module.lora_A.data.copy_(tied.get_submodule(name).lora_A)
        module.lora_B.data.copy_(tied.get_submodule(name).lora_B)
    left, right = tied(**batch), plain(**batch)
    torch.testing.assert_close(left.logits, right.logits)
    left.loss.backward()
    right.loss.backward()
    modules = lora_modules(plain)
    shared = next(iter(lora_modules(tied).values())).lora_A
    torch.testing.assert_close(shared.grad, sum(module.lora_A.grad for module in modules.values()))
    for name, module in modules.items():
        torch.testing.assert_close(tied.get_submodule(name).lora_B.grad, module.lora_B.grad)


def test_what_tied_lora_ties():
    model = installed(TiedLoRA(**COMMON, vectors=True))
    sites = {(site.module_type, site.layer): module for site, module in lora_sites(model).items()}
    assert len({id(module.lora_A) for module in sites.values()}) == 1
    assert len({id(module.lora_B) for module in sites.values()}) == 2  # of query and of value
    assert len({id(module.lora_u) for module in sites.values()}) == 3  # of each layer
    assert len({id(module.lora_v) for module in sites.values()}) == 6
    # r d + 2 d r + L (r + 2 d)
    assert count(model) == 4 * 32 + 2 * 32 * 4 + 3 * (4 + 2 * 32)
    assert count(installed(TiedLoRA(**COMMON, vectors=False))) == 4 * 32 + 2 * 32 * 4


def count(model):
    return sum(p.numel() for n, p in model.named_parameters() if p.requires_grad and "lora_" in n)


def test_tied_lora_needs_inputs_of_one_width():
    with pytest.raises(ValueError, match="need inputs of one width"):
        TiedLoRA(**(COMMON | {"targets": "all-linear"}), vectors=True).install(build())


def test_s2_lora_shares_both_matrices_and_punishes_its_coefficients(batch):
    method = S2LoRA(**(COMMON | {"targets": "all-linear"}), l1=0.1)
    model = installed(method)
    modules = list(lora_modules(model).values())
    assert len(modules) == 18 and len({id(m.lora_A) for m in modules}) == len({id(m.lora_B) for m in modules}) == 1
    assert count(model) == 4 * 48 + 48 * 4 + 18 * 4  # as wide as the widest module
    randomise(model, "lora_B", "lora_u")
    expected = 0.1 * sum(abs(float(c)) for module in modules for c in module.lora_u)
    assert float(method.penalty(model)) == pytest.approx(expected, rel=1e-5)
    # h = W x + (alpha / r) B diag(c) A x, in a module that is narrower than the matrices
    module, x = modules[0], torch.randn(5, 32)
    delta = 2 * module.lora_B[:32] @ torch.diag(module.lora_u) @ module.lora_A[:, :32]
    torch.testing.assert_close(module(x), module.base(x) + x @ delta.T)


@pytest.mark.parametrize("method", [vera(), TiedLoRA(**COMMON, vectors=True), S2LoRA(**COMMON, l1=0)], ids=type)
def test_the_same_code_measures_them(method, batch):
    model = installed(method, "llama")
    randomise(model, "lora_B", "lora_u", "lora_v")
    explicit = {}
    for site, module in lora_sites(model).items():
        module.register_forward_hook(
            lambda m, args, h, site=site: explicit.update({site: (h - m.base(args[0]))[batch["attention_mask"] > 0]})
        )
    importance = measure(model, [batch])
    for site, update in explicit.items():
        measured = importance.values[site.module_type][site.layer]
        assert measured == pytest.approx(float((update**2).sum(-1).mean()), rel=1e-3) and measured > 0


# Sparse Adapter


def test_snip_scores_are_the_loss_s_sensitivity_to_the_mask(batch):
    model = installed(sparse(init_std=0.3)).double()
    scores = snip_scores(model, Batches(batch, batch), [0])
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
            assert float(scores[name][index]) == pytest.approx(abs(losses[0] - losses[1]) / (2 * step), rel=1e-4, abs=1e-9)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(("sparsity", "scope"), [(0.5, "model"), (0.3, "model"), (0.77, "matrix")])
def test_exactly_the_lowest_scores_are_masked_for_good(batch, sparsity, scope):
    method = sparse(sparsity=sparsity, scope=scope)
    model = installed(method)
    scores = snip_scores(model, Batches(batch), [0])
    method.prepare(model, Batches(batch))
    parameters = lora_parameters(model)
    groups = [list(parameters)] if scope == "model" else [[name] for name in parameters]
    for names in groups:
        kept = torch.cat([scores[name][method.masks[name]] for name in names])
        gone = torch.cat([scores[name][~method.masks[name]] for name in names])
        assert len(gone) == math.ceil(sparsity * (len(gone) + len(kept))) and gone.max() <= kept.min()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()
    for name, parameter in parameters.items():
        assert not parameter[~method.masks[name]].any() and parameter[method.masks[name]].all()
        assert not parameter.grad[~method.masks[name]].any()
    nonzero = sum(int((parameter != 0).sum()) for parameter in parameters.values())
    assert method.report()["inactive"] == method.report()["lora_parameters"] - nonzero


def test_scores_that_are_all_zero_are_refused(batch):
    with pytest.raises(ValueError, match="every score is zero: set init_std"):
        sparse(init_std=None)
    model = installed(LoRA(**COMMON))  # B = 0
    with pytest.raises(ValueError, match="all SNIP scores are zero"):
        snip_scores(model, Batches(batch), [0])
    method = sparse(init_std=None, warmup_epochs=1)
    method.prepare(installed(method), Batches(batch))
    assert any(mask.any() for mask in method.masks.values())


# PRILoRA


def test_the_papers_ranks():
    assert linear_ranks(4, 12, 12) == [4, 5, 5, 6, 7, 8, 8, 9, 10, 11, 11, 12]
    assert linear_ranks(12, 4, 12)[0] == 12 and linear_ranks(12, 4, 12)[-1] == 4 and linear_ranks(8, 8, 12) == [8] * 12
    model = installed(prilora())
    assert {site.layer: module.rank for site, module in lora_sites(model).items()} == {0: 2, 1: 4, 2: 6}
    assert len(lora_sites(model)) == 18


def step(method, model, batch, number):
    torch.manual_seed(number)
    model.train()
    model(**batch).loss.backward()
    method.after_step(model, number)


@pytest.mark.parametrize("matrix", ["A", "B"])
@pytest.mark.parametrize("scope", ["row", "matrix"])
def test_prilora_prunes_by_weight_times_the_inputs_moving_norm(batch, matrix, scope):
    method = prilora(matrix=matrix, scope=scope)
    model = installed(method)
    randomise(model, "lora_A", "lora_B")
    name, module = list(lora_modules(model).items())[7]
    inputs = []
    module.register_forward_pre_hook(lambda m, args: inputs.append(args[0].detach()))
    weight = getattr(module, f"lora_{matrix}")
    before = weight.detach().clone()
    step(method, model, batch, 1)
    assert torch.equal(weight, before)  # the interval is 2
    step(method, model, batch, 2)
    # the same by loops, padding left out
    norms = []
    for x in inputs:
        x = x if matrix == "A" else x @ module.lora_A.T
        rows = [x[i, j] for i in range(4) for j in range(9) if batch["attention_mask"][i, j]]
        norms.append([math.sqrt(sum(float(row[k]) ** 2 for row in rows)) for k in range(x.shape[-1])])
    moving = [0.9 * a + 0.1 * b for a, b in zip(*norms, strict=True)]
    torch.testing.assert_close(method.norms[name], torch.tensor(moving), rtol=1e-4, atol=1e-4)
    scores = [[abs(float(before[j, k])) * moving[k] for k in range(before.shape[1])] for j in range(before.shape[0])]
    if scope == "matrix":
        scores = [[score for row in scores for score in row]]
    for row, values in zip(weight.detach().view(len(scores), -1), scores, strict=True):
        lowest = sorted(range(len(values)), key=values.__getitem__)[: len(values) // 2]
        assert set((row == 0).nonzero().flatten().tolist()) == set(lowest)
    other = "lora_B" if matrix == "A" else "lora_A"
    assert all(getattr(module, other).all() for module in lora_modules(model).values())


@pytest.mark.parametrize("regrow", [True, False])
def test_pruned_entries_grow_again_or_stay(batch, regrow):
    method = prilora(regrow=regrow)
    model = installed(method)
    randomise(model, "lora_A", "lora_B")
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for number in (1, 2, 3):
        optimizer.zero_grad()
        model.train()
        model(**batch).loss.backward()
        optimizer.step()
        method.after_step(model, number)
    for name, module in lora_modules(model).items():
        assert int((~method.masks[name]).sum()) == module.rank * (module.in_features // 2)
        assert bool(module.lora_A[~method.masks[name]].any()) == regrow


def test_prilora_without_and_with_random_pruning(batch):
    for pruning in ("none", "random"):
        method = prilora(pruning=pruning, interval=1)
        model = installed(method)
        step(method, model, batch, 1)
        zeros = [int((module.lora_A == 0).sum()) for module in lora_modules(model).values()]
        assert (max(zeros) == 0) if pruning == "none" else (min(zeros) > 0)
        first = {name: module.lora_A.clone() for name, module in lora_modules(model).items()}
        again = prilora(pruning=pruning, interval=1)
        model = installed(again)
        step(again, model, batch, 1)
        assert all(torch.equal(module.lora_A, first[name]) for name, module in lora_modules(model).items())


def test_padding_does_not_change_what_is_pruned(batch):
    wider = {
        key: torch.nn.functional.pad(batch[key], (0, 6), value=v) for key, v in (("input_ids", 1), ("attention_mask", 0))
    }
    norms = []
    for given in (batch, wider | {"labels": batch["labels"]}):
        method = prilora(interval=1)
        model = installed(method)
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        step(method, model, given, 1)
        norms.append(method.norms)
    for name, values in norms[0].items():
        torch.testing.assert_close(norms[1][name], values)


def test_keep_largest_leaves_out_the_share_asked_for():
    importance = torch.rand(6, 50)
    assert (~keep_largest(importance, 0.75, "row")).sum(1).tolist() == [37] * 6
    assert int((~keep_largest(importance, 0.75, "matrix")).sum()) == 225


# AdapterDrop


def test_adapter_drop_leaves_the_lowest_layers_alone():
    method = AdapterDrop(**COMMON, dropped_layers=2)
    model = installed(method)
    assert {site.layer for site in lora_sites(model)} == {2}
    assert method.report()["lora_parameters"] == 3 * count(model)
    with pytest.raises(ValueError, match="dropped_layers must be below the model's 3 layers, got 3"):
        installed(AdapterDrop(**COMMON, dropped_layers=3))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: sparse(sparsity=0), r"sparsity must lie in \(0, 1\), got 0"),
        (lambda: sparse(sparsity=1.0), r"sparsity must lie in \(0, 1\), got 1.0"),
        (lambda: sparse(scope="layer"), "scope must be one of model, matrix"),
        (lambda: prilora(ratio=1), r"ratio must lie in \(0, 1\), got 1"),
        (lambda: prilora(interval=0), "interval must be at least 1 step"),
        (lambda: prilora(rank_first=0), "rank must be at least 1, got 0"),
        (lambda: installed(prilora(rank_last=40)), "rank must lie between 1 and 32 for a 32 x 32 module, got 40"),
        (lambda: installed(TiedLoRA(**(COMMON | {"rank": 40}), vectors=True)), "rank must lie between 1 and 32"),
        (lambda: installed(S2LoRA(**(COMMON | {"rank": 40}), l1=0)), "rank must lie between 1 and 32"),
        (lambda: vera(learning_rate=0), "learning_rate must be positive"),
    ],
)
def test_what_makes_no_sense_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
