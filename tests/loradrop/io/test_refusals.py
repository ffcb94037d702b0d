"""Damaged and foreign adapters: loaded exactly, or refused with the model as it was.

What a loaded model has to compute is worked out here from the files alone: W + s B A in the base's
weights.
"""

from __future__ import annotations

import copy
import json
import random
import re

import pytest
import torch
from conftest import FAMILIES, SHAPE, tiny_model, train_b
from peft import LoraConfig, get_peft_model
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    RobertaConfig,
    RobertaForSequenceClassification,
)

import loradrop
from loradrop.checksums import read_json, write_json

pytestmark = pytest.mark.filterwarnings("ignore")  # PEFT warns of what does not fit
QUERY = "base_model.model.roberta.encoder.layer.1.attention.self.query"
HEAD = "base_model.model.classifier.out_proj.weight"


def state_of(model):
    """All that a refused call must leave alone."""
    return (
        {name: tensor.clone() for name, tensor in model.state_dict().items()},
        {name: parameter.requires_grad for name, parameter in model.named_parameters()},
        {name: type(module) for name, module in model.named_modules()},
        {name: module.training for name, module in model.named_modules()},
        {name: list(module._forward_pre_hooks) for name, module in model.named_modules()},
        hasattr(model, "peft_config"),
    )


def assert_same(before, after):
    assert before[1:] == after[1:]
    assert before[0].keys() == after[0].keys()
    for name, tensor in before[0].items():
        assert torch.equal(tensor, after[0][name]), name
        assert tensor.dtype == after[0][name].dtype


def untouched(model, call, error, match):
    before = state_of(model)
    with pytest.raises(error, match=match) as caught:
        call()
    assert "\n" not in str(caught.value)
    assert_same(before, state_of(model))


def own(share=True):
    model = tiny_model()
    loradrop.add_lora(model, rank=4, alpha=10)
    train_b(model)
    model.classifier.requires_grad_(True)
    with torch.no_grad():
        model.classifier.out_proj.weight.add_(0.3)
    if share:
        plan = loradrop.select(
            loradrop.measure(model, [{"input_ids": torch.arange(3, 12)[None]}]), num_layers=1
        )
        loradrop.share(model, plan)
    return model


