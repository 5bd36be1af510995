"""The look at the rows before a backfill writes: whatever cannot be assigned is found, by evaluating each expression.

The values are inserted into a temporary table with the same types, NOT NULL and checks, part by part, and forgotten:
so each is converted as an UPDATE would convert it. Foreign keys, unique indexes and triggers are not asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pglast
from psycopg import sql

from pgrunbook.database import connection, queries
from pgrunbook.database.connection import Connection
from pgrunbook.database.sqlstate import said
from pgrunbook.display.prose import counted, listed
from pgrunbook.errors import Refused
from pgrunbook.online.backfill import ColumnBackfill
from pgrunbook.online.bad_rows import OF_A_ROW, RefusedRow
from pgrunbook.online.ranges import texts
from pgrunbook.sql.tree import column_names

PAGES = 1_000
TRY = sql.Identifier("pg_temp", "pgrunbook_try")


@dataclass(frozen=True)
class RowCheck:
    """What the look has found: rows that are to be filled, and rows whose values cannot be assigned, the first ones.

    ``is_whole`` says whether all rows were looked at: it ends when there are many of the latter.
    """

    rows: int
    bad: tuple[RefusedRow, ...]
    is_whole: bool


def check(
    conn: Connection,
    made: ColumnBackfill,
    *,
    most: int = 20,
    statement_timeout_ms: int = 30_000,
    on_part: Callable[[int, int], None] = lambda _done, _of: None,
) -> RowCheck:
    """Evaluate the expressions over all rows that the backfill may write. ``on_part`` gets pages done, and all pages.

    Raises psycopg's errors for what is no row's fault. Locks: AccessShareLock on the table, part by part.
    """
    found = conn.execute(queries.load("relations")["pages"].encode(), {"table": made.table.sql}).fetchone()
    pages = int(str(found[0])) if found else 0
    scan = _Scan(conn, made, most, statement_timeout_ms)
    scan.begin()
    try:
        for first in range(0, pages, PAGES):
            scan.part(first, min(PAGES, pages - first))
            on_part(min(pages, first + PAGES), pages)
            if len(scan.bad) >= most:
                return RowCheck(scan.rows, tuple(scan.bad[:most]), is_whole=first + PAGES >= pages)
    finally:
        if not conn.closed:
            conn.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(TRY))
    return RowCheck(scan.rows, tuple(scan.bad), is_whole=True)


def refuse_restless(conn: Connection, made: ColumnBackfill, *, statement_timeout_ms: int) -> None:
    """Raise Refused where a row would differ again once it is filled, as with ``n + 1``: it would never be done.

    Only an expression that reads a column which is filled can do that; the rows are asked then.
    Raises psycopg's errors where an expression fails for a row. Locks: AccessShareLock on the table.
    """
    trees = [pglast.parse_sql(f"SELECT ({text}\n)")[0].stmt for text in (*made.values.values(), made.where or "true")]
    own = {name for tree in trees for name in column_names(tree)} & made.values.keys()
    if not own:
        return
    alias, columns = sql.Identifier(made.table.name), queries.rows(conn, "backfill", "columns", table=made.table.oid)
    filled = [
        sql.SQL("CAST(({}) AS {}) AS {}").format(sql.SQL(made.values[name]), sql.SQL(made.types[name]), column)
        if name in made.values
        else sql.SQL("{}.{}").format(alias, column)
        for name, column in ((row["name"], sql.Identifier(row["name"])) for row in columns)
    ]
    query = sql.SQL("SELECT pg_catalog.count(*) FROM (SELECT {} FROM {} AS {} WHERE {}) AS {} WHERE {}").format(
        sql.SQL(", ").join(filled), made.table.identifier, alias, sql.SQL(f"({made.where or 'true'})"), alias,
        sql.SQL(made.differs),
    )  # fmt: skip
    with (
        connection.transaction(conn, lock_timeout_ms=2_000, statement_timeout_ms=statement_timeout_ms),
        conn.as_target(),
    ):
        (restless,) = conn.execute(query).fetchone() or (0,)
    if restless:
        raise Refused(
            f"{counted(int(str(restless)), 'row')} of {made.table.label} would differ again once filled",
            detail=f"fill reads {listed(sorted(own))}, which it fills: done twice, it gives another value each time,"
            " and the trigger would do it again at every write.",
            hint="Fill another column from it; or write it as an UPDATE in a migration, which changes each row once.",
        )


@dataclass
class _Scan:
    """A look at work."""

    conn: Connection
    made: ColumnBackfill
    most: int
    statement_timeout_ms: int

    def __post_init__(self) -> None:
        self.rows, self.bad = 0, list[RefusedRow]()
        rows = queries.rows(self.conn, "backfill", "checks", table=self.made.table.oid, columns=list(self.made.values))
        self._checks = [str(row["definition"]) for row in rows]
        others = {str(name) for row in rows for name in row["columns"]} - self.made.values.keys()
        self._others = sorted(others)

    def begin(self) -> None:
        """Create the temporary table."""
        of = sql.SQL(", ").join(map(sql.Identifier, [*self.made.values, *self._others]))
        columns = queries.rows(self.conn, "backfill", "columns", table=self.made.table.oid)
        never = [row["name"] for row in columns if row["is_not_null"] and row["name"] in self.made.values]
        with connection.transaction(self.conn, lock_timeout_ms=2_000, statement_timeout_ms=self.statement_timeout_ms):
            self.conn.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(TRY))
            # ON COMMIT DELETE ROWS would need a transaction for each part; each is aborted.
            self.conn.execute(
                sql.SQL("CREATE TEMPORARY TABLE pgrunbook_try AS SELECT {} FROM {} WITH NO DATA").format(
                    of, self.made.table.identifier
                )
            )
            with self.conn.as_target():
                for name in never:
                    column = sql.Identifier(name)
                    self.conn.execute(sql.SQL("ALTER TABLE {} ALTER {} SET NOT NULL").format(TRY, column))
                for definition in self._checks:
                    text = definition.removesuffix(" NOT VALID")
                    self.conn.execute(sql.SQL("ALTER TABLE {} ADD {}").format(TRY, sql.SQL(text)))

    def part(self, first: int, pages: int) -> None:
        """Look at some pages; those with a bad row are halved, to single rows at the end."""
        left = [(first, pages)]
        while left and len(self.bad) < self.most:
            at, many = left.pop()
            window = (
                f"ctid OPERATOR(pg_catalog.>=) '({at},0)'::pg_catalog.tid"
                f" AND ctid OPERATOR(pg_catalog.<) '({at + many},0)'::pg_catalog.tid"
            )
            try:
                self.rows += self._insert(window)
            except OF_A_ROW:
                if many > 1:
                    left += [(at + many // 2, many - many // 2), (at, many // 2)]
                else:
                    self.bad += self._one_by_one(window)

    def _one_by_one(self, window: str) -> Iterator[RefusedRow]:
        alias = sql.Identifier(self.made.table.name)
        names = sql.SQL(", ").join(
            [sql.SQL("{}.ctid::text").format(alias), *(sql.SQL("{}.{}::text").format(alias, sql.Identifier(name))
                                                       for name in self.made.key)]
        )  # fmt: skip
        query = sql.SQL("SELECT {} FROM {} AS {} WHERE {}").format(
            names, self.made.table.identifier, alias, sql.SQL(window)
        )
        for row in self.conn.execute(query).fetchall():
            ctid, *key = texts(row) or ("",)
            try:
                self.rows += self._insert(f"ctid OPERATOR(pg_catalog.=) '{ctid}'::pg_catalog.tid")
            except OF_A_ROW as exc:
                yield RefusedRow(tuple(key) or (ctid,), exc.sqlstate or "", said(exc))

    def _insert(self, window: str) -> int:
        made, alias = self.made, sql.Identifier(self.made.table.name)
        values = [sql.SQL(f"({text})") for text in made.values.values()]
        others = [sql.SQL("{}.{}").format(alias, sql.Identifier(name)) for name in self._others]
        where = f" AND CASE WHEN {window} THEN ({made.where}) ELSE false END" if made.where else ""
        query = sql.SQL("INSERT INTO {} SELECT {} FROM {} AS {} WHERE {}").format(
            TRY, sql.SQL(", ").join([*values, *others]), made.table.identifier, alias, sql.SQL(f"{window}{where}")
        )
        with self.conn.transaction(force_rollback=True):
            connection.limit_locally(self.conn, lock_timeout_ms=2_000, statement_timeout_ms=self.statement_timeout_ms)
            with self.conn.as_target():
                return self.conn.execute(query).rowcount
