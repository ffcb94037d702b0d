"""Methods beyond LoRA's family: what trains, where the output starts, their mathematics against independent computations."""

from __future__ import annotations

import json
import math

import pytest
import torch
from conftest import FAMILIES, build
from torch import nn

from loradrop.backbones import freeze_encoder, head_parameters
from loradrop.methods.adalora import ADAPTER, SCORES, AdaLoRA
from loradrop.methods.bitfit import BitFit
from loradrop.methods.houlsby import AdapterLinear, Houlsby
from loradrop.methods.last_quarter import LastLayers
from loradrop.methods.prefix_tuning import PrefixTuning
from loradrop.methods.prompt_tuning import PromptTuning

METHODS = {
    "bitfit": (BitFit, {"biases": "all"}),
    "last_quarter": (LastLayers, {"fraction": 0.25}),
    "houlsby": (Houlsby, {"bottleneck": 5, "activation": "gelu", "init_std": 0.01, "targets": None}),
    "adalora": (
        AdaLoRA,
        {"init_rank": 3, "target_rank": 2, "alpha": 16, "dropout": 0.0, "targets": "all-linear"}
        | {"warmup_ratio": 0.1, "final_ratio": 0.3, "interval": 2, "beta1": 0.85, "beta2": 0.85, "orthogonality": 0.1},
    ),
    "prompt_tuning": (PromptTuning, {"virtual_tokens": 6, "learning_rate": 0.1}),
    "prefix_tuning": (PrefixTuning, {"virtual_tokens": 6, "learning_rate": 0.1, "projection": False, "init_std": 1.0}),
}
VIRTUAL = ("prompt_tuning", "prefix_tuning")
STEPS = 14  # of a run
REFUSED = {
    ("bitfit", "llama"): "no biases",
    ("prefix_tuning", "deberta"): "cannot be prefix-tuned: its attention takes no keys and values",
}
FITTING = [(method, family) for method in METHODS for family in FAMILIES if (method, family) not in REFUSED]
UNCHANGED = ("bitfit", "last_quarter", "houlsby", "adalora")  # methods whose output starts as the backbone's
fitting = pytest.mark.parametrize(("name", "family"), FITTING)


class Run:
    """A probe of a run that has this many steps."""

    def __init__(self, steps=STEPS):
        self.steps = steps


def make(name, **changes):
    cls, settings = METHODS[name]
    return cls(name, **(settings | changes))


def installed(name, family, **changes):
    """(method, model with a trainable head and the method in place), always from the same random numbers."""
    model, method = freeze_encoder(build(family)), make(name, **changes)
    torch.manual_seed(1)
    method.install(model)
    method.prepare(model, Run())
    return method, model


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
    if name == "last_quarter":
        return {n for n, _ in plain.named_parameters() if ".2." in n}
    before, now = ({n for n, _ in m.named_parameters()} for m in (plain, model))
    wrapped = {n for n in now if ".base." in n or ".base_layer." in n}
    assert {n.replace(".base.", ".").replace(".base_layer.", ".") for n in wrapped} <= before
    return {n for n in now - before - wrapped if ".ranknum." not in n}  # a constant of PEFT's


