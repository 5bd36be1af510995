"""Restore: to any moment, into a new branch beside the target. The steps of notebooks/restore.ipynb, in order."""

from __future__ import annotations

import itertools
import time
from dataclasses import asdict, fields, replace
from datetime import UTC, datetime, timedelta

from pgrunbook.branches import archive, backup, points
from pgrunbook.branches.recovery import Measures, Restored
from pgrunbook.branches.recovery_target import Point, parse_point
from pgrunbook.branches.restore_point_records import WalRestorePoint
from pgrunbook.branches.server import Server
from pgrunbook.branches.server_status import ServerState
from pgrunbook.config.targets import Target
from pgrunbook.database import checksums, step_log
from pgrunbook.database.connection import Connection, connect
from pgrunbook.display.show import BAD, GOOD, QUIET, WARN, Banner, Card, Cell, Picture, Table, figure
from pgrunbook.errors import Refused, Unreachable, WrongInput
from pgrunbook.execute import permit, restoration
from pgrunbook.procedures import restore_views, shared_steps
from pgrunbook.session import checks
from pgrunbook.session import session as heres
from pgrunbook.session.parameters import ALL, LAST, NONE, Restore
from pgrunbook.session.session import Session


def begin(**given: object) -> Session:
    """Check the parameters and find or make the run. Raises WrongInput, Blocked.

    A time without a zone is refused here, before anything is read.
    """
    here = heres.begin("restore", Restore, given)
    if here.parameters.to.strip() not in ("", LAST):
        parse_point(here.parameters.to)
    return here


@heres.step
def meet_the_target(here: Session) -> Card:
    """Show the server and database of the target; one that does not answer can be restored all the same."""
    _source(here)
    try:
        here.facts["alive"] = True
        return here.meet_the_target()
    except Unreachable as exc:
        here.facts["alive"] = False
        here.journal("target-silent", error=exc.lines())
        facts = [
            ("answers", Cell(f"no: {exc.detail}", BAD)),
            ("so", "it is restored, but not compared"),
        ]
        return Card(f"Target {here.target.name}", facts, tone=BAD)


@heres.step
def what_can_be_restored(here: Session) -> Picture:
    """Show what can be restored as a time line: backups, restore points, archived WAL."""
    source = _source(here)
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
    return restore_views.timeline(windows, backups, here.facts["points"])


@checks.check
def choose_the_point(here: Session) -> Card:
    """Resolve the point to restore to, and say what is lost after it. Raises WrongInput when there is no such point."""
    wanted, known = here.parameters.to.strip(), here.facts["points"]
    if not wanted:
        raise points.unknown("", f'of target "{here.target.name}"', known)
    if wanted == LAST:
        known = known or archive.restore_points(_source(here))
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
            ("not in it", Cell(f"what was written in the last {_span(ago)}", WARN)),
        ]
    if others := points.newest(known, but=wanted):
        facts.append(("other restore points", points.listed(others)))
    here.journal("point-chosen", to=str(point), lsn=made.lsn if made else point.lsn)
    return Card("The point", facts)


@heres.step
def restore_to_branch(here: Session) -> Card:
    """Copy the base backup, replay the WAL to the point, and open a new server beside the target.

    What this run has restored to the point before, and is still running, is shown and not restored again.

    Raises Refused when the point was not chosen, or the new server's name is taken, WrongInput when the point lies
    outside the window.
    """
    checks.passed(here, "restore", "restore-to-branch")
    point: Point = here.facts["point"]
    done, took_s = _restored_before(here, point) or _restore(here, point)
    here.facts["restored"] = done
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
            ("recovery time", f"{took_s:.2f} s in all"),
            ("socket", str(done.server.socket_dir)),
        ],
        tone=GOOD,
    )


@heres.step
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
    with connect(_beside(here), purpose="compares") as old:
        names, lacking = _chosen(here, old)
        rows += [(name, "-", "-", "", "", "", Cell("on neither side", BAD)) for name in lacking]
        then, now = (checksums.checksums(conn, names[conn]) for conn in (old, here.conn))
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


