"""What is salvaged: tables of a restored server, with the columns and keys that they share with those of today.

1. Each table that is named has to be on both sides, with the same primary key: rows are told apart by it.
2. A column that only one side has, or whose type has changed, is told; where an old row could not be written, refused.
3. The condition of a table is judged by its tree and its functions; it is only ever executed on the restored server.
4. Tables are put in the order of their foreign keys, parents first. Those that refer to each other, or to themselves,
   are a circle, which is salvaged in one transaction.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from psycopg import sql

from pgrunbook.database import checksums, foreign_code, queries
from pgrunbook.database.checksums import TableName
from pgrunbook.database.connection import Connection
from pgrunbook.errors import Refused, WrongInput
from pgrunbook.sql import condition as conditions
from pgrunbook.undo_data import silence

Rows = Literal["missing", "changed"]
Triggers = Literal["silent", "fire"]
Key = Mapping[str, Any]


@dataclass(frozen=True)
class SalvageChoice:
    """What an operator has chosen: tables by name, a condition for some of them, and what is done with their rows.

    ``rows`` is "missing" to bring back rows that are gone, "changed" to overwrite those that differ, too. Where a
    trigger of the application is on a table, it is ``triggers``: "silent", or they "fire".
    """

    tables: tuple[str, ...]
    where: Mapping[str, str]
    rows: Rows = "missing"
    triggers: Triggers = "silent"


@dataclass(frozen=True)
class SalvagedTable:
    """A table to salvage; ``place`` is its place in the order, ``circle`` the number of its circle or itself.

    ``columns`` are those whose values are brought back, ``types`` their types today, ``old_types`` those that both
    sides hash alike ("" where they differ). ``told`` are sentences about what does not come back.
    """

    name: TableName
    oid: int
    is_partitioned: bool
    columns: tuple[str, ...]
    types: Mapping[str, str]
    key: tuple[str, ...]
    updatable: tuple[str, ...]
    told: tuple[str, ...] = ()
    condition: str = ""
    foreign_keys: tuple[Key, ...] = ()
    place: int = 0
    circle: int = 0
    is_circular: bool = False

    @property
    def source(self) -> sql.Composable:
        """The table in a statement: its own rows, or those of all partitions."""
        return sql.SQL("{}" if self.is_partitioned else "ONLY {}").format(self.name.identifier())

    @property
    def label(self) -> str:
        """Its name for people."""
        return f"{self.name.schema}.{self.name.name}"


def plan(old: Connection, conn: Connection, choice: SalvageChoice) -> list[SalvagedTable]:
    """Return the tables that are salvaged from ``old`` into ``conn``, parents first.

    Raises WrongInput for a table that is not on both sides or has no primary key, and for a condition that is none or
    may do more than read; Refused where old rows could not be written, for circles that cannot be salvaged, and where
    triggers cannot be silent, or code of others would run with our rights.
    Locks: AccessShareLock on catalogs.
    """
    names = _named(old, conn, choice.tables)
    hidden = foreign_code.tables(old) | foreign_code.tables(conn)
    foreign_code.refuse({*names.values()} & hidden, "salvage", "leave them out")
    where = _conditions(old, names, choice.where)
    found = [replace(_table(old, conn, name), condition=where.get(name, "")) for name in names.values()]
    keys = queries.rows(conn, "integrity", "foreign_keys")
    ordered = _ordered([replace(one, foreign_keys=_keys_of(one, keys)) for one in found])
    if is_silent(conn, ordered, choice) and not silence.may_silence(conn):
        raise Refused(
            "cannot keep triggers silent while rows are salvaged",
            detail="This role may not set session_replication_role, or a foreign key of the database has a PERIOD.",
            hint="Let them fire: -p salvage_triggers=fire.",
        )
    _refuse_circles(ordered, conn, choice)
    refuse_foreign(conn, ordered, choice)
    return ordered


def refuse_foreign(conn: Connection, tables: Sequence[SalvagedTable], choice: SalvageChoice) -> None:
    """Raise Refused where a row that is written would run code of roles that we do not trust."""
    written = foreign_code.written(conn, [one.oid for one in tables], fires=choice.triggers == "fire")
    foreign_code.refuse({one.name for one in tables if one.oid in written}, "write rows into", "leave them out")


def cascaded(old: Connection, conn: Connection, tables: Sequence[SalvagedTable]) -> list[TableName]:
    """Return the tables, beside these, whose rows are deleted with theirs (ON DELETE CASCADE), on both sides."""
    hidden = foreign_code.tables(old) | foreign_code.tables(conn)
    there = {*checksums.table_names(old)} & {*checksums.table_names(conn)}
    found = {TableName(r["schema"], r["name"])
             for r in queries.rows(conn, "salvage", "cascades", oids=[one.oid for one in tables])}  # fmt: skip
    return sorted((found & there) - hidden - {one.name for one in tables})


def is_silent(conn: Connection, tables: Sequence[SalvagedTable], choice: SalvageChoice) -> bool:
    """Tell whether triggers of the application are kept silent: those that are there."""
    return choice.triggers == "silent" and silence.fires(conn, [one.name for one in tables])


def _named(old: Connection, conn: Connection, wanted: Sequence[str]) -> dict[str, TableName]:
    """Return the table that each text names, with its schema or without, with quotes or without."""
    then, now = (checksums.table_names(side) for side in (old, conn))
    found: dict[str, TableName] = {}
    for text in wanted:
        fits = {one for one in {*then, *now} if text in (str(one), f"{one.schema}.{one.name}", one.name)}
        if len(fits) != 1:
            near = difflib.get_close_matches(text, [f"{one.schema}.{one.name}" for one in then], cutoff=0.5)
            raise WrongInput(
                f"there is no table {text} to salvage" if not fits else f"{text} is the name of {len(fits)} tables",
                detail="Neither the restored database nor that of today has it; a partition goes with its parent."
                if not fits
                else f"They are {', '.join(sorted(map(str, fits)))}.",
                hint=f"Correct the name: {', '.join(near)}." if near and not fits else "Name it with its schema.",
            )
        (table,) = fits
        for side, when in ((then, "at the point"), (now, "today")):
            if table not in side:
                raise WrongInput(
                    f"cannot salvage table {text}: it is not there {when}",
                    detail="Rows are brought back into a table that is on both sides.",
                    hint="Create it as it was, then do this again (pg_dump --schema-only of the restored server)."
                    if when == "today"
                    else "Restore to a point at which it was there.",
                )
        found[text] = table
    return found


def _conditions(old: Connection, names: Mapping[str, TableName], where: Mapping[str, str]) -> dict[TableName, str]:
    found = {}
    for text, condition in where.items():
        if text not in names:
            raise WrongInput(
                f"there is a condition for table {text}, which is not salvaged",
                detail=f"Salvaged are {', '.join(names)}.",
                hint="Name the table in salvage as well, spelled alike.",
            )
        calls = conditions.checked(condition, text)
        known = {r["name"]: r["is_volatile"] for r in queries.rows(old, "salvage", "functions", names=calls)}
        for call in calls:
            if known.get(call, True):
                why = "may do more than read" if call in known else "is not PostgreSQL's own"
                raise WrongInput(
                    f"cannot take this condition on table {text}: {condition}",
                    detail=f"The function {call} {why}.",
                    hint=conditions.HINT,
                )
        found[names[text]] = condition
    return found


def _table(old: Connection, conn: Connection, name: TableName) -> SalvagedTable:
    given = {"schema": name.schema, "name": name.name}
    then, now = ({r["name"]: r for r in queries.rows(c, "salvage", "columns", **given)} for c in (old, conn))
    (relation,) = queries.rows(conn, "salvage", "relation", **given)
    keys = [_key(side.values()) for side in (then, now)]
    if not keys[1] or keys[0] != keys[1]:
        raise WrongInput(
            f"cannot salvage table {name.schema}.{name.name}: rows cannot be told apart",
            detail="It has no primary key." if not keys[1] else "Its primary key has changed since.",
            hint="Copy what is missing by hand, from the restored server: pg_dump -t <table> --data-only.",
        )
    shared = [column for column in now if column in then and not now[column]["is_generated"]]
    lacks = [column for column in now if column not in then]
    _refuse_lacking(name, [now[column] for column in lacks])
    told = [f"{column}: there since, gets its default" for column in lacks if not now[column]["is_generated"]]
    told += [f"{column}: dropped since, is not brought back" for column in then if column not in now]
    for column in shared:
        if then[column]["type"] != now[column]["type"]:
            _refuse_narrowed(conn, name, then[column], now[column])
            told.append(f"{column}: {then[column]['type']} then, {now[column]['type']} today")
    updatable = [c for c in shared if c not in keys[1] and not now[c]["is_identity_always"]]
    return SalvagedTable(
        name, relation["oid"], relation["is_partitioned"], tuple(shared), {c: now[c]["type"] for c in shared}, keys[1],
        tuple(updatable), tuple(told),
    )  # fmt: skip


def _key(columns: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    places = sorted((row["key_place"], row["name"]) for row in columns if row["key_place"] is not None)
    return tuple(name for _, name in places)


def _refuse_lacking(name: TableName, columns: Sequence[Mapping[str, Any]]) -> None:
    lacks = [c["name"] for c in columns if c["is_not_null"] and not c["has_default"]]
    if lacks:
        raise Refused(
            f"cannot salvage table {name.schema}.{name.name}: old rows have no value for {', '.join(lacks)}",
            detail="The column is there since, is NOT NULL and has no default.",
            hint="Give it a default, for as long as rows are salvaged.",
        )


def _refuse_narrowed(conn: Connection, name: TableName, then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse a type that may not hold an old value, or takes it for another."""
    if then["plain_type"] == now["plain_type"]:
        fits = now["modifier"] == -1 or (
            now["plain_type"] == "character varying" and 0 < then["modifier"] <= now["modifier"]
        )
    else:
        given = {"old": then["plain_type"], "new": now["plain_type"]}
        fits = now["modifier"] == -1 and queries.rows(conn, "salvage", "is_widening", **given)[0]["exists"]
    if not fits:
        raise Refused(
            f"cannot salvage table {name.schema}.{name.name}: the type of column {now['name']} has changed since",
            detail=f"It was {then['type']} and is {now['type']}: an old value may not fit, or mean something else.",
            hint="Convert the rows by hand, from the restored server.",
        )


