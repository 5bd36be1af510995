"""Inverses of GRANT, REVOKE and ALTER DEFAULT PRIVILEGES: exactly the privileges of today."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import groupby
from typing import Any

from pgrunbook.inverse.reader import CLASSES, Address, Question, Reader
from pgrunbook.inverse.way import NoInverseError, Way
from pgrunbook.plan.declared import Declared
from pgrunbook.sql.tree import quoted, strings, text

_CLASS = CLASSES["pg_class"]
# The kinds of objects in ALTER DEFAULT PRIVILEGES, and their letters in the catalog.
LETTERS = {
    "TABLE": "r", "SEQUENCE": "S", "FUNCTION": "f", "ROUTINE": "f", "TYPE": "T", "SCHEMA": "n", "LARGEOBJECT": "L",
}  # fmt: skip
_AS_ROLE = """DO $undo$
DECLARE
    before pg_catalog.text := pg_catalog.current_setting('role');
BEGIN
    SET LOCAL ROLE {role};
    {statement};
    PERFORM pg_catalog.set_config('role', before, true);
END
$undo$"""
WORDS = {"r": "TABLES", "S": "SEQUENCES", "f": "FUNCTIONS", "T": "TYPES", "n": "SCHEMAS", "L": "LARGE OBJECTS"}


def restore(reader: Reader, way: Way, addresses: Sequence[Address], grantees: Collection[str] | None = None) -> None:
    """Grant these grantees the privileges on these objects that they have today.

    Without ``grantees`` the objects are recreated: default privileges apply, and only what differs from them is
    granted or revoked.
    """
    news = grantees is None and reader.has_default_acls
    rows = _rows(reader, addresses)
    before = [row["grantee"] for row in reader.rows("default_grantees")] if news else []
    for name, group in groupby(rows, key=lambda row: row["name"]):
        found = list(group)
        if grantees is None and not found[0]["own"] and not before:
            continue
        touched = set(grantees or ()) or {row["grantee"] for row in found if row["grantee"]}
        touched |= {*before, "PUBLIC", found[0]["owner"]} if grantees is None else set()
        revoked = "" if name.startswith("(") else name
        if revoked:
            way.add(f"REVOKE ALL ON {revoked} FROM {', '.join(sorted(touched))} CASCADE", "Privileges are set again.")
        mine = [row for row in found if row["grantee"] in touched and not row["by_another"]]
        for statement in _granted(name, mine):
            way.add(statement, "Privileges are set again.")
        _grant_by_others(way, name, _below(found, touched))


def after_owner(reader: Reader, way: Way, address: Address) -> None:
    """Bring back all privileges, for a change of owner merges the new owner's privileges."""
    rows = _rows(reader, [address])
    if any(row["own"] for row in rows):
        restore(reader, way, [address], {row["grantee"] for row in rows if row["grantee"]} | {rows[0]["owner"]})


def questions(addresses: Sequence[Address]) -> list[Question]:
    """Return the query for the privileges on these objects, [] when there are none."""
    if not addresses:
        return []
    classes = sorted({a[0] for a in addresses})
    found: list[Question] = []
    for query, some in (("acls", {_CLASS}), ("acls_of_others", {*classes} - {_CLASS})):
        if some & {*classes}:
            oids = sorted({a[1] for a in addresses if a[0] in some})
            found.append((query, {"classes": sorted(some), "oids": oids} if query != "acls" else {"oids": oids}))
    return found


def _rows(reader: Reader, addresses: Sequence[Address]) -> list[dict[str, Any]]:
    wanted = {(a[0], a[1]): {p for c, o, p in addresses if (c, o) == (a[0], a[1])} for a in addresses}
    rows = [
        row
        for query, parameters in questions(addresses)
        for row in reader.rows(query, **parameters)
        if {0, row["part"]} & wanted.get((row["class"], row["oid"]), set())
        and (0 in wanted[row["class"], row["oid"]] or row["part"])
    ]
    return sorted(rows, key=lambda row: (row["class"], row["oid"], row["part"], row["grantee"] or ""))


