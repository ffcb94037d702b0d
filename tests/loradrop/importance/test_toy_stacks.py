"""Property test: generated models of several stacks, whose masks are known, and which do not look like a library's."""

from __future__ import annotations

import random

import pytest
import torch
from conftest import train_b
from test_stacks import agree, explicit
from torch import nn
from torch.nn import functional as F

import loradrop


class Attention(nn.Module):
    """Of x to y, written in one of several ways."""

    def __init__(self, way):
        super().__init__()
        self.way = way
        self.q, self.k, self.v = (nn.Linear(8, 8) for _ in range(3))

    def forward(self, x, y, mask=None):
        q, k, v = self.q(x), self.k(y), self.v(y)
        bias = None if mask is None else torch.where(mask[:, None, :] > 0, 0.0, -1e9).to(x)
        if self.way == "sdpa":
            bias = None if bias is None else bias[:, None]
            return F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None], bias)[:, 0]
        scores = torch.einsum("bqd,bkd->bqk", q, k) if self.way == "einsum" else q @ k.transpose(1, 2)
        probabilities = (scores if bias is None else scores + bias).softmax(-1)
        if self.way == "einsum":
            return torch.einsum("bqk,bkd->bqd", probabilities, v)
        return torch.bmm(probabilities, v)


class Layer(nn.Module):
    def __init__(self, way, cross):
        super().__init__()
        self.attention, self.cross = Attention(way), Attention(way) if cross else None
        self.up, self.norm = nn.Linear(8, 8), nn.LayerNorm(8)

    def forward(self, x, mask, other=None, other_mask=None):
        x = x + self.attention(x, x, mask)
        if self.cross is not None:
            x = x + self.cross(x, other, other_mask)
        flat = self.norm(x).flatten(0, 1)  # rows and positions made one
        return x + torch.tanh(self.up(flat)).view_as(x)


class Toy(nn.Module):
    """A text (ids) and another sequence (other, without a mask), which attend to each other in one of four ways."""

    def __init__(self, way, kind):
        super().__init__()
        self.kind = kind
        self.words, self.reader = nn.Embedding(30, 8), nn.Linear(3, 8)
        self.positions = nn.Parameter(torch.randn(6, 8))
        self.one = nn.ModuleList(Layer(way, kind in ("text_sees", "both")) for _ in range(2))
        self.two = nn.ModuleList(Layer(way, kind in ("other_sees", "both")) for _ in range(2))

    def forward(self, input_ids, other, attention_mask=None):
        x, y = self.words(input_ids), self.reader(other)
        x = x + self.positions[: x.shape[1]]
        for one, two in zip(self.one, self.two, strict=True):
            x, y = one(x, attention_mask, y, None), two(y, None, x, attention_mask)
        return x.mean() + y.mean()


def generated(seed):
    """A model, its batches, and what counts in each of its modules' inputs."""
    choose = random.Random(seed)
    torch.manual_seed(seed)
    way, kind = choose.choice(["matmul", "einsum", "sdpa"]), choose.choice(["apart", "text_sees", "other_sees", "both"])
    model = Toy(way, kind).eval()
    loradrop.add_lora(model, rank=3, target_modules=["q", "v", "up"])
    train_b(model)
    rows, tokens = choose.randint(1, 4), choose.randint(2, 6)
    positions = choose.choice([tokens, tokens, choose.randint(1, 6)])
    mask = (torch.arange(tokens) < torch.randint(1, tokens + 1, (rows, 1))).long()
    if choose.random() < 0.5:
        mask = mask.flip(1)  # padding in front
    given = {"input_ids": torch.randint(0, 30, (rows, tokens)), "other": torch.randn(rows, positions, 3)}
    given["attention_mask"] = mask

    def mask_of(name, x):
        stack, across = name.split(".")[0], "cross" in name and name.endswith(".v")
        return mask if (stack == "one") != across else None

    return model, given, mask_of


@pytest.mark.parametrize("seed", range(24))
def test_every_stack_has_its_own_mask(seed):
    model, given, mask_of = generated(seed)
    importance = loradrop.measure(model, [given])
    agree(importance, explicit(model, given, mask_of))
    # positional arguments have the same names
    assert loradrop.measure(model, [list(given.values())]).values == importance.values
    # told in words, the same
    told = {"one": lambda batch: batch["attention_mask"], "two": None}
    if model.kind in ("text_sees", "both"):
        told["one.0.cross.v"] = told["one.1.cross.v"] = None
    if model.kind in ("other_sees", "both"):
        told["two.0.cross.v"] = told["two.1.cross.v"] = given["attention_mask"]
    assert loradrop.measure(model, [given], token_mask=told).values == importance.values


class Unseen(torch.autograd.Function):
    """A kernel of one's own: torch does not see what its output is made of."""

    @staticmethod
    def forward(ctx, x):
        return torch.from_numpy(x.detach().numpy() * 2)


class Kernel(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.layers = nn.Embedding(30, 8), nn.ModuleList(nn.Linear(8, 8) for _ in range(2))

    def forward(self, input_ids, attention_mask=None, other=None):
        x = self.words(input_ids)
        for layer in self.layers:
            x = layer(Unseen.apply(x))
        return x


def test_what_a_kernel_returns_is_of_the_only_input():
    torch.manual_seed(0)
    model = Kernel().eval()
    loradrop.add_lora(model, rank=3, target_modules=["0", "1"])
    train_b(model)
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    given = {"input_ids": torch.randint(0, 30, (2, 3)), "attention_mask": mask}
    agree(loradrop.measure(model, [given]), explicit(model, given, lambda name, x: mask))
    two = {**given, "other": torch.randn(2, 3, 3)}
    with pytest.raises(ValueError, match=r"which positions of its input \(2, 3, 8\), made of input_ids, other"):
        loradrop.measure(model, [two])
    told = loradrop.measure(model, [two], token_mask=mask)
    agree(told, explicit(model, given, lambda name, x: mask))


class Siamese(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(30, 8)
        self.left, self.right = (nn.ModuleList([nn.Linear(8, 8)]) for _ in range(2))

    def forward(self, question, answer, attention_mask):
        return self.left[0](self.words(question)).sum() + self.right[0](self.words(answer)).sum()


def test_a_mask_that_may_be_of_either_is_refused():
    model = Siamese().eval()
    loradrop.add_lora(model, rank=3, target_modules=["left.0", "right.0"])
    train_b(model)
    flags = {name: p.requires_grad for name, p in model.named_parameters()}
    ids, mask = torch.randint(0, 30, (2, 3)), torch.tensor([[1, 1, 0], [1, 0, 0]])
    given = {"question": ids, "answer": ids.flip(1), "attention_mask": mask}
    with pytest.raises(ValueError, match=r"left\.0: which positions .* made of question, are padding .*token_mask=\{'left'"):
        loradrop.measure(model, [given])
    assert not any(m._forward_pre_hooks for m in model.modules())
    assert flags == {name: p.requires_grad for name, p in model.named_parameters()}
    told = loradrop.measure(model, [given], token_mask={"left": lambda batch: batch["attention_mask"], "right": None})
    agree(told, explicit(model, given, lambda name, x: mask if "left" in name else None))
    whole = {**given, "attention_mask": torch.ones(2, 3)}  # nothing is padding, whatever it is about
    agree(loradrop.measure(model, [whole]), explicit(model, whole, lambda name, x: None))