def train(method, model, batch, steps=STEPS, lr=1e-2):
    """Losses of some optimiser steps on one batch."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr)
    losses = []
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        loss = model(**batch).loss
        losses.append(float(loss.detach()))
        penalty = method.penalty(model)
        (loss if penalty is None else loss + penalty).backward()
        optimizer.step()
        method.after_step(model, step)
    return losses


@fitting
def test_exactly_this_and_the_head_train(name, family):
    _, model = installed(name, family)
    assert trained_names(model) == expected(name, model, build(family)) != set()


@fitting
def test_where_the_output_starts(name, family, batch):
    before = build(family)(**batch).logits
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
    counts = [{n: p.numel() for n, p in m.named_parameters() if p.requires_grad} for m in (skeleton, model)]
    assert counts[0] == counts[1]
    assert all(parameter.is_meta for parameter in skeleton.parameters() if parameter.requires_grad)


@fitting
@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16])
def test_bf16(name, family, weights, batch):
    """Autocast of float32 weights, and a backbone of bfloat16 weights: what a method adds stays in float32."""
    model, method = freeze_encoder(build(family).to(weights)), make(name)
    old = {id(parameter) for parameter in model.parameters()}
    method.install(model)
    assert trained_names(model) == expected(name, model, build(family))
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
        ("last_quarter", {"fraction": 0.0}, r"fraction must lie in \(0, 1\], got 0"),
        ("last_quarter", {"fraction": 1.5}, r"fraction must lie in \(0, 1\], got 1.5"),
        ("houlsby", {"bottleneck": 0}, "bottleneck must be at least 1, got 0"),
        ("houlsby", {"bottleneck": 33}, "bottleneck must lie between 1 and 32 .* got 33"),
        ("houlsby", {"activation": "gleu"}, "activation must be one of gelu, relu"),
        ("houlsby", {"init_std": 0.0}, "init_std must be positive"),
        ("adalora", {"target_rank": 3}, r"target_rank must be at least 1 and below init_rank \(3\), got 3"),
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
        ("prefix_tuning", {"learning_rate": 0.0}, "learning_rate must be positive"),
        ("prefix_tuning", {"init_std": -1.0}, "init_std must not be negative"),
        ("houlsby", {"targets": ["o_proj"]}, "no linear module's name ends in 'o_proj'.*Linear modules: .*query"),
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
    _, model = installed("last_quarter", "roberta", fraction=fraction)
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
    assert module.down.weight.abs().max() <= 0.02 and 0.007 < module.down.weight.std() < 0.01
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(4, 48)
    y = x @ module.base.weight.T + module.base.bias
    z = y @ module.down.weight.T + module.down.bias
    z = z * 0.5 * (1 + torch.erf(z / math.sqrt(2)))
    torch.testing.assert_close(module(x), y + z @ module.up.weight.T + module.up.bias)


def test_houlsby_lists_the_modules_of_a_family_that_it_does_not_know():
    with pytest.raises(ValueError, match=r"known in Sequential; name the modules \(targets\)\. Linear modules: \*"):
        make("houlsby").install(nn.Sequential(nn.Linear(4, 4)))


def test_adalora_meets_the_budget_exactly_and_reports_it(batch):
    method, model = installed("adalora", "roberta")
    assert method.report() == {}
    train(method, model, batch)
    modules = [module for module in model.modules() if hasattr(module, "lora_E")]
    ranks = [int((module.lora_E[ADAPTER] != 0).sum()) for module in modules]
    assert len(modules) == 3 * 6 and sum(ranks) == 2 * 18 and len(set(ranks)) > 1
    report = method.report()
    assert report["inactive"] == sum(
        (3 - rank) * (m.in_features + m.out_features + 1) for rank, m in zip(ranks, modules, strict=True)
    )
    assert "budget of 36 triplets holds from step 10 of 14" in report["notes"][0]
    assert f"query {ranks[0]} {ranks[6]} {ranks[12]};" in report["notes"][1]


def test_adaloras_training_is_pefts(batch):
    """PEFT's own wrapper, penalty and loop, from the same weights: the same ranks and weights."""
    from peft import AdaLoraConfig, get_peft_model

    method, model = installed("adalora", "bert")
    rank = {"init_r": 3, "target_r": 2, "lora_alpha": 16, "lora_dropout": 0.0, "orth_reg_weight": 0.1}
    schedule = {"total_step": STEPS, "tinit": 1, "tfinal": 4, "deltaT": 2}
    targets = ["query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense"]
    theirs = get_peft_model(freeze_encoder(build("bert")), AdaLoraConfig(**rank, **schedule, target_modules=targets)).eval()
    theirs = theirs.base_model  # PeftModel.forward goes past the penalty where no task type is given
    inner = theirs.model
    for _, parameter in head_parameters(inner):
        parameter.requires_grad_(True)
    inner.load_state_dict(model.state_dict())
    torch.testing.assert_close(method.penalty(model), theirs(**batch).loss - model(**batch).loss)
    train(method, model, batch)
    optimizer = torch.optim.AdamW([p for p in theirs.parameters() if p.requires_grad], lr=1e-2)
    for step in range(1, STEPS + 1):
        optimizer.zero_grad()
        theirs(**batch).loss.backward()
        optimizer.step()
        theirs.update_and_allocate(step)
    assert method.state()["rank_pattern"] == theirs.peft_config[ADAPTER].rank_pattern
    for name, value in inner.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("at", [1, 5, 9, 10, 12])
def test_adalora_goes_on_from_its_state_bit_for_bit(at, batch, tmp_path):
    def fresh():
        model, method = freeze_encoder(build()), make("adalora")
        torch.manual_seed(1)
        method.install(model)
        return method, model, torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)

    def run(method, model, optimizer, steps):
        for step in steps:
            optimizer.zero_grad()
            (model(**batch).loss + method.penalty(model)).backward()
            optimizer.step()
            method.after_step(model, step)

    method, model, optimizer = fresh()
    method.prepare(model, Run())
    run(method, model, optimizer, range(1, at + 1))
    file = tmp_path / "checkpoint"
    torch.save([method.state(), model.state_dict(), optimizer.state_dict()], file)
    run(method, model, optimizer, range(at + 1, STEPS + 1))
    again, resumed, other = fresh()
    state, values, moments = torch.load(file, weights_only=True)
    json.dumps({key: value for key, value in state.items() if key not in SCORES})
    again.load_state(resumed, state)
    resumed.load_state_dict(values)
    other.load_state_dict(moments)
    run(again, resumed, other, range(at + 1, STEPS + 1))
    assert again.report() == method.report() != {}
    for name, value in model.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


