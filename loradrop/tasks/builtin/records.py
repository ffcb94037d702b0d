"""Records of things for sale, and sentences that state a whole record: mini_table2text."""

from __future__ import annotations

import random
from collections.abc import Sequence

from loradrop.tasks.builtin.language import lexicon as lex
from loradrop.tasks.builtin.language.grammar import article
from loradrop.tasks.builtin.language.lexicon import Synset

HELD_OUT = 5  # every fifth value occurs in validation only
COLOURS = ("red", "blue", "green", "yellow", "purple", "golden")
AGES = ("new", "ancient")
PRICES = ("cheap", "expensive")
DAYS = ("monday", "tuesday", "friday", "sunday")


def values(pool: list[Synset], training: bool) -> list[str]:
    """Return the first word of each set. Training lacks the held-out words."""
    words = [synset.words[0][0] for synset in pool]
    return [word for number, word in enumerate(words, start=1) if not training or number % HELD_OUT]


def things(training: bool) -> list[str]:
    """Return what can be sold and carried."""
    categories = ("tool", "garment", "instrument", "container", "toy", "machine")
    return values(
        [synset for category in categories for synset in lex.NOUN_SETS[category]], training
    )


def people(training: bool) -> list[str]:
    return values(lex.NOUN_SETS["worker"], training)


def places(training: bool) -> list[str]:
    return values(lex.PLACE_SETS, training)


class RecordGenerator:
    """Draw records. A call returns one as text, and its five sentences."""

    def __init__(self, rng: random.Random, training: bool) -> None:
        self.rng = rng
        self.pools: dict[str, Sequence[str]] = {
            "thing": things(training),
            "seller": people(training),
            "place": places(training),
            "colour": COLOURS,
            "age": AGES,
            "price": PRICES,
            "day": DAYS,
        }

    def __call__(self) -> tuple[str, list[str]]:
        """Return e.g. ("thing : guitar | seller : doctor | price : cheap", [sentences])."""
        optional = self.rng.sample(
            ("place", "colour", "age", "price", "day"), self.rng.randint(2, 4)
        )
        names = ["thing", "seller", *(name for name in self.pools if name in optional)]
        record = {name: self.rng.choice(self.pools[name]) for name in names}
        return " | ".join(f"{name} : {value}" for name, value in record.items()), sentences(record)


def sentences(record: dict[str, str]) -> list[str]:
    """Return five ways to state a record in one sentence; each names every value."""
    plain = _phrase(record, "age", "colour", "thing")
    full = _phrase(record, "price", "age", "colour", "thing")
    place = f" near the {record['place']}" if "place" in record else ""
    day = f" on {record['day']}" if "day" in record else ""
    price = f", and it is {record['price']}" if "price" in record else ""
    seller = f"the {record['seller']}"
    when = f"{day.strip()}, " if day else ""
    return [
        f"{seller} sells {plain}{place}{day}{price}.",
        f"{when}{seller} offers {full}{place}.",
        f"you can buy {full} from {seller}{place}{day}.",
        f"{full} is for sale{place}{day}, and {seller} sells it.",
        f"{when}{plain} can be bought from {seller}{place}{price}.",
    ]


def _phrase(record: dict[str, str], *names: str) -> str:
    """Return an indefinite noun phrase of those values that the record has."""
    words = [record[name] for name in names if name in record]
    return " ".join([article(words[0]), *words])
