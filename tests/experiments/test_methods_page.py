"""experiments/methods.md against the code: every method, formula, number and default."""

from __future__ import annotations

import re

import pytest
import yaml
from conftest import ROOT, composed
from omegaconf import OmegaConf

from experiments.config.validation import instantiate_group
from experiments.parameters import skeleton
from loradrop.heads import parameter_counts
from loradrop.methods.lora_drop import LoRADrop

PAGE = (ROOT / "experiments" / "methods.md").read_text()
ROWS = {
    cells[0]: cells
    for cells in re.findall(
        r"^\| (\w+) \| (.*?) \| (.*?) \| (.*?) \| (.*?) \|$", PAGE, re.MULTILINE
    )
}
SECTIONS = {
    part.partition("\n")[0].strip(): part
    for part in re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]
}
METHODS = sorted(path.stem for path in (ROOT / "conf" / "method").glob("*.yaml"))
# what a variant does not change
IN_SECTION_OF = {name: "lora_drop" for name in METHODS if name.startswith("lora_drop_")}
SIZES = {"d": 768, "L": 12, "f": 3072}  # RoBERTa-base


def config_of(name):
    return composed("backbone=roberta_base", "task=mini_sentiment", f"method={name}")


def test_there_is_a_row_and_a_section_for_every_method():
    assert set(ROWS) - {"method"} == set(SECTIONS) == set(METHODS)


def evaluated(formula, **values):
    """A formula as it is written on the page: numbers and names beside each other are
    multiplied."""
    times = re.sub(r"(?<=[\w)]) +(?=[\w(])", " * ", formula)
    return eval(times, {"__builtins__": {}}, SIZES | values)


@pytest.mark.parametrize("name", METHODS)
def test_the_count_is_the_code_s_and_the_formula_gives_it(name):
    method = instantiate_group("method", config_of(name).method)
    formula = re.search(r"`(.+?)`", ROWS[name][2])
    printed = int(ROWS[name][3].split()[0].replace(",", ""))
    if isinstance(method, LoRADrop):
        n = int(ROWS[name][3].split()[-1])
        assert evaluated(formula.group(1), n=n, r=method.rank) == printed
        return
    model = skeleton("roberta_base")
    method.install(model)
    assert parameter_counts(model, method.result_fields().get("inactive", 0))["adapter"] == printed
    if formula:
        symbols = {
            "r": "rank",
            "s": "sparsity",
            "k": "heads" if name == "hifi" else "dropped_layers",
            "b": "bottleneck",
            "v": "virtual_tokens",
        }
        values = {
            symbol: getattr(method, key) for symbol, key in symbols.items() if hasattr(method, key)
        }
        if name == "prilora":
            values["R"] = 96
        if name in ("adalora", "prune_lora"):
            values["r"] = method.init_rank
        assert evaluated(formula.group(1), **values) == printed


def written(value):
    """As YAML has it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)


@pytest.mark.parametrize("name", METHODS)
def test_every_switch_stands_with_its_default(name):
    """As `key` value, or `key` of the recipe."""
    raw = OmegaConf.to_container(config_of(name).method, resolve=False)
    own = yaml.safe_load((ROOT / "conf" / "method" / f"{name}.yaml").read_text())
    for key, value in raw.items():
        if key in ("_target_", "name") or (name in IN_SECTION_OF and key not in own):
            continue
        default = (
            "of the recipe" if isinstance(value, str) and "recipe." in value else written(value)
        )
        pattern = rf"`{key}` {re.escape(default)}(\.0)?(?![\w.]*\d)"
        assert re.search(pattern, SECTIONS[name]), f"{name}: `{key}` {default}"
