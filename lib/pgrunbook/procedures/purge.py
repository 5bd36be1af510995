"""Purge: drop undo data that nobody needs any more. The steps of notebooks/purge.ipynb, in order."""

from __future__ import annotations

import time
from collections.abc import Sequence

import psycopg

from pgrunbook import history as histories
from pgrunbook import undo_data
from pgrunbook.database import locks
from pgrunbook.database.connection import Connection, connect
from pgrunbook.database.lock_wait import Holder
from pgrunbook.display.prose import counted
from pgrunbook.display.show import BAD, GOOD, PLAIN, QUIET, WARN, Banner, Card, Cell, Table
from pgrunbook.display.units import human
from pgrunbook.errors import Interrupted, Refused, RunbookError, StatementFailed, Unreachable, WrongInput
from pgrunbook.execute import permit, purge
from pgrunbook.execute.permit import Permit
from pgrunbook.execute.purge import PurgeItem
from pgrunbook.procedures import shared_steps, undo_data_views
from pgrunbook.record.run import again
from pgrunbook.session import checks, once
from pgrunbook.session import session as heres
from pgrunbook.session.parameters import Purge
from pgrunbook.session.session import Session

NOT_KNOWN = "Not known, the server does not answer: each item is either purged as a whole, or unchanged."


def begin(**given: object) -> Session:
    """Check the parameters and find or make the run. Raises WrongInput, Blocked."""
    return heres.begin("purge", Purge, given)


@heres.step
def meet_the_target(here: Session) -> Card:
    """Show the server and database of the target. Raises Unreachable."""
    return here.meet_the_target()


@checks.check
def what_is_captured(here: Session) -> Table:
    """Show all undo data: which items will be purged, and what is lost with each.

    Raises WrongInput for a number that no undo data ever had, or that belongs to another item.
    """
    found = _found(here, here.conn)
    goes = _chosen(here, found)
    _refuse_numbers(here, found)
    here.facts.update(found=found, goes=goes)
    here.subject = frozenset(purge.subject(item) for item in found if item.id in goes)
    here.journal("kept-found", things=[
        {"id": t.id, "migration": t.members[0].migration, "direction": t.members[0].direction, "bytes": t.bytes,
         "states": [kept.state for kept in t.members], "is_needed": t.is_needed, "goes": goes.get(t.id, "")}
        for t in found
    ])  # fmt: skip
    headings = ["", "id", "of", "what", "rows", "size", "kept", "state", "once it is purged"]
    return here.keep_table(
        "what-is-captured",
        Table(headings, [row for item in found for row in _rows(here, item, goes)], empty=undo_data_views.NOTHING),
    )


@checks.check
def what_goes(here: Session) -> Table:
    """Show what will be purged, and why. Raises Refused for an item that is still needed, without force."""
    goes: dict[int, str] = here.facts["goes"]
    going = [item for item in here.facts["found"] if item.id in goes]
    rows = [
        (
            item.id,
            undo_data_views.of(item.members[0]),
            goes[item.id],
            ", ".join(kept.kept_as for kept in item.members),
            human(item.bytes),
            Cell("yes", BAD) if item.is_needed else Cell("no", QUIET),
        )
        for item in going
    ]
    empty = "Nothing to purge: no undo data is past its retention, reverted or reapplied."
    if here.facts["found"] and _asked(here):
        empty = "Nothing to purge: no undo data is of the age or number that was asked for."
    headings = ["id", "of", "why it goes", "is dropped in schema pgrunbook", "size", "still needed"]
    table = here.keep_table("what-goes", Table(headings, rows, empty=empty))
    here.journal("purge-chosen", ids=[item.id for item in going], force=here.parameters.force)
    if _refused(here, going):
        here.show(table)
        raise _still_needed(here, _refused(here, going))
    return table


