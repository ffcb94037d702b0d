"""Adapters that are not what from_pretrained would write: loaded exactly, or refused with the model
as it was.
"""

from __future__ import annotations

import json

import pytest
import torch
from conftest import FAMILIES, SHAPE, tiny_model
from helpers.adapter_files import (
    QUERY,
    assert_refused,
    own_model,
    peft_model,
    read_files,
    write_files,
)
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    RobertaConfig,
    RobertaForSequenceClassification,
)

import loradrop

pytestmark = [  # PEFT, of what the files lack and, wrongly, of B's biases
    pytest.mark.filterwarnings("ignore:Found missing adapter keys:UserWarning"),
    pytest.mark.filterwarnings("ignore:Adapter 'default'.* LoRA tensor.* have invalid shape"),
]


def labels(count):
    torch.manual_seed(0)
    return RobertaForSequenceClassification(
        RobertaConfig(**SHAPE, max_position_embeddings=40, num_labels=count)
    ).eval()


@pytest.mark.parametrize("as_peft", [False, True])
def test_a_head_that_does_not_fit(as_peft, batch, tmp_path):
    loradrop.save_pretrained(own_model(), tmp_path)
    base = labels(3)
    call = lambda: loradrop.from_pretrained(base, tmp_path, as_peft=as_peft)  # noqa: E731
    for _ in range(2):  # the second attempt says the same
        assert_refused(base, call, ValueError, r"classifier\.out_proj\.(weight|bias)")
    fitting = tiny_model()
    assert loradrop.plan_of(
        loradrop.from_pretrained(fitting, tmp_path, as_peft=as_peft)
    ) == loradrop.plan_of(own_model())


@pytest.mark.parametrize("as_peft", [False, True])
@pytest.mark.parametrize("saved", [{"modules_to_save": ["embed_tokens"]}, {}])
def test_a_vocabulary_that_was_not_resized(saved, as_peft, tmp_path):
    def llama():
        torch.manual_seed(0)
        return LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=False)).eval()

    larger = llama()
    larger.resize_token_embeddings(64, mean_resizing=False)
    model = peft_model(larger, target_modules=["q_proj", "v_proj"], **saved)
    model.save_pretrained(tmp_path, save_embedding_layers=not saved)
    base = llama()
    match = (
        r"(embed_tokens|lm_head)\.weight of shape \(64, 32\), its own is \(60, 32\)"
        r" .*resize_token_embeddings first"
    )
    assert_refused(
        base, lambda: loradrop.from_pretrained(base, tmp_path, as_peft=as_peft), ValueError, match
    )
    base.resize_token_embeddings(64, mean_resizing=False)
    ids = torch.randint(0, 64, (2, 5))
    loaded = loradrop.from_pretrained(base, tmp_path, as_peft=as_peft).eval()
    torch.testing.assert_close(loaded(ids).logits, model(ids).logits)


ONLY_PEFT = {
    "lora_only": (
        {"bias": "lora_only"},
        r"trained biases of the base model \(bias='lora_only'\); as_peft=True",
    ),
    "all_biases": ({"bias": "all"}, r"bias='all'\); as_peft=True loads it"),
    "dora": ({"use_dora": True}, r"plain LoRA is needed, not DoRA; as_peft=True loads it"),
    "lora_bias": ({"lora_bias": True}, r"not lora_bias=True; as_peft=True loads it"),
    "embedding": (
        {"target_modules": ["query", "word_embeddings"]},
        r"more than A's and B's of linear modules: .*word_embeddings.*; as_peft=True loads it",
    ),
    "tokens": (
        {"trainable_token_indices": {"word_embeddings": [1, 2]}},
        r"trainable_token_indices=.*as_peft=True",
    ),
}


@pytest.mark.parametrize("case", ONLY_PEFT)
def test_what_only_peft_holds_is_refused_and_loaded_as_peft(case, batch, tmp_path):
    settings, match = ONLY_PEFT[case]
    model = peft_model(**settings)
    expected = model(**batch).logits
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    base = tiny_model()
    assert_refused(base, lambda: loradrop.from_pretrained(base, tmp_path), ValueError, match)
    loaded = loradrop.from_pretrained(base, tmp_path, as_peft=True).eval()
    torch.testing.assert_close(loaded(**batch).logits, expected)


def test_conv1d_is_refused_and_loaded_as_peft(tmp_path):
    def gpt2():
        torch.manual_seed(0)
        return GPT2LMHeadModel(
            GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=60, n_positions=20)
        ).eval()

    model = peft_model(gpt2(), target_modules=["c_attn"], fan_in_fan_out=True)
    ids = torch.arange(8)[None]
    expected = model(ids).logits
    loradrop.save_pretrained(model, tmp_path)
    base = gpt2()
    match = r"c_attn is a Conv1D, which only PEFT adapts: as_peft=True"
    assert_refused(base, lambda: loradrop.from_pretrained(base, tmp_path), ValueError, match)
    torch.testing.assert_close(
        loradrop.from_pretrained(base, tmp_path, as_peft=True)(ids).logits, expected
    )


def test_pissa_has_changed_its_base(batch, tmp_path):
    peft_model(init_lora_weights="pissa").save_pretrained(tmp_path)
    base = tiny_model()
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(
        json.dumps(config | {"init_lora_weights": "pissa"})
    )
    match = "init_lora_weights='pissa' has changed the base weights; as_peft=True loads it"
    assert_refused(base, lambda: loradrop.from_pretrained(base, tmp_path), ValueError, match)


@pytest.mark.parametrize("initial", ["pissa", "olora"])
def test_an_initialisation_that_changes_the_base_is_taken_back(initial, batch, tmp_path):
    loradrop.save_pretrained(own_model(share=False), tmp_path)
    config, state, _ = read_files(tmp_path)
    state.pop(f"{QUERY}.lora_A.weight")
    state.pop(f"{QUERY}.lora_B.weight")
    write_files(tmp_path, config | {"init_lora_weights": initial}, state)
    (tmp_path / "plan.json").unlink()
    base = tiny_model()
    call = lambda: loradrop.from_pretrained(base, tmp_path, as_peft=True)  # noqa: E731
    assert_refused(
        base, call, ValueError, r"files have no .*query\.lora_A\.weight, which its config promises"
    )


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "roberta"])
@pytest.mark.parametrize("as_peft", [False, True])
def test_the_wrong_base(family, as_peft, tmp_path):
    loradrop.save_pretrained(own_model(), tmp_path)
    base = tiny_model(family)
    assert_refused(
        base,
        lambda: loradrop.from_pretrained(base, tmp_path, as_peft=as_peft),
        ValueError,
        "does not fit the model",
    )
