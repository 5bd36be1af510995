"""The way back of a salvage, as a text for psql: what came back goes, and what was overwritten is as it was today."""

from __future__ import annotations

from collections.abc import Sequence

from psycopg import sql

from pgrunbook.database.connection import Connection
from pgrunbook.database.queries import SETTINGS
from pgrunbook.online.salvage_plan import SalvagedTable
from pgrunbook.online.salvage_rows import STAGED, matches, of_table, texts

HEAD = """-- Takes back what run {run_id} has salvaged in database {database}, in one transaction:
--   psql ... -v ON_ERROR_STOP=1 -f {file}
-- Rows that came back are deleted, rows that were overwritten get the values that they had before; what somebody has
-- changed since is left, and listed at the end. It needs pgrunbook.salvaged_row, which is kept for keep_days.
"""


def text(conn: Connection, tables: Sequence[SalvagedTable], run_id: str, file: str) -> str:
    """Return the text; children go first."""
    settings = [sql.SQL("SET LOCAL {} = {};").format(sql.Identifier(name), sql.Literal(value))
                for name, value in SETTINGS.items()]  # fmt: skip
    parts: list[sql.Composable] = [sql.SQL("BEGIN;"), *settings, sql.SQL("SET CONSTRAINTS ALL DEFERRED;")]
    for table in reversed(tables):
        parts += [_delete(table, run_id), *([_overwrite(table, run_id)] if table.updatable else [])]
    parts += [_left(run_id), sql.SQL("COMMIT;")]
    head = HEAD.format(run_id=run_id, database=conn.info.dbname.replace("\n", " "), file=file)
    return head + "\n".join(part.as_string(conn) for part in parts) + "\n"


def _delete(table: SalvagedTable, run_id: str) -> sql.Composable:
    gone = sql.SQL("DELETE FROM {} AS t USING {} AS s WHERE {} AND {} AND {} = s.row_values RETURNING s.number").format(
        table.source, STAGED, of_table(table, run_id, sql.SQL("s.state = 'inserted'")), matches(table), texts(table)
    )
    return _noted(table, run_id, gone)


def _overwrite(table: SalvagedTable, run_id: str) -> sql.Composable:
    values = [
        sql.SQL("{} = CAST(s.was[{}] AS {})").format(
            sql.Identifier(column), sql.Literal(table.columns.index(column) + 1), sql.SQL(table.types[column])
        )
        for column in table.updatable
    ]
    back = sql.SQL(
        "UPDATE {} AS t SET {} FROM {} AS s WHERE {} AND {} AND {} = s.row_values RETURNING s.number"
    ).format(
        table.source,
        sql.SQL(", ").join(values),
        STAGED,
        of_table(table, run_id, sql.SQL("s.state = 'updated'")),
        matches(table),
        texts(table),
    )
    return _noted(table, run_id, back)


def _noted(table: SalvagedTable, run_id: str, change: sql.Composable) -> sql.Composable:
    return sql.SQL(
        "WITH done AS ({}) UPDATE {} AS s SET state = 'taken back' FROM done AS d WHERE {} AND s.number = d.number;"
    ).format(change, STAGED, of_table(table, run_id, sql.SQL("true")))


def _left(run_id: str) -> sql.Composable:
    return sql.SQL(
        "SELECT p.table_schema, p.table_name, pg_catalog.count(*) AS left_as_they_are FROM {} AS s"
        " JOIN pgrunbook.salvage AS p ON p.run_id = s.run_id AND p.place = s.place"
        " WHERE s.run_id = {} AND s.state IN ('inserted', 'updated') GROUP BY 1, 2;"
    ).format(STAGED, sql.Literal(run_id))
