"""The server that a restore has made, found again by the journal of its run; the procedures restore and drill share it.

What they ask of a target that can be restored stands here, too.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from datetime import datetime
from typing import Any

from pgrunbook.branches import backup, received
from pgrunbook.branches.recovery import Measures, Restored
from pgrunbook.branches.recovery_target import Point, parse_point
from pgrunbook.branches.server import Server
from pgrunbook.branches.server_status import ServerState
from pgrunbook.config.targets import Target
from pgrunbook.database import address
from pgrunbook.database.connection import connect
from pgrunbook.display.show import BAD, GOOD, PLAIN, Card, Cell, Table
from pgrunbook.errors import Refused, RunbookError, Unreachable, WrongInput
from pgrunbook.record import journal
from pgrunbook.record import run as runs
from pgrunbook.record.run import Run
from pgrunbook.seal import anchor
from pgrunbook.session.session import Session

log = logging.getLogger(__name__)
_HEADINGS = ["way", "what it does", "command"]


def source(here: Session) -> Server:
    """Return what has the target's backups and WAL: its server, or the folder of what was received.

    Raises Refused where nothing was received of a server that is not ours.
    """
    found = received.kept_of(here.target)
    if here.target.server is None and not backup.list_base_backups(found):
        name = here.target.name
        raise Refused(
            f'target "{name}" cannot be restored from here',
            detail="Its server is not ours, and no base backup of it was received.",
            hint="Restore with your provider's tool; or, for what comes: pgrunbook backup receive --target "
            f"{name} (as a service), and pgrunbook backup create --target {name}.",
        )
    return found


def database(here: Session) -> str:
    """Return the name of the target's database, which it has on a restored server, too."""
    if here.target.server is None and here.facts.get("alive"):
        return here.conn.info.dbname
    return here.target.database or str(address.keywords(here.target).get("dbname") or "postgres")


def meet_the_target(here: Session) -> Card:
    """Return the card of the target; one that does not answer says why, as it can be restored all the same."""
    if here.target.planetscale is None:
        source(here)
    try:
        here.facts["alive"] = True
        return here.meet_the_target()
    except Unreachable as exc:
        here.facts["alive"] = False
        here.journal("target-silent", error=exc.lines())
        facts = [("answers", Cell(f"no: {exc.detail}", BAD)), ("so", "it is restored, but not compared")]
        return Card(f"Target {here.target.name}", facts, tone=BAD)


def told(run: Run) -> list[Mapping[str, Any]]:
    """Return what the journal of a run says of the servers that it has restored, oldest first."""
    return [e for e in journal.read(run.journal.path) if e["event"] == "restored"]


def measures(event: Mapping[str, Any]) -> Measures:
    """Return the measures that an event of :func:`told` holds."""
    found = {field.name: event[field.name] for field in fields(Measures)}
    if found["last_transaction_at"] is not None:
        found["last_transaction_at"] = datetime.fromisoformat(found["last_transaction_at"])
    return Measures(**found)


def running(here: Session, run: Run, *, to: str = "", name: str = "") -> tuple[Restored, float] | None:
    """Return the running server that a run has restored last, and how long that took, in s; None where there is none.

    ``to`` is the point that it has to be restored to, ``name`` its name, where they are given.
    """
    events = [e for e in told(run) if to in ("", e["to"]) and name in ("", e["name"])]
    backups = {taken.id: taken for taken in backup.list_base_backups(source(here))} if events else {}
    for event in reversed(events):
        server = Server(event["name"])
        if event["backup"] in backups and server.status().state is ServerState.RUNNING:
            point = parse_point(event["point"])
            found = Restored(server, source(here).name, point, backups[event["backup"]], measures(event))
            return found, event["recovery_time_s"]
    return None


