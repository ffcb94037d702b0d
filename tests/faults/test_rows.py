"""Random data files: rows, or one message that names the file. No other error, and no hang."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from helpers.faults import examples, report
from hydra import compose, initialize_config_dir
from hypothesis import given
from hypothesis import strategies as st

from experiments.config.schema import CONF
from experiments.config.validation import instantiate_group
from loradrop.tasks.base import LABEL
from loradrop.tasks.e2e import linearise

pytestmark = pytest.mark.slow

counts: Counter[str] = Counter()
NASTY = [
    *("", " ", "\t", "\n", "\r", "\x00", "\ufeff", "\u2028", "ä", "\ud800", '"', "\\", "<", "&"),
    *(
        "</s>",
        "x" * 2000,
        " " * 2000,
        "[" * 2000,
        '{"a":' * 2000,
        "1e999",
        "nan",
        "-0",
        "entailment",
    ),
]
cells = st.one_of(st.sampled_from(NASTY), st.text(max_size=10), st.integers(0, 5).map(str))
scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), cells)
plain = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(cells, inner, max_size=3)
)


@pytest.fixture(scope="module")
def task_of():
    tasks = {}
    with initialize_config_dir(CONF, version_base="1.3"):
        for name in ("rte", "stsb", "qqp", "e2e", "dart", "gsm8k", "dialogsum"):
            tasks[name] = instantiate_group("task", compose("run", [f"task={name}"]).task)
    yield tasks
    report("random data files", counts)


def loaded(task, folder):
    """Load the task, and encode what a fingerprint and a tokenizer would."""
    try:
        rows = task.load(folder.parent)
    except (ValueError, FileNotFoundError) as error:
        text = str(error)
        assert str(folder) in text and len(text) < 3000, text
        counts["refused"] += 1
    else:
        assert len(rows.train) and rows.fingerprint()
        counts["read"] += 1


def written(content: str | bytes) -> bytes:
    return content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")


def tables(columns, ending=b"\n"):
    """TSV files: mostly the right number of cells, mostly UTF-8."""
    row = st.lists(cells, min_size=columns, max_size=columns) | st.lists(
        cells, max_size=columns + 1
    )
    rows = st.lists(row.map(lambda row: written("\t".join(row))), max_size=4)
    return st.one_of(rows.map(ending.join), st.binary(max_size=40))


@examples(short=40, long=1500)
@given(header=st.booleans(), train=tables(4), name=st.sampled_from(["rte", "stsb", "qqp"]))
def test_tsv(task_of, tmp_path_factory, header, train, name):
    task = task_of[name]
    folder = tmp_path_factory.mktemp("data") / task.official
    folder.mkdir()
    names = [task.tsv_columns.get(key, key) for key in (*task.columns, LABEL)]
    first = written("\t".join(["index", *names])) + b"\n" if header else b""
    good = written("\t".join(["index", *names]) + "\n0\ta\tb\t0\n")
    (folder / "train.tsv").write_bytes(first + train)
    (folder / "dev.tsv").write_bytes(good)
    loaded(task, folder)


def lines_of(*keys):
    """JSON lines: objects with these keys and texts, other JSON, and what is none."""
    right = st.fixed_dictionaries(dict.fromkeys(keys, cells)).map(json.dumps)
    line = st.one_of(right, right, plain.map(json.dumps), cells)
    return st.one_of(st.lists(line, max_size=4).map("\n".join), st.binary(max_size=40))


def put(task, folder, content, good):
    folder.mkdir()
    for split, file in task.files.items():
        (folder / file.name).parent.mkdir(parents=True, exist_ok=True)
        (folder / file.name).write_bytes(written(content if split == "train" else good))


@examples(short=40, long=1500)
@given(
    data=st.one_of(
        st.tuples(st.just("gsm8k"), lines_of("question", "answer")),
        st.tuples(st.just("dialogsum"), lines_of("dialogue", "summary")),
    )
)
def test_json_lines(task_of, tmp_path_factory, data):
    name, content = data
    task = task_of[name]
    folder = tmp_path_factory.mktemp("data") / task.official
    good = {
        "gsm8k": {"question": "1 + 1?", "answer": "2\n#### 2"},
        "dialogsum": {"dialogue": "a", **{f"summary{i or ''}": "b" for i in range(4)}},
    }
    put(task, folder, content, json.dumps(good[name]))
    loaded(task, folder)


triples = st.lists(st.lists(cells, min_size=3, max_size=3), max_size=2) | plain
entry = st.fixed_dictionaries(
    {"tripleset": triples, "annotations": st.lists(st.fixed_dictionaries({"text": cells})) | plain}
)


@examples(short=40, long=1500)
@given(content=st.one_of(st.lists(entry | plain, max_size=3).map(json.dumps), cells, st.binary()))
def test_json(task_of, tmp_path_factory, content):
    task = task_of["dart"]
    folder = tmp_path_factory.mktemp("data") / task.official
    put(task, folder, content, "<benchmark><entries></entries></benchmark>")
    for split in task.evaluation:
        text = "<mtriple>a | b | c</mtriple></modifiedtripleset><lex>d</lex></entry>"
        text = f"<b><entries><entry><modifiedtripleset>{text}</entries></b>"
        (folder / task.files[split].name).write_text(text)
    loaded(task, folder)


@examples(short=40, long=1500)
@given(
    rows=st.lists(
        st.tuples(st.builds("{}[{}]{}".format, cells, cells, st.sampled_from(["", ", "])), cells),
        max_size=3,
    ),
    quoted=st.booleans(),
)
def test_csv(task_of, tmp_path_factory, rows, quoted):
    task = task_of["e2e"]
    folder = tmp_path_factory.mktemp("data") / task.official
    mark = '"' if quoted else ""
    text = "".join(f"{mark}{mr}{mark},{ref}\n" for mr, ref in rows)
    put(task, folder, f"mr,ref\n{text}", 'mr,ref\n"name[a]",b\n')
    loaded(task, folder)


def test_a_long_run_of_spaces_costs_no_more_than_its_length():
    """A quadratic pattern would take hours."""
    with pytest.raises(ValueError, match=r"is not of the form name\[\.\.\.\]"):
        linearise(" " * 1_000_000)
    assert linearise("  name[a]  ,  area[ b ]  ") == "name : a | area :  b "
