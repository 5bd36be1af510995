"""The demo: the Zeitwork example on an embedded server, released, used, restored and rolled back with its data."""

from __future__ import annotations

import sys
from pathlib import Path

from psycopg import sql

from pgrunbook import history as histories
from pgrunbook.branches import backup, destruction
from pgrunbook.branches.server import Server
from pgrunbook.config import paths, targets
from pgrunbook.config.targets import Target
from pgrunbook.database import activity
from pgrunbook.database.connection import connect
from pgrunbook.database.schema import snapshot
from pgrunbook.draft.build import base, up
from pgrunbook.errors import WrongInput
from pgrunbook.execute import permit
from pgrunbook.execute.execution import Execution
from pgrunbook.plan import plan as plans
from pgrunbook.record import run as runs
from pgrunbook.record.run import Part, Run, Status
from pgrunbook.runner import runbook
from pgrunbook.seal import anchor, attempt

TARGET = "demo"
HISTORY = 2  # the migrations that the demo database starts with; the rest is pending
RESTORED = "demo-restored"
_TELLS = {
    "release": "Release: what is pending is reviewed, proven on a branch, executed as proven, and validated.",
    "restore": "Restore: the moment before the release, as a new server beside the database.",
    "rollback": "Rollback: the release is taken back, with what an application has written since.",
}


def set_up(rows: int) -> Run:
    """Make the demo database anew, with its history and ``rows`` rows in the largest table; return the run.

    Raises WrongInput when the target is not on an embedded server: nothing else is ever dropped.
    """
    target = targets.load(TARGET)
    if target.server is None or target.database is None:
        raise WrongInput(f'target "{TARGET}" is not on an embedded server, so the demo does not touch it')
    _tell(f"The demo: a PostgreSQL of its own, on a socket only; {rows:,} rows in its largest table; a base backup.")
    run = runs.create(permit.SET_UP, target.name, {"rows": rows}, how="headless")
    run.hold()
    attempt.begin(run)
    server = Server(target.server)
    server.start()
    _create_database(server, target.database)
    _apply_history(target, run)
    _load_data(target, rows)
    run.journal.write("demo-made", rows=rows)
    taken = backup.take_base_backup(server)
    run.journal.write("base-backup-taken", id=taken.id, stop_lsn=taken.stop_lsn, bytes=taken.bytes)
    run.parts = [Part("set-up", "", Status.DONE, run.started_at, runs.stamp(), f"{rows:,} rows in the largest table")]
    run.status, run.ended_at = Status.DONE, runs.stamp()
    run.save()
    anchor.seal(run, lambda: target)
    run.release()
    return run


def show_off() -> tuple[list[Run], int]:
    """Run the release, the restore and the rollback on the demo target; return the runs and the exit code."""
    destruction.destroy(Server(RESTORED), with_backups=False)  # what an earlier demo left
    done = []
    given: dict[str, dict[str, str]] = {"release": {}, "restore": {"name": RESTORED}, "rollback": {}}
    for name, parameters in given.items():
        _tell(_TELLS[name])
        run, exit_code = runbook.run(name, TARGET, parameters)
        done.append(run)
        if exit_code:
            return done, exit_code
        if name == "release":
            _write_new_rows(targets.load(TARGET))
            given["rollback"]["of_run"] = run.run_id  # all of it, with the data
    return done, 0


def _tell(says: str) -> None:
    sys.stderr.write(f"\n{says}\n")
    sys.stderr.flush()


def _write_new_rows(target: Target) -> None:
    """Write into the new table and the new columns, as an application does after the release."""
    with connect(target, purpose="demo data") as conn, conn.as_target():
        conn.execute("INSERT INTO audit_logs (action) SELECT 'login' FROM generate_series(1, 500)")
        conn.execute("UPDATE projects SET description = 'written since' WHERE id IN (SELECT id FROM projects LIMIT 20)")


def _create_database(server: Server, name: str) -> None:
    with server.connect(purpose="demo") as conn:
        conn.execute("SET statement_timeout = '60s'")
        conn.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
        conn.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))


def _apply_history(target: Target, run: Run) -> None:
    with connect(target, purpose="demo") as conn:
        history = histories.read(conn, target)
        plan = plans.Plan(
            direction="up", target=target.name,
            base=base(activity.identity(conn), snapshot(conn), history),
            attempts=1, rehearsed="the demo's history", changes=up(target, history.pending()[:HISTORY]),
        )  # fmt: skip
        permitted = permit.of_set_up(run, plan, conn)
        Execution(plan, target, run.run_id, conn, history, run.journal, permitted).run()


def _load_data(target: Target, rows: int) -> None:
    path = paths.project_dir() / "examples" / "zeitwork" / "data.sql"
    with connect(target, purpose="demo data") as conn, conn.as_target():
        conn.execute("SET statement_timeout = '30min'")
        conn.execute("SELECT set_config('zeitwork.rows', %s, false)", [str(rows)])
        conn.execute(Path(path).read_bytes())
