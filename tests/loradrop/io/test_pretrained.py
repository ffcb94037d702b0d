"""Adapters written, read by PEFT and by ourselves, and merged: the outputs are compared bit for bit
where nothing rounds.
"""

from __future__ import annotations

import json

import pytest
import torch
from conftest import FAMILIES, SHAPE, tiny_model, train_b
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM, RobertaConfig, RobertaForMaskedLM

import loradrop
from loradrop.lora.inject import lora_modules
from loradrop.methods.vera import VeRA

VARIANTS = {
    "lora": {"threshold": 1},
    "lora_drop": {"threshold": 0.5},
    "no_share": {"threshold": 0.5, "share": False},
    "inverse": {"num_layers": 1, "strategy": "smallest"},
    "random": {"num_layers": 1, "strategy": "random"},
    "top_k": {"num_layers": 2, "strategy": "upper_layers"},
    "across_module_types": {"threshold": 0.6, "across_module_types": True},
    "parameter_ratio": {"parameter_ratio": 0.7},
}


def adapted(batch, family="roberta", **selection):
    """A model with our LoRA, values in every B, and the plan of these settings carried out."""
    model = tiny_model(family)
    loradrop.add_lora(model, rank=4, alpha=10)
    train_b(model)
    if selection:
        loradrop.share(model, loradrop.select(loradrop.measure(model, [batch]), **selection))
    return model


def lora_numbers(model):
    found = {
        id(p): p.numel()
        for module in lora_modules(model).values()
        for p in (module.lora_A, module.lora_B)
    }
    return sum(found.values())


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_peft_loads_what_we_save_with_the_same_outputs(family, variant, batch, tmp_path):
    model = adapted(batch, family, **VARIANTS[variant])
    expected = model(**batch).logits
    saved = loradrop.save_pretrained(model, tmp_path / "peft")
    loaded = PeftModel.from_pretrained(tiny_model(family), tmp_path / "peft").eval()
    assert torch.equal(loaded(**batch).logits, expected)
    held = {n for n, m in loaded.get_base_model().named_modules() if hasattr(m, "lora_A")}
    assert held == set(lora_modules(model))
    assert saved.lora_parameters == sum(module.size for module in lora_modules(model).values())
    small = loradrop.save_pretrained(model, tmp_path / "compact", compact=True)
    assert small.lora_parameters == lora_numbers(model) == loradrop.plan_of(model).parameters
    for form in ("peft", "compact"):
        again = loradrop.from_pretrained(tiny_model(family), tmp_path / form)
        assert torch.equal(again(**batch).logits, expected)
        assert lora_numbers(again) == lora_numbers(model) and loradrop.plan_of(
            again
        ) == loradrop.plan_of(model)
        tied = loradrop.from_pretrained(tiny_model(family), tmp_path / form, as_peft=True).eval()
        assert torch.equal(tied(**batch).logits, expected)
        assert sum(p.numel() for p in tied.parameters() if p.requires_grad) == lora_numbers(model)
    torch.testing.assert_close(loradrop.merge(model)(**batch).logits, expected)
    assert not lora_modules(model)


def test_the_compact_form_is_smaller_by_what_is_shared(batch, tmp_path):
    model = adapted(batch, num_layers=1)
    large, small = (
        loradrop.save_pretrained(model, tmp_path / str(c), compact=c) for c in (False, True)
    )
    # one layer of query and of value, in float32
    assert large.lora_parameters - small.lora_parameters == 2 * 4 * 64
    assert large.bytes > small.bytes
    assert str(small).endswith(
        f"compact_model.safetensors: {4 * 4 * 64:,} numbers of LoRA, {small.bytes:,} bytes"
    )


