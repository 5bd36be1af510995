"""The permit to change something, which every entrance of ``execute`` takes; the cells of notebooks ask for it.

1. A check makes it: over the journal of the run and the database as it is now, or over what made the server.
2. It is bound to the connection that was checked, to the run, and to what was checked: a plan, items, a point.
3. Where the target asks for it, somebody else has approved just that, and its window is open (``approval.check``).
4. The line of the ledger that opens the run is anchored in the database with it: nothing is executed without.
5. It is no lock against somebody who writes our journal or calls what is private here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import InitVar, dataclass, field

from pgrunbook import history as histories
from pgrunbook.branches import provenance
from pgrunbook.branches.recovery_target import Point
from pgrunbook.database import own_publications, shadows
from pgrunbook.database.connection import Connection
from pgrunbook.database.schema import snapshot
from pgrunbook.database.shadows import Shadow
from pgrunbook.errors import Refused
from pgrunbook.execute import approval, contract, preconditions, purge
from pgrunbook.history import places
from pgrunbook.history.state import leave_out
from pgrunbook.plan.plan import Direction, Plan
from pgrunbook.record.run import Run
from pgrunbook.seal import anchor
from pgrunbook.session import acceptance, change_request, checks
from pgrunbook.session.session import Session
from pgrunbook.undo_data import OnConflict

SET_UP = "set-up"
CELLS: dict[Direction, tuple[str, str]] = {"up": ("migrate", "execute-plan"), "down": ("rollback", "take-back")}
_MADE_BY_A_CHECK = object()


@dataclass(frozen=True, eq=False)
class Permit:
    """The permission to execute a plan, to purge items of undo data, to restore, to salvage rows, to cut over, to
    lead a rollout on or to backfill.

    ``of`` is what was checked, as the checks of a notebook name it; each of it is permitted once. ``conn`` is None for
    a restore, which opens its own connections. ``on_conflict`` is what was decided on rows in conflict.
    """

    run_id: str
    of: frozenset[str]
    conn: Connection | None
    made_by: InitVar[object]
    on_conflict: OnConflict = "stop"
    _used: set[str] = field(default_factory=set, init=False)

    def __post_init__(self, made_by: object) -> None:
        if made_by is not _MADE_BY_A_CHECK:
            raise TypeError("a permit is made by a check only, as those of this module are")

    def check(self, of: str, conn: Connection | None, *, run_id: str = "") -> None:
        """Check that it is a permit for this, on this connection, in this run where one is named; use it up.

        Raises Refused.
        """
        wrong = [
            what
            for what, is_right in [
                ("connection", self.conn is conn),
                ("run", run_id in (self.run_id, "")),
                ("plan, item or point", of in self.of),
            ]
            if not is_right
        ]
        if wrong:
            raise Refused(
                f"the permit is for another {wrong[0]}",
                detail=f"It was made in run {self.run_id} for {', '.join(sorted(self.of)) or 'nothing'}.",
                hint="Run the cells of the notebook in their order: the last of them asks for the right permit.",
            )
        if of in self._used:
            raise Refused(
                "the permit was used before",
                detail=f"It was made in run {self.run_id} for {of}, to be executed once.",
                hint="Run the cell that executes again: it asks for a permit of its own.",
            )
        self._used.add(of)


def subject(here: Session, plan: Plan) -> frozenset[str]:
    """Return what the checks of a plan are about: the plan, and what was decided on rows that a rollback reverts."""
    decided = {change_request.decided(here.parameters.on_conflict)} if plan.direction == "down" else set()
    return frozenset({plan.digest, *decided})


def of_run(here: Session, plan: Plan, conn: Connection) -> Permit:
    """Permit a run to execute its plan, when its checks have passed and the database agrees with them now.

    ``conn`` is the connection that will execute it, under the run lock.

    Raises Refused when a check has not passed, when the plan is not the frozen or the approved one or does not fit
    the database as it is now, when a gate is not accepted, when it is not approved or not to be executed now, or when
    the run has no restore point; Broken as
    ``preconditions.check_base``.
    Locks: AccessShareLock on catalogs.
    """
    procedure, cell = CELLS[plan.direction]
    about = checks.passed(here, procedure, cell)
    if about != subject(here, plan):
        raise checks.refusal(cell, checks.NEEDED[procedure][cell][0], other=True)
    preconditions.check_frozen(here.run, plan)
    if plan.direction == "up":
        preconditions.check_approved(plan, here.parameters.approved)
    history = histories.read(conn, here.target)
    if plan.changes:
        preconditions.check_history_table(conn, history)
    accepted = places.resolved(history, here.parameters.accept) if plan.direction == "up" else ()
    preconditions.check_gates(here.run, plan, accepted)
    preconditions.check_base(here.run, plan, conn, history, snapshot(conn, leave_out=leave_out(history)))
    is_begun = bool(preconditions.executed(here.run, plan, conn))
    approval.check_plan(here, plan, about, cell, is_begun=is_begun, grants=True)
    if here.target.restore_points and plan.changes:
        preconditions.check_restore_point(here.run, plan, conn)
    anchor.opening(conn, here.run)
    return _made(here.run.run_id, about, conn, here.parameters.on_conflict if plan.direction == "down" else "stop")


def of_branch(plan: Plan, run_id: str, conn: Connection, on_conflict: OnConflict = "stop") -> Permit:
    """Permit a rehearsal on a branch. Raises Refused where the connection does not lead to a branch of ours."""
    if not provenance.is_branch(conn):
        raise Refused(
            f'database "{conn.info.dbname}" is not on a branch',
            detail=f"A rehearsal executes on a branch that this process has made; {conn.info.host} leads elsewhere.",
            hint="Rehearse with prepare or rollback, which make the branch.",
        )
    return _made(run_id, {plan.digest}, conn, on_conflict)


def of_set_up(run: Run, plan: Plan, conn: Connection) -> Permit:
    """Permit the demo's set-up to build its database: an empty one, on an embedded server. Raises Refused."""
    query = "SELECT FROM pg_catalog.pg_class AS c WHERE c.oid >= 16384 LIMIT 1"
    if run.runbook != SET_UP or provenance.own_server(conn) is None or conn.execute(query).fetchone() is not None:
        raise Refused(
            f'database "{conn.info.dbname}" is not one that the demo may set up',
            detail="It sets up an empty database on an embedded server, and nothing else.",
            hint="Use prepare and migrate.",
        )
    anchor.opening(conn, run)
    return _made(run.run_id, {plan.digest}, conn)