def _keys_of(table: SalvagedTable, keys: Collection[Key]) -> tuple[Key, ...]:
    """Return the foreign keys of a table that the values that come back decide; one over a PERIOD is the server's."""
    return tuple(
        key for key in keys
        if key["objects"][1] == table.oid and not key["has_period"] and set(key["names"]) <= set(table.columns)
    )  # fmt: skip


def _ordered(tables: Sequence[SalvagedTable]) -> list[SalvagedTable]:
    """Return the tables with parents first; those that reach each other are a circle, whose keys may be deferred."""
    by_oid = {one.oid: one for one in tables}
    above, stiff = _above(tables), _above(tables, stiff=True)
    circle_of = {oid: min([oid, *(one for one in above[oid] if oid in above[one])]) for oid in by_oid}

    def rank(oid: int) -> tuple[int, int, int, str]:  # whoever has more circles above it comes later
        circles = {circle_of[one] for one in above[oid]} - {circle_of[oid]}
        return len(circles), circle_of[oid], len(stiff[oid] - {oid}), by_oid[oid].label

    return [
        replace(by_oid[oid], place=place, circle=circle_of[oid], is_circular=oid in above[oid])
        for place, oid in enumerate(sorted(by_oid, key=rank), 1)
    ]


def _above(tables: Sequence[SalvagedTable], *, stiff: bool = False) -> dict[int, set[int]]:
    """Return the tables that each refers to, over all levels; with ``stiff`` only by keys that cannot be deferred."""
    oids = {one.oid for one in tables}
    above = {
        one.oid: {k["objects"][2] for k in one.foreign_keys if not (stiff and k["is_deferrable"])} & oids
        for one in tables
    }
    for middle in oids:  # Warshall
        for oid in oids:
            if middle in above[oid]:
                above[oid] |= above[middle]
    return above


def _refuse_circles(tables: Sequence[SalvagedTable], conn: Connection, choice: SalvageChoice) -> None:
    """Refuse tables that refer to each other by keys that cannot be deferred: no order of inserts holds them."""
    if is_silent(conn, tables, choice):
        return
    above, labels = _above(tables, stiff=True), {one.oid: one.label for one in tables}
    for one in tables:
        others = sorted(labels[oid] for oid in above[one.oid] - {one.oid} if one.oid in above[oid])
        if others:
            raise Refused(
                f"cannot salvage {one.label}: it and {', '.join(others)} refer to each other",
                detail="None of their foreign keys is DEFERRABLE: no order of tables holds them.",
                hint="ALTER TABLE ... ALTER CONSTRAINT ... DEFERRABLE one of them for as long as rows are salvaged.",
            )
