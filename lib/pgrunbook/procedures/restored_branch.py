"""The branch that a restore has made at PlanetScale: what the procedure restore does there instead of with a server."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import wraps
from typing import Any, TypeVar

from pgrunbook.branches import providers
from pgrunbook.branches.backup import Window
from pgrunbook.branches.branch import Branch, BranchState
from pgrunbook.branches.planetscale import moments
from pgrunbook.branches.planetscale.answers import PlanetscaleBackup
from pgrunbook.branches.planetscale.api import Api
from pgrunbook.branches.provider import Wanted
from pgrunbook.branches.recovery_target import Point, parse_point
from pgrunbook.config.targets import Planetscale
from pgrunbook.database.connection import connect
from pgrunbook.display.show import GOOD, PLAIN, WARN, Banner, Card, Cell, Picture, Stack, Table
from pgrunbook.errors import Broken, Refused, WrongInput
from pgrunbook.execute import permit
from pgrunbook.procedures import restore_views, restored_server, salvage_steps
from pgrunbook.record import journal
from pgrunbook.record import run as runs
from pgrunbook.session.parameters import LAST, NEWEST
from pgrunbook.session.session import Session

View = TypeVar("View")
HEADINGS = ("when", "what", "made by run", "not in it: the last")
LAST_REPLAYED = "SELECT pg_catalog.pg_last_xact_replay_timestamp()"


def at_planetscale(
    instead: Callable[[Session], View],
) -> Callable[[Callable[[Session], View]], Callable[[Session], View]]:
    """Do ``instead`` what a step does, where the target is at PlanetScale."""

    def chosen(step: Callable[[Session], View]) -> Callable[[Session], View]:
        @wraps(step)
        def either(here: Session) -> View:
            return step(here) if here.target.planetscale is None else instead(here)

        return either

    return chosen


def refuse_drill(here: Session) -> None:
    """Raise Refused where a drill would leave a branch that costs money, or delete what somebody looks at."""
    if here.target.planetscale is not None:
        raise Refused(
            f'target "{here.target.name}" cannot have a drill',
            detail="A drill proves the files of backups that are ours; those of PlanetScale are in its hands.",
            hint=f"Restore and compare, then delete the branch: pgrunbook run restore --target {here.target.name} "
            "-p to=newest",
        )


def what_can_be_restored(here: Session) -> Picture:
    """Show what PlanetScale can restore as a time line: its backups, and the moments between. Raises Refused."""
    with Api(_place(here)) as api:
        found, backups = moments.moments(api), api.backups(api.place.branch)
    if found is None or found.first_at > found.last_at:
        with Api(_place(here)) as api:
            moments.restorable(api, Point(time=datetime.now(UTC)))
        raise AssertionError("it can be restored now")
    here.facts.update(moments=found, backups=backups, points=_recorded(here))
    ended = [one.completed_at for one in backups if one.completed_at is not None]
    return restore_views.timeline([Window(found.first_at, "", found.last_at, "")], ended, here.facts["points"].values())


def choose_the_point(here: Session) -> Stack:
    """Resolve the moment to restore to, and say what is lost after it. Raises WrongInput and Refused."""
    wanted, known = here.parameters.to.strip(), here.facts["points"]
    if wanted in ("", LAST) and not known and not here.parameters.of_run:
        raise WrongInput(
            "there is no recorded time to restore to",
            detail="No run has recorded the time before its change of this target here.",
            hint=f"Name a time: to = '{moments.spelled(here.facts['moments'].last_at)}'.",
        )
    if wanted in ("", LAST) and known:
        wanted = known[list(known)[-1]].isoformat()
    if here.parameters.of_run:
        wanted = str(_told(here)[-1]["at"])
    point = Point(time=here.facts["moments"].last_at) if wanted == NEWEST else parse_point(wanted)
    with Api(_place(here)) as api:
        at = wanted if here.parameters.of_run else moments.restorable(api, point)
    point = here.facts["point"] = Point(time=datetime.fromisoformat(at))
    here.subject = frozenset({str(point)})
    here.journal("point-chosen", to=str(point), lsn=None)
    ago = datetime.now(UTC) - datetime.fromisoformat(at)
    facts: list[tuple[str, object]] = [
        ("restore to", f"{at}, by whole seconds, as PlanetScale has it"),
        ("not in it", Cell(f"what was written in the last {restore_views.span(ago)}", WARN)),
    ]
    return Stack([Card("The point", facts), _choices(here, at)])


def restore_to_branch(here: Session) -> Card:
    """Let PlanetScale make a branch of the moment beside the target, wait for it, and log in.

    What this run has restored to the moment before is shown, and not restored again.
    """
    point: Point = here.facts["point"]
    permitted = permit.of_restore(here, point)
    permitted.check(str(point), None)
    found, took_s = _known(here, point) or _restore(here, point)
    here.facts.update(restored_branch=found, restored_name=f'branch "{found.full_name}"')
    here.facts["restored_target"] = providers.of_branch(found).target(here.target, found)
    return Card(
        f"Branch {found.full_name}",
        [
            ("made by", "PlanetScale, from its backup and WAL"),
            ("recovery time", restored_server.recovery_time(here, took_s)),
            ("as a target", f"--target {found.full_name}"),
            ("costs", Cell("as every branch, until it is deleted", WARN)),
        ],
        tone=GOOD,
    )


def is_it_the_point(here: Session) -> Card:
    """Show what the branch says of itself: the last transaction that was replayed. Raises Broken for a later one."""
    point: Point = here.facts["point"]
    with connect(here.facts["restored_target"], purpose="restore") as conn:
        (last,) = conn.execute(LAST_REPLAYED).fetchone() or (None,)
    if isinstance(last, datetime) and point.time is not None and last > point.time:
        raise Broken(
            f"the restored branch holds what was committed after {point}",
            detail=f"Its last transaction was committed at {last}.",
            state="The target was only read; the branch is there.",
            hint="Do not use it; report this to PlanetScale.",
        )
    told = f"{last:%Y-%m-%d %H:%M:%S.%f %Z}" if isinstance(last, datetime) else "not known: it was started again since"
    facts = [("asked for", str(point)), ("last transaction", told)]
    return Card("Where it stands", facts, tone=GOOD if isinstance(last, datetime) else PLAIN)


def what_next(here: Session) -> Table:
    """Show the ways to go on from here, with what each does."""
    branch: Branch = here.facts["restored_branch"]
    name, full = here.target.name, branch.full_name
    rows = [
        ("look", f"The database as it was at {here.facts['point']}", f"pgrunbook branch shell {full}"),
        ("salvage", "Bring old rows of chosen tables back; what the application wrote since stays",
         f"pgrunbook run restore --target {name} -p of_run={here.run.run_id} -p salvage=<table>"),
        ("lead programs there", "Make it production in PlanetScale's console, then lead programs to its address",
         "PlanetScale's console"),
        ("leave", "It stays as it is, and costs", f"pgrunbook branch list --target {name}"),
        ("remove", "Delete the branch", f"pgrunbook branch delete {full}"),
    ]  # fmt: skip
    return Table(["way", "what it does", "command"], rows)


def verdict(here: Session) -> Banner:
    """Say where the restored database is, and what was salvaged: else the target was only read."""
    branch: Branch = here.facts["restored_branch"]
    salvaged = salvage_steps.ended(here) or "The target was only read."
    state = f"The database as it was at {here.facts['point']} is branch {branch.full_name}. {salvaged}"
    then = f"pgrunbook branch delete {branch.full_name}, when it is not needed any more"
    return here.verdict(state, [("branch", branch.full_name)], then=then)


def _place(here: Session) -> Planetscale:
    assert here.target.planetscale is not None  # noqa: S101 - asked of such targets only
    return here.target.planetscale


def _recorded(here: Session) -> dict[str, datetime]:
    """Return the times before changes of this target that runs have recorded here, oldest first, by the run's id."""
    found: dict[str, datetime] = {}
    for folder in runs.folders():
        path = folder / runs.JOURNAL_FILE
        for event in journal.read(path) if path.is_file() else []:
            if event["event"] == "restore-point-left-out" and event.get("at") and _is_of(here, folder.name):
                found[folder.name] = datetime.fromisoformat(str(event["at"]))
    return found


