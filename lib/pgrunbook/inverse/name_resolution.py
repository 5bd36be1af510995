"""The objects that a statement names, whatever their kind: as DROP, COMMENT ON, RENAME and OWNER TO name them."""

from __future__ import annotations

from typing import Any

from pglast import ast

from pgrunbook.inverse.grants import routine
from pgrunbook.inverse.reader import CLASSES, Address, Reader
from pgrunbook.sql.tree import object_kind, quoted, strings, text

_RELATIONS = ("TABLE", "VIEW", "MATVIEW", "INDEX", "SEQUENCE", "FOREIGN_TABLE")
_WORDS = {
    "SCHEMA": "schema", "EXTENSION": "extension", "PUBLICATION": "publication", "EVENT_TRIGGER": "event trigger",
    "STATISTIC_EXT": "statistics object", "COLLATION": "collation", "CONVERSION": "conversion", "LANGUAGE": "language",
    "FDW": "foreign-data wrapper", "FOREIGN_SERVER": "server", "ACCESS_METHOD": "access method",
    "TSPARSER": "text search parser", "TSDICTIONARY": "text search dictionary", "TSTEMPLATE": "text search template",
    "TSCONFIGURATION": "text search configuration", "OPCLASS": "operator class", "OPFAMILY": "operator family",
    "TRIGGER": "trigger", "RULE": "rule", "POLICY": "policy", "TABCONSTRAINT": "table constraint",
    "DATABASE": "database", "TABLESPACE": "tablespace", "ROLE": "role", "SUBSCRIPTION": "subscription",
}  # fmt: skip


def find(reader: Reader, kind: str, entry: Any) -> Address | None:
    """Return the object of a kind ("TABLE", "DOMAIN" ... as the parser calls it) that a statement names."""
    if kind in _RELATIONS:
        schema, name = _dotted(entry)
        relation = reader.named(schema, name)
        return (CLASSES["pg_class"], relation.oid, 0) if relation else None
    if kind in ("FUNCTION", "PROCEDURE", "ROUTINE", "AGGREGATE"):
        return routine(reader, entry)
    if kind in ("TYPE", "DOMAIN"):
        oid = reader.type(entry if isinstance(entry, ast.TypeName) else ".".join(quoted(n) for n in strings(entry)))
        return (CLASSES["pg_type"], oid, 0) if oid else None
    names, args = _address(kind, entry)
    word = {"CAST": "cast", "OPERATOR": "operator", "DOMCONSTRAINT": "domain constraint", "TRANSFORM": "transform",
            "COLUMN": "table column"}.get(kind) or _WORDS.get(kind)  # fmt: skip
    return reader.address(word, names, args) if word else None


def of_drop(reader: Reader, node: Any) -> list[Address]:
    """Return the objects that a DROP names, if they exist."""
    kind = object_kind(node.removeType)
    found = [find(reader, kind, entry) for entry in node.objects]
    return [address for address in found if address is not None]


def _address(kind: str, entry: Any) -> tuple[list[str], list[str]]:
    if kind == "CAST":
        return [text(entry[0])], [text(entry[1])]
    if kind == "TRANSFORM":
        return [text(entry[0])], [entry[1].sval]
    if kind == "OPERATOR":
        return list(strings(entry.objname)), [text(arg) if arg is not None else "NONE" for arg in entry.objargs]
    if kind == "DOMCONSTRAINT":
        return [text(entry[0])], [entry[1].sval]
    if isinstance(entry, ast.String):
        return [entry.sval], []
    if isinstance(entry, str):
        return [entry], []
    return list(strings(entry)), []


def _dotted(entry: Any) -> tuple[str | None, str]:
    if isinstance(entry, ast.RangeVar):
        return entry.schemaname, entry.relname
    parts = strings(entry)
    return (parts[-2] if len(parts) > 1 else None), parts[-1]
