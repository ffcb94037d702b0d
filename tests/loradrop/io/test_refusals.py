"""Calls that change a model, refused: the model is as it was."""

from __future__ import annotations

import pytest
import torch
from conftest import tiny_model
from helpers.adapter_files import (
    assert_refused,
    expected_logits,
    own_model,
    peft_model,
)
from torch import nn

import loradrop


def test_add_lora_with_ranks_that_do_not_fit_the_layers():
    model = tiny_model()
    assert_refused(
        model,
        lambda: loradrop.add_lora(model, rank={0: 2, 1: 4, 2: 99}),
        ValueError,
        "rank must lie between",
    )
    assert_refused(
        model,
        lambda: loradrop.add_lora(model, rank={0: 2, 1: 4}),
        ValueError,
        "rank must be a whole number",
    )
    for rank, targets, named in (
        ({0: 2, 1: 4, 2: 4, 3: 8, 7: 8}, None, r"layers 3, 7, .* are in layers 0, 1, 2$"),
        ({0: 2, 1: 4, "2": 4}, None, "layer '2', .* are in layers 0, 1, 2$"),
        ({0: 2, 1: 4}, "layer.0.*.query", "layer 1, .* are in layer 0$"),
    ):
        assert_refused(
            model,
            lambda rank=rank, targets=targets: loradrop.add_lora(
                model, rank=rank, target_modules=targets
            ),
            ValueError,
            f"rank names {named}",
        )
    assert_refused(
        model, lambda: loradrop.add_lora(model, alpha=-1), ValueError, "alpha must be positive"
    )


def test_remove_lora_with_an_unknown_name():
    model = own_model()
    names = [
        next(n for n, m in model.named_modules() if isinstance(m, loradrop.LoRALinear)),
        "classifier",
    ]
    assert_refused(
        model,
        lambda: loradrop.remove_lora(model, names),
        ValueError,
        "no LoRA of add_lora at classifier",
    )


def test_a_refused_loralib_checkpoint(tmp_path):
    whole = {
        n: p.detach()
        for n, p in own_model(share=False).state_dict().items()
        if "lora_" in n or "classifier" in n
    }
    query = "roberta.encoder.layer.2.attention.self.query"
    cases = {
        "it has no linear module x": {"x.lora_A": torch.zeros(2, 3), "x.lora_B": torch.zeros(3, 2)},
        "it has no classifier.out_proj.weight of shape": {
            "classifier.out_proj.weight": torch.zeros(5, 32)
        },
        "it has no nowhere": {"nowhere": torch.zeros(1)},
        "a MergedLinear": {f"{query}.lora_B": torch.zeros(32, 3)},
        "one floating-point type": {f"{query}.lora_B": torch.zeros(32, 4, dtype=torch.int32)},
        "holds a dict at epoch": {"epoch": {}},
    }
    for match, wrong in cases.items():
        base = tiny_model()
        assert_refused(
            base,
            lambda wrong=wrong, base=base: loradrop.load_loralib(base, whole | wrong, 10),
            ValueError,
            match,
        )
    for settings in ({"alpha": -1}, {"alpha": 10, "dropout": 2}):
        assert_refused(
            base,
            lambda s=settings: loradrop.load_loralib(base, whole, **s),
            ValueError,
            "must (be|lie)",
        )
    for name in ("broken.bin", "broken.safetensors"):
        (tmp_path / name).write_bytes(b"no checkpoint")
        assert_refused(
            base,
            lambda name=name: loradrop.load_loralib(base, tmp_path / name, 10),
            ValueError,
            name,
        )
    assert_refused(
        base,
        lambda: loradrop.load_loralib(base, tmp_path / "none.bin", 10),
        FileNotFoundError,
        "none.bin",
    )


def test_biases_that_loralib_has_trained_are_copied(batch):
    model = own_model(share=False)
    query = "roberta.encoder.layer.2.attention.self.query"
    state = {n: p.detach() for n, p in model.state_dict().items() if "lora_" in n}
    bias = torch.linspace(0, 1, 32)
    base = tiny_model()
    loradrop.load_loralib(base, state | {f"{query}.bias": bias}, 10)
    plain = tiny_model()
    plain.get_submodule(query).bias.data = bias
    config = {"lora_alpha": 10}
    names = {
        n.replace("lora_A", "lora_A.weight").replace("lora_B", "lora_B.weight"): t
        for n, t in state.items()
    }
    torch.testing.assert_close(base(**batch).logits, expected_logits(plain, config, names, batch))
    with pytest.raises(
        ValueError, match=r"query\.base trains beside its LoRA, which PEFT's files do not hold"
    ):
        loradrop.save_pretrained(base, "never")


@pytest.mark.parametrize("kind", ["own", "peft"])
def test_a_refused_share(kind):
    model = own_model(share=False) if kind == "own" else peft_model()
    batch = {"input_ids": torch.arange(3, 12)[None]}
    plan = loradrop.select(loradrop.measure(model, [batch]), num_layers=1)
    wrong = {
        "only in the plan: query 7": {"kept": {**plan.kept, "query": (7,)}},
        "contradicts itself": {"kept": {**plan.kept, "query": (0, 1, 2)}},
    }
    for match, change in wrong.items():
        other = type(plan)(**{**vars(plan), **change})
        assert_refused(model, lambda other=other: loradrop.share(model, other), ValueError, match)
    assert_refused(
        model, lambda: loradrop.share(model, plan, shared_init="last"), ValueError, "shared_init"
    )
    loras = [p for n, p in model.named_parameters() if "lora_A" in n and ".value." in n]
    loras[0].data = loras[0].data.double()
    share_all = type(plan)(
        **{
            **vars(plan),
            "kept": {"query": (), "value": ()},
            "others": {"query": (0, 1, 2), "value": (0, 1, 2)},
        }
    )
    assert_refused(
        model,
        lambda: loradrop.share(model, share_all),
        ValueError,
        "value: LoRAs of different types",
    )


@pytest.mark.parametrize("kind", ["own", "peft"])
def test_a_refused_merge(kind):
    model = own_model() if kind == "own" else peft_model()
    assert_refused(model, lambda: loradrop.merge(model, adapter="nobody"), ValueError, "nobody")
    if kind == "own":
        last = [m for m in model.modules() if isinstance(m, loradrop.LoRALinear)][-1]
        last.base.weight = nn.Parameter(
            last.base.weight.to(torch.float8_e4m3fn), requires_grad=False
        )
        types = {name: type(module) for name, module in model.named_modules()}
        with pytest.raises(ValueError, match="cannot take an update"):
            loradrop.merge(model)
        assert types == {name: type(module) for name, module in model.named_modules()}


def test_the_adapter_of_a_part_is_saved_from_that_part(tmp_path):
    model = nn.Module()
    model.encoder, model.head = peft_model(), nn.Linear(2, 2)
    assert_refused(
        model,
        lambda: loradrop.save_pretrained(model, tmp_path / "adapter"),
        ValueError,
        r"belongs to a part of the model \(encoder\), .*: save the part itself",
    )
    assert not (tmp_path / "adapter").exists()
    loradrop.save_pretrained(model.encoder, tmp_path / "adapter")
