"""Purge: let go of what is kept of migrations. The steps of notebooks/purge.ipynb, in order."""

from __future__ import annotations

import time
from collections.abc import Sequence

import psycopg

from pgrunbook import history as histories
from pgrunbook import undo_data
from pgrunbook.database import locks
from pgrunbook.database.connection import Connection, connect
from pgrunbook.database.lock_wait import Holder
from pgrunbook.display.show import BAD, GOOD, PLAIN, QUIET, WARN, Banner, Card, Cell, Table
from pgrunbook.display.units import human
from pgrunbook.errors import Interrupted, Refused, RunbookError, StatementFailed, Unreachable, WrongInput
from pgrunbook.execute import purge
from pgrunbook.execute.purge import PurgeItem
from pgrunbook.procedures import shared_steps, undo_data_views
from pgrunbook.session import session as heres
from pgrunbook.session.parameters import Purge
from pgrunbook.session.session import Session

NOT_KNOWN = "Not known, the server does not answer: each thing is either dropped and marked so, or kept as it was."


def begin(**given: object) -> Session:
    """Check the parameters and find or make the run. Raises WrongInput, Blocked."""
    return heres.begin("purge", Purge, given)


@heres.step
def meet_the_target(here: Session) -> Card:
    """Show who is at the other end. Raises Unreachable."""
    return here.meet_the_target()


@heres.step
def what_is_kept(here: Session) -> Table:
    """Show everything that is kept: what will go, and how things stand once it is gone.

    Raises WrongInput for a number under which nothing was ever kept, or that belongs to another one.
    """
    found = _found(here, here.conn)
    goes = _chosen(here, found)
    _refuse_numbers(here, found)
    here.facts.update(found=found, goes=goes)
    here.journal("kept-found", things=[
        {"id": t.id, "migration": t.members[0].migration, "direction": t.members[0].direction, "bytes": t.bytes,
         "states": [kept.state for kept in t.members], "is_needed": t.is_needed, "goes": goes.get(t.id, "")}
        for t in found
    ])  # fmt: skip
    headings = ["", "id", "of", "what", "rows", "size", "kept", "state", "once it is gone"]
    return here.keep_table(
        "what-is-kept",
        Table(headings, [row for thing in found for row in _rows(here, thing, goes)], empty=undo_data_views.NOTHING),
    )


@heres.step
def what_goes(here: Session) -> Table:
    """Show what goes, and why. Raises Refused where something of it is still needed, and nobody has said so."""
    goes: dict[int, str] = here.facts["goes"]
    going = [thing for thing in here.facts["found"] if thing.id in goes]
    rows = [
        (
            thing.id,
            undo_data_views.of(thing.members[0]),
            goes[thing.id],
            ", ".join(kept.kept_as for kept in thing.members),
            human(thing.bytes),
            Cell("yes", BAD) if thing.is_needed else Cell("no", QUIET),
        )
        for thing in going
    ]
    empty = "Nothing goes: nothing of what is kept is over its time, given back or let go."
    if here.facts["found"] and _asked(here):
        empty = "Nothing goes: nothing of what is kept is what was asked for."
    headings = ["id", "of", "why it goes", "is dropped in schema pgrunbook", "size", "still needed"]
    table = here.keep_table("what-goes", Table(headings, rows, empty=empty))
    here.journal("purge-chosen", ids=[thing.id for thing in going], force=here.parameters.force)
    if _refused(here, going):
        here.show(table)
        raise _still_needed(here, _refused(here, going))
    return table


@heres.step
def let_it_go(here: Session) -> Table:
    """Drop what goes, each thing in a transaction of its own with its mark in the list, under the run lock.

    Raises Blocked, Refused, Interrupted, StatementFailed and Unreachable, each with what is gone now.
    """
    here.at_work()
    goes: dict[int, str] = here.facts["goes"]
    headings = ["id", "of", "what", "state", "freed", "looked for ms", "ms"]
    if not goes and not _in_doubt(here):
        return Table(headings, [], empty="Nothing was to go.")
    rows: list[tuple[object, ...]] = []
    with (
        locks.one_runner(here.target, here.run.run_id),
        connect(here.target, purpose=f"{here.procedure} {here.run.run_id}") as conn,
        locks.one_executor(conn),
    ):
        _settle(here, conn)
        # What was seen may be old: while we waited for the run lock, another run may have applied or given back.
        going = [thing for thing in _found(here, conn) if thing.id in goes]
        if _refused(here, going):
            raise _still_needed(here, _refused(here, going))
        try:
            for thing in going:
                rows.append(_let_go(here, conn, thing))
        except (psycopg.Error, RunbookError, KeyboardInterrupt) as exc:
            here.show(Table(headings, rows, empty="Nothing was dropped."))
            raise _explained(here, conn, exc) from (None if isinstance(exc, KeyboardInterrupt) else exc)
    return here.keep_table("let-it-go", Table(headings, rows, empty="It was gone already."))


