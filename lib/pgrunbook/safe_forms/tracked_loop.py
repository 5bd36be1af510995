"""A loop over a table to which others write: its batches, and the tracker of the rows that come or move meanwhile."""

from __future__ import annotations

from dataclasses import dataclass

from pgrunbook.database.relations import Relation, UniqueKey
from pgrunbook.database.row_tracker import RowTracker, tracker_name
from pgrunbook.plan.step import Batches, SafeStep
from pgrunbook.safe_forms.form import Case


@dataclass(frozen=True)
class TrackedLoop:
    """The loop of one statement over one table."""

    table: Relation
    key: UniqueKey
    batches: Batches
    tracker: RowTracker

    @classmethod
    def over(
        cls, case: Case, table: Relation, statement: str, *, alias: str, fires_triggers: bool = True, left: str = ""
    ) -> TrackedLoop:
        """Return the loop of a statement that has the word for the range; the table has a key for loops.

        ``left`` is the condition of a DELETE.
        """
        key = case.facts.loop_key(table)
        if key is None:
            raise AssertionError("the form does not apply")
        name = tracker_name(table.identifier, statement)
        batches = Batches(
            schema=table.schema, table=table.name, alias=alias, statement=statement, key=key.columns,
            key_types=key.types, rows=case.batch_rows, fires_triggers=fires_triggers, tracker=name, left=left,
        )  # fmt: skip
        return cls(table, key, batches, RowTracker(name, table.identifier, key.columns))

    def steps(self, sql: str, says: str) -> tuple[SafeStep, ...]:
        """Return the loop as a step, between the steps that install and drop the tracker; ``sql`` is it as a whole."""
        tracker, is_partitioned = self.tracker, self.table.is_partitioned
        installed = tracker.installation(self.key.types, self.key.collations, is_partitioned=is_partitioned)
        begins = f"Triggers note which rows of {self.table.sql} come or change their key until the loop is done."
        ends = f"The loop is done: the triggers on {self.table.sql}, and their notes, are dropped."
        return (
            SafeStep(installed, begins),
            SafeStep(sql, says, quick=False, batches=self.batches),
            SafeStep(tracker.removal(is_partitioned=is_partitioned), ends),
        )
