"""Inverses of RENAME, OWNER TO, SET SCHEMA, COMMENT ON and SECURITY LABEL, for objects of every kind."""

from __future__ import annotations

from typing import Any

from pglast import ast

from pgrunbook.inverse import grants, name_resolution
from pgrunbook.inverse.reader import CLASSES, Address, CatalogObject, Reader
from pgrunbook.inverse.way import NoInverseError, Way
from pgrunbook.sql.deparse import literal
from pgrunbook.sql.tree import object_kind, quoted, strings

_RELATIONS = ("TABLE", "VIEW", "MATVIEW", "INDEX", "SEQUENCE", "FOREIGN_TABLE")


def rename(reader: Reader, way: Way, node: Any) -> None:
    """ALTER ... RENAME: rename the new name to the old one."""
    kind = object_kind(node.renameType)
    if kind in ("COLUMN", "ATTRIBUTE"):
        _rename_column(reader, way, node, kind)
        return
    if kind == "TABCONSTRAINT":
        over = reader.relation(node.relation)
        if over is not None:
            clause = f"RENAME CONSTRAINT {quoted(node.newname)} TO {quoted(node.subname)}"
            way.add(f"ALTER {over.word} {over.label} {clause}", "The old name is set again.")
        return
    if kind == "DOMCONSTRAINT":
        thing = reader.thing(name_resolution.find(reader, "DOMAIN", node.object))
        if thing is not None:
            clause = f"RENAME CONSTRAINT {quoted(node.newname)} TO {quoted(node.subname)}"
            way.add(f"ALTER DOMAIN {thing.sql} {clause}", "The old name is set again.")
        return
    if kind == "ROLE":
        way.add(f"ALTER ROLE {quoted(node.newname)} RENAME TO {quoted(node.subname)}", "The old name is set again.")
        return
    thing = reader.thing(_renamed(reader, node, kind))
    if thing is not None:
        clause = f"{thing.renamed(node.newname)} RENAME TO {thing.quoted[-1]}"
        way.add(f"ALTER {thing.word} {clause}", "The old name is set again.")


def _renamed(reader: Reader, node: Any, kind: str) -> Address | None:
    if kind in _RELATIONS:
        return name_resolution.find(reader, kind, node.relation)
    if kind in ("TRIGGER", "RULE", "POLICY"):
        over = reader.relation(node.relation)
        return reader.address(kind.lower(), [over.schema, over.name, node.subname]) if over else None
    if kind in ("SCHEMA", "DATABASE", "TABLESPACE") and node.object is None:
        return name_resolution.find(reader, kind, node.subname)
    return name_resolution.find(reader, kind, node.object)


def _rename_column(reader: Reader, way: Way, node: Any, kind: str) -> None:
    over = reader.relation(node.relation)
    if over is not None:
        word = "ATTRIBUTE" if kind == "ATTRIBUTE" else "COLUMN"
        cascade = " CASCADE" if kind == "ATTRIBUTE" and node.behavior.name == "DROP_CASCADE" else ""
        clause = f"RENAME {word} {quoted(node.newname)} TO {quoted(node.subname)}{cascade}"
        way.add(f"ALTER {over.word} {over.label} {clause}", "The old name is set again.")


def owner(reader: Reader, way: Way, node: Any) -> None:
    """ALTER ... OWNER TO: set the owner of today."""
    thing = reader.thing(_object(reader, node.objectType, node))
    if thing is not None:
        way.add(f"ALTER {thing.word} {thing.sql} OWNER TO {thing.owner}", "The old owner is set again.")
        grants.after_owner(reader, way, thing.address)


