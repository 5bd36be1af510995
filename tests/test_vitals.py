"""A sample of a server: what is found in it, what is said of it, and what it does not do."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest

from conftest import do
from pgrunbook.config.targets import Target
from pgrunbook.database import vitals
from pgrunbook.database.connection import Connection
from pgrunbook.database.lock_tree import ServerSession
from pgrunbook.database.vitals import Urgency, VitalLimits, Vitals, concerns, look
from pgrunbook.procedures import monitor_views
from scenes import until
from servers import Server
from test_lock_tree import opened, waiting

Command = Callable[..., tuple[int, str, str]]
AT_ONCE = VitalLimits(waited_s=0, idle_in_transaction_s=0, statement_s=0, prepared_s=0)
NOTHING = Vitals(datetime(2026, 1, 1, tzinfo=UTC), 1.0, (), {}, ())
SESSION = ServerSession(
    7, datetime(2026, 1, 1, tzinfo=UTC), 0, "client backend", "web", "app", "shop", "", "active", "", 500.0, 400.0,
    400.0, False, "SELECT 1", False, "", "",
)  # fmt: skip


@pytest.fixture
def name(database: Callable[..., str]) -> str:
    """A database with a partitioned table of an odd name, whose rows are dead."""
    return database(
        'CREATE TABLE "Odd ""t"" 🐘" (id int) PARTITION BY RANGE (id)',
        'CREATE TABLE one PARTITION OF "Odd ""t"" 🐘" FOR VALUES FROM (1) TO (100)',
        'CREATE TABLE two PARTITION OF "Odd ""t"" 🐘" FOR VALUES FROM (100) TO (200)',
        'INSERT INTO "Odd ""t"" 🐘" SELECT generate_series(1, 199)',
    )


@pytest.fixture
def looking(server: Server, name: str) -> Iterator[Connection]:
    """A connection that looks."""
    with Connection.connect(host=server.socket_dir, user="postgres", dbname=name, autocommit=True) as conn:
        yield conn


def test_who_blocks_whom_comes_first_with_the_one_thing_to_do(server: Server, name: str, looking: Connection) -> None:
    """An idle transaction at the head; and one that stands in nobody's way is told behind it."""
    with (
        opened(server, name, "report", "SELECT FROM one"),
        opened(server, name, "forgotten", "SELECT FROM two"),
        waiting(server, name, "migration", "ALTER TABLE one ADD COLUMN a int"),
    ):
        found = concerns(look(looking), AT_ONCE)
    first, *rest = found
    assert (first.urgency, first.what) == (Urgency.NOW, "blocks others")
    assert '("report" of postgres)' in first.detail
    assert "idle in transaction" in first.detail
    assert "1 session wait for public.one" in first.detail
    assert first.todo.startswith("ask its owner to end the transaction")
    assert any(one.what == "idle in transaction" and '"forgotten"' in one.detail for one in rest)
    assert not any('"report"' in one.detail for one in rest), "it is told once"


def test_what_somebody_wrote_moves_no_terminal(server: Server, name: str, looking: Connection) -> None:
    """Escapes in a query, which the server keeps as they are."""
    planted = "SELECT '\x1b[2J\x1b]0;owned\x07 \u202egpj'"
    with opened(server, name, "report", "LOCK one", planted), waiting(server, name, "web", "SELECT FROM one"):
        seen = look(looking)
    assert any("\x1b" in one.query for one in seen.sessions), "the server does not mask it"
    said = [("NOW", f"{one.what}: {one.detail}", one.todo) for one in concerns(seen, AT_ONCE)]
    told = monitor_views.told(said, 200)
    assert "\\x1b[2J" in told
    assert not set("\x1b\x07\u202e") & set(told + repr(monitor_views.screen(seen)))


def test_a_statement_at_work_shows_how_far_it_is(server: Server, name: str, looking: Connection) -> None:
    """Also one that waits: its phase, its table by its quoted name."""
    with (
        opened(server, name, "writer", "DELETE FROM one WHERE id = 1"),
        psycopg.connect(host=server.socket_dir, user="postgres", dbname=name, autocommit=True) as builder,
    ):

        def build() -> None:
            with pytest.raises(psycopg.errors.QueryCanceled):
                builder.execute("CREATE INDEX CONCURRENTLY ON one (id)")

        thread = threading.Thread(target=build)
        thread.start()
        found: tuple[str, ...] = ()
        while thread.is_alive() and not found:
            found = tuple(f"{one['command']} {one['object']}: {one['phase']}" for one in look(looking).commands)
        builder.cancel_safe()
        thread.join()
    assert found[0].startswith("CREATE INDEX CONCURRENTLY public.one: ")


def test_a_partitioned_table_is_one_table(server: Server, name: str, looking: Connection) -> None:
    """Its partitions' rows are summed up, under its own quoted name."""
    with server.connect(name) as conn:
        conn.execute("ANALYZE one")
        conn.execute("ANALYZE two")

    def parted() -> dict[str, Any]:
        (found,) = [table for table in look(looking).tables if table["parts"] > 1]
        return found

    until(lambda: parted()["live"])  # before 15 a process of the server's own gathers what is counted
    one = parted()
    assert (one["name"], one["live"], one["parts"]) == ('public."Odd ""t"" 🐘"', 199, 2)
    assert one["bytes"] > 0


