"""Models whose layers are not a single stack of linear modules: GPT-2's Conv1D."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel

import loradrop


def gpt2():
    torch.manual_seed(0)
    shape = {"vocab_size": 60, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 40}
    return GPT2LMHeadModel(GPT2Config(**shape, bos_token_id=1, eos_token_id=1)).eval()


@pytest.mark.parametrize("do_share", [True, False])
def test_gpt2_with_peft(do_share, batch, tmp_path):
    given = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    config = LoraConfig(r=4, target_modules=["c_attn"], fan_in_fan_out=True, init_lora_weights=False)
    model = get_peft_model(gpt2(), config).eval()
    plan = loradrop.select(loradrop.measure(model, [given]), k=1, share=do_share)
    assert plan.lora_parameters == 3 * 4 * (32 + 96)
    loradrop.share(model, plan)
    assert loradrop.plan_of(model) == plan
    expected = model(**given).logits
    loradrop.save_pretrained(model, tmp_path, compact=True)
    loaded = loradrop.from_pretrained(gpt2(), tmp_path, as_peft=True).eval()
    assert torch.equal(loaded(**given).logits, expected) and loradrop.plan_of(loaded) == plan
    with pytest.raises(ValueError, match=r"h\.\d\.attn\.c_attn is a Conv1D, which only PEFT adapts: as_peft=True"):
        loradrop.from_pretrained(gpt2(), tmp_path)
    with pytest.raises(ValueError, match=r"'c_attn' is a Conv1D"):
        loradrop.add_lora(gpt2(), targets=["c_attn"])
