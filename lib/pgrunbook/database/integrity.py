"""Rows that break what the schema declares, whatever its constraints and indexes say; prepare and validate ask.

A constraint is validated once. Rows written with session_replication_role = replica or with triggers off, a collation
that changed under an index, and a corrupt index break it afterwards, and nothing tells.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

import psycopg
from psycopg import sql

from pgrunbook.database import foreign_code, queries
from pgrunbook.database.connection import Connection
from pgrunbook.database.queries import snapshot_cursor
from pgrunbook.database.sqlstate import Meaning, meaning, said
from pgrunbook.display import progress
from pgrunbook.display.progress import Stage
from pgrunbook.errors import Blocked

CHECK_TIMEOUT_MS = 30_000
WHOLE_TIMEOUT_MS = 300_000
SAMPLES = 5
# So many checks are asked at once for so long, until that has failed so often: of small tables each takes no time.
TOGETHER, TOGETHER_MS, TOGETHER_FAILS = 50, 1_000, 3

Kind = Literal["orphans", "duplicates", "rows against a constraint"]
# A corrupt index does not know its duplicates: the rows are read without any.
_WITHOUT_INDEX = dict.fromkeys(("enable_indexscan", "enable_indexonlyscan", "enable_bitmapscan"), "off")
_Check = tuple[Kind, Mapping[str, Any], sql.Composed]
_TIME_IS_UP = "the time for all checks was up"
_LARGE = "its table is large, and no statement changes it"


@dataclass(frozen=True)
class Breach:
    """Rows that break the constraint or index ``name`` of a table.

    ``rows`` is their number (of duplicates: of keys), None where that is not known, and ``why`` says why. ``samples``
    are the first keys, ``query`` finds all of them, and ``repair`` follows when the rows are mended.
    """

    kind: Kind
    name: str
    table: str
    rows: int | None
    samples: tuple[str, ...] = ()
    why: str = ""
    query: str = ""
    repair: str = ""

    @property
    def key(self) -> str:
        """What names it in a record, now and later."""
        return f"{self.kind}: {self.name} of {self.table}"


def breaches(
    conn: Connection,
    *,
    check_timeout_ms: int = CHECK_TIMEOUT_MS,
    whole_timeout_ms: int = WHOLE_TIMEOUT_MS,
    empty: Collection[str] = (),
    passed_over: Collection[str] = (),
) -> list[Breach]:
    """Return the foreign keys with orphans, the unique indexes with duplicates, and the rows that NOT VALID lets be.

    Each check reads its tables in a transaction of its own, under ``check_timeout_ms``; what comes after
    ``whole_timeout_ms`` is named as not checked, as is what we may not read. Not checked are exclusion constraints,
    and what is declared NOT ENFORCED.

    Locks: AccessShareLock on the table and on the one that it references, each for one check, or for a second of many.
    Source: https://www.postgresql.org/docs/current/ddl-constraints.html
    """
    with snapshot_cursor(conn):  # names come qualified
        foreign, checks = foreign_code.reached(conn), list(_checks(conn, frozenset(empty)))
    deadline = time.monotonic() + whole_timeout_ms / 1000
    found = []
    with progress.doing("checking rows against what the schema declares") as stage:
        askable = [(place, check) for place, check in enumerate(checks, 1) if check[1]["table_name"] not in passed_over]
        whole = _whole(conn, askable, foreign, stage) if whole_timeout_ms > TOGETHER_MS else set()
        for place, (kind, row, query) in enumerate(checks, 1):
            if place in whole:
                continue
            stage.how_far(f"{row['name']} of {row['table_name']}, {place} of {len(checks)}")
            left_ms = int((deadline - time.monotonic()) * 1000)
            timeout_ms = min(check_timeout_ms, left_ms)
            why = "" if foreign.isdisjoint(row["objects"]) else foreign_code.WHY
            why = _LARGE if row["table_name"] in passed_over else why
            breach = _checked(conn, kind, row, query, timeout_ms, why or (_TIME_IS_UP if timeout_ms < 1 else ""))
            if breach.rows != 0:
                found.append(breach)
    return found


def _checks(conn: Connection, empty: Collection[str]) -> Iterator[_Check]:
    asked: tuple[tuple[Kind, str, Callable[[Mapping[str, Any]], sql.Composed]], ...] = (
        ("orphans", "foreign_keys", _orphans),
        ("duplicates", "unique_indexes", _duplicates),
        ("rows against a constraint", "unvalidated_checks", _against),
    )
    for kind, name, made in asked:
        for row in queries.rows(conn, "integrity", name):
            if row["partitioned"] or row["table_name"] not in empty:
                yield kind, row, made(row)


def _whole(conn: Connection, checks: Sequence[tuple[int, _Check]], foreign: frozenset[int], stage: Stage) -> set[int]:
    """Return the places of checks that find nothing, many asked at once: of small tables, they take a moment.

    Where they take longer, or one may not be made, each is made for itself; after some such times all are.
    """
    found: set[int] = set()
    failed = 0
    for kind, group in groupby(checks, key=lambda numbered: numbered[1][0]):
        askable = [(place, query) for place, (_, row, query) in group if foreign.isdisjoint(row["objects"])]
        for first in range(0, len(askable), TOGETHER):
            if failed >= TOGETHER_FAILS:
                return found
            part = askable[first : first + TOGETHER]
            stage.how_far(f"{part[0][0]:,} of {checks[-1][0]:,}")
            asked = sql.SQL(" UNION ALL ").join(
                sql.SQL("SELECT {} WHERE EXISTS ({})").format(sql.Literal(place), query) for place, query in part
            )
            settings = _WITHOUT_INDEX if kind == "duplicates" else {}
            try:
                with snapshot_cursor(conn, statement_timeout_ms=TOGETHER_MS, settings=settings) as cursor:
                    broken = {place for (place,) in cursor.execute(asked).fetchall()}
            except Blocked:
                failed += 1
                continue
            except psycopg.Error as exc:
                if meaning(exc) is Meaning.LOST:
                    raise
                failed += 1
                continue
            found |= {place for place, _ in part} - broken
    return found


def _checked(
    conn: Connection, kind: Kind, row: Mapping[str, Any], query: sql.Composed, timeout_ms: int, why: str
) -> Breach:
    text = query.as_string(None)
    rows: int | None = None
    samples: list[tuple[object, ...]] = []
    if not why:
        counted = sql.SQL("SELECT pg_catalog.count(*) OVER (), s.* FROM ({}) AS s LIMIT {}").format(query, SAMPLES)
        settings = _WITHOUT_INDEX if kind == "duplicates" else {}
        try:
            with snapshot_cursor(conn, statement_timeout_ms=timeout_ms, settings=settings) as cursor:
                samples = cursor.execute(counted).fetchall()
            rows = int(str(samples[0][0])) if samples else 0
        except Blocked as exc:
            why = str(exc).partition("\n")[0]
        except psycopg.Error as exc:
            if meaning(exc) is Meaning.LOST:
                raise
            why = said(exc)
    told = tuple(str(sample[1]) for sample in samples)
    repair = "" if kind != "duplicates" and row["is_valid"] else row["repair"]
    return Breach(kind, row["name"], row["table_name"], rows, told, why, text, repair)


def _orphans(row: Mapping[str, Any]) -> sql.Composed:
    """Select the rows of a foreign key that reference nothing, as its first check does (RI_Initial_check)."""
    columns, pairs = row["columns"], row["pairs"]
    parent = sql.SQL("SELECT FROM {} AS p WHERE {}")
    if row["has_period"]:
        # Periods of several rows may cover one together: https://www.postgresql.org/docs/18/sql-createtable.html
        covered = f" HAVING pg_catalog.range_agg({row['parent_columns'][-1]}) OPERATOR(pg_catalog.@>) {columns[-1]}"
        parent, pairs = sql.SQL("SELECT FROM {} AS p WHERE {}" + covered), pairs[:-1]
    matches = parent.format(_source(row["parent"], row["parent_partitioned"]), _and(pairs))
    none_is_null = _and([f"{column} IS NOT NULL" for column in columns])
    where = sql.SQL("{} AND NOT EXISTS ({})").format(none_is_null, matches)
    if row["match_full"]:
        some_is_null = sql.SQL(" OR ").join(sql.SQL(f"{column} IS NULL") for column in columns)
        all_are_null = _and([f"{column} IS NULL" for column in columns])
        where = sql.SQL("(({}) AND NOT ({})) OR ({})").format(some_is_null, all_are_null, where)
    key = sql.SQL(", ").join(map(sql.SQL, columns))
    source = _source(row["table_name"], row["partitioned"])
    return sql.SQL("SELECT ROW({})::text AS key FROM {} AS c WHERE {}").format(key, source, where)


def _duplicates(row: Mapping[str, Any]) -> sql.Composed:
    """Select the keys that stand more than once; a key that is a constant would be a place in GROUP BY."""
    names = [f"k{place}" for place in range(1, len(row["keys"]) + 1)]
    keys = sql.SQL(", ").join(sql.SQL(f"{key} AS {name}") for key, name in zip(row["keys"], names, strict=True))
    listed = sql.SQL(", ").join(map(sql.SQL, names))
    known = sql.SQL("true") if row["nulls_equal"] else _and([f"{name} IS NOT NULL" for name in names])
    return sql.SQL(
        "SELECT ROW({0})::text || ' ' || pg_catalog.count(*) || ' times' AS key"
        " FROM (SELECT {1} FROM {2} WHERE {3}) AS k WHERE {4} GROUP BY {0} HAVING pg_catalog.count(*) > 1"
    ).format(listed, keys, _source(row["table_name"], row["partitioned"]), sql.SQL(row["predicate"] or "true"), known)


def _against(row: Mapping[str, Any]) -> sql.Composed:
    return sql.SQL("SELECT pg_catalog.left(ROW(t.*)::text, 200) AS key FROM {} AS t WHERE {}").format(
        _source(row["table_name"], row["partitioned"]), sql.SQL(row["condition"])
    )


def _source(name: str, partitioned: bool) -> sql.Composed:
    return sql.SQL("{}" if partitioned else "ONLY {}").format(sql.SQL(name))


def _and(conditions: list[str]) -> sql.Composed:
    return sql.SQL(" AND ").join(map(sql.SQL, conditions))
