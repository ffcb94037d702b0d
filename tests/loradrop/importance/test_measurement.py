"""The moment form against the explicit norm, token by token in a plain double loop."""

from __future__ import annotations

import pytest
import torch
from conftest import FAMILIES, tiny_model, train_b
from transformers import LlamaForCausalLM

from loradrop.importance.importance import Importance
from loradrop.importance.measurement import measure
from loradrop.lora.inject import add_lora, lora_sites


def adapted(family="roberta", rank=4, alpha=10):
    model = tiny_model(family)
    add_lora(model, rank=rank, alpha=alpha)
    train_b(model)
    return model


@torch.no_grad()
def explicit(model, batches, average):
    """g of every site from the d_out-dimensional outputs, token by token."""
    inputs, seen = {}, {}
    hooks = [
        # the first call of a forward pass is about tokens, a second one about DeBERTa's relative
        # positions
        module.register_forward_hook(
            lambda m, args, out, key=site: seen.update({key: seen.get(key, args[0])})
        )
        for site, module in lora_sites(model).items()
    ]
    for one in batches:
        seen.clear()
        model(**one)
        for site, x in seen.items():
            inputs.setdefault(site, []).append(x)
    for hook in hooks:
        hook.remove()
    result = {}
    for site, module in lora_sites(model).items():
        examples = []
        for one, x in zip(batches, inputs[site], strict=True):
            for row in range(len(x)):
                norms = [
                    float(
                        (
                            (module.alpha / module.rank)
                            * (module.lora_B @ (module.lora_A @ x[row, token]))
                        )
                        .pow(2)
                        .sum()
                    )
                    for token in range(x.shape[1])
                    if one["attention_mask"][row, token]
                ]
                examples.append(norms)
        tokens = [norm for norms in examples for norm in norms]
        per_example = [sum(norms) / len(norms) for norms in examples]
        chosen = tokens if average == "tokens" else per_example
        result[site.module_type, site.layer] = sum(chosen) / len(chosen)
    return result


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("average", ["tokens", "examples"])
def test_moments_equal_the_explicit_norm(family, average, batch):
    model = adapted(family)
    second = {key: value[:2, :8] if value.dim() == 2 else value[:2] for key, value in batch.items()}
    importance = measure(model, [batch, second], average)
    expected = explicit(model, [batch, second], average)
    got = {
        (kind, layer): g
        for kind, layers in importance.values.items()
        for layer, g in layers.items()
    }
    assert got == pytest.approx(expected, rel=1e-4)
    assert importance.tokens == 22 + 8 + 7


def test_importances_sum_to_one_and_the_two_averages_differ(batch):
    model = adapted()
    tokens, examples = measure(model, [batch]), measure(model, [batch], "examples")
    for importance in (tokens, examples):
        for layers in importance.normalized.values():
            assert sum(layers.values()) == pytest.approx(1)
    assert tokens.values["query"][0] != pytest.approx(examples.values["query"][0], rel=1e-6)


def test_padding_changes_nothing(batch):
    model = adapted()
    wider = {
        key: torch.nn.functional.pad(batch[key], (0, 5), value=v)
        for key, v in (("input_ids", 1), ("attention_mask", 0))
    }
    assert measure(model, [wider]).values["value"] == pytest.approx(
        measure(model, [batch]).values["value"], rel=1e-5
    )


def test_without_a_mask_every_token_counts(batch):
    model = adapted()
    short, long = {"input_ids": batch["input_ids"][:1, :3]}, {"input_ids": batch["input_ids"][:2]}
    masked = [{**one, "attention_mask": torch.ones_like(one["input_ids"])} for one in (short, long)]
    for average in ("tokens", "examples"):
        left, right = measure(model, [short, long], average), measure(model, masked, average)
        assert left.values["query"] == pytest.approx(right.values["query"], rel=1e-5)
    assert left.tokens == 3 + 18


def test_squared_norms_on_request_have_the_mean_as_their_mean(batch):
    importance = measure(adapted(), [batch, batch], squared_norms=True)
    for kind, layers in importance.squared_norms.items():
        for layer, norms in layers.items():
            assert norms.shape == (44,)
            assert float(norms.mean()) == pytest.approx(importance.values[kind][layer], rel=1e-4)
    assert not measure(adapted(), [batch]).squared_norms


