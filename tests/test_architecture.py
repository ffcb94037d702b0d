"""Imports go one way, as docs/architecture.md says."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from conftest import ROOT

# from the bottom to the top; what stands in one line imports nothing of its neighbours
ORDER = {
    "loradrop": (
        ("checksums", "extras"),
        ("plan",),
        ("lora", "sampling", "selection", "seeds", "metrics"),
        ("importance", "hub"),
        ("sharing", "tasks"),
        ("io", "callbacks", "heads"),
        ("backbones",),
        ("methods",),
        ("training",),
    ),
    "experiments": (
        ("common", "paper"),
        ("config",),
        ("results", "plotting"),
        ("runner",),
        ("reporting",),
        ("builtin_models", "benchmark"),
    ),
}
# free of torch, so that a mistake in a config is reported at once: loradrop.training.recipe
LIGHT = ("experiments/common", "experiments/config", "experiments/results")


def imports(path: Path) -> list[tuple[str, bool]]:
    """(module, whether it is imported whenever the file is) of our own modules and of torch."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    top = {id(node) for node in tree.body}
    found = []
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        found += [(name, id(node) in top) for name in names]
    return found


def files(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def rooms(package: str) -> dict[str, int]:
    return {room: level for level, line in enumerate(ORDER[package]) for room in line}


def room_of(name: str) -> str:
    return [*name.split("."), ""][1]


@pytest.mark.parametrize("package", ORDER)
def test_imports_go_one_way(package):
    levels = rooms(package)
    wrong = []
    for path in files(package):
        room = path.relative_to(ROOT / package).parts[0].removesuffix(".py")
        if room not in levels or path.name == "__main__.py":
            continue  # a command, or the package's own names
        for name, _ in imports(path):
            other = room_of(name)
            if name.startswith(f"{package}.") and other in levels and other != room:
                if levels[other] >= levels[room]:
                    wrong.append(f"{path.relative_to(ROOT)} imports {name}")
            elif (
                name.startswith(f"{package}.")
                and other not in levels
                and (ROOT / package / f"{other}.py").exists()
            ):
                wrong.append(f"{path.relative_to(ROOT)} imports the command {name}")
    assert not wrong, "\n".join(sorted(set(wrong)))


def test_every_room_has_its_place_in_the_order():
    for package in ORDER:
        folders = {
            path.name for path in (ROOT / package).iterdir() if (path / "__init__.py").exists()
        }
        assert folders <= set(rooms(package)), folders - set(rooms(package))
    single = {path.stem for path in (ROOT / "loradrop").glob("*.py")} - {"__init__"}
    assert single <= set(rooms("loradrop")), single - set(rooms("loradrop"))


def test_the_library_knows_nothing_of_the_experiments():
    for path in files("loradrop"):
        for name, _ in imports(path):
            assert not name.startswith(("experiments", "hydra", "omegaconf", "wandb")), (
                f"{path.relative_to(ROOT)}: {name}"
            )


@pytest.mark.parametrize("folder", LIGHT)
def test_what_reads_configs_and_results_starts_without_torch(folder):
    heavy = ("torch", "transformers", "pytorch_lightning", "datasets", "peft")
    for path in files(folder):
        for name, always in imports(path):
            assert not (always and name.split(".")[0] in heavy), f"{path.relative_to(ROOT)}: {name}"
