"""HiFi's scores of heads against plain loops, and that only the chosen heads change."""

from __future__ import annotations

import pytest
import torch
from conftest import FAMILIES, tiny_model
from helpers.methods import Batches, train

from loradrop.backbones import freeze_encoder
from loradrop.methods.hifi import HeadGraph, HeadLinear, HiFi

FITTING = [family for family in FAMILIES if family != "llama"]  # which has fewer key heads


def make(**changes):
    settings = {"heads": 2, "sample_ratio": 1.0, "energy": 0.9, "damping": 0.85}
    return HiFi("hifi", **(settings | changes))


def installed(family="roberta", **changes):
    method, model = make(**changes), freeze_encoder(tiny_model(family))
    method.install(model)
    return method, model


def test_richness_and_correlation_are_those_of_the_definition():
    torch.manual_seed(0)
    outputs = torch.randn(2, 5, 3 * 4, dtype=torch.float64)
    outputs[:, :, :4] = outputs[:, :, :1]  # the first head's output has rank one
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    graph = HeadGraph(3, 0.9)
    graph.add(outputs, mask)
    richness, correlation = [0.0] * 3, [[0.0] * 3 for _ in range(3)]
    for text, length in zip(outputs, (5, 3), strict=True):
        heads = [text[:length, 4 * h : 4 * h + 4] for h in range(3)]
        for h, head in enumerate(heads):
            eigenvalues = sorted(torch.linalg.eigvalsh(head.T @ head).tolist(), reverse=True)
            total, found = 0.0, 0
            while total < 0.9 * sum(eigenvalues):
                total += eigenvalues[found]
                found += 1
            richness[h] += found
            for k, other in enumerate(heads):
                a, b = (x.flatten() - x.mean() for x in (head, other))
                correlation[h][k] += abs(float((a @ b) / (a.norm() * b.norm())))
    assert graph.richness.tolist() == richness and richness[0] == 2
    torch.testing.assert_close(graph.correlation, torch.tensor(correlation, dtype=torch.float64))


def test_the_importance_is_pagerank_s_fixed_point():
    graph = HeadGraph(4, 0.9)
    graph.richness = torch.tensor([1.0, 2.0, 3.0, 2.0], dtype=torch.float64)
    graph.correlation = torch.tensor(
        [[9, 1, 0, 0], [1, 9, 2, 0], [0, 2, 9, 0], [0, 0, 0, 9]], dtype=torch.float64
    )
    rank = [0.25] * 4
    for _ in range(300):  # by power iteration
        moved = [0.0] * 4
        for j in range(4):
            sums = sum(float(graph.correlation[i, j]) for i in range(4) if i != j)
            for i in range(4):
                edge = float(graph.correlation[i, j]) if i != j else 0.0
                moved[i] += rank[j] * (edge / sums if sums else 0.25)
        starts = [1 / 8, 2 / 8, 3 / 8, 2 / 8]
        rank = [0.85 * m + 0.15 * s for m, s in zip(moved, starts, strict=True)]
    found = graph.importance(0.85)
    assert found.tolist() == pytest.approx(rank) and float(found.sum()) == pytest.approx(1)
    assert graph.most_important(2, 0.85) == sorted(sorted(range(4), key=lambda i: -rank[i])[:2])


@pytest.mark.parametrize("family", FITTING)
def test_only_the_chosen_heads_change_and_padding_does_not_matter(family, batch):
    method, model = installed(family)
    before = tiny_model(family)(**batch).logits
    torch.testing.assert_close(model(**batch).logits, before)
    method.prepare(model, Batches(batch))
    wider = {
        "input_ids": torch.nn.functional.pad(batch["input_ids"], (0, 4), value=1),
        "attention_mask": torch.nn.functional.pad(batch["attention_mask"], (0, 4)),
    }
    other, again = installed(family)
    other.prepare(again, Batches(wider))
    assert other.chosen == method.chosen and set(method.chosen) == {0, 1, 2}
    train(model, batch)
    modules = {n: m for n, m in model.named_modules() if isinstance(m, HeadLinear)}
    assert len(modules) == 9
    still = 0
    for site in method.changed:
        module = modules[site.name]
        for parameter in (module.delta, module.delta_bias):
            rows = parameter.reshape(4, -1)
            for head in range(4):
                chosen = head in method.chosen[site.layer]
                # a key's bias moves all scores of a query alike, which softmax takes out
                assert bool(rows[head].any()) <= chosen
            if parameter is module.delta:
                assert int((rows != 0).any(1).sum()) == 2
            still += parameter.numel() // 2
    assert method.result_fields()["inactive"] == still


def test_a_head_s_outputs_are_what_the_output_projection_takes(batch):
    """The sum of each head's part of the projection is the module's output."""
    method, model = installed()
    name = method.outputs[0].name
    assert name.endswith("layer.0.attention.output.dense")
    seen = {}
    module = model.get_submodule(name)
    module.register_forward_hook(lambda m, args, out: seen.update(x=args[0], out=out))
    attention = model.get_submodule("roberta.encoder.layer.0.attention.self")
    attention.register_forward_hook(lambda m, args, out: seen.update(heads=out[0]))
    model(**batch)
    assert torch.equal(seen["x"], seen["heads"]) and seen["x"].shape[-1] == 32


def test_it_goes_on_from_its_state(batch):
    method, model = installed()
    method.prepare(model, Batches(batch))
    again, fresh = installed()
    again.load_state_dict(fresh, method.state_dict())
    assert again.result_fields() == method.result_fields()
    for one in (model, fresh):
        one(**batch).loss.backward()
    for (name, a), (_, b) in zip(model.named_parameters(), fresh.named_parameters(), strict=True):
        assert a.grad is None or torch.equal(a.grad, b.grad), name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 0}, "heads must be at least 1"),
        ({"heads": 5}, "heads must not exceed the 4 of a layer"),
        ({"energy": 1.0}, "energy must lie in"),
        ({"damping": 1.0}, "damping must lie in"),
        ({"sample_ratio": 0.0}, "sample_ratio must lie in"),
    ],
)
def test_values_out_of_range_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        installed(**changes)


def test_models_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="key and value head for each query head"):
        installed("llama")