def _is_of(here: Session, run_id: str) -> bool:
    return runs.find(run_id).target == here.target.name


def _choices(here: Session, chosen: str) -> Table:
    now = datetime.now(UTC)

    def row(at: datetime, what: str, run_id: str) -> tuple[object, ...]:
        told = moments.spelled(at)
        return Cell(told, GOOD if told == chosen else PLAIN), what, run_id, restore_views.span(now - at)

    found = [(at, "before a change", run_id) for run_id, at in here.facts["points"].items()]
    backups: list[PlanetscaleBackup] = here.facts["backups"]
    found += [(one.completed_at, f"backup {one.name}", "") for one in backups if one.completed_at is not None]
    rows = [row(*one) for one in sorted(found, key=lambda one: one[0], reverse=True)]
    title = "What has a name, the newest first; every second between can be restored to as well"
    return Table(HEADINGS, rows, title=title, most=30)


def _known(here: Session, point: Point) -> tuple[Branch, float] | None:
    """Return the branch that this run, or the one that ``of_run`` names, has restored, and how long that took."""
    there = {one.name: one for one in providers.branches(here.target) if one.state is BranchState.READY}
    for event in reversed(_told(here)):
        branch = there.get(event["name"])
        if event["to"] == str(point) and branch is not None and branch.provider_id == event["id"]:
            return branch, float(event["recovery_time_s"])
    if here.parameters.of_run:
        raise WrongInput(
            f"the branch that run {here.parameters.of_run} has restored is gone",
            hint="Leave of_run out, to restore again.",
        )
    return None


def _told(here: Session) -> Sequence[Mapping[str, Any]]:
    """Return what this run, or the one that ``of_run`` names, has restored. Raises WrongInput where that is nothing."""
    of_run = here.parameters.of_run
    run = runs.find(of_run) if of_run else here.run
    told = [e for e in journal.read(run.journal.path) if e["event"] == "branch-restored"]
    if of_run and (not told or run.target != here.target.name):
        raise WrongInput(
            f"run {run.run_id} has restored nothing of this target",
            hint="Leave of_run out, to restore now; pgrunbook runs lists the runs.",
        )
    return told


def _restore(here: Session, point: Point) -> tuple[Branch, float]:
    here.at_work()
    name = here.parameters.name or f"restored-{here.run.run_id[-4:]}"
    here.journal("restore-started", name=name, to=str(point), point=point.spelled())
    began, purpose = time.monotonic(), f"restored by run {here.run.run_id}"
    wanted = Wanted(name, here.run.operator, purpose=purpose, at=point, is_durable=True)
    found = providers.of_target(here.target).create(here.target, wanted)
    took_s = time.monotonic() - began
    here.journal("branch-restored", name=name, to=str(point), at=moments.spelled(point.time or found.made_at),
                 recovery_time_s=round(took_s, 3), id=found.provider_id)  # fmt: skip
    return found, took_s
