"""Statements that need no inverse, and those whose effects nobody can know."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pglast import ast

from pgrunbook.inverse import columns, create, rows
from pgrunbook.inverse.reader import Reader
from pgrunbook.inverse.way import NoInverseError, Way
from pgrunbook.plan.declared import Declared
from pgrunbook.sql.classify import kind
from pgrunbook.sql.tree import strings, walk

# What code may run beside changes of rows: no later statement meets anything of it.
_HARMLESS = (ast.VariableSetStmt, ast.LockStmt, ast.NotifyStmt, ast.ConstraintsSetStmt)
CHANGES_ROWS = (ast.SelectStmt, ast.InsertStmt, ast.UpdateStmt, ast.DeleteStmt, ast.MergeStmt, ast.TruncateStmt)


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
    set_sequences_back(reader, way, [node])
    unknown = _unknown(reader, {names[-1] for names in called})
    if unknown:
        run(reader, way, node, f"{unknown[0]}()")


def run(reader: Reader, way: Way, node: Any, what: str) -> None:
    """DO, CALL and SELECT of a function: capture the rows that its statements reach, as deep as they call."""
    found = []
    for part in reader.parts(node):
        if part.because:
            raise NoInverseError(f"cannot be computed: nobody can know what {what} did, because {part.because}.")
        if not isinstance(part.node, (*CHANGES_ROWS, *_HARMLESS)):
            raise NoInverseError(f"cannot be computed: {what} executes {kind(part.node)}.")
        found.append(part.node)
    called = {part.funcname[-1].sval for part in walk((node, *found)) if isinstance(part, ast.FuncCall)}
    if unknown := _unknown(reader, called, is_builtin=True):
        raise NoInverseError(f"cannot be computed: nobody can know what {unknown[0]}() did.")
    set_sequences_back(reader, way, found)
    rows.capture(reader, way, [part for part in found if not isinstance(part, _HARMLESS)])


def set_sequences_back(reader: Reader, way: Way, nodes: Iterable[Any]) -> None:
    """Set the sequences whose position statements set by setval() to that of today."""
    for part in (part for node in nodes for part in walk(node)):
        if isinstance(part, ast.FuncCall) and part.funcname[-1].sval == "setval":
            _set_back(reader, way, part)


def change(reader: Reader, way: Way, node: Any) -> None:
    """INSERT, UPDATE, DELETE, MERGE: revert the rows; what its functions did elsewhere stays."""
    changes(reader, way, (node,))


def changes(reader: Reader, way: Way, nodes: tuple[Any, ...]) -> None:
    """Revert the rows of several such statements."""
    rows.capture(reader, way, nodes)
    called = {part.funcname[-1].sval for part in walk(nodes) if isinstance(part, ast.FuncCall)}
    unknown = _unknown(reader, called)
    way.differs += [Declared("elsewhere", name, f"what {name}() did elsewhere stays") for name in unknown]


def _unknown(reader: Reader, names: set[str], *, is_builtin: bool = False) -> list[str]:
    """Return the functions that may write: volatile ones that are not PostgreSQL's own, and some of these."""
    if not names:
        return []
    found = reader.rows("writing_functions", names=sorted(names))
    return [row["name"] for row in found if row["is_builtin"] or not is_builtin]


def _set_back(reader: Reader, way: Way, call: Any) -> None:
    """SELECT setval(...): set the sequence to its position of today."""
    name = _without_casts(call.args[0])
    sequence = getattr(getattr(name, "val", None), "sval", None)
    if isinstance(name, ast.FuncCall) and strings(name.funcname)[-1] == "pg_get_serial_sequence":
        words = [getattr(getattr(_without_casts(arg), "val", None), "sval", None) for arg in name.args]
        sequence = reader.sequence_of(*map(str, words)) if None not in words else None
    if sequence is None:
        raise NoInverseError("cannot be computed: the sequence that setval() sets is not named.")
    row = reader.sequence(reader.relation_named(sequence))
    if row is not None:
        columns.position(way, row)


def _without_casts(node: Any) -> Any:
    while isinstance(node, ast.TypeCast):
        node = node.arg
    return node


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
        way.add(f"ALTER {relation.word} {relation.label} {clause}", "The old CLUSTER index is set again.")


def refresh(reader: Reader, way: Way, node: Any) -> None:
    """REFRESH MATERIALIZED VIEW: populate or empty it, as it is today."""
    relation = reader.relation(node.relation)
    if relation is not None and relation.is_populated == bool(node.skipData):
        clause = "WITH DATA" if relation.is_populated else "WITH NO DATA"
        way.add(f"REFRESH MATERIALIZED VIEW {relation.label} {clause}", "It is populated, or empty, as before.")
