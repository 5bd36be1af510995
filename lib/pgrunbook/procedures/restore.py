"""Restore: to any moment, into a new branch beside the target. The steps of notebooks/restore.ipynb, in order."""

from __future__ import annotations

import itertools
import time
from dataclasses import asdict, replace
from datetime import UTC, datetime

from pgrunbook.branches import archive, backup, points, received
from pgrunbook.branches.recovery import Restored
from pgrunbook.branches.recovery_target import Point, parse_point
from pgrunbook.branches.restore_point_records import WalRestorePoint
from pgrunbook.branches.server import Server
from pgrunbook.branches.server_status import ServerState
from pgrunbook.database import checksums, foreign_code, step_log
from pgrunbook.database.connection import Connection, connect
from pgrunbook.display import progress
from pgrunbook.display.show import BAD, GOOD, QUIET, WARN, Banner, Card, Cell, Picture, Stack, Table, figure
from pgrunbook.errors import Refused, WrongInput
from pgrunbook.execute import permit, restoration
from pgrunbook.procedures import (
    cutover_steps,
    restore_views,
    restored_branch,
    restored_server,
    salvage_steps,
    shared_steps,
)
from pgrunbook.session import checks, once
from pgrunbook.session import session as heres
from pgrunbook.session.parameters import ALL, LAST, NEWEST, NONE, Restore
from pgrunbook.session.session import Session


def begin(**given: object) -> Session:
    """Check the parameters and find or make the run. Raises WrongInput, Blocked.

    A time without a zone is refused here, before anything is read.
    """
    here = heres.begin("restore", Restore, given)
    if any(part.procedure == "drill" for part in here.run.parts):
        restored_branch.refuse_drill(here)
    if here.parameters.to.strip() not in ("", LAST, NEWEST):
        parse_point(here.parameters.to)
    if here.parameters.cut_over and here.parameters.salvage:
        raise WrongInput(
            "salvage and cut_over exclude each other",
            detail="Old rows come home to the database of today, or programs move to the restored one.",
            hint="Choose one; rows that were written since are carried over with carry.",
        )
    if here.parameters.cut_over and here.target.server is None:
        raise WrongInput(
            f'cannot cut over from target "{here.target.name}": its server is not ours',
            detail="The fence before the old database is raised, and taken back, on servers of ours only.",
            hint="Salvage rows (-p salvage=<table>); or close the old database and lead programs over by hand.",
        )
    return here


@heres.step
def meet_the_target(here: Session) -> Card:
    """Show the server and database of the target; one that does not answer can be restored all the same."""
    return restored_server.meet_the_target(here)


@heres.step
@restored_branch.at_planetscale(restored_branch.what_can_be_restored)
def what_can_be_restored(here: Session) -> Picture:
    """Show what can be restored as a time line: backups, restore points, archived WAL."""
    source = restored_server.source(here)
    backups, windows = backup.list_base_backups(source), backup.windows(source)
    if not windows:
        raise Refused(
            f'nothing of target "{here.target.name}" can be restored',
            detail=f"Server {source.name} has no base backup.",
            hint="The first restore point (migrate) takes a base backup; or take one: "
            f"pgrunbook backup create --target {here.target.name}.",
        )
    made = {point.name: point for point in step_log.restore_points(here.conn)} if here.facts["alive"] else {}
    # Without the database, the WAL knows them.
    known = [_of_wal(point) for point in made.values()] if here.facts["alive"] else archive.restore_points(source)
    here.facts.update(made=made, points=sorted(known, key=lambda point: point.created_at))
    return restore_views.timeline(
        windows, [one.ended_at for one in backups], [one.created_at for one in here.facts["points"]]
    )


