"""VeRA, Tied-LoRA, S2-LoRA and AdapterDrop against PEFT, LoRA and plain matrices; what LoRA's
relatives refuse.
"""

from __future__ import annotations

import math

import pytest
import torch
from conftest import FAMILIES, tiny_model
from helpers.methods import (
    COMMON,
    installed,
    prilora,
    randomise,
    same_outputs_and_gradients,
    sparse,
    vera,
)
from peft import VeraConfig, get_peft_model
from transformers import RobertaConfig, RobertaForSequenceClassification

from loradrop.importance.measurement import measure
from loradrop.lora.inject import lora_modules, lora_sites
from loradrop.methods.adapter_drop import AdapterDrop
from loradrop.methods.lora import LoRA
from loradrop.methods.s2_lora import S2LoRA
from loradrop.methods.tied_lora import TiedLoRA


@pytest.mark.parametrize("family", FAMILIES)
def test_veras_outputs_and_gradients_equal_pefts(family, batch):
    ours = installed(vera(), family)
    randomise(ours, "lora_v")
    config = VeraConfig(
        r=4, target_modules=list(FAMILIES[family][2]), vera_dropout=0.0, d_initial=0.1
    )
    theirs = get_peft_model(tiny_model(family), config).eval()
    pairs = []
    for name, module in lora_modules(ours).items():
        other = theirs.base_model.model.get_submodule(name)
        # PEFT's matrices are as wide as the widest module, too
        assert (
            other.vera_A["default"].shape == module.lora_A.shape
            and other.vera_B["default"].shape == module.lora_B.shape
        )
        other.vera_A["default"].copy_(module.lora_A.detach())
        other.vera_B["default"].copy_(module.lora_B.detach())
        other.vera_lambda_b["default"].data.copy_(module.lora_v.data)
        pairs += [
            (module.lora_u, other.vera_lambda_d["default"]),
            (module.lora_v, other.vera_lambda_b["default"]),
        ]
        # 0.1 at the start
        torch.testing.assert_close(module.lora_u, other.vera_lambda_d["default"])
    assert len(pairs) == 2 * 2 * 3
    same_outputs_and_gradients(ours, theirs, batch, pairs)


def test_veras_projection_follows_the_seed_and_is_drawn_as_pefts():
    def projections(seed):
        torch.manual_seed(seed)
        method, model = vera(rank=512), tiny_model()
        torch.manual_seed(seed)
        method.install(model)
        module = next(iter(lora_modules(model).values()))
        return module.lora_A, module.lora_B

    first, again, other = projections(0), projections(0), projections(1)
    assert (
        torch.equal(first[0], again[0])
        and torch.equal(first[1], again[1])
        and not torch.equal(first[0], other[0])
    )
    for matrix in first:  # U(-sqrt(6 / fan_in), sqrt(6 / fan_in))
        bound = math.sqrt(6 / matrix.shape[1])
        assert not matrix.requires_grad and 0.99 * bound < matrix.abs().max() <= bound


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
    assert all(
        bool((m.lora_u == 1).all() and (m.lora_v == 1).all()) for m in lora_modules(tied).values()
    )
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
        TiedLoRA(**(COMMON | {"target_modules": "all-linear"}), vectors=True).install(tiny_model())


def test_s2_lora_shares_both_matrices_and_punishes_its_coefficients(batch):
    method = S2LoRA(**(COMMON | {"target_modules": "all-linear"}), l1=0.1)
    model = installed(method)
    modules = list(lora_modules(model).values())
    assert (
        len(modules) == 18
        and len({id(m.lora_A) for m in modules}) == len({id(m.lora_B) for m in modules}) == 1
    )
    assert count(model) == 4 * 48 + 48 * 4 + 18 * 4  # as wide as the widest module
    randomise(model, "lora_B", "lora_u")
    expected = 0.1 * sum(abs(c) for module in modules for c in module.lora_u.tolist())
    assert method.penalty(model).item() == pytest.approx(expected, rel=1e-5)
    # h = W x + (alpha / r) B diag(c) A x, in a module that is narrower than the matrices
    module, x = modules[0], torch.randn(5, 32)
    delta = 2 * module.lora_B[:32] @ torch.diag(module.lora_u) @ module.lora_A[:, :32]
    torch.testing.assert_close(module(x), module.base(x) + x @ delta.T)


