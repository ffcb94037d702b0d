"""What the project relies on in other libraries beyond their documented interface, in one table.

Private names, names of attributes and arguments, the order in which things are called. Each row
names the text in our source that relies on it, what must hold, and a check; a failure says which
version of which library changed it and where it is used. What can be had from a public name must
not be had from a private one: the last tests look for those.
"""

from __future__ import annotations

import ast
import importlib
import pkgutil
from importlib.metadata import version
from types import ModuleType

import pytest
import transformers
from conftest import ROOT
from dependencies.table import OURS, TABLE, Row, has

for library in ("hydra", "models", "others", "peft", "tokenizers", "trainers"):
    pytest.register_assert_rewrite(f"dependencies.on_{library}")
    importlib.import_module(f"dependencies.on_{library}")  # which adds its rows to TABLE


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row.library}: {row.code}")
def test_what_is_relied_on_holds(row):
    places = [str(path.relative_to(ROOT)) for path, text in OURS.items() if row.code in text]
    assert places, f"nothing says `{row.code}` any more: take the row out, or name what replaced it"
    try:
        row.check()
    except Exception as error:
        pytest.fail(
            f"{row.library} {version(row.library)} changed what we rely on: {row.needs}.\n"
            f"Used in {', '.join(places)} (`{row.code}`).\n{type(error).__name__}: {error}"
        )


def test_a_broken_row_says_what_changed_and_where():
    def broken():
        has(transformers.DynamicCache, "no_such_name")

    with pytest.raises(pytest.fail.Exception) as caught:
        test_what_is_relied_on_holds(Row("transformers", "cache_argument", "it has a name", broken))
    message = str(caught.value)
    assert (
        f"transformers {transformers.__version__} changed what we rely on: it has a name" in message
    )
    assert "prefix_tuning.py (`cache_argument`)" in message and "has no no_such_name" in message


ADDED = {"_abc_impl", "_is_protocol", "_is_runtime_protocol"}  # by Python itself


NAMED_TUPLES = {"_replace", "_asdict", "_fields"}  # public, in spite of the underscore


def own_names(trees: list[ast.AST]) -> set[str]:
    """What our own code defines: functions, classes, and attributes that it sets on `self`."""
    found = set()
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif (
            isinstance(node, ast.Attribute)
            and isinstance(node.ctx, ast.Store)
            and ast.unparse(node.value) == "self"
        ):
            found.add(node.attr)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
    return found


def private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("_")  # neither __init__ nor Hydra's _target_


def test_every_private_attribute_of_a_library_has_its_row():
    trees = {path: ast.parse(text) for path, text in OURS.items()}
    own, listed = own_names(list(trees.values())), {row.code for row in TABLE}
    unknown = [
        f"{path.relative_to(ROOT)}:{node.lineno} {ast.unparse(node)}"
        for path, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and private(node.attr)
        and node.attr not in own | NAMED_TUPLES | listed
    ]
    assert not unknown, f"private names without a row in TABLE; is there a public one? {unknown}"


def test_nothing_is_imported_from_a_private_module_without_a_row():
    found, listed = [], {row.code for row in TABLE}
    for path, text in OURS.items():
        for node in ast.walk(ast.parse(text)):
            imported = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            imported += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in imported:
                ours = name.split(".")[0] in ("loradrop", "experiments")
                if (
                    not ours
                    and name not in listed
                    and any(private(part) for part in name.split("."))
                ):
                    found.append(f"{path.relative_to(ROOT)}:{node.lineno} {name}")
    assert not found


def modules() -> list[ModuleType]:
    packages = [importlib.import_module(name) for name in ("loradrop", "experiments")]
    found = [m.name for p in packages for m in pkgutil.walk_packages(p.__path__, f"{p.__name__}.")]
    return [importlib.import_module(name) for name in found if not name.endswith("__main__")]


def test_private_methods_of_a_library_are_overridden_only_where_a_row_says_so():
    """On purpose, or by an accident of names, which would change what the library does."""
    listed = " ".join(f"{row.code} {row.needs}" for row in TABLE)
    found = []
    for cls in {
        cls for module in modules() for cls in vars(module).values() if isinstance(cls, type)
    }:
        if cls.__module__.split(".")[0] not in ("loradrop", "experiments"):
            continue
        bases = [
            base
            for base in cls.__mro__
            if base.__module__.split(".")[0] not in ("loradrop", "experiments")
        ]
        names = [name for name in vars(cls) if private(name) and name not in ADDED]
        found += [
            f"{cls.__qualname__}.{n}"
            for n in names
            if any(n in vars(base) for base in bases) and n not in listed
        ]
    assert not found
