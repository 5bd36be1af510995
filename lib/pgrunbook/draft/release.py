"""The draft of a release without a branch: each statement with its safe form, each step with its locks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from pgrunbook import undo_data
from pgrunbook.config.targets import Target
from pgrunbook.database import catalog_reader
from pgrunbook.database.connection import Connection
from pgrunbook.draft.build import expanded, way_back
from pgrunbook.history import Migration
from pgrunbook.plan.plan import Change, LockOn, Step
from pgrunbook.plan.step import Expansion
from pgrunbook.review.statement_scenes import Script, StatementContext, stage
from pgrunbook.safe_forms.expander import Expander
from pgrunbook.sql import runs, statements
from pgrunbook.sql.lock_modes import ACCESS_EXCLUSIVE, SHARE_ROW_EXCLUSIVE, strongest
from pgrunbook.sql.tree import dotted_name
from pgrunbook.undo_data import UndoEntry


def unproven(
    target: Target, conn: Connection, migrations: Sequence[Migration], off: Mapping[str, str]
) -> tuple[Change, ...]:
    """Return the changes for migrations, judged on the database as it is now, without a branch to test them on.

    ``off`` maps a statement's place to the reason why its safe form is switched off.

    Raises WrongInput for SQL that cannot be parsed, or cannot be printed faithfully.
    Locks: AccessShareLock on tables whose size decides.
    """
    every = [statement for migration in migrations for statement in migration.statements()]
    planner = Expander(conn, off=off, batch_rows=target.batch_rows, release=every)
    found = []
    for migration in migrations:
        for run in runs.runs(migration.statements()):
            planner.expand(run[0])
            planner.join(run)
        found.append(change(target, migration, planner.end_file()))
    return with_locks(found, conn)


def change(target: Target, migration: Migration, expansions: Sequence[Expansion]) -> Change:
    """Return the change that executes a migration's statements as expanded."""
    return expanded(migration.name, migration.fingerprint, way_back(migration), expansions, target)


def with_locks(changes: Sequence[Change], conn: Connection) -> tuple[Change, ...]:
    """Return the changes, each step with the locks that it will take on existing objects of this database.

    Text and catalog tell the locks, one step after the other, as in the review.
    """
    parsed = {id(step): statements.parse(c.judged(step), c.migration) for c in changes for step in c.steps}
    every = [statement for found in parsed.values() for statement in found]
    read = Script(tuple(StatementContext(statement, None) for statement in every), (), ())
    scenes = iter(stage(read, catalog_reader.read(conn, every)))
    found, followed = [], undo_data.followed(conn)
    for one in changes:
        steps = []
        for step in one.steps:
            of_step = [next(scenes) for _ in parsed[id(step)]]
            found_here = [(lock.object, lock.mode) for scene in of_step for lock in scene.effects.locks]
            locks = strongest([*found_here, *_around(step, one, followed)])
            steps.append(step.model_copy(update={"locks": tuple(LockOn(object=o.object, mode=o.mode) for o in locks)}))
        found.append(one.model_copy(update={"steps": tuple(steps)}))
    return tuple(found)


def _around(step: Step, change: Change, followed: Sequence[UndoEntry]) -> Iterator[tuple[str, str]]:
    """Yield the locks of what is done around a step's statement: triggers by which captured rows follow come and go."""
    yield from ((name, SHARE_ROW_EXCLUSIVE) for name in step.follows)
    if step.gives_rows:
        yield from ((name, "RowExclusiveLock") for name in step.objects)
    for entry in followed:
        ends = entry.kept_as in step.gives_back or (
            entry.migration == change.migration and entry.direction == "up" and entry.step in step.gives_rows
        )
        if ends:
            yield dotted_name(*entry.table), ACCESS_EXCLUSIVE
