"""A backfill: columns of a table become what expressions make of each row, in batches, while others write.

1. :func:`resolve` asks the server what the words mean, and refuses what cannot be filled.
2. A row is done when its columns are what the expressions make of it, byte by byte: only rows that differ are written,
   a batch that is executed twice changes nothing, and rows may be taken in any order.
3. :func:`proof` counts the rows that differ at the end, in one snapshot, while nobody can switch the trigger off.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pglast
import psycopg
from pglast import ast
from pglast.parser import ParseError
from psycopg import sql

from pgrunbook.database import connection, queries
from pgrunbook.database.column_fill import ColumnFill, fill_name
from pgrunbook.database.connection import Connection
from pgrunbook.database.facts import Facts
from pgrunbook.database.relations import Relation
from pgrunbook.database.sqlstate import said
from pgrunbook.display.prose import listed
from pgrunbook.errors import Broken, Refused, WrongInput
from pgrunbook.online import backfill_trust
from pgrunbook.plan.step import GUARD, RANGE, Batches
from pgrunbook.sql.tree import functions_in

_OTHER_CLAUSES = (
    "fromClause", "whereClause", "groupClause", "havingClause", "sortClause", "limitCount", "withClause", "larg",
)  # fmt: skip
# Whether a column is another value: as records any type is compared byte by byte, which costs a microsecond a row.
_ANY = "CAST(ROW({now}) AS pg_catalog.record) OPERATOR(pg_catalog.*<>) CAST(ROW({then}) AS pg_catalog.record)"
_PLAIN = (
    "CASE WHEN {now} IS NULL THEN {then} IS NOT NULL"
    " ELSE ({now}{as_bytes} OPERATOR(pg_catalog.<>) {then}{as_bytes}) IS NOT FALSE END"
)
_TEXTS = ("text", "character varying")
LIMITS = {"lock_timeout_ms": 2_000, "statement_timeout_ms": 30_000}


@dataclass(frozen=True)
class ColumnBackfill:
    """What is filled: a table, columns with their types and the SQL of their expressions, and which rows.

    ``back`` are the columns and expressions of the way back. ``key`` is (), where the table has none by which rows can
    be told apart. ``is_immutable`` says whether the same row always gives the same values, ``plain`` are the columns
    of types whose values are equal where their bytes are. ``columns`` are all of the table.
    """

    table: Relation
    values: Mapping[str, str]
    types: Mapping[str, str]
    where: str
    back: Mapping[str, str]
    key: tuple[str, ...]
    key_types: tuple[str, ...]
    is_immutable: bool
    plain: frozenset[str] = frozenset()
    columns: tuple[str, ...] = ()

    @property
    def subject(self) -> str:
        """What the checks of a backfill are about."""
        about = [
            self.table.oid,
            list(self.values.items()),
            self.where,
            list(self.back.items()),
            list(self.types.items()),
        ]
        return f"backfill {hashlib.sha256(json.dumps(about).encode()).hexdigest()[:12]}"

    @property
    def fill(self) -> ColumnFill:
        """The trigger that keeps the columns in sync."""
        table = self.table.identifier
        return ColumnFill(
            fill_name(table, tuple(self.values)), table, self.table.name, self.values, self.types, self.columns,
            self.where, self.back,
        )  # fmt: skip

    @property
    def differs(self) -> str:
        """The condition that a row is not done."""
        made = [
            (_PLAIN if column in self.plain else _ANY).format(
                now=sql.Identifier(self.table.name, column).as_string(None),
                then=f"CAST(({text}) AS {self.types[column]})",
                as_bytes=' COLLATE pg_catalog."C"' if self.types[column].startswith(_TEXTS) else "",
            )
            for column, text in self.values.items()
        ]
        return f"({' OR '.join(made)})" + (f" AND ({self.where})" if self.where else "")

    def batches(self, *, rows: int, by_pages: bool) -> Batches:
        """Return the loop that fills."""
        where = sql.SQL("WHERE {} AND CASE WHEN {} THEN {} ELSE false END").format(
            sql.SQL(RANGE), sql.SQL(GUARD), sql.SQL(self.differs)
        )
        return Batches(
            schema=self.table.schema, table=self.table.name, alias=self.table.name, rows=rows, by_pages=by_pages,
            statement=f"{self.update(self.values)} {where.as_string(None)}", key=self.key, key_types=self.key_types,
            fills=self.fill.name,
        )  # fmt: skip

    def update(self, values: Mapping[str, str]) -> str:
        """Return the UPDATE of all rows that gives columns these values."""
        assigned = [sql.SQL("{} = ({})").format(sql.Identifier(c), sql.SQL(text)) for c, text in values.items()]
        made = sql.SQL("UPDATE {} AS {} SET {}").format(
            self.table.identifier, sql.Identifier(self.table.name), sql.SQL(", ").join(assigned)
        )
        return made.as_string(None)

    def loop(self, run_id: str, form: str) -> str:
        """Return the name of the progress row of a loop."""
        return f"backfill:{run_id}:{form}"


def resolve(
    conn: Connection, table: str, values: Mapping[str, str], *, where: str = "", back: Mapping[str, str] = {}
) -> ColumnBackfill:
    """Return the backfill that these words mean on this server.

    Raises WrongInput where a table, column or expression is none, or cannot be filled; Refused for an expression that
    gives another value each time, and as ``backfill_trust``. Locks: AccessShareLock on the table.
    """
    if not values:
        raise WrongInput(
            "fill names no column",
            detail="It is a column and the expression over its row, for each column that is filled.",
            hint='For example: -p fill=\'{"total_cents": "round(total * 100)"}\'',
        )
    facts = Facts(conn)
    found = _relation(conn, facts, table)
    backfill_trust.refuse_foreign_code(conn, found)
    types, plain, columns = _types(conn, found, [*values, *back])
    texts = {**values, **({f"the way back of {c}": text for c, text in back.items()})}
    for name, text in [*texts.items(), *([("where", where)] if where else [])]:
        _parsed(name, text)
    key = facts.loop_key(found)
    made = ColumnBackfill(
        found, dict(values), types, where, dict(back), key.columns if key else (), key.types if key else (),
        is_immutable=all(_is_immutable(conn, found, types[column], text) for column, text in values.items())
        and (not where or _is_immutable(conn, found, "boolean", where)),
        plain=plain & values.keys(), columns=columns,
    )  # fmt: skip
    _refuse_volatile(conn, made)
    _ask_the_server(conn, made)
    return made


def planned(conn: Connection, table: str, columns: Sequence[str]) -> ColumnBackfill:
    """Return the backfill of an earlier run by its table and columns: what it has left goes, and nothing is filled.

    Raises WrongInput where the table is none any more.
    """
    found = _relation(conn, Facts(conn), table)
    return ColumnBackfill(found, dict.fromkeys(columns, ""), {}, "", {}, (), (), is_immutable=False)


def is_in_sync(conn: Connection, made: ColumnBackfill) -> bool:
    """Tell whether the trigger of this backfill is installed, and fires in every session.

    Raises Broken where somebody has switched it off meanwhile.
    """
    rows = queries.rows(conn, "backfill", "triggers", function=made.fill.name, table=made.table.oid)
    off = [row["name"] for row in rows if row["enabled"] != "A"] or [
        row["name"] for row in queries.rows(conn, "relations", "switched_off", function=made.fill.name)
    ]
    if off:
        raise Broken(
            f"cannot tell which rows of {made.table.label} were written meanwhile",
            detail=f'Somebody has switched trigger "{off[0]}" off, and on again perhaps.',
            state="The batches before are committed.",
            hint="Run the backfill again from its first cell: it installs the trigger anew, and finds what differs.",
        )
    return bool(rows)


def has_trigger(conn: Connection, made: ColumnBackfill) -> bool:
    """Tell whether the trigger of this backfill is there, also where somebody has switched it off."""
    return bool(queries.rows(conn, "backfill", "triggers", function=made.fill.name, table=made.table.oid))


def fired(conn: Connection, made: ColumnBackfill) -> list[dict[str, object]]:
    """Return the triggers of the application that fire when a row is filled, with what they execute."""
    return queries.rows(conn, "backfill", "fired", table=made.table.oid, columns=list(made.values))


def foreign_keys(conn: Connection, made: ColumnBackfill) -> list[dict[str, object]]:
    """Return the foreign keys that a filled column is part of, on either side."""
    return queries.rows(conn, "backfill", "foreign_keys", table=made.table.oid, columns=list(made.values))


def oldest(conn: Connection) -> tuple[str, float] | None:
    """Return the oldest transaction in this database that keeps dead rows, and its age in seconds."""
    found = queries.rows(conn, "throttle", "oldest")
    return (str(found[0]["who"]), float(found[0]["age_s"])) if found and found[0]["age_s"] is not None else None


def proof(
    conn: Connection,
    made: ColumnBackfill,
    *,
    statement_timeout_ms: int,
    in_sync: bool,
    refused: Sequence[tuple[str, ...]] = (),
) -> int:
    """Return how many rows differ, in one snapshot; with ``in_sync`` while nobody can switch the trigger off.

    Whoever writes behind the snapshot has the trigger, so that none differs at the end of it either. Rows with the keys
    ``refused``, which the batches have passed over, are not looked at.

    Raises Broken as :func:`is_in_sync`, and psycopg's errors where an expression fails for a row.
    Locks: ShareUpdateExclusiveLock on the table with ``in_sync``: it lets others read and write.
    """
    differs: sql.Composable = sql.SQL(made.differs)
    if refused:
        differs = sql.SQL("CASE WHEN {} THEN false ELSE {} END").format(_has_key(made, refused), differs)
    count = sql.SQL("SELECT pg_catalog.count(*) FROM {} AS {} WHERE {}").format(
        made.table.identifier, sql.Identifier(made.table.name), differs
    )
    with connection.transaction(conn, lock_timeout_ms=2_000, statement_timeout_ms=statement_timeout_ms):
        if in_sync:
            conn.execute(sql.SQL("LOCK TABLE {} IN SHARE UPDATE EXCLUSIVE MODE").format(made.table.identifier))
            if not is_in_sync(conn, made):
                raise Broken(
                    f"the trigger that keeps {made.table.label} in sync is gone",
                    state="The batches before are committed.",
                    hint="Run the backfill again from its first cell: it installs the trigger anew.",
                )
        with conn.as_target():
            (found,) = conn.execute(count).fetchone() or (0,)
    return int(str(found))


def _has_key(made: ColumnBackfill, keys: Sequence[tuple[str, ...]]) -> sql.Composed:
    """Return the condition that a row has one of these keys, or places where the table has no key."""
    names, types = (made.key, made.key_types) if made.key else (("ctid",), ("pg_catalog.tid",))
    row = sql.SQL(", ").join(sql.Identifier(made.table.name, name) for name in names)
    listed = [
        sql.SQL("ROW({}) OPERATOR(pg_catalog.=) ROW({})").format(
            row,
            sql.SQL(", ").join(
                sql.SQL("CAST({} AS {})").format(sql.Literal(v), sql.SQL(t)) for v, t in zip(key, types, strict=True)
            ),
        )
        for key in keys
    ]
    return sql.SQL("({})").format(sql.SQL(" OR ").join(listed))


def _relation(conn: Connection, facts: Facts, table: str) -> Relation:
    try:
        oid = conn.oid_of("regclass", table)
    except psycopg.Error as exc:
        raise WrongInput(f'"{table}" is no name of a table', detail=said(exc)) from exc
    found = facts.relation_of(oid) if oid is not None else None
    if found is None:
        raise WrongInput(f"there is no table {table}", hint="Name it with its schema, as SQL does: sales.orders")
    why = {"v": "a view", "m": "a materialized view", "f": "a foreign table", "S": "a sequence", "i": "an index"}
    if found.kind not in "rp" or found.schema in ("pg_catalog", "information_schema", "pgrunbook"):
        raise WrongInput(
            f"{found.label} cannot be backfilled",
            detail=f"It is {why.get(found.kind, 'not a table of the application')}.",
            hint="Name the table that holds the rows.",
        )
    if found.inherits_down:
        raise WrongInput(
            f"{found.label} cannot be backfilled",
            detail="Other tables inherit from it; an UPDATE of it would change their rows too.",
            hint="Backfill each of them.",
        )
    return found


def _types(
    conn: Connection, table: Relation, columns: Sequence[str]
) -> tuple[dict[str, str], frozenset[str], tuple[str, ...]]:
    """Return the types of columns, those columns whose values are equal where their bytes are, and all columns."""
    rows = {row["name"]: row for row in queries.rows(conn, "backfill", "columns", table=table.oid)}
    lacking = [name for name in columns if name not in rows]
    if lacking:
        raise WrongInput(
            f"{table.label} has no column {listed(lacking)}",
            detail=f"Its columns are {listed(list(rows), 40)}.",
            hint="Add it first, in a migration; spell it as the catalog does, without quotes.",
        )
    made = [name for name in columns if rows[name]["is_generated"]]
    if made:
        raise WrongInput(
            f"column {listed(made)} of {table.label} is generated",
            detail="The server computes it from the row, and nobody can write it.",
            hint="Name a column that is written.",
        )
    types = {name: str(rows[name]["type"]) for name in columns}
    return types, frozenset(name for name in columns if rows[name]["is_plain"]), tuple(rows)


def _parsed(name: str, text: str) -> ast.Node:
    """Return the tree of an expression. Raises WrongInput for what is none, or more than one."""
    why = "It is more than one expression."
    try:
        found = pglast.parse_sql(f"SELECT ({text}\n)")
    except ParseError as exc:
        why = str(exc.args[0])
    else:
        select = found[0].stmt if len(found) == 1 else None
        if isinstance(select, ast.SelectStmt) and not any(getattr(select, slot, None) for slot in _OTHER_CLAUSES):
            values = [one.val for one in select.targetList or ()]
            if len(values) == 1 and select.targetList[0].name is None:
                return values[0]
    raise WrongInput(f"the expression of {name} cannot be read", detail=f"{why} It is: {text[:500]}")


def _is_immutable(conn: Connection, table: Relation, type_: str, text: str) -> bool:
    """Ask the server whether an expression always gives the same: only then may a column be generated from it."""
    name = sql.Identifier(table.name)
    try:
        with conn.transaction(force_rollback=True):
            connection.limit_locally(conn, **LIMITS)
            conn.execute(sql.SQL("CREATE TEMPORARY TABLE {} (LIKE {})").format(name, table.identifier))
            with conn.as_target():
                conn.execute(
                    sql.SQL(
                        "ALTER TABLE pg_temp.{} ADD COLUMN pgrunbook_value {} GENERATED ALWAYS AS ({}) STORED"
                    ).format(name, sql.SQL(type_), sql.SQL(text))
                )  # fmt: skip
    except psycopg.errors.LockNotAvailable:
        raise
    except psycopg.Error:
        if conn.closed:
            raise
        return False  # not immutable, it reads another table, or no temporary table may be made
    return True


def _refuse_volatile(conn: Connection, made: ColumnBackfill) -> None:
    if made.is_immutable:
        return
    for column, text in {**made.values, **({"where": made.where} if made.where else {})}.items():
        called = sorted(set(functions_in(_parsed(column, text))))
        names = [row["name"] for row in queries.rows(conn, "backfill", "volatile", names=called)]
        if names:
            raise Refused(
                f"cannot backfill from {listed(names)}: it gives another value each time it is called",
                detail=f"A row of {made.table.label} would never be done: {text[:300]}",
                hint="Write it as an UPDATE in a migration, which changes each row once; or let the function be STABLE"
                " or IMMUTABLE, if it is.",
            )


def _ask_the_server(conn: Connection, made: ColumnBackfill) -> None:
    """Let the server plan a batch: whatever it cannot assign is told before anything changes."""
    statement = made.batches(rows=1, by_pages=False).statement.replace(RANGE, "true", 1).replace(GUARD, "true", 1)
    for one in [statement, *([made.update(made.back)] if made.back else [])]:
        try:
            with connection.transaction(conn, **LIMITS), conn.as_target():
                conn.execute(f"EXPLAIN {one}".encode())
        except psycopg.errors.LockNotAvailable:
            raise
        except psycopg.Error as exc:
            if conn.closed:
                raise
            raise WrongInput(
                f"{made.table.label} cannot be filled as it is said: {said(exc)}",
                detail=exc.diag.message_detail or "",
                hint=exc.diag.message_hint or "Correct fill, where or back.",
            ) from exc