@heres.step
def what_next(here: Session) -> Table:
    """Show the ways to go on from here, with what each does."""
    server = here.facts["restored"].server
    there = f'-h "{server.socket_dir}" -U postgres {here.target.database}'
    rows = [
        ("look", "Read the restored data beside the target", f"psql {there}"),
        ("salvage", "Copy chosen rows back by hand; what the application wrote since is kept",
         f"pg_dump -t <table> --data-only {there}"),
        ("leave", "Stop the restored server; its files stay", f"pgrunbook server stop --name {server.name}"),
        ("remove", "Remove the restored server and its files", f"pgrunbook server destroy --name {server.name}"),
    ]  # fmt: skip
    return Table(["way", "what it does", "command"], rows)


@heres.step
def verdict(here: Session) -> Banner:
    """Say where the restored database is, and that the target was only read."""
    done = here.facts["restored"]
    state = f"The database as it was at {done.point} runs as server {done.server.name}; the target was only read."
    facts = [
        ("recovery time", f"{done.measures.copy_s + done.measures.replay_s:.2f} s"),
        ("reached", done.measures.end_lsn),
    ]
    return here.verdict(
        state,
        facts,
        then=f"pgrunbook server destroy --name {done.server.name}, when it is not needed any more",
    )


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


def _source(here: Session) -> Server:
    if here.target.server is None:
        raise Refused(
            f'target "{here.target.name}" cannot be restored from here',
            detail="Only an embedded server has base backups and an archive that we can read.",
            hint="Restore with your provider's tool; pgrunbook cannot read its backups yet.",
        )
    return Server(here.target.server)


def _restore(here: Session, point: Point) -> tuple[Restored, float]:
    """Restore to the point; return the new server, and how long it took, in s."""
    permitted = permit.of_restore(here, point)
    here.at_work()
    name = here.parameters.name or _free_name(here)
    here.journal("restore-started", name=name, to=str(point))
    started = time.monotonic()

    def told(done: Restored) -> None:
        """Note the server while it still counts as half restored: one that nobody has noted is made anew."""
        here.journal("restored", name=name, to=str(point), backup=done.backup.id,
                     recovery_time_s=round(time.monotonic() - started, 3), **asdict(done.measures))  # fmt: skip

    done = restoration.restore(_source(here), point, permitted, name=name, told=told)
    return done, time.monotonic() - started


def _restored_before(here: Session, point: Point) -> tuple[Restored, float] | None:
    """Return the running server that this run has restored to the point before, None where there is none."""
    ended = [e for e in shared_steps.events(here, "restore") if e["event"] == "restored" and e.get("to") == str(point)]
    backups = {taken.id: taken for taken in backup.list_base_backups(_source(here))} if ended else {}
    for e in reversed(ended):
        server = Server(e["name"])
        is_wanted = here.parameters.name in ("", server.name) and e["backup"] in backups
        if is_wanted and server.status().state is ServerState.RUNNING:
            facts = {field.name: e[field.name] for field in fields(Measures)}
            if facts["last_transaction_at"] is not None:
                facts["last_transaction_at"] = datetime.fromisoformat(facts["last_transaction_at"])
            measures = Measures(**facts)
            return Restored(server, _source(here).name, point, backups[e["backup"]], measures), e["recovery_time_s"]
    return None


def _free_name(here: Session) -> str:
    """Return a name that is free, or that of the server that a killed run of this notebook has left half restored."""
    name = f"restored-{here.run.run_id[-4:]}"
    names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    free = (ServerState.ABSENT, ServerState.HALF_RESTORED)
    return next(one for one in names if Server(one).status().state in free)


def _beside(here: Session) -> Target:
    restored = here.facts["restored"].server
    return here.target.model_copy(update={"name": f"{here.target.name}, restored", "server": restored.name})


def _span(ago: timedelta) -> str:
    seconds = int(ago.total_seconds())
    return f"{seconds} s" if seconds < 120 else f"{seconds // 60} min" if seconds < 7200 else f"{seconds // 3600} h"