def test_what_may_not_be_seen_is_said(server: Server, name: str) -> None:
    """A role without pg_monitor: the sample is there, and says how many sessions hide what they do."""
    with server.connect("postgres") as admin:
        admin.execute("DROP ROLE IF EXISTS blind_sampler")
        admin.execute("CREATE ROLE blind_sampler LOGIN")
        try:
            with (
                opened(server, name, "report", "SELECT FROM one"),
                Connection.connect(host=server.socket_dir, user="blind_sampler", dbname=name, autocommit=True) as blind,
            ):
                seen = look(blind)
        finally:
            admin.execute("DROP ROLE blind_sampler")
    (told,) = [one for one in seen.unseen if "GRANT pg_monitor" in one]
    assert told.startswith("state and query of ")
    assert concerns(seen, AT_ONCE)[-1].urgency is Urgency.KNOW


def test_a_part_that_cannot_be_read_leaves_the_others(looking: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """A timeout of one query is said, and the sample goes on; a lost connection is none that goes on."""
    asked = vitals.queries.rows

    def rows(conn: Connection, file: str, name: str, **given: object) -> list[dict[str, object]]:
        if name == "tables":
            conn.execute("SELECT 1 / 0")
        return asked(conn, file, name, **given)

    monkeypatch.setattr(vitals.queries, "rows", rows)
    seen = look(looking)
    assert seen.unseen == ("tables: division by zero",)
    assert seen.connections["used"] >= 1
    looking.close()
    with pytest.raises(psycopg.OperationalError):
        look(looking)


MADE = {
    "a long statement": replace(NOTHING, sessions=(SESSION,)),
    "a prepared transaction": replace(NOTHING, sessions=(replace(SESSION, pid=0, gid="g", state="prepared"),)),
    "a standby lags": replace(NOTHING, standbys=({"name": "s", "client": "local", "lag_bytes": 10**9, "lag_s": 1.0},)),
    "this standby lags": replace(NOTHING, receiver={"lag_bytes": 0, "lag_s": 1.0, "is_paused": True}),
    "a slot keeps WAL": replace(
        NOTHING, slots=({"name": "s", "active": False, "wal_status": "extended", "kept_bytes": 10**10},)
    ),
    "a slot is lost": replace(NOTHING, slots=({"name": "s", "active": False, "wal_status": "lost", "kept_bytes": 0},)),
    "WAL is not archived": replace(
        NOTHING, archiver={"failing": True, "last_failed_wal": "0000", "last_failed_utc": "2026-01-01"}
    ),
    "connections run out": replace(NOTHING, connections={"used": 96, "most": 97}),
    "dead rows": replace(NOTHING, tables=({"name": "t", "dead": 50_000, "live": 10, "parts": 1, "bytes": 1},)),
    "not seen": replace(NOTHING, unseen=("tables: no",)),
}


@pytest.mark.parametrize("what", MADE)
def test_each_concern_is_told_once_and_a_quiet_server_has_none(what: str) -> None:
    """Each names what, and what to do; below its limit there is none."""
    (found,) = concerns(MADE[what])
    assert found.what == what
    assert found.todo
    far = VitalLimits(1e9, 1e9, 1e9, 1e9, 2**62, 1e9, 2**62, 2.0, 1e9)
    if what not in ("this standby lags", "a slot is lost", "WAL is not archived", "not seen"):
        assert concerns(MADE[what], far) == []
    assert concerns(NOTHING) == []


def test_sessions_of_ours_are_no_concern() -> None:
    """A run may work long; what it blocks is told, and to wait is the thing to do."""
    ours = replace(SESSION, application="pgrunbook migrate 2026", is_own_role=True)
    assert concerns(replace(NOTHING, sessions=(ours,))) == []
    assert vitals.to_do(ours).startswith("wait: it is a run of pgrunbook")
    planted = replace(ours, is_own_role=False)
    assert [one.what for one in concerns(replace(NOTHING, sessions=(planted,)))] == ["a long statement"]


@pytest.mark.slow
def test_the_command_looks_once_or_until_its_time_is_over(project: Callable[..., Target], command: Command) -> None:
    """Text, or a line of JSON for each look; nothing is written to the target."""
    target = project(folder={})
    do(target, "CREATE TABLE t (id int)")
    code, out, err = command("monitor", "--target", "demo", "--once")
    assert (code, err) == (0, "")
    assert "Nothing is urgent: nobody waits for a lock." in out
    code, out, _ = command("monitor", "--target", "demo", "--json", "--interval", "0.2", "--for", "0.5")
    looks = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert 2 <= len(looks) <= 3, "as many as there is time for"
    assert {"at", "waiting", "connections", "concerns"} <= set(looks[0])
    assert command("monitor")[0] == 2