def test_training_goes_on_with_the_sharing(batch, tmp_path):
    model = adapted(batch, num_layers=1)
    loradrop.save_pretrained(model, tmp_path)
    copies = [
        model,
        loradrop.from_pretrained(tiny_model(), tmp_path),
        loradrop.from_pretrained(tiny_model(), tmp_path, as_peft=True),
    ]
    logits = []
    for one in copies:
        one.eval()
        optimiser = torch.optim.SGD([p for p in one.parameters() if p.requires_grad], lr=0.5)
        for _ in range(3):
            optimiser.zero_grad()
            one(**batch).loss.backward()
            optimiser.step()
        logits.append(one(**batch).logits)
    torch.testing.assert_close(logits[1], logits[0])
    torch.testing.assert_close(logits[2], logits[0])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_head_that_trains_is_kept(family, batch, tmp_path):
    model = adapted(batch, family, num_layers=1)
    name = "score" if family == "llama" else "classifier"
    head = model.get_submodule(name).requires_grad_(True)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(0.5)
    expected = model(**batch).logits
    saved = loradrop.save_pretrained(model, tmp_path)
    assert saved.head_parameters == sum(parameter.numel() for parameter in head.parameters())
    loaded = PeftModel.from_pretrained(tiny_model(family), tmp_path, is_trainable=True).eval()
    assert torch.equal(loaded(**batch).logits, expected)
    assert all(
        parameter.requires_grad
        for parameter in loaded.get_base_model().get_submodule(name).modules_to_save.parameters()
    )
    again = loradrop.from_pretrained(tiny_model(family), tmp_path)
    assert torch.equal(again(**batch).logits, expected)
    trains = {n for n, p in model.named_parameters() if p.requires_grad}
    assert {n for n, p in again.named_parameters() if p.requires_grad} == trains


def test_ranks_and_alphas_of_their_own(batch, tmp_path):
    model = tiny_model()
    loradrop.add_lora(model, rank={0: 2, 1: 4, 2: 4}, alpha=6)
    lora_modules(model)["roberta.encoder.layer.2.attention.self.value"].alpha = 3.5
    train_b(model)
    loradrop.save_pretrained(model, tmp_path)
    expected = model(**batch).logits
    torch.testing.assert_close(
        PeftModel.from_pretrained(tiny_model(), tmp_path).eval()(**batch).logits, expected
    )
    assert torch.equal(loradrop.from_pretrained(tiny_model(), tmp_path)(**batch).logits, expected)


@pytest.mark.parametrize("adapter", ["default", "mine"])
@pytest.mark.parametrize(
    "settings", [{}, {"use_rslora": True, "alpha_pattern": {"layer.1.attention.self.query": 3}}]
)
def test_a_peft_model_is_saved_with_its_plan(adapter, settings, batch, tmp_path):
    options = {
        "r": 4,
        "target_modules": ["query", "value"],
        "modules_to_save": ["classifier"],
    } | settings
    model = get_peft_model(tiny_model(), LoraConfig(**options), adapter_name=adapter).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(0.2 * torch.randn_like(parameter))
    plan = loradrop.select(loradrop.measure(model, [batch]), num_layers=1)
    loradrop.share(model, plan)
    expected = model(**batch).logits
    compact = loradrop.save_pretrained(model, tmp_path / "compact", compact=True)
    assert compact.lora_parameters == plan.parameters and compact.head_parameters
    for folder in (loradrop.save_pretrained(model, tmp_path / "peft").folder, compact.folder):
        tied = loradrop.from_pretrained(tiny_model(), folder, as_peft=True).eval()
        assert torch.equal(tied(**batch).logits, expected) and loradrop.plan_of(tied) == plan
        torch.testing.assert_close(
            loradrop.from_pretrained(tiny_model(), folder)(**batch).logits, expected
        )
    assert torch.equal(
        PeftModel.from_pretrained(tiny_model(), tmp_path / "peft").eval()(**batch).logits, expected
    )
    torch.testing.assert_close(loradrop.merge(model)(**batch).logits, expected)


@pytest.mark.parametrize("form", ["bin", "safetensors", "mapping"])
def test_checkpoints_of_loralib(form, batch, tmp_path):
    model = adapted(batch)
    head = {f"classifier.{n}": p + 1 for n, p in model.classifier.state_dict().items()}
    model.load_state_dict(head, strict=False)
    state = {name: p.detach() for name, p in model.state_dict().items() if "lora_" in name} | head
    path = tmp_path / f"roberta.{form}"
    if form == "bin":
        torch.save(state, path)
    elif form == "safetensors":
        save_file(state, path)
    loaded = tiny_model()
    loradrop.load_loralib(loaded, state if form == "mapping" else path, alpha=10)
    assert torch.equal(loaded(**batch).logits, model(**batch).logits)
    trains = {name for name, parameter in loaded.named_parameters() if parameter.requires_grad}
    assert trains == set(state)


def test_low_precision_is_merged_in_its_own_type(batch):
    model = tiny_model().to(torch.bfloat16)
    loradrop.add_lora(model, rank=4)
    train_b(model)
    expected = model(**batch).logits
    merged = loradrop.merge(model)
    assert next(merged.parameters()).dtype == torch.bfloat16
    torch.testing.assert_close(merged(**batch).logits, expected, atol=0.05, rtol=0.05)


