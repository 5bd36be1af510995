"""Publications that send a table, and their lists of columns while one column lives beside another.

A subscriber has no second column, and fails when it is sent one. So a publication that sends all columns gets a list
of them in the transaction that adds the second one, and loses it in the one that drops it: ``pgrunbook.published``
remembers which. A list or a row filter that names a column moves with it: the table is taken out of the publication
and put back in one transaction, under a lock that lets nobody write, so that nothing is sent in between.

Source: https://www.postgresql.org/docs/current/logical-replication-col-lists.html
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from psycopg import sql

from pgrunbook.database.connection import Connection
from pgrunbook.database.queries import load, rows
from pgrunbook.database.relations import Relation
from pgrunbook.sql.own_code import do
from pgrunbook.sql.tree import quoted

LISTS_SINCE = 15
FULL_LISTS_SINCE = 160000  # a list of all columns is as good as none, also where a column was dropped
_MODULE = "publications"
_TAKEN_OUT = """
DECLARE
    one record;
    back text := '';
BEGIN
    FOR one IN {rows} LOOP
        EXECUTE one.out;
        back := back || one.back || ';';
    END LOOP;
    PERFORM set_config('pgrunbook.published', back, true);
END
"""
_WITH_OTHERS = """
DECLARE
    one record;
BEGIN
    FOR one IN {rows} LOOP
        EXECUTE one.out;
        EXECUTE one.back;
    END LOOP;
END
"""
_PUT_BACK = """
BEGIN
    EXECUTE current_setting('pgrunbook.published');
    PERFORM set_config('pgrunbook.published', '', true);
END
"""
_LISTED = """
DECLARE
    one record;
BEGIN
    FOR one IN {rows} LOOP
        IF NOT one.is_listed THEN
            EXECUTE one.out;
            EXECUTE one.back || one.list || one.filter;
            INSERT INTO pgrunbook.published VALUES (one.name, {schema}, {name}) ON CONFLICT DO NOTHING;
        END IF;
    END LOOP;
END
"""
_UNSENT = """
DECLARE
    one record;
BEGIN
    FOR one IN {rows} LOOP
        RAISE EXCEPTION 'publication % would send % of %, which its subscribers lack', one.name, {columns}, {label}
        USING DETAIL = 'It was made or changed since the plan was made.', HINT = 'Begin again: make the plan anew.';
    END LOOP;
END
"""
_WHOLE = """
DECLARE
    one record;
    is_due boolean := to_regclass('pgrunbook.published') IS NOT NULL;
BEGIN
    IF is_due THEN
        SELECT EXISTS (SELECT FROM pgrunbook.published AS w WHERE (w.table_schema, w.table_name) = ({schema}, {name}))
           AND NOT EXISTS (SELECT FROM pgrunbook.shadow AS w WHERE (w.table_schema, w.table_name) = ({schema}, {name}))
        INTO is_due;
    END IF;
    IF is_due THEN
        FOR one IN {rows} LOOP
            IF NOT one.is_listed
               OR NOT EXISTS (SELECT
                              FROM pgrunbook.published AS w
                              WHERE (w.table_schema, w.table_name) = ({schema}, {name})
                                AND (w.publication = one.name
                                     OR one.has_all  -- and it was renamed since
                                        AND NOT EXISTS (SELECT
                                                        FROM pg_publication AS p
                                                        WHERE p.pubname = w.publication))) THEN
                CONTINUE;
            END IF;
            IF NOT one.has_all THEN
                RAISE WARNING 'publication % has another list of columns of % than it was given, and keeps it',
                              quote_ident(one.name), {label};
                CONTINUE;
            END IF;
            EXECUTE one.out;
            EXECUTE one.back || one.filter;
        END LOOP;
        DELETE FROM pgrunbook.published AS w WHERE (w.table_schema, w.table_name) = ({schema}, {name});
    END IF;