@heres.step
@once.once()
def purge_it(here: Session) -> Table:
    """Drop the chosen items under the run lock; each is dropped and marked as purged in one transaction.

    Raises Blocked, Refused, Interrupted, StatementFailed and Unreachable, each with what is purged now.
    """
    checks.passed(here, "purge", "purge-it")
    here.at_work()
    goes: dict[int, str] = here.facts["goes"]
    headings = ["id", "of", "what", "state", "freed", "waited ms", "ms"]
    if not goes and not _in_doubt(here):
        return Table(headings, [], empty="Nothing was to be purged.")
    rows: list[tuple[object, ...]] = []
    with (
        locks.one_runner(here.target, here.run.run_id),
        connect(here.target, purpose=f"{here.procedure} {here.run.run_id}") as conn,
        locks.one_executor(conn),
    ):
        _settle(here, conn)
        # What we read may be old: while we waited for the run lock, another run may have migrated or rolled back.
        going = [item for item in _found(here, conn) if item.id in goes]
        if _refused(here, going):
            raise _still_needed(here, _refused(here, going))
        permitted = permit.of_purge(here, goes, conn)
        try:
            for item in going:
                rows.append(_drop(here, conn, item, permitted))
        except (psycopg.Error, RunbookError, KeyboardInterrupt) as exc:
            here.show(Table(headings, rows, empty="Nothing was dropped."))
            raise _explained(here, conn, exc) from (None if isinstance(exc, KeyboardInterrupt) else exc)
    return here.keep_table("purge-it", Table(headings, rows, empty="It was purged already."))


@heres.step
def verdict(here: Session) -> Banner:
    """Say how much was purged, how much space that freed, and what is left."""
    gone = _gone(here)
    left = undo_data.list_entries(here.conn)
    freed = sum(int(str(event["bytes"])) for event in gone)
    done = f"{_counted(len(gone))} purged, {human(freed)} freed" if gone else "Nothing was purged"
    size = human(sum(kept.bytes for kept in left))
    families = len({kept.part_of or kept.id for kept in left})
    rest = f"{_counted(families)} still kept ({size})" if left else "no undo data is left"
    lost = {str(event["migration"]): str(event["way"]) for event in gone if event["way"]}
    facts: list[tuple[str, object]] = [("purged", ", ".join(str(event["id"]) for event in gone) or "nothing")]
    facts += [(f"{name} only by", way) for name, way in lost.items()]
    ends = sorted(kept.keep_until for kept in left if kept.keep_until)
    if ends:
        facts.append(("next retention ends", undo_data_views.moment(ends[0])))
    here.facts["left"] = left
    return here.verdict(f"{done}; {rest}.", facts, then=f"pgrunbook undo-data list --target {here.target.name}")


def _found(here: Session, conn: Connection) -> list[PurgeItem]:
    return purge.items(conn, histories.read(conn, here.target))


def _asked(here: Session) -> bool:
    """Whether the parameters name items by number, by age or as a whole."""
    given = here.parameters
    return bool(given.ids or given.older_than_days or given.everything)


def _chosen(here: Session, found: Sequence[PurgeItem]) -> dict[int, str]:
    given = here.parameters
    return purge.choose(found, ids=given.ids, older_than_days=given.older_than_days, everything=given.everything)


def _refuse_numbers(here: Session, found: Sequence[PurgeItem]) -> None:
    """Raise WrongInput for a number that is no item; one that is purged already is no error."""
    known = purge.states(here.conn, here.parameters.ids)
    unknown = [number for number in here.parameters.ids if number not in known]
    hint = f"The numbers stand in: pgrunbook undo-data list --target {here.target.name}."
    if unknown:
        raise WrongInput(f"no undo data ever had the number {', '.join(map(str, unknown))}", hint=hint)
    parts = {kept.id: item.id for item in found for kept in item.members[1:]}
    for number in here.parameters.ids:
        if number in parts:
            raise WrongInput(
                f"number {number} belongs to {parts[number]}",
                detail="Rows that a DELETE cascaded to in other tables are reverted, and purged, with its own rows.",
                hint=f"Name {parts[number]}, or neither.",
            )


def _rows(here: Session, item: PurgeItem, goes: dict[int, str]) -> list[tuple[object, ...]]:
    """Return one row for each member of an item; all of them have the item's mark."""
    mark = Cell("goes", WARN) if item.id in goes else Cell("stays", QUIET)
    tone = PLAIN if item.id not in goes or not item.way else BAD if item.is_needed else WARN
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
            Cell(item.loss, tone) if kept is item.members[0] else Cell(f"with {item.id}", QUIET),
        )
        for kept in item.members
    ]


def _refused(here: Session, going: Sequence[PurgeItem]) -> list[PurgeItem]:
    """Return the items that must not be purged: still needed, and force is not set."""
    return [] if here.parameters.force else [item for item in going if item.is_needed]


