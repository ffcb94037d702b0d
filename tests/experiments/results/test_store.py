"""Results in folders and archives: found, read, and refused where they are not what they
should be."""

from __future__ import annotations

import json

import pytest
from helpers import result_files

from experiments import archive as archive_command
from experiments import results
from experiments.config.schema import UserError
from experiments.results import archive, store

DEMO = ("experiment=demo", "method=lora,lora_drop", "seed=0,1")


@pytest.fixture
def outputs(tmp_path):
    result_files.write(tmp_path / "outputs", *DEMO)
    return tmp_path / "outputs"


def archived(outputs, target):
    arguments = ["demo", *DEMO[1:], f"paths.outputs={outputs}", "--to", str(target)]
    assert archive_command.main(arguments) == 0


def test_what_is_written_is_read(outputs):
    for id in store.ids(outputs):
        assert results.read(outputs, id).id == id and results.finished_result(outputs, id)
    assert results.read(outputs, "none") is None and len(list(store.ids(outputs))) == 4


def test_the_result_of_another_run_is_refused(outputs):
    one, other = list(store.ids(outputs))[:2]
    store.run_folder(outputs, one).joinpath(store.RESULT).write_bytes(
        store.run_folder(outputs, other).joinpath(store.RESULT).read_bytes()
    )
    with pytest.raises(UserError, match=f"it is the result of {other}"):
        results.read(outputs, one)


def test_a_failed_run_is_read_but_not_finished(outputs):
    (config,) = store_configs("method=lora_drop_no_share", "seed=0")
    result_files.fail(outputs, config, "Traceback")
    assert results.read(outputs, config["id"]).error == "Traceback"
    assert results.finished_result(outputs, config["id"]) is None
    frame = results.load(["experiment=demo", "method=lora_drop_no_share", "seed=0"], outputs)
    assert frame.status.tolist() == [results.FAILED] and frame.error.tolist() == ["Traceback"]


def store_configs(*overrides):
    from experiments.config.sweep import run_configs

    return run_configs(["experiment=demo", *overrides])


def test_an_archive_reads_like_the_folder_it_was_made_from(outputs, tmp_path):
    first = next(store.ids(outputs))
    results.write_analysis(outputs, first, "removal", {"version": 1, "layers": [1]})
    archived(outputs, tmp_path / "kept")
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["tiny_roberta.jsonl"]
    assert list(store.ids(tmp_path / "kept")) == list(store.ids(outputs))
    mine, kept = (results.load(DEMO, folder) for folder in (outputs, tmp_path / "kept"))
    assert mine.equals(kept) and results.times(outputs).equals(results.times(tmp_path / "kept"))
    assert results.over_seeds(mine).equals(results.over_seeds(kept))
    assert results.read_analysis(tmp_path / "kept", first, "removal") == {
        "version": 1,
        "layers": [1],
    }
    assert results.read_analysis(tmp_path / "kept", first, "distribution") is None


def test_an_archive_is_sorted_and_never_replaces_a_line(outputs, tmp_path, capsys):
    archived(outputs, tmp_path)
    assert "stay" not in capsys.readouterr().out
    file = tmp_path / "tiny_roberta.jsonl"
    before = file.read_text()
    ids = [json.loads(line)["id"] for line in before.splitlines()]
    assert ids == sorted(ids) and len(ids) == 4
    result_files.write(outputs, *DEMO, metrics=lambda _: [0.1])
    archived(outputs, tmp_path)
    assert file.read_text() == before
    assert "4 lines stay, with other numbers: tiny_roberta-" in capsys.readouterr().out


def test_a_line_gets_the_later_measurements_that_it_lacks(outputs, tmp_path):
    archived(outputs, tmp_path)
    first, second = list(store.ids(outputs))[:2]
    results.write_analysis(outputs, first, "removal", {"version": 1})
    results.write_analysis(outputs, second, "removal", {"version": 2})
    line = archive.lines(tmp_path)[second]
    had = {**archive.lines(tmp_path), second: {**line, archive.ANALYSES: {"removal": {}}}}
    archive.write(tmp_path, had.values())
    archived(outputs, tmp_path)
    assert results.read_analysis(tmp_path, first, "removal") == {"version": 1}
    assert results.read_analysis(tmp_path, second, "removal") == {}  # it had one


def test_a_line_gets_no_measurement_of_a_model_with_other_scores(outputs, tmp_path):
    archived(outputs, tmp_path)
    result_files.write(outputs, *DEMO, metrics=lambda _: [0.1])
    first = next(store.ids(outputs))
    results.write_analysis(outputs, first, "removal", {"version": 1})
    archived(outputs, tmp_path)
    assert results.read_analysis(tmp_path, first, "removal") is None


def test_a_run_folder_comes_before_a_line(outputs, tmp_path):
    archived(outputs, tmp_path)
    (run,) = result_files.write(
        tmp_path, "experiment=demo", "method=lora", "seed=0", metrics=lambda _: [0.25]
    )
    assert results.read(tmp_path, run.id).metrics.primary_at("best") == 0.25
    assert len(list(store.ids(tmp_path))) == 4


@pytest.mark.parametrize("text", ["{", "[]", "null", "{}"])
def test_a_damaged_line_is_named(tmp_path, text):
    (tmp_path / "x.jsonl").write_text(f"{text}\n")
    with pytest.raises(UserError, match=r"x\.jsonl, line 1"):
        results.read(tmp_path, "id")


def test_an_id_stands_for_one_line(outputs, tmp_path):
    archived(outputs, tmp_path)
    line = json.loads((tmp_path / "tiny_roberta.jsonl").read_text().splitlines()[0])
    (tmp_path / "z.jsonl").write_text(json.dumps({**line, "notes": ["other"]}) + "\n")
    with pytest.raises(UserError, match="has the id"):
        archive.lines(tmp_path)


def test_a_line_that_is_no_result_is_damaged(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"schema": 2, "id": "a", "status": "finished"}\n')
    with pytest.raises(UserError, match="line of a is damaged"):
        results.read(tmp_path, "a")
