"""Default targets of the families, fused projections, and experts that PEFT adapts as
parameters."""

from __future__ import annotations

import warnings

import pytest
import torch
from conftest import SHAPE, train_b
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import (
    AutoModel,
    DistilBertConfig,
    ElectraConfig,
    GPT2Config,
    GPTNeoXConfig,
    MixtralConfig,
    MixtralForCausalLM,
    ModernBertConfig,
    MPNetConfig,
    Phi3Config,
    SwinConfig,
    T5Config,
)

import loradrop
from loradrop.lora.sites import find_sites

IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
SEPARATE = {
    "t5": (
        T5Config(vocab_size=60, d_model=32, d_kv=8, d_ff=48, num_layers=3, num_heads=4),
        {"q", "v"},
    ),
    "mpnet": (MPNetConfig(**SHAPE), {"q", "v"}),
    "distilbert": (
        DistilBertConfig(dim=32, n_heads=4, n_layers=3, hidden_dim=48, vocab_size=60),
        {"q_lin", "v_lin"},
    ),
    "electra": (ElectraConfig(**SHAPE, embedding_size=16), {"query", "value"}),
    "swin": (
        SwinConfig(image_size=32, embed_dim=8, depths=[2, 2], num_heads=[1, 2], window_size=4),
        {"q_proj", "v_proj"},
    ),
}
FUSED = {
    "modernbert": (ModernBertConfig(**SHAPE, **IDS, cls_token_id=1, sep_token_id=2), "Wqkv"),
    "phi3": (Phi3Config(**SHAPE, **IDS), "qkv_proj"),
    "gpt-neox": (GPTNeoXConfig(**SHAPE, **IDS), "query_key_value"),
}


def make(config):
    torch.manual_seed(0)
    return AutoModel.from_config(config).eval()


@pytest.mark.parametrize("family", SEPARATE)
def test_query_and_value_where_they_are_separate(family):
    config, ends = SEPARATE[family]
    model = make(config)
    every = {
        name
        for name, m in model.named_modules()
        if isinstance(m, nn.Linear) and name.rpartition(".")[2] in ends
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sites = loradrop.add_lora(model, rank=2)
    assert {site.name for site in sites} == every and every


@pytest.mark.parametrize("family", FUSED)
def test_a_fused_projection_is_one_module_type(family):
    config, end = FUSED[family]
    model = make(config)
    with pytest.warns(
        UserWarning, match=f"query, key and value are one projection, {end}"
    ) as notes:
        sites = loradrop.add_lora(model, rank=2)
    assert notes[0].filename == __file__
    assert [(site.module_type, site.layer) for site in sites] == [(end, 0), (end, 1), (end, 2)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(loradrop.add_lora(make(config), rank=2, target_modules=[end])) == 3
    train_b(model)
    importance = loradrop.measure(model, [{"input_ids": torch.randint(3, 60, (2, 5))}])
    assert list(importance.values) == [end] and importance.parameters[end][0] == 2 * (32 + 96)


def test_gpt2_goes_through_peft():
    model = make(GPT2Config(vocab_size=60, n_embd=32, n_layer=3, n_head=4, n_positions=40, **IDS))
    with pytest.raises(ValueError, match=r"c_attn is a Conv1D, which PEFT adapts: get_peft_model"):
        loradrop.add_lora(model)
    theirs = get_peft_model(
        model,
        LoraConfig(
            r=2, fan_in_fan_out=True, init_lora_weights=False, task_type="FEATURE_EXTRACTION"
        ),
    )
    importance = loradrop.measure(theirs, [{"input_ids": torch.randint(3, 60, (2, 5))}])
    assert list(importance.values) == ["c_attn"] and len(importance.values["c_attn"]) == 3


def test_no_default_is_guessed():
    with pytest.raises(
        ValueError,
        match=(
            r"no default targets for Sequential; name them \(target_modules\)\. Linear modules: 0"
        ),
    ):
        find_sites(nn.Sequential(nn.Linear(4, 4)))


PARAMETERS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]


def mixtral(targets, parameters):
    torch.manual_seed(0)
    config = MixtralConfig(
        **SHAPE, **IDS, num_key_value_heads=2, num_local_experts=2, experts_implementation="eager"
    )
    model = MixtralForCausalLM(config).eval()
    config = LoraConfig(r=2, lora_alpha=4, target_modules=targets, target_parameters=parameters)
    model = get_peft_model(model, config).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.1, generator=generator)
    return model