@checks.check
@restored_branch.at_planetscale(restored_branch.choose_the_point)
def choose_the_point(here: Session) -> Stack:
    """Resolve the point to restore to, and say what is lost after it, and after each other one.

    Raises WrongInput when there is no such point.
    """
    wanted, known = here.parameters.to.strip(), here.facts["points"]
    if here.parameters.of_run:
        wanted = str(restored_server.told_by(here)["point"])
    if wanted == NEWEST:
        wanted = _newest(here) if here.facts["alive"] else LAST
    if not wanted:
        raise points.unknown("", f'of target "{here.target.name}"', known)
    if wanted == LAST:
        known = known or archive.restore_points(restored_server.source(here))
        if not known:
            raise WrongInput(
                "there is no restore point to restore to",
                detail="No run made one here, and none is in the archived WAL.",
                hint="Name an LSN or a time with zone: to = '2026-11-22T16:54:31Z'.",
            )
        wanted = known[-1].name
    point, made = parse_point(wanted), here.facts["made"].get(wanted)
    if made is not None:
        point = replace(point, at_lsn=made.lsn)  # saves a search of the WAL, and shows that replay ended there
    here.facts["point"] = point
    here.subject = frozenset({str(point)})
    facts: list[tuple[str, object]] = [("restore to", str(point))]
    if made is not None:
        ago = datetime.now(UTC) - made.created_at
        facts += [
            ("made by run", made.run_id),
            ("LSN", made.lsn),
            ("database version there", made.version or "(none)"),
            ("not in it", Cell(f"what was written in the last {restore_views.span(ago)}", WARN)),
        ]
    here.journal("point-chosen", to=str(point), lsn=made.lsn if made else point.lsn)
    backups = backup.list_base_backups(restored_server.source(here))
    choices = restore_views.choices(known, here.facts["made"], backups, chosen=wanted)
    return Stack([Card("The point", facts), choices])


@heres.step
@restored_branch.at_planetscale(restored_branch.restore_to_branch)
def restore_to_branch(here: Session) -> Card:
    """Copy the base backup, replay the WAL to the point, and open a new server beside the target.

    What this run has restored to the point before, and is still running, is shown and not restored again.

    Raises Refused when the point was not chosen, or the new server's name is taken, WrongInput when the point lies
    outside the window.
    """
    checks.passed(here, "restore", "restore-to-branch")
    point: Point = here.facts["point"]
    done, took_s = restored_server.known(here, point) or _restore(here, point)
    here.facts.update(restored=done, restored_name=f"server {done.server.name}")
    here.facts["restored_target"] = restored_server.beside(here, done.server)
    restored_server.anchored(here, done.server)
    m = done.measures
    return Card(
        f"Server {done.server.name}",
        [
            (
                "base backup",
                f"{done.backup.id}, {done.backup.bytes / 1024 / 1024:,.0f} MB, copied in {m.copy_s:.2f} s",
            ),
            ("WAL replayed", f"{m.replayed_bytes / 1024 / 1024:,.1f} MB in {m.replay_s:.2f} s"),
            ("opened", f"in {m.promote_s:.2f} s"),
            ("recovery time", restored_server.recovery_time(here, took_s)),
            ("socket", str(done.server.socket_dir)),
        ],
        tone=GOOD,
    )


@heres.step
@restored_branch.at_planetscale(restored_branch.is_it_the_point)
def is_it_the_point(here: Session) -> Card:
    """Show the proof that the new server reached the point: read there, while recovery was paused."""
    m = here.facts["restored"].measures
    last = f"{m.last_transaction_at:%Y-%m-%d %H:%M:%S.%f %Z}" if m.last_transaction_at else "none was replayed"
    return Card(
        "Where it stands",
        [("asked for", str(here.facts["point"])), ("reached LSN", m.end_lsn), ("last transaction", last),
         ("the server says", m.told)],
        tone=GOOD,
    )  # fmt: skip


@heres.step
def how_does_it_differ(here: Session) -> Table:
    """Compare the restored database with the target, table by table: rows and checksums."""
    headings = ["table", "rows there", "rows today", "missing today", "changed", "new today", "verdict"]
    if not here.facts["alive"]:
        return Table(headings, [], empty="The target does not answer: not compared.")
    if here.parameters.compare == (NONE,):
        return Table(headings, [], empty="Not compared: compare is none.")
    rows: list[tuple[object, ...]] = []
    counts: list[tuple[str, int, int, int]] = []
    with connect(here.facts["restored_target"], purpose="compares") as old:
        names, lacking = _chosen(here, old)
        rows += [(name, "-", "-", "", "", "", Cell("on neither side", BAD)) for name in lacking]
        hidden = foreign_code.tables(old) | foreign_code.tables(here.conn)
        rows += [(_plain(name), "-", "-", "", "", "", Cell(f"not compared: {foreign_code.WHY}", WARN))
                 for name in sorted({*names[old], *names[here.conn]}) if name in hidden]  # fmt: skip
        read = {conn: [name for name in some if name not in hidden] for conn, some in names.items()}
        then, now = (checksums.checksums(conn, read[conn]) for conn in (old, here.conn))
        for table in sorted(then.keys() | now.keys()):
            a, b = then.get(table), now.get(table)
            if a == b:
                rows.append((*_counted(table, a, b), 0, 0, 0, Cell("equal", QUIET)))
            elif a is None or b is None:
                rows.append(
                    (*_counted(table, a, b), "", "", "", Cell("only today" if a is None else "only there", WARN))
                )
            else:
                rows.append((*_counted(table, a, b), *_compared(old, here, table, counts)))
    here.facts["differences"] = counts
    here.journal("compared", different=[str(row[0]) for row in rows if str(row[-1]) != "equal"],
                 equal=sum(str(row[-1]) == "equal" for row in rows))  # fmt: skip
    return here.keep_table("how-does-it-differ", Table(headings, rows))