def peft(base=None, **settings):
    torch.manual_seed(5)
    options = {"r": 4, "target_modules": ["query", "value"], "init_lora_weights": False} | settings
    model = get_peft_model(base or tiny_model(), LoraConfig(**options)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and "lora" not in name:
                parameter.add_(0.2)
    return model


def read(folder):
    """(config, tensors, which stand for others) from the files, by code of our own."""
    compact = (folder / "compact_config.json").exists()
    kind = "compact" if compact else "adapter"
    with safe_open(folder / f"{kind}_model.safetensors", "pt") as file:
        shared = json.loads((file.metadata() or {}).get("shared", "{}"))
    return (
        json.loads((folder / f"{kind}_config.json").read_text()),
        load_file(folder / f"{kind}_model.safetensors"),
        shared,
    )


def write(folder, config, state, shared=None):
    kind = "adapter" if shared is None else "compact"
    (folder / f"{kind}_config.json").write_text(json.dumps(config))
    state = {name: tensor.clone().contiguous() for name, tensor in state.items()}
    metadata = {"format": "pt"} if shared is None else {"shared": json.dumps(shared)}
    save_file(state, folder / f"{kind}_model.safetensors", metadata)


def expected_logits(base, config, state, batch):
    """The base with W + s B A in its weights and the files' other tensors in their places."""
    base = copy.deepcopy(base)
    state = {name.removeprefix("base_model.model."): tensor for name, tensor in state.items()}
    with torch.no_grad():
        for name in [name for name in state if name.endswith(".lora_A.weight")]:
            A, B = state.pop(name).double(), state.pop(name.replace("lora_A", "lora_B")).double()
            rank = len(A) ** 0.5 if config.get("use_rslora") else len(A)
            weight = base.get_submodule(name.removesuffix(".lora_A.weight")).weight
            weight.copy_(weight.double() + config["lora_alpha"] / rank * B @ A)
    assert not base.load_state_dict(state, strict=False).unexpected_keys
    return base(**batch).logits


# --- the cases of real life
# -------------------------------------------------------------------------------------------


def labels(count):
    torch.manual_seed(0)
    return RobertaForSequenceClassification(
        RobertaConfig(**SHAPE, max_position_embeddings=40, num_labels=count)
    ).eval()


@pytest.mark.parametrize("as_peft", [False, True])
def test_a_head_that_does_not_fit(as_peft, batch, tmp_path):
    loradrop.save_pretrained(own(), tmp_path)
    base = labels(3)
    call = lambda: loradrop.from_pretrained(base, tmp_path, as_peft=as_peft)  # noqa: E731
    for _ in range(2):  # the second attempt says the same
        untouched(base, call, ValueError, r"classifier\.out_proj\.(weight|bias)")
    fitting = tiny_model()
    assert loradrop.plan_of(
        loradrop.from_pretrained(fitting, tmp_path, as_peft=as_peft)
    ) == loradrop.plan_of(own())


@pytest.mark.parametrize("as_peft", [False, True])
@pytest.mark.parametrize("saved", [{"modules_to_save": ["embed_tokens"]}, {}])
def test_a_vocabulary_that_was_not_resized(saved, as_peft, tmp_path):
    def llama():
        torch.manual_seed(0)
        return LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=False)).eval()

    larger = llama()
    larger.resize_token_embeddings(64, mean_resizing=False)
    model = peft(larger, target_modules=["q_proj", "v_proj"], **saved)
    model.save_pretrained(tmp_path, save_embedding_layers=not saved)
    base = llama()
    match = (
        r"(embed_tokens|lm_head)\.weight of shape \(64, 32\), its own is \(60, 32\)"
        r" .*resize_token_embeddings first"
    )
    untouched(
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
    model = peft(**settings)
    expected = model(**batch).logits
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    base = tiny_model()
    untouched(base, lambda: loradrop.from_pretrained(base, tmp_path), ValueError, match)
    loaded = loradrop.from_pretrained(base, tmp_path, as_peft=True).eval()
    torch.testing.assert_close(loaded(**batch).logits, expected)


def test_conv1d_is_refused_and_loaded_as_peft(tmp_path):
    def gpt2():
        torch.manual_seed(0)
        return GPT2LMHeadModel(
            GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=60, n_positions=20)
        ).eval()

    model = peft(gpt2(), target_modules=["c_attn"], fan_in_fan_out=True)
    ids = torch.arange(8)[None]
    expected = model(ids).logits
    loradrop.save_pretrained(model, tmp_path)
    base = gpt2()
    match = r"c_attn is a Conv1D, which only PEFT adapts: as_peft=True"
    untouched(base, lambda: loradrop.from_pretrained(base, tmp_path), ValueError, match)
    torch.testing.assert_close(
        loradrop.from_pretrained(base, tmp_path, as_peft=True)(ids).logits, expected
    )


def test_pissa_has_changed_its_base(batch, tmp_path):
    peft(init_lora_weights="pissa").save_pretrained(tmp_path)
    base = tiny_model()
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(
        json.dumps(config | {"init_lora_weights": "pissa"})
    )
    match = "init_lora_weights='pissa' has changed the base weights; as_peft=True loads it"
    untouched(base, lambda: loradrop.from_pretrained(base, tmp_path), ValueError, match)


@pytest.mark.parametrize("initial", ["pissa", "olora"])
def test_an_initialisation_that_changes_the_base_is_taken_back(initial, batch, tmp_path):
    loradrop.save_pretrained(own(share=False), tmp_path)
    config, state, _ = read(tmp_path)
    state.pop(f"{QUERY}.lora_A.weight")
    state.pop(f"{QUERY}.lora_B.weight")
    write(tmp_path, config | {"init_lora_weights": initial}, state)
    (tmp_path / "plan.json").unlink()
    base = tiny_model()
    call = lambda: loradrop.from_pretrained(base, tmp_path, as_peft=True)  # noqa: E731
    untouched(
        base, call, ValueError, r"files have no .*query\.lora_A\.weight, which its config promises"
    )


# --- files that were damaged in one place
# -----------------------------------------------------------------------------


def without(name):
    return lambda config, state: state.pop(name)


def renamed(name, new):
    return lambda config, state: state.update({new: state.pop(name)})


def changed(name, change):
    return lambda config, state: state.update({name: change(state[name])})


def config_of(**values):
    return lambda config, state: config.update(values)


