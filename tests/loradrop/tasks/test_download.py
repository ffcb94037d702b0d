"""Official files: from a folder, or fetched once, whole and checked; without a network a run says
so within seconds.
"""

from __future__ import annotations

import hashlib
import http.server
import json
import socket
import threading

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import ROOT
from huggingface_hub.utils import disable_progress_bars, enable_progress_bars
from hydra.utils import instantiate
from omegaconf import OmegaConf

from loradrop import hub
from loradrop.tasks.download import cache_folder, fetch_file

CONF = ROOT / "conf/task"
NOWHERE = "http://127.0.0.1:1"
FILES = {"train": "train.json", "test": "test.xml"}
LINES = {"train": [("1+1?", "1+1=2\n#### 2"), ("2+2?", "#### 4")], "test": [("3+4?", "#### 7")]}


@pytest.fixture(autouse=True)
def cache(hub_home):
    yield hub_home
    enable_progress_bars()


def jsonl(split):
    return "".join(json.dumps({"question": q, "answer": a}) + "\n" for q, a in LINES[split])


def make(folder, url=NOWHERE, **changes):
    """GSM8K in small files of our own, written to `folder`, as if its repository were at `url`."""
    folder.mkdir(exist_ok=True)
    files = {}
    for split in LINES:
        (folder / f"{split}.jsonl").write_text(jsonl(split))
        digest = hashlib.sha256(jsonl(split).encode()).hexdigest()
        files[split] = {"name": f"{split}.jsonl", "rows": len(LINES[split]), "sha256": digest}
    config = OmegaConf.load(CONF / "gsm8k.yaml")
    return instantiate(OmegaConf.merge(config, {"files": files, "url": url}, changes))


@pytest.fixture
def no_hub(monkeypatch):
    monkeypatch.setattr(hub, "hub_available", lambda: False)


class Server(http.server.ThreadingHTTPServer):
    """Serves a text, and breaks off in the middle of it as often as `breaks` says."""

    text, breaks, asked = b"0123456789" * 1000, 0, 0

    def __init__(self):
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_HEAD(self):
                self.send_response(404)
                self.end_headers()

            def do_GET(self):
                server.asked += 1
                found = self.path == "/file.txt"
                self.send_response(200 if found else 404)
                self.send_header("Content-Length", str(len(server.text) if found else 0))
                self.end_headers()
                if found:
                    self.wfile.write(
                        server.text[:500] if server.asked <= server.breaks else server.text
                    )

            def log_message(self, *args):
                pass

        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


