"""Statements with nothing to take back, and those of which nobody can know what they did."""

from __future__ import annotations

from typing import Any

from pglast import ast

from pgrunbook.inverse import columns, create, rows
from pgrunbook.inverse.reader import Reader
from pgrunbook.inverse.way import NoWayBackError, Way
from pgrunbook.sql.tree import strings, walk


def nothing(_reader: Reader, _way: Way, _node: Any) -> None:
    """SET, LOCK, VACUUM, ANALYZE, REINDEX and the like leave schema and rows as they were."""


def because(sentence: str) -> Any:
    """Return the way back that there is not, for the same reason always."""

    def way_back(_reader: Reader, _way: Way, _node: Any) -> None:
        raise NoWayBackError(sentence)

    return way_back


def select(reader: Reader, way: Way, node: Any) -> None:
    """SELECT, VALUES, WITH: rows that it changes, sequences that it sets, and functions that may do anything."""
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
        raise NoWayBackError(f"cannot be computed: nobody knows what {unknown[0]}() did.")


def change(reader: Reader, way: Way, node: Any) -> None:
    """INSERT, UPDATE, DELETE, MERGE: rows; what functions in it did elsewhere stays."""
    rows.change(reader, way, node)
    called = {part.funcname[-1].sval for part in walk(node) if isinstance(part, ast.FuncCall)}
    way.differs += [f"what {name}() did elsewhere stays" for name in _unknown(reader, called)]


def _unknown(reader: Reader, names: set[str]) -> list[str]:
    """Return the functions that may write: volatile ones that are not PostgreSQL's own."""
    if not names:
        return []
    return [row["name"] for row in reader.rows("writing_functions", names=sorted(names))]


def _set_back(reader: Reader, way: Way, call: Any) -> None:
    """Set a sequence that SELECT setval(...) names to where it stands."""
    name = call.args[0]
    while isinstance(name, ast.TypeCast):
        name = name.arg
    told = getattr(getattr(name, "val", None), "sval", None)
    if told is None:
        raise NoWayBackError("cannot be computed: the sequence that setval() sets is not named.")
    row = reader.row("sequence", oid=reader.relation_named(told))
    if row is not None:
        columns.position(way, row)


def explain(reader: Reader, way: Way, node: Any) -> None:
    """EXPLAIN ANALYZE executes its statement; EXPLAIN does not."""
    told = {option.defname: getattr(option.arg, "sval", "true") for option in node.options or ()}
    if str(told.get("analyze", "false")).lower() in ("true", "on", "1"):
        select(reader, way, node.query)


def copy(reader: Reader, way: Way, node: Any) -> None:
    """COPY FROM brings rows; COPY TO reads them."""
    if node.is_from:
        rows.change(reader, way, node)
    elif node.query is not None:
        select(reader, way, node.query)


def cluster(reader: Reader, way: Way, node: Any) -> None:
    """CLUSTER ... USING remembers the index."""
    relation = reader.relation(node.relation) if node.relation is not None else None
    if relation is not None and node.indexname is not None:
        index = reader.whole(relation).clustered
        told = f"CLUSTER ON {index}" if index else "SET WITHOUT CLUSTER"
        way.add(f"ALTER {relation.word} {relation.sql} {told}", "The index by which it is clustered.")


def refresh(reader: Reader, way: Way, node: Any) -> None:
    """REFRESH fills a materialized view that was not, or empties one that was."""
    relation = reader.relation(node.relation)
    if relation is not None and relation.is_populated == bool(node.skipData):
        told = "WITH DATA" if relation.is_populated else "WITH NO DATA"
        way.add(f"REFRESH MATERIALIZED VIEW {relation.sql} {told}", "Filled or empty, as it was.")
