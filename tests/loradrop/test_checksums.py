"""Whatever bit of a file is changed: the content is the same as before, or the file is refused."""

from __future__ import annotations

import json
import random
import subprocess

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from loradrop.checksums import (
    check_tensors,
    matches,
    read_json,
    seal,
    unseal,
    write_beside,
    write_json,
)
from loradrop.io.files import read_tensors, write_tensors

CONTENT = {"y": {1: 0.1, 10: 1 / 3, 2: 5}, "layers": (0, 7), "text": "naïve", "none": None}
STATE = {"a.lora_A": torch.arange(12.0).reshape(3, 4), "b": torch.ones(5, dtype=torch.bfloat16)}


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def test_json_is_read_as_it_was_written(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, CONTENT, indent=1)
    assert read_json(path) == json.loads(json.dumps(CONTENT))
    path.write_text(json.dumps(json.loads(path.read_text()), sort_keys=True))  # laid out anew
    assert read_json(path) == json.loads(json.dumps(CONTENT))
    path.write_text(json.dumps(CONTENT))  # from before there were checksums
    assert read_json(path) == json.loads(json.dumps(CONTENT))


def test_every_bit_of_json(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, CONTENT)
    whole, content, refused = path.read_bytes(), read_json(path), 0
    for bit in range(8 * len(whole)):
        path.write_bytes(flipped(whole, bit))
        try:
            found = read_json(path)
        except ValueError as error:
            assert f"{path} is damaged (" in str(error)
            refused += 1
        else:  # only a name of the checksum that is no longer its name can pass
            assert content.items() <= found.items()
    assert refused > 0.8 * 8 * len(whole)


@pytest.mark.parametrize("text", ["", "[]", "3", "[" * 100_000, '{"a": ' * 100_000, "\ud800"])
def test_what_is_no_json_object_is_damaged(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(ValueError, match="is damaged"):
        read_json(path)


def test_a_changed_value_does_not_match():
    sealed = seal(CONTENT)
    assert unseal(json.loads(json.dumps(sealed)))["none"] is None
    with pytest.raises(ValueError, match="does not match its checksum"):
        unseal(json.loads(json.dumps({**sealed, "text": "naive"})))


def test_every_bit_of_tensors(tmp_path):
    path = tmp_path / "a.safetensors"
    write_tensors(STATE, path, {"format": "pt", "epoch": "2"})
    whole = path.read_bytes()
    tensors, metadata = read_tensors(path)
    assert metadata["epoch"] == "2" and all(torch.equal(tensors[k], STATE[k]) for k in STATE)
    passed = 0
    for bit in range(8 * len(whole)):
        path.write_bytes(flipped(whole, bit))
        try:
            found, _ = read_tensors(path)
        except ValueError as error:
            assert "is damaged" in str(error)
        else:
            passed += 1
            assert all(torch.equal(found[k], STATE[k]) for k in STATE)
    assert passed < 8 * 16  # the name `checksum`, and spaces


def test_equal_tensors_make_equal_bytes(tmp_path):
    names = [f"key{i}" for i in range(8)]
    for order in range(3):
        random.Random(order).shuffle(names)
        write_tensors(STATE, tmp_path / str(order), dict.fromkeys(names, "ü\n"))
    assert len({(tmp_path / str(order)).read_bytes() for order in range(3)}) == 1


def test_tensors_without_a_checksum_are_read(tmp_path):
    from safetensors.torch import save_file

    save_file(STATE, tmp_path / "old")
    check_tensors(tmp_path / "old")
    assert set(read_tensors(tmp_path / "old")[0]) == set(STATE)
    for content in (b"", b"cut", (1 << 62).to_bytes(8, "little") + b"{}"):
        (tmp_path / "cut").write_bytes(content)
        with pytest.raises(ValueError, match="is damaged"):
            read_tensors(tmp_path / "cut")
    with pytest.raises(SafetensorError):
        load_file(tmp_path / "cut")


def test_a_checksum_beside_a_file_is_that_of_sha256sum(tmp_path):
    path = tmp_path / "a.arrow"
    path.write_bytes(b"abc")
    assert matches(path) is None
    write_beside(path)
    assert matches(path)
    subprocess.run(["sha256sum", "-c", "a.arrow.sha256"], cwd=tmp_path, check=True)
    path.write_bytes(b"abd")
    assert matches(path) is False
