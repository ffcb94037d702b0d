"""DART 1.1.1 (Nan et al. 2021): sentences from sets of triples.

The training and dev files are JSON, the test file is XML:

    [{"tripleset": [["the bridge", "BUILT", "1901"], ...],
      "annotations": [{"text": "..."}, ...]}, ...]
    <entry><modifiedtripleset><mtriple>the bridge | BUILT | 1901</mtriple>...</modifiedtripleset>
    <lex>...</lex>...</entry>

Sources are written as the LoRA paper's scripts do (format_converting_dart.py), with the relation in
lower case: `the bridge : built : 1901 | ...`. Each entry is one evaluation example, as the authors
count them: 938 entries of test (891 of them word for word) and 47 of dev repeat the triples of
another entry.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar
from xml.etree import ElementTree

from loradrop.tasks.official import OfficialTask
from loradrop.tasks.quoting import brief
from loradrop.tasks.text import Entry


class Dart(OfficialTask):
    """Sentences from sets of triples."""

    official_metric: ClassVar[str | None] = "loradrop.metrics.official.LoRADart"

    def read(self, path: Path, training: bool) -> list[Entry]:
        try:
            entries = list(xml_entries(path) if path.suffix == ".xml" else json_entries(path))
        except (json.JSONDecodeError, ElementTree.ParseError, RecursionError) as error:
            raise ValueError(f"{path} cannot be read: {error}.") from None
        read = []
        for number, (triples, texts) in enumerate(entries, start=1):
            broken = [one for one in triples if not is_triple(one)]
            if broken or not triples:
                shown = brief(broken[0]) if broken else "nothing"
                raise ValueError(f"{path}, entry {number}: {shown} is no triple.")
            read.append((linearise(triples), texts))
        return read


def json_entries(path: Path) -> Iterable[tuple[list[list[str]], list[str]]]:
    """Yield (triples, texts) for each entry of the training or dev file."""
    entries = json.loads(path.read_text(encoding="utf-8-sig"))
    if not isinstance(entries, list):
        raise ValueError(f"{path}: it is no list of entries.")
    for number, entry in enumerate(entries, start=1):
        try:
            yield (
                list(entry["tripleset"]),
                [annotation["text"] for annotation in entry["annotations"]],
            )
        except (KeyError, TypeError):
            raise ValueError(
                f"{path}, entry {number}: it needs tripleset, and annotations with text."
            ) from None


def xml_entries(path: Path) -> Iterable[tuple[list[list[str]], list[str]]]:
    """Yield (triples, texts) for each entry of the test file."""
    for entry in ElementTree.parse(path).getroot().iterfind("entries/entry"):
        triples = [
            (triple.text or "").split(" | ")
            for triple in entry.iterfind("modifiedtripleset/mtriple")
        ]
        yield triples, [text.text or "" for text in entry.iterfind("lex")]


def is_triple(one: Any) -> bool:
    return isinstance(one, list) and len(one) == 3 and all(isinstance(part, str) for part in one)


def linearise(triples: Iterable[list[str]]) -> str:
    """Write [[subject, RELATION, object], ...] as `subject : relation : object | ...`."""
    return " | ".join(
        f"{subject} : {relation.lower()} : {value}" for subject, relation, value in triples
    )
