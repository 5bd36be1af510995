"""Inverses of ALTER for sequences, routines, types, domains, extensions, publications and other objects."""

from __future__ import annotations

from typing import Any

from pglast import ast

from pgrunbook.database.relations import CatalogConstraint
from pgrunbook.inverse import columns, enum_value, name_resolution
from pgrunbook.inverse.alter import named_thing
from pgrunbook.inverse.naming import choose
from pgrunbook.inverse.reader import CLASSES, Reader
from pgrunbook.inverse.recreation import comments_of, drop_and_recreate, recreate, statements_of
from pgrunbook.inverse.way import NoInverseError, Way
from pgrunbook.sql.deparse import literal
from pgrunbook.sql.tree import object_kind, quoted, strings

_FIRES = {"O": "ENABLE", "D": "DISABLE", "R": "ENABLE REPLICA", "A": "ENABLE ALWAYS"}


def sequence(reader: Reader, way: Way, node: Any) -> None:
    """ALTER SEQUENCE: bring back all options, the owner, and the position if it is changed."""
    relation = reader.relation(node.sequence)
    row = reader.sequence(relation.oid) if relation else None
    if row is None:
        return
    touched = {option.defname for option in node.options or ()}
    if touched - {"restart", "owned_by"}:
        way.add(f"ALTER SEQUENCE {row['sql']} AS {row['type']} {row['options']}", "Its options are set again.")
    if "owned_by" in touched:
        way.add(f"ALTER SEQUENCE {row['sql']} OWNED BY {row['owned_by'] or 'NONE'}", "Its column owns it again.")
    if "restart" in touched:
        columns.position(way, row)


def function(reader: Reader, way: Way, node: Any) -> None:
    """ALTER FUNCTION: execute the definition of today, as the server prints it."""
    address = name_resolution.find(reader, object_kind(node.objtype), node.func)
    for _, statement in statements_of(reader, "pg_proc", [address]) if address else []:
        way.add(statement, "The old routine is created again.")


def domain(reader: Reader, way: Way, node: Any) -> None:
    """ALTER DOMAIN: default, NOT NULL and constraints."""
    oid = reader.type(".".join(quoted(name) for name in strings(node.typeName)))
    row = reader.row("type_facts", oid=oid) if oid else None
    if row is None:
        return
    name, subtype = row["sql"], getattr(node.subtype, "value", node.subtype)
    found = reader.constraints(types=[oid]) if oid else []
    match str(subtype):
        case "T":
            way.add(f"ALTER DOMAIN {name} " + (f"SET DEFAULT {row['default']}" if row["default"] else "DROP DEFAULT"))
        case "N" | "O":
            _domain_not_null(reader, way, row, found)
        case "C":
            _domain_constraint(reader, way, node, row)
        case "X" | "V":
            _domain_constraints(reader, way, node, name, found)


def _domain_not_null(reader: Reader, way: Way, row: dict[str, Any], found: list[CatalogConstraint]) -> None:
    named = [k for k in found if k.kind == "n"]
    if row["not_null"] and named:
        recreate(reader, way, [(CLASSES["pg_constraint"], named[0].oid, 0)])
    else:
        way.add(f"ALTER DOMAIN {row['sql']} {'SET' if row['not_null'] else 'DROP'} NOT NULL")


def _domain_constraint(reader: Reader, way: Way, node: Any, row: dict[str, Any]) -> None:
    given = node.def_
    if given.contype.name == "CONSTR_NOTNULL":
        if not row["not_null"]:
            way.add(f"ALTER DOMAIN {row['sql']} DROP NOT NULL")
        return
    name = given.conname or choose(reader, row["schema"], row["name"], "", "check", is_index=False)
    way.add(f"ALTER DOMAIN {row['sql']} DROP CONSTRAINT {quoted(name)}", "The constraint is dropped.")


