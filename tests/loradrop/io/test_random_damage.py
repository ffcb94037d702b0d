"""Files with one to three random changes: loaded exactly, or refused with the model as it was."""

from __future__ import annotations

import copy
import random

import pytest
import torch
from conftest import tiny_model
from helpers.adapter_files import (
    HEAD,
    QUERY,
    assert_same,
    expected_logits,
    own_model,
    peft_model,
    read_files,
    state_of,
    write_files,
)

import loradrop
from loradrop.checksums import read_json, write_json

# PEFT, of what the files lack
pytestmark = pytest.mark.filterwarnings("ignore:Found missing adapter keys:UserWarning")

TENSORS = {
    "drop": lambda t, r: None,
    "rename": lambda t, r: r.choice(
        ["x", "base_model.model.x.weight", f"{QUERY}.lora_A.weight", HEAD]
    ),
    "transpose": lambda t, r: t.t(),
    "trim": lambda t, r: t[:-1],
    "type": lambda t, r: t.to(r.choice([torch.float64, torch.bfloat16, torch.int32, torch.bool])),
    "values": lambda t, r: t + 1,
    "empty": lambda t, r: t[:0],
}
CONFIGS = {
    "r": [1, 8, "4", None],
    "lora_alpha": [3, 2.5, -1, 0, None, [], True],
    "target_modules": [["query"], ["value"], "all-linear", [], None, ".*query", ["dense"]],
    "modules_to_save": [None, [], ["classifier", "score"], ["pooler"], ["embeddings"]],
    "use_rslora": [True],
    "bias": ["all", "lora_only", "some"],
    "lora_dropout": [0.5, -1, "x"],
    "rank_pattern": [{"query": 2}, {"query": 4}, 3],
    "alpha_pattern": [{}, {"query": "x"}, 3],
    "layers_to_transform": [[0], 1, [0, 1, 2]],
    "exclude_modules": [["query"], ["key"]],
    "use_dora": [True],
    "init_lora_weights": ["pissa", "gaussian", False],
}


def damage(config, state, shared, plan, draw):
    """Change one to three things; says which."""
    done = []
    for _ in range(draw.randint(1, 3)):
        where = draw.choice(["tensor", "tensor", "config", "shared", "plan"])
        if where == "tensor" and state:
            name, (kind, change) = draw.choice(sorted(state)), draw.choice(sorted(TENSORS.items()))
            new = change(state[name], draw)
            tensor = state.pop(name) if new is None or isinstance(new, str) else new
            if isinstance(new, str):
                state[new] = tensor
            elif new is not None:
                state[name] = new
            done.append((kind, name))
        elif where == "config":
            key = draw.choice(sorted(CONFIGS))
            config[key] = draw.choice(CONFIGS[key])
            done.append((key, config[key]))
        elif where == "shared" and shared:
            name = draw.choice(sorted(shared))
            shared[name] = draw.choice(["x", 3, *sorted(state)])
            done.append(("shared", name))
        elif where == "plan" and plan is not None:
            part, kind = draw.choice(["kept", "others"]), draw.choice(["query", "value", "key"])
            plan[part][kind] = draw.choice([[], [0], [0, 1, 2], [9], "x", None])
            done.append((part, kind))
    return done


@pytest.mark.slow
@pytest.mark.parametrize("as_peft", [False, True])
@pytest.mark.parametrize("source", ["own", "shared", "compact", "peft"])
def test_random_damage(source, as_peft, batch, tmp_path):
    if source == "peft":
        peft_model(modules_to_save=["classifier"]).save_pretrained(tmp_path / "whole")
    else:
        loradrop.save_pretrained(
            own_model(source != "own"), tmp_path / "whole", compact=source == "compact"
        )
    whole = read_files(tmp_path / "whole")
    path = tmp_path / "whole" / "plan.json"
    stored = read_json(path) if path.exists() else None
    draw = random.Random(f"{source} {as_peft}")
    base = tiny_model()
    before = state_of(base)
    loaded = 0
    for trial in range(60):
        config, state, shared = copy.deepcopy(whole)
        plan = copy.deepcopy(stored)
        done = damage(config, state, shared, plan, draw)
        folder = tmp_path / str(trial)
        folder.mkdir()
        write_files(folder, config, state, shared if source == "compact" else None)
        if plan is not None:
            write_json(folder / "plan.json", plan)
        try:
            model = loradrop.from_pretrained(base, folder, as_peft=as_peft).eval()
        except ValueError as error:
            assert "\n" not in str(error) and len(str(error)) > 20, done
            assert_same(before, state_of(base))
            continue
        loaded += 1
        every = state | {name: state[first] for name, first in shared.items()}
        plain = tiny_model()
        if not as_peft or not (config.get("use_dora") or config.get("alpha_pattern")):
            expected = expected_logits(plain, config, every, batch)
            assert torch.allclose(model(**batch).logits, expected, rtol=1e-3, atol=1e-3), done
        held = sum(
            p.numel() for n, p in model.named_parameters(remove_duplicate=False) if "lora_" in n
        )
        assert held == sum(t.numel() for n, t in every.items() if "lora_" in n), done
        base = tiny_model()
        before = state_of(base)
    assert loaded >= 3
