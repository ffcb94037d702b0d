"""Models that are no single stack of linear modules: GPT-2 with its Conv1D, and encoder-decoders
with their two texts.
"""

from __future__ import annotations

import pytest
import torch
from conftest import train_b
from peft import LoraConfig, get_peft_model
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    GPT2Config,
    GPT2LMHeadModel,
    T5Config,
    T5ForConditionalGeneration,
    WhisperConfig,
    WhisperForConditionalGeneration,
)

import loradrop
from loradrop.lora.inject import lora_sites


def gpt2():
    torch.manual_seed(0)
    shape = {"vocab_size": 60, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 40}
    return GPT2LMHeadModel(GPT2Config(**shape, bos_token_id=1, eos_token_id=1)).eval()


@pytest.mark.parametrize("do_share", [True, False])
def test_gpt2_with_peft(do_share, batch, tmp_path):
    given = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    config = LoraConfig(
        r=4, target_modules=["c_attn"], fan_in_fan_out=True, init_lora_weights=False
    )
    model = get_peft_model(gpt2(), config).eval()
    plan = loradrop.select(loradrop.measure(model, [given]), num_layers=1, share=do_share)
    assert plan.lora_parameters == 3 * 4 * (32 + 96)
    loradrop.share(model, plan)
    assert loradrop.plan_of(model) == plan
    expected = model(**given).logits
    loradrop.save_pretrained(model, tmp_path, compact=True)
    loaded = loradrop.from_pretrained(gpt2(), tmp_path, as_peft=True).eval()
    assert torch.equal(loaded(**given).logits, expected) and loradrop.plan_of(loaded) == plan
    with pytest.raises(
        ValueError, match=r"h\.\d\.attn\.c_attn is a Conv1D, which only PEFT adapts: as_peft=True"
    ):
        loradrop.from_pretrained(gpt2(), tmp_path)
    with pytest.raises(ValueError, match=r"'c_attn' is a Conv1D"):
        loradrop.add_lora(gpt2(), target_modules=["c_attn"])


IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 0}
LAYERS = {
    "encoder_layers": 3,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
}
SIZES = {
    "vocab_size": 60,
    "d_model": 32,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    **LAYERS,
    **IDS,
}
T5 = {
    "vocab_size": 60,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 3,
    "num_decoder_layers": 2,
    "num_heads": 4,
}
TRANSLATORS = {
    "t5": (
        T5ForConditionalGeneration,
        T5Config(**T5, pad_token_id=0, decoder_start_token_id=0),
        ["q", "v"],
    ),
    "bart": (
        BartForConditionalGeneration,
        BartConfig(**SIZES, max_position_embeddings=40),
        ["q_proj", "v_proj"],
    ),
}


def text(lengths):
    """ids and mask of texts of these lengths, padded to the longest."""
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    return torch.randint(3, 60, mask.shape, generator=torch.Generator().manual_seed(0)) * mask, mask


def sources(name):
    """Is a module of this name applied to the source?"""
    across = ("EncDecAttention.v", "encoder_attn.v_proj")
    return "encoder." in name or name.endswith(across)


def explicit(model, given, source, target):
    """Mean squared norm of each LoRA's output over the tokens of its own text."""
    updates, hooks = {}, []
    for site, module in lora_sites(model).items():

        def keep(m, args, h, site=site):
            updates[site] = h - m.base(args[0])

        hooks.append(module.register_forward_hook(keep))
    with torch.no_grad():
        model(**given)
    for hook in hooks:
        hook.remove()
    masks = {site: (source if sources(site.name) else target).bool() for site in updates}
    return {
        site: float((update[masks[site]] ** 2).sum(-1).mean()) for site, update in updates.items()
    }


# the target as long as the source, or not; what says where it ends
@pytest.mark.parametrize("lengths", [[9, 5, 3, 1], [6, 5, 3, 1]])
@pytest.mark.parametrize("told", ["labels", "mask", "ids"])
@pytest.mark.parametrize("family", TRANSLATORS)
def test_an_encoder_decoder_has_two_texts(family, told, lengths):
    make, config, targets = TRANSLATORS[family]
    torch.manual_seed(0)
    model = make(config).eval()
    loradrop.add_lora(model, rank=4, target_modules=targets)
    train_b(model)
    (ids, source), (others, target) = text([9, 7, 4, 2]), text(lengths)
    given = {"input_ids": ids, "attention_mask": source}
    if told == "labels":
        given["labels"] = torch.where(target > 0, others, -100)
    else:
        given["decoder_input_ids"] = others
    if told == "mask":
        given["decoder_attention_mask"] = target
    expected = explicit(model, given, source, torch.ones_like(target) if told == "ids" else target)
    importance = loradrop.measure(model, [given])
    assert sorted(len(layers) for layers in importance.values.values()) == [2, 2, 2, 2, 3, 3]
    for site, g in expected.items():
        assert importance.values[site.module_type][site.layer] == pytest.approx(g, rel=1e-3), (
            site.name
        )
    plan = loradrop.select(importance, num_layers=1)
    loradrop.share(model, plan)
    assert len(plan.kept) == 6 and plan.parameters < plan.lora_parameters
    with pytest.raises(ValueError, match="average_over=target_tokens is for decoders alone"):
        loradrop.measure(model, [given], "target_tokens")


def test_speech_to_text():
    torch.manual_seed(0)
    config = WhisperConfig(**SIZES, max_source_positions=10, num_mel_bins=8)
    model = WhisperForConditionalGeneration(config).eval()
    loradrop.add_lora(model, rank=4, target_modules=["q_proj", "v_proj"])
    train_b(model)
    ids, target = text([6, 5, 3, 1])
    given = {"input_features": torch.randn(4, 8, 20), "labels": torch.where(target > 0, ids, -100)}
    expected = explicit(model, given, torch.ones(4, 10), target)
    importance = loradrop.measure(model, [given])
    for site, g in expected.items():
        assert importance.values[site.module_type][site.layer] == pytest.approx(g, rel=1e-3), (
            site.name
        )