def _domain_constraints(reader: Reader, way: Way, node: Any, name: str, found: list[CatalogConstraint]) -> None:
    """DROP CONSTRAINT: add it again; VALIDATE CONSTRAINT: drop it and add it NOT VALID."""
    for k in found:
        if k.name != node.name or (str(getattr(node.subtype, "value", node.subtype)) == "V" and k.valid):
            continue
        if str(getattr(node.subtype, "value", node.subtype)) == "V":
            way.add(f"ALTER DOMAIN {name} DROP CONSTRAINT {k.sql}")
        address = (CLASSES["pg_constraint"], k.oid, 0)
        for _, statement in statements_of(reader, "pg_constraint", [address]):
            way.add(statement, "The old constraint is added again.")
        for statement in comments_of(reader, [address]):
            way.add(statement)


def enum(reader: Reader, way: Way, node: Any) -> None:
    """ALTER TYPE ... RENAME VALUE and ADD VALUE."""
    name = ".".join(quoted(part) for part in strings(node.typeName))
    oid = reader.type(name)
    row = reader.row("type_facts", oid=oid) if oid else None
    if row is None:
        return
    if node.oldVal is not None:
        way.add(f"ALTER TYPE {row['sql']} RENAME VALUE {literal(node.newVal)} TO {literal(node.oldVal)}")
        return
    labels = reader.rows("labels_of_enum", oid=oid)
    if any(label["label"] == node.newVal for label in labels) and node.skipIfNewValExists:
        return
    enum_value.replace_type(reader, way, row, literal(node.newVal))


def extension(reader: Reader, way: Way, node: Any) -> None:
    """ALTER EXTENSION ... UPDATE, when the extension has a script for the old version."""
    thing = named_thing(reader, "EXTENSION", node.extname)
    if thing is None:
        return
    old = (reader.row("facts_of_rarity", oid=thing.address[1]) or {})["version"]
    options = {option.defname: option.arg for option in node.options or ()}
    new = options["new_version"].sval if "new_version" in options else None
    if new is None:
        new = (reader.row("default_version", name=node.extname) or {"version": None})["version"]
    if new == old:
        return
    path = reader.row("downgrade", name=node.extname, source=new, target=old)
    if not path or not path["is_known"]:
        raise NoInverseError(f"cannot be undone, because extension {thing.sql} has no script from {new} back to {old}.")
    way.add(f"ALTER EXTENSION {thing.sql} UPDATE TO {literal(old)}", "The old version is set again.")


def extension_contents(reader: Reader, way: Way, node: Any) -> None:
    """ALTER EXTENSION ... ADD and DROP of an object."""
    thing = reader.thing(name_resolution.find(reader, object_kind(node.objtype), node.object))
    if thing is not None:
        word = "ADD" if node.action < 0 else "DROP"
        way.add(f"ALTER EXTENSION {quoted(node.extname)} {word} {thing.word} {thing.sql}")


def publication(reader: Reader, way: Way, node: Any) -> None:
    """ALTER PUBLICATION: bring back its options, or its list of tables and schemas."""
    row = reader.row("publication", name=node.pubname)
    if row is None:
        return
    if node.options:
        way.add(f"ALTER PUBLICATION {row['sql']} SET ({row['options']})", "Its options are set again.")
    if not node.pubobjects:
        return
    class_ = CLASSES["pg_publication_rel"]
    if row["tables"]:
        for _, statement in statements_of(reader, "pg_publication_rel", [(class_, row["tables"][0], 0)]):
            way.add(statement, "Its old list is set again.")
    elif row["schemas"]:
        way.add(
            f"ALTER PUBLICATION {row['sql']} SET TABLES IN SCHEMA {', '.join(row['schemas'])}",
            "Its old list is set again.",
        )
    else:
        _empty_publication(reader, way, node, row["sql"])


