"""Families x (own, PEFT) x (measure, share, save, load, merge), against hooks in float64 and PEFT;
and the docs' table.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as t
from conftest import SHAPE
from peft import LoraConfig, PeftModel, get_peft_model

import loradrop

PAGE = Path(loradrop.__file__).parent / "docs" / "families.md"
IDS = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
TEXT = SHAPE | {"max_position_embeddings": 40}
GROUPED = SHAPE | IDS | {"num_key_value_heads": 2}  # values are narrower than queries
VISION = {
    "hidden_size": 32,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
}
VISION |= {"image_size": 8, "patch_size": 4}
HALVES = {
    "encoder_layers": 3,
    "decoder_layers": 3,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
}
BOTH = {
    "vocab_size": 60,
    "d_model": 32,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    **HALVES,
    **IDS,
}
GPT2 = {"vocab_size": 60, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 40}
SWIN = {
    "image_size": 32,
    "patch_size": 2,
    "embed_dim": 8,
    "depths": [1, 3, 3],
    "num_heads": [1, 2, 4],
    "window_size": 4,
}
AUDIO = {
    "conv_dim": [8, 8],
    "conv_stride": [2, 2],
    "conv_kernel": [3, 2],
    "num_feat_extract_layers": 2,
}
AUDIO |= {"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2}
RELATIVE = {
    "relative_attention": True,
    "pos_att_type": ["p2c", "c2p"],
    "share_att_key": True,
    "position_buckets": 16,
}
RELATIVE |= {"position_biased_input": False, "norm_rel_ebd": "layer_norm", "type_vocab_size": 0}


@dataclass(frozen=True)
class Family:
    """A row of the table, and the small model that proves it."""

    title: str
    config: Any
    targets: tuple[str, ...]  # of the default
    given: str = "text"
    auto: Any = t.AutoModel
    own: bool = True  # whether add_lora can adapt it, or PEFT alone
    notes: str = ""
    wide: bool = True  # under the slow marker


QV, QUERY_VALUE = ("q_proj", "v_proj"), ("query", "value")
FUSED = "one projection for query, key and value: one module type, with a warning"
TWO = "encoder, decoder and cross-attention are module types of their own"
FAMILIES = [
    Family("BERT, RoBERTa, ELECTRA", t.BertConfig(**TEXT), QUERY_VALUE, wide=False),
    Family("ELECTRA", t.ElectraConfig(**TEXT, embedding_size=16), QUERY_VALUE),
    Family(
        "DeBERTa v2 and v3", t.DebertaV2Config(**TEXT, **RELATIVE), ("query_proj", "value_proj")
    ),
    Family(
        "DistilBERT",
        t.DistilBertConfig(dim=32, n_heads=4, n_layers=3, hidden_dim=48, vocab_size=60),
        ("q_lin", "v_lin"),
    ),
    Family("MPNet", t.MPNetConfig(**TEXT), ("q", "v")),
    Family(
        "ModernBERT",
        t.ModernBertConfig(**SHAPE, **IDS, cls_token_id=1, sep_token_id=2),
        ("Wqkv",),
        notes=FUSED,
        wide=False,
    ),
    Family("Llama, Qwen2", t.LlamaConfig(**GROUPED), QV, auto=t.AutoModelForCausalLM, wide=False),
    Family("Qwen2", t.Qwen2Config(**GROUPED), QV, auto=t.AutoModelForCausalLM),
    Family(
        "Phi-3",
        t.Phi3Config(**SHAPE, **IDS),
        ("qkv_proj",),
        auto=t.AutoModelForCausalLM,
        notes=FUSED,
    ),
    Family("GPT-NeoX", t.GPTNeoXConfig(**SHAPE, **IDS), ("query_key_value",), notes=FUSED),
    Family(
        "GPT-2",
        t.GPT2Config(**GPT2, **IDS),
        ("c_attn",),
        own=False,
        notes="its Conv1D is no linear module: PEFT's LoRA, `target_modules=['c_attn']`",
    ),
    Family(
        "Mixtral",
        t.MixtralConfig(**GROUPED, num_local_experts=2, experts_implementation="eager"),
        QV,
        notes=(
            "attention is measured; experts' parameters that PEFT adapts keep their LoRA, with a"
            " warning"
        ),
    ),
    Family(
        "T5",
        t.T5Config(vocab_size=60, d_model=32, d_kv=8, d_ff=48, num_layers=3, num_heads=4),
        ("q", "v"),
        "pair",
        notes=TWO,
    ),
    Family(
        "BART", t.BartConfig(**BOTH, max_position_embeddings=40), QV, "pair", notes=TWO, wide=False
    ),
    Family("ViT, CLIP, LLaVA", t.ViTConfig(**VISION), QV, "image"),
    Family(
        "Swin, SegFormer, PVT",
        t.SwinConfig(**SWIN),
        QV,
        "image",
        notes="a module type for each width (`q_proj[16x16]`), layers numbered through all stages",
        wide=False,
    ),
    Family(
        "wav2vec 2.0, HuBERT, Whisper",
        t.Wav2Vec2Config(
            **{k: v for k, v in SHAPE.items() if k != "vocab_size"},
            **AUDIO,
            feat_extract_norm="layer",
        ),
        QV,
        "sound",
        notes="masks of samples are mapped to frames",
    ),
]
# rows of models that stand beside others in one row of the table
TABLE = [family for family in FAMILIES if family.title not in ("ELECTRA", "Qwen2")]
LIBRARIES = ("own", "PEFT")
CASES = [
    pytest.param(
        family,
        library,
        id=f"{family.title}-{library}",
        marks=[pytest.mark.slow] if family.wide else [],
    )
    for family in FAMILIES
    for library in LIBRARIES
    if family.own or library == "PEFT"
]
LENGTHS = torch.tensor([7, 4, 2])


def base(family):
    torch.manual_seed(0)
    return family.auto.from_config(family.config).eval()


def batch(kind):
    """What the model takes; padding behind the texts."""
    generator = torch.Generator().manual_seed(0)
    mask = (torch.arange(7) < LENGTHS[:, None]).long()
    ids = torch.randint(3, 60, (3, 7), generator=generator) * mask + (1 - mask)
    if kind == "image":
        return None
    if kind == "sound":
        return {"input_values": torch.randn(3, 40, generator=generator)}
    given = {"input_ids": ids, "attention_mask": mask}
    if kind == "pair":
        given |= {"decoder_input_ids": ids.flip(0), "decoder_attention_mask": mask.flip(0)}
    return given


def given_to(family):
    size = getattr(family.config, "image_size", None)
    generator = torch.Generator().manual_seed(1)
    return batch(family.given) or {
        "pixel_values": torch.randn(3, 3, size, size, generator=generator)
    }


def adapted(family, library):
    """The model with the same LoRA of either library: names of modules without PEFT's prefix, and
    A, B by name.
    """
    model = base(family)
    if library == "own":
        loradrop.add_lora(model, rank=4, alpha=8)
    else:
        suffixes = list(family.targets)
        model = get_peft_model(
            model,
            LoraConfig(r=4, lora_alpha=8, target_modules=suffixes, fan_in_fan_out=not family.own),
        )
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters(), key=lambda pair: plain(pair[0])):
            if "lora_" in name:
                parameter.normal_(0, 0.2, generator=generator)
    return model.eval()


def plain(name):
    return (
        name.removeprefix("base_model.model.")
        .replace(".default", "")
        .replace(".weight", "")
        .replace(".base", "")
    )


def matrices(model):
    """A and B by the name of their module, read from the state dict."""
    state = {
        plain(name): value.double() for name, value in model.state_dict().items() if "lora_" in name
    }
    names = sorted({name.rpartition(".")[0] for name in state})
    return {name: (state[f"{name}.lora_A"], state[f"{name}.lora_B"]) for name in names}


def mask_of(name, given):
    """Padding of the text that a module reads; None where there is none."""
    if "decoder_attention_mask" not in given:
        return given.get("attention_mask")
    across = name.endswith(("EncDecAttention.v", "encoder_attn.v_proj"))
    return given[
        "attention_mask" if name.startswith("encoder.") or across else "decoder_attention_mask"
    ]


@torch.no_grad()
def norms(family, pairs, given):
    """Mean || 2 B A x ||^2 by module: an ordinary model in float64 whose modules' outputs are
    changed by hooks.
    """
    model, found = base(family).double(), {}
    given = {k: v.double() if v.is_floating_point() else v for k, v in given.items()}

    def hook(name):
        A, B = pairs[name]

        def add(module, args, output):
            mask = mask_of(name, given)
            update = 2 * args[0] @ A.T @ B.T  # alpha / r = 8 / 4
            if args[0].shape[0] != 1:  # not DeBERTa's relative positions
                squares = update.pow(2).sum(-1).flatten()
                counted = torch.ones_like(squares) if mask is None else mask.flatten().double()
                found[name] = float((squares * counted).sum() / counted.sum())
            return output + update

        return add

    for name in pairs:
        model.get_submodule(name).register_forward_hook(hook(name))
    output = model(**given)[0]
    return found, output


def by_name(model, importance):
    """Importances by plain module name, through the sites of the model."""
    from loradrop.lora.peft import adapted_sites

    return {
        plain(site.name): importance.values[site.module_type][site.layer]
        for site in adapted_sites(model)
    }


def close(output, expected):
    torch.testing.assert_close(output.double(), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*query, key and value are one projection:UserWarning")
@pytest.mark.parametrize(("family", "library"), CASES)
def test_every_step(family, library, tmp_path):
    given, model = given_to(family), adapted(family, library)
    pairs = matrices(model)
    ends = {name.rpartition(".")[2] for name in pairs}
    assert ends == set(family.targets)
    # measure
    expected, output = norms(family, pairs, given)
    importance = loradrop.measure(model, [given])
    assert by_name(model, importance) == pytest.approx(expected, rel=2e-4)
    with torch.no_grad():
        close(model(**given)[0], output)
    # share: the model computes with the first layer's A and B wherever the plan shares
    plan = loradrop.select(importance, num_layers=1)
    loradrop.share(model, plan)
    shared = matrices(model)
    users = {}
    for name, (A, B) in shared.items():
        first = next(n for n, (a, b) in pairs.items() if torch.equal(a, A) and torch.equal(b, B))
        users.setdefault(first, []).append(name)
    numbers = sum(pairs[first][0].numel() + pairs[first][1].numel() for first in users)
    assert (
        numbers
        == plan.parameters
        == sum(p.numel() for n, p in model.named_parameters() if "lora_" in n)
    )
    assert numbers < plan.lora_parameters
    assert loradrop.plan_of(model).parameters == plan.parameters
    _, output = norms(family, shared, given)
    with torch.no_grad():
        close(model(**given)[0], output)
        # save and load: PEFT itself, and ours in both forms
        loradrop.save_pretrained(model, tmp_path / "peft")
        loradrop.save_pretrained(model, tmp_path / "small", compact=True)
        close(PeftModel.from_pretrained(base(family), tmp_path / "peft").eval()(**given)[0], output)
        for folder in ("peft", "small"):
            for as_peft in (True, False) if family.own else (True,):
                loaded = loradrop.from_pretrained(
                    base(family), tmp_path / folder, as_peft=as_peft
                ).eval()
                close(loaded(**given)[0], output)
                assert loradrop.plan_of(loaded) == loradrop.plan_of(model)
                assert all(
                    torch.equal(x, y)
                    for n, p in matrices(loaded).items()
                    for x, y in zip(p, shared[n], strict=True)
                )
        # merge: an ordinary model
        merged = loradrop.merge(model)
        close(merged(**given)[0], output)
    assert merged.state_dict().keys() == base(family).state_dict().keys()
    for name, (A, B) in shared.items():
        weight = base(family).get_submodule(name).weight.double()
        update = 2 * B @ A if family.own else (2 * B @ A).T
        torch.testing.assert_close(
            merged.get_submodule(name).weight.double(), weight + update, rtol=1e-5, atol=1e-6
        )


def table():
    """The table of the docs, from what the tests prove."""
    rows = [
        "| family | own LoRA (`add_lora`) | PEFT | default targets | notes |",
        "| --- | --- | --- | --- | --- |",
    ]
    for family in TABLE:
        own = "yes" if family.own else "no"
        targets = ", ".join(f"`{target}`" for target in family.targets)
        rows.append(f"| {family.title} | {own} | yes | {targets} | {family.notes} |")
    return "\n".join(rows)


def test_the_docs_table_is_the_tests():
    assert table() in PAGE.read_text(encoding="utf-8"), f"the page should hold:\n{table()}"