END
"""


@dataclass(frozen=True)
class Publication:
    """A publication that sends a table; ``uses`` are the columns of its list and of its row filter.

    ``kind`` is by what it has the table. Without a list it sends all columns. ``key`` are the columns of the replica
    identity by which a subscriber finds a row, ``filters`` those that the row filter reads. ``forbids_updates`` says
    that no row can be updated, because the table's replica identity does not fit what is sent; ``needs_whole_rows``
    that it takes no list, because that identity is the whole row.
    """

    name: str
    is_own: bool
    kind: Literal["table", "schema", "all tables", "before 15"]
    has_schemas: bool
    is_listed: bool
    uses: tuple[str, ...]
    key: tuple[str, ...]
    filters: tuple[str, ...]
    sends_updates: bool
    forbids_updates: bool
    needs_whole_rows: bool

    @property
    def sql(self) -> str:
        """Its name as SQL needs it."""
        return quoted(self.name)

    def sends(self, column: str) -> bool:
        """Tell whether it sends a column, or looks at it to tell which rows it sends."""
        return not self.is_listed or column in self.uses

    def obstacle(self, column: str) -> str:
        """Return why it keeps a column from having another one beside it, "" where it does not."""
        if self.forbids_updates:
            return f"publication {self.sql} lets no row be updated: the replica identity does not fit what it sends"
        if not self.sends(column):
            return ""
        if self.kind == "before 15":
            return f"publication {self.sql} would send the other column, too: before PostgreSQL 15 it takes no list"
        if self.kind != "table" or (self.has_schemas and not self.is_listed):
            by = "of all tables" if self.kind == "all tables" else "of whole schemas"
            return f"publication {self.sql} {by} would send the other column, too: it takes no list of columns"
        if self.needs_whole_rows and not self.is_listed:
            return (
                f"publication {self.sql} would send the other column, too:"
                " with REPLICA IDENTITY FULL it takes no list of columns"
            )
        return "" if self.is_own else f"publication {self.sql}, which sends it, is another role's"

    def obstacle_of_names(self, column: str) -> str:
        """Return why it keeps both names of a renamed column from living side by side, "" where it does not."""
        if why := self.obstacle(column):
            return why
        if column in self.filters:
            return f"the row filter of publication {self.sql} reads it, and would lose it with the old name"
        if self.sends(column) and column in self.key:
            return f"publication {self.sql} sends it in the replica identity, which has one of the two names only"
        return ""


def of_table(conn: Connection, table: Relation) -> list[Publication]:
    """Return the publications that send a table, by their names."""
    found = rows(conn, _MODULE, "on_table", table=table.oid)
    columns = ("uses", "key", "filters")
    return [Publication(**{**row, **{name: tuple(row[name]) for name in columns}}) for row in found]


def naming(conn: Connection, table: Relation, column: str) -> list[Publication]:
    """Return the publications of a table whose list or row filter names a column."""
    return [one for one in of_table(conn, table) if column in one.uses]


def obstacles(conn: Connection, table: Relation, column: str) -> list[str]:
    """Return why publications keep a column from having another one beside it, [] where they do not."""
    found = of_table(conn, table)
    told = [why for one in found if (why := one.obstacle(column))]
    return told or _of_two_kinds(conn, found)


def obstacles_of_names(conn: Connection, table: Relation, column: str) -> list[str]:
    """Return why publications keep both names of a renamed column from living side by side, [] where they do not."""
    found = of_table(conn, table)
    told = [why for one in found if (why := one.obstacle_of_names(column))]
    return told or _of_two_kinds(conn, found)


def _of_two_kinds(conn: Connection, found: Sequence[Publication]) -> list[str]:
    """Return why a list of some columns cannot stand beside one of all."""
    unlisted = [one.sql for one in found if not one.is_listed]
    listed_ = [one.sql for one in found if one.is_listed]
    if not unlisted or not listed_ or conn.info.server_version >= FULL_LISTS_SINCE:
        return []
    both = f"publication {unlisted[0]} sends all columns, and {listed_[0]} has a list"
    return [f"{both}: once a column was dropped, PostgreSQL 15 refuses subscribers of both"]


def listed_until_contract(conn: Connection) -> Iterator[str]:
    """Yield the tables that have a list in a publication until contract, by the names that a snapshot gives them."""
    queries = load(_MODULE)
    if conn.execute(queries["registry_is_there"].encode()).fetchone() == (True,):
        yield from (str(name) for (name,) in conn.execute(queries["listed"].encode()).fetchall())


def other_until_contract(conn: Connection) -> Iterator[str]:
    """Yield the tables of which publications have another list until contract, named as by listed_until_contract."""
    yield from listed_until_contract(conn)
    queries = load(_MODULE)
    if conn.execute(queries["names_are_there"].encode()).fetchone() == (True,):
        yield from (str(name) for (name,) in conn.execute(queries["renamed"].encode()).fetchall())


def having(conn: Connection, oid: int) -> list[tuple[str, str]]:
    """Return for each publication that has a table by its name what takes it out, and what puts it back the same."""
    every = {"columns": sql.NULL, "names": sql.Literal("{}")}
    found = _rows("having", conn.info.server_version // 10_000, table=sql.Literal(oid), **every)
    return [(str(out), str(back)) for out, back in conn.execute(found).fetchall()]


def taken_out(table: Relation, columns: Sequence[str], names: Mapping[str, str] | None = None) -> str:
    """Return the statement that takes a table out of the publications that name these columns.

    :func:`put_back` has to follow in the same transaction: lists have the columns that have these names then, or those
    that ``names`` gives instead of them. Execute it while nobody writes to the table.
    """
    given = {"columns": sql.Literal(list(columns)), "names": sql.Literal(json.dumps(dict(names or {})))}
    found = _rows("having", table=sql.Literal(table.sql), **given)
    return do(sql.SQL(_TAKEN_OUT).format(rows=found)).as_string(None)


def put_back() -> str:
    """Return the statement that puts the table back."""
    return do(sql.SQL(_PUT_BACK)).as_string(None)


def around(statement: str, table: Relation, columns: Sequence[str]) -> str:
    """Return statements that do what PostgreSQL refuses while a publication names the columns.

    Locks: AccessExclusiveLock on the table.
    """
    lock = f"LOCK TABLE {table.sql} IN ACCESS EXCLUSIVE MODE"
    return ";\n".join([lock, taken_out(table, columns), statement, put_back()])


def listed(table: Relation, without: Iterable[str]) -> str:
    """Return the statement by which publications that send all columns of a table send all but these, until contract.

    Execute it in the transaction that adds these columns, behind that.
    """
    found = _rows("of_table", table=sql.Literal(table.sql), without=sql.Literal(list(without)))
    return do(sql.SQL(_LISTED).format(rows=found, **_named(table))).as_string(None)


def with_others(table: Relation, *, come: Iterable[str] = (), gone: Iterable[str] = ()) -> str:
    """Return the statement by which lists until contract have columns that were added, or lose some that will go.

    Execute it in the transaction that adds these columns, behind that, or before they are dropped.
    """
    named = {"come": sql.Literal(list(come)), "gone": sql.Literal(list(gone)), **_named(table)}
    found = _rows("with_others", table=sql.Literal(table.sql), **named)
    return do(sql.SQL(_WITH_OTHERS).format(rows=found)).as_string(None)


def unsent(table: Relation, columns: Sequence[str], version: int) -> str:
    """Return the statement that fails where a publication would send columns that its subscribers lack.

    It was made or changed since the plan. Execute it in the transaction that makes these columns.
    """
    found = _rows("sending", version, table=sql.Literal(table.sql), columns=sql.Literal(list(columns)))
    named = {"label": sql.Literal(table.label), "columns": sql.Literal(", ".join(map(quoted, columns)))}
    return do(sql.SQL(_UNSENT).format(rows=found, **named)).as_string(None)


def whole(table: Relation) -> str:
    """Return the statement by which publications send all columns of a table again, once no column waits for contract.

    Execute it in the transaction that drops the column, behind that. A list that somebody has changed stays.
    """
    found = _rows("of_table", table=sql.Literal(table.sql), without=sql.SQL("'{}'"))
    label = sql.Literal(table.label)
    return do(sql.SQL(_WHOLE).format(rows=found, label=label, **_named(table))).as_string(None)


def cleanup(table: Relation) -> str:
    """Return the query for that statement."""
    return sql.SQL("SELECT {}").format(sql.Literal(whole(table))).as_string(None)


def _rows(query: str, major: int | None = None, /, **values: sql.Composable) -> sql.Composed:
    return sql.SQL(load(_MODULE, major)[query].replace("%%", "%")).format(**values)


def _named(table: Relation) -> dict[str, sql.Composable]:
    return {"schema": sql.Literal(table.schema), "name": sql.Literal(table.name)}