@pytest.mark.parametrize(
    ("steps", "changes", "message"),
    [
        (STEPS, {"warmup_ratio": 0.7}, r"14 steps: 10 of warm-up \(warmup_ratio\) and 4 at the end .* leave 0"),
        (STEPS, {"interval": 10}, r"leave 9 to cut the budget in, every 10 \(interval\)"),
        (2, {"interval": 1}, "leave 1 to cut"),
    ],
)
def test_a_schedule_of_adalora_that_does_not_fit_the_run_is_refused(steps, changes, message):
    model, method = freeze_encoder(build()), make("adalora", **changes)
    method.install(model)
    with pytest.raises(ValueError, match=message):
        method.prepare(model, Run(steps))


virtual = pytest.mark.parametrize(("name", "family"), [pair for pair in FITTING if pair[0] in VIRTUAL])


def padded(family, batch, side="right"):
    """The batch with the family's padding, and each of its rows alone without padding."""
    ids = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, FAMILIES[family][1].pad_token_id)
    rows = [row[: int(length)][None] for row, length in zip(ids, batch["attention_mask"].sum(1), strict=True)]
    if side == "left":
        turned = zip(ids, rows, strict=True)
        ids = torch.stack([torch.cat([row[kept.shape[1] :], kept[0]]) for row, kept in turned])
    mask = batch["attention_mask"].flip(1) if side == "left" else batch["attention_mask"]
    return {"input_ids": ids, "attention_mask": mask}, rows


@virtual
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_padding_changes_nothing(name, family, implementation, batch):
    """Nor does a mask of ones, or the kind of attention."""
    if (family, implementation) == ("deberta", "sdpa"):
        pytest.skip("DeBERTa computes its attention itself")
    _, model = installed(name, family)
    usual = model(**padded(family, batch)[0]).logits
    model.set_attn_implementation(implementation)
    for side in ("right", "left") if family == "llama" else ("right",):
        whole, rows = padded(family, batch, side)
        torch.testing.assert_close(model(**whole).logits, usual)
        torch.testing.assert_close(torch.cat([model(input_ids=row).logits for row in rows]), usual)
        ones = [model(input_ids=row, attention_mask=torch.ones_like(row)).logits for row in rows]
        torch.testing.assert_close(torch.cat(ones), usual)


@virtual
def test_hidden_states_are_pefts_at_the_same_weights(name, family, batch):
    """PEFT's model of the bare encoder, which pools nothing."""
    from peft import PrefixTuningConfig, PromptTuningConfig, get_peft_model

    cls, n = (PromptTuningConfig, 6) if name == "prompt_tuning" else (PrefixTuningConfig, 0)
    bare = build(family)
    config = cls(task_type="FEATURE_EXTRACTION", num_virtual_tokens=6)
    theirs = get_peft_model(getattr(bare, bare.base_model_prefix), config).eval()
    _, model = installed(name, family)
    encoder = getattr(model, model.base_model_prefix)
    part = encoder.prompt_embedding if name == "prompt_tuning" else encoder.prefix_encoder
    part.load_state_dict(theirs.prompt_encoder["default"].state_dict())
    inputs, _ = padded(family, batch)
    kept = inputs["attention_mask"].bool()
    ours, other = encoder(**inputs).last_hidden_state, theirs(**inputs).last_hidden_state[:, n:]
    assert ours.shape == (4, 9, 32)
    torch.testing.assert_close(ours[kept], other[kept])
    ours[kept][:, 0].sum().backward()
    other[kept][:, 0].sum().backward()
    gradient = theirs.prompt_encoder["default"].embedding.weight.grad
    assert gradient.abs().max() > 1e-4
    torch.testing.assert_close(part.embedding.weight.grad, gradient, rtol=1e-4, atol=1e-5)


def test_a_prompt_of_words_reads_like_those_words_and_leaves_token_types_aligned(batch):
    """The embeddings of five words as the prompt, against the words themselves in front of the text."""
    _, model = installed("prompt_tuning", "bert")
    words = torch.tensor([7, 8, 9, 10, 11, 12])
    with torch.no_grad():
        model.bert.prompt_embedding.embedding.weight.copy_(model.bert.embeddings.word_embeddings.weight[words])
    inputs, _ = padded("bert", batch)
    types = (torch.arange(9) > 4).long().expand(4, -1)
    plain = build("bert").bert
    longer = {
        "input_ids": torch.cat([words.expand(4, -1), inputs["input_ids"]], dim=1),
        "attention_mask": torch.cat([torch.ones(4, 6, dtype=torch.long), inputs["attention_mask"]], dim=1),
        "token_type_ids": torch.cat([torch.zeros(4, 6, dtype=torch.long), types], dim=1),
    }
    hidden = plain(**longer).last_hidden_state[:, 6:]
    output = model.bert(**inputs, token_type_ids=types)
    torch.testing.assert_close(output.last_hidden_state, hidden)
    torch.testing.assert_close(output.pooler_output, plain.pooler(hidden))


