"""Drill: prove what this run has restored, measure it, and remove it. The steps of notebooks/drill.ipynb, in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from pgrunbook.branches import amcheck, destruction
from pgrunbook.branches.server import Server
from pgrunbook.branches.server_status import ServerState
from pgrunbook.display import progress
from pgrunbook.display.prose import counted
from pgrunbook.display.show import BAD, GOOD, Banner, Card, Cell, Picture, Table, figure
from pgrunbook.display.units import human
from pgrunbook.errors import Broken, Refused, WrongInput
from pgrunbook.procedures import restored_branch, restored_server, shared_steps
from pgrunbook.record import journal
from pgrunbook.record import run as runs
from pgrunbook.session import once
from pgrunbook.session import session as heres
from pgrunbook.session.parameters import Drill
from pgrunbook.session.session import Session

BESIDE = timedelta(days=1)  # what a picture shows before the first drill and behind the last
MOST_DRAWN = 100
STAYS = "The target was only read; the restored server stays to be looked at."


def begin(**given: object) -> Session:
    """Check the parameters and find or make the run. Raises WrongInput, Blocked."""
    here = heres.begin("drill", Drill, given)
    restored_branch.refuse_drill(here)
    return here


@heres.step
def meet_the_target(here: Session) -> Card:
    """Show the server and database of the target. Raises Refused where it cannot be restored from here."""
    return restored_server.meet_the_target(here)


@heres.step
def what_was_restored(here: Session) -> Card:
    """Show what this run has restored, and how long that took. Raises Refused where it has restored nothing."""
    events = restored_server.told(here.run)
    if not events:
        raise Refused(
            "this run has restored nothing",
            detail="A drill tries what the procedure restore has made in the same run.",
            hint=f"Run both: pgrunbook run restore-drill --target {here.target.name}",
        )
    event = here.facts["restored"] = events[-1]
    measured = restored_server.measures(event)
    return Card(
        f"Server {event['name']}",
        [
            ("restored to", event["to"]),
            ("base backup", f"{event['backup']}, copied in {measured.copy_s:.2f} s"),
            ("WAL replayed", f"{human(measured.replayed_bytes)} in {measured.replay_s:.2f} s"),
            ("recovery time", restored_server.recovery_time(here, event["recovery_time_s"])),
        ],
    )


@heres.step
def is_it_whole(here: Session) -> Table:
    """Prove it: replay ended at the point, and pg_amcheck reads every table and index. Raises Broken where not.

    Raises WrongInput where the server is gone, or PostgreSQL's program is missing.
    """
    event, database = here.facts["restored"], restored_server.database(here)
    headings = ["proof", "found", "verdict"]
    reached = ("it is the point", f"{event['told']}; at LSN {event['end_lsn']}", Cell("yes", GOOD))
    before = _told(here, "drill-proved")
    if not before:
        server = _running(here)
        with progress.doing("reading every table and index"):
            found = amcheck.damage(server, database)
        whole = ("it is whole", "\n".join(found) or "every table and index was read", Cell("no", BAD) if found else "")
        here.keep_table("is-it-whole", Table(headings, [reached, whole]))
        if found:
            here.journal("drill-failed", name=server.name, damage=found)
            raise Broken(
                f"the restored database is damaged: {found[0]}",
                detail=f"pg_amcheck found {counted(len(found), 'line')} of damage in database {database} of server "
                f"{server.name}, restored from base backup {event['backup']}.",
                state=STAYS,
                hint=f"Check the target itself and its backups: pgrunbook backup verify --target {here.target.name}",
            )
        here.journal("drill-proved", name=server.name)
    read = "every table and index, by pg_amcheck" + (", before this run was broken off" if before else "")
    return here.keep_table("is-it-whole", Table(headings, [reached, ("it is whole", read, Cell("yes", GOOD))]))


@heres.step
@once.once()
def remove_the_server(here: Session) -> Card:
    """Remove the restored server with its files; what it took stays in the record."""
    if not _told(here, "drill-proved"):
        raise Refused(
            'cell "remove-the-server" removes nothing before cell "is-it-whole" has passed',
            detail="What is removed cannot be proven any more.",
            hint='Run cell "is-it-whole" first, then this cell again.',
        )
    event = here.facts["restored"]
    server = Server(event["name"])
    here.at_work()
    if server.status().state is not ServerState.ABSENT:
        here.journal("drill-server-removal-meant", name=server.name)
        destruction.destroy(server, with_backups=False)
    if not _told(here, "drilled"):
        here.journal("drilled", name=server.name, recovery_time_s=event["recovery_time_s"],
                     promised_s=here.target.recovery_time_s, replayed_bytes=event["replayed_bytes"])  # fmt: skip
    return Card("Removed", [("server", server.name), ("its files", Cell("gone", GOOD))], tone=GOOD)


@heres.step
def recovery_times(here: Session) -> Picture:
    """Draw the recovery times of all drills on this target, with what is promised."""
    drills = _drills(here)
    headings = ["run", "at", "recovery time s", "WAL replayed bytes", "promised s"]
    rows = [(run_id, e["at"], e["recovery_time_s"], e["replayed_bytes"], e["promised_s"] or "") for run_id, e in drills]
    here.keep_table("recovery-times", Table(headings, rows))
    return _drawn(drills, here.target.recovery_time_s)


@heres.step
def verdict(here: Session) -> Banner:
    """Say whether the recovery time was kept. Raises Refused where it was not."""
    took_s, promised_s = here.facts["restored"]["recovery_time_s"], here.target.recovery_time_s
    if promised_s is not None and took_s > promised_s:
        raise Refused(
            f"a restore took {took_s:.2f} s, and {promised_s:g} s are promised (recovery_time_s)",
            detail=f"{human(here.facts['restored']['replayed_bytes'])} of WAL were replayed after the base backup.",
            state="The target was only read; what was restored was whole, and is removed.",
            hint="A newer backup leaves less to replay: "
            f"pgrunbook backup create --target {here.target.name}; --incremental from PostgreSQL 17 on.",
        )
    kept = f"; {promised_s:g} s are promised" if promised_s is not None else ""
    state = f"Restored to {here.facts['restored']['to']} in {took_s:.2f} s{kept}; whole, and removed again."
    facts: list[tuple[str, object]] = [] if promised_s is not None else [("promised", "nothing: no recovery_time_s")]
    return here.verdict(state, facts, then="the next drill: a weekly timer, as docs/guide.md has it")


def _told(here: Session, event: str) -> list[dict[str, Any]]:
    name = here.facts["restored"]["name"]
    return [e for e in shared_steps.events(here, "drill") if e["event"] == event and e["name"] == name]


def _running(here: Session) -> Server:
    server = Server(here.facts["restored"]["name"])
    if server.status().state is not ServerState.RUNNING:
        raise WrongInput(
            f'server "{server.name}" does not run any more',
            detail=f"This run has restored it; it is {server.status().state} now.",
            state="The target was only read.",
            hint=f"Begin a new drill: pgrunbook run restore-drill --target {here.target.name}",
        )
    return server


def _drills(here: Session) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the last drills on this target, oldest first; ``pgrunbook runs`` reports a folder that cannot be read."""
    found: list[tuple[str, Mapping[str, Any]]] = []
    for folder in reversed(runs.folders()):
        try:
            made = runs.load(folder)
            is_one = made.target == here.target.name and any(part.procedure == "drill" for part in made.parts)
            events = journal.read(made.journal.path) if is_one else []
        except WrongInput:
            continue
        found += [(made.run_id, e) for e in reversed(events) if e["event"] == "drilled"]
        if len(found) >= MOST_DRAWN:
            break
    return found[::-1]


def _drawn(drills: Sequence[tuple[str, Mapping[str, Any]]], promised_s: float | None) -> Picture:
    picture, axes = figure(9, 2.6)
    at = [datetime.fromisoformat(e["at"]) for _, e in drills]
    axes.plot(at, [e["recovery_time_s"] for _, e in drills], "o-", color="#0969da", label="recovery time")
    if promised_s is not None:
        axes.axhline(promised_s, color="#cf222e", linestyle="--", label="promised")
    if at:  # one drill alone would stand in years
        axes.set_xlim(at[0] - BESIDE, at[-1] + BESIDE)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("s")
    axes.set_xlabel("time (UTC)")
    axes.tick_params(axis="x", labelrotation=20)
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(0, 1.25), ncols=2)
    times = [e["recovery_time_s"] for _, e in drills]
    told = f"the last {times[-1]:.2f} s, between {min(times):.2f} and {max(times):.2f} s" if times else "none"
    promise = f"; {promised_s:g} s are promised" if promised_s is not None else ""
    return Picture.of(picture, f"Recovery times of {counted(len(drills), 'drill')}: {told}{promise}")
