"""The choice of the migrations that a rollback takes back; used by notebooks/rollback.ipynb."""

from __future__ import annotations

from pgrunbook.database import step_log
from pgrunbook.display.prose import counted
from pgrunbook.errors import Refused, WrongInput
from pgrunbook.history import Entry, History, Migration
from pgrunbook.plan.hidden import check_key
from pgrunbook.procedures import shared_steps
from pgrunbook.record import run as runs
from pgrunbook.rehearse import rollback
from pgrunbook.rehearse.rollback import RollbackItem
from pgrunbook.session.session import Session


def to_take_back(here: Session, history: History) -> list[RollbackItem]:
    """Return the migrations to take back, newest first.

    A migration that was begun and not finished comes first, and counts as one. Raises Refused, WrongInput.
    """
    stops = history.problems(out_of_order=True)
    if stops:
        raise Refused(
            f"the migrations folder and {history.qualified_table} do not fit together",
            detail=" ".join(f"{e.name} is {e.state.replace('_', ' ')}: {e.note}" for e in stops),
            hint="A rollback is computed from the text that was applied: settle this first.",
            section="history",
        )
    applied = list(reversed(history.applied()))
    half = _half(here, history)
    given = here.parameters
    if given.migration or given.steps:
        found = [_some(here, applied, half)]
    elif given.of_run:
        found = _of_run(here, applied, half)
    else:
        found = _last(here, applied, half)
    bad = next((one for one in found if one.because), None)
    if bad is not None:
        raise _without_way(here, bad)
    return found


def options(here: Session) -> str:
    """Return the choice of this rollback, as options of the command line."""
    given = here.parameters
    if given.of_run:
        return f"-p of_run={given.of_run} "
    if given.migration:
        steps_ = f"-p steps={','.join(map(str, given.steps))} " if given.steps else ""
        return f"-p migration={given.migration} {steps_}"
    return f"-p migrations={given.migrations} " if given.migrations != 1 else ""


def _half(here: Session, history: History) -> list[tuple[RollbackItem, str]]:
    """Return the migrations that were begun and not finished, each with the run that began it."""
    applied = {entry.name for entry in history.applied()}
    files = {e.name: e.migration for e in history.entries if e.migration is not None}
    found = []
    for one in step_log.unfinished(here.conn, "up"):
        if one.migration in applied:
            continue
        check_key(one.migration, [one.file_sha256])
        file = files.get(one.migration)
        migration = file.as_it_was(one.file_sha256) if file is not None else None
        if migration is None:
            raise Refused(
                f"cannot take back anything: {one.migration} is partly applied, by run {one.run_id}",
                detail="Its file is gone, or was edited since that run began it.",
                hint="Put the file back as it was, and run this again.",
            )
        found.append((rollback.half_done(here.conn, migration), one.run_id))
    return found


def _last(here: Session, applied: list[Entry], half: list[tuple[RollbackItem, str]]) -> list[RollbackItem]:
    count = here.parameters.migrations
    there = len(applied) + len(half)
    if count > there:
        raise WrongInput(
            f"cannot take back {counted(count, 'migration')}",
            detail=f"{counted(there, 'migration is', 'migrations are')} applied." if there else "None is applied.",
            hint="Name fewer; to go back further, restore to a point in time."
            if there
            else "Nothing is left to take back; to go back further, restore to a point in time.",
        )
    first = [wanted for wanted, _ in half[:count]]
    return first + [_whole(here, entry) for entry in applied[: count - len(first)]]


def _of_run(here: Session, applied: list[Entry], half: list[tuple[RollbackItem, str]]) -> list[RollbackItem]:
    run = runs.find(here.parameters.of_run)
    if any(part.procedure == "backfill" for part in run.parts) and not run.has_applied():
        raise WrongInput(
            f"run {run.run_id} is a backfill, and has applied no migration",
            hint="What it has filled is taken back by:"
            f" pgrunbook run backfill --target {here.target.name} -p do=back -p of_run={run.run_id}",
        )
    mine = [wanted for wanted, run_id in half if run_id == run.run_id]
    others = [wanted.migration.name for wanted, run_id in half if run_id != run.run_id]
    names = set(step_log.applied_by_run(here.conn, run.run_id))
    chosen = [entry for entry in applied if entry.name in names]
    newer = others + [e.name for e in applied[: applied.index(chosen[-1])] if e.name not in names] if chosen else []
    if newer:
        raise Refused(
            f"cannot take back run {run.run_id}: newer migrations are applied",
            detail=f"Applied since: {', '.join(newer)}.",
            hint="Take those back first, newest first.",
        )
    return mine + [_whole(here, entry) for entry in chosen]


def _some(here: Session, applied: list[Entry], half: list[tuple[RollbackItem, str]]) -> RollbackItem:
    """Return the statements of one migration that the parameters name; all, where they name none."""
    given = here.parameters
    name = given.migration or (applied[0].name if applied else "")
    entry = next((e for e in applied if e.name == name or e.name.startswith(f"{name}_")), None)
    if entry is None:
        raise WrongInput(
            f'no applied migration has the name "{name}"',
            detail=f"Applied: {', '.join(e.name for e in applied) or 'none'}.",
            hint="Name it as the step what-is-pending of prepare shows it.",
        )
    newer = [wanted.migration.name for wanted, _ in half] + [e.name for e in applied[: applied.index(entry)]]
    if newer:
        raise Refused(
            f"cannot take back {entry.name}: newer migrations are applied",
            detail=f"Applied since: {', '.join(newer)}.",
            hint="Take those back first, newest first.",
        )
    return rollback.wanted(here.conn, _file(entry), given.steps, prefer_down_scripts=given.prefer_down_scripts)


def _whole(here: Session, entry: Entry) -> RollbackItem:
    return rollback.wanted(here.conn, _file(entry), prefer_down_scripts=here.parameters.prefer_down_scripts)


def _file(entry: Entry) -> Migration:
    """Return the file of an applied migration. Raises Refused where its tool goes on without it, and we cannot."""
    if entry.migration is None:
        raise Refused(
            f"cannot take back {entry.name}: its file is not in the folder",
            detail=entry.note,
            hint="Bring its file back from git, then run this again; or restore to a point in time before it.",
            section="history",
        )
    return entry.migration


def _without_way(here: Session, one: RollbackItem) -> Refused:
    migration: Migration = one.migration
    applied_by = step_log.history_step(here.conn, migration.name)
    points = step_log.restore_points(here.conn)
    point = next((p for p in points if applied_by and p.run_id == applied_by["run_id"]), None)
    way = "no run made a restore point before it"
    if point is not None:
        way = f"restore point {point.name} (LSN {point.lsn}) was made before it"
    return Refused(
        f"cannot take back {migration.name}: {one.because.rstrip('.')}",
        detail=f"{way[0].upper()}{way[1:]}. A restore makes a new cluster, which lacks what was written since.",
        hint=shared_steps.restoring(here.target, point.name if point else None),
    )
