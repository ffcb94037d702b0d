"""Methods beyond LoRA's family: what trains, where the output starts, their mathematics against
independent computations.
"""

from __future__ import annotations

import math

import pytest
import torch
from conftest import FAMILIES, tiny_model
from helpers.other_methods import FITTING, REFUSED, installed, make, train
from torch import nn

from loradrop.heads import freeze_encoder, head_parameters
from loradrop.methods.houlsby import AdapterLinear

# methods whose output starts as the backbone's
UNCHANGED = ("bitfit", "last_layers", "adalora")
fitting = pytest.mark.parametrize(("name", "family"), FITTING)


def trained_names(model):
    """Names of what trains besides the head, which must train."""
    head = {name for name, _ in head_parameters(model)}
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert head <= trained
    return trained - head


def expected(name, model, plain):
    """What must train of `plain`'s, or of what the method added to it."""
    if name == "bitfit":
        head = {n for n, _ in head_parameters(plain)}
        return {n for n, _ in plain.named_parameters() if n.endswith("bias")} - head
    if name == "last_layers":
        return {n for n, _ in plain.named_parameters() if ".2." in n}
    before, now = ({n for n, _ in m.named_parameters()} for m in (plain, model))
    wrapped = {n for n in now if ".base." in n or ".base_layer." in n}
    assert {n.replace(".base.", ".").replace(".base_layer.", ".") for n in wrapped} <= before
    return {n for n in now - before - wrapped if ".ranknum." not in n}  # a constant of PEFT's


@fitting
def test_exactly_this_and_the_head_train(name, family):
    _, model = installed(name, family)
    assert trained_names(model) == expected(name, model, tiny_model(family)) != set()


@fitting
def test_where_the_output_starts(name, family, batch):
    before = tiny_model(family)(**batch).logits
    _, model = installed(name, family)
    assert torch.equal(model(**batch).logits, before) == (name in UNCHANGED)


@fitting
def test_training_lowers_the_loss_reaches_everything_and_leaves_the_rest_alone(name, family, batch):
    method, model = installed(name, family)
    frozen = {n: p.clone() for n, p in model.named_parameters() if not p.requires_grad}
    losses = train(method, model, batch)
    assert losses[-1] < losses[0] - 0.05
    for parameter_name, parameter in model.named_parameters():
        if parameter.requires_grad:
            # a key's bias moves all scores of a query alike, which softmax takes out
            assert parameter.grad.any() or "key" in parameter_name, parameter_name
        else:
            assert torch.equal(parameter, frozen[parameter_name]), parameter_name


@fitting
def test_skeletons_on_the_meta_device_count_the_same(name, family):
    cls, config, _ = FAMILIES[family]
    with torch.device("meta"):
        skeleton = freeze_encoder(cls(config))
    make(name).install(skeleton)
    _, model = installed(name, family)
    counts = [
        {n: p.numel() for n, p in m.named_parameters() if p.requires_grad}
        for m in (skeleton, model)
    ]
    assert counts[0] == counts[1]
    assert all(parameter.is_meta for parameter in skeleton.parameters() if parameter.requires_grad)


@fitting
@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16])
def test_bf16(name, family, weights, batch):
    """Autocast of float32 weights, and a backbone of bfloat16 weights: what a method adds stays in
    float32.
    """
    model, method = freeze_encoder(tiny_model(family).to(weights)), make(name)
    old = {id(parameter) for parameter in model.parameters()}
    method.install(model)
    assert trained_names(model) == expected(name, model, tiny_model(family))
    with torch.autocast("cpu", torch.bfloat16, enabled=weights == torch.float32):
        loss = model(**batch).loss
    loss.backward()
    assert torch.isfinite(loss)
    added = [p for p in model.parameters() if p.requires_grad and id(p) not in old]
    assert all(parameter.dtype == torch.float32 for parameter in added)


