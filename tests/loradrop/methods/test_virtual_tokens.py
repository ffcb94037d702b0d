"""Prompt tuning and prefix tuning against PEFT, plain attention and the words themselves; padding
changes nothing.
"""

from __future__ import annotations

import functools
import math

import pytest
import torch
from conftest import FAMILIES, tiny_model
from helpers.other_methods import FITTING, VIRTUAL, installed, make

from loradrop.heads import freeze_encoder

virtual = pytest.mark.parametrize(
    ("name", "family"), [pair for pair in FITTING if pair[0] in VIRTUAL]
)


def padded(family, batch, side="right"):
    """The batch with the family's padding, and each of its rows alone without padding."""
    ids = batch["input_ids"].masked_fill(
        batch["attention_mask"] == 0, FAMILIES[family][1].pad_token_id
    )
    rows = [
        row[: int(length)][None]
        for row, length in zip(ids, batch["attention_mask"].sum(1), strict=True)
    ]
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
# PEFT's own prefix tuning
@pytest.mark.filterwarnings("ignore:`past_key_values` is deprecated:FutureWarning")
def test_hidden_states_are_pefts_at_the_same_weights(name, family, batch):
    """PEFT's model of the bare encoder, which pools nothing."""
    from peft import PrefixTuningConfig, PromptTuningConfig, get_peft_model

    cls, n = (PromptTuningConfig, 6) if name == "prompt_tuning" else (PrefixTuningConfig, 0)
    bare = tiny_model(family)
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
    """The embeddings of five words as the prompt, against the words themselves in front of the
    text.
    """
    _, model = installed("prompt_tuning", "bert")
    words = torch.tensor([7, 8, 9, 10, 11, 12])
    with torch.no_grad():
        model.bert.prompt_embedding.embedding.weight.copy_(
            model.bert.embeddings.word_embeddings.weight[words]
        )
    inputs, _ = padded("bert", batch)
    types = (torch.arange(9) > 4).long().expand(4, -1)
    plain = tiny_model("bert").bert
    longer = {
        "input_ids": torch.cat([words.expand(4, -1), inputs["input_ids"]], dim=1),
        "attention_mask": torch.cat(
            [torch.ones(4, 6, dtype=torch.long), inputs["attention_mask"]], dim=1
        ),
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
    """One layer's attention by hand, with the prefix's keys and values in front; in Llama shared by
    groups of heads.
    """
    _, model = installed("prefix_tuning", family)
    encoder, seen = getattr(model, model.base_model_prefix), {}
    name = "encoder.layer.1.attention.self" if family == "roberta" else "layers.1.self_attn"
    layer = encoder.get_submodule(name)
    layer.register_forward_hook(
        lambda _, args, kwargs, output: seen.update(kwargs, args=args, out=output[0]),
        with_kwargs=True,
    )
    ids = torch.arange(3, 10)[None]
    encoder(input_ids=ids)
    x = seen["args"][0][0] if seen["args"] else seen["hidden_states"][0]  # (7, 32)
    heads, size = 4, 8
    groups = 4 if family == "roberta" else 2  # heads of keys and values
    parts = ("query", "key", "value") if family == "roberta" else ("q_proj", "k_proj", "v_proj")
    q, k, v = (layer.get_submodule(part)(x).view(7, -1, size).transpose(0, 1) for part in parts)
    if family == "llama":
        angles = torch.outer(
            torch.arange(6, 13).float(), 10_000 ** -(torch.arange(0, size, 2) / size)
        ).repeat(1, 2)

        def turn(t):
            return (
                t * angles.cos()
                + torch.cat([-t[..., size // 2 :], t[..., : size // 2]], dim=-1) * angles.sin()
            )

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


def test_the_prefix_s_dropout_differs_by_text_and_is_off_in_evaluation(batch):
    """P-tuning v2 drops entries of the prefix of each text. The model's own dropout is 0 here."""
    row = {key: batch[key][:1].expand(4, -1) for key in ("input_ids", "attention_mask")}
    _, plain = installed("prefix_tuning", "roberta")
    _, dropping = installed("prefix_tuning", "roberta", dropout=0.5)
    for module in dropping.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    torch.testing.assert_close(dropping.eval()(**row).logits, plain.eval()(**row).logits)
    torch.manual_seed(0)
    logits = dropping.train()(**row).logits
    assert len({tuple(values.tolist()) for values in logits}) == 4
    dropping.roberta.prefix_encoder.embedding.weight.data.zero_()  # nothing left to drop
    logits = dropping(**row).logits
    torch.testing.assert_close(logits, logits[:1].expand(4, -1))


PREFIXED = [family for name, family in FITTING if name == "prefix_tuning"]


@pytest.mark.parametrize("family", PREFIXED)
@pytest.mark.parametrize("layer", range(3))
def test_each_layers_prefix_moves_the_logits(family, layer, batch):
    """Through the whole model with its head, where an argument of another name would be lost:
    values and gradients.
    """
    _, model = installed("prefix_tuning", family)
    weight = getattr(model, model.base_model_prefix).prefix_encoder.embedding.weight
    inputs, _ = padded(family, batch)
    usual = model(**inputs).logits
    usual[:, 0].sum().backward()
    gradients = weight.grad.view(6, 3, -1)[:, layer]
    assert gradients.abs().amax(dim=1).min() > 1e-6  # every virtual token's
    with torch.no_grad():
        weight.view(6, 3, -1)[:, layer] *= -2
    assert (
        (model(**inputs).logits - usual).abs().amax(dim=1) > 1e-4
    ).all()  # in every row of the batch


@pytest.mark.parametrize("family", PREFIXED)
def test_a_prefix_that_is_ignored_is_an_error(family, batch):
    """As when Transformers renames the argument and takes the old name without a word, or one layer
    reads no cache.
    """
    _, model = installed("prefix_tuning", family)
    encoder = getattr(model, model.base_model_prefix)
    lost = ("cache", "past_key_values")
    layer = encoder.get_submodule(
        "layers.1.self_attn" if family == "llama" else "encoder.layer.1.attention.self"
    )

    def dropping(forward):
        @functools.wraps(forward)  # with its signature
        def without_cache(*args, **kwargs):
            return forward(
                *args, **{name: value for name, value in kwargs.items() if name not in lost}
            )

        return without_cache

    name = type(encoder).__name__
    for module, layers in ((layer, "1"), (encoder, "0, 1, 2")):
        module.forward = dropping(module.forward)
        message = rf"prefix_tuning: {name} left the prefix out in layers \[{layers}\]"
        if (family, layers) == (
            "llama",
            "1",
        ):  # its causal mask, made for all layers, no longer fits this one
            message = "size of tensor a .* must match the size of tensor b"
        with pytest.raises(RuntimeError, match=message):
            model(input_ids=batch["input_ids"][:1])  # with a mask it never fits


@pytest.mark.parametrize("family", PREFIXED)
def test_a_prefix_and_activation_checkpointing_exclude_each_other(family, batch):
    """Before the method is installed and after: the layers of Transformers then take no cache."""
    model = freeze_encoder(tiny_model(family))
    model.activation_checkpointing_enable({"use_reentrant": False})
    with pytest.raises(ValueError, match=r"set backbone\.gradient_checkpointing=false"):
        make("prefix_tuning").install(model)
    _, model = installed("prefix_tuning", family)
    inputs, _ = padded(family, batch)
    usual = model(**inputs).logits
    model.activation_checkpointing_enable({"use_reentrant": False})
    assert torch.equal(model(**inputs).logits, usual)
    model.train()
    with pytest.raises(ValueError, match=r"set backbone\.gradient_checkpointing=false"):
        model(**inputs)


@pytest.mark.parametrize("family", ["roberta", "llama"])
def test_a_prefix_may_come_from_a_network(family, batch):
    _, model = installed("prefix_tuning", family, projection=True)
    encoder = getattr(model, model.base_model_prefix)
    width = 32 if family == "roberta" else 16  # of keys
    sizes = [p.numel() for p in encoder.prefix_encoder.parameters()]
    assert sorted(sizes) == sorted([6 * width, width * 32, 32, 32 * 2 * 3 * width, 2 * 3 * width])
    assert torch.isfinite(model(**batch).loss)


def test_virtual_tokens_count_among_the_positions_of_the_backbone():
    from loradrop.backbones import Backbone

    class Task:
        name, generates = "any", False

    backbone = Backbone(
        name="tiny_roberta", hub_id="loradrop/tiny_roberta", revision=None, dtype="float32"
    )
    longest = backbone.config(None).max_position_embeddings - 2
    extra = make("prompt_tuning").extra_tokens
    backbone.check(Task, longest - extra, None, extra)
    with pytest.raises(
        ValueError,
        match=f"is {longest} and the method adds 6 tokens, but .* takes at most {longest} tokens",
    ):
        backbone.check(Task, longest, None, extra)