def _still_needed(here: Session, items: Sequence[PurgeItem]) -> Refused:
    listed = "; ".join(
        f"{item.id} ({undo_data_views.what(item.members[0])} of {undo_data_views.plain(item.members[0])}, "
        f"kept until {undo_data_views.until(item.members[0])}): {item.loss}"
        for item in items[:5]
    )
    more = f"; and {len(items) - 5} more" if len(items) > 5 else ""
    given = here.parameters
    options = [f"--id {number}" for number in given.ids] + ["--all"] * given.everything
    options += [f"--older-than {given.older_than_days}"] * bool(given.older_than_days)
    return Refused(
        f"cannot purge undo data that is still needed: {_counted(len(items), verb=False)}",
        detail=listed + more,
        hint="Wait until their retention is over; or purge them all the same: "
        f"pgrunbook undo-data purge --target {here.target.name} {' '.join([*options, '--force'])}",
    )


def _drop(here: Session, conn: Connection, item: PurgeItem, permitted: Permit) -> tuple[object, ...]:
    """Drop one item; the journal says so before and after."""
    kept = item.members[0]
    about = {
        "id": item.id, "migration": kept.migration, "direction": kept.direction, "bytes": item.bytes,
        "kept_as": [one.kept_as for one in item.members], "way": item.way,
    }  # fmt: skip
    waited_ms = 0.0
    start = time.monotonic()

    def on_wait(holders: Sequence[Holder], _left_ms: float) -> None:
        nonlocal waited_ms
        if not waited_ms:
            here.journal("drop-waits", id=item.id, holders=[str(holder) for holder in holders[:5]])
        waited_ms = (time.monotonic() - start) * 1000

    here.journal("drop-started", **about)
    dropped = purge.drop(conn, here.target, item, permitted, on_wait=on_wait)
    took_ms = (time.monotonic() - start) * 1000
    here.journal("dropped", **about, names=dropped, ms=round(took_ms, 1))
    state = Cell("dropped", GOOD) if dropped else Cell("was gone already", QUIET)
    return (
        item.id,
        undo_data_views.of(kept),
        f"{undo_data_views.what(kept)} of {undo_data_views.plain(kept)}",
        state,
        human(item.bytes),
        f"{waited_ms:,.0f}" if waited_ms else "",
        f"{took_ms:,.0f}",
    )


def _gone(here: Session) -> list[dict[str, object]]:
    """Return what this run has dropped so far, also before it was interrupted."""
    return [event for event in shared_steps.events(here, "purge") if event["event"] == "dropped"]


def _in_doubt(here: Session) -> dict[int, dict[str, object]]:
    """Return the drops that an earlier attempt of this run began, and of which the journal has no end."""
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
    """Complete the journal from the database: what is marked as purged there was dropped before the interruption."""
    doubt = _in_doubt(here)
    for number, kept in purge.states(conn, list(doubt)).items():
        if kept.state == "purged":
            about = {name: doubt[number][name] for name in ("id", "migration", "direction", "bytes", "kept_as", "way")}
            here.journal("dropped", **about, told_by="the database")


def _explained(here: Session, conn: Connection, exc: BaseException) -> RunbookError:
    """Return the error for what ended the work, with what is purged and what is kept now."""
    state = _state_now(here)
    here.journal("purge-stopped", error=str(exc).partition("\n")[0], kind=type(exc).__name__, state=state,
                 is_aborted=not conn.closed)  # fmt: skip
    resume = f"{again()}. It goes on with what is left."
    if isinstance(exc, RunbookError):
        exc.state = state
        return exc
    if isinstance(exc, KeyboardInterrupt):
        detail = "Somebody stopped this run; what was running in the server was cancelled."
        hint = resume[0].upper() + resume[1:]
        return Interrupted("stopped while undo data was purged", detail=detail, state=state, hint=hint)
    said = " ".join(str(exc).split())
    if conn.closed:
        hint = f"When the server answers again, {resume}"
        return Unreachable("lost the connection while undo data was purged", detail=said, state=state, hint=hint)
    return StatementFailed(f"could not purge undo data: {said}", state=state, hint=f"Correct that, then {resume}")


def _state_now(here: Session) -> str:
    """Return which of the chosen items are purged and which are not, as the database itself says."""
    try:
        with connect(here.target, purpose="asks what is kept") as conn:
            found = purge.states(conn, list(here.facts["goes"]))
    except (psycopg.Error, RunbookError):
        return NOT_KNOWN
    gone = [str(number) for number, kept in found.items() if kept.state == "purged"]
    left = [str(number) for number, kept in found.items() if kept.state != "purged"]
    return f"Purged: {', '.join(gone) or 'nothing'}; still kept, unchanged: {', '.join(left) or 'nothing'}."


def _counted(number: int, *, verb: bool = True) -> str:
    items = counted(number, "item")
    return f"{items} {'is' if number == 1 else 'are'}" if verb else items
