"""A real subscriber of a publication FOR ALL TABLES: nothing of ours stops it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from acting import error, run
from conftest import write_folder
from pgrunbook.config.targets import Target
from pgrunbook.database import activity, own_publications, readiness, step_log
from pgrunbook.database.connection import Connection, connect
from pgrunbook.database.readiness import Check, Level, Limits
from pgrunbook.errors import Refused
from pgrunbook.execute import permit
from pgrunbook.procedures import diagnosis
from scenes import error_of, until
from servers import Server
from swap_stage import URL, stage_of, url_of

Conn = psycopg.Connection[tuple[object, ...]]
TABLE = """
CREATE SCHEMA app;
CREATE TABLE app.t (id integer PRIMARY KEY, n integer);
CREATE TABLE app.s (id integer PRIMARY KEY, n integer);
INSERT INTO app.s VALUES (1, 1)
"""
ALL = "CREATE PUBLICATION everything FOR ALL TABLES"
STOPPED = "SELECT apply_error_count > 0 FROM pg_stat_subscription_stats WHERE subname = 'follows_all'"


@dataclass
class Followed:
    """A target that publishes all tables, and a database that subscribes to it."""

    server: Server
    target: Target
    subscriber: Conn

    def catches_up(self) -> None:
        """Write a row, and see it arrive."""
        with self.server.connect("follow_source") as conn:
            conn.execute("INSERT INTO app.t SELECT coalesce(max(id), 0) + 1, 0 FROM app.t")
            wanted = conn.execute("TABLE app.t ORDER BY id").fetchall()
        until(lambda: self.subscriber.execute("TABLE app.t ORDER BY id").fetchall() == wanted)

    def is_stopped(self) -> bool:
        """Tell whether the subscriber has met an error."""
        return self.subscriber.execute(STOPPED).fetchall() == [(True,)]


@contextmanager
def followed(
    server: Server, monkeypatch: pytest.MonkeyPatch, *, made: str = ALL, name: str = "everything"
) -> Iterator[Followed]:
    """Give a publisher and its subscriber, which has caught up."""
    if server.version < 15:
        pytest.skip("what a subscriber has met is counted from PostgreSQL 15 on")
    template = server.database("follow_empty", TABLE)
    with (
        server.copied("follow_source", template), server.copied("follow_copy", template),
        server.connect("follow_source") as conn, server.connect("follow_copy") as subscriber,
    ):  # fmt: skip
        conn.execute(made)
        conn.execute("SELECT pg_create_logical_replication_slot('follows_all', 'pgoutput')")
        subscriber.execute(
            f"CREATE SUBSCRIPTION follows_all CONNECTION 'host={server.socket_dir} user=postgres dbname=follow_source'"
            f" PUBLICATION {name} WITH (create_slot = false, copy_data = false)"
        )
        monkeypatch.setenv(URL, url_of(server, "follow_source"))
        both = Followed(server, stage_of(server, "follow_source").target, subscriber)
        try:
            both.catches_up()
            yield both
        finally:
            subscriber.execute("ALTER SUBSCRIPTION follows_all DISABLE")
            subscriber.execute("ALTER SUBSCRIPTION follows_all SET (slot_name = NONE); DROP SUBSCRIPTION follows_all")
            until(lambda: conn.execute("SELECT FROM pg_replication_slots WHERE active").fetchall() == [])
            conn.execute("SELECT pg_drop_replication_slot('follows_all')")


def check(conn: Connection) -> Check:
    """Return the check of publications."""
    found = readiness.checks(conn, activity.identity(conn), Limits(), data_dir=None, needs_restore_point=False)
    return next(one for one in found if one.name == "publications")


@pytest.mark.newest
def test_nothing_is_written_that_a_subscriber_does_not_have(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused before schema pgrunbook is made, prepare and doctor say so, and the subscriber goes on."""
    with followed(server, monkeypatch) as both, connect(both.target) as conn:
        refused = error_of(lambda: step_log.create(conn))
        assert isinstance(refused, Refused)
        assert str(refused) == (
            "cannot write to schema pgrunbook of database follow_source:"
            " publication everything FOR ALL TABLES would send it\n"
            "Detail: A subscriber that does not have the tables of schema pgrunbook stops at their first row, and"
            " applies nothing that comes behind it. Slots that are read: follows_all.\n"
            "State: Nothing was written there now; what was done before stays as it is.\n"
            "Hint: Give subscribers a publication without our tables: CREATE PUBLICATION instead FOR TABLES IN SCHEMA"
            " app; when they have caught up with that, ALTER SUBSCRIPTION ... SET PUBLICATION instead on each of them;"
            " then DROP PUBLICATION everything. Where all readers pass over tables that they do not know, as Debezium"
            " does, set publish_records = true for this target."
        )
        assert isinstance(error_of(lambda: permit._made("run", {"anything"}, conn)), Refused)
        assert conn.execute("SELECT FROM pg_namespace WHERE nspname = 'pgrunbook'").fetchall() == []
        assert check(conn).level is Level.STOP
        (told,) = diagnosis._publications(conn)
        assert told.is_urgent
        assert "everything FOR ALL TABLES sends schema pgrunbook" in told.what
        both.catches_up()


