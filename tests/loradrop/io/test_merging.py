"""Merging: the update in the weight and nowhere else, on every path that writes weights."""

from __future__ import annotations

import copy

import pytest
import torch
from conftest import SHAPE, tiny_model, train_b
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

import loradrop
from loradrop.lora.inject import lora_modules

# PEFT, of what is tried here
pytestmark = pytest.mark.filterwarnings(
    "ignore:Model (has|with) `tie_word_embeddings=True`:UserWarning"
)
TIED = r"lm_head: another module has the same weight \(tied embeddings\), and would change with it"


def tied_llama(ties=True):
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=ties)).eval()


def values(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def peft_of(model, target="lm_head", name="default"):
    config = LoraConfig(r=4, target_modules=[target], init_lora_weights=False)
    return get_peft_model(model, config, adapter_name=name).eval()


def own_of(model, target="lm_head"):
    loradrop.add_lora(model, rank=4, target_modules=[target])
    train_b(model)
    return model


def compiled(model):
    return torch.compile(model, backend="eager")


@pytest.mark.parametrize("adapted", [own_of, peft_of])
@pytest.mark.parametrize("wrapper", [lambda model: model, compiled, nn.DataParallel])
def test_a_tied_weight_is_not_merged(adapted, wrapper):
    model = adapted(tied_llama())
    before = values(model)
    with pytest.raises(ValueError, match=TIED):
        loradrop.merge(wrapper(model))
    after = values(model)
    assert after.keys() == before.keys() and all(torch.equal(after[n], before[n]) for n in after)


def test_an_adapted_embedding_is_not_merged_into_the_tied_head():
    model = peft_of(tied_llama(), "embed_tokens")
    with pytest.raises(ValueError, match=r"embed_tokens: another module has the same weight"):
        loradrop.merge(model)


def test_weights_are_tied_by_their_memory():
    """Parameter objects of their own over the same values."""
    model = tied_llama(ties=False)
    model.lm_head.weight = nn.Parameter(model.model.embed_tokens.weight.detach())
    with pytest.raises(ValueError, match=TIED):
        loradrop.merge(own_of(model))


@pytest.mark.parametrize("adapted", [own_of, peft_of])
@pytest.mark.parametrize("ties", [False, True])
def test_what_is_not_tied_is_merged_and_nothing_else_changes(adapted, ties):
    target = "q_proj" if ties else "lm_head"
    base = tied_llama(ties)
    before = values(base)
    model = adapted(base, target)
    ids = torch.randint(0, 60, (2, 7))
    expected = model(ids).logits
    update = {
        name.replace(".lora_A.default.weight", "")
        .replace(".lora_A", "")
        .removeprefix("base_model.model."): tensor
        for name, tensor in model.state_dict().items()
        if "lora_A" in name
    }
    merged = loradrop.merge(model)
    torch.testing.assert_close(merged(ids).logits, expected)
    changed = {n for n, tensor in merged.state_dict().items() if not torch.equal(tensor, before[n])}
    assert changed == {f"{name}.weight" for name in update}


@pytest.mark.parametrize("adapter", [None, "second"])
def test_only_the_merged_adapter_counts(adapter):
    """An adapter on a tied weight that is not merged does no harm."""
    model = peft_of(tied_llama(), "q_proj", "second")
    config = LoraConfig(r=4, target_modules=["lm_head"], init_lora_weights=False)
    model.add_adapter("tied", config)
    model.set_adapter("second")
    ids = torch.randint(0, 60, (2, 7))
    expected = model(ids).logits
    torch.testing.assert_close(loradrop.merge(model, adapter)(ids).logits, expected)


@pytest.mark.parametrize("saved", [["classifier"], None])
def test_the_merged_adapter_brings_its_own_head(saved, batch):
    """Not that of the active one; the base's where it has none."""
    model = get_peft_model(
        tiny_model(),
        LoraConfig(target_modules=["query"], modules_to_save=["classifier"]),
    ).eval()
    model.add_adapter("second", LoraConfig(target_modules=["query"], modules_to_save=saved))
    with torch.no_grad():
        for i, parameter in enumerate(model.parameters()):
            parameter.add_(0.01 * (i % 7))
    model.set_adapter("second")
    expected = model(**batch).logits
    model.set_adapter("default")
    torch.testing.assert_close(loradrop.merge(model, "second")(**batch).logits, expected)


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
@pytest.mark.parametrize("normed", [nn.utils.parametrizations.weight_norm, nn.utils.weight_norm])
def test_a_weight_that_is_computed_is_not_merged(normed):
    model = own_of(tied_llama(), "q_proj")
    last = list(lora_modules(model).values())[-1]
    normed(last.base)
    before = values(model)
    with pytest.raises(ValueError, match=r"2\.self_attn\.q_proj: its weight is no plain parameter"):
        loradrop.merge(model)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_loralib_checkpoint_does_not_change_a_tied_weight(batch):
    own = own_of(tied_llama(), "q_proj")
    loras = {n: p.detach() for n, p in own.state_dict().items() if "lora_" in n}
    embeddings, head = torch.zeros(60, 32), torch.ones(60, 32)
    for others in (
        {"lm_head.weight": head},
        {"model.embed_tokens.weight": embeddings},
        {"lm_head.weight": head, "model.embed_tokens.weight": embeddings},
        {"model.embed_tokens.weight": embeddings, "lm_head.weight": head},
    ):
        model = tied_llama()
        before = values(model)
        with pytest.raises(
            ValueError, match=r"weight would change .*weight, to which the model ties it: untie"
        ):
            loradrop.load_loralib(model, loras | others, alpha=8)
        after = values(model)
        assert after.keys() == before.keys() and all(
            torch.equal(after[n], before[n]) for n in after
        )
    both = {"lm_head.weight": head, "model.embed_tokens.weight": head}
    loradrop.load_loralib(model, loras | both, alpha=8)  # the same for both: nothing is lost
    assert torch.equal(model.lm_head.weight, head)


@pytest.mark.parametrize("lora", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("base", [torch.bfloat16, torch.float32, torch.float64])
def test_a_merge_rounds_once_to_the_weights_type(lora, base):
    model = tiny_model().to(base)
    loradrop.add_lora(model, rank=4, alpha=10)
    train_b(model)
    modules = lora_modules(model)
    untrained = next(iter(modules))
    nn.init.zeros_(modules[untrained].lora_B)
    for module in modules.values():
        module.lora_A.data, module.lora_B.data = module.lora_A.to(lora), module.lora_B.to(lora)
    weights = copy.deepcopy({name: module.base.weight.double() for name, module in modules.items()})
    exact = {
        name: weights[name] + 2.5 * module.lora_B.double() @ module.lora_A.double()
        for name, module in modules.items()
    }
    merged = loradrop.merge(model)
    assert torch.equal(merged.get_submodule(untrained).weight.double(), weights[untrained])
    for name, expected in exact.items():
        found = merged.get_submodule(name).weight
        assert found.dtype == base
        error = (found.double() - expected).abs()
        # B A and the product with the scaling in the LoRA's type, the sum in the weight's
        rounding = (
            torch.finfo(base).eps * expected.abs()
            + 4 * torch.finfo(lora).eps * (expected - weights[name]).abs().max()
        )
        assert (error <= rounding + 1e-7).all()
