"""Without a Hub: what is on the disk is used, and what is not fails soon and says where it would
be.
"""

import socket
import subprocess
import sys
import threading

import pytest
from conftest import ROOT
from datasets import Dataset
from huggingface_hub import constants
from hydra.utils import instantiate
from omegaconf import OmegaConf

from loradrop import hub

CONF = ROOT / "conf/task"


def make(name):
    return instantiate(OmegaConf.load(CONF / f"{name}.yaml"))


@pytest.fixture(autouse=True)
def cache(hub_home):
    return hub_home / "hub"


def fill(cache, task, splits):
    """What an earlier download leaves in the cache."""
    folder = cache / "datasets--nyu-mll--glue/snapshots" / task.revision / task.config
    folder.mkdir(parents=True)
    rows = Dataset.from_dict({column: ["a", "b"] for column in task.columns} | {"label": [0, 1]})
    for split in splits:
        rows.to_parquet(str(folder / f"{split}-00000-of-00001.parquet"))


def assert_fails(folder, *messages):
    with pytest.raises(FileNotFoundError) as error:
        make("rte").load(folder.parent)
    for message in (str(folder), "train.tsv, dev.tsv", "paths.data", *messages):
        assert message in str(error.value)


def test_find_local(tmp_path):
    (tmp_path / "RTE").mkdir()
    (tmp_path / "cola").touch()
    assert hub.find_local(tmp_path, "rte2", "RTE") == tmp_path / "RTE"
    assert hub.find_local(tmp_path, "cola") is None  # a file
    assert hub.find_local(tmp_path / "absent", "RTE") is None
    assert hub.find_local(None, "RTE") is None


def test_offline_asks_nobody(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("huggingface_hub.utils.get_session", lambda: asked.append(1))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert_fails(tmp_path / "RTE", "HF_HUB_OFFLINE is set")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    assert asked == []
    hub.hub_available()
    hub.hub_available()
    assert asked == [1]  # once per process


@pytest.mark.parametrize("listens", [False, True], ids=["refuses", "never answers"])
def test_an_unreachable_hub_is_given_up(listens, tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "TIMEOUT", 0.2)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if listens:
            server.listen()
        endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        assert_fails(tmp_path / "RTE", f"{endpoint} does not answer")


def test_a_slow_look_up_of_the_name_does_not_count(tmp_path, monkeypatch):
    done, waited = threading.Event(), []
    monkeypatch.setattr(hub, "TIMEOUT", 0.1)
    # the client's own timeout does not cover it
    monkeypatch.setattr(
        "huggingface_hub.utils.get_session",
        lambda: done.wait(600) or waited.append("until the name was found"),
    )
    assert_fails(tmp_path / "RTE", "does not answer")
    assert not waited
    done.set()


@pytest.mark.parametrize(("status", "there"), [(200, True), (404, True), (503, False)])
def test_a_server_error_is_no_hub(status, there, monkeypatch):
    class Session:
        def head(self, url, timeout):
            assert timeout <= 3
            return type("Response", (), {"status_code": status})

    monkeypatch.setattr("huggingface_hub.utils.get_session", Session)
    assert hub.hub_available() is there


def test_what_is_cached_needs_no_network(cache, tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "hub_available", lambda: pytest.fail("the network was asked for"))
    fill(cache, make("rte"), ["train", "validation"])
    splits = make("rte").load(tmp_path)
    assert (len(splits.train), list(splits.evaluation), splits.notes) == (2, ["validation"], [])


@pytest.mark.parametrize(
    ("task", "splits"), [("qnli", ["train", "validation"]), ("rte", ["train"])]
)
def test_part_of_the_repository_in_the_cache_is_not_enough(
    task, splits, cache, tmp_path, monkeypatch
):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    fill(cache, make(task), splits)
    assert_fails(tmp_path / "RTE", "not in the local cache")


def test_a_pin_that_is_gone_says_so(tmp_path, monkeypatch):
    def gone(repo_id, local_files_only=False, **kwargs):
        raise FileNotFoundError if local_files_only else ValueError("404: no such revision\nmore")

    monkeypatch.setattr(hub, "hub_available", lambda: True)
    monkeypatch.setattr("huggingface_hub.snapshot_download", gone)
    assert_fails(
        tmp_path / "RTE", make("rte").revision, "failed (ValueError: 404: no such revision)"
    )


def test_the_module_is_light():
    code = (
        "import sys, loradrop.hub; print({'torch', 'transformers', 'datasets'} & set(sys.modules))"
    )
    assert (
        subprocess.check_output([sys.executable, "-c", code], encoding="utf-8").strip() == "set()"
    )
