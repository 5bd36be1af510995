"""The capture of undo data during an execution, and its way back into the tables; migrate and rollback use it.

Rows are captured in the transaction that changes them, a column or a table in the transaction that drops it.
Some inverses hold a value that differs between the branch and the target (the position of a sequence): it is read
from the catalog again right before the step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pgrunbook import undo_data
from pgrunbook.database.checksums import TableName
from pgrunbook.database.connection import Connection
from pgrunbook.execute.bookkeeping import Bookkeeping
from pgrunbook.inverse.inverter import Inverter
from pgrunbook.plan.plan import Change, Step
from pgrunbook.plan.step import Batches
from pgrunbook.plan.way_back import of_undo
from pgrunbook.sql import statements
from pgrunbook.sql.tree import tree
from pgrunbook.undo_data import OnConflict, Site, StepKey, UndoEntry


@dataclass
class Capture:
    """Captures, reverts and reapplies for one execution, within the caller's transaction.

    What a revert leaves is written into files of ``folder``, that of the run.
    """

    conn: Connection
    marks: Bookkeeping
    keep_days: int
    on_conflict: OnConflict
    folder: Path
    later_times: int = 1

    def before(self, change: Change, step: Step) -> None:
        """Prepare the names under which the step parks or captures, and read sequence positions again."""
        for keep in step.keeps:
            if keep.kind != "rows":
                undo_data.free_name(self.conn, keep.kept_as)
        if self._is_first(change, step):
            self._read_inverse_again(change, step)

    def capturing(self, change: Change, step: Step) -> bytes | None:
        """Return a step's SQL with the capture of the rows that it changes, None for a step that captures none."""
        if not self._keeps_rows(step):
            return None
        return undo_data.capture_statement(
            self.conn, step.sql, self._place(change, step), keep_until=self._until(), keeps=step.keeps,
            follows=step.follows,
        ).encode()  # fmt: skip

    def batches(self, change: Change, step: Step) -> Batches:
        """Return the loop of a step, with the capture of the rows that it changes where the step captures."""
        assert step.batches is not None  # noqa: S101 - the caller saw it
        if not self._keeps_rows(step):
            return step.batches
        return undo_data.capture_batches(self.conn, step.batches, self._place(change, step), keep_until=self._until())

    def after(self, change: Change, step: Step) -> list[str]:
        """Record what a step has captured, and what it has reverted or reapplied; return what is to be told."""
        site = Site(change.migration, change.file_sha256, self.marks.plan.direction, step.statement)
        for keep in step.keeps:
            if keep.kind != "rows":
                undo_data.add_entry(self.conn, self.marks.run_id, site, step.number, keep, keep_until=self._until())
        if step.batches is not None:
            self._check_keys(step, [])
        return undo_data.mark_reverted(self.conn, step.gives_back) if step.gives_back else []

    @contextmanager
    def triggers(self, step: Step) -> Iterator[None]:
        """Run the body, which writes captured rows back in the open transaction, with triggers as the plan says."""
        if step.fires_triggers:
            yield
            return
        with undo_data.silenced(self.conn):
            yield
        self._check_keys(step, [])

    def _check_keys(self, step: Step, entries: Sequence[UndoEntry]) -> None:
        """Check the foreign keys of the tables that a step has written while triggers were silent."""
        if step.fires_triggers:
            return
        tables = [part.table for entry in entries for part in undo_data.family(self.conn, entry)]
        if not step.gives_rows:
            relation = tree(step.batches.statement if step.batches else step.sql).relation
            tables.append(TableName(relation.schemaname, relation.relname))
        undo_data.check_keys(self.conn, tables)

    def revert_rows(self, change: Change, step: Step, on_batch: Callable[[int], None]) -> tuple[int, int]:
        """Revert the rows that steps of the migration have changed, the last step first.

        Returns how many were reverted, and how many left, because somebody has changed them since.
        """
        kept = undo_data.entries_of_migration(self.conn, change.migration, "up", steps=step.gives_rows)
        mine = [one for one in kept if one.kind in undo_data.ROWS and one.part_of is None]
        given, left = 0, set[int]()
        for one in mine:
            before = given
            told = undo_data.revert(
                self.conn, one, on_conflict="keep" if self.on_conflict == "stop" else self.on_conflict,
                on_batch=lambda rows, before=before: on_batch(before + rows),  # type: ignore[misc]
                lock_timeout_ms=step.lock_timeout_ms, statement_timeout_ms=step.statement_timeout_ms,
                later_times=self.later_times,
                fires_triggers=step.fires_triggers, leaves_refused=self.on_conflict != "stop",
                left_rows=lambda part: self._left_file(part, left),
            )  # fmt: skip
            given += told.rows
        self._check_keys(step, mine)
        return given, len(left)

    @contextmanager
    def _left_file(self, part: UndoEntry, left: set[int]) -> Iterator[undo_data.EachConflict]:
        """Yield what writes the rows that were left, and counts one that several statements have changed once."""
        with undo_data.left_file(self.folder, part) as write:

            def each(one: undo_data.Conflict) -> None:
                left.add(hash((one.table, *one.key.items())))
                write(one)

            yield each

    def _read_inverse_again(self, change: Change, step: Step) -> None:
        written = change.statements[step.statement - 1]
        if written.back is None or not written.back.look_again:
            return
        undo = Inverter(self.conn).inverse(statements.parse(written.sql, written.file)[0])
        if not undo.because and len(undo.keeps) == len(written.back.keeps):
            kept = {name: getattr(written.back, name) for name in ("by_script", "fires_triggers")}
            found = of_undo(undo, written.back.keeps).model_copy(update=kept)
            self.marks.corrections[change.migration, written.number] = found

    def _is_first(self, change: Change, step: Step) -> bool:
        return self.marks.plan.direction == "up" and change.of_statement(step.statement)[0].number == step.number

    def _keeps_rows(self, step: Step) -> bool:
        return any(keep.kind == "rows" for keep in step.keeps)

    def _place(self, change: Change, step: Step) -> StepKey:
        return StepKey(self.marks.run_id, change.migration, self.marks.plan.direction, step.number)

    def _until(self) -> datetime:
        return datetime.now(UTC) + timedelta(days=self.keep_days)