@pytest.fixture
def server():
    with Server() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def away(tmp_path):
    """The address of the folder `away`."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=tmp_path / "away")

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


SHA256 = hashlib.sha256(Server.text).hexdigest()


@pytest.mark.parametrize("switch", [enable_progress_bars, disable_progress_bars])
def test_a_file_is_fetched_once(switch, server, tmp_path):
    target = tmp_path / "cache/file.txt"
    switch()
    for _ in range(2):
        assert fetch_file(f"{server.url}/file.txt", target, SHA256).read_bytes() == Server.text
    assert server.asked == 1 and list(target.parent.iterdir()) == [target]


def test_a_broken_download_leaves_nothing_and_is_tried_again(server, tmp_path):
    server.breaks, target = 1, tmp_path / "cache/file.txt"
    with pytest.raises(
        FileNotFoundError,
        match=r"http.*file.txt is not in the local cache .* \(.*500 bytes read, 9500 more expected",
    ):
        fetch_file(f"{server.url}/file.txt", target, None)
    assert list(target.parent.iterdir()) == []
    assert fetch_file(f"{server.url}/file.txt", target, SHA256).read_bytes() == Server.text


def test_another_file_than_expected_and_none_at_all_are_errors(server, tmp_path):
    target = tmp_path / "cache/file.txt"
    with pytest.raises(FileNotFoundError, match="the known hash: expected abc but got"):
        fetch_file(f"{server.url}/file.txt", target, "abc")
    with pytest.raises(FileNotFoundError, match="404"):
        fetch_file(f"{server.url}/other.txt", target, SHA256)
    assert list(target.parent.iterdir()) == []


def test_a_damaged_file_is_fetched_again_and_never_read(server, tmp_path, monkeypatch):
    target = tmp_path / "file.txt"
    target.write_bytes(b"1" + Server.text[1:])
    with monkeypatch.context() as offline:
        offline.setenv("HF_HUB_OFFLINE", "1")
        with pytest.raises(FileNotFoundError, match=r"is damaged in the local cache .*OFFLINE is"):
            fetch_file(f"{server.url}/file.txt", target, SHA256)
    assert fetch_file(f"{server.url}/file.txt", target, SHA256).read_bytes() == Server.text
    assert server.asked == 1


@pytest.mark.parametrize("listens", [False, True], ids=["refuses", "never answers"])
def test_without_a_network_a_task_says_so(listens, tmp_path, no_hub, monkeypatch):
    monkeypatch.setattr(hub, "TIMEOUT", 0.2)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if listens:
            server.listen()
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(FileNotFoundError) as error:
            make(tmp_path / "away", url=f"{url}/data").load(tmp_path)
    for message in (
        str(tmp_path / "GSM8K"),
        f"{url} does not answer",
        "train.jsonl, test.jsonl",
        "paths.data",
    ):
        assert message in str(error.value)


def test_offline_asks_nobody(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(
        "huggingface_hub.utils.get_session", lambda: pytest.fail("the network was asked for")
    )
    with pytest.raises(FileNotFoundError, match="HF_HUB_OFFLINE is set"):
        make(tmp_path / "away", url="https://raw.githubusercontent.com/a/b").load(None)


def test_a_task_fetches_the_files_it_needs_and_keeps_them(tmp_path, no_hub, cache, away):
    task = make(tmp_path / "away", away)
    splits = task.load(None)
    folder = cache_folder("gsm8k", task.url)
    assert folder.parent == cache / "loradrop" and sorted(p.name for p in folder.iterdir()) == [
        "test.jsonl",
        "train.jsonl",
    ]
    assert splits.train[:] == {"source": ["1+1?", "2+2?"], "target": ["1+1=2\n#### 2", "#### 4"]}
    assert splits.evaluation["test"][:] == {"source": ["3+4?"], "references": [["#### 7"]]}
    for path in (tmp_path / "away").iterdir():
        path.unlink()
    assert task.load(None).fingerprint() == splits.fingerprint()


def test_a_file_of_another_format_is_checked_as_such(tmp_path, no_hub, away):
    entry = (
        "<entry><modifiedtripleset><mtriple>a | B |"
        " c</mtriple></modifiedtripleset><lex>one</lex></entry>"
    )
    (tmp_path / "away").mkdir()
    (tmp_path / "away/test.xml").write_text(f"<benchmark><entries>{entry}</entries></benchmark>")
    (tmp_path / "away/train.json").write_text(
        '[{"tripleset": [["a", "B", "c"]], "annotations": [{"text": "one"}]}]'
    )
    config = OmegaConf.load(CONF / "dart.yaml")
    config.url = away
    config.files = {s: {"name": f, "rows": 1} for s, f in FILES.items()}
    splits = instantiate(config).load(None)
    assert splits.train["source"][:] == splits.evaluation["test"]["source"][:] == ["a : b : c"]


def test_without_a_checksum_the_number_of_rows_tells(tmp_path, no_hub, away):
    def training(**file):
        files = {"train": {"name": "train.jsonl", "sha256": None, **file}}
        return make(tmp_path / "away", away, files=files)

    task = training(rows=3)
    for _ in range(2):  # the wrong file is not kept
        with pytest.raises(FileNotFoundError, match=r"train\.jsonl has 2 rows instead of 3"):
            task.load(None)
    assert len(training(rows=2).load(None).train) == 2
    with pytest.raises(Exception, match=r"train\.jsonl needs sha256 or rows"):
        training(rows=None)


def test_a_local_folder_comes_first_in_either_layout(tmp_path, no_hub, away):
    task = make(tmp_path / "away")
    want = make(tmp_path / "away", away).load(None).fingerprint()
    (tmp_path / "a").mkdir()
    (tmp_path / "away").rename(tmp_path / "a/GSM8K")
    parquet = tmp_path / "b/gsm8k/main"
    parquet.mkdir(parents=True)
    for split, lines in LINES.items():
        columns = dict(
            zip(("question", "answer"), map(list, zip(*lines, strict=True)), strict=True)
        )
        pq.write_table(pa.table(columns), parquet / f"{split}-00000-of-00001.parquet")
    assert (
        task.load(tmp_path / "a").fingerprint() == task.load(tmp_path / "b").fingerprint() == want
    )
    (parquet / "test-00000-of-00001.parquet").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"gsm8k has no test split\. It needs the official files"
    ):
        task.load(tmp_path / "b")


def test_the_hub_comes_before_the_repository(tmp_path, cache, monkeypatch):
    task = make(tmp_path / "away")
    folder = cache / "hub/datasets--openai--gsm8k/snapshots" / task.revision / "main"
    folder.mkdir(parents=True)
    for split, lines in LINES.items():
        columns = dict(
            zip(("question", "answer"), map(list, zip(*lines, strict=True)), strict=True)
        )
        pq.write_table(pa.table(columns), folder / f"{split}-00000-of-00001.parquet")
    monkeypatch.setattr(hub, "hub_available", lambda: pytest.fail("the network was asked for"))
    assert task.load(None).train["source"][:] == ["1+1?", "2+2?"]