def of_purge(here: Session, ids: Collection[int], conn: Connection) -> Permit:
    """Permit a run to purge the items that its checks have shown, those that are still kept.

    ``conn`` is the connection that will drop them, under the run lock.

    Raises Refused when a check has not passed, or was about something else than what these items are now.
    """
    shown = checks.passed(here, "purge", "purge-it")
    found = purge.items(conn, histories.read(conn, here.target))
    now = {purge.subject(item) for item in found if item.id in ids}
    if not now <= shown:
        raise checks.refusal("purge-it", "what-is-captured", other=True)
    approval.check(here, now, "purge-it")
    anchor.opening(conn, here.run)
    return _made(here.run.run_id, now, conn)


def of_restore(here: Session, point: Point) -> Permit:
    """Permit a run to restore to the point that was chosen. Raises Refused when another one was, or none."""
    about = checks.passed(here, "restore", "restore-to-branch")
    if about != {str(point)}:
        raise checks.refusal("restore-to-branch", "choose-the-point", other=True)
    return _made(here.run.run_id, about, None)


def of_salvage(here: Session, choice: str, conn: Connection) -> Permit:
    """Permit a run to salvage what its checks have shown and tried. Raises Refused when that was another choice."""
    return _of_choice(here, choice, "salvage-rows", "what-to-salvage", conn)


def of_backfill(here: Session, choice: str, cell: str, conn: Connection) -> Permit:
    """Permit a run a cell of backfill, for what its checks have shown. Raises Refused when that was something else."""
    return _of_choice(here, choice, cell, "plan-the-batches", conn)


def of_cutover(here: Session, choice: str, cell: str, today: Callable[[], Connection | None]) -> Permit:
    """Permit a run the cell "fence" or "cut-over", for the choice that its check has shown. Raises Refused.

    It is anchored in the database of ``today`` before the fence is raised; that is none where programs are led over.
    """
    found = _of_choice(here, choice, cell, "what-to-carry", None)
    if (conn := today()) is not None:
        anchor.opening(conn, here.run)
    return found


def of_contract(here: Session, going: Collection[Shadow], conn: Connection) -> Permit:
    """Permit a run to drop columns that its checks have shown, that wait as then, and that a person has accepted.

    Raises Refused.
    """
    shown = checks.passed(here, "contract", "drop-it")
    now = {one.label: contract.subject(one) for one in shadows.read(conn)}
    accepted = acceptance.accepted_columns(here.run, now, here.parameters.accept)
    wanted = {contract.subject(one) for one in going}
    if not wanted <= shown & {now[label] for label in accepted}:
        raise checks.refusal("drop-it", "what-is-still-double", other=True)
    approval.check(here, wanted, "drop-it")
    anchor.opening(conn, here.run)
    return _made(here.run.run_id, wanted, conn)


def of_rollout(here: Session, choice: str, cell: str, conn: Connection) -> Permit:
    """Permit a run one move of a rollout, as its check has shown the rollout and what was decided. Raises Refused."""
    return _of_choice(here, choice, cell, "plan-the-stages", conn)


def of_swap(here: Session, choice: str, cell: str, conn: Connection) -> Permit:
    """Permit a run a cell of swap, for what its checks have shown and tried. Raises Refused when that was another."""
    return _of_choice(here, choice, cell, "what-hangs", conn)


def _of_choice(here: Session, choice: str, cell: str, shown_by: str, conn: Connection | None) -> Permit:
    """Permit a run a cell for the choice that the cell ``shown_by`` has shown, and anchor the run before it writes."""
    about = checks.passed(here, here.procedure, cell)
    if about != {choice}:
        raise checks.refusal(cell, shown_by, other=True)
    approval.check(here, about, cell)
    if conn is not None:
        anchor.opening(conn, here.run)
    return _made(here.run.run_id, about, conn)


def _made(run_id: str, of: Collection[str], conn: Connection | None, on_conflict: OnConflict = "stop") -> Permit:
    if conn is not None:
        own_publications.refuse(conn)
    return Permit(run_id, frozenset(of), conn, _MADE_BY_A_CHECK, on_conflict)
