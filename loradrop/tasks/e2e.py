"""The E2E data set (Novikova et al. 2017): descriptions of restaurants from up to eight attributes.

The files have two columns, `mr` and `ref`, and one row for each description:

    "name[The Anchor], eatType[pub], area[riverside]",The Anchor is a pub by the river.

Sources are written as in the data of the LoRA paper's scripts, but without the blanks that these
have around every mark (`20 - 25`): `name : The Anchor | Type : pub | area : riverside`.
"""

from __future__ import annotations

import csv
import re
from functools import cache
from pathlib import Path
from typing import ClassVar

from loradrop.tasks.official import OfficialTask
from loradrop.tasks.quoting import brief
from loradrop.tasks.text import Entry

COLUMNS = ["mr", "ref"]
# a name begins with no space: else a run of spaces could be divided in as many ways as it is long
ATTRIBUTE = re.compile(r"\s*([^\s\[\],][^\[\],]*)\[([^\[\]]*)\]\s*(?:,|$)")
# other names stay as they are
NAMES = {"eatType": "Type", "priceRange": "price", "familyFriendly": "family friendly"}


class E2E(OfficialTask):
    """Descriptions of restaurants.

    For evaluation, all references of one meaning representation form one example.
    """

    official_metric: ClassVar[str | None] = "loradrop.metrics.official.E2EChallenge"

    def read(self, path: Path, training: bool) -> list[Entry]:
        pairs = []
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file, strict=True)
            try:
                header = next(rows, [])
                if header != COLUMNS:
                    raise ValueError(f"the columns are {brief(header)} instead of {COLUMNS}")
                for row in rows:
                    if len(row) != len(COLUMNS):
                        raise ValueError(f"{len(row)} fields instead of {len(COLUMNS)}")
                    pairs.append((linearise(row[0]), row[1]))
            except (ValueError, csv.Error) as error:
                raise ValueError(f"{path}, line {rows.line_num}: {error}.") from None
        if training:
            return [(source, [text]) for source, text in pairs]
        groups: dict[str, list[str]] = {}
        for source, text in pairs:
            groups.setdefault(source, []).append(text)
        return list(groups.items())


@cache
def linearise(meaning: str) -> str:
    """Write `name[The Anchor], eatType[pub]` as `name : The Anchor | Type : pub`.

    Raises:
        ValueError: The text is not such a list.
    """
    parts, end = [], 0
    while match := ATTRIBUTE.match(meaning, end):
        parts.append(f"{NAMES.get(match[1], match[1])} : {match[2]}")
        end = match.end()
    if end != len(meaning) or not parts:
        raise ValueError(f"{brief(meaning)} is not of the form name[...], area[...]")
    return " | ".join(parts)