def test_training_flags_and_gradients_are_left_alone(batch):
    model = adapted().train()
    model.classifier.eval()
    flags = [module.training for module in model.modules()]
    measure(model, [batch])
    assert (
        [module.training for module in model.modules()] == flags and any(flags) and not all(flags)
    )
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_dropout_is_off_while_measuring(batch):
    model = adapted().train()
    assert measure(model, [batch]).values == measure(model, [batch]).values


def test_autocast_changes_little(batch):
    model = adapted()
    exact = measure(model, [batch]).normalized["query"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = measure(model, [batch]).normalized["query"]
    assert rounded == pytest.approx(exact, rel=0.05)


def test_saved_and_loaded(tmp_path, batch):
    importance = measure(adapted("llama"), [batch])
    importance.save(tmp_path / "importance.json")
    loaded = Importance.load(tmp_path / "importance.json")
    assert (loaded.values, loaded.parameters, loaded.tokens) == (
        importance.values,
        importance.parameters,
        importance.tokens,
    )
    assert loaded.parameters["q_proj"][0] == 4 * (32 + 32) and loaded.parameters["v_proj"][
        0
    ] == 4 * (32 + 16)


def test_errors(batch):
    with pytest.raises(ValueError, match="holds no LoRA"):
        measure(tiny_model(), [batch])
    with pytest.raises(
        ValueError,
        match=r"nothing was measured at roberta\.encoder\.layer\.0\.attention\.self\.query:",
    ):
        measure(adapted(), [])
    with pytest.raises(
        TypeError, match="input_ids of a batch must be a tensor, got list: put rows together"
    ):
        measure(adapted(), [{"input_ids": [3, 4, 5]}])
    with pytest.raises(ValueError, match=r"input_ids must be \(batch, tokens\), got \(9,\)"):
        measure(adapted(), [{"input_ids": batch["input_ids"][0]}])
    with pytest.raises(
        ValueError, match="average_over must be one of tokens, examples, target_tokens, got 'mean'"
    ):
        measure(adapted(), [batch], "mean")
    untrained = tiny_model()
    add_lora(untrained)
    with pytest.raises(ValueError, match="all importances are zero"):
        _ = measure(untrained, [batch]).normalized


def test_relative_positions_are_no_tokens_where_a_text_is_as_long():
    model = adapted("deberta")
    # two times the 16 position buckets
    ids = torch.randint(3, 60, (1, 32), generator=torch.Generator().manual_seed(0))
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    importance = measure(model, [given])
    assert importance.tokens == 32
    for (kind, layer), g in explicit(model, [given], "tokens").items():
        assert importance.values[kind][layer] == pytest.approx(g, rel=1e-4)


def test_of_generation_the_target_tokens_alone_may_count(batch):
    torch.manual_seed(0)
    model = LlamaForCausalLM(FAMILIES["llama"][1]).eval()
    add_lora(model, rank=4)
    train_b(model)
    mask = batch["attention_mask"]
    targets = (torch.arange(9) >= 3) & (mask > 0)  # the first three tokens are a prompt
    given = {"input_ids": batch["input_ids"], "attention_mask": mask}
    given["labels"] = torch.where(targets, batch["input_ids"], -100)
    updates = {}
    for site, module in lora_sites(model).items():

        def keep_first(m, args, h, site=site):  # that of all rows
            updates.setdefault(site, h - m.base(args[0]))

        module.register_forward_hook(keep_first)
    importance = measure(model, [given], "target_tokens")
    # padding is no target, whatever its label says
    labelled = {**given, "labels": given["labels"].masked_fill(mask == 0, 5)}
    assert measure(model, [labelled], "target_tokens").to_dict() == importance.to_dict()
    assert importance.tokens == int(targets.sum()) < measure(model, [given]).tokens
    for site, update in updates.items():
        expected = float((update[targets] ** 2).sum(-1).mean())
        assert importance.values[site.module_type][site.layer] == pytest.approx(expected, rel=1e-3)
    with pytest.raises(ValueError, match="target_tokens needs labels of"):
        measure(adapted(), [batch], "target_tokens")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_lora_in_another_precision(dtype, batch):
    model = adapted()
    expected = measure(model, [batch], squared_norms=True)
    importance = measure(model.to(dtype), [batch], squared_norms=True)
    for kind, layers in expected.values.items():
        assert importance.values[kind] == pytest.approx(layers, rel=0.02)
        norms = importance.squared_norms[kind][0]
        assert norms.dtype == torch.float32 and float(norms.mean()) == pytest.approx(
            layers[0], rel=0.02
        )