def told_by(here: Session) -> Mapping[str, Any]:
    """Return what the run that ``of_run`` names has restored last. Raises WrongInput where it has restored nothing."""
    made = runs.find(here.parameters.of_run)
    events = told(made) if made.target == here.target.name else []
    if not events:
        raise WrongInput(
            f"run {made.run_id} has restored nothing of this target",
            hint="Leave of_run out, to restore now; pgrunbook runs lists the runs.",
        )
    return events[-1]


def known(here: Session, point: Point) -> tuple[Restored, float] | None:
    """Return what this run has restored to the point before, or the run that ``of_run`` names; None where none runs."""
    if not here.parameters.of_run:
        return running(here, here.run, to=str(point), name=here.parameters.name)
    name, made = told_by(here)["name"], runs.find(here.parameters.of_run)
    found = running(here, made, to=str(point), name=name)
    if found is None:
        raise WrongInput(
            f'server "{name}", which run {made.run_id} has restored, does not run any more',
            detail=f"It is {Server(name).status().state} now.",
            hint="Leave of_run out, to restore again; or, where it was stopped: pgrunbook server start --name " + name,
        )
    return found


def beside(here: Session, server: Server) -> Target:
    """Return the target as it is on a restored server."""
    there = {"server": server.name, "service": None, "url_from": None, "planetscale": None}
    there["database"] = database(here)
    return here.target.model_copy(update={"name": f"{here.target.name}, restored", **there})


def anchored(here: Session, server: Server) -> None:
    """Anchor the run in the database that it has restored, so that verify knows which runs came later.

    A database that does not let us in is as restored as any other: the log says that it has no anchor.
    """
    try:
        with connect(beside(here, server), purpose="anchors") as conn:
            anchor.opening_beside(conn, here.run, server.name)
    except Unreachable as exc:
        log.warning("run %s is not anchored on server %s: %s", here.run.run_id, server.name, exc.message)


@contextmanager
def told_of(here: Session) -> Iterator[None]:
    """Let an error of the body say that the restored server is there, too."""
    try:
        yield
    except RunbookError as exc:
        if "restored_name" in here.facts:  # else a cell was run before its time, and the error says which is missing
            exc.state = f"{exc.state} Restored {here.facts['restored_name']} runs beside it."
        raise


def recovery_time(here: Session, took_s: float) -> Cell:
    """Return how long a recovery took, beside what the target promises."""
    promised_s = here.target.recovery_time_s
    if promised_s is None:
        return Cell(f"{took_s:.2f} s in all", PLAIN)
    kept = took_s <= promised_s
    return Cell(f"{took_s:.2f} s in all; {promised_s:g} s are promised", GOOD if kept else BAD)


def ways_on(here: Session, *, is_led: bool) -> Table:
    """Return what can be done with the restored server now; ``is_led`` says that programs were led to it."""
    done: Restored = here.facts["restored"]
    server, name = done.server, here.target.name
    on = f"pgrunbook run restore --target {name} -p of_run={here.run.run_id}"
    connecting = f'psql -h "{server.socket_dir}" -U postgres {database(here)}'
    look = ("look", f"The database as it was at {done.point}, on server {server.name}", connecting)
    if is_led:
        back = ("take it back", "Lead programs to the old database again, which lets them in",
                f"pgrunbook server unfence --run {here.run.run_id}")  # fmt: skip
        return Table(_HEADINGS, [look, back])
    rows = [
        look,
        ("salvage", "Bring old rows of chosen tables back; what the application wrote since stays",
         f"{on} -p salvage=<table>"),
        ("cut over", "Lead programs to the restored server; rows since are carried over, or listed",
         f"{on} -p cut_over=true -p carry=<table>"),
        ("leave", f"It stays as it is, in {server.dir}, and reaches nothing outside; stop it, its files stay",
         f"pgrunbook server stop --name {server.name}"),
        ("remove", "Remove the restored server and its files", f"pgrunbook server destroy --name {server.name}"),
    ]  # fmt: skip
    ours = here.target.server is not None  # the fence is raised on those only
    return Table(_HEADINGS, [row for row in rows if ours or row[0] != "cut over"])
