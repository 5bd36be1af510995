"""What the tests of keeping share: a statement executed with what is kept around it, and its way back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg

from pgrunbook import undo_data
from pgrunbook.database.connection import Connection
from pgrunbook.inverse.inverter import Inverter
from pgrunbook.online.batches import run_batches
from pgrunbook.plan.step import Expansion, Keep, SafeStep
from pgrunbook.plan.way_back import Undo
from pgrunbook.sql import statements
from pgrunbook.sql.statements import Statement
from pgrunbook.undo_data import Site, StepKey, capture_statement, revert_rows
from pgrunbook.undo_data.capture_rows import ANYWHERE, rewrite
from pgrunbook.undo_data.cascades import CannotCaptureError
from servers import Server

Conn = psycopg.Connection[tuple[Any, ...]]


def capture_obstacle(conn: Connection, sql: str) -> str | None:
    """Return the reason that follows "cannot be captured, because"; None when a statement's rows can be captured."""
    try:
        rewrite(conn, sql, ANYWHERE)
    except CannotCaptureError as exc:
        return str(exc)
    return None


def statement(sql: str) -> Statement:
    """Return the only statement of a text."""
    (found,) = statements.parse(sql, "m.sql")
    return found


def as_written(sql: str) -> Expansion:
    """Return a statement that is executed as it is written."""
    step = SafeStep(sql, "As it is written.", own_transaction=False, quick=False)
    return Expansion(statement(sql), "", "", (step,))


@dataclass
class Way:
    """One statement with what keeps around it, and its way back; both are planned on ``conn``."""

    conn: Connection
    sql: str
    batch_rows: int = 1_000
    site: Site = field(default_factory=lambda: Site("0001_x", "a" * 64, "up", 1))
    rows_conn: Connection | None = None
    run_id: str = "run"

    def __post_init__(self) -> None:
        self.undo: Undo = Inverter(self.conn).inverse(statement(self.sql))
        around = undo_data.with_capture(
            self.conn, as_written(self.sql), self.undo, self.site, rows_conn=self.rows_conn, batch_rows=self.batch_rows
        )
        self.because, self.expansion, self.keeps = around.because, around.expansion, around.keeps

    @property
    def keep(self) -> Keep:
        """The only thing that is kept."""
        (found,) = self.keeps
        return found

    def there(self, conn: Connection | None = None, *, between: Callable[[int], None] = lambda _: None) -> None:
        """Execute the steps; ``between`` is called after each with its number."""
        for number, step in enumerate(self.expansion.steps, 1):
            do(conn or self.conn, step, self.site, number, self.run_id)
            between(number)

    def back(self, conn: Connection | None = None, *, between: Callable[[], None] = lambda: None) -> None:
        """Go the way back; ``between`` is called when a column or table is there again, and not filled."""
        here = conn or self.conn
        site = Site(self.site.migration, self.site.file_sha256, "down", 1)
        for keep in self.keeps:
            if keep.kind == "table":
                for step in undo_data.unpark(here, keep):
                    do(here, step, site, 1, self.run_id)
        had_key = {keep for keep in self.keeps if keep.kind == "column" and undo_data.has_key(here, keep)}
        for step in self.undo.steps:
            found = [self.keeps[self.undo.keeps.index(keep)] for keep in step.fills]
            for keep in found:
                for settles in undo_data.note_written(here, keep):
                    do(here, settles, site, 1, self.run_id)
            here.execute(step.sql.encode())
            between()
            for keep in found:
                for fills in undo_data.revert_column(
                    here, keep, rows_conn=None, batch_rows=self.batch_rows, had_key=keep in had_key
                ):
                    do(here, fills, site, 1, self.run_id)


def do(conn: Connection, step: SafeStep, site: Site, number: int, run_id: str = "run") -> None:
    """Execute a step as the executor does: what it keeps is noted with it."""
    if step.batches is not None:
        run_batches(conn, step.batches, resume_from=f"{run_id}:{site}:{number}:{step.sql}")
        if step.gives_back:
            undo_data.mark_reverted(conn, step.gives_back)
        return
    with conn.transaction():
        for keep in step.keeps:
            if keep.kind != "rows":
                undo_data.free_name(conn, keep.kept_as)
        text = step.sql
        if any(keep.kind == "rows" for keep in step.keeps):
            key = StepKey(run_id, site.migration, site.direction, number)
            text = capture_statement(conn, text, key, follows=step.follows)
        cursor = conn.execute(text.encode())
        while cursor.nextset():
            pass
        for keep in step.keeps:
            if keep.kind != "rows":
                undo_data.add_entry(conn, run_id, site, number, keep, keep_until=None)
        if step.gives_back:
            undo_data.mark_reverted(conn, step.gives_back)


@contextmanager
def database(server: Server, name: str, made: str) -> Iterator[Conn]:
    """Give a connection to a new database in which only these statements were executed."""
    server.make(name)
    with server.connect(name) as conn:
        conn.execute(made.encode())
        conn.execute("SET lock_timeout = '5s'; SET client_min_messages = warning")
        yield conn


def value(conn: Connection, query: str) -> Any:
    """Return the only value of a query."""
    row = conn.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


def texts(conn: Connection, table: str) -> list[str]:
    """Return the rows of a table, as text."""
    return sorted(str(row[0]) for row in conn.execute(f"SELECT row_::text FROM {table} AS row_".encode()))


def give_back_migration(
    conn: Connection,
    migration: str,
    direction: str,
    *,
    on_conflict: undo_data.OnConflict = "stop",
    on_batch: Callable[[int], None] = lambda _: None,
) -> revert_rows.RevertResult:
    """Give back all that is kept of a migration, the last step first; see :func:`give_back`.

    Where it is to stop at conflicts, those of all steps are looked for before anything is changed.
    """
    whole = [
        one
        for one in undo_data.entries_of_migration(conn, migration, direction)
        if one.part_of is None and one.kind in undo_data.ROWS
    ]
    if on_conflict == "stop":
        revert_rows._stop_at(
            sum((undo_data.conflicts(conn, one) for one in whole), undo_data.Conflicts(0, ())), migration
        )
    given = [undo_data.revert(conn, one, on_conflict=on_conflict, on_batch=on_batch) for one in whole]
    return revert_rows.RevertResult(
        sum(one.rows for one in given), sum((one.left for one in given), undo_data.Conflicts(0, ()))
    )
