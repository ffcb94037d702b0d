"""Where an optional package is missing, the message names the extra that brings it."""

from __future__ import annotations

import ast
import importlib
import sys

import pytest
from conftest import ROOT

import loradrop
from loradrop.importance.importance import Importance
from loradrop.io.through_peft import load_with_peft

HARD = {"torch", "transformers", "safetensors", "numpy", "huggingface_hub"}  # with transformers
CHECKED = ("metrics", "tasks", "training")  # whole folders: their __init__ checks
PRESENT = "io/state.py", "io/through_peft.py"  # these look at a model that PEFT has made
IMPORTANCE = Importance({"query": {0: 1.0}}, {"query": {0: 8}})


def package(name):
    return importlib.reload(importlib.import_module(f"loradrop.{name}"))


@pytest.mark.parametrize(
    ("missing", "extra", "use"),
    [
        ("pytorch_lightning", "lightning", lambda: loradrop.LoRADropLightningCallback),
        ("peft", "peft", lambda: load_with_peft(None, None, True)),
        ("pandas", "experiments", IMPORTANCE.to_frame),
        ("matplotlib", "experiments", IMPORTANCE.plot),
        ("nltk", "experiments", lambda: package("metrics")),
        ("datasets", "experiments", lambda: package("tasks")),
        ("datasets", "experiments", lambda: package("training")),
    ],
)
def test_the_message_says_what_to_install(missing, extra, use, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == missing]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "loradrop.callbacks.lightning", raising=False)
    monkeypatch.setitem(sys.modules, missing, None)
    message = rf"^{missing} is missing: pip install 'loradrop\[{extra}\]'$"
    with pytest.raises(ModuleNotFoundError, match=message):
        use()


def test_every_optional_import_is_checked():
    allowed = {*sys.stdlib_module_names, *HARD, "loradrop"}
    bare = []
    for path in sorted((ROOT / "loradrop").rglob("*.py")):
        name = path.relative_to(ROOT / "loradrop").as_posix()
        if name.split("/")[0] in CHECKED or name in PRESENT:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        inside = {
            id(part)
            for node in ast.walk(tree)
            if (isinstance(node, ast.With) and "extra(" in ast.unparse(node.items[0]))
            or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
            for part in ast.walk(node)
        }
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module]
            if id(node) not in inside:
                bare += [f"{name}: {one}" for one in names if one.split(".")[0] not in allowed]
    assert not bare
