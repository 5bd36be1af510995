"""Conflicts as a CSV file in the folder of a run: each row with its value now and before, and what becomes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from pgrunbook.config.secret_patterns import names_a_secret
from pgrunbook.display import progress
from pgrunbook.record.table_file import RowWriter, table_file
from pgrunbook.sql.secret_prose import MASK
from pgrunbook.sql.tree import dotted_name
from pgrunbook.undo_data.conflicts import VALUE_CHARS, Conflict, EachConflict, Values
from pgrunbook.undo_data.registry import Kind, UndoEntry
from pgrunbook.undo_data.revert_rows import OnConflict

# Before the rollback, and those that it has left.
FILE, LEFT_FILES = "conflicts.csv", "conflicts-left-*.csv"
HEADINGS = (
    "release", "changed by", "table", "key", "meanwhile", "column", "value before", "value it wrote", "value now",
    "what happens",
)  # fmt: skip
_DECIDED = {"stop": "somebody has to decide", "keep": "left as it is"}
_OVERWRITTEN = {
    ("update", "changed"): "overwritten with the value before",
    ("update", "displaced"): "left as it is, unless the server takes the values before by then",
    ("delete", "displaced"): "stays deleted, unless the server takes the values before by then",
    ("update", "not to be told"): "left as it is: nobody knows whether this is its row",
    ("update", "deleted"): "stays deleted: only these columns of it were captured",
    ("delete", "made again"): "overwritten with the values before",
    ("insert", "changed"): "deleted, as it was inserted",
    ("insert", "not to be told"): "left as it is: nobody knows which row it is",
    ("insert", "referred to"): "left as it is: rows of another table refer to it",
}
_IS_LEFT = {
    "deleted": "stays deleted",
    "not to be told": "left as it is: nobody knows whether this is its row",
    "displaced": "left as it is: the server refuses the values before",
}

Conflicting = Callable[[UndoEntry], EachConflict]


@contextmanager
def conflict_file(folder: Path, on_conflict: OnConflict) -> Iterator[Conflicting]:
    """Yield what returns, for an entry, what takes its conflicts before a rollback; they are written as they come.

    Raises RecordFailed as ``table_file`` does.
    """
    with table_file(folder / FILE, HEADINGS) as write:
        number, stage = count(1), progress.current()

        def of(entry: UndoEntry) -> EachConflict:
            def each(one: Conflict) -> None:
                _write(write, one, entry, _outcome(entry.kind, one, on_conflict))
                stage.how_far(f"{next(number):,} in conflict, the last of {dotted_name(*one.table)}")

            return each

        yield of


@contextmanager
def left_file(folder: Path, entry: UndoEntry) -> Iterator[EachConflict]:
    """Yield what takes the rows that the revert of an entry has left; a file for each, which a resumed run replaces."""
    with table_file(folder / LEFT_FILES.replace("*", entry.kept_as), HEADINGS) as write:
        yield lambda one: _write(write, one, entry, _IS_LEFT.get(one.way, "left as it is"))


def _outcome(kind: Kind, one: Conflict, on_conflict: OnConflict) -> str:
    return _DECIDED[on_conflict] if on_conflict != "restore" else _OVERWRITTEN.get((kind, one.way), "overwritten")


def _write(write: RowWriter, one: Conflict, entry: UndoEntry, outcome: str) -> None:
    key = ", ".join(f"{name} {_value(one.key, name)}" for name in one.key)
    about = (entry.run_id, one.by, f"{one.table.schema}.{one.table.name}", key, one.way)
    for name in one.before or one.now or one.wrote or {"": None}:
        values = [_value(each, name) for each in (one.before, one.wrote, one.now)]
        values[2] = "not known" if one.way == "not to be told" else values[2]
        write((*about, name, *values, outcome))


def _value(values: Values | None, name: str) -> str:
    if not name:
        return ""
    if values is None:
        return "no row"
    if name not in values:
        return "only its hash was captured"
    value = values[name]
    if value is None:
        return "NULL"
    quoted = value.replace("'", "''")
    return f"'{MASK if names_a_secret(name) else quoted}'" + ("..." if len(value) >= VALUE_CHARS else "")
