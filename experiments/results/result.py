"""Typed results: the one definition of a valid result file. Does not import torch.

A finished run has a `Result`, a failed one a `Failure`. Unknown fields are kept, so results can
record more about their environment without a new schema.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
    model_validator,
)

from experiments.config.identity import COUNTED, names_of
from experiments.config.schema import UserError
from experiments.results.migration import SCHEMA, migrate
from loradrop.checksums import loads

FINISHED, FAILED = "finished", "failed"
Which = Literal["best", "last"]
AGGREGATES: tuple[Which, ...] = ("best", "last")  # epoch
# scores that are no fractions, and scores of which the lower is the better
NO_FRACTIONS, LOWER_IS_BETTER = ("e2e_nist", "e2e_cider"), ("dart_ter",)
Layer = Annotated[int, Field(strict=False)]  # JSON's keys are texts


class Part(BaseModel):
    """A part of a result, checked on creation and immutable afterwards."""

    model_config = ConfigDict(frozen=True, strict=True, extra="allow", allow_inf_nan=False)


class EpochScores(Part):
    """The numbers of an epoch: the loss, and metrics in their own units, most of them fractions."""

    __pydantic_extra__: dict[str, float] = Field(init=False)

    epoch: PositiveInt
    train_loss: float

    @property
    def scores(self) -> dict[str, float]:
        """The metrics by name."""
        return self.__pydantic_extra__


def as_shown(key: str, value: float) -> float:
    """A score as tables show it: in percent if it is a fraction.

    Args:
        key: The metric, which may end in the name of a split.
        value: Its value in a result file.
    """
    return value if key.startswith(NO_FRACTIONS) else 100 * value


class Metrics(Part):
    """The scores of a run, epoch by epoch."""

    primary: str  # the metric that picks the best epoch
    epochs: list[EpochScores]
    best: EpochScores
    last: EpochScores

    @model_validator(mode="after")
    def _has_primary(self) -> Self:
        if not (self.primary in self.best.scores and self.primary in self.last.scores):
            raise ValueError(f"the best or the last epoch lacks {self.primary}, the primary metric")
        return self

    def at(self, which: Which) -> EpochScores:
        """The best or the last epoch."""
        return self.best if which == "best" else self.last

    def primary_at(self, which: Which) -> float:
        """The primary metric at the best or the last epoch, as a fraction."""
        return self.at(which).scores[self.primary]


class Parameters(Part):
    """Counts of parameters."""

    adapter: NonNegativeInt  # trainable, outside the head; shared ones once, no masked ones
    head: NonNegativeInt  # trainable, in the head
    total: NonNegativeInt  # all of the model, with adapter and head
    lora_parameters: NonNegativeInt | None  # of plain LoRA at the same rank and targets


class ImportanceRecord(Part):
    """A measurement of importance: module type -> layer -> number."""

    values: dict[str, dict[Layer, float]]  # g_i
    normalized: dict[str, dict[Layer, float]]  # y_i
    parameters: dict[str, dict[Layer, int]]
    tokens: int


class PlanRecord(Part):
    """The layers of each module type that kept their own LoRA, and the others."""

    kept: dict[str, list[int]]
    others: dict[str, list[int]]
    share: bool  # whether the others share one LoRA
    lora_parameters: int  # of plain LoRA in all layers
    parameters: int  # of this plan, each shared LoRA counted once


class ConstraintsRecord(Part):
    """How the environment compares with constraints.txt."""

    equal: bool
    different: dict[str, str]  # package -> installed version


class Record(Part):
    """What every result file contains, for finished and failed runs."""

    status: ClassVar[str]

    id: str
    config: dict[str, Any]  # resolved, without paths
    started: str  # ISO 8601, UTC
    versions: dict[str, str]
    hardware: dict[str, Any]
    git_commit: str | None  # "+" at the end: tracked files were changed
    constraints: ConstraintsRecord | None = (
        None  # None: the file was missing, or the result is older
    )

    @model_validator(mode="after")
    def _has_names(self) -> Self:
        """Names become those of files, and a damaged config would fail far from here."""
        if lacking := [key for key in COUNTED if key not in self.config]:
            raise ValueError(f"config.{lacking[0]} is missing")
        try:
            names_of(self.config)
        except UserError as error:
            raise ValueError(f"config.{error}") from None
        return self

    @property
    def backbone(self) -> str:
        return self.config["backbone"]["name"]

    @property
    def task(self) -> str:
        return self.config["task"]["name"]

    @property
    def method(self) -> str:
        return self.config["method"]["name"]


class Result(Record):
    """The result of a finished run."""

    status: ClassVar[str] = FINISHED

    metrics: Metrics | None  # None: recipe.epochs=0, only measured
    parameters: Parameters
    importance: ImportanceRecord | None
    plan: PlanRecord | None
    seconds: dict[str, float]  # wall time of each stage
    train_rows: int
    evaluated_on: dict[str, int]  # split -> rows
    notes: list[str]
    data_fingerprint: str  # of all texts and labels
    weights_fingerprint: str  # of the backbone's files, or its Hub revision
    stage1_cached: bool | None = None  # whether an earlier run did stage 1; None: no stage 1
    tokens_per_second: float | None = None  # of fine-tuning, padding excluded
    peak_memory_bytes: dict[str, int] = {}  # gpu: torch's peak; process: resident

    @property
    def total_seconds(self) -> float:
        """The wall time of all stages."""
        return sum(self.seconds.values())

    def layers(self) -> Iterator[tuple[str, int, float, bool]]:
        """Module type, layer, importance y_i, whether it kept its own LoRA; none without a plan."""
        if self.importance and self.plan:
            for kind, shares in self.importance.normalized.items():
                own = self.plan.kept[kind]
                yield from ((kind, layer, y, layer in own) for layer, y in shares.items())


class Failure(Record):
    """The record of a failed run."""

    status: ClassVar[str] = FAILED

    error: str  # the traceback


def parse(text: str | bytes) -> Result | Failure:
    """Read a result from JSON, also of an older schema.

    Raises:
        ValueError: If it is damaged or not a valid result; the message names the key.
    """
    return from_plain(loads(text))


def from_plain(plain: Any) -> Result | Failure:
    """Like `parse`, but from decoded JSON."""
    if not isinstance(plain, dict):
        raise ValueError("it is not a JSON object")
    fields = migrate(plain)
    status = fields.pop("status", None)
    kinds: dict[Any, type[Result] | type[Failure]] = {FINISHED: Result, FAILED: Failure}
    if status not in kinds:
        raise ValueError(f"status is neither {FINISHED} nor {FAILED}: {status!r}")
    try:
        return kinds[status].model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(f"{where}: {first['msg']}".removeprefix(": ")) from None


def to_plain(record: Result | Failure) -> dict[str, Any]:
    """Convert a result to JSON values, as its file has them."""
    fields = record.model_dump(mode="json", exclude_unset=True)
    return {"schema": SCHEMA, "id": fields.pop("id"), "status": record.status, **fields}
