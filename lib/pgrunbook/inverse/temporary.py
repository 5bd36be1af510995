"""Temporary tables: they go with the session, and what was done with them needs no way back."""

from __future__ import annotations

from typing import Any

from pglast import ast

from pgrunbook.inverse import name_resolution
from pgrunbook.inverse.reader import CLASSES, Reader
from pgrunbook.inverse.way import Way
from pgrunbook.sql.tree import object_kind, quoted, walk

_WRITES = (ast.InsertStmt, ast.UpdateStmt, ast.DeleteStmt, ast.MergeStmt)
_ON_TABLE = (ast.AlterTableStmt, ast.IndexStmt, ast.CreateTrigStmt, ast.RenameStmt)
_OF_TABLE = ("TABLE", "INDEX")
_CLASS = CLASSES["pg_class"]


def take_back(reader: Reader, way: Way, node: Any) -> bool:
    """Write the inverse of a statement that has to do with temporary tables only; tell whether it is one.

    The session that takes it back may be the one that has made them.
    """
    made = node.relation if isinstance(node, ast.CreateStmt) else None
    if isinstance(node, ast.CreateTableAsStmt) and not any(isinstance(part, _WRITES) for part in walk(node)):
        made = node.into.rel
    if made is not None and (made.relpersistence == "t" or made.schemaname == "pg_temp"):
        name = f"pg_temp.{quoted(made.relname)}"
        way.add(f"DROP TABLE IF EXISTS {name}", f"{name} is dropped, where this session has it.")
        return True
    has_any = any(schema.startswith("pg_temp_") for schema in reader.path)  # the server adds it where a session has it
    return has_any and _is_of_session(reader, node)


def _is_of_session(reader: Reader, node: Any) -> bool:
    if isinstance(node, ast.DropStmt) and object_kind(node.removeType) in _OF_TABLE:
        return _are_dropped(reader, node)
    if isinstance(node, _WRITES):
        return all(_is_there(reader, part.relation) for part in walk(node) if isinstance(part, _WRITES))
    if isinstance(node, ast.TruncateStmt):
        return all(_is_there(reader, relation) for relation in node.relations)
    return isinstance(node, _ON_TABLE) and node.relation is not None and _is_there(reader, node.relation)


def _is_there(reader: Reader, named: Any) -> bool:
    relation = reader.relation(named)
    return relation is not None and relation.is_temporary


def _are_dropped(reader: Reader, node: Any) -> bool:
    found = name_resolution.of_drop(reader, node)
    return bool(found) and all(reader.relation_at(oid).is_temporary for class_, oid, _ in found if class_ == _CLASS)
