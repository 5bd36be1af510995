"""What a backfill has captured comes back (do=back), or what it has left goes (do=abandon): for notebook backfill.

Each function does what the cell of its name does for such a run; ``procedures.backfill`` calls it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

import psycopg

from pgrunbook import undo_data
from pgrunbook.database import sqlstate
from pgrunbook.database.connection import Connection
from pgrunbook.display import progress
from pgrunbook.display.prose import counted, listed
from pgrunbook.display.show import GOOD, WARN, Banner, Card, Cell, Table
from pgrunbook.errors import Interrupted, Refused, RunbookError, WrongInput
from pgrunbook.execute import backfill as execution
from pgrunbook.execute import permit
from pgrunbook.online import backfill as mechanism
from pgrunbook.online.backfill import ColumnBackfill
from pgrunbook.online.throttle import Throttle
from pgrunbook.procedures import backfill_views as views
from pgrunbook.procedures import undo_data_views
from pgrunbook.record import journal
from pgrunbook.record import run as runs
from pgrunbook.record.run import Run
from pgrunbook.session.session import Session
from pgrunbook.undo_data import Conflicts, UndoEntry
from pgrunbook.undo_data.revert_rows import RevertResult

BACK, ABANDON = "back", "abandon"


@dataclass(frozen=True)
class BackfillEnd:
    """The run whose backfill ends here, what it was about, its undo data, and what the checks are about."""

    run: Run
    made: ColumnBackfill
    entries: tuple[UndoEntry, ...]
    subject: str

    @property
    def is_begun(self) -> bool:
        """Whether a run before has begun to bring values back."""
        return any(one.state != "kept" for one in self.entries)


def plan_the_batches(here: Session) -> Table:
    """Find the run, and what it has left; for do=back the rows that somebody has changed since.

    Raises WrongInput for a run that is none of this target, Refused where it has no undo data, where a later backfill
    has to be taken back before, and where somebody has changed rows and nobody has decided.
    """
    given = here.parameters
    run, made = _of_run(here)
    entries = tuple(undo_data.entries_of_fill(here.conn, run.run_id))
    about = json.dumps([given.do, run.run_id, made.subject, given.on_conflict])
    end = BackfillEnd(run, made, entries, f"backfill {hashlib.sha256(about.encode()).hexdigest()[:12]}")
    here.facts["end"] = end
    here.subject = frozenset({end.subject})
    if given.do == BACK and not entries:
        raise Refused(
            f"run {run.run_id} has no undo data",
            detail="It was made without undo_data, or what it captured is purged.",
            hint=f"A restore brings old values back. What is left of it goes by: {command(here, run.run_id, ABANDON)}",
        )
    here.journal("backfill-ends", subject=end.subject, do=given.do, run=run.run_id, table=made.table.label,
                 kept=[one.kept_as for one in entries])  # fmt: skip
    table = here.keep_table("plan-the-batches", _left(here.conn, end))
    if given.do == BACK and not end.is_begun:
        _refuse_later(here, end)
        _refuse_conflicts(here, end, table)
    return table


def look_at_the_rows(here: Session) -> Table:
    """Say that no expression is looked at."""
    here.subject = frozenset({here.facts["end"].subject})
    return Table([], [], empty=f"Not asked: do is {here.parameters.do}.")


def keep_in_sync(here: Session, conn: Connection) -> Card:
    """Take the trigger away before anything comes back. Raises Blocked where its lock is not to be had."""
    end: BackfillEnd = here.facts["end"]
    permitted = permit.of_backfill(here, end.subject, "keep-in-sync", conn)
    execution.remove(conn, here.target, end.made, permitted, views.note_wait(here), subject=end.subject)
    here.journal("trigger-removed", trigger=end.made.fill.trigger_name)
    return views.gone(end.made)


def fill_the_rows(here: Session, conn: Connection, throttle: Throttle) -> Table:
    """Bring the captured values back in batches. Raises as ``execute.backfill.bring_back``, with what is committed."""
    end: BackfillEnd = here.facts["end"]
    here.facts["throttle"] = throttle
    permitted = permit.of_backfill(here, end.subject, "fill-the-rows", conn)
    so_far = [0]

    def on_rows(rows: int) -> None:
        so_far[0] = rows
        progress.current().how_far(f"{counted(rows, 'row')} as before")

    try:
        with progress.doing("bringing the old values back"):
            done = execution.bring_back(
                conn, end.made, end.subject, permitted, end.entries, throttle,
                on_conflict=here.parameters.on_conflict, on_rows=on_rows,
                left_rows=lambda entry: undo_data.left_file(here.run.folder, entry),
                lock_timeout_ms=here.target.lock_timeout_ms,
            )  # fmt: skip
    except (psycopg.Error, RunbookError, KeyboardInterrupt) as exc:
        error = _explained(here, end, so_far[0], exc)
        raise error from (None if error is exc else exc)
    finally:
        views.keep_samples(here, throttle)
    here.facts["back"] = done
    here.journal("values-brought-back", rows=done.rows, left=done.left.rows)
    rows: list[tuple[object, ...]] = [("rows as before", f"{done.rows:,}", f"{listed(list(end.made.values))}")]
    if done.left:
        rows.append(("left as they are", Cell(f"{done.left.rows:,}", WARN), f"see {_files(here)}"))
    return here.keep_table("fill-the-rows", Table(["what", "found", ""], rows))


def prove_it(here: Session) -> Card:
    """Say how many captured rows are as before, and how many are not, and why."""
    end: BackfillEnd = here.facts["end"]
    done: RevertResult = here.facts.get("back", RevertResult(0, Conflicts(0, ())))
    if here.parameters.do != BACK:
        return Card(end.made.table.label, [("compared", f"Not asked: do is {here.parameters.do}.")])
    facts: list[tuple[str, object]] = [("rows as before", Cell(f"{done.rows:,}", GOOD))]
    if done.left:
        facts.append(("left as they are", Cell(f"{done.left.rows:,}", WARN)))
        facts.append(("for example", done.left.lines(3)))
    return Card(f"{end.made.table.label}: {listed(list(end.made.values))}", facts, tone=WARN if done.left else GOOD)


def verdict(here: Session) -> Banner:
    """Say what came back, or went, and what stays in the database."""
    end: BackfillEnd = here.facts["end"]
    label, columns = end.made.table.label, listed(list(end.made.values))
    done: RevertResult = here.facts.get("back", RevertResult(0, Conflicts(0, ())))
    kept = undo_data.entries_of_fill(here.conn, end.run.run_id)
    purge = f"pgrunbook undo-data purge --target {here.target.name} {' '.join(f'--id {one.id}' for one in kept)}"
    if here.parameters.do == BACK:
        state = f"{counted(done.rows, 'row')} of {label} are as before the backfill: {columns}."
        facts: list[tuple[str, object]] = [("rows as before", f"{done.rows:,}"), ("left", f"{done.left.rows:,}")]
        facts += [("rows left as they are", _files(here))] if done.left else []
        return here.verdict(state, facts, then=purge, is_open=bool(done.left))
    state = f"What the backfill has filled in {label} stays; its trigger and functions are gone."
    facts = [("undo data", undo_data_views.state(one)) for one in kept] or [("undo data", "none")]
    stays = bool([one for one in kept if one.state == "kept"])
    then = command(here, end.run.run_id, BACK) if stays else f"pgrunbook run troubleshoot --target {here.target.name}"
    return here.verdict(f"{state}{' Its undo data stays.' if stays else ''}", facts, then=then)


def command(here: Session, run_id: str, do: str) -> str:
    """Return the command that brings values back, or takes away what is left."""
    return views.command(here, run_id, do)


def _of_run(here: Session) -> tuple[Run, ColumnBackfill]:
    given = here.parameters
    if not given.of_run:
        raise WrongInput(
            f"backfill needs the run that do={given.do} is about",
            hint="Name it: -p of_run=RUN; pgrunbook runs lists them.",
        )
    run = runs.find(given.of_run)
    planned = [one for one in journal.read(run.journal.path) if one["event"] == "backfill-planned"]
    if not planned or run.target != here.target.name:
        raise WrongInput(
            f"run {run.run_id} is no backfill of target {here.target.name}",
            detail=f"It is a run of {run.runbook} on {run.target}, and has planned "
            f"{counted(len(planned), 'backfill')}.",
            hint="Name a run of backfill: pgrunbook runs lists them.",
        )
    return run, mechanism.planned(here.conn, str(planned[-1]["relation"]), list(planned[-1]["fill"]))


def _left(conn: Connection, end: BackfillEnd) -> Table:
    """Return what is left of the run: its trigger, and its undo data."""
    made = end.made
    there = mechanism.has_trigger(conn, made)
    rows: list[tuple[object, ...]] = [
        ("run", end.run.run_id, end.run.started_at),
        ("table", made.table.label, listed(list(made.values))),
        ("trigger", made.fill.trigger_name, "is there" if there else "is gone"),
        *(("undo data", f"{undo_data_views.rows_of(conn, one)} rows", undo_data_views.state(one))
          for one in end.entries),
    ]  # fmt: skip
    return Table(["what", "found", ""], rows, title=f"What is left of a backfill of {made.table.label}")


def _refuse_later(here: Session, end: BackfillEnd) -> None:
    """Raise Refused where a later backfill has captured the same columns of the table: that goes first."""
    mine = end.entries[0]
    for one in undo_data.list_entries(here.conn):
        both = sorted({*one.columns} & {*mine.columns})
        is_open = one.state in ("kept", "giving back") and one.id > mine.id
        if is_open and both and one.table == mine.table and undo_data.is_of_fill(one):
            raise Refused(
                f"cannot bring back what run {end.run.run_id} has filled before what run {one.run_id} has filled since",
                detail=f"Both have filled {listed(both)} of {end.made.table.label}.",
                hint=f"First: {command(here, one.run_id, BACK)}",
            )


def _refuse_conflicts(here: Session, end: BackfillEnd, table: Table) -> None:
    decided = here.parameters.on_conflict
    found = Conflicts(0, ())
    with progress.doing("comparing rows with those of then"), undo_data.conflict_file(here.run.folder, decided) as into:
        for one in end.entries:
            found += undo_data.conflicts(here.conn, one, each=into(one))
    here.journal("rows-since", conflicts=found.rows, decided=decided)
    if found and decided == "stop":
        here.show(table)
        again = command(here, end.run.run_id, BACK)
        if all(one.way == "not to be told" for one in found.samples):
            raise Refused(
                f"cannot tell whether {counted(found.rows, 'row')} of {end.made.table.label} are those of the backfill",
                detail="The table was swapped since, or somebody has switched a trigger of ours off."
                f"{found.lines()}{chr(10)}  Each of them is in {undo_data.FILE}, with its values before.",
                hint="A restore brings old values back, beside this database. To give them up: "
                f"{command(here, end.run.run_id, ABANDON)}",
            )
        raise Refused(
            f"{counted(found.rows, 'row')} of {end.made.table.label} that the backfill has filled"
            f" {'was' if found.rows == 1 else 'were'} changed by somebody since",
            detail=f"{found.lines()}{chr(10)}  Each of them is in {undo_data.FILE}, with its values now and before.",
            hint=f"Decide for all of them: {again} -p on_conflict=keep leaves these rows as they are,"
            " -p on_conflict=restore overwrites them with what was there before.",
        )


def _explained(
    here: Session, end: BackfillEnd, rows: int, exc: psycopg.Error | RunbookError | KeyboardInterrupt
) -> RunbookError:
    """Return the error for what ended the batches, with what is committed."""
    state = f"{counted(rows, 'row is', 'rows are')} as before, committed; the trigger is gone, the others are filled."
    here.journal("backfill-stopped", error=str(exc).partition("\n")[0], kind=type(exc).__name__, rows=rows)
    if isinstance(exc, RunbookError):
        exc.state = state
        return exc
    if isinstance(exc, KeyboardInterrupt):
        return Interrupted("stopped while old values came back", state=state, hint=f"To go on: {runs.again()}.")
    found = sqlstate.explained(exc, here.target.name, state=state, again=runs.again())
    found.hint = f"{found.hint} The same command goes on as a new run: {command(here, end.run.run_id, BACK)}"
    return found


def _files(here: Session) -> str:
    return listed(sorted(file.name for file in here.run.folder.glob(undo_data.LEFT_FILES)))
