"""constraints.txt, the bounds of pyproject.toml, and what a result says of the environment."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import PackageNotFoundError

import pytest
from conftest import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from experiments.results import archive
from experiments.results.result import from_plain, to_plain
from experiments.runner import environment

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
DIRECT = [
    requirement
    for requirement in map(
        Requirement,
        [*PROJECT["dependencies"], *(line for extra in EXTRAS.values() for line in extra)],
    )
    if requirement.name != PROJECT["name"]
]
PINS = [
    Requirement(line)
    for line in re.sub(r"#.*", "", (ROOT / "constraints.txt").read_text()).splitlines()
    if line.strip()
]
PYTHONS = ("3.11", "3.12", "3.13")
SYSTEMS = ("linux", "darwin")


def pins(python: str, system: str = "linux") -> dict[str, str]:
    """Name -> exact version, of the lines that hold for a Python; an error where two do."""
    facts = {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "sys_platform": system,
        "platform_machine": "arm64",
    }
    found: dict[str, str] = {}
    for pin in PINS:
        if pin.marker is None or pin.marker.evaluate(facts):
            name = canonicalize_name(pin.name)
            assert name not in found, f"{name} stands twice for Python {python}"
            (found[name],) = (specifier.version for specifier in pin.specifier)
    return found


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("python", PYTHONS)
def test_constraints_hold_every_direct_dependency_within_its_bounds(python, system):
    exact = pins(python, system)
    for requirement in DIRECT:
        version = exact[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version, prereleases=True), (
            f"{requirement}: constraints.txt has {version}"
        )


def test_constraints_are_exact_and_name_no_place():
    assert len(PINS) > len(DIRECT)  # what the direct ones need is there, too
    for pin in PINS:
        (specifier,) = pin.specifier
        assert (
            specifier.operator == "=="
            and pin.url is None
            and "+" not in specifier.version
            and "*" not in specifier.version
        )
    text = (ROOT / "constraints.txt").read_text()
    assert not [line for line in text.splitlines() if "://" in line or line.startswith("-")]


def test_torch_is_the_makefiles_for_every_kind_of_machine():
    (torch,) = (pin for pin in PINS if pin.name == "torch")
    makefile = (ROOT / "Makefile").read_text()
    assert f"TORCH := {next(iter(torch.specifier)).version}\n" in makefile
    # a build for other GPUs needs other versions of these; each names its own
    assert not [pin.name for pin in PINS if pin.name.startswith(("nvidia-", "cuda-", "triton"))]


def test_every_direct_dependency_has_a_lower_bound():
    for requirement in DIRECT:
        assert any(specifier.operator in (">=", "==") for specifier in requirement.specifier), (
            requirement
        )


def test_the_library_alone_needs_four_packages():
    assert [Requirement(line).name for line in PROJECT["dependencies"]] == [
        "torch",
        "transformers",
        "safetensors",
        "numpy",
    ]
    assert (
        "loradrop[experiments,cluster]" in EXTRAS["dev"]
        and "loradrop[peft,lightning]" in EXTRAS["experiments"]
    )


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """constraints.txt with three packages, one of them for another Python; what is installed is up
    to the test.
    """
    path = tmp_path / "constraints.txt"
    path.write_text(
        "# made\ntorch==2.13.0   # via x\nnumpy==2.4.6\nnumpy==9.9 ; python_full_version <"
        " '3'\npdoc==16.0.0\n"
    )
    versions: dict[str, str] = {}

    def version(name: str) -> str:
        if name not in versions:
            raise PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(environment, "CONSTRAINTS", path)
    monkeypatch.setattr(environment, "version", version)
    return versions


@pytest.mark.parametrize("local", ["", "+cpu", "+cu128"])
def test_an_environment_equals_its_constraints_whatever_torch_is_built_for(installed, local):
    installed.update({"torch": f"2.13.0{local}", "numpy": "2.4.6"})  # without a tool, pdoc
    assert environment.constraints() == {"equal": True, "different": {}}


def test_what_differs_from_the_constraints_is_named(installed):
    installed.update({"torch": "2.13.1+cpu", "numpy": "2.4.6", "pdoc": "16.0.0rc1"})
    assert environment.constraints() == {
        "equal": False,
        "different": {"torch": "2.13.1+cpu", "pdoc": "16.0.0rc1"},
    }


def test_without_the_file_nothing_is_claimed(installed):
    environment.CONSTRAINTS.unlink()
    assert environment.constraints() is None


def test_the_real_file_is_compared_in_every_result():
    found = environment.environment()["constraints"]
    assert found["equal"] == (found["different"] == {})
    assert set(found["different"]) <= {pin.name for pin in PINS}


def test_results_with_and_without_the_comparison_are_valid():
    line = next(iter(archive.lines(ROOT / "experiments" / "evidence").values()))
    old = {key: value for key, value in line.items() if key != archive.ANALYSES}
    assert "constraints" not in old
    for constraints in (
        {},
        {"constraints": None},
        {"constraints": {"equal": False, "different": {"torch": "2.6.0"}}},
    ):
        assert to_plain(from_plain(old | constraints)) == old | constraints
    with pytest.raises(ValueError, match=r"constraints\.equal"):
        from_plain(old | {"constraints": {"different": {}}})