@pytest.mark.parametrize(
    "method", [vera(), TiedLoRA(**COMMON, vectors=True), S2LoRA(**COMMON, l1=0)], ids=type
)
def test_the_same_code_measures_them(method, batch):
    model = installed(method, "llama")
    randomise(model, "lora_B", "lora_u", "lora_v")
    explicit = {}
    for site, module in lora_sites(model).items():
        module.register_forward_hook(
            lambda m, args, h, site=site: explicit.update(
                {site: (h - m.base(args[0]))[batch["attention_mask"] > 0]}
            )
        )
    importance = measure(model, [batch])
    for site, update in explicit.items():
        measured = importance.values[site.module_type][site.layer]
        assert (
            measured == pytest.approx(float((update**2).sum(-1).mean()), rel=1e-3) and measured > 0
        )


# AdapterDrop


def test_adapter_drop_leaves_the_lowest_layers_alone():
    method = AdapterDrop(**COMMON, dropped_layers=2, robust=False)
    model = installed(method)
    assert {site.layer for site in lora_sites(model)} == {2}
    assert method.result_fields()["lora_parameters"] == 3 * count(model)
    with pytest.raises(
        ValueError, match="dropped_layers must be below the model's 3 layers, got 3"
    ):
        installed(AdapterDrop(**COMMON, dropped_layers=3, robust=False))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: sparse(sparsity=0), r"sparsity must lie in \(0, 1\), got 0"),
        (lambda: sparse(sparsity=1.0), r"sparsity must lie in \(0, 1\), got 1.0"),
        (lambda: sparse(scope="layer"), "scope must be one of model, matrix"),
        (lambda: prilora(ratio=1), r"ratio must lie in \(0, 1\), got 1"),
        (lambda: prilora(interval=0), "interval must be at least 1 step"),
        (lambda: prilora(rank_first=0), "rank must be at least 1, got 0"),
        (
            lambda: installed(prilora(rank_last=40)),
            "rank must lie between 1 and 32 for a 32 x 32 module, got 40",
        ),
        (
            lambda: installed(TiedLoRA(**(COMMON | {"rank": 40}), vectors=True)),
            "rank must lie between 1 and 32",
        ),
        (
            lambda: installed(S2LoRA(**(COMMON | {"rank": 40}), l1=0)),
            "rank must lie between 1 and 32",
        ),
        (lambda: vera(d_initial=0), "d_initial must not be 0"),
        (lambda: LoRA(**(COMMON | {"alpha": 0})), "alpha must be positive, got 0"),
        (
            lambda: installed(LoRA(**(COMMON | {"target_modules": []}))),
            "target_modules: none are named",
        ),
        (lambda: installed(sparse(sparsity=0.9999999)), "leaves none of"),
    ],
)
def test_what_makes_no_sense_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("dropped", [0, 1, 2])
def test_the_robust_adapter_drop_is_scored_without_the_lowest_layers(dropped, batch):
    """As LoRA with these layers' B set to zero."""
    model = installed(AdapterDrop(**COMMON, dropped_layers=dropped, robust=True))
    assert {site.layer for site in lora_sites(model)} == {0, 1, 2}
    plain = installed(LoRA(**COMMON))
    randomise(model, "lora_A", "lora_B")
    plain.load_state_dict(model.state_dict())
    for site, module in lora_sites(plain).items():
        if site.layer < dropped:
            module.lora_B.data.zero_()
    torch.testing.assert_close(model.eval()(**batch).logits, plain.eval()(**batch).logits)


def test_the_robust_adapter_drop_draws_every_number_of_layers_alike(batch):
    """A dropped layer takes no part: neither in the output nor in the gradients."""
    model = installed(AdapterDrop(**COMMON, dropped_layers=1, robust=True)).train()
    randomise(model, "lora_A", "lora_B")
    seen = []
    for number in range(60):
        torch.manual_seed(number)
        model.zero_grad()
        model(**batch).loss.backward()
        with_gradient = {
            site.layer for site, m in lora_sites(model).items() if m.lora_A.grad is not None
        }
        torch.manual_seed(number)
        lowest = int(torch.randint(3, ()))
        assert with_gradient == set(range(lowest, 3))
        seen.append(lowest)
    assert {seen.count(number) > 10 for number in range(3)} == {True}
