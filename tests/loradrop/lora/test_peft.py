"""measure and share on PEFT models, against PEFT's own outputs, and what PEFT does with tied
adapters.
"""

from __future__ import annotations

import copy
import importlib.util

import pytest
import torch
from conftest import FAMILIES, SHAPE, tiny_model
from helpers.peft_models import layers_of, measured, plan_for, with_values, wrapped
from peft import LoraConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from peft.utils import get_peft_model_state_dict
from transformers import RobertaConfig, RobertaForSequenceClassification

from loradrop.importance.measurement import measure, uniform
from loradrop.lora.inject import add_lora, lora_modules
from loradrop.plan import SharingPlan
from loradrop.selection import select
from loradrop.sharing import plan_of, share


def explicit(model, batch, adapter="default"):
    """Mean squared norm of every layer's LoRA output, from PEFT's own modules: what comes out of
    lora_B, times scaling.
    """
    outputs, mask = {}, batch["attention_mask"].bool()
    hooks = []
    for name, layer in layers_of(model).items():

        def keep(module, args, out, name=name, scaling=layer.scaling[adapter]):
            # the first call is about tokens (DeBERTa's others are not)
            outputs.setdefault(name, out.float() * scaling)

        hooks.append(layer.lora_B[adapter].register_forward_hook(keep))
    with torch.no_grad():
        model(**batch)
    for hook in hooks:
        hook.remove()
    return {name: float((out[mask] ** 2).sum(-1).mean()) for name, out in outputs.items()}


def by_key(values):
    found = {}
    for name, value in values.items():
        parts = name.split(".")
        found[parts[-1], next(int(part) for part in parts if part.isdigit())] = value
    return found


def trainable(model):
    return sum(p.numel() for n, p in model.named_parameters() if p.requires_grad and "lora_" in n)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("rslora", [False, True])
def test_importances_are_the_norms_of_pefts_outputs(family, rslora, batch):
    model = wrapped(family, use_rslora=rslora)
    assert measured(measure(model, [batch])) == pytest.approx(
        by_key(explicit(model, batch)), rel=1e-4
    )


def test_importances_equal_those_of_our_own_lora(batch):
    ours, theirs = tiny_model(), wrapped()
    add_lora(ours, rank=4, alpha=10)
    for name, module in lora_modules(ours).items():
        layer = theirs.base_model.model.get_submodule(name)
        module.lora_A.data.copy_(layer.lora_A["default"].weight.data)
        module.lora_B.data.copy_(layer.lora_B["default"].weight.data)
    left, right = measure(ours, [batch]), measure(theirs, [batch])
    assert measured(left) == pytest.approx(measured(right), rel=1e-6)
    assert (left.parameters, left.tokens) == (right.parameters, right.tokens)


def test_a_bf16_base_with_a_float32_or_bf16_adapter(batch):
    for upcast in (True, False):
        base = tiny_model().to(torch.bfloat16)
        model = get_peft_model(
            base, LoraConfig(r=4, target_modules=["query", "value"]), autocast_adapter_dtype=upcast
        )
        with_values(model).eval()
        assert measured(measure(model, [batch])) == pytest.approx(
            by_key(explicit(model, batch)), rel=1e-2
        )
        share(model, plan_for(model, (0,)))
        model(**batch).loss.backward()


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="needs bitsandbytes")
def test_a_4_bit_base(batch):
    import bitsandbytes as bnb

    # a multiple of the 64 weights that share a scale
    base = RobertaForSequenceClassification(
        RobertaConfig(**SHAPE | {"hidden_size": 64}, max_position_embeddings=40)
    )
    for layer in base.roberta.encoder.layer:
        for kind in ("query", "value"):
            linear = getattr(layer.attention.self, kind)
            four = bnb.nn.Linear4bit(64, 64, quant_type="nf4", compute_dtype=torch.float32)
            four.load_state_dict(linear.state_dict())
            setattr(layer.attention.self, kind, four.to("cpu"))
    base.is_loaded_in_4bit = True  # as from_pretrained with a quantization_config
    model = with_values(
        get_peft_model(base, LoraConfig(r=4, target_modules=["query", "value"]))
    ).eval()
    assert type(layers_of(model).popitem()[1]).__name__ == "Linear4bit"
    importance = measure(model.train(), [batch])
    model(**batch).loss.backward()  # still possible
    assert measured(importance) == pytest.approx(by_key(explicit(model.eval(), batch)), rel=1e-2)
    share(model, plan_for(model, (0,)))
    assert plan_of(model).kept["query"] == (0,)


def test_an_adapter_is_measured_and_shared_by_name(batch):
    model = wrapped()
    model.add_adapter("second", LoraConfig(r=2, target_modules=["query"]))
    with_values(model, seed=2)
    flags = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    default = measure(model, [batch])
    second = measure(model, [batch], adapter="second")
    assert set(default.values) == {"query", "value"} and set(second.values) == {"query"}
    assert second.parameters["query"][0] == 2 * 64
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == flags
    assert model.active_adapters == ["default"]
    assert measured(measure(model, [batch])) == measured(default)
    model.set_adapter("second")
    alone = {
        k: v
        for k, v in by_key(explicit_of_named(model, batch, "second")).items()
        if k[0] == "query"
    }
    assert measured(second) == pytest.approx(alone, rel=1e-4)
    before = model(**batch).logits
    share(model, plan_for_kinds(["query"], (2,), False), adapter="second")
    assert not torch.equal(model(**batch).logits, before)
    left = {name for name, layer in layers_of(model).items() if "second" in layer.lora_A}
    assert len(left) == 1 and left.pop().endswith("2.attention.self.query")
    model.set_adapter("default")
    assert len(measured(measure(model, [batch]))) == 6


