"""Statements that change rows: the tables whose rows are to capture (``undo_data`` reverts them)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pglast import ast

from pgrunbook.database.relations import Relation
from pgrunbook.inverse import columns
from pgrunbook.inverse.reader import Reader
from pgrunbook.inverse.way import NoInverseError, Way
from pgrunbook.plan.declared import Declared
from pgrunbook.plan.step import Keep
from pgrunbook.sql.tree import walk

_WRITES = ast.InsertStmt | ast.UpdateStmt | ast.DeleteStmt | ast.MergeStmt


def change(reader: Reader, way: Way, node: Any) -> None:
    """INSERT, UPDATE, DELETE, MERGE, TRUNCATE and COPY FROM, also inside WITH: capture the rows that they reach."""
    capture(reader, way, [node])


def capture(reader: Reader, way: Way, nodes: Sequence[Any]) -> None:
    """Capture the rows that statements reach."""
    seen: dict[int, str] = {}
    for relation, how in (each for node in nodes for each in _written(reader, node)):
        for row in reader.rows("written_by", oids=[relation.oid], how=how):
            if row["kind"] in ("r", "p", "f"):
                if not row["below"]:
                    seen[row["oid"]] = row["sql"]
                if row["triggers"]:
                    why = f"what triggers of {row['sql']} wrote to other tables stays: {', '.join(row['triggers'])}"
                    way.differs.append(Declared("elsewhere", row["sql"], why))
    way.keeps += [Keep("rows", seen[oid], key=key) for oid, key in reader.keys(seen).items()]
    way.of_rows = bool(seen)
    if any(isinstance(node, ast.TruncateStmt) and node.restart_seqs for node in nodes):
        _sequences(reader, way, list(seen))


def _sequences(reader: Reader, way: Way, oids: list[int]) -> None:
    for row in reader.rows("owned_sequences", oids=oids):
        found = reader.sequence(row["oid"])
        if found:
            columns.position(way, found)


def _written(reader: Reader, node: Any) -> Iterator[tuple[Relation, str]]:
    for named, how in _named(node):
        relation = reader.relation(named)
        if relation is None:
            continue
        if relation.kind == "v":
            reason = f"cannot be computed: {relation.label} is a view, and the statement does not name its tables."
            raise NoInverseError(reason)
        yield relation, how


def _named(node: Any) -> Iterator[tuple[Any, str]]:
    if isinstance(node, ast.TruncateStmt):
        cascades = node.behavior.name == "DROP_CASCADE"
        yield from ((named, "truncate" if cascades else "nothing") for named in node.relations)
    elif isinstance(node, ast.CopyStmt):
        yield node.relation, "insert"
    for part in walk(node):
        if isinstance(part, ast.InsertStmt):
            yield part.relation, "update" if part.onConflictClause is not None else "insert"
        elif isinstance(part, ast.UpdateStmt):
            yield part.relation, "update"
        elif isinstance(part, ast.DeleteStmt):
            yield part.relation, "delete"
        elif isinstance(part, ast.MergeStmt):
            yield part.relation, "update"
            yield part.relation, "delete"


def writes(node: Any) -> bool:
    """Tell whether a statement contains INSERT, UPDATE, DELETE or MERGE."""
    return any(isinstance(part, _WRITES) for part in walk(node))