@heres.step
def differences_drawn(here: Session) -> Picture | Card:
    """Draw missing, changed and new rows per table that differs."""
    counts = here.facts.get("differences") or []
    if not counts:
        return Card("Differences", [("drawn", "none: no table differs in its rows")])
    picture, axes = figure(8, 1.4 + 0.5 * len(counts))
    left = [0] * len(counts)
    for part, (label, colour) in enumerate(
        (("missing today", "#cf222e"), ("changed", "#bf8700"), ("new today", "#2da44e")), 1
    ):
        values = [c[part] for c in counts]
        axes.barh([c[0] for c in counts], values, left=left, label=label, color=colour)
        left = [a + b for a, b in zip(left, values, strict=True)]
    axes.set_xlabel("rows")
    axes.invert_yaxis()
    axes.legend(frameon=False)
    numbers = "; ".join(f"{t}: {m:,} missing today, {c:,} changed, {n:,} new" for t, m, c, n in counts)
    return Picture.of(picture, f"Rows that differ: {numbers}")


@checks.check
def what_to_salvage(here: Session) -> Table:
    """Show which old rows would come back into which tables, and what becomes of each; nothing is written.

    Raises WrongInput for a table or condition that is none, Refused where old rows could not be written.
    """
    with restored_server.told_of(here):
        return salvage_steps.look(here)


@checks.check
def try_salvage(here: Session) -> Card:
    """Salvage on a branch that holds the target's rows of today. Raises Refused where it fails there."""
    with restored_server.told_of(here):
        return salvage_steps.rehearse(here)


@heres.step
@once.once()
def salvage_rows(here: Session) -> Table:
    """Write the old rows back, in batches; what is new stays, and what is overwritten is kept.

    Raises Refused when a check has not passed, Blocked, Interrupted, StatementFailed and Unreachable, each with what
    is back now.
    """
    with restored_server.told_of(here):
        return salvage_steps.write(here)


@checks.check
def what_to_carry(here: Session) -> Table:
    """Show what was committed since the point, and what of it is carried over; nothing is written.

    Raises WrongInput where nothing leads programs over, Refused where rows cannot be carried.
    """
    with restored_server.told_of(here):
        return cutover_steps.preview(here)


@heres.step
def fence(here: Session) -> Card:
    """Let nobody into the database of today, end its sessions, and show a session that is refused.

    Raises Refused when the check has not passed, Blocked where sessions do not end.
    """
    return cutover_steps.raise_fence(here)


@heres.step
@once.once()
def cut_over(here: Session) -> Table:
    """Carry rows over, list what is left behind, and lead programs to the restored server.

    Raises Refused without the fence, and whatever ends it, with the state and the way back.
    """
    return cutover_steps.cut_over(here)


@heres.step
@restored_branch.at_planetscale(restored_branch.what_next)
def what_next(here: Session) -> Table:
    """Show the ways to go on from here, with what each does."""
    return restored_server.ways_on(here, is_led=bool(cutover_steps.ended(here)))


@heres.step
@restored_branch.at_planetscale(restored_branch.verdict)
def verdict(here: Session) -> Banner:
    """Say where the restored database is, and what was salvaged: else the target was only read."""
    done = here.facts["restored"]
    salvaged = salvage_steps.ended(here) or "The target was only read."
    led = cutover_steps.ended(here)
    state = f"The database as it was at {done.point} runs as server {done.server.name}. {led or salvaged}"
    facts = [
        ("recovery time", f"{done.measures.copy_s + done.measures.replay_s:.2f} s"),
        ("reached", done.measures.end_lsn),
    ]
    then = f"pgrunbook server destroy --name {done.server.name}, when it is not needed any more"
    if led:
        facts.append(("back", f"pgrunbook server unfence --run {here.run.run_id}"))
        then = f'server = "{done.server.name}" in targets.toml, then pgrunbook backup create'
    return here.verdict(state, facts, then=then)


