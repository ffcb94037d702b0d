"""Random overrides: a run that can be set up, inside its folder of results, or one line that says
what is wrong. Never a traceback.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from helpers.faults import examples, report
from hydra import compose, initialize_config_dir
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from experiments import results
from experiments.config.errors import describe, is_mistake
from experiments.config.identity import run_id
from experiments.config.schema import CONF, UserError
from experiments.config.sweep import check_names
from experiments.config.validation import build, check_values
from experiments.runner.execution import MISTAKES

pytestmark = pytest.mark.slow

OUTPUTS = Path("outputs").absolute()
METHODS = [path.stem for path in (Path(CONF) / "method").glob("*.yaml")]
TASKS = [path.stem for path in (Path(CONF) / "task").glob("*.yaml")]
GROUPS = ("backbone", "task", "method", "recipe", "decoding", "trainer", "logger", "experiment")
with initialize_config_dir(CONF, version_base="1.3"):
    BASE = OmegaConf.to_container(compose("run"), resolve=True)
KEYS = [f"{group}.{key}" for group in GROUPS if BASE.get(group) for key in BASE[group]]
KEYS += [*GROUPS, "seed", "wait", "save_weights", "rerun", "paths.outputs", "paths.models"]
OTHERS = [
    *("sed", "recipe.epoch", "", ".", "task.", ".name", "a.b.c", "method.name.x", "recipe@x"),
    *(
        "task.files",
        "task.metric",
        "task.columns",
        "hydra",
        "_target_",
        "defaults",
        "?",
        "trainer@",
    ),
]
WORDS = [
    *("null", "true", "nan", "inf", "-inf", "???", "", "'", '"', "[]", "{}", "[a,b]", "{a:1}"),
    *(
        "..",
        ".",
        "/",
        "/etc/passwd",
        "../../../x",
        "a/../../b",
        "~",
        "-",
        "a b",
        "a=b",
        "\\",
        "ä",
        "\n",
    ),
    *("0", "-1", "-5", "1e3", "1e400", "1_0", "0x10", "00", "1.5", "0.1", "9" * 30, "x" * 300),
    *(
        "${seed}",
        "${nothing}",
        "${oc.env:HOME}",
        "${oc.env:X,null}",
        "$",
        "${",
        "glob(*)",
        "range(3)",
    ),
    *(
        "a,b",
        "choice(1,2)",
        "shuffle(1,2)",
        "builtins.exit",
        "os.system",
        "loradrop.tasks.glue.Glue",
    ),
    *(
        "{_target_: os.system, command: 'exit 1'}",
        "cpu",
        "gpu",
        "auto",
        "lora",
        "rte",
        "all",
        "first",
    ),
]

values = st.one_of(
    st.sampled_from(WORDS),
    st.sampled_from([*METHODS, *TASKS]),
    st.integers(-(10**6), 10**6).map(str),
    st.floats().map(str),
    st.text(max_size=12),
)
overrides = st.lists(
    st.one_of(
        st.builds(
            "{}{}={}".format,
            st.sampled_from(["", "", "", "", "+", "++", "~"]),
            st.one_of(st.sampled_from(KEYS), st.sampled_from(KEYS), st.sampled_from(OTHERS)),
            values,
        ),
        st.sampled_from([f"~{key}" for key in KEYS]),
        st.text(max_size=8).filter(lambda text: not text.startswith("-")),
    ),
    min_size=1,
    max_size=3,
)
counts: Counter[str] = Counter()


@pytest.fixture(scope="module", autouse=True)
def hydra():
    with initialize_config_dir(CONF, version_base="1.3"):
        yield
    report("random configs", counts)


def one_line(text: str) -> None:
    assert text and len(text) < 2000


@examples(short=60, long=4000)
@given(overrides)
def test_a_config_is_set_up_or_refused_in_one_line(given):
    try:
        check_names(given)
        config = compose("run", given)
    except Exception as error:
        if not is_mistake(error):
            raise
        one_line(describe(error))
        counts["refused by name"] += 1
        return
    try:
        check_values(config)
        id = run_id(config)
    except (*MISTAKES, UserError) as error:
        one_line(" ".join(str(error).split()))
        counts["refused by value"] += 1
        return
    folder = results.run_folder(OUTPUTS, id)
    assert folder.resolve().parent == OUTPUTS / "runs"
    try:
        build(config)
    except (*MISTAKES, UserError) as error:
        one_line(" ".join(str(error).split()))
        counts["refused by its class"] += 1
        return
    counts["set up"] += 1