@pytest.mark.parametrize(("name", "family"), REFUSED)
def test_what_cannot_work_is_refused_with_the_reason(name, family):
    with pytest.raises(ValueError, match=REFUSED[name, family]):
        installed(name, family)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("bitfit", {"biases": "some"}, "biases must be one of all, ffn"),
        ("last_layers", {"fraction": 0.0}, r"fraction must lie in \(0, 1\], got 0"),
        ("last_layers", {"fraction": 1.5}, r"fraction must lie in \(0, 1\], got 1.5"),
        ("houlsby", {"bottleneck": 0}, "bottleneck must be at least 1, got 0"),
        ("houlsby", {"bottleneck": 33}, "bottleneck must lie between 1 and 32 .* got 33"),
        ("houlsby", {"activation": "gleu"}, "activation must be one of gelu, relu"),
        ("houlsby", {"init_std": 0.0}, "init_std must be positive"),
        (
            "adalora",
            {"target_rank": 3},
            r"target_rank must be at least 1 and below init_rank \(3\), got 3",
        ),
        ("adalora", {"init_rank": 33}, "init_rank 33 is too large for .* 32 x 32"),
        ("adalora", {"final_ratio": 1.0}, r"final_ratio must lie in \[0, 1\), got 1"),
        ("adalora", {"beta2": 1.0}, r"beta2 must lie in \(0, 1\), got 1"),
        ("adalora", {"interval": 0}, "interval must be at least 1"),
        ("adalora", {"orthogonality": -1.0}, "orthogonality must not be negative"),
        ("prompt_tuning", {"virtual_tokens": 0}, "virtual_tokens must be at least 1, got 0"),
        (
            "prompt_tuning",
            {"virtual_tokens": 38},
            "virtual_tokens is 38, but RobertaForSeq.* takes at most 38 tokens in all",
        ),
        ("prefix_tuning", {"init_std": -1.0}, "init_std must not be negative"),
        ("prefix_tuning", {"dropout": 1.0}, r"dropout must lie in \[0, 1\), got 1"),
        (
            "houlsby",
            {"target_modules": ["o_proj"]},
            "no linear module's name ends in 'o_proj'.*Linear modules: .*query",
        ),
    ],
)
def test_values_out_of_range_are_named(name, changes, message):
    with pytest.raises(ValueError, match=message):
        installed(name, "roberta", **changes)


def test_bitfit_counts_of_roberta_base():
    from transformers import RobertaConfig, RobertaForSequenceClassification

    sizes = {"vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1}
    for biases, count in (("all", 102_144), ("ffn", 12 * (3072 + 768))):
        with torch.device("meta"):
            model = freeze_encoder(RobertaForSequenceClassification(RobertaConfig(**sizes)))
        make("bitfit", biases=biases).install(model)
        assert sum(model.get_parameter(n).numel() for n in trained_names(model)) == count


@pytest.mark.parametrize(("fraction", "layers"), [(0.25, {2}), (0.34, {1, 2}), (1.0, {0, 1, 2})])
def test_last_layers_are_rounded_up(fraction, layers):
    _, model = installed("last_layers", "roberta", fraction=fraction)
    assert {int(n.split(".")[3]) for n in trained_names(model)} == layers


@pytest.mark.parametrize("family", FAMILIES)
def test_houlsby_adds_the_published_number(family):
    _, model = installed("houlsby", family)
    added = sum(model.get_parameter(n).numel() for n in trained_names(model))
    d, b = 32, 5
    assert added == 3 * 2 * (2 * d * b + b + d)


def test_houlsby_equals_its_equation_and_stays_within_two_deviations():
    torch.manual_seed(0)
    module = AdapterLinear(nn.Linear(48, 32), 7, "gelu", 0.01)
    for linear in (module.down, module.up):
        assert linear.weight.abs().max() <= 0.02 and 0.007 < linear.weight.std() < 0.01
        assert not linear.bias.any()
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(4, 48)
    y = x @ module.base.weight.T + module.base.bias
    z = y @ module.down.weight.T + module.down.bias
    z = z * 0.5 * (1 + torch.erf(z / math.sqrt(2)))
    torch.testing.assert_close(module(x), y + z @ module.up.weight.T + module.up.bias)


def test_houlsby_lists_the_modules_of_a_family_that_it_does_not_know():
    with pytest.raises(
        ValueError,
        match=r"known in Sequential; name the modules \(target_modules\)\. Linear modules: \*",
    ):
        make("houlsby").install(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)))