@heres.step
def verdict(here: Session) -> Banner:
    """Say how much was let go, what that freed, and what is left."""
    gone = _gone(here)
    left = undo_data.list_entries(here.conn)
    freed = sum(int(str(event["bytes"])) for event in gone)
    told = f"{_counted(len(gone))} let go, {human(freed)} freed" if gone else "Nothing was let go"
    size = human(sum(kept.bytes for kept in left))
    families = len({kept.part_of or kept.id for kept in left})
    rest = f"{_counted(families)} still kept ({size})" if left else "nothing is kept any more"
    lost = {str(event["migration"]): str(event["way"]) for event in gone if event["way"]}
    facts: list[tuple[str, object]] = [("let go", ", ".join(str(event["id"]) for event in gone) or "nothing")]
    facts += [(f"{name} only by", way) for name, way in lost.items()]
    ends = sorted(kept.keep_until for kept in left if kept.keep_until)
    if ends:
        facts.append(("the next one's time is over", undo_data_views.moment(ends[0])))
    here.facts["left"] = left
    return here.verdict(f"{told}; {rest}.", facts, then=f"pgrunbook undo-data list --target {here.target.name}")


def _found(here: Session, conn: Connection) -> list[PurgeItem]:
    return purge.things(conn, histories.read(conn, here.target))


def _asked(here: Session) -> bool:
    """Whether something was asked for by number, age or as a whole."""
    told = here.parameters
    return bool(told.ids or told.older_than_days or told.everything)


def _chosen(here: Session, found: Sequence[PurgeItem]) -> dict[int, str]:
    told = here.parameters
    return purge.choose(found, ids=told.ids, older_than_days=told.older_than_days, everything=told.everything)


def _refuse_numbers(here: Session, found: Sequence[PurgeItem]) -> None:
    """Raise WrongInput for a number that is no thing; one that is purged already is nothing to complain about."""
    known = purge.states(here.conn, here.parameters.ids)
    unknown = [number for number in here.parameters.ids if number not in known]
    hint = f"The numbers stand in: pgrunbook undo-data list --target {here.target.name}."
    if unknown:
        raise WrongInput(f"nothing was ever kept under number {', '.join(map(str, unknown))}", hint=hint)
    parts = {kept.id: thing.id for thing in found for kept in thing.members[1:]}
    for number in here.parameters.ids:
        if number in parts:
            raise WrongInput(
                f"number {number} belongs to {parts[number]}",
                detail="What a DELETE reached in other tables is given back, and let go, with its own rows.",
                hint=f"Name {parts[number]}, or neither.",
            )


def _rows(here: Session, thing: PurgeItem, goes: dict[int, str]) -> list[tuple[object, ...]]:
    """Return the rows of a thing in the table of what is kept; what belongs to it is marked as it is."""
    mark = Cell("goes", WARN) if thing.id in goes else Cell("stays", QUIET)
    tone = PLAIN if thing.id not in goes or not thing.way else BAD if thing.is_needed else WARN
    return [
        (
            mark,
            kept.id,
            undo_data_views.of(kept),
            f"{undo_data_views.what(kept)} of {undo_data_views.plain(kept)}",
            undo_data_views.rows_of(here.conn, kept),
            human(kept.bytes),
            f"{undo_data_views.moment(kept.made_at)} until {undo_data_views.until(kept)}",
            undo_data_views.state(kept),
            Cell(thing.loss, tone) if kept is thing.members[0] else Cell(f"with {thing.id}", QUIET),
        )
        for kept in thing.members
    ]


def _refused(here: Session, going: Sequence[PurgeItem]) -> list[PurgeItem]:
    """Return what may not go: it is still needed, was not named by its number, and force is not set."""
    told = here.parameters
    return [thing for thing in going if thing.is_needed and thing.id not in told.ids and not told.force]


def _still_needed(here: Session, things: Sequence[PurgeItem]) -> Refused:
    told = "; ".join(
        f"{thing.id} ({undo_data_views.what(thing.members[0])} of {undo_data_views.plain(thing.members[0])}, "
        f"kept until {undo_data_views.until(thing.members[0])}): {thing.loss}"
        for thing in things[:5]
    )
    more = f"; and {len(things) - 5} more" if len(things) > 5 else ""
    told_so = "--all" if here.parameters.everything else f"--older-than {here.parameters.older_than_days}"
    return Refused(
        f"cannot let go of what is still needed: {_counted(len(things), verb=False)}",
        detail=told + more,
        hint="Wait until their time is over; or let go of them all the same: "
        f"pgrunbook undo-data purge --target {here.target.name} {told_so} --force",
    )