def test_an_adapter_is_measured_with_the_modules_that_it_has_trained(batch):
    """Another adapter's embeddings would give other inputs."""
    model = wrapped(
        modules_to_save=["word_embeddings"],
        trainable_token_indices={"position_embeddings": [3]},  # in a way of its own
    )
    for name, saved in (("second", ["word_embeddings"]), ("third", None)):
        model.add_adapter(name, LoraConfig(r=4, target_modules=["query"], modules_to_save=saved))
    with_values(model, seed=2)
    embeddings = model.base_model.model.roberta.embeddings.word_embeddings
    for i, copied in enumerate(embeddings.modules_to_save.values()):
        torch.nn.init.constant_(copied.weight[5:], i + 1.0)
    flags = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    found = {name: measure(model, [batch], adapter=name) for name in ("second", "third")}
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == flags
    assert embeddings.active_adapters == model.active_adapters == ["default"]
    for name, importance in found.items():
        model.set_adapter(name)
        assert measured(measure(model, [batch])) == measured(importance)


def test_two_parts_that_peft_has_adapted(batch, tmp_path):
    """Each has a config of its own, by which PEFT loads what is left."""
    model = torch.nn.ModuleDict({"text": wrapped(), "image": wrapped("llama")})
    plan = select(uniform(model), num_layers=1, share=False)
    share(model, plan)
    for name, family in (("text", "roberta"), ("image", "llama")):
        model[name].save_pretrained(tmp_path / name)
        loaded = PeftModel.from_pretrained(tiny_model(family), tmp_path / name)
        assert len(layers_of(loaded)) == len(layers_of(model[name])) == 2
        assert torch.equal(loaded(**batch).logits, model[name](**batch).logits)


def explicit_of_named(model, batch, adapter):
    missing = [layer for layer in layers_of(model).values() if adapter not in layer.scaling]
    for layer in missing:
        layer.__dict__["scaling"][adapter], layer.lora_B[adapter] = 0.0, torch.nn.Identity()
    try:
        return explicit(model, batch, adapter)
    finally:
        for layer in missing:
            del layer.__dict__["scaling"][adapter], layer.lora_B[adapter]


def plan_for_kinds(kinds, kept, do_share):
    rest = tuple(i for i in range(3) if i not in kept)
    return SharingPlan(dict.fromkeys(kinds, kept), dict.fromkeys(kinds, rest), do_share, 1, 1)


@pytest.mark.parametrize("family", FAMILIES)
def test_shared_layers_use_the_same_parameters(family, batch):
    model = wrapped(family)
    plan = select(measure(model, [batch]), threshold=0.3)
    assert trainable(model) == plan.lora_parameters
    share(model, plan)
    assert trainable(model) == plan.parameters < plan.lora_parameters
    share(model, plan)  # again: nothing changes
    assert trainable(model) == plan.parameters
    assert plan_of(model) == plan


@pytest.mark.parametrize("do_share", [True, False])
def test_peft_trains_saves_loads_merges_and_disables(do_share, batch, tmp_path):
    model = wrapped("llama")
    plain = tiny_model("llama")(**batch).logits
    share(model, plan_for(model, (1,), do_share))
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
    before = model(**batch)
    model.train()
    model(**batch).loss.backward()
    optimiser.step()
    model.eval()
    after = model(**batch)
    assert not torch.equal(before.logits, after.logits)
    with model.disable_adapter():
        torch.testing.assert_close(model(**batch).logits, plain)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(tiny_model("llama"), tmp_path).eval()
    assert torch.equal(loaded(**batch).logits, after.logits)
    assert set(layers_of(loaded)) == set(layers_of(model))
    share(loaded, plan_for(model, (1,), do_share))
    assert torch.equal(loaded(**batch).logits, after.logits) and plan_of(loaded) == plan_of(model)
    again = copy.deepcopy(model)
    assert plan_of(again) == plan_of(model)  # a copy is tied as well
    set_peft_model_state_dict(again, get_peft_model_state_dict(model))
    assert torch.equal(again(**batch).logits, after.logits)
    again.merge_adapter()
    with pytest.raises(
        ValueError, match="adapter 'default' is merged into the weights; unmerge it first"
    ):
        share(again, plan_for(model, (1,), do_share))
    merged = model.merge_and_unload()
    torch.testing.assert_close(merged(**batch).logits, after.logits)
    assert not layers_of(merged)


def test_a_second_adapter_can_be_loaded_beside_a_tied_one(batch, tmp_path):
    other = with_values(wrapped(), seed=5)
    other.save_pretrained(tmp_path)
    expected = other(**batch).logits
    model = wrapped()
    share(model, plan_for(model, (1,), False))
    logits, plan = model(**batch).logits, plan_of(model)
    model.load_adapter(tmp_path, "other")
    model.set_adapter("other")
    torch.testing.assert_close(model(**batch).logits, expected)
    model.set_adapter("default")
    assert torch.equal(model(**batch).logits, logits)
    assert plan_of(model, "default").kept == plan.kept
    model.delete_adapter("other")
    assert torch.equal(model(**batch).logits, logits)