@torch.no_grad()
def attention_norms(model, given):
    """Mean || s B A x ||^2 by suffix and layer, in float64, by hooks of our own."""
    sums = {}

    def hook(name):
        def keep(module, args):
            A = module.lora_A["default"].weight.double()
            B = module.lora_B["default"].weight.double()
            y = module.scaling["default"] * args[0].double() @ A.T @ B.T
            sums[name.rpartition(".")[2], int(name.split("layers.")[1].split(".")[0])] = float(
                y.pow(2).sum(-1).mean()
            )

        return keep

    ends = ("q_proj", "v_proj")
    handles = [
        m.register_forward_pre_hook(hook(n)) for n, m in model.named_modules() if n.endswith(ends)
    ]
    model(**given)
    for handle in handles:
        handle.remove()
    return sums


def test_experts_of_peft_are_skipped_with_a_note(tmp_path):
    given = {"input_ids": torch.randint(3, 60, (2, 5), generator=torch.Generator().manual_seed(0))}
    model = mixtral(["q_proj", "v_proj"], PARAMETERS)
    expected = attention_norms(model, given)
    assert len(expected) == 6
    with pytest.warns(UserWarning, match=r"6 LoRAs of parameters .*mlp\.experts.*are not measured"):
        importance = loradrop.measure(model, [given])
    got = {
        (kind, layer): g
        for kind, layers in importance.values.items()
        for layer, g in layers.items()
    }
    assert got == pytest.approx(expected, rel=1e-4)
    experts = {n: p.clone() for n, p in model.named_parameters() if "experts" in n and "lora_" in n}
    plan = loradrop.select(importance, num_layers=1)
    loradrop.share(model, plan)
    assert loradrop.plan_of(model) == plan
    now = dict(model.named_parameters())
    assert experts and all(torch.equal(now[name], value) for name, value in experts.items())
    expected = model(**given).logits
    loradrop.save_pretrained(model, tmp_path)
    torch.manual_seed(0)
    base = mixtral(["q_proj"], None).unload()
    loaded = loradrop.from_pretrained(base, tmp_path, as_peft=True).eval()
    assert torch.equal(loaded(**given).logits, expected) and loradrop.plan_of(loaded) == plan
    with pytest.raises(ValueError, match="as_peft=True"):
        loradrop.from_pretrained(mixtral(["q_proj"], None).unload(), tmp_path)


def test_experts_alone_cannot_be_measured():
    with pytest.raises(
        ValueError, match="LoRA of a MixtralExperts cannot be measured, only that of linear modules"
    ):
        loradrop.measure(mixtral([], PARAMETERS), [{"input_ids": torch.randint(3, 60, (2, 5))}])


def test_experts_stay_where_layers_get_none(tmp_path):
    given = {"input_ids": torch.randint(3, 60, (2, 5), generator=torch.Generator().manual_seed(0))}
    model = mixtral(["q_proj", "v_proj"], PARAMETERS)
    with pytest.warns(UserWarning, match="are not measured"):
        plan = loradrop.select(loradrop.measure(model, [given]), num_layers=1, share=False)
    loradrop.share(model, plan)
    assert loradrop.plan_of(model) == plan
    expected = model(**given).logits
    model.save_pretrained(tmp_path / "peft")  # PEFT's own
    from peft import PeftModel

    theirs = PeftModel.from_pretrained(mixtral(["q_proj"], None).unload(), tmp_path / "peft").eval()
    assert torch.equal(theirs(**given).logits, expected)
    loradrop.save_pretrained(model, tmp_path / "ours")
    loaded = loradrop.from_pretrained(
        mixtral(["q_proj"], None).unload(), tmp_path / "ours", as_peft=True
    ).eval()
    assert torch.equal(loaded(**given).logits, expected) and loradrop.plan_of(loaded) == plan


def test_merging_experts():
    given = {"input_ids": torch.randint(3, 60, (2, 5), generator=torch.Generator().manual_seed(0))}
    model = mixtral(["q_proj", "v_proj"], PARAMETERS)
    expected = model(**given).logits
    merged = loradrop.merge(model)
    torch.testing.assert_close(merged(**given).logits, expected, rtol=1e-4, atol=1e-5)
    assert not any("lora" in name for name, _ in merged.named_parameters())
