"""Drift: where a database differs from its history, from what was validated last, or from another target.

1. Against the history, the applied migrations are executed as they are written, in the folder's order, on an empty
   branch. Where the two differ, they are executed once more: texts that differ each time are no drift.
2. Against the last run that validated the target, its snapshot is compared; nothing is executed.
3. Against another target, both are read.

What a safe form or a way back has declared is no drift, nor what two major versions word differently; our own schema
and the history table are left out. Nothing is written to the target.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import psycopg
from pglast import ast

from pgrunbook import history as histories
from pgrunbook.branches import in_memory
from pgrunbook.branches.schema_branch import SchemaCopy, copy_schema
from pgrunbook.config import regular_file
from pgrunbook.config.targets import Target
from pgrunbook.database import queries, schema_versions
from pgrunbook.database.connection import Connection, connect
from pgrunbook.database.facts import Facts
from pgrunbook.database.readiness import Check, Level
from pgrunbook.database.schema import Snapshot, snapshot
from pgrunbook.database.schema_diff import Change, Difference, diff
from pgrunbook.database.sqlstate import said
from pgrunbook.display import progress
from pgrunbook.display.prose import counted, listed
from pgrunbook.draft.build import up
from pgrunbook.draft.expected_differences import is_declared, until_contract
from pgrunbook.errors import NOTHING_CHANGED, Refused, StatementFailed, WrongInput
from pgrunbook.history import History, Migration, State
from pgrunbook.history.state import leave_out
from pgrunbook.plan import plan as plans
from pgrunbook.plan.declared import Declared
from pgrunbook.plan.way_back import Frozen
from pgrunbook.record import journal
from pgrunbook.record import run as runs
from pgrunbook.record.run import Run, Status
from pgrunbook.rehearse import schema_only
from pgrunbook.rehearse.volatile_texts import VolatileTexts
from pgrunbook.safe_forms import outside
from pgrunbook.sql.tree import tree

Against = Literal["history", "validated", "target"]
VALIDATED = "schema-validated.json"
_PLANS = ("plan.json", "rollback-plan.json")


class DriftedObject(Frozen):
    """An object that differs: ``expected`` and ``found`` describe both sides as SQL, "" where it is absent."""

    kind: str
    name: str
    change: Change
    expected: str
    found: str


class Drift(Frozen):
    """The result of a comparison; ``passed_over`` says what was not compared, and why."""

    target: str
    against: Against
    expected: str
    differs: bool
    objects: tuple[DriftedObject, ...]
    passed_over: tuple[str, ...] = ()


@dataclass(frozen=True)
class Validated:
    """The schema that the last validating run has found, and the version of the history then."""

    run_id: str
    schema: Snapshot
    version: str | None


def against_history(target: Target, conn: Connection) -> Drift:
    """Return where the target differs from its applied migrations, executed on an empty branch.

    Raises Refused where the history has problems that leave it open what was executed, StatementFailed where a
    migration cannot be executed again, Unreachable when no branch can be made.
    Locks: as for prepare's empty branches; nothing of the target is dumped.
    """
    history = histories.read(conn, target)
    _refuse_unknown(history)
    applied = [entry.migration for entry in history.applied() if entry.migration is not None]
    applied.sort(key=lambda migration: migration.ordinal)
    now = snapshot(conn, leave_out=leave_out(history))
    found, passed_over = _replayed(target, conn, history, applied, now)
    found = _undeclared(target, conn, found)
    told = f"the history: {counted(len(applied), 'migration')} of {history.folder.name} on an empty branch"
    return _drift(target, "history", told, found, passed_over)


def against_validated(target: Target, conn: Connection) -> Drift:
    """Return where the target differs from the schema that its last validating run has found.

    Raises WrongInput where no run has validated it, Refused where migrations were applied or taken back since.
    """
    history = histories.read(conn, target)
    known = last_validated(target)
    if known is None:
        raise WrongInput(
            f'no run has validated target "{target.name}" here',
            detail="Its snapshot would lie in the run's folder, in outputs/.",
            hint=f"pgrunbook run validate --target {target.name}",
        )
    if known.version != history.version():
        raise Refused(
            f'could not compare target "{target.name}" with run {known.run_id}',
            detail=f"Its history was at {known.version or 'no version'}, and is at {history.version() or 'none'} now.",
            hint=f"pgrunbook run validate --target {target.name}, or pgrunbook drift --against history",
        )
    found = _differences(known.schema, snapshot(conn, leave_out=leave_out(history)))
    found = without_contracted(target, found)
    return _drift(target, "validated", f"the schema that run {known.run_id} validated", found)


def against_target(target: Target, conn: Connection, other: Target) -> Drift:
    """Return where the target differs from another one. Raises Unreachable when that does not answer."""
    with connect(other, purpose="looks for drift") as there:
        expected = snapshot(there, leave_out=_left_out(there, other))
        beside = [*until_contract(there), *until_contract(conn)]
    found = _differences(expected, snapshot(conn, leave_out=_left_out(conn, target)))
    found = [difference for difference in found if not is_declared(difference, beside)]
    return _drift(target, "target", f"target {other.name}", found)


def check(target: Target, conn: Connection) -> Check:
    """Return the row of what is safe to start: the schema against that of the last run that validated it here."""
    see = f"pgrunbook drift --target {target.name}"
    try:
        found = against_validated(target, conn)
    except (WrongInput, Refused) as exc:
        return Check("drift", f"not compared: {exc.message}", "-", Level.UNKNOWN, f"{see} compares it with the history")
    if not found.differs:
        return Check("drift", f"none since {found.expected}", "none", Level.GOOD)
    told = listed([f"{one.kind} {one.name} {one.change}" for one in found.objects], 3)
    advice = f"Somebody has changed the schema past the migrations: {see} --against validated"
    return Check("drift", f"{counted(len(found.objects), 'object')}: {told}", "none", Level.WARN, advice)


def last_validated(target: Target) -> Validated | None:
    """Return what the last validating run of a target that ended well has found, None where there is none."""
    for run in _runs(target, newest_first=True):
        path = run.folder / VALIDATED
        validated = any(part.procedure == "validate" and part.status is Status.DONE for part in run.parts)
        if validated and regular_file.is_there(path):
            told = [e for e in journal.read(run.journal.path) if e["event"] == "schema-validated"]
            if told:
                return Validated(run.run_id, Snapshot.from_json(regular_file.read(path)), told[-1]["version"])
    return None


def _runs(target: Target, *, newest_first: bool = False) -> Iterator[Run]:
    folders = runs.folders()
    for folder in reversed(folders) if newest_first else folders:
        try:
            run = runs.load(folder)
        except WrongInput:
            continue  # `pgrunbook runs` reports a folder that cannot be read
        if run.target == target.name:
            yield run


def _refuse_unknown(history: History) -> None:
    """Refuse a history that does not say what was executed; a migration that is only pending is no problem."""
    unknown = [e for e in history.entries if e.state in (State.MISSING, State.ABSENT, State.EDITED, State.DUPLICATE)]
    if unknown:
        raise Refused(
            "could not replay the history: the folder does not hold what was applied",
            detail=" ".join(f"{e.name} is {e.state}: {e.note}" for e in unknown),
            state=NOTHING_CHANGED,
            hint="Settle it first; or pgrunbook drift --against validated, which needs no file.",
        )


def _replayed(
    target: Target, conn: Connection, history: History, applied: Sequence[Migration], now: Snapshot
) -> tuple[list[Difference], list[str]]:
    """Return where the target differs from the applied migrations on an empty branch, and what was not compared.

    Where they fail there, they need what somebody has made for them: schemas and extensions that no migration makes.
    """
    try:
        return _compared(target, history, applied, now, {})
    except StatementFailed:
        given = _surroundings(conn, applied)
        if not given:
            raise
    found, passed_over = _compared(target, history, applied, now, given)
    told = [f"{kind} {name}: no migration makes it, and they need it" for kind, name in given if name != "public"]
    return found, [*told, *passed_over]


def _surroundings(conn: Connection, applied: Sequence[Migration]) -> dict[tuple[str, str], list[str]]:
    """Return the target's schemas and extensions that no migration makes, each with the statements that do."""
    made: set[tuple[str, str | None]] = set()
    for node in (tree(one.sql) for migration in applied for one in migration.statements()):
        if isinstance(node, ast.CreateSchemaStmt):
            made.add(("schema", node.schemaname))
        elif isinstance(node, ast.CreateExtensionStmt):
            made.add(("extension", node.extname))
    found: dict[tuple[str, str], list[str]] = {}
    for row in queries.rows(conn, "schema_branch", "surroundings"):
        if (row["kind"], row["name"]) not in made:
            found.setdefault((row["kind"], row["name"]), []).append(row["made"])
    return found