def _empty_publication(reader: Reader, way: Way, node: Any, name: str) -> None:
    """Drop what was added to an empty publication, for SET cannot make it empty."""
    for part in node.pubobjects:
        if part.pubtable is not None:
            relation = reader.relation(part.pubtable.relation)
            if relation is not None:
                way.add(f"ALTER PUBLICATION {name} DROP TABLE {relation.label}", "It is removed again.")
        else:
            schema = quoted(part.name or reader.home)
            way.add(f"ALTER PUBLICATION {name} DROP TABLES IN SCHEMA {schema}", "It is removed again.")


def statistics(reader: Reader, way: Way, node: Any) -> None:
    """ALTER STATISTICS ... SET STATISTICS."""
    thing = reader.thing(name_resolution.find(reader, "STATISTIC_EXT", node.defnames))
    if thing is not None:
        target = (reader.row("facts_of_rarity", oid=thing.address[1]) or {})["statistics"]
        way.add(f"ALTER STATISTICS {thing.sql} SET STATISTICS {target}")


def event_trigger(reader: Reader, way: Way, node: Any) -> None:
    """ALTER EVENT TRIGGER ... ENABLE and DISABLE."""
    thing = named_thing(reader, "EVENT_TRIGGER", node.trigname)
    if thing is not None:
        state = (reader.row("facts_of_rarity", oid=thing.address[1]) or {})["enabled"]
        way.add(f"ALTER EVENT TRIGGER {thing.sql} {_FIRES[state]}")


def server(reader: Reader, way: Way, node: Any) -> None:
    """ALTER SERVER: version and options."""
    thing = named_thing(reader, "FOREIGN_SERVER", node.servername)
    if thing is None:
        return
    facts = reader.row("facts_of_rarity", oid=thing.address[1]) or {}
    words = [f"VERSION {literal(facts['version'])}" if facts["version"] else "VERSION NULL"] if node.has_version else []
    if node.options:
        words.append(_options(facts, node.options))
    way.add(f"ALTER SERVER {thing.sql} {' '.join(words)}", "The server has its old version and options again.")


def wrapper(reader: Reader, way: Way, node: Any) -> None:
    """ALTER FOREIGN DATA WRAPPER: bring back options, handler and validator."""
    thing = named_thing(reader, "FDW", node.fdwname)
    if thing is None:
        return
    if node.func_options:
        made = statements_of(reader, "pg_foreign_data_wrapper", [thing.address])[0][1]
        words = made.split(" OPTIONS ")[0]
        clauses = [f"{word} {words.split(word + ' ')[1].split(' ')[0]}" if f" {word} " in words else f"NO {word}"
                for word in ("HANDLER", "VALIDATOR")]  # fmt: skip
        way.add(f"ALTER FOREIGN DATA WRAPPER {thing.sql} {' '.join(clauses)}")
    if node.options:
        facts = reader.row("facts_of_rarity", oid=thing.address[1]) or {}
        way.add(f"ALTER FOREIGN DATA WRAPPER {thing.sql} {_options(facts, node.options)}")


def _options(facts: dict[str, Any], given: Any) -> str:
    return columns.foreign_options(facts["options"], [(option.defname, columns.action(option)) for option in given])


def dictionary(reader: Reader, way: Way, node: Any) -> None:
    """ALTER TEXT SEARCH DICTIONARY and CONFIGURATION: drop and recreate it."""
    is_configuration = isinstance(node, ast.AlterTSConfigurationStmt)
    kind = "TSCONFIGURATION" if is_configuration else "TSDICTIONARY"
    thing = reader.thing(name_resolution.find(reader, kind, node.cfgname if is_configuration else node.dictname))
    if thing is not None:
        drop_and_recreate(reader, way, [thing.address], f"DROP {thing.word} {thing.sql}")


def operator(reader: Reader, way: Way, node: Any) -> None:
    """ALTER OPERATOR ... SET: drop and recreate it."""
    thing = reader.thing(name_resolution.find(reader, "OPERATOR", node.opername))
    if thing is not None:
        drop_and_recreate(reader, way, [thing.address], f"DROP OPERATOR {thing.sql}")