@pytest.mark.newest
@pytest.mark.slow
def test_the_way_out_that_is_told_keeps_the_subscriber_going(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its tables are followed as before, and ours are written."""
    with followed(server, monkeypatch) as both, connect(both.target) as conn:
        conn.execute("CREATE PUBLICATION instead FOR TABLES IN SCHEMA app")
        both.catches_up()
        both.subscriber.execute("ALTER SUBSCRIPTION follows_all SET PUBLICATION instead")
        conn.execute("DROP PUBLICATION everything")
        assert check(conn).level is Level.GOOD
        step_log.create(conn)
        conn.execute("INSERT INTO pgrunbook.restore_point (name, run_id, lsn) VALUES ('p', 'r', '0/0')")
        both.catches_up()
        assert not both.is_stopped()


@pytest.mark.newest
@pytest.mark.slow
def test_a_row_of_ours_would_stop_it(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which is why it is refused: also where the subscriber asks for no changes of schema pgrunbook by itself."""
    with followed(server, monkeypatch) as both:
        with connect(both.target.model_copy(update={"publish_records": True})) as conn:
            assert check(conn).level is Level.GOOD
            assert list(diagnosis._publications(conn)) == []
            step_log.create(conn)
            both.catches_up()
            conn.execute("INSERT INTO pgrunbook.restore_point (name, run_id, lsn) VALUES ('p', 'r', '0/0')")
        until(both.is_stopped)
        both.subscriber.execute("CREATE SCHEMA pgrunbook")
        columns = "name text PRIMARY KEY, run_id text, lsn pg_lsn, version text, created_at timestamptz"
        both.subscriber.execute(f"CREATE TABLE pgrunbook.restore_point ({columns})")
        both.catches_up()  # one that has the table passes it over: it does not follow it


@pytest.mark.newest
@pytest.mark.slow
def test_a_release_and_its_way_back_stop_no_subscriber(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Refused while all tables are followed; behind the way out it fills in batches, changes a type, and goes back."""
    change = "UPDATE app.t SET n = id WHERE n IS DISTINCT FROM id; ALTER TABLE app.s ALTER n TYPE bigint"
    write_folder(tmp_path / "migrations", {"0001_n.sql": change})
    folder = tmp_path / "migrations"
    shop = [f'url_from = "{URL}"', f'migrations = "{folder}"', "restore_points = false", "batch_rows = 3"]
    (tmp_path / "targets.toml").write_text("\n".join(["[shop]", *shop]))
    monkeypatch.setenv("PGRUNBOOK_TARGETS", str(tmp_path / "targets.toml"))
    monkeypatch.setenv("PGRUNBOOK_OUTPUTS", str(tmp_path / "outputs"))
    with followed(server, monkeypatch) as both, connect(both.target) as conn:
        conn.execute("INSERT INTO app.t SELECT i, 0 FROM generate_series(100, 120) AS i")
        made, code = run("release", "shop")
        assert (code, "it is not safe to start: publications" in error(made, 0)) == (3, True), error(made, 0)
        both.catches_up()
        conn.execute("CREATE PUBLICATION instead FOR TABLES IN SCHEMA app, public")
        both.catches_up()
        both.subscriber.execute("ALTER SUBSCRIPTION follows_all SET PUBLICATION instead")
        conn.execute("DROP PUBLICATION everything")
        made, code = run("release", "shop")
        told = error(made, 0)
        assert (code, "cannot make the history table public.schema_migrations" in told) == (3, True), told
        for each in (both.subscriber, conn):
            each.execute(told.partition("begin again: ")[2].partition(". Or name")[0])
        both.subscriber.execute("ALTER TABLE app.s ALTER n TYPE bigint")
        made, code = run("release", "shop")
        assert code == 0, error(made)
        assert conn.execute("SELECT count(*) FROM app.t WHERE n <> id").fetchall() == [(0,)]
        both.catches_up()
        made, code = run("rollback", "shop")
        assert code == 0, error(made)
        both.catches_up()
        assert not both.is_stopped()


SENT = {
    "CREATE PUBLICATION p FOR ALL TABLES": True,
    "CREATE PUBLICATION p FOR ALL TABLES WITH (publish = '')": False,
    "CREATE PUBLICATION p FOR ALL TABLES WITH (publish = 'truncate')": True,
    "CREATE SCHEMA pgrunbook; CREATE PUBLICATION p FOR TABLES IN SCHEMA pgrunbook": True,
    "CREATE PUBLICATION p FOR TABLES IN SCHEMA app": False,
    "CREATE PUBLICATION p FOR TABLE app.t": False,
    "CREATE PUBLICATION p": False,
}


@pytest.mark.newest
@pytest.mark.every_version
def test_a_publication_is_judged_by_what_it_sends(server: Server) -> None:
    """One that nobody reads is told, and refuses nothing."""
    template = server.database("follow_empty", TABLE)
    for made, is_told in SENT.items():
        if "SCHEMA" in made and server.version < 15:
            continue
        with server.copied("follow_sent", template), server.connect("follow_sent") as conn:
            conn.execute(made)
            assert isinstance(conn, Connection)
            assert bool(own_publications.sending(conn)) == is_told, made
            assert check(conn).level is (Level.WARN if is_told else Level.GOOD), made
            own_publications.refuse(conn)
