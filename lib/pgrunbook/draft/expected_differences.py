"""Differences that a safe form or a way back declares, which a comparison of schemas ignores.

A difference is declared by its data: its kind, the object, and what is different there; no sentence is read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from pgrunbook.database import publications, shadows
from pgrunbook.database.connection import Connection
from pgrunbook.database.queries import load
from pgrunbook.database.schema_diff import Difference
from pgrunbook.plan.declared import Declared, DeclaredKind

_OF_TYPE = re.compile(r"\bAS (smallint|integer|bigint)|\b(MIN|MAX)VALUE -?\d+")
_LIST = re.compile(r'^\((?:[^"()]|"(?:[^"]|"")*")*\)(?: |$)')
_WORDS = re.compile(r"[\w$\"]+|\S")


def is_declared(difference: Difference, declared: Iterable[Declared]) -> bool:
    """Tell whether a difference is one that was declared, and nothing beside it differs in its object."""
    return any(_COVERS[each.kind](difference, each.object) for each in declared if each.kind in _COVERS)


def is_of_schema(declared: Declared) -> bool:
    """Tell whether a declared difference is one that a comparison of schemas shows."""
    return declared.kind in _COVERS


def until_contract(conn: Connection) -> list[Declared]:
    """Return what is there only because a column lives beside another until contract, as the registry tells now."""
    return [
        Declared("until contract", one.name, f"{one.shadow.label} lives beside {one.shadow.beside} until contract")
        for one in shadows.objects(conn, shadows.read(conn))
    ] + [
        Declared("until contract", name, "it has a list of columns as long as one lives beside another")
        for name in publications.other_until_contract(conn)
    ]


def grown(conn: Connection) -> list[Declared]:
    """Return the sequences that have grown with their columns' type, as the registry tells now."""
    return [
        Declared("sequence type", one.name, f"it grows with {one.shadow.beside}")
        for one in shadows.sequences(conn, shadows.read(conn))
    ]


@dataclass(frozen=True)
class DeclaredOf:
    """A declared difference with the OID of its object, 0 where it has none: names may change after it."""

    declared: Declared
    oid: int


def followed(conn: Connection, declared: Iterable[Declared]) -> list[DeclaredOf]:
    """Return declared differences with the objects that have these names now."""
    found = list(declared)
    rows = conn.execute(load("expected_differences")["oids"], {"names": [each.object for each in found]}).fetchall()
    return [DeclaredOf(each, int(str(oid))) for each, (oid,) in zip(found, rows, strict=True)]


def named(conn: Connection, followed: Iterable[DeclaredOf]) -> tuple[Declared, ...]:
    """Return declared differences by the names that their objects have now."""
    found = list(followed)
    rows = conn.execute(load("expected_differences")["names"], {"oids": [each.oid for each in found]}).fetchall()
    names = {int(str(oid)): str(name) for oid, name in rows}
    made = (replace(each.declared, object=names.get(each.oid, each.declared.object)) for each in found)
    return tuple(dict.fromkeys(made))


def _is_moved(difference: Difference, name: str) -> bool:
    if difference.name != name:
        return False
    is_same = sorted(_WORDS.findall(difference.before)) == sorted(_WORDS.findall(difference.after))
    return difference.change in ("moved", "changed") and is_same


def _is_own(difference: Difference, name: str) -> bool:
    return (
        difference.change == "changed"
        and _is_of(difference, name)
        and _as_inherited(difference.before) == _as_inherited(difference.after)
    )


def _is_valid(difference: Difference, name: str) -> bool:
    is_constraint = difference.kind == "constraint" and difference.change == "changed"
    return is_constraint and _is_of(difference, name) and difference.before == f"{difference.after} NOT VALID"


def _is_beside(difference: Difference, name: str) -> bool:
    if difference.kind == "published table" and difference.change == "changed" and difference.name == name:
        return _without_list(difference.before) == _without_list(difference.after)
    return difference.change in ("added", "removed") and difference.name == name


def _without_list(description: str) -> str:
    """Return how a publication has a table without its list of columns, which stands in front of the row filter."""
    return _LIST.sub("", description)


def _has_grown(difference: Difference, name: str) -> bool:
    is_sequence = difference.kind == "sequence" and difference.change == "changed" and difference.name == name
    return is_sequence and _OF_TYPE.sub("", difference.before) == _OF_TYPE.sub("", difference.after)


def _is_of_index(difference: Difference, name: str) -> bool:
    return difference.kind in ("index", "constraint", "comment") and difference.name == name


def _is_of(difference: Difference, name: str) -> bool:
    return not name or difference.name.startswith(f"{name}.")


def _as_inherited(description: str) -> str:
    """Return a description without what tells an own part from one that is only inherited."""
    return description.replace(" AND LOCAL", "").replace(" (LOCAL)", "").replace(" LOCAL)", ")")


_COVERS: Mapping[DeclaredKind, Callable[[Difference, str], bool]] = {
    "column order": _is_moved,
    "locality": _is_own,
    "validity": _is_valid,
    "until contract": _is_beside,
    "sequence type": _has_grown,
    "partition index": _is_of_index,
}