def set_schema(reader: Reader, way: Way, node: Any) -> None:
    """ALTER ... SET SCHEMA: move it back from the new schema."""
    thing = reader.thing(_object(reader, node.objectType, node))
    if thing is None:
        return
    if thing.type == "extension":
        address = thing.address
        definition = next(row["sql"] for row in reader.rows("make_rarities", oids=[address[1]], classes=[address[0]]))
        schema = definition.split(" SCHEMA ", 1)[1].rsplit(" VERSION ", 1)[0]
        way.add(f"ALTER EXTENSION {thing.sql} SET SCHEMA {schema}", "It moves back to its schema.")
        return
    schema = thing.quoted[-2]
    way.add(f"ALTER {thing.word} {thing.moved(node.newschema)} SET SCHEMA {schema}", "It moves back to its schema.")


def _object(reader: Reader, kind: Any, node: Any) -> Address | None:
    entry = node.relation if getattr(node, "relation", None) is not None else node.object
    return name_resolution.find(reader, object_kind(kind), entry)


def depends(reader: Reader, way: Way, node: Any) -> None:
    """ALTER ... DEPENDS ON EXTENSION, and NO DEPENDS."""
    kind = object_kind(node.objectType)
    address = _renamed_like(reader, node, kind)
    thing = reader.thing(address)
    if thing is not None:
        no = "" if node.remove else "NO "
        way.add(f"ALTER {thing.word} {thing.sql} {no}DEPENDS ON EXTENSION {quoted(node.extname.sval)}")


def _renamed_like(reader: Reader, node: Any, kind: str) -> Address | None:
    if kind == "TRIGGER":
        over = reader.relation(node.relation)
        return reader.address("trigger", [over.schema, over.name, *strings(node.object)]) if over else None
    return name_resolution.find(reader, kind, node.relation if node.relation is not None else node.object)


def comment(reader: Reader, way: Way, node: Any) -> None:
    """COMMENT ON: set the comment of today, or none."""
    thing = reader.thing(_commented(reader, node))
    if thing is None:
        return
    content = "NULL"
    for row in reader.rows("comments_and_labels", classes=[thing.address[0]], objects=[thing.address[1]]):
        if row["part"] == thing.address[2] and row["provider"] is None:
            content = literal(row["told"])
    if thing.address[0] in (CLASSES["pg_database"], CLASSES["pg_tablespace"], CLASSES["pg_authid"]):
        row_ = reader.row("shared_comment", class_=thing.address[0], oid=thing.address[1])
        content = literal(row_["comment"]) if row_ else "NULL"
    way.add(f"COMMENT ON {thing.word} {thing.sql} IS {content}", "The old comment or label is set again.")


def label(reader: Reader, way: Way, node: Any) -> None:
    """SECURITY LABEL: set the label of today, or none."""
    thing = reader.thing(_commented(reader, node))
    if thing is None:
        return
    content = "NULL"
    for row in reader.rows("comments_and_labels", classes=[thing.address[0]], objects=[thing.address[1]]):
        if row["part"] == thing.address[2] and row["provider"] and node.provider in (None, row["provider"]):
            content = literal(row["told"])
    provider = f" FOR {quoted(node.provider)}" if node.provider else ""
    way.add(
        f"SECURITY LABEL{provider} ON {thing.word} {thing.sql} IS {content}", "The old comment or label is set again."
    )


def _commented(reader: Reader, node: Any) -> Address | None:
    kind = object_kind(node.objtype)
    if kind == "LARGEOBJECT":
        raise NoInverseError("cannot be undone, because large objects are not captured.")
    if kind == "COLUMN":
        return _column(reader, strings(node.object))
    return name_resolution.find(reader, kind, node.object)


def _column(reader: Reader, parts: tuple[str, ...]) -> Address | None:
    relation = reader.named(parts[-3] if len(parts) > 2 else None, parts[-2])
    for column in reader.columns([relation.oid]) if relation else []:
        if column.name == parts[-1]:
            return (CLASSES["pg_class"], column.relation, column.number)
    return None


def named_thing(reader: Reader, kind: str, name: str) -> CatalogObject | None:
    """Return an object whose name needs no schema."""
    return reader.thing(name_resolution.find(reader, kind, ast.String(sval=name)))