@in_memory.else_on_disk
def _compared(
    target: Target,
    history: History,
    applied: Sequence[Migration],
    now: Snapshot,
    given: Mapping[tuple[str, str], Sequence[str]],
) -> tuple[list[Difference], list[str]]:
    instead = [statement for statements in given.values() for statement in statements]
    with copy_schema(target, instead=instead, keep=True) as branches:
        expected, passed_over = _replay(branches, target, history, applied)
        found = _differences(expected, now)
        if found:
            again, _ = _replay(branches, target, history, applied)
            volatile = VolatileTexts(expected, again)
            found = volatile.without(found)
            passed_over += [f"{kind} {name}: its text differs each time" for kind, name in volatile.objects]
    return found, passed_over


def _replay(
    branches: SchemaCopy, target: Target, history: History, applied: Sequence[Migration]
) -> tuple[Snapshot, list[str]]:
    passed_over: list[str] = []

    def hook(conn: Connection, change: plans.Change, step: plans.Step | None) -> str:
        gate = outside.find(Facts(conn), tree(change.judged(step))) if step is not None else None
        if step is not None and gate is not None:
            passed_over.append(f"{change.statements[step.statement - 1].key}: {gate.says}")
        return step.sql if step is not None and gate is None else ""

    with progress.doing("executing the applied migrations on an empty branch"):
        try:
            schema, need_rows = schema_only.as_written(branches, history, up(target, applied), hook)
        except (StatementFailed, psycopg.Error) as exc:
            told = (exc.message, exc.detail) if isinstance(exc, StatementFailed) else (said(exc), "")
            raise StatementFailed(
                f"could not replay the history: {told[0]}",
                detail=told[1],
                state=NOTHING_CHANGED,
                hint="It was applied to a database that had more than its migrations; "
                "pgrunbook drift --against validated needs no replay.",
            ) from exc
    return schema, [*passed_over, *(f"{one} (left out, it needs rows)" for one in need_rows)]