DAMAGES = {
    "no B": (without(f"{QUERY}.lora_B.weight"), "an A and no B for .*query"),
    "no A": (without(f"{QUERY}.lora_A.weight"), "no A and a B for .*query"),
    "no pair": (
        lambda config, state: (
            state.pop(f"{QUERY}.lora_A.weight"),
            state.pop(f"{QUERY}.lora_B.weight"),
        ),
        (
            "targets .*query, but its files have no A and B|files have no .*query.lora_A|only in"
            " the plan: query 1"
        ),
    ),
    "no head": (
        without(HEAD),
        (
            r"classifier is saved, but its files have no classifier.out_proj.weight|KeyError:"
            r" .*out_proj.weight"
        ),
    ),
    "another tensor": (
        lambda config, state: state.update(
            {"base_model.model.roberta.pooler.weight": torch.zeros(2)}
        ),
        r"it has no roberta\.pooler\.weight|PEFT finds no place for .*pooler\.weight",
    ),
    "another layer": (
        lambda config, state: state.update(
            {
                f"{QUERY}.lora_{m}.weight".replace("layer.1", "layer.7"): state[
                    f"{QUERY}.lora_{m}.weight"
                ]
                for m in "AB"
            }
        ),
        r"layer\.7",
    ),
    "renamed module": (renamed(f"{QUERY}.lora_A.weight", f"{QUERY}x.lora_A.weight"), "queryx?"),
    "renamed head": (renamed(HEAD, HEAD.replace("out_proj", "outproj")), "out_?proj"),
    "narrow A": (
        changed(f"{QUERY}.lora_A.weight", lambda t: t[:, :-1]),
        r"query|size mismatch|differ",
    ),
    "flat B": (
        changed(f"{QUERY}.lora_B.weight", lambda t: t.flatten()),
        r"query|size mismatch|differ",
    ),
    "no dimension": (
        changed(f"{QUERY}.lora_A.weight", lambda t: t.sum()),
        r"query|size mismatch|differ",
    ),
    "whole numbers": (
        lambda config, state: state.update(
            {name: tensor.long() for name, tensor in state.items() if ".query." in name}
        ),
        r"one floating-point type|not taken over|floating",
    ),
    "two types": (
        changed(f"{QUERY}.lora_A.weight", lambda t: t.bfloat16()),
        r"A in torch\.bfloat16|differ",
    ),
    "head of numbers": (changed(HEAD, lambda t: t.long()), r"out_proj"),
    "rank": (config_of(r=3), r"rank 3, but A is \(4, 32\)|size mismatch|no .*lora_A"),
    "no alpha": (
        lambda config, state: config.pop("lora_alpha"),
        r"no positive lora_alpha|not taken|alpha",
    ),
    "alpha in words": (config_of(lora_alpha="ten"), r"no positive lora_alpha|PEFT cannot put"),
    "dropout": (config_of(lora_dropout=1.5), r"lora_dropout must lie in|PEFT cannot put"),
    "targets": (
        config_of(target_modules=["query", "value", "key"]),
        r"targets .*key, but its files have no|files have no .*key",
    ),
    "no lora": (config_of(peft_type="IA3"), "LoRA is needed, not IA3: use PeftModel"),
}