def _let_go(here: Session, conn: Connection, thing: PurgeItem) -> tuple[object, ...]:
    """Drop one thing; the journal says so before and after."""
    kept = thing.members[0]
    about = {
        "id": thing.id, "migration": kept.migration, "direction": kept.direction, "bytes": thing.bytes,
        "kept_as": [one.kept_as for one in thing.members], "way": thing.way,
    }  # fmt: skip
    looked_ms = 0.0
    start = time.monotonic()

    def on_wait(holders: Sequence[Holder], _left_ms: float) -> None:
        nonlocal looked_ms
        if not looked_ms:
            here.journal("drop-waits", id=thing.id, holders=[str(holder) for holder in holders[:5]])
        looked_ms = (time.monotonic() - start) * 1000

    here.journal("drop-started", **about)
    dropped = purge.drop(conn, here.target, thing, on_wait=on_wait)
    took_ms = (time.monotonic() - start) * 1000
    here.journal("dropped", **about, names=dropped, ms=round(took_ms, 1))
    state = Cell("dropped", GOOD) if dropped else Cell("was gone already", QUIET)
    return (
        thing.id,
        undo_data_views.of(kept),
        f"{undo_data_views.what(kept)} of {undo_data_views.plain(kept)}",
        state,
        human(thing.bytes),
        f"{looked_ms:,.0f}" if looked_ms else "",
        f"{took_ms:,.0f}",
    )


def _gone(here: Session) -> list[dict[str, object]]:
    """Return what this run dropped so far, also before it was broken off."""
    return [event for event in shared_steps.events(here, "purge") if event["event"] == "dropped"]


def _in_doubt(here: Session) -> dict[int, dict[str, object]]:
    """Return what an earlier attempt of this run began to drop, and the journal does not say what came of it."""
    begun: dict[int, dict[str, object]] = {}
    for event in shared_steps.events(here, "purge"):
        match event["event"]:
            case "drop-started":
                begun[event["id"]] = event
            case "dropped":
                begun.pop(event["id"], None)
            case "purge-stopped" if event["is_aborted"]:
                begun.clear()
    return begun


def _settle(here: Session, conn: Connection) -> None:
    """Complete the journal from the database: what is marked there as purged was dropped before we were cut off."""
    doubt = _in_doubt(here)
    for number, kept in purge.states(conn, list(doubt)).items():
        if kept.state == "purged":
            about = {name: doubt[number][name] for name in ("id", "migration", "direction", "bytes", "kept_as", "way")}
            here.journal("dropped", **about, told_by="the database")


def _explained(here: Session, conn: Connection, exc: BaseException) -> RunbookError:
    """Return the error for what ended the work, with what is gone and what is kept now."""
    state = _state_now(here)
    here.journal("purge-stopped", error=str(exc).partition("\n")[0], kind=type(exc).__name__, state=state,
                 is_aborted=not conn.closed)  # fmt: skip
    resume = "run the same run again with --resume: it goes on with what is left."
    if isinstance(exc, RunbookError):
        exc.state = state
        return exc
    if isinstance(exc, KeyboardInterrupt):
        detail = "What was running in the server was cancelled, because this run was told to stop."
        return Interrupted("stopped while things were let go", detail=detail, state=state, hint=resume.capitalize())
    told = " ".join(str(exc).split())
    if conn.closed:
        hint = f"When the server answers again, {resume}"
        return Unreachable("lost the connection while things were let go", detail=told, state=state, hint=hint)
    return StatementFailed(f"could not drop what is kept: {told}", state=state, hint=f"Settle that, then {resume}")


def _state_now(here: Session) -> str:
    """Return what is gone and what is still kept of what goes, as the database itself says."""
    try:
        with connect(here.target, purpose="asks what is kept") as conn:
            found = purge.states(conn, list(here.facts["goes"]))
    except (psycopg.Error, RunbookError):
        return NOT_KNOWN
    gone = [str(number) for number, kept in found.items() if kept.state == "purged"]
    left = [str(number) for number, kept in found.items() if kept.state != "purged"]
    return f"Let go: {', '.join(gone) or 'nothing'}; still kept as they were: {', '.join(left) or 'nothing'}."


def _counted(number: int, *, verb: bool = True) -> str:
    things = f"{number:,} thing" + ("s" if number != 1 else "")
    return f"{things} {'is' if number == 1 else 'are'}" if verb else things
