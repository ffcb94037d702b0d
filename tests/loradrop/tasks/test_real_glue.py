"""The official files themselves, where a folder with them is named by LORADROP_DATA."""

import csv
from collections import Counter

import pytest
from conftest import ROOT
from hydra.utils import instantiate
from isolation import DATA
from omegaconf import OmegaConf

CONF = ROOT / "conf/task"

# rows of the whole official files, and of their evaluation sets; QNLI, QQP and MNLI may be cut to
# fewer
ROWS = {
    "cola": (8551, 1043),
    "sst2": (67349, 872),
    "rte": (2490, 277),
    "mrpc": (3668, 408),
    "stsb": (5749, 1500),
}
AT_MOST = {"qnli": (104743, 5463), "qqp": (363846, 40430), "mnli": (392702, 9815 + 9832)}


def load(name):
    task = instantiate(OmegaConf.load(CONF / f"{name}.yaml"))
    folder = DATA / task.official
    if not folder.is_dir():
        pytest.skip(f"{task.official} is not in LORADROP_DATA")
    return task, folder, task.load(DATA)


def plain(path, header):
    """The rows as the csv module reads them, for comparison."""
    with path.open(encoding="utf-8-sig", newline="\n") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE, fieldnames=header))


@pytest.mark.real_data
@pytest.mark.parametrize("name", sorted(ROWS | AT_MOST))
def test_official_files(name):
    task, folder, splits = load(name)
    sizes = len(splits.train), sum(len(rows) for rows in splits.evaluation.values())
    if name in ROWS:
        assert sizes == ROWS[name]
    else:
        assert 0 < sizes[0] <= AT_MOST[name][0]
        assert 0 < sizes[1] <= AT_MOST[name][1]

    files = {"train": splits.train}
    for part, rows in splits.evaluation.items():
        files["dev" if part == "validation" else f"dev_{part}"] = rows
    for stem, rows in files.items():
        want = plain(folder / f"{stem}.tsv", task.tsv_header)
        names = {
            column: task.tsv_columns.get(column, column) for column in (*task.columns, "label")
        }
        for column in task.columns:
            assert rows[column][:] == [row[names[column]] for row in want]
        if task.is_regression:
            assert rows["label"][:] == pytest.approx([float(row[names["label"]]) for row in want])
        else:
            ids = [row[names["label"]] for row in want]
            ids = [int(x) if x.isdigit() else task.labels.index(x) for x in ids]
            assert rows["label"][:] == ids
            assert set(Counter(ids)) == set(range(task.num_labels))


@pytest.mark.real_data
def test_a_missing_part_of_mnli_is_noted():
    _, folder, splits = load("mnli")
    missing = [p for p in ("matched", "mismatched") if not (folder / f"dev_{p}.tsv").exists()]
    assert len(splits.notes) == len(missing)
    assert all(part in note for part, note in zip(missing, splits.notes, strict=True))
