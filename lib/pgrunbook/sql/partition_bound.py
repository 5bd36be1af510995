"""The condition that a partition's bound puts on its rows, in PostgreSQL's own words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pglast import ast

from pgrunbook.sql.deparse import expression, literal, name, parsed
from pgrunbook.sql.tree import quoted, strings

_PADDED = ("character(", "pg_catalog.bpchar(", "bpchar(")
_COLLATED = ("text", "char", "bpchar", "varchar", "name", "citext", "_text", "_varchar")
_INFINITE = ("minvalue", "maxvalue")


@dataclass(frozen=True)
class _Part:
    """A column or expression of a partition key; ``cast`` is the type of its values, "" where it is not known."""

    sql: str
    cast: str
    collation: str

    @property
    def compared(self) -> str:
        """The part as it is compared: with another collation a character(n) loses its length."""
        if self.collation and self.cast.startswith(_PADDED):
            return f"CAST({self.sql} AS pg_catalog.bpchar){self.collation}"
        return f"{self.sql}{self.collation}"

    @property
    def is_hashed_plainly(self) -> bool:
        """Whether its values certainly have no collation, which a call in a CHECK would have and the bound has not."""
        return bool(self.cast) and not self.cast.removeprefix("pg_catalog.").startswith(_COLLATED)

    def value(self, datum: Any) -> str | None:
        """Return a bound as SQL, "minvalue" or "maxvalue", or None for NULL."""
        if isinstance(datum, ast.PartitionRangeDatum):
            datum = datum.value
        if isinstance(datum, ast.ColumnRef) and datum.fields[-1].sval in _INFINITE:
            return str(datum.fields[-1].sval)
        if isinstance(datum, ast.A_Const) and datum.isnull:
            return None
        text = expression(datum)
        return f"{f'CAST({text} AS {self.cast})' if self.cast else text}{self.collation}"


def bound_condition(parent: str, key: str, types: Mapping[str, str], bound: Any) -> str | None:
    """Return the condition that PostgreSQL derives from the bounds of a partition.

    It is equal in structure: else the server would not see that a CHECK proves it, and would read the rows again.
    ``types`` are those of the columns, below domains. Returns None for the default partition, and for a key with an
    operator class, whose operators the text does not tell.

    Source: https://www.postgresql.org/docs/current/sql-createtable.html, PARTITION OF
    """
    params = parsed(f"CREATE TABLE t (a int) PARTITION BY {key}").partspec.partParams
    if bound.is_default or any(param.opclass for param in params):
        return None
    parts = [_part(param, types) for param in params]
    if bound.strategy == "h":
        # By name: the plan is made on a branch, where the parent has another OID.
        whose = f"{literal(parent)}::pg_catalog.regclass::pg_catalog.oid"
        of = ", ".join(part.sql for part in parts)
        return f"pg_catalog.satisfies_hash_partition({whose}, {bound.modulus}, {bound.remainder}, {of})"
    if bound.strategy == "l":
        return _list_condition(parts[0], [parts[0].value(datum) for datum in bound.listdatums])
    lower = [part.value(datum) for part, datum in zip(parts, bound.lowerdatums, strict=True)]
    upper = [part.value(datum) for part, datum in zip(parts, bound.upperdatums, strict=True)]
    return _range_condition(parts, lower, upper)


def proof(parent: str, key: str, types: Mapping[str, str], bound: Any) -> str | None:
    """Return the condition whose CHECK proves the bounds; None where none is known, as for a hash of texts."""
    params = parsed(f"CREATE TABLE t (a int) PARTITION BY {key}").partspec.partParams
    if not bound.is_default and bound.strategy == "h" and not all(_part(p, types).is_hashed_plainly for p in params):
        return None
    return bound_condition(parent, key, types, bound)


def _part(param: Any, types: Mapping[str, str]) -> _Part:
    collation = f" COLLATE {'.'.join(map(quoted, strings(param.collation)))}" if param.collation else ""
    if param.name:
        return _Part(name(param.name), types.get(param.name, ""), collation)
    return _Part(f"({expression(param.expr)})", "", collation)


def _list_condition(part: _Part, values: Sequence[str | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return f"{part.sql} IS NULL"
    if part.cast and not part.cast.endswith("[]") and len(known) > 1:
        test = f"{part.compared} = ANY (ARRAY[{', '.join(known)}])"
    else:
        test = " OR ".join(f"{part.compared} = {value}" for value in known)
    return f"{part.sql} IS NULL OR {test}" if len(known) < len(values) else f"{part.sql} IS NOT NULL AND ({test})"


def _range_condition(parts: Sequence[_Part], lower: Sequence[str | None], upper: Sequence[str | None]) -> str:
    conditions = [f"{part.sql} IS NOT NULL" for part in parts]
    compared = [part.compared for part in parts]
    same = 0
    while same < len(parts) and lower[same] == upper[same] and lower[same] not in (None, *_INFINITE):
        conditions.append(f"{compared[same]} = {lower[same]}")
        same += 1
    for bound, strict, loose, stop in ((lower, ">", ">=", "minvalue"), (upper, "<", "<=", "maxvalue")):
        arms = _arms(compared[same:], bound[same:], strict, loose, stop)
        if arms:
            conditions.append("(" + " OR ".join(arms) + ")")
    return " AND ".join(conditions)


def _arms(parts: Sequence[str], bound: Sequence[str | None], strict: str, loose: str, stop: str) -> list[str]:
    """Return the alternatives that put a key on the right side of a bound: equal so far, then beyond."""
    arms: list[str] = []
    for place, value in enumerate(bound):
        if value in _INFINITE:
            break
        following = bound[place + 1] if place + 1 < len(bound) else None
        # A lower bound includes its value, an upper bound does not, unless the next column is unbounded.
        is_last = place + 1 == len(bound)
        operator = loose if (is_last and stop == "minvalue") or following == stop else strict
        equal = [f"{parts[i]} = {bound[i]}" for i in range(place)]
        arms.append("(" + " AND ".join([*equal, f"{parts[place]} {operator} {value}"]) + ")")
        if following in _INFINITE:
            break
    return arms