def _granted(name: str, rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    for (grantee, grantable), group in groupby(rows, key=lambda row: (row["grantee"], row["grantable"])):
        columns = name.partition(" ON ")[0] if name.startswith("(") else ""
        on = name.partition(" ON ")[2] if columns else name
        privileges = ", ".join(f"{row['privilege']}{' ' + columns if columns else ''}" for row in group)
        yield f"GRANT {privileges} ON {on} TO {grantee}{' WITH GRANT OPTION' if grantable else ''}"


def _grant_by_others(way: Way, name: str, rows: Sequence[dict[str, Any]]) -> None:
    """Grant, as their grantors, what others than the owner had granted; grant options first."""
    left = list(rows)
    while left:
        waiting = {row["grantee"] for row in left if row["grantable"]}
        ready = [row for row in left if row["grantor"] not in waiting] or left
        left = [row for row in left if row not in ready]
        for grantor, group in groupby(sorted(ready, key=lambda row: str(row["grantor"])), lambda row: row["grantor"]):
            found = list(group)
            if found[0]["can_be_grantor"]:
                for statement in _granted(name, found):
                    way.add(_as_role(grantor, statement), f"Privileges that {grantor} had granted are set again.")
            else:
                why = f"what {grantor} has granted on {name} may be gone: only {grantor} can grant it"
                way.differs.append(Declared("elsewhere", name, why))


def _below(rows: Sequence[dict[str, Any]], touched: Collection[str]) -> list[dict[str, Any]]:
    """Return what these grantees, and theirs, have granted: a REVOKE from them revokes it too."""
    reached, found = {*touched}, list[dict[str, Any]]()
    while more := [row for row in rows if row["by_another"] and row["grantor"] in reached and row not in found]:
        found += more
        reached |= {row["grantee"] for row in more}
    return found


def _as_role(role: str, statement: str) -> str:
    """Return a block that executes a statement as another role: an owner cannot grant in another's name."""
    return _AS_ROLE.replace("{role}", role).replace("{statement}", statement)


def grant(reader: Reader, way: Way, node: Any) -> None:
    """GRANT and REVOKE on objects: bring back the privileges of the named grantees."""
    addresses = _granted_objects(reader, node)
    grantees = [_role(reader, spec) for spec in node.grantees]
    restore(reader, way, addresses, grantees)


def _granted_objects(reader: Reader, node: Any) -> list[Address]:
    kind = node.objtype.name.removeprefix("OBJECT_")
    if node.targtype.name == "ACL_TARGET_ALL_IN_SCHEMA":
        schemas = [entry.sval for entry in node.objects]
        return [(row["class"], row["oid"], 0) for row in reader.rows("granted", kind=kind, schemas=schemas)]
    found: list[Address | None] = []
    for entry in node.objects or ():
        if kind in ("TABLE", "SEQUENCE"):
            relation = reader.relation(entry)
            found.append((CLASSES["pg_class"], relation.oid, 0) if relation else None)
        elif kind in ("FUNCTION", "PROCEDURE", "ROUTINE"):
            found.append(routine(reader, entry))
        elif kind in ("TYPE", "DOMAIN"):
            names = ".".join(quoted(part.sval) for part in entry)
            oid = reader.type(names)
            found.append((CLASSES["pg_type"], oid, 0) if oid else None)
        elif kind in _ADDRESSED:
            found.append(reader.address(_ADDRESSED[kind], [entry.sval]))
        else:
            reason = f"pgrunbook knows no inverse of a GRANT on a {kind.lower()}"
            raise NoInverseError(f"cannot be computed: {reason}.")
    return [address for address in found if address]


_ADDRESSED = {
    "SCHEMA": "schema", "LANGUAGE": "language", "FDW": "foreign-data wrapper", "FOREIGN_SERVER": "server",
    "DATABASE": "database", "TABLESPACE": "tablespace",
}  # fmt: skip


def routine(reader: Reader, entry: Any) -> Address | None:
    """Return the routine that a statement names."""
    args = None if entry.args_unspecified else ", ".join(text(arg) for arg in entry.objargs or ())
    return reader.routine(strings(entry.objname), args)


def role(reader: Reader, way: Way, node: Any) -> None:
    """GRANT and REVOKE of roles: bring back the memberships of today."""
    granted = [part.priv_name for part in node.granted_roles]
    members = [_role(reader, spec) for spec in node.grantee_roles]
    rows = reader.rows("members", names=granted)
    for name in granted:
        for member in members:
            there = [row for row in rows if row["role"] == quoted(name) and row["member"] == member]
            way.add(f"REVOKE {quoted(name)} FROM {member}", "The old membership is set again.")
            for row in there:
                way.add(membership(row), "The old membership is set again.")


def membership(row: dict[str, Any]) -> str:
    """Return the statement that brings back a membership."""
    options = f" WITH {row['options']}" if row["options"] else ""
    return f"GRANT {row['role']} TO {row['member']}{options}"


def defaults(reader: Reader, way: Way, node: Any) -> None:
    """ALTER DEFAULT PRIVILEGES: bring back the default privileges of the named grantees."""
    options = {option.defname: option.arg for option in node.options or ()}
    roles = [_role(reader, spec) for spec in options.get("roles") or ()] or [reader.me]
    schemas = [part.sval for part in options.get("schemas") or ()] or [None]
    letter = LETTERS[node.action.objtype.name.removeprefix("OBJECT_")]
    grantees = sorted({_role(reader, spec) for spec in node.action.grantees})
    restore_defaults(reader, way, roles, schemas, letter, grantees)


def restore_defaults(
    reader: Reader, way: Way, roles: Sequence[str], schemas: Sequence[str | None], letter: str, grantees: Sequence[str]
) -> None:
    """Bring back the default privileges of these grantees."""
    bare = [name.strip('"').replace('""', '"') for name in roles]
    rows = reader.rows("default_acls", roles=bare, schemas=list(schemas), letter=letter)
    for name in roles:
        for schema in schemas:
            scope = f"FOR ROLE {name}" + (f" IN SCHEMA {quoted(schema)}" if schema else "")
            for grantee in grantees:
                before = f"ALTER DEFAULT PRIVILEGES {scope}"
                way.add(f"{before} REVOKE ALL ON {WORDS[letter]} FROM {grantee}", "Default privileges are set again.")
                for row in rows:
                    place = row["role"] == name and row["schema"] == (quoted(schema) if schema else None)
                    if place and row["grantee"] == grantee:
                        option = " WITH GRANT OPTION" if row["grantable"] else ""
                        way.add(f"{before} GRANT {row['privilege']} ON {WORDS[letter]} TO {grantee}{option}",
                                "Default privileges are set again.")  # fmt: skip


def _role(reader: Reader, spec: Any) -> str:
    match spec.roletype.name:
        case "ROLESPEC_PUBLIC":
            return "PUBLIC"
        case "ROLESPEC_CSTRING":
            return quoted(spec.rolename)
    return reader.me