def test_a_prompt_starts_as_words_of_the_vocabulary():
    _, model = installed("prompt_tuning", "roberta")
    words = model.roberta.embeddings.word_embeddings.weight
    prompt = model.roberta.prompt_embedding.embedding.weight
    assert prompt.shape == (6, 32) and prompt.requires_grad and not words.requires_grad
    assert all((words == row).all(dim=1).any() for row in prompt)


@pytest.mark.parametrize("family", ["roberta", "llama"])
def test_a_prefix_is_attended_to_as_written(family):
    """One layer's attention by hand, with the prefix's keys and values in front; in Llama shared by groups of heads."""
    _, model = installed("prefix_tuning", family)
    encoder, seen = getattr(model, model.base_model_prefix), {}
    name = "encoder.layer.1.attention.self" if family == "roberta" else "layers.1.self_attn"
    layer = encoder.get_submodule(name)
    layer.register_forward_hook(
        lambda _, args, kwargs, output: seen.update(kwargs, args=args, out=output[0]), with_kwargs=True
    )
    ids = torch.arange(3, 10)[None]
    encoder(input_ids=ids)
    x = seen["args"][0][0] if seen["args"] else seen["hidden_states"][0]  # (7, 32)
    heads, size = 4, 8
    groups = 4 if family == "roberta" else 2  # heads of keys and values
    parts = ("query", "key", "value") if family == "roberta" else ("q_proj", "k_proj", "v_proj")
    q, k, v = (layer.get_submodule(part)(x).view(7, -1, size).transpose(0, 1) for part in parts)
    if family == "llama":
        angles = torch.outer(torch.arange(6, 13).float(), 10_000 ** -(torch.arange(0, size, 2) / size)).repeat(1, 2)

        def turn(t):
            return t * angles.cos() + torch.cat([-t[..., size // 2 :], t[..., : size // 2]], dim=-1) * angles.sin()

        q, k = turn(q), turn(k)
    prefix = encoder.prefix_encoder.embedding.weight.view(6, 3, 2, groups, size)[:, 1]
    out = torch.zeros(7, heads, size)
    for head in range(heads):
        group = head * groups // heads
        keys, values = (torch.cat([prefix[:, i, group], t[group]]) for i, t in enumerate((k, v)))
        scores = q[head] @ keys.T / math.sqrt(size)
        if family == "llama":
            scores = scores.masked_fill(torch.ones(7, 13, dtype=torch.bool).triu(7), -math.inf)
        out[:, head] = scores.softmax(dim=-1) @ values
    out = out.reshape(7, 32)
    torch.testing.assert_close(seen["out"][0], layer.o_proj(out) if family == "llama" else out)


@pytest.mark.parametrize("family", ["roberta", "llama"])
def test_a_prefix_may_come_from_a_network(family, batch):
    _, model = installed("prefix_tuning", family, projection=True)
    encoder = getattr(model, model.base_model_prefix)
    width = 32 if family == "roberta" else 16  # of keys
    sizes = [p.numel() for p in encoder.prefix_encoder.parameters()]
    assert sorted(sizes) == sorted([6 * width, width * 32, 32, 32 * 2 * 3 * width, 2 * 3 * width])
    assert torch.isfinite(model(**batch).loss)


@virtual
def test_the_learning_rate_is_of_the_virtual_tokens_alone(name, family):
    method, model = installed(name, family)
    ((part, settings),) = method.parameter_groups(model).items()
    assert settings == {"lr": 0.1}
    assert {n for n, _ in model.named_parameters() if part in n} == trained_names(model)


def test_virtual_tokens_count_among_the_positions_of_the_backbone():
    from loradrop.backbones import Backbone

    class Task:
        name = "any"

    backbone = Backbone(name="tiny_roberta", hub_id="loradrop/tiny_roberta", revision=None, dtype="float32")
    longest = backbone.config(None).max_position_embeddings - 2
    extra = make("prompt_tuning").extra_tokens
    backbone.check(Task, longest - extra, None, extra)
    with pytest.raises(
        ValueError, match=f"is {longest} and the method adds 6 tokens, but .* takes at most {longest} tokens"
    ):
        backbone.check(Task, longest, None, extra)
