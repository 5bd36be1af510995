"""The result of a rehearsal with the target's rows, written to ``rehearsal.json``.

``schemas/rehearsal.schema.json`` describes the file.
"""

from __future__ import annotations

import json
from typing import Literal

from pgrunbook.plan.way_back import Frozen
from pgrunbook.rehearse.observer import HeldLock
from pgrunbook.rehearse.way_back_trial import WayBackTrial


class TableRows(Frozen):
    """The rows of a table in the target and on the branch, counted, or estimated where it is big."""

    table: str
    target_rows: int
    branch_rows: int


class StatementRun(Frozen):
    """The effects of a statement, executed in one of the two ways; times in ms since the run of that way began."""

    started_ms: float
    duration_ms: float
    rows: int | None
    wal_bytes: int
    dead_rows: int
    rewrites: tuple[str, ...]
    locks: tuple[HeldLock, ...]


class StatementComparison(Frozen):
    """A statement, executed as it is written and by the plan; None where steps of another statement do its work.

    The first of a run stands for all of it.
    """

    migration: str
    statement: int
    file: str
    line: int
    sql: str
    form: str
    plain: StatementRun | None
    safe: StatementRun | None


class MigrationEnd(Frozen):
    """Whether a migration ends the same both ways; ``declared`` are the differences by nature.

    ``schema_changes`` say what it changes: columns, constraints and whether they are validated, indexes and so on.
    """

    migration: str
    schema_changes: tuple[str, ...]
    equivalent: bool
    differences: tuple[str, ...]
    declared: tuple[str, ...]


class TrafficLatency(Frozen):
    """The latency of the traffic: ``slots`` are pairs of time and the slowest transaction then, in ms."""

    per_second: int
    transactions: int
    worst_ms: float
    p99_ms: float
    failed: str
    slots: tuple[tuple[float, float], ...]


class Trial(Frozen):
    """The result of a rehearsal with the target's rows."""

    format: Literal[2] = 2
    target: str
    branch: str
    made_s: float
    tables: tuple[TableRows, ...]
    statements: tuple[StatementComparison, ...]
    migrations: tuple[MigrationEnd, ...]
    compared: tuple[str, ...]
    ways_back: tuple[WayBackTrial, ...]
    plain_traffic: TrafficLatency | None
    safe_traffic: TrafficLatency | None

    def text(self) -> str:
        """Return the text of ``rehearsal.json``."""
        return json.dumps(self.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n"
