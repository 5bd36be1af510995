"""The rows that an execution writes about itself: the row of the history table, and those of schema pgrunbook."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import psycopg

from pgrunbook import history as histories
from pgrunbook.database import connection, inverse_log, step_log
from pgrunbook.database.connection import (
    READ_LOCK_TIMEOUT_MS,
    READ_STATEMENT_TIMEOUT_MS,
    Connection,
)
from pgrunbook.execute import failures
from pgrunbook.history import History
from pgrunbook.plan.plan import Change, Plan, Step
from pgrunbook.plan.way_back import Back
from pgrunbook.sql.secrets import masked_all

RECORD_LIMITS = {"lock_timeout_ms": READ_LOCK_TIMEOUT_MS, "statement_timeout_ms": READ_STATEMENT_TIMEOUT_MS}
# For this transaction only: in the next one the role that the migration has set is in force again.
OURSELVES = ("SET LOCAL SESSION AUTHORIZATION DEFAULT", "SET LOCAL ROLE TO DEFAULT")


@dataclass
class Bookkeeping:
    """Writes the rows of one execution under the target's own role, whatever role a migration has set."""

    conn: Connection
    plan: Plan
    run_id: str
    history: History
    corrections: dict[tuple[str, int], Back] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._digest = self.plan.digest

    def done(self, change: Change, group: Sequence[Step], *, last: bool) -> None:
        """Record at the end of a transaction, in one round trip, that its steps are done; with ``last`` the migration.

        Raises Broken when the history table does not hold exactly one row of the migration, Refused when it would run
        somebody else's code.
        """
        rows = [_row(step) for step in group]
        written = None
        ways = self._ways(change)
        if last:
            connection.reset_in_transaction(self.conn)
            if change.ends == "history row":
                histories.hold(self.conn, self.history)
        with self.conn.pipeline():
            for statement in () if last else OURSELVES:
                self.conn.execute(statement.encode())
            if not last:
                self.conn.execute(b"SET LOCAL lock_timeout = %d" % READ_LOCK_TIMEOUT_MS)
                self.conn.execute(b"SET LOCAL statement_timeout = %d" % READ_STATEMENT_TIMEOUT_MS)
            if last:
                written = self._end(change)
                rows.append(_history_row(change))
            if ways:
                inverse_log.write(self.conn, self._key(change), ways)
            self._correct(change)
            step_log.write(self.conn, self._key(change), "done", rows)
        if written is not None and written.rowcount != 1:
            raise failures.history_moved(self.history.qualified_table, change)

    def alone(self, change: Change, step: Step, state: str) -> None:
        """Record in a transaction of its own that a step is intended, or is done."""
        ways = self._ways(change) if state == "intended" else []
        with connection.transaction(self.conn, **RECORD_LIMITS):
            self.conn.execute("; ".join(OURSELVES).encode())
            if ways:
                inverse_log.write(self.conn, self._key(change), ways)
            self._correct(change)
            step_log.write(self.conn, self._key(change), state, [_row(step)])

    def withdraw(self, change: Change, group: Sequence[Step]) -> None:
        """Withdraw, in the open transaction, the rows of any run that say that these steps are intended or done."""
        self.conn.execute("; ".join(OURSELVES).encode())
        step_log.withdraw(self.conn, self._key(change), [step.number for step in group])

    def loop(self, change: Change, step: Step) -> str:
        """Return the name under which the database records the progress of a loop."""
        return f"{self.plan.direction}:{change.migration}:{change.file_sha256}:{step.number}"

    def has_batches(self, change: Change, loops: Sequence[Step]) -> bool:
        """Tell whether a batch of one of these loops is committed."""
        return step_log.has_batches(self.conn, [self.loop(change, step) for step in loops])

    def forget(self, change: Change, steps: Sequence[Step]) -> None:
        """Forget, in the open transaction, the progress of loops of which no batch is committed."""
        step_log.forget_unbegun(self.conn, [self.loop(change, step) for step in steps])

    def intend(self, change: Change, group: Sequence[Step]) -> None:
        """Record, in the open transaction, that these steps may be done already; the next attempt checks."""
        step_log.write(self.conn, self._key(change), "intended", [_row(step) for step in group])

    def _end(self, change: Change) -> psycopg.Cursor[tuple[object, ...]] | None:
        """Record the end of a migration; return the cursor that wrote its history row, None where it has none."""
        written = None
        if change.ends == "history row":
            written = self.conn.execute(*self._history_command(change))
        if change.ends == "part":
            inverse_log.mark(self.conn, change.migration, change.takes_back, self.run_id)
            return written
        step_log.take_back(self.conn, change.migration, "down" if self.plan.direction == "up" else "up")
        if self.plan.direction == "down":
            inverse_log.forget(self.conn, change.migration)
        return written

    def _correct(self, change: Change) -> None:
        for (migration, statement), back in self.corrections.items():
            if migration != change.migration:
                continue
            inverse_log.correct(self.conn, migration, statement, masked_all(back.model_dump(mode="json")))

    def _ways(self, change: Change) -> list[dict[str, object]]:
        """Return the inverse of each statement of a migration that goes up."""
        if self.plan.direction == "down":
            return []
        ways = [
            {
                "statement": written.number, "file": written.file, "line": written.line, "sql": written.sql,
                "steps": [step.number for step in change.of_statement(written.number)], "cleanup": written.cleanup,
                "back": written.back.model_dump(mode="json") if written.back else None,
                "schema_before": change.schema_before,
            }
            for written in change.statements
        ]  # fmt: skip
        return [masked_all(way) for way in ways]

    def _history_command(self, change: Change) -> histories.Command:
        entry = next(e for e in self.history.entries if e.name == change.migration)
        if self.plan.direction == "down":
            return histories.unrecord(self.history, entry)
        assert entry.migration is not None  # noqa: S101 - check_folder saw it
        return histories.record(self.history, entry.migration)

    def _key(self, change: Change) -> dict[str, object]:
        return {
            "run_id": self.run_id,
            "migration": change.migration,
            "direction": self.plan.direction,
            "file_sha256": change.file_sha256,
            "plan_digest": self._digest,
        }


def _row(step: Step) -> dict[str, object]:
    return {"step": step.number, "kind": step.kind, "sha256": step.sha256}


def _history_row(change: Change) -> dict[str, object]:
    return {
        "step": len(change.steps) + 1, "kind": "history row", "sha256": change.file_sha256,
        "schema_before": change.schema_before, "schema_after": change.schema_after,
    }  # fmt: skip
