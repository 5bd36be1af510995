"""Permits for the servers that tests made: what tests execute without a notebook."""

from __future__ import annotations

import tempfile
from pathlib import Path

from pgrunbook.database.connection import Connection
from pgrunbook.execute import permit
from pgrunbook.execute.permit import Permit
from pgrunbook.plan.plan import Plan
from pgrunbook.undo_data import OnConflict


def permitted(plan: Plan, run_id: str, conn: Connection, on_conflict: OnConflict = "stop") -> Permit:
    """Permit a plan on a server whose socket lies in a temporary folder: the servers of tests are all there."""
    assert Path(conn.info.host).is_relative_to(tempfile.gettempdir()), f"{conn.info.host} is no server of a test"
    return permit._made(run_id, {plan.digest}, conn, on_conflict)


def permitted_of(subject: str, conn: Connection) -> Permit:
    """Permit what a check would have shown, on a server of tests as well."""
    assert Path(conn.info.host).is_relative_to(tempfile.gettempdir()), f"{conn.info.host} is no server of a test"
    return permit._made("run", {subject}, conn)
