"""Statements that need no inverse, and those whose effects nobody can know."""

from __future__ import annotations

from typing import Any

from pglast import ast

from pgrunbook.inverse import columns, create, rows
from pgrunbook.inverse.reader import Reader
from pgrunbook.inverse.way import NoInverseError, Way
from pgrunbook.plan.declared import Declared
from pgrunbook.sql.tree import strings, walk


def nothing(_reader: Reader, _way: Way, _node: Any) -> None:
    """SET, LOCK, VACUUM, ANALYZE, REINDEX and the like: schema and rows do not change."""


def because(sentence: str) -> Any:
    """Return a function that raises NoInverseError with this reason."""

    def way_back(_reader: Reader, _way: Way, _node: Any) -> None:
        raise NoInverseError(sentence)

    return way_back


def select(reader: Reader, way: Way, node: Any) -> None:
    """SELECT, VALUES, WITH: revert rows and sequences; raise NoInverseError for volatile functions."""
    if getattr(node, "intoClause", None) is not None:
        create.table_as(reader, way, node)
    if rows.writes(node):
        rows.change(reader, way, node)
    called = {strings(part.funcname) for part in walk(node) if isinstance(part, ast.FuncCall)}
    for part in walk(node):
        if isinstance(part, ast.FuncCall) and part.funcname[-1].sval == "setval":
            _set_back(reader, way, part)
    unknown = _unknown(reader, {names[-1] for names in called})
    if unknown:
        raise NoInverseError(f"cannot be computed: nobody can know what {unknown[0]}() did.")


def change(reader: Reader, way: Way, node: Any) -> None:
    """INSERT, UPDATE, DELETE, MERGE: revert the rows; what its functions did elsewhere stays."""
    rows.change(reader, way, node)
    called = {part.funcname[-1].sval for part in walk(node) if isinstance(part, ast.FuncCall)}
    unknown = _unknown(reader, called)
    way.differs += [Declared("elsewhere", name, f"what {name}() did elsewhere stays") for name in unknown]


def _unknown(reader: Reader, names: set[str]) -> list[str]:
    """Return the functions that may write: volatile ones that are not PostgreSQL's own."""
    if not names:
        return []
    return [row["name"] for row in reader.rows("writing_functions", names=sorted(names))]


def _set_back(reader: Reader, way: Way, call: Any) -> None:
    """SELECT setval(...): set the sequence to its position of today."""
    name = call.args[0]
    while isinstance(name, ast.TypeCast):
        name = name.arg
    sequence = getattr(getattr(name, "val", None), "sval", None)
    if sequence is None:
        raise NoInverseError("cannot be computed: the sequence that setval() sets is not named.")
    row = reader.row("sequence", oid=reader.relation_named(sequence))
    if row is not None:
        columns.position(way, row)


def explain(reader: Reader, way: Way, node: Any) -> None:
    """EXPLAIN ANALYZE: the inverse of its statement; EXPLAIN: nothing."""
    options = {option.defname: getattr(option.arg, "sval", "true") for option in node.options or ()}
    if str(options.get("analyze", "false")).lower() in ("true", "on", "1"):
        select(reader, way, node.query)


def copy(reader: Reader, way: Way, node: Any) -> None:
    """COPY FROM: revert the inserted rows; COPY TO: nothing."""
    if node.is_from:
        rows.change(reader, way, node)
    elif node.query is not None:
        select(reader, way, node.query)


def cluster(reader: Reader, way: Way, node: Any) -> None:
    """CLUSTER ... USING: bring back the index of the CLUSTER mark."""
    relation = reader.relation(node.relation) if node.relation is not None else None
    if relation is not None and node.indexname is not None:
        index = reader.whole(relation).clustered
        clause = f"CLUSTER ON {index}" if index else "SET WITHOUT CLUSTER"
        way.add(f"ALTER {relation.word} {relation.sql} {clause}", "The old CLUSTER index is set again.")


def refresh(reader: Reader, way: Way, node: Any) -> None:
    """REFRESH MATERIALIZED VIEW: populate or empty it, as it is today."""
    relation = reader.relation(node.relation)
    if relation is not None and relation.is_populated == bool(node.skipData):
        clause = "WITH DATA" if relation.is_populated else "WITH NO DATA"
        way.add(f"REFRESH MATERIALIZED VIEW {relation.sql} {clause}", "It is populated, or empty, as before.")
