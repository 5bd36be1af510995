"""Up, down and up again with the target's rows, on a database of its own; used by the rehearsal of prepare.

1. Before each migration, rows and checksums of the tables that it touches are recorded; where triggers of
   the application may fire on the way back, those of every table.
2. The migration goes up by the plan and down by its way back; then rows and checksums must be equal. Captured rows are
   reverted without the application's triggers, and where that is not equal, from the same state with them.
3. It goes up again, as a base for the next one; then the rows must be those of the first time, but for values that
   differ each time, as the numbers of sequences do.

When a way back fails in the middle, the database is in between: the migrations after it are tried on another one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType

from psycopg import sql

from pgrunbook import history as histories
from pgrunbook import undo_data
from pgrunbook.branches import data_branch
from pgrunbook.branches.branch_target import BranchTarget
from pgrunbook.branches.data_branch import Copy
from pgrunbook.config.targets import Target
from pgrunbook.database import checksums
from pgrunbook.database.checksums import TableName, TableSum
from pgrunbook.database.connection import Connection, at_once, connect
from pgrunbook.display import progress
from pgrunbook.display.prose import counted, listed
from pgrunbook.draft.down import DownDraft, silent
from pgrunbook.errors import StatementFailed
from pgrunbook.online.batches import Haste
from pgrunbook.plan.plan import Change, Direction, WayBack
from pgrunbook.record.journal import Journal
from pgrunbook.rehearse import row_equality
from pgrunbook.rehearse.branch_run import execute, journal, why
from pgrunbook.rehearse.column_sums import column_sums, take_numbers
from pgrunbook.rehearse.row_equality import VolatileRelease, VolatileValues
from pgrunbook.rehearse.schema_only import Rehearsal
from pgrunbook.rehearse.way_back_trial import WayBackTrial
from pgrunbook.sql.tree import dotted_name

# Checksums are read in so many parts by two sessions.
PARTS = 16
LARGE_BATCHES = Haste(times=20, after=1)

TablesOf = Mapping[str, Sequence[str]]  # by migration


@contextmanager
def proving(
    copy: Copy | None, proven: Rehearsal, tables: TablesOf, *, waits: bool
) -> Iterator[Callable[[], list[WayBackTrial]]]:
    """Begin to take each migration up, down and up again on a copy that nobody else uses; without one do nothing.

    It goes on in a thread while the body runs; where it ``waits``, only when what is yielded is called, which returns
    the results as :func:`prove` does. When the body fails, its server is stopped.
    """
    if copy is None or waits:
        yield lambda: prove(copy, proven, tables) if copy else []
        return
    with ThreadPoolExecutor(1) as pool:
        begun = pool.submit(prove, copy, proven, tables)
        try:
            yield begun.result
        except BaseException:
            copy.server.stop_at_once()
            raise


def prove_rest(
    target: Target, proven: Rehearsal, tables: TablesOf, found: list[WayBackTrial], *, most_bytes: int
) -> tuple[WayBackTrial, ...]:
    """Try the ways back that are left after ``found``, each time on a further copy, until one leads back.

    ``tables`` of each migration are compared where they are there, by their names in SQL. Returns a result for each way
    back that was tried, () where ways back are not rehearsed.
    """
    while any(_next(proven, change, found) for change in proven.changes):
        with data_branch.with_data(target, most_bytes=most_bytes, plain=False) as another:
            found = [*found, *prove(another, proven, tables, tried=found)]
    order = [change.migration for change in proven.changes]
    return tuple(sorted(found, key=lambda trial: order.index(trial.migration)))


def prove(copy: Copy, proven: Rehearsal, tables: TablesOf, *, tried: Sequence[WayBackTrial] = ()) -> list[WayBackTrial]:
    """Take each migration up, down and up again by the first of its ways that was not ``tried``, or up only.

    ``tables`` of each migration are compared where they are there, by their names in SQL.

    A doubt is one about this migration only as long as no earlier one has left a doubt in the same database; else, and
    after a way back that fails in the middle, the migrations that follow are left to another database.

    Returns the results. Raises StatementFailed where the plan itself fails.
    """
    found: list[WayBackTrial] = []
    with (
        progress.doing("taking each migration up, down and up again"),
        journal() as log,
        _Sessions(copy, copy.safe, log) as work,
    ):
        for change in proven.changes:
            how = _next(proven, change, tried)
            if how is None:
                work.execute(change)
                continue
            trial = _Trial(work, tables[change.migration]).of(change, how, proven.backs[change.migration][how])
            is_doubted = any(not each.proven for each in found)
            if is_doubted and not trial.proven:
                break
            found.append(trial)
            if not trial.proven and not trial.tables:
                break
    return found


def _next(proven: Rehearsal, change: Change, tried: Sequence[WayBackTrial]) -> WayBack | None:
    """Return the way back of a migration that is to be tried next, None where one leads back or none is left."""
    seen = {trial.how: trial.proven for trial in tried if trial.migration == change.migration}
    left = (how for how in proven.backs.get(change.migration, ()) if how not in seen)
    return None if any(seen.values()) else next(left, None)


@dataclass
class _Sessions:
    """The sessions at work on ``branch``, which has the source's name; they end while its database is copied."""

    copy: Copy
    branch: BranchTarget
    log: Journal
    known: dict[tuple[TableName, frozenset[str]], TableSum] = field(default_factory=dict)

    def __enter__(self) -> _Sessions:
        self.conn = connect(self.branch, purpose="rehearses")
        self.measure = connect(self.branch.as_superuser(), purpose="measures")
        self.beside = connect(self.branch.as_superuser(), purpose="measures")
        return self

    def __exit__(self, *_: object) -> None:
        for conn in (self.conn, self.measure, self.beside):
            conn.close()

    def execute(self, change: Change, direction: Direction = "up", *, again: bool = False) -> float:
        """Execute a change; return how long it took, in ms."""
        self.known.clear()
        began = time.monotonic()
        history = histories.read(self.conn, self.branch)
        execute(
            self.branch, self.conn, history, change, self.log, direction=direction, again=again, haste=LARGE_BATCHES
        )
        return round((time.monotonic() - began) * 1000, 1)

    def sums(
        self, tables: Sequence[TableName], without: Mapping[TableName, Collection[str]] = MappingProxyType({})
    ) -> dict[TableName, TableSum]:
        """Return the checksums of tables, of two at once; nothing is read again until something is executed."""
        keys = {table: (table, frozenset(without.get(table, ()))) for table in tables}
        lacking = [table for table in tables if keys[table] not in self.known]
        many = max(1, len(lacking) // PARTS)
        parts = iter([lacking[n : n + many] for n in range(0, len(lacking), many)])

        def read(conn: Connection) -> list[tuple[TableName, TableSum]]:
            sums = (checksums.checksums(conn, part, without=without) for part in parts)
            return [pair for found in sums for pair in found.items()]

        for found in at_once((self.measure, self.beside), read):
            self.known.update((keys[table], summed) for table, summed in found)
        return {table: self.known[key] for table, key in keys.items()}

    def vacuum(self, tables: Sequence[TableName]) -> None:
        """Make the room of dead rows free again: what is executed next would be slowed down by them."""
        if tables:
            names = sql.SQL(", ").join(sql.Identifier(table.schema, table.name) for table in tables)
            self.measure.execute(sql.SQL("VACUUM (SKIP_LOCKED) {}").format(names))

    @contextmanager
    def spare(self) -> Iterator[Callable[[], None]]:
        """Keep a copy of the database as it is; the function that is yielded goes back to it."""
        self.__exit__()
        name = self.copy.spare()
        self.__enter__()
        used: list[str] = []

        def go_back() -> None:
            used.append(name)
            self.known.clear()
            self.__exit__()
            self.copy.drop_spare(name, instead=True)
            self.__enter__()

        yield go_back
        if not used:
            self.copy.drop_spare(name, instead=False)


@dataclass(frozen=True)
class _Trial:
    """One migration there and back on a branch."""

    work: _Sessions
    tables: Sequence[str]

    def of(self, change: Change, how: WayBack, back: DownDraft) -> WayBackTrial:
        """Take a migration up, down and up again, and compare the rows on the way."""
        ran = {step.statement for step in change.steps}  # of a run of INSERTs, the first stands for all
        release = VolatileRelease(
            [one.sql for one in change.statements if one.number in ran or one.kind != "INSERT"],
            [declared for one in change.statements for declared in one.differs],
            numbers=True,
        )
        release.judge(self.work.measure)
        fires = silent(back.change) != back.change and (
            _may_make_one_fire(change) or undo_data.fires(self.work.measure, self._named())
        )
        before = self._all() if fires else self._sums()
        up_ms = self.work.execute(change)
        found = WayBackTrial(migration=change.migration, how=how, proven=False, says="", up_ms=up_ms)
        release.judge(self.work.measure)
        volatile = release.values(self.work.measure)
        there = self._there(before, volatile, fires=fires)
        try:
            computed = {declared.object for declared in back.differs if declared.kind == "recomputed"}
            before = {table: each for table, each in before.items() if dotted_name(*table) not in computed}
            found = self._back(found, back.change, before, fires=fires)
            self.work.vacuum([table for table in before if there.sums.get(table) != before[table]])
            again = self._again(change, there, volatile, fires=fires) if found.proven else []
            if not found.proven:
                self.work.execute(change, again=True)
        except StatementFailed as exc:
            says = f"it fails with the target's rows: {why(exc)}"
            return WayBackTrial(migration=change.migration, how=how, proven=False, says=says, up_ms=up_ms)
        found = found.model_copy(update={"differs": back.differs})
        if again:
            says = f"the rows differ after going up again: {'; '.join(again[:5])}"
            return found.model_copy(update={"says": says, "proven": False})
        return found

    def _there(self, before: Mapping[TableName, TableSum], volatile: VolatileValues, *, fires: bool) -> _Contents:
        """Return what the migration has made; by column where it is not known what differs each time."""
        sums = self._written(volatile, fires=fires)
        unknown = (table for table in sums if fires or volatile.of(table) is None)
        changed = [table for table in unknown if before.get(table) != sums[table]]
        return _Contents(sums, column_sums(self.work.measure, changed))

    def _written(self, volatile: VolatileValues, *, fires: bool) -> dict[TableName, TableSum]:
        return self._all() if fires else self._sums(volatile)

    def _again(self, change: Change, there: _Contents, volatile: VolatileValues, *, fires: bool) -> list[str]:
        """Go up again; return what differs from the first time.

        Where triggers or functions have written it, a column may differ each time. This shows when the migration goes
        up once more from the same state, while sequences stand elsewhere.
        """
        if not there.columns:
            self.work.execute(change, again=True)
            return _apart(there.sums, self._written(volatile, fires=fires), "the first time")
        with self.work.spare() as go_back:
            self.work.execute(change, again=True)
            now = self._written(volatile, fires=fires)
            second = column_sums(self.work.measure, there.changed_again(now))
            differs = {
                table: {name for name in columns if columns[name] != there.columns[table].get(name)}
                - (volatile.of(table) or set())
                for table, columns in second.items()
            }
            if any(differs.values()):
                go_back()
                take_numbers(self.work.measure)
                self.work.execute(change, again=True)
                third = column_sums(self.work.measure, second)
                for table, columns in differs.items():
                    columns -= {name for name in columns if third[table][name] != second[table][name]}
        known = {table: one for table, one in there.sums.items() if table not in differs}
        return [
            *_apart(known, now, "the first time"),
            *(f"{t.schema}.{t.name}: other values in {listed(sorted(names))}" for t, names in differs.items() if names),
        ]

    def _back(
        self, trial: WayBackTrial, change: Change, before: Mapping[TableName, TableSum], *, fires: bool
    ) -> WayBackTrial:
        """Take a migration back: where triggers may fire, without them, and if that is not equal, with them."""
        if not fires or not undo_data.may_silence(self.work.conn):
            return self._down(trial, change, before, fires=fires)
        with self.work.spare() as go_back:
            try:
                quiet = self._down(trial, silent(change), before, fires=True)
            except StatementFailed:  # a foreign key that a trigger keeps
                go_back()
                return self._down(trial, change, before, fires=True)
            if quiet.proven:
                return quiet
            go_back()
            loud = self._down(trial, change, before, fires=True)
            return loud if loud.proven or len(loud.leaves) < len(quiet.leaves) else quiet

    def _down(
        self, trial: WayBackTrial, change: Change, before: Mapping[TableName, TableSum], *, fires: bool
    ) -> WayBackTrial:
        down_ms = self.work.execute(change, "down")
        after = self._all() if fires else self._sums()
        apart = tuple(_apart(before, after, "before"))
        is_quiet = any(not step.fires_triggers for step in change.steps)
        how = f" {'without' if is_quiet else 'with'} the triggers of the application" if fires else ""
        says = f"with the target's rows: equal, too{how and ',' + how}"
        if apart:
            says = f"the rows differ after the way back{how}: {'; '.join(apart[:5])}"
        found = {
            "proven": not apart, "says": says, "down_ms": down_ms, "tables": tuple(map(str, before)), "leaves": apart,
            "fires_triggers": not is_quiet,
        }  # fmt: skip
        return trial.model_copy(update=found)

    def _all(self) -> dict[TableName, TableSum]:
        return self.work.sums(checksums.every_table(self.work.measure))

    def _named(self) -> list[TableName]:
        return row_equality.named(self.work.measure, self.tables)

    def _sums(self, volatile: VolatileValues | None = None) -> dict[TableName, TableSum]:
        """Return the sums of the tables that are there, without their volatile columns where these are known."""
        tables = self._named()
        left_out = {table: volatile.of(table) for table in tables} if volatile else {}
        without = {table: columns for table, columns in left_out.items() if columns}
        return self.work.sums(tables, without)


def _may_make_one_fire(change: Change) -> bool:
    """Tell whether a migration may create or enable a trigger or a rule, which then fires on its way back."""
    return any(word in one.sql.casefold() for one in change.statements for word in ("trigger", "rule"))


@dataclass(frozen=True)
class _Contents:
    """The sums of tables; ``columns`` of those that were changed by what nobody can read."""

    sums: Mapping[TableName, TableSum]
    columns: Mapping[TableName, Mapping[str, TableSum]]

    def changed_again(self, now: Mapping[TableName, TableSum]) -> list[TableName]:
        """Return the tables with as many rows whose sums differ, and whose columns are known."""
        return [
            table
            for table in self.columns
            if table in now and now[table] != self.sums[table] and now[table].rows == self.sums[table].rows
        ]


def _apart(before: Mapping[TableName, TableSum], after: Mapping[TableName, TableSum], when: str) -> list[str]:
    found = []
    for table, was in before.items():
        now, name = after.get(table, TableSum(0, "")), f"{table.schema}.{table.name}"
        if was.rows != now.rows:
            found.append(f"{name}: {counted(was.rows, 'row')} {when}, {now.rows:,} after")
        elif was != now:
            found.append(f"{name}: as many rows, with other values")
    return found