@pytest.mark.parametrize("as_peft", [False, True])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_adapter_is_refused(damage, as_peft, tmp_path):
    loradrop.save_pretrained(own(share=False), tmp_path)
    config, state, _ = read(tmp_path)
    change, match = DAMAGES[damage]
    change(config, state)
    write(tmp_path, config, state)
    base = tiny_model()
    if as_peft and damage == "no alpha":
        return  # PEFT's default for it
    untouched(
        base, lambda: loradrop.from_pretrained(base, tmp_path, as_peft=as_peft), ValueError, match
    )


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors", "plan.json"])
@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff\xfe\x00", b"{}", b'{"kept": 3, "others": {}}', None]
)
def test_a_damaged_file_is_named(name, content, tmp_path):
    loradrop.save_pretrained(own(), tmp_path)
    path = tmp_path / name
    path.write_bytes(
        path.read_bytes()[: len(path.read_bytes()) // 2] if content is None else content
    )
    base = tiny_model()
    untouched(
        base, lambda: loradrop.from_pretrained(base, tmp_path), ValueError, re.escape(str(path))
    )


PLANS = {
    "other layers": (
        lambda plan: plan["kept"].update(query=[9]),
        "does not fit the adapter: only in the plan: query 9",
    ),
    "both": (
        lambda plan: plan["kept"].update(query=[0, 1, 2]),
        "the plan contradicts itself: query . is to keep",
    ),
    "values differ": (
        lambda plan: plan.update(
            kept={"query": [], "value": []}, others={"query": [0, 1, 2], "value": [0, 1, 2]}
        ),
        "share, whose stored A's and B's differ; delete plan.json if it belongs to another adapter",
    ),
    "in words": (lambda plan: plan.update(share="no"), "plan.json is damaged"),
    "layers in words": (lambda plan: plan["kept"].update(query="all"), "plan.json is damaged"),
}


@pytest.mark.parametrize("as_peft", [False, True])
@pytest.mark.parametrize("compact", [False, True])
@pytest.mark.parametrize("case", PLANS)
def test_a_plan_that_is_not_the_adapters(case, compact, as_peft, tmp_path):
    loradrop.save_pretrained(own(), tmp_path, compact=compact)
    plan = read_json(tmp_path / "plan.json")
    change, match = PLANS[case]
    change(plan)
    write_json(tmp_path / "plan.json", plan)
    base = tiny_model()
    untouched(
        base, lambda: loradrop.from_pretrained(base, tmp_path, as_peft=as_peft), ValueError, match
    )


def test_the_two_forms_are_not_mixed(tmp_path):
    loradrop.save_pretrained(own(), tmp_path)
    with pytest.raises(
        ValueError, match=r"holds an adapter of the other form \(adapter_config.json"
    ):
        loradrop.save_pretrained(own(share=False), tmp_path, compact=True)
    assert not (tmp_path / "compact_model.safetensors").exists()


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "roberta"])
@pytest.mark.parametrize("as_peft", [False, True])
def test_the_wrong_base(family, as_peft, tmp_path):
    loradrop.save_pretrained(own(), tmp_path)
    base = tiny_model(family)
    untouched(
        base,
        lambda: loradrop.from_pretrained(base, tmp_path, as_peft=as_peft),
        ValueError,
        "does not fit the model",
    )


# --- random damage
# ------------------------------------------------------------------------------------------------

