"""Disk space that a plan needs for new indexes and rewritten tables; for prepare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pgrunbook.database.connection import Connection
from pgrunbook.errors import Refused
from pgrunbook.plan.plan import Change, Step

INDEX_BUILDS = ("CREATE INDEX", "CREATE UNIQUE INDEX", "REINDEX")
REWRITING_GATES = ("type-change", "rewrite", "vacuum-full", "cluster", "stored-generated")


@dataclass(frozen=True)
class Need:
    """The most that a step needs at its peak: a copy of what it reads, and its WAL."""

    migration: str
    step: Step
    bytes: int


def needs(conn: Connection, changes: Sequence[Change]) -> list[Need]:
    """Return the steps that build something, with the space that each needs, largest first; [] for none.

    An index counts as large as its table, and WAL and archive hold it once more. Batches that may write each row count
    as if no row found room on its page.
    """
    found = []
    for change in changes:
        gates = {s.number: s.gate.id for s in change.statements if s.gate is not None}
        for step in change.steps:
            rewrites = gates.get(step.statement) in REWRITING_GATES or _fills(step)
            if rewrites or step.kind.startswith(INDEX_BUILDS):
                found.append(Need(change.migration, step, 2 * _size(conn, step, with_indexes=rewrites)))
    return sorted((need for need in found if need.bytes), key=lambda need: -need.bytes)


def refuse_without(found: Sequence[Need], free_bytes: int) -> None:
    """Raise Refused if the disk has not enough space for the step that needs most."""
    if not found or found[0].bytes <= free_bytes:
        return
    need = found[0]
    raise Refused(
        f"not enough disk for step {need.step.number} of {need.migration} ({need.step.kind})",
        detail=f"It may need {need.bytes / 1024 / 1024:,.0f} MB at its peak (what it builds, and its WAL); "
        f"free are {free_bytes / 1024 / 1024:,.0f} MB.",
        hint="Free space on the server's disk, then prepare again.",
    )


def _fills(step: Step) -> bool:
    return step.batches is not None and step.kind == "UPDATE"


def _size(conn: Connection, step: Step, *, with_indexes: bool) -> int:
    function = "pg_total_relation_size" if with_indexes else "pg_table_size"
    query = f"SELECT coalesce(sum(pg_catalog.{function}(pg_catalog.to_regclass(n))), 0) FROM unnest(%s::text[]) AS n"  # noqa: S608
    row = conn.execute(query.encode(), [[lock.object for lock in step.locks]]).fetchone()
    return int(str(row[0])) if row else 0
