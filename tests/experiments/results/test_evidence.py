"""The results that the project ships: valid, under their own ids, each of an experiment."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments import results
from experiments.config.catalog import catalog
from experiments.config.identity import run_id
from experiments.config.sweep import run_configs
from experiments.results import archive, store

EVIDENCE = Path(archive.__file__).parents[1] / "evidence"


def test_every_line_is_a_finished_result_under_its_own_id():
    ids = list(archive.lines(EVIDENCE))
    assert len(ids) > 200 and not (EVIDENCE / "runs").exists()
    for id in ids:
        result = results.finished_result(EVIDENCE, id)
        assert result.id == id == run_id(result.config)
        assert archive.file_of(EVIDENCE, id).stem == result.backbone


def test_files_are_sorted_and_as_they_are_written(tmp_path):
    archive.write(tmp_path, archive.lines(EVIDENCE).values())
    files = sorted(EVIDENCE.glob("*.jsonl"))
    assert [path.name for path in sorted(tmp_path.iterdir())] == [path.name for path in files]
    assert all((tmp_path / path.name).read_bytes() == path.read_bytes() for path in files)


def test_analyses_are_read_from_the_lines():
    with_analyses = {
        id: line[archive.ANALYSES]
        for id, line in archive.lines(EVIDENCE).items()
        if archive.ANALYSES in line
    }
    assert with_analyses and all(
        set(names) <= set(store.ANALYSES) for names in with_analyses.values()
    )
    for id, analyses in with_analyses.items():
        for name, content in analyses.items():
            assert results.read_analysis(EVIDENCE, id, name) == content


@pytest.mark.slow
def test_every_line_belongs_to_an_experiment():
    planned = set()
    for entry in catalog().values():
        for mini in {False, bool(entry.mini)}:
            planned |= {config["id"] for config in run_configs(entry.overrides(mini))}
    assert set(archive.lines(EVIDENCE)) <= planned