TENSORS = {
    "drop": lambda t, r: None,
    "rename": lambda t, r: r.choice(
        ["x", "base_model.model.x.weight", f"{QUERY}.lora_A.weight", HEAD]
    ),
    "transpose": lambda t, r: t.T,
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


@pytest.mark.parametrize("as_peft", [False, True])
@pytest.mark.parametrize("source", ["own", "shared", "compact", "peft"])
def test_random_damage(source, as_peft, batch, tmp_path):
    if source == "peft":
        peft(modules_to_save=["classifier"]).save_pretrained(tmp_path / "whole")
    else:
        loradrop.save_pretrained(
            own(source != "own"), tmp_path / "whole", compact=source == "compact"
        )
    whole = read(tmp_path / "whole")
    path = tmp_path / "whole" / "plan.json"
    stored = json.loads(path.read_text()) if path.exists() else None
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
        write(folder, config, state, shared if source == "compact" else None)
        if plan is not None:
            (folder / "plan.json").write_text(json.dumps(plan))
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


# --- other calls that change a model
# ----------------------------------------------------------------------------------


def test_add_lora_with_a_rank_too_large_for_a_later_layer():
    model = tiny_model()
    untouched(
        model,
        lambda: loradrop.add_lora(model, rank={0: 2, 1: 4, 2: 99}),
        ValueError,
        "rank must lie between",
    )
    untouched(
        model,
        lambda: loradrop.add_lora(model, rank={0: 2, 1: 4}),
        ValueError,
        "rank must be a whole number",
    )
    untouched(
        model, lambda: loradrop.add_lora(model, alpha=-1), ValueError, "alpha must be positive"
    )


def test_remove_lora_with_an_unknown_name():
    model = own()
    names = [
        next(n for n, m in model.named_modules() if isinstance(m, loradrop.LoRALinear)),
        "classifier",
    ]
    untouched(
        model,
        lambda: loradrop.remove_lora(model, names),
        ValueError,
        "no LoRA of add_lora at classifier",
    )


def test_a_refused_loralib_checkpoint(tmp_path):
    whole = {
        n: p.detach()
        for n, p in own(share=False).state_dict().items()
        if "lora_" in n or "classifier" in n
    }
    query = "roberta.encoder.layer.2.attention.self.query"
    cases = {
        "it has no linear module x": {"x.lora_A": torch.zeros(2, 3), "x.lora_B": torch.zeros(3, 2)},
        "it has no classifier.out_proj.weight of shape": {
            "classifier.out_proj.weight": torch.zeros(5, 32)
        },
        "it has no nowhere": {"nowhere": torch.zeros(1)},
        "a MergedLinear": {f"{query}.lora_B": torch.zeros(32, 3)},
        "one floating-point type": {f"{query}.lora_B": torch.zeros(32, 4, dtype=torch.int32)},
        "holds a dict at epoch": {"epoch": {}},
    }
    for match, wrong in cases.items():
        base = tiny_model()
        untouched(
            base,
            lambda wrong=wrong, base=base: loradrop.load_loralib(base, whole | wrong, 10),
            ValueError,
            match,
        )
    for settings in ({"alpha": -1}, {"alpha": 10, "dropout": 2}):
        untouched(
            base,
            lambda s=settings: loradrop.load_loralib(base, whole, **s),
            ValueError,
            "must (be|lie)",
        )
    for name in ("broken.bin", "broken.safetensors"):
        (tmp_path / name).write_bytes(b"no checkpoint")
        untouched(
            base,
            lambda name=name: loradrop.load_loralib(base, tmp_path / name, 10),
            ValueError,
            name,
        )
    untouched(
        base,
        lambda: loradrop.load_loralib(base, tmp_path / "none.bin", 10),
        FileNotFoundError,
        "none.bin",
    )


def test_biases_that_loralib_has_trained_are_copied(batch):
    model = own(share=False)
    query = "roberta.encoder.layer.2.attention.self.query"
    state = {n: p.detach() for n, p in model.state_dict().items() if "lora_" in n}
    bias = torch.linspace(0, 1, 32)
    base = tiny_model()
    loradrop.load_loralib(base, state | {f"{query}.bias": bias}, 10)
    plain = tiny_model()
    plain.get_submodule(query).bias.data = bias
    config = {"lora_alpha": 10}
    names = {
        n.replace("lora_A", "lora_A.weight").replace("lora_B", "lora_B.weight"): t
        for n, t in state.items()
    }
    torch.testing.assert_close(base(**batch).logits, expected_logits(plain, config, names, batch))
    with pytest.raises(
        ValueError, match=r"query\.base trains beside its LoRA, which PEFT's files do not hold"
    ):
        loradrop.save_pretrained(base, "never")


@pytest.mark.parametrize("kind", ["own", "peft"])
def test_a_refused_share(kind):
    model = own(share=False) if kind == "own" else peft()
    batch = {"input_ids": torch.arange(3, 12)[None]}
    plan = loradrop.select(loradrop.measure(model, [batch]), num_layers=1)
    wrong = {
        "only in the plan: query 7": {"kept": {**plan.kept, "query": (7,)}},
        "contradicts itself": {"kept": {**plan.kept, "query": (0, 1, 2)}},
    }
    for match, change in wrong.items():
        other = type(plan)(**{**vars(plan), **change})
        untouched(model, lambda other=other: loradrop.share(model, other), ValueError, match)
    untouched(
        model, lambda: loradrop.share(model, plan, shared_init="last"), ValueError, "shared_init"
    )
    loras = [p for n, p in model.named_parameters() if "lora_A" in n and ".value." in n]
    loras[0].data = loras[0].data.double()
    share_all = type(plan)(
        **{
            **vars(plan),
            "kept": {"query": (), "value": ()},
            "others": {"query": (0, 1, 2), "value": (0, 1, 2)},
        }
    )
    untouched(
        model,
        lambda: loradrop.share(model, share_all),
        ValueError,
        "value: LoRAs of different types",
    )


@pytest.mark.parametrize("kind", ["own", "peft"])
def test_a_refused_merge(kind):
    model = own() if kind == "own" else peft()
    untouched(model, lambda: loradrop.merge(model, adapter="nobody"), ValueError, "nobody")
    if kind == "own":
        last = [m for m in model.modules() if isinstance(m, loradrop.LoRALinear)][-1]
        last.base.weight = nn.Parameter(
            last.base.weight.to(torch.float8_e4m3fn), requires_grad=False
        )
        types = {name: type(module) for name, module in model.named_modules()}
        with pytest.raises(ValueError, match="cannot take an update"):
            loradrop.merge(model)
        assert types == {name: type(module) for name, module in model.named_modules()}
