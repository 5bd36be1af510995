"""The declaration of a staged rollout: a flag, and the stages in which rows get it; notebook rollout follows it.

A project keeps each in a file of its own, ``rollouts/<name>.yaml``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator, model_validator

from pgrunbook.config import regular_file
from pgrunbook.errors import WrongInput

NAME = r"^[a-z0-9][a-z0-9_-]{0,39}$"
REMOVE = "remove"  # what a person accepts to let the flag go, so that no stage has this name
HASH_VALUES = 2**32

Value = bool | int | str
RowKey = Annotated[tuple[Value, ...], Field(min_length=1)]
StageName = Annotated[str, StringConstraints(pattern=NAME)]


class _Declared(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class RolloutMetric(_Declared):
    """A query that gives one number, and where that number has to be.

    It is asked every ``every_s`` seconds while a run is there, for ``timeout_s`` at most; the metric has fallen when
    ``bad_in_a_row`` answers are outside.
    """

    query: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
    at_most: float | None = None
    at_least: float | None = None
    every_s: float = Field(default=10.0, ge=0.1, le=86_400)
    bad_in_a_row: int = Field(default=1, ge=1, le=100)
    timeout_s: float = Field(default=10.0, gt=0, le=3_600)

    @model_validator(mode="after")
    def _bounded(self) -> RolloutMetric:
        if self.at_most is None and self.at_least is None:
            raise ValueError("a metric has at_most, at_least or both")
        return self

    def is_ok(self, value: float) -> bool:
        """Tell whether a number is where it has to be."""
        return (self.at_most is None or value <= self.at_most) and (self.at_least is None or value >= self.at_least)

    @property
    def bounds(self) -> str:
        """The threshold in words."""
        told = [(self.at_least, "at least"), (self.at_most, "at most")]
        return ", ".join(f"{word} {limit:g}" for limit, word in told if limit is not None)


class RolloutStage(_Declared):
    """One stage: who gets the flag (``keys``, a ``share`` in percent, or ``all``), and what lets it begin and last.

    ``rows`` are the rows that it is expected to change, one number or the lowest and the highest. A person lets it
    ``go``, or the metric of the stage before it, once that has held for its ``hold_s`` seconds.
    """

    name: StageName
    keys: tuple[RowKey, ...] | None = None
    share: float | None = Field(default=None, gt=0, lt=100)
    all: Literal[True] | None = None
    rows: int | tuple[int, int] | None = None
    hold_s: float = Field(default=0.0, ge=0, le=31_536_000)
    go: Literal["person", "metric"] = "person"
    metric: RolloutMetric | None = None

    @field_validator("keys", mode="before")
    @classmethod
    def _listed(cls, given: object) -> object:
        if not isinstance(given, list):
            return given
        return tuple(tuple(one) if isinstance(one, list) else (one,) for one in given)

    @field_validator("rows", mode="before")
    @classmethod
    def _range(cls, given: object) -> object:
        return tuple(given) if isinstance(given, list) else given

    @field_validator("share", mode="before")
    @classmethod
    def _percent(cls, given: object) -> object:
        return float(given) if isinstance(given, int) and not isinstance(given, bool) else given

    @model_validator(mode="after")
    def _one_of(self) -> RolloutStage:
        if sum(one is not None for one in (self.keys, self.share, self.all)) != 1:
            raise ValueError(f"stage {self.name} has to have one of keys, share and all")
        if self.keys is not None:
            texts = [tuple(map(_text, key)) for key in self.keys]
            if not texts:
                raise ValueError(f"stage {self.name} names nobody: its list of keys is empty")
            twice = sorted({", ".join(key) for key in texts if texts.count(key) > 1} if len(texts) < 5_000 else ())
            if twice or len(set(texts)) < len(texts):
                raise ValueError(f"stage {self.name} names a key twice{': ' if twice else ''}{'; '.join(twice[:5])}")
        low, high = self.expected or (0, 0)
        if low < 0 or high < low:
            raise ValueError(f"stage {self.name} expects {low} to {high} rows")
        return self

    @property
    def texts(self) -> list[tuple[str, ...]]:
        """The keys of a list as text, [] for a stage without a list."""
        return [tuple(map(_text, key)) for key in self.keys or ()]

    @property
    def expected(self) -> tuple[int, int] | None:
        """The lowest and highest number of rows expected, None where any number is."""
        if self.rows is None:
            return None
        return (self.rows, self.rows) if isinstance(self.rows, int) else self.rows

    @property
    def bound(self) -> int:
        """The hash of a key is below this in a stage by share."""
        return int(HASH_VALUES * (self.share or 0.0) / 100)

    @property
    def who(self) -> str:
        """Who gets the flag, in words."""
        if self.keys is not None:
            return f"a list of {len(self.keys):,}"
        return f"{self.share:g} % by hash" if self.share is not None else "all"

    @property
    def digest(self) -> str:
        """A digest of who gets the flag, which is fixed once the stage has begun."""
        return _digest([self.name, self.texts, self.share, self.all])


class DeclaredRollout(_Declared):
    """A flag column, its value before and after, and the stages; ``type`` is for a column that is not there yet.

    Where the flag is in a table of its own, with a row for some only, ``of`` is the table whose rows are rolled out.

    ``salt`` makes the shares of two rollouts independent of each other; it is the rollout's name where none is given.
    ``metric`` is that of every stage without one of its own.
    """

    name: StageName
    table: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
    column: Annotated[str, StringConstraints(min_length=1, max_length=63)]
    of: str = ""
    type: str = "boolean"
    disabled: Value = False
    enabled: Value = True
    salt: str = ""
    metric: RolloutMetric | None = None
    stages: Annotated[tuple[RolloutStage, ...], Field(min_length=1)]

    @field_validator("stages", mode="before")
    @classmethod
    def _in_order(cls, given: object) -> object:
        return tuple(given) if isinstance(given, list) else given

    @model_validator(mode="after")
    def _ordered(self) -> DeclaredRollout:
        for problem in self._problems():
            raise ValueError(problem)
        return self

    def _problems(self) -> Iterator[str]:
        names, shares, before = [stage.name for stage in self.stages], [0.0], None
        if self.on == self.off:
            yield "enabled and disabled are the same value"
        if len(set(names)) < len(names):
            yield "two stages have the same name"
        if REMOVE in names:
            yield f'no stage can be named "{REMOVE}"'
        for stage in self.stages:
            if before is not None and before.all:
                yield f"stage {stage.name} comes behind a stage of all"
            if stage.share is not None:
                if stage.share <= shares[-1]:
                    yield f"the share of stage {stage.name} is not more than {shares[-1]:g} %: whoever has it keeps it"
                shares.append(stage.share)
            if stage.go == "metric" and before is None:
                yield f"a person lets the first stage begin: stage {stage.name} cannot go by a metric"
            if stage.go == "metric" and before is not None and self.metric_of(before) is None:
                yield f"stage {stage.name} goes by the metric, and stage {before.name} before it has none"
            if stage.go == "metric" and stage.rows is None:
                yield f"stage {stage.name} goes by the metric, and does not say how many rows are expected"
            before = stage

    def metric_of(self, stage: RolloutStage) -> RolloutMetric | None:
        """Return the metric of a stage: its own, or that of all."""
        return stage.metric or self.metric

    @property
    def on(self) -> str:
        """The value after, as text."""
        return _text(self.enabled)

    @property
    def off(self) -> str:
        """The value before, as text."""
        return _text(self.disabled)

    @property
    def seed(self) -> str:
        """What is hashed in front of each key."""
        return self.salt or self.name

    @property
    def head(self) -> str:
        """A digest of what is fixed once the rollout has begun: the flag, its values, the salt."""
        return _digest([self.table, self.column, self.of, self.type, self.on, self.off, self.seed])

    @property
    def digest(self) -> str:
        """A digest of the whole declaration."""
        return _digest(self.model_dump(mode="json"))


def read(path: Path) -> DeclaredRollout:
    """Return the rollout that a file declares; its name is the file's. Raises WrongInput."""
    hint = "docs/guide.md, Staged rollout, has an example."
    text = regular_file.read(path)
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError as exc:
        raise WrongInput(
            f"could not read the rollout {path.name}", detail=" ".join(str(exc).split())[:400], hint=hint
        ) from exc
    if not isinstance(found, dict) or "name" in found:
        why = "It is no mapping." if not isinstance(found, dict) else "The file's own name is the rollout's name."
        raise WrongInput(f"could not read the rollout {path.name}", detail=why, hint=hint)
    try:
        return DeclaredRollout.model_validate({**found, "name": path.stem})
    except ValidationError as exc:
        raise WrongInput(f"the rollout {path.name} is wrong", detail=regular_file.told(exc), hint=hint) from exc


def _text(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _digest(facts: object) -> str:
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]