def _chosen(here: Session, old: Connection) -> tuple[dict[Connection, list[checksums.TableName]], list[str]]:
    """Return the tables to compare that each side has, and the names of those that neither has."""
    wanted = set(here.parameters.compare) - {ALL}
    found = {conn: checksums.table_names(conn) for conn in (old, here.conn)}
    if not wanted:
        return found, []
    chosen = {conn: [name for name in names if wanted & _names(name)] for conn, names in found.items()}
    known = {word for names in found.values() for name in names for word in _names(name)}
    return chosen, sorted(wanted - known)


def _names(table: checksums.TableName) -> set[str]:
    """Return how a person may name a table: with its schema or without, with quotes or without."""
    return {str(table), _plain(table), table.name}


def _counted(
    table: checksums.TableName, a: checksums.TableSum | None, b: checksums.TableSum | None
) -> tuple[object, ...]:
    return _plain(table), f"{a.rows:,}" if a else "-", f"{b.rows:,}" if b else "-"


def _plain(table: checksums.TableName) -> str:
    return f"{table.schema}.{table.name}"


def _compared(
    old: Connection, here: Session, table: checksums.TableName, counts: list[tuple[str, int, int, int]]
) -> tuple[object, ...]:
    """Return what differs in a table's rows; after a migration, only in the columns that both sides have."""
    try:
        found = checksums.difference(old, here.conn, table, shared_columns=True)
    except WrongInput as exc:
        return "", "", "", Cell(f"not compared: {exc.detail}", WARN)
    if found:
        counts.append((_plain(table), found.missing, found.changed, found.new))
    apart = f"only one side has the columns {', '.join(found.columns_apart)}" if found.columns_apart else ""
    rows = "different" if found else "equal in the columns of both" if apart else "equal values of other types"
    verdict = "; ".join(filter(None, [rows, apart]))
    samples = "\n".join(f"{sample.change}: {sample.key}" for sample in found.samples)
    return f"{found.missing:,}", f"{found.changed:,}", f"{found.new:,}", Cell(verdict, WARN, under=samples, fold="rows")


def _of_wal(point: step_log.RestorePoint) -> WalRestorePoint:
    return WalRestorePoint(point.name, point.lsn, point.created_at)


def _restore(here: Session, point: Point) -> tuple[Restored, float]:
    """Restore to the point; return the new server, and how long it took, in s."""
    permitted = permit.of_restore(here, point)
    here.at_work()
    name = here.parameters.name or _free_name(here)
    here.journal("restore-started", name=name, to=str(point), point=point.spelled())
    started = time.monotonic()
    if here.target.server is None and here.facts["alive"]:
        with progress.doing("waiting for the WAL to come"):
            received.wait_received(here.target, point.lsn or point.at_lsn)

    def told(done: Restored) -> None:
        """Note the server while it still counts as half restored: one that nobody has noted is made anew."""
        here.journal("restored", name=name, to=str(point), point=point.spelled(), backup=done.backup.id,
                     recovery_time_s=round(time.monotonic() - started, 3), **asdict(done.measures))  # fmt: skip

    done = restoration.restore(restored_server.source(here), point, permitted, name=name, told=told)
    return done, time.monotonic() - started


def _newest(here: Session) -> str:
    """Return where the WAL ends now; a run that has begun to restore stays with the point that it has begun with."""
    begun = [e["point"] for e in shared_steps.events(here, "restore") if e["event"] == "restore-started"]
    if begun:
        return str(begun[-1])
    ((lsn,),) = here.conn.execute("SELECT pg_catalog.pg_current_wal_insert_lsn()::text").fetchall()
    return f"lsn:{lsn}"


def _free_name(here: Session) -> str:
    """Return a name that is free, or that of the server that a killed run of this notebook has left half restored."""
    name = f"restored-{here.run.run_id[-4:]}"
    names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    free = (ServerState.ABSENT, ServerState.HALF_RESTORED)
    return next(one for one in names if Server(one).status().state in free)
