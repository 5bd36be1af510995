"""The whole release and the whole restore on a target at PlanetScale, with real databases behind its API."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import acting
from conftest import connect, write_folder
from pgrunbook.branches.planetscale import login
from pgrunbook.branches.planetscale.branches import PlanetscaleBranches
from pgrunbook.branches.server import Server
from pgrunbook.config import paths
from pgrunbook.config.targets import Target
from pgrunbook.database import checksums
from pgrunbook.database.schema import snapshot
from pgrunbook.database.schema_diff import diff
from pgrunbook.record import journal
from pgrunbook.record import run as runs
from pgrunbook.record.run import WORK, Status
from pgrunbook.runner import runbook
from pgrunbook.session import naming
from planetscale_api.service import Service
from planetscale_api.web import TOKEN
from scenes import until
from servers import PROGRAMS, Servers

LEFT_OUT = ("pgrunbook", "public.schema_migrations")  # its times differ
FOLDER = {
    "0001_tables.sql": "CREATE TABLE customers (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, email text,"
    " note text); CREATE TABLE orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,"
    " customer bigint NOT NULL REFERENCES customers, total numeric(12,2) NOT NULL DEFAULT 0);"
    " INSERT INTO customers (email) SELECT 'Person' || n || '@example.com' FROM generate_series(1, 3000) AS n;"
    " INSERT INTO orders (customer, total) SELECT id, id FROM customers;",
    "0002_email.sql": "CREATE INDEX customers_email ON customers (email);",
    "0003_lower.sql": "UPDATE customers SET email = lower(email);",
    "0004_note.sql": "ALTER TABLE customers DROP COLUMN note;",
}


@pytest.fixture
def shop(
    planetscale: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Target]:
    """A target of its own database at PlanetScale, with a migrations folder; nothing but the database is left there."""
    name = f"shop-{abs(hash(request.node.name)) % 10**8}"
    planetscale.tell(add_database={"name": name}, archive_lag_s=0)
    write_folder(tmp_path / "migrations", FOLDER)
    table = f'organization = "acme", database = "{name}", sslrootcert = "{planetscale.folder}/cert", archive_lag_s = 0'
    (tmp_path / "targets.toml").write_text(f'[shop]\nplanetscale = {{ {table} }}\nmigrations = "migrations"\n')
    monkeypatch.setenv("PGRUNBOOK_TARGETS", str(tmp_path / "targets.toml"))
    monkeypatch.setenv("PGRUNBOOK_OUTPUTS", str(tmp_path / "outputs"))
    yield naming.target("shop")
    login.end()
    assert planetscale.roles(name) == ([], [])


@pytest.mark.slow
def test_a_whole_release(shop: Target, planetscale: Service, servers: Servers, tmp_path: Path) -> None:
    """With every proof; what it made has one owner, no role is left, and on other providers it ends in the same."""
    made, code = acting.run("release", "shop", with_data="true", accept="0004_note:1")
    assert code == 0, acting.error(made)
    assert planetscale.roles(database_of(shop)) == ([], [])
    told = "".join(path.read_text(errors="replace") for path in made.folder.rglob("*") if path.is_file())
    assert "pscale_pw" not in told
    assert TOKEN[1] not in told
    with connect(shop) as conn:
        query = "SELECT DISTINCT tableowner::text FROM pg_tables WHERE schemaname IN ('public', 'pgrunbook')"
        assert conn.execute(query).fetchall() == [("postgres",)]
        here, rows = snapshot(conn, leave_out=("pgrunbook",)), checksums.checksums(conn, leave_out=LEFT_OUT)
    hosted, own, name = servers.get(max(PROGRAMS)), Server("own"), f"plain_{os.getpid()}"
    hosted.make(name)
    own.start()
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PLAIN_URL", f"postgresql://postgres@/{name}?host={hosted.socket_dir}")
            with (tmp_path / "targets.toml").open("a") as file:
                file.write('[connection]\nurl_from = "PLAIN_URL"\nmigrations = "migrations"\nrestore_points = false\n')
                file.write('[cluster]\nserver = "own"\nmigrations = "migrations"\n')
            for other in ("connection", "cluster"):
                done, code = acting.run("release", other, accept="0004_note:1")
                assert code == 0, acting.error(done)
                with connect(naming.target(other)) as conn:
                    assert diff(here, snapshot(conn, leave_out=("pgrunbook",))) == []
                    assert checksums.checksums(conn, leave_out=LEFT_OUT) == rows
    finally:
        own.destroy()
        hosted.administer(f"DROP DATABASE {name} WITH (FORCE)")


def database_of(target: Target) -> str:
    assert target.planetscale is not None
    return target.planetscale.database


@pytest.mark.slow
def test_a_release_is_tried_on_a_branch(shop: Target, planetscale: Service, command: Callable[..., object]) -> None:
    """The branch has what the release made, the target has nothing of it; each notebook used one login of the run."""
    assert command("branch", "create", "--target", "shop", "--schema-only", "dev")
    planetscale.log()
    made, code = runbook.run("release", "shop@dev", {"with_data": "false", "accept": "0004_note:1"})
    assert code == 0, acting.error(made)
    made_roles = [line for line in planetscale.log() if line.startswith("POST") and "/branches/dev/roles " in line]
    assert len([line for line in made_roles if made.run_id in line]) == 1
    assert planetscale.roles(database_of(shop), "dev") == ([], [])
    with connect(naming.target("shop@dev")) as conn, connect(shop) as other:
        query = "SELECT to_regclass('public.orders') IS NULL"
        assert (conn.execute(query).fetchone(), other.execute(query).fetchone()) == ((False,), (True,))
    login.end()
    assert command("branch", "delete", "shop@dev") == (0, "shop@dev is removed\n", "")


@pytest.mark.slow
def test_a_run_that_is_killed_leaves_nothing_to_the_next_command(shop: Target, planetscale: Service) -> None:
    """Neither role nor password; resumed, it goes on with a login of its own."""
    folder = naming.targets.targets_file().parent
    with (folder / "migrations" / "0005_slow.sql").open("w") as file:
        file.write("DO $$ BEGIN IF EXISTS (SELECT FROM public.customers) THEN PERFORM pg_sleep(3); END IF; END $$;")
    given = ("-p", "with_data=false", "-p", "accept=0004_note:1,0005_slow:1", "-p", "rehearse=false")
    with acting.pgrunbook("run", "release", "--target", "shop", *given) as process:
        acting.wait_until(lambda: planetscale.roles(database_of(shop))[0])
        acting.wait_until(lambda: [e for run in runs.folders() for e in events_of(run) if e == "step-started"])
        os.kill(process.pid, signal.SIGKILL)
    assert len(planetscale.roles(database_of(shop))[0]) == 1

    def is_clean() -> bool:
        """The kernel ends some moments after its runner."""
        with acting.pgrunbook("status", "--target", "shop") as status:
            assert status.wait(60) == 0
        return planetscale.roles(database_of(shop)) == ([], [])

    acting.wait_until(is_clean)
    assert not list((paths.state_dir() / "planetscale").glob("*.passfile"))
    (broken,) = runs.folders()
    with acting.pgrunbook("run", "--resume", broken.name) as process:
        process.wait(120)
    made = runs.load(broken)
    assert made.status is Status.DONE, acting.error(made)
    assert planetscale.roles(database_of(shop)) == ([], [])


def events_of(folder: Path) -> list[str]:
    return [str(e["event"]) for e in journal.read(folder / runs.JOURNAL_FILE)]


@pytest.mark.slow
def test_a_token_that_is_revoked_in_a_run(shop: Target, planetscale: Service) -> None:
    """The run goes on, for its login is valid; at the end it notes what is left, and the next command deletes that."""
    refused = {"path": "", "times": 9999, "status": 401, "body": '{"code": "unauthorized", "message": "Revoked"}'}
    planetscale.tell(faults=[{"method": "DELETE", **refused}, {"method": "GET", "skip": 1, **refused}])
    made, code = acting.run("release", "shop", accept="0004_note:1")
    assert code == 0, acting.error(made)
    (left,) = acting.events(made, "login-left")
    assert left["name"].startswith(made.run_id)
    assert left["error"][0].endswith("PlanetScale does not accept the service token")
    assert len(planetscale.roles(database_of(shop))[0]) == 1
    planetscale.tell(faults=[])
    connect(shop).close()
    login.end()
    assert planetscale.roles(database_of(shop)) == ([], [])


@pytest.mark.slow
def test_a_notebook_by_hand_has_a_login_until_its_kernel_ends(shop: Target, planetscale: Service) -> None:
    """The kernel finds its run by the folder; when it is shut down, its role goes."""
    made = runbook.start("prepare", "shop", {"rehearse": "false"})
    notebook = nbformat.read(made.folder / WORK / "01-prepare.ipynb", as_version=4)
    client = NotebookClient(notebook, resources={"metadata": {"path": str(made.folder / WORK)}})
    with client.setup_kernel():
        for number, cell in enumerate(notebook.cells[:7]):
            client.execute_cell(cell, number)
        (name,) = planetscale.roles(database_of(shop))[0]
        assert name.startswith(f"pgrunbook-{made.run_id}-")
    assert planetscale.roles(database_of(shop)) == ([], [])


@pytest.mark.slow
@pytest.mark.parametrize("book", ["drill", "restore-drill"])
def test_a_drill_is_refused_before_anything_is_made(shop: Target, planetscale: Service, book: str) -> None:
    """A drill proves files that are ours."""
    made, code = acting.run(book, shop.name)
    assert code == 3
    assert acting.error(made, 0) == (
        'target "shop" cannot have a drill\n'
        "Detail: A drill proves the files of backups that are ours; those of PlanetScale are in its hands.\n"
        "State: Nothing changed in the database.\n"
        "Hint: Restore and compare, then delete the branch: pgrunbook run restore --target shop -p to=newest"
    )
    assert not [line for line in planetscale.log() if line.startswith("POST")]


@pytest.mark.slow
def test_a_whole_restore(shop: Target) -> None:
    """To the time before a mistake: a branch beside the target, compared; then old rows come back from it."""
    with connect(shop) as conn:
        conn.execute("CREATE TABLE public.t (id integer PRIMARY KEY, a text)")
        conn.execute("INSERT INTO public.t SELECT n, 'row ' || n FROM generate_series(1, 50) AS n")
        (then,) = conn.execute("SELECT date_trunc('second', clock_timestamp()) + interval '1 s'").fetchone() or ("",)
        until(lambda: conn.execute("SELECT clock_timestamp() > %s + interval '0.2 s'", [then]).fetchone() == (True,))
        conn.execute("DELETE FROM public.t WHERE id > 40")
        until(lambda: conn.execute("SELECT clock_timestamp() > %s + interval '2 s'", [then]).fetchone() == (True,))
    made, code = acting.run("restore", "shop", to=str(then))
    assert code == 0, acting.error(made)
    compared = next(e for e in acting.events(made, "compared"))
    assert compared["different"] == ["public.t"]
    branch = f"restored-{made.run_id[-4:]}"
    with connect(naming.target(f"shop@{branch}")) as conn:
        assert conn.execute("SELECT count(*) FROM public.t").fetchone() == (50,)
    verdict = acting.events(made, "verdict")[-1]["says"]
    assert verdict == (f"The database as it was at time {then} is branch shop@{branch}. The target was only read.")
    login.end()
    again, code = acting.run("restore", "shop", of_run=made.run_id, salvage="public.t", with_data="true")
    assert code == 0, acting.error(again)
    with connect(shop) as conn:
        assert conn.execute("SELECT count(*), max(a) FROM public.t").fetchone() == (50, "row 9")
    provider = PlanetscaleBranches()
    (found,) = provider.branches(shop)
    assert (found.name, found.purpose, found.expires_at) == (branch, f"restored by run {made.run_id}", None)
    login.end()
    provider.delete(shop, found)


@pytest.mark.slow
def test_the_time_before_a_change_is_recorded_and_restored(shop: Target) -> None:
    """A release notes it; restore takes the last one where none is named."""
    made, code = acting.run("release", "shop", accept="0004_note:1")
    assert code == 0, acting.error(made)
    (noted,) = [e["at"] for e in acting.events(made, "restore-point-left-out")]
    restored, code = acting.run("restore", "shop", compare="none")
    assert code == 0, acting.error(restored)
    (chosen,) = [e["to"] for e in acting.events(restored, "point-chosen")]
    assert chosen == f"time {noted[:19].replace('T', ' ')}+00:00"
    (found,) = PlanetscaleBranches().branches(shop)
    with connect(naming.target(f"shop@{found.name}")) as conn:
        assert conn.execute("SELECT to_regclass('public.customers')").fetchone() == (None,)
    login.end()
    PlanetscaleBranches().delete(shop, found)
