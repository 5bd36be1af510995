"""The steps of notebook restore that cut over: what is carried and what is left, the fence, and the way over."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import psycopg

from pgrunbook.branches import promotion
from pgrunbook.branches.server import Server
from pgrunbook.config import service_file
from pgrunbook.database import checksums, foreign_code
from pgrunbook.database.checksums import VALUES_CHARS, SummedTable, TableName
from pgrunbook.database.connection import Connection, connect
from pgrunbook.database.row_changes import Sample
from pgrunbook.display import progress
from pgrunbook.display.prose import counted
from pgrunbook.display.show import BAD, GOOD, QUIET, WARN, Card, Cell, Table
from pgrunbook.errors import Refused, RunbookError, WrongInput
from pgrunbook.execute import cutover, permit
from pgrunbook.online import fence, salvage_plan, salvage_rows
from pgrunbook.online.fence import DatabaseSession
from pgrunbook.online.salvage_plan import SalvageChoice
from pgrunbook.procedures import restored_server, shared_steps
from pgrunbook.record.table_file import table_file
from pgrunbook.session.parameters import ALL
from pgrunbook.session.session import Session

NOT_ASKED = "No cut-over: cut_over is false."
LEFT_FILE = "left-behind.csv"
VALUES_ROWS = 100_000
WORDS = {"missing": "new since", "changed": "changed since", "new": "deleted since, comes back"}
UP = "The fence is up: database {} of server {} lets nobody in, and programs were not led over."
BACK = "or back: pgrunbook server unfence --run {}"


def preview(here: Session) -> Table:
    """Show what was committed since, by table, and what is carried over or left; see what leads programs over."""
    here.subject = frozenset({_subject(here)}) if here.parameters.cut_over else frozenset()
    if not here.parameters.cut_over:
        return Table([], [], empty=NOT_ASKED)
    if _told(here, "cut-over-taken-back-meant"):
        raise Refused(
            f"the cut-over of run {here.run.run_id} was taken back",
            detail="Programs write in the old database again: what it had carried over is not all of it any more.",
            hint=f"Start a new run: pgrunbook run restore --target {here.target.name} -p cut_over=true",
        )
    if _meant(here):
        return Table([], [], empty="This run has begun to lead programs over: nothing is carried any more.")
    _refuse_without_way(here)
    with cutover.administrator(here.target) as admin:
        fence.refuse_prepared(admin, _database(here))
    today = _today(here)
    with connect(_branch(here), purpose="compares") as branch:
        _refuse_foreign(today, branch)
        rows, carried = [], _carried(here, today, branch)
        if carried:
            choice = SalvageChoice(tuple(carried), {}, rows="changed")
            plan = salvage_plan.plan(today, branch, choice)
            salvage_rows.look(today, branch, plan, choice, where_ms=1)
        for name, counts in _apart(today, branch):
            is_carried = f"{name.schema}.{name.name}" in carried
            what = Cell("carried over", GOOD) if is_carried else Cell("left behind, and listed", WARN)
            gone = Cell(f"{counts['new']:,}", WARN if counts["new"] else QUIET)
            rows.append((f"{name.schema}.{name.name}", f"{counts['missing']:,}", f"{counts['changed']:,}", gone, what))
    here.journal("cut-over-chosen", subject=_subject(here), carried=carried, apart=[row[0] for row in rows])
    headings = ["table", "new since", "changed since", "deleted since (come back)", "what becomes of them"]
    return here.keep_table("what-to-carry", Table(headings, rows, empty="Nothing was committed since the point."))


def raise_fence(here: Session) -> Card:
    """Let nobody into the database of today, end its sessions, and prove it."""
    if not here.parameters.cut_over:
        return Card("Fence", [("raised", NOT_ASKED)])
    permitted = permit.of_cutover(here, _subject(here), "fence", lambda: _written(here))
    today = _written(here)
    here.at_work()
    with cutover.administrator(here.target) as admin:
        if not _told(here, "fence-meant"):
            here.journal("fence-meant", server=here.target.server, database=_database(here),
                         **asdict(fence.look(admin, _database(here))))  # fmt: skip
        ended: list[str] = []

        def end(one: DatabaseSession) -> None:
            here.journal("session-end-meant", session=str(one), backend_start=one.backend_start)
            ended.append(str(one))

        ours = [today.info.backend_pid] if today is not None else []
        said = cutover.raise_fence(admin, here.target, permitted, _subject(here), ours, end)
    here.journal("fence-raised", ended=ended, proof=said)
    shown = Cell(counted(len(ended), "session"), WARN if ended else QUIET, under="\n".join(ended), fold="sessions")
    facts = [("database", _database(here)), ("ended", shown), ("whoever wants in is told", Cell(said, GOOD)),
             ("back", f"pgrunbook server unfence --run {here.run.run_id}")]  # fmt: skip
    return Card("Fence", facts, tone=WARN)


def cut_over(here: Session) -> Table:
    """Carry over, list what is left behind, let the restored server take over, and lead programs there."""
    if not here.parameters.cut_over:
        return Table([], [], empty=NOT_ASKED)
    permitted = permit.of_cutover(here, _subject(here), "cut-over", lambda: _written(here))
    here.at_work()
    server: Server = here.facts["restored"].server
    try:
        with cutover.administrator(here.target) as admin:
            if fence.look(admin, _database(here)).lets_in:
                raise Refused(
                    'cell "cut-over" leads nobody over before cell "fence" has raised the fence',
                    detail=f"Database {_database(here)} lets people in: what they write now would be lost.",
                    hint='Run cell "fence" first, then this cell again.',
                )
        fence.proof(here.target)
        if not _meant(here):
            _carry(here)
            with progress.doing("starting the restored server as one of its own"):
                promotion.promote(server)
            here.journal("promoted", server=server.name)
        before = _meant(here)[-1]["before"] if _meant(here) else _before(here)
        here.journal("switch-meant", server=server.name, to=cutover.place_of(server), before=before)
        cutover.lead(here.target, permitted, _subject(here), cutover.place_of(server), before)
    except (psycopg.Error, RunbookError) as exc:
        raise _explained(here, exc) from exc
    here.journal("cut-over", server=server.name)
    return _ended(here)


def ended(here: Session) -> str:
    """Return what was cut over, as a sentence; "" where nothing was."""
    if not _told(here, "cut-over"):
        return ""
    left = _told(here, "left-behind")[-1]["rows"]
    lines = f"{counted(left, 'row')} left behind ({LEFT_FILE})" if left else "No row is left behind"
    kept = f"database {_database(here)} of server {here.target.server} is kept, and lets nobody in"
    return f"Programs are led there; {kept}. {lines}."


def _carry(here: Session) -> None:
    today = _today(here)
    with connect(_branch(here), purpose="carries") as branch:
        _refuse_foreign(today, branch)
        carried = _carried(here, today, branch)
        number = len(_told(here, "carry-started")) + 1
        here.journal("carry-started", tables=carried)
        with progress.doing("carrying rows over"):
            became = cutover.carry(today, branch, here.target, carried, f"{here.run.run_id} carry {number}")
        here.journal("carried", became=became)
        with progress.doing("listing what is left behind"):
            counts = _list_left(here, today, branch)
    here.journal("left-behind", rows=sum(counts.values()), tables=counts)


def _refuse_foreign(today: Connection, branch: Connection) -> None:
    """See that every table can be compared: what cannot be read would be left behind without a line."""
    hidden = foreign_code.tables(today) | foreign_code.tables(branch)
    foreign_code.refuse(hidden, "compare, before a cut-over,", "drop what calls them")


def _list_left(here: Session, today: Connection, branch: Connection) -> dict[str, int]:
    """Write a line for each row that differs between today and the restored database; return how many, by table.

    It has the row's values: as they are today, or those that come back where the row was deleted since.
    """
    counts: dict[str, int] = {}
    now, then = ({one.name: one for one in _described(conn)} for conn in (today, branch))
    with table_file(here.run.folder / LEFT_FILE, ["table", "change", "key", "columns", "values"]) as write:
        for name in sorted({*now, *then}):
            label = f"{name.schema}.{name.name}"
            columns = {side: f"({', '.join(known[name].types)})" if name in known else ""
                       for side, known in (("today", now), ("then", then))}  # fmt: skip

            def line(one: Sample, label: str = label, columns: Mapping[str, str] = columns) -> None:
                counts[label] = counts.get(label, 0) + 1
                write((label, WORDS[one.change], one.key, columns["then" if one.change == "new" else "today"],
                       _values(one.values, counts[label])))  # fmt: skip

            if name in now and name in then:
                checksums.difference(today, branch, name, samples=0, each=line, shared_columns=True)
            else:
                only = checksums.rows_of(today, name, "missing") if name in now else None
                for sample in only or checksums.rows_of(branch, name, "new"):
                    line(sample)
    return counts


def _described(conn: Connection) -> list[SummedTable]:
    return list(checksums.summed_tables(conn, checksums.table_names(conn)).values())


def _values(text: str, number: int) -> str:
    """Return the values of a line; what is too much for the file is said."""
    if number > VALUES_ROWS:
        return f"not listed: values are there for the first {VALUES_ROWS:,} rows of a table"
    if len(text) > VALUES_CHARS:
        return f"not listed: they are longer than {VALUES_CHARS:,} characters"
    return text


def _apart(today: Connection, branch: Connection) -> list[tuple[TableName, dict[str, int]]]:
    """Return the tables whose rows differ, with how many are missing on the branch, changed, and new there."""
    now, then = (checksums.checksums(conn) for conn in (today, branch))
    found = []
    for name in sorted(now.keys() | then.keys()):
        a, b = now.get(name), then.get(name)
        if a == b:
            continue
        if a is None or b is None:
            counts = {"missing": a.rows if a else 0, "changed": 0, "new": b.rows if b else 0}
        else:
            one = checksums.difference(today, branch, name, shared_columns=True)
            counts = {"missing": one.missing, "changed": one.changed, "new": one.new}
        if any(counts.values()):
            found.append((name, counts))
    return found


def _carried(here: Session, today: Connection, branch: Connection) -> list[str]:
    """Return the tables that are carried over: those of the parameter, or all that differ on both sides."""
    wanted = list(here.parameters.carry)
    if wanted != [ALL]:
        return wanted
    then = set(checksums.table_names(branch))
    return [f"{name.schema}.{name.name}" for name, counts in _apart(today, branch)
            if name in then and (counts["missing"] or counts["changed"])]  # fmt: skip


def _today(here: Session) -> Connection:
    """Return a session in the database of today; behind the fence of this run, it is entered again."""
    known: Connection | None = here.facts.get("today")
    if known is not None and not known.closed:
        return known
    if _told(here, "fence-meant"):
        with cutover.administrator(here.target) as admin:
            if not fence.look(admin, _database(here)).lets_in:
                here.facts["today"] = entered = fence.enter(admin, here.target, _database(here))
                fence.raise_fence(admin, _database(here), [entered.info.backend_pid], lambda _: None)
                return entered
    here.facts["today"] = found = here.conn
    return found


def _written(here: Session) -> Connection | None:
    """Return a session in the database of today, None where programs have been led away from it."""
    return None if _meant(here) else _today(here)


def _refuse_without_way(here: Session) -> None:
    service = cutover.service_of(here.target)
    if service is None and not here.target.cutover_hook:
        raise WrongInput(
            f"nothing would lead programs over: target {here.target.name} has no cutover_service_file and no hook",
            detail="A cut-over that nobody follows leaves everybody before the fence.",
            hint=f"Name the connection service file, or a command, in section [{here.target.name}] of targets.toml.",
        )
    if service is not None and service_file.address(*service).get("host") != str(_source(here).socket_dir):
        raise WrongInput(
            f"service [{service[1]}] of {service[0]} does not lead to the target now",
            detail=f"It leads to {service_file.address(*service).get('host', 'no host')}; the target is at "
            f"{_source(here).socket_dir}.",
            hint="Name the service that programs use as cutover_service.",
        )


def _before(here: Session) -> Mapping[str, str]:
    service = cutover.service_of(here.target)
    return service_file.address(*service) if service is not None else cutover.place_of(_source(here))


def _subject(here: Session) -> str:
    given = [here.facts["restored"].server.name, here.target.server, _database(here), list(here.parameters.carry)]
    return f"cut-over {hashlib.sha256(json.dumps(given).encode()).hexdigest()[:12]}"


def _database(here: Session) -> str:
    return here.target.database or "postgres"


def _branch(here: Session) -> Any:
    return restored_server.beside(here, here.facts["restored"].server)


def _source(here: Session) -> Server:
    return restored_server.source(here)


def _told(here: Session, event: str) -> list[dict[str, Any]]:
    return [e for e in shared_steps.events(here, "restore") if e["event"] == event]


def _meant(here: Session) -> list[dict[str, Any]]:
    return _told(here, "switch-meant")


def _ended(here: Session) -> Table:
    carried, left = _told(here, "carried"), _told(here, "left-behind")
    became: Mapping[str, Mapping[str, int]] = carried[-1]["became"] if carried else {}
    lines: Mapping[str, int] = left[-1]["tables"] if left else {}
    rows = [
        (
            table,
            f"{sum(rows for state, rows in became.get(table, {}).items() if state in ('inserted', 'updated')):,}",
            Cell(f"{lines.get(table, 0):,}", BAD if lines.get(table) else QUIET),
        )
        for table in sorted({*became, *lines})
    ]
    empty = "Nothing was committed since the point: nothing was to be carried."
    return here.keep_table("cut-over", Table(["table", "carried over", f"lines in {LEFT_FILE}"], rows, empty=empty))


def _explained(here: Session, exc: psycopg.Error | RunbookError) -> RunbookError:
    """Return the error that ended the cut-over: with the fence up, and the way on or back."""
    back = BACK.format(here.run.run_id)
    if isinstance(exc, Refused) and 'before cell "fence"' in exc.message:
        return exc
    if isinstance(exc, RunbookError):
        exc.state = exc.state if _meant(here) else UP.format(_database(here), here.target.server)
        told = exc.hint.replace("--run RUN", f"--run {here.run.run_id}")
        exc.hint = told if "unfence" in told else f"{told.rstrip('.')}; {back}"
        return exc
    said = " ".join(str(exc).split())
    state = UP.format(_database(here), here.target.server)
    return RunbookError(f"could not cut over: {said}", state=state, hint=f"Mend that, then go on with this run; {back}")