# PEFT, of what is tried here
@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning")
@pytest.mark.parametrize("ties", [False, True])
def test_a_head_with_tied_parameters(ties, batch, tmp_path):
    def base():
        torch.manual_seed(0)
        return RobertaForMaskedLM(
            RobertaConfig(**SHAPE, max_position_embeddings=40, tie_word_embeddings=ties)
        ).eval()

    given = {"input_ids": batch["input_ids"]}
    model = get_peft_model(
        base(), LoraConfig(target_modules=["query"], modules_to_save=["lm_head"])
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter))
    expected = model(**given).logits
    loradrop.save_pretrained(model, tmp_path)
    loaded = loradrop.from_pretrained(base(), tmp_path, as_peft=True).eval()
    torch.testing.assert_close(loaded(**given).logits, expected)
    if ties:  # PEFT has trained a copy of its own
        with pytest.raises(
            ValueError, match=r"lm_head\.decoder\.weight would change roberta\.embeddings\.word_emb"
        ):
            loradrop.from_pretrained(base(), tmp_path)
    else:
        torch.testing.assert_close(
            loradrop.from_pretrained(base(), tmp_path)(**given).logits, expected
        )


def test_a_weight_that_cannot_take_an_update_is_not_merged():
    tied = LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=True))
    loradrop.add_lora(tied, rank=4, target_modules=["lm_head"])
    with pytest.raises(
        ValueError, match=r"lm_head: another module has the same weight \(tied embeddings\)"
    ):
        loradrop.merge(tied)
    scaled = tiny_model()
    loradrop.add_lora(scaled, rank=4)
    base = next(iter(lora_modules(scaled).values())).base
    base.weight.data = base.weight.data.to(torch.float8_e4m3fn)  # whose scale is kept elsewhere
    with pytest.raises(
        ValueError, match=r"query: weights in torch\.float8_e4m3fn cannot take an update"
    ):
        loradrop.merge(scaled)


def test_errors_are_single_messages(batch, tmp_path):
    model = adapted(batch)
    with pytest.raises(
        FileNotFoundError,
        match=r"holds no adapter: adapter_config\.json and adapter_model\.safetensors, or",
    ):
        loradrop.from_pretrained(tiny_model(), tmp_path)
    (tmp_path / "adapter_model.bin").touch()
    with pytest.raises(FileNotFoundError, match=r"\(adapter_model\.bin is not read: load and save"):
        loradrop.from_pretrained(tiny_model(), tmp_path)
    loradrop.save_pretrained(model, tmp_path)
    with pytest.raises(
        ValueError,
        match=r"the adapter does not fit the model: it has no linear module roberta\.encoder",
    ):
        loradrop.from_pretrained(tiny_model("llama"), tmp_path)
    with pytest.raises(ValueError, match="holds LoRA modules already"):
        loradrop.from_pretrained(model, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | {"use_dora": True}))
    with pytest.raises(ValueError, match="plain LoRA is needed, not DoRA"):
        loradrop.from_pretrained(tiny_model(), tmp_path)
    with pytest.raises(ValueError, match="holds no LoRA"):
        loradrop.save_pretrained(tiny_model(), tmp_path)
    with pytest.raises(ValueError, match="the model holds no LoRA to merge"):
        loradrop.merge(tiny_model())
    with pytest.raises(
        ValueError, match="adapter='mine' names an adapter, but this is not a PEFT model"
    ):
        loradrop.merge(model, adapter="mine")
    model.classifier.dense.bias.requires_grad_(True)
    with pytest.raises(
        ValueError, match=r"classifier\.dense\.bias trains though not all of its module does"
    ):
        loradrop.save_pretrained(model, tmp_path)
    vera = tiny_model()
    VeRA("vera", rank=4, dropout=0.0, target_modules=None, d_initial=0.1).install(vera)
    with pytest.raises(
        ValueError, match="the update of a ScaledLoRALinear is not a plain LoRA update"
    ):
        loradrop.save_pretrained(vera, tmp_path)
    with pytest.raises(ValueError, match=r"holds no '<module>\.lora_A'"):
        loradrop.load_loralib(tiny_model(), {}, alpha=1)
    fused = {"roberta.encoder.layer.0.attention.self.query.lora_A": torch.zeros(8, 32)}
    fused["roberta.encoder.layer.0.attention.self.query.lora_B"] = torch.zeros(64, 4)
    with pytest.raises(ValueError, match="a MergedLinear"):
        loradrop.load_loralib(tiny_model(), fused, alpha=1)
    assert load_file(tmp_path / "adapter_model.safetensors")
