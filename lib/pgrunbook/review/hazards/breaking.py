"""Hazards of changes that running code, or later statements, cannot know: types, sequences, NULLs."""

from __future__ import annotations

from collections.abc import Iterator

from pglast import ast

from pgrunbook.effects.type_change import judge
from pgrunbook.review.hazards.rule import Note, Scene, Severity, others_see, rule
from pgrunbook.sql.tree import changed, quoted, subcommand, type_word

_SERIAL = (
    "CREATE TABLE orders (id serial PRIMARY KEY, total integer NOT NULL, note text);"
    "INSERT INTO orders (total) VALUES (1);"
)
_SIZES = ("int2", "int4", "int8")


@rule(
    "drop-not-null",
    Severity.WARNING,
    setup=_SERIAL,
    bad="ALTER TABLE orders ALTER COLUMN total DROP NOT NULL;",
    good="ALTER TABLE orders ALTER COLUMN total SET DEFAULT 0;",
)
def drop_not_null(scene: Scene) -> Iterator[Note]:
    """A column that always had a value may be NULL from now on."""
    columns = [(t, c.name) for t, c in scene.altered() if subcommand(c) == "DropNotNull" and others_see(t)]
    if columns:
        table = columns[0][0]
        names = ", ".join(quoted(name) for _, name in columns)
        yield Note(
            f"Code that reads {names} of {table.label} meets a NULL that it has never seen: it fails, or counts wrong.",
            "-- first release code that reads NULL; where the column is about to be dropped, nothing is to be done",
        )


@rule(
    "json-column",
    Severity.WARNING,
    setup=_SERIAL,
    bad="ALTER TABLE orders ADD COLUMN extra json;",
    good="ALTER TABLE orders ADD COLUMN extra jsonb;",
)
def json_column(scene: Scene) -> Iterator[Note]:
    """A table that is in use gets a column of type json, whose values cannot be compared."""
    added = [c for t, c in scene.altered() if subcommand(c) == "AddColumn" and others_see(t)]
    columns = [c.def_ for c in added if type_word(c.def_.typeName).name == "json"]
    if columns:
        names = ", ".join(quoted(column.colname) for column in columns)
        yield Note(
            f"Queries with SELECT DISTINCT, UNION, GROUP BY or EXCEPT over all columns fail: {names} has no equality.",
            f"{changed(scene.statement.sql, _with_jsonb)};",
        )


def _with_jsonb(node: ast.AlterTableStmt) -> None:
    for cmd in node.cmds:
        if subcommand(cmd) == "AddColumn" and type_word(cmd.def_.typeName).name == "json":
            cmd.def_.typeName.names = (ast.String(sval="jsonb"),)


@rule(
    "sequence-stays-small",
    Severity.WARNING,
    setup=_SERIAL,
    bad="ALTER TABLE orders ALTER COLUMN id TYPE bigint;",
    good="ALTER SEQUENCE orders_id_seq AS bigint;",
)
def sequence_stays(scene: Scene) -> Iterator[Note]:
    """A column gets a wider type, and the sequence behind its default stays as narrow as it was."""
    for table, cmd in scene.altered():
        if subcommand(cmd) != "AlterColumnType":
            continue
        column = table.columns.get(cmd.name)
        new = judge(column, cmd, scene.catalog).new
        if column is None or column.identity or not _is_wider(column.base, type_word(cmd.def_.typeName).name):
            continue
        own = [s for s in table.of_kind("sequence") if cmd.name in s.columns and s.type in ("", *_narrower(new))]
        for sequence in own:
            if not _is_altered(scene, sequence.name):
                yield Note(
                    f"{sequence.name} ends where {column.type} does: from there on every INSERT fails, although"
                    f" {table.label}.{quoted(cmd.name)} has room.",
                    f"ALTER SEQUENCE {sequence.name} AS {new};",
                )


def _is_wider(old: str, new: str) -> bool:
    return old in _SIZES and new in _SIZES and _SIZES.index(new) > _SIZES.index(old)


def _narrower(new: str) -> tuple[str, ...]:
    words = ("smallint", "integer", "bigint")
    return words[: words.index(new)] if new in words else words


def _is_altered(scene: Scene, sequence: str) -> bool:
    altered = (other.node.sequence for other in scene.scenes if isinstance(other.node, ast.AlterSeqStmt))
    return any(scene.table(name).label == sequence for name in altered)
