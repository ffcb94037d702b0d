"""Generated toy models."""

from __future__ import annotations

import random

import torch
from conftest import train_b
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
            return F.scaled_dot_product_attention(
                q[:, None], k[:, None], v[:, None], bias if bias is None else bias[:, None]
            )[:, 0]
        scores = (
            torch.einsum("bqd,bkd->bqk", q, k) if self.way == "einsum" else q @ k.transpose(1, 2)
        )
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
    """A text (ids) and another sequence (other, without a mask), which attend to each other in one
    of four ways.
    """

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
    way = choose.choice(["matmul", "einsum", "sdpa"])
    kind = choose.choice(["apart", "text_sees", "other_sees", "both"])
    model = Toy(way, kind).eval()
    loradrop.add_lora(model, rank=3, target_modules=["q", "v", "up"])
    train_b(model)
    rows, tokens = choose.randint(1, 4), choose.randint(2, 6)
    positions = choose.choice([tokens, tokens, choose.randint(1, 6)])
    mask = (torch.arange(tokens) < torch.randint(1, tokens + 1, (rows, 1))).long()
    if choose.random() < 0.5:
        mask = mask.flip(1)  # padding in front
    given = {
        "input_ids": torch.randint(0, 30, (rows, tokens)),
        "other": torch.randn(rows, positions, 3),
    }
    given["attention_mask"] = mask

    def mask_of(name, x):
        stack, across = name.split(".")[0], "cross" in name and name.endswith(".v")
        return mask if (stack == "one") != across else None

    return model, given, mask_of
