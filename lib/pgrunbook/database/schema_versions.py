"""Schemas of servers of different major versions: what the newer one adds or words anew, and the older cannot have.

A branch may be of a newer version than its target; what stands here is no difference between them.
"""

from __future__ import annotations

import re

from pgrunbook.database.schema import Column, Definition, Relation, SchemaObject, Sequence, Snapshot

NOT_NULL_SINCE, NAMED_IN_DOMAINS_SINCE, MAINTAIN_SINCE, UNLOGGED_SEQUENCES_SINCE = 18, 17, 17, 15
# From then on schema public belongs to pg_database_owner, and not everybody may create in it.
CLOSED_PUBLIC_SINCE = 15
_PUBLIC = "schema public to "
_DOMAINS_CONSTRAINT = re.compile(r'CONSTRAINT (?:"(?:[^"]|"")+"|\S+) NOT NULL')
_EXTENSIONS_VERSION = re.compile(r"VERSION '(?:[^']|'')*' ")
# A grant's definition: its clauses, each with rights in the order of their names.
_CLAUSES = re.compile(r"; (?=GRANT |REVOKE )")
_CLAUSE = re.compile(r"(GRANT|REVOKE) ([A-Z, ]+?)((?: WITH GRANT OPTION)?(?: GRANTED BY .*)?)", re.DOTALL)
_MAINTAIN = "MAINTAIN"
_ALL_BEFORE = ["DELETE", "INSERT", "REFERENCES", "SELECT", "TRIGGER", "TRUNCATE", "UPDATE"]


def are_of_one(a: Snapshot, b: Snapshot) -> bool:
    """Tell whether two schemas were read from servers of one major version."""
    return _major(a) == _major(b)


def comparable(a: Snapshot, b: Snapshot) -> tuple[Snapshot, Snapshot]:
    """Return two schemas without what differs between their servers' major versions by nature.

    That are the names and the origin of NOT NULL constraints, the right MAINTAIN, the versions of extensions,
    the text of the queries of views, whether a sequence is unlogged as its table is, and rights on schema public.
    """
    if are_of_one(a, b):
        return a, b
    older, newer = sorted((_major(a), _major(b)))
    if older < CLOSED_PUBLIC_SINCE <= newer:
        a, b = _without_public(a), _without_public(b)
    return _told_by(a, older), _told_by(b, older)


def _major(snapshot: Snapshot) -> int:
    return snapshot.server_version // 10_000


def _without_public(snapshot: Snapshot) -> Snapshot:
    """Leave out the rights on schema public, which are told as far as they are not those of the beginning."""
    kept = (obj for obj in snapshot.objects if not (obj.kind == "grant" and obj.name.startswith(_PUBLIC)))
    return Snapshot(snapshot.server_version, tuple(kept))


def _told_by(snapshot: Snapshot, older: int) -> Snapshot:
    told = (_of_both(obj, older) for obj in snapshot.objects)
    return Snapshot(snapshot.server_version, tuple(obj for obj in told if obj is not None))


def _of_both(obj: SchemaObject, older: int) -> SchemaObject | None:
    if isinstance(obj, Column):
        return obj._replace(not_null_detail=None) if older < NOT_NULL_SINCE else obj
    if isinstance(obj, Relation):
        return obj._replace(query=obj.query and "")
    if isinstance(obj, Sequence):
        return obj._replace(unlogged=False) if older < UNLOGGED_SEQUENCES_SINCE else obj
    if not isinstance(obj, Definition):
        return obj
    if obj.kind == "extension":
        return obj._replace(definition=_EXTENSIONS_VERSION.sub("", obj.definition))
    if obj.kind == "domain" and older < NAMED_IN_DOMAINS_SINCE:
        return obj._replace(definition=_DOMAINS_CONSTRAINT.sub("NOT NULL", obj.definition))
    if obj.kind == "grant" and older < MAINTAIN_SINCE:
        clauses = [text for clause in _CLAUSES.split(obj.definition) if (text := _without_maintain(clause))]
        return obj._replace(definition="; ".join(sorted(clauses))) if clauses else None
    return obj


def _without_maintain(clause: str) -> str:
    """Return a clause of a grant as a version says it that does not know MAINTAIN; "" where nothing is left of it."""
    found = _CLAUSE.fullmatch(clause)
    if found is None:
        return clause
    verb, rights, ending = found.groups()
    left = [right for right in rights.split(", ") if right != _MAINTAIN]
    return f"{verb} {'ALL' if left == _ALL_BEFORE else ', '.join(left)}{ending}" if left else ""