def _differences(expected: Snapshot, now: Snapshot) -> list[Difference]:
    return diff(*schema_versions.comparable(expected, now))


def _undeclared(target: Target, conn: Connection, found: Sequence[Difference]) -> list[Difference]:
    """Return the differences that no plan of the target's runs has declared; what waits for contract, it tells."""
    if not found:
        return []
    planned = (each for each in _declared(target) if each.kind != "until contract")
    declared = list(dict.fromkeys([*planned, *until_contract(conn)]))
    return [difference for difference in found if not is_declared(difference, declared)]


def without_contracted(target: Target, found: Sequence[Difference]) -> list[Difference]:
    """Return differences from a schema of before without what contract has dropped since, as plans have told.

    What is gone of a column that is there still, somebody else has dropped.
    """
    planned = [each for each in _declared(target) if each.kind == "until contract"] if found else []
    gone = [one for one in found if one.change == "removed" and is_declared(one, planned)]
    columns = {one.name for one in gone if one.kind == "column"}
    tables = tuple(f"{name.rpartition('.')[0]}." for name in columns)
    contracted = {one for one in gone if one.name.startswith(tables) or one.kind in ("grant", "type", "comment")}
    lists = {one for one in found if one.kind == "published table" and is_declared(one, planned)}
    return [one for one in found if one not in contracted | lists]


def _declared(target: Target) -> Iterator[Declared]:
    """Yield what the plans of a target's runs have declared to differ by nature."""
    for run in _runs(target):
        for path in (run.folder / name for name in _PLANS):
            if regular_file.is_there(path):
                for change in plans.read(path).changes:
                    yield from change.proof.differs
                    for one in change.statements:
                        yield from one.differs
                        yield from one.back.differs if one.back else ()


def _left_out(conn: Connection, target: Target) -> list[str]:
    return leave_out(histories.read(conn, target)) if target.migrations is not None else ["pgrunbook"]


def _drift(
    target: Target, against: Against, expected: str, found: Sequence[Difference], passed_over: Sequence[str] = ()
) -> Drift:
    objects = tuple(
        DriftedObject(kind=d.kind, name=d.name, change=d.change, expected=d.before, found=d.after) for d in found
    )
    return Drift(
        target=target.name, against=against, expected=expected, differs=bool(objects), objects=objects,
        passed_over=tuple(passed_over),
    )  # fmt: skip
