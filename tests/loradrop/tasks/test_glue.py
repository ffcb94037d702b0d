"""GLUE from its three sources, with the quirks of the official files, and what bad input says."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import ROOT
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from hydra.utils import instantiate
from omegaconf import OmegaConf

CONF = ROOT / "conf/task"
NAMES = ["cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte"]
OFFICIAL = dict(
    zip(NAMES, ["CoLA", "SST-2", "MRPC", "STS-B", "QQP", "MNLI", "QNLI", "RTE"], strict=True)
)

# texts that a reader with quoting, with missing values, or with a liberal idea of a line end gets
# wrong
ODD = ['He said "no', "NA", "a \u2028 b", "a \x0c b \x85 c", "caf\u00e9 \U0001f642", "trailing "]

HEADERS = {
    "sst2": "sentence label",
    "mrpc": "Quality,#1 ID,#2 ID,#1 String,#2 String",
    "stsb": "index genre filename year old_index source1 source2 sentence1 sentence2 score",
    "qqp": "id qid1 qid2 question1 question2 is_duplicate",
    "mnli": "index promptID pairID genre b1 b2 p1 p2 sentence1 sentence2 label1 gold_label",
    "qnli": "index question sentence label",
    "rte": "index sentence1 sentence2 label",
}
TEXTS = {
    "mrpc": ["#1 String", "#2 String"],
    "qqp": ["question1", "question2"],
    "qnli": ["question", "sentence"],
}
TEXTS |= {name: ["sentence"] for name in ("cola", "sst2")}
LABELS = {"mrpc": "Quality", "stsb": "score", "qqp": "is_duplicate", "mnli": "gold_label"}
ORDER = {  # of the class ids on the Hub
    "cola": "unacceptable acceptable",
    "sst2": "negative positive",
    "mrpc": "not_equivalent equivalent",
    "qqp": "not_duplicate duplicate",
    "mnli": "entailment neutral contradiction",
    "qnli": "entailment not_entailment",
    "rte": "entailment not_entailment",
}
SHORT_MNLI = "index sentence1 sentence2 gold_label"


def make(name, **changes):
    return instantiate(OmegaConf.merge(OmegaConf.load(CONF / f"{name}.yaml"), changes))


def row(name, i, header):
    """Row i of a split as {column of the TSV: text}, and what must come out of it."""
    first, second = ODD[i % len(ODD)], f"second {i}"
    task = make(name)
    label = f"{0.25 * (i % 21):.3f}" if name == "stsb" else str(i % task.num_labels)
    if name in ("rte", "qnli", "mnli"):
        label = task.labels[int(label)]
    texts = dict(zip(task.columns, (first, second), strict=False))
    cells = dict.fromkeys(header, "") | dict(
        zip(TEXTS.get(name, ["sentence1", "sentence2"]), (first, second), strict=False)
    )
    cells[LABELS.get(name, "label")] = label
    value = float(label) if name == "stsb" else i % task.num_labels
    return cells, texts | {"label": value}


def header_of(name, text=None):
    text = text or HEADERS.get(name) or "source label annotation sentence"
    return text.split("," if "," in text else " ")


def write_tsv(path, name, count, header=None, bom=b"", end="\n", start=0):
    header = header_of(name, header)
    rows = [row(name, i, header) for i in range(start, start + count)]
    lines = [] if name == "cola" else ["\t".join(header)]
    lines += ["\t".join(cells[column] for column in header) for cells, _ in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bom + (end.join(lines) + end).encode())
    return [wanted for _, wanted in rows]


def write_official(folder, name):
    """All files of a task, with the quirks that its official copy has; returns the rows of each."""
    quirk = {"bom": b"\xef\xbb\xbf", "end": "\r\n"} if name == "mrpc" else {}
    splits = {"train": write_tsv(folder / "train.tsv", name, 24, **quirk)}
    for part in ("dev_matched", "dev_mismatched") if name == "mnli" else ("dev",):
        splits[part] = write_tsv(folder / f"{part}.tsv", name, 12, start=len(part), **quirk)
    return splits


def as_dataset(rows, name):
    task = make(name)
    label = Value("float32") if name == "stsb" else ClassLabel(names=list(task.labels))
    columns = {key: [r[key] for r in rows] for key in rows[0]} | {"idx": list(range(len(rows)))}
    features = {c: Value("string") for c in task.columns} | {"label": label, "idx": Value("int32")}
    return Dataset.from_dict(columns, features=Features(features))


def hub_split(stem):
    return stem.replace("dev", "validation")


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_three_sources_give_the_same_rows(name, tmp_path):
    task = make(name)
    rows = write_official(tmp_path / "tsv" / OFFICIAL[name], name)
    data = DatasetDict({hub_split(stem): as_dataset(part, name) for stem, part in rows.items()})
    data.save_to_disk(str(tmp_path / "saved" / name))
    for place in (tmp_path / "flat" / name, tmp_path / "hub" / name / name):
        place.mkdir(parents=True)
        for split, part in data.items():
            part.to_parquet(str(place / f"{split}-00000-of-00001.parquet"))

    splits = task.load(tmp_path / "tsv")
    assert (len(splits.train), splits.notes) == (24, [])
    found = {"train": splits.train} | splits.evaluation
    for stem, wanted in rows.items():
        part = found[stem.removeprefix("dev_") if name == "mnli" else hub_split(stem)]
        for column in (*task.columns, "label"):
            # quarters are exact in single precision
            assert part[column][:] == [row[column] for row in wanted]
    for source in ("saved", "flat", "hub"):
        other = task.load(tmp_path / source)
        assert other.fingerprint() == splits.fingerprint()
        assert other.train.features == splits.train.features


def test_reduced_columns_and_one_part_of_mnli(tmp_path):
    write_tsv(tmp_path / "MNLI/train.tsv", "mnli", 9, header=SHORT_MNLI)
    wanted = write_tsv(tmp_path / "MNLI/dev_matched.tsv", "mnli", 6, header=SHORT_MNLI)
    splits = make("mnli").load(tmp_path)
    assert list(splits.evaluation) == ["matched"]
    assert splits.evaluation["matched"]["premise"][:] == [row["premise"] for row in wanted]
    assert len(splits.notes) == 1
    assert "mismatched" in splits.notes[0]


def test_mnli_scores_both_parts_together_and_alone():
    outputs = {
        "matched": (np.array([0, 1, 2, 0]), np.array([0, 1, 2, 1])),
        "mismatched": (np.array([0, 1]), np.array([1, 1])),
    }
    scores = make("mnli").score(outputs)
    assert scores == pytest.approx(
        {"accuracy": 4 / 6, "accuracy_matched": 0.75, "accuracy_mismatched": 0.5}
    )


@pytest.mark.parametrize("name", NAMES)
def test_the_yaml_fits_the_hub_and_the_metric(name):
    task = make(name)
    values = np.array([0, 1, 1, 0])
    assert task.score({"validation": (values, values)})[task.primary] == 1.0
    assert task.name == task.config == name
    assert (task.official, " ".join(task.labels or ())) == (OFFICIAL[name], ORDER.get(name, ""))


def test_the_name_comes_before_the_official_name(tmp_path):
    write_official(tmp_path / "RTE", "rte")
    write_tsv(tmp_path / "rte/train.tsv", "rte", 3)
    write_tsv(tmp_path / "rte/dev.tsv", "rte", 3)
    assert len(make("rte").load(tmp_path).train) == 3


def test_class_ids_of_another_order_are_mapped_by_name(tmp_path):
    other = ClassLabel(names=["not_entailment", "entailment"])
    features = Features(
        {"sentence1": Value("string"), "sentence2": Value("string"), "label": other}
    )
    part = Dataset.from_dict(
        {"sentence1": ["a", "b"], "sentence2": ["c", "d"], "label": [0, 1]}, features=features
    )
    DatasetDict({"train": part, "validation": part}).save_to_disk(str(tmp_path / "saved/rte"))
    (tmp_path / "parquet/rte").mkdir(parents=True)
    for split in ("train", "validation"):
        part.to_parquet(str(tmp_path / f"parquet/rte/{split}.parquet"))
    for source in ("saved", "parquet"):
        assert make("rte").load(tmp_path / source).train["label"][:] == [1, 0]


def test_rows_held_back_come_from_the_training_set_alone(tmp_path):
    write_official(tmp_path / "CoLA", "cola")
    whole = make("cola").splits(tmp_path)
    rows = list(zip(whole.train["sentence"], whole.train["label"], strict=True))
    task = make("cola", held_back=0.25)
    splits = task.splits(tmp_path)
    held = splits.evaluation["held_back"]
    parts = [
        list(zip(part["sentence"], part["label"], strict=True)) for part in (held, splits.train)
    ]
    assert len(parts[0]) == round(0.25 * len(rows)) and list(splits.evaluation) == ["held_back"]
    assert sorted(parts[0] + parts[1]) == sorted(rows)
    assert set(held["label"]) == set(whole.train["label"])  # stratified
    assert f"{len(held)} rows held back" in splits.notes[0]
    assert splits.fingerprint() != whole.fingerprint()
    assert splits.fingerprint() == task.splits(tmp_path).fingerprint()


@pytest.mark.parametrize("share", [0, 1, -0.1, 2])
def test_a_share_to_hold_back_leaves_rows_on_both_sides(tmp_path, share):
    write_official(tmp_path / "CoLA", "cola")
    with pytest.raises(ValueError, match=r"task\.held_back must lie between 0 and 1"):
        make("cola", held_back=share).splits(tmp_path)


# bad input


def write_rte(folder, lines, header="index\tsentence1\tsentence2\tlabel\n"):
    write_official(folder, "rte")
    (folder / "train.tsv").write_bytes(header.encode() + lines)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            b"0\ta\tb\tentailment\n1\ta\tb\n",
            r"train\.tsv, line 3: 3 fields instead of 4 \(index, sentence1",
        ),
        (b"0\ta\tb\n0\ta\tb\tentailment\n1\ta\n", r"line 2: 3 fields .* and lines 4 are like it"),
        (b"0\ta\tb\tentailment\n1\ta\tb\tc\tentailment\n", r"train\.tsv, line 3: 5 fields"),
        (
            b"0\ta\tb\tmaybe\n",
            r"train\.tsv, line 2: label 'maybe' is none of entailment \(0\), not_entailment \(1\)",
        ),
        (b"0\ta\tb\t2\n", r"line 2: label '2'"),
        (b"0\ta\tb\t\n", r"line 2: label ''"),
        (b"0\ta\xff\tb\tentailment\n", r"train\.tsv, line 2: not readable .*UTF-8"),
        (b"0\ta\tb\tentailment\n\n1\ta\tb\tentailment\n", r"train\.tsv, line 3: label ''"),
        (b"0\ta\rb\tb\tentailment\n", r"train\.tsv, line 2: 2 fields .* and lines 3 are like it"),
        (b"", r"train\.tsv has no rows"),
    ],
)
def test_a_bad_row_is_an_error_with_file_and_line(lines, message, tmp_path):
    write_rte(tmp_path / "RTE", lines)
    with pytest.raises(ValueError, match=message):
        make("rte").load(tmp_path)


BROKEN = b"0\ta\n1\ta\tb\tentailment\n2\ta\tb\t\t\n3\n4\tc\td\tnot_entailment\n"


def test_broken_lines_are_left_out_and_counted_if_that_is_asked_for(tmp_path):
    write_rte(tmp_path / "RTE", BROKEN)
    splits = make("rte", broken_rows="drop").load(tmp_path)
    assert splits.train[:] == {"sentence1": ["a", "c"], "sentence2": ["b", "d"], "label": [0, 1]}
    assert splits.notes == ["rte: 3 broken lines of train.tsv left out"]
    with pytest.raises(ValueError, match=r"line 2: 2 fields .* by task\.broken_rows=drop"):
        make("rte").load(tmp_path)
    write_rte(tmp_path / "RTE", BROKEN + b"5\n6\ta\tb\tmaybe\n")
    with pytest.raises(ValueError, match="line 8: label 'maybe'"):  # its line in the file
        make("rte", broken_rows="drop").load(tmp_path)
    with pytest.raises(Exception, match="broken_rows must be null or drop, got 'skip'"):
        make("rte", broken_rows="skip")


def test_line_numbers_without_a_header(tmp_path):
    write_official(tmp_path / "CoLA", "cola")
    (tmp_path / "CoLA/dev.tsv").write_text("x\t1\t\tgood\nx\t7\t*\tbad\n")
    with pytest.raises(
        ValueError, match=r"dev\.tsv, line 2: label '7' is none of unacceptable \(0\)"
    ):
        make("cola").load(tmp_path)


def test_empty_lines_at_the_end_and_no_last_line_feed(tmp_path):
    write_rte(tmp_path / "RTE", b"0\ta\tb\tentailment\n\r\n\n")
    (tmp_path / "RTE/dev.tsv").write_text(
        "index\tsentence1\tsentence2\tlabel\n0\ta\tb\tnot_entailment"
    )
    splits = make("rte").load(tmp_path)
    assert (splits.train["label"][:], splits.evaluation["validation"]["label"][:]) == ([0], [1])


@pytest.mark.parametrize("header", ["index\tsentence1\tlabel", "sentence2\tsentence2\tlabel"])
def test_a_column_that_is_missing_or_there_twice_is_named_beside_all(header, tmp_path):
    write_rte(tmp_path / "RTE", b"0\ta\tb\n", header=f"{header}\n")
    with pytest.raises(
        ValueError, match=r"train\.tsv, line 1: no unique column .*'sentence2'; there are .*'label'"
    ):
        make("rte").load(tmp_path)


@pytest.mark.parametrize(
    "header", ["", "index\tsentence1\tsentence2\tlabel", "a\xff\tlabel\n0\t1\n"]
)
def test_what_is_no_table_is_an_error_that_names_the_file(header, tmp_path):
    write_official(tmp_path / "RTE", "rte")
    (tmp_path / "RTE/train.tsv").write_text(header, encoding="latin-1")
    message = r"train\.tsv(, line 1)?: not readable as a TSV in UTF-8 \("
    with pytest.raises(ValueError, match=message):
        make("rte").load(tmp_path)


@pytest.mark.parametrize("score", ["x", "5.1", "-1", "nan", ""])
def test_a_score_must_be_from_0_to_5(score, tmp_path):
    write_official(tmp_path / "STS-B", "stsb")
    with (tmp_path / "STS-B/train.tsv").open("a") as file:
        file.write("\t" * 7 + f"a\tb\t{score}\n")
    with pytest.raises(
        ValueError, match=rf"train\.tsv, line 26: score '{score}' is not a number from 0 to 5"
    ):
        make("stsb").load(tmp_path)


def test_missing_files_name_what_is_needed_and_what_is_there(tmp_path):
    write_tsv(tmp_path / "RTE/test.tsv", "rte", 3)
    with pytest.raises(
        FileNotFoundError, match=r"RTE has no train split.*train\.tsv, dev\.tsv.*it holds test\.tsv"
    ):
        make("rte").load(tmp_path)
    write_tsv(tmp_path / "RTE/train.tsv", "rte", 3)
    with pytest.raises(FileNotFoundError, match="RTE has no validation split"):
        make("rte").load(tmp_path)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"sentence1": ["a"], "label": [0]}, r"train\.parquet: no column 'sentence2'; there are"),
        (
            {"sentence1": ["a"], "sentence2": [3], "label": [0]},
            "column 'sentence2' holds int64 instead of text",
        ),
        (
            {"sentence1": ["a", "b"], "sentence2": ["c", None], "label": [0, 1]},
            "row 2: column 'sentence2' has no",
        ),
        (
            {"sentence1": ["a", "b"], "sentence2": ["c", "d"], "label": [0, -1]},
            "row 2: label -1 is none of",
        ),
        (
            {"sentence1": ["a"], "sentence2": ["c"], "label": [None]},
            "row 1: column 'label' has no value",
        ),
    ],
)
def test_bad_parquet(columns, message, tmp_path):
    write_official(tmp_path / "rte", "rte")
    (tmp_path / "rte/train.tsv").unlink()
    pq.write_table(pa.table(columns), tmp_path / "rte/train.parquet")
    with pytest.raises(ValueError, match=message):
        make("rte").load(tmp_path)


def test_broken_and_incomplete_parquet(tmp_path):
    (tmp_path / "rte").mkdir()
    file = tmp_path / "rte/train-00000-of-00002.parquet"
    file.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(FileNotFoundError, match="1 of the 2 files train-"):
        make("rte").load(tmp_path)
    file.rename(tmp_path / "rte/train.parquet")
    with pytest.raises(ValueError, match=r"train\.parquet: not readable as parquet"):
        make("rte").load(tmp_path)
