"""The migrations folder and the history table of a target, read and written as the migration tool would.

``read`` returns the state of every migration. ``prepare_table``, ``record`` and ``unrecord`` return the statements
that write the history table as the tool itself would, so that both may be used in turn.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager
from pathlib import Path

from psycopg import sql

from pgrunbook.config.targets import Target
from pgrunbook.database import locks
from pgrunbook.database.connection import Connection
from pgrunbook.errors import WrongInput
from pgrunbook.history import files, foreign_parts, known_tables, marks
from pgrunbook.history.flyway import UNDO
from pgrunbook.history.folder import TOOLS, find_folder
from pgrunbook.history.known_tables import KnownTable
from pgrunbook.history.other_tools import OTHER_TOOLS
from pgrunbook.history.plain import UNDOING
from pgrunbook.history.state import AppliedMigration, Command, Entry, History, Migration, State
from pgrunbook.history.table import Shape

__all__ = [
    "AppliedMigration",
    "Command",
    "Entry",
    "History",
    "Migration",
    "State",
    "hold",
    "prepare_table",
    "read",
    "record",
    "tool_lock",
    "unrecord",
    "up_part",
    "ways_back",
]

_UNDO_OF_POSTGRATOR = re.compile(r"\d+\.undo\..*\.sql")


def read(conn: Connection, target: Target) -> History:
    """Return the state of every migration of the target's folder and history table.

    Raises WrongInput when the folder or the history table cannot be interpreted, Blocked when the
    history table is locked for longer than the connection's lock_timeout.
    """
    if target.migrations is None:
        raise WrongInput(
            f'target "{target.name}" names no migrations folder',
            hint=f'Add migrations = "path/of/the/folder" to section [{target.name}] of targets.toml.',
        )
    try:
        tables = known_tables.read(conn, target, _shapes())
        named = {one.tool for one in tables if _is_named(one, target)}
        with files.each_once():
            found = find_folder(target.migrations, target.history, named)
            others = [table for table in tables if table.tool != found.tool.name]
            return found.tool.read(conn, target, found.path, found.why, others)
    except OSError as exc:
        raise WrongInput(
            f"could not read {exc.filename}",
            detail=f"{exc.strerror}.",
            hint="Make it readable for this user, or correct migrations in targets.toml.",
        ) from exc


def up_part(path: Path, text: str) -> str:
    """Return the part of a migration file's text that applies it, by the marks in it, on the file's own lines.

    Raises WrongInput, with file and line, for the mark of a tool that pgrunbook does not read.
    """
    whose = {mark.tool for mark in marks.of(text)}
    tool = next((tool for tool in TOOLS.values() if tool.name in whose), None)
    part = tool.up(path, text) if tool is not None else text
    marks.refuse(path, part, own=tool.name if tool is not None else "plain files")
    return part


def ways_back(paths: Sequence[Path]) -> list[Path]:
    """Return the files that undo others, of a list as ``migrations/*.sql`` gives it; [] where nothing else is in it."""
    given = set(paths)
    found = [path for path in paths if _undoes(path, given)]
    return found if len(found) < len(paths) else []


def _undoes(path: Path, given: Set[Path]) -> bool:
    """Tell whether a file is a way back by its name; a_down.sql and down.sql are where what they undo is given, too."""
    if UNDO.fullmatch(path.name) or _UNDO_OF_POSTGRATOR.fullmatch(path.name):
        return True
    if path.name == "down.sql":
        return path.with_name("up.sql") in given
    undoing = UNDOING.fullmatch(path.name)
    if undoing is None:
        return False
    stem, sign = undoing["stem"], undoing["sign"]
    return sign == "." or not given.isdisjoint([path.with_name(f"{stem}{sign}up.sql"), path.with_name(f"{stem}.sql")])


def _is_named(known: KnownTable, target: Target) -> bool:
    """Tell whether a history table may be the one that targets.toml names, if it names one."""
    return target.history_schema in (None, known.table.schema) and target.history_table in (None, known.table.name)


def _shapes() -> list[tuple[str, str, Shape]]:
    readers = [(tool.name, tool.way, shape) for tool in TOOLS.values() for shape in tool.shapes]
    return [*readers, *((tool.name, tool.way, shape) for tool in OTHER_TOOLS for shape in tool.shapes)]


def prepare_table(history: History) -> list[sql.Composed]:
    """Return the DDL that creates the history table as the tool itself would, [] when it exists.

    Locks: none on existing tables.
    """
    return [] if history.exists else TOOLS[history.kind].prepare_table(history)


def hold(conn: Connection, history: History) -> None:
    """Lock the history table before its row is written, and refuse what would run somebody else's code.

    Raises Refused. Locks: RowExclusiveLock on the history table.
    """
    foreign_parts.hold(conn, history.schema, history.table)


@contextmanager
def tool_lock(conn: Connection, history: History, *, wait_s: float = 10.0) -> Iterator[None]:
    """Hold the lock that the migration tool itself would hold, while the body runs.

    Raises TargetBusy when the tool holds it for longer than ``wait_s`` seconds.
    Locks: the tool's session-level advisory locks.
    """
    tool = TOOLS[history.kind]
    with locks.held(conn, tool.lock_keys(conn, history), of=tool.name, wait_s=wait_s):
        yield


def record(history: History, migration: Migration) -> Command:
    """Return the INSERT that the tool itself would send, for the migration's own transaction.

    Locks: RowExclusiveLock on the history table.
    """
    return TOOLS[history.kind].record(history, migration)


def unrecord(history: History, entry: Entry) -> Command:
    """Return the DELETE of exactly one row, the entry's; the caller checks that rowcount is 1.

    Raises WrongInput when the entry is not in the history table.
    Locks: RowExclusiveLock on the history table.
    """
    if entry.applied is None:
        raise WrongInput(
            f'cannot remove "{entry.name}" from {history.qualified_table}',
            detail="It has no row there: it is not applied.",
            hint="Name a migration that is applied.",
        )
    return TOOLS[history.kind].unrecord(history, entry)
