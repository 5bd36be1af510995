"""The whole release and the whole restore on a target at PlanetScale, with real databases behind its API."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import acting
from conftest import connect, write_folder
from pgrunbook.branches.planetscale import login
from pgrunbook.branches.planetscale.branches import PlanetscaleBranches
from pgrunbook.config.targets import Target
from pgrunbook.session import naming
from planetscale_api.service import Service
from scenes import until

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
def test_a_whole_release(shop: Target, planetscale: Service) -> None:
    """With every proof; what it made has one owner, and no role is left."""
    made, code = acting.run("release", "shop", with_data="true", accept="0004_note:1")
    assert code == 0, acting.error(made)
    assert shop.planetscale is not None
    assert planetscale.roles(shop.planetscale.database) == ([], [])
    with connect(shop) as conn:
        owners = conn.execute(
            "SELECT DISTINCT tableowner::text FROM pg_tables WHERE schemaname IN ('public', 'pgrunbook')"
        ).fetchall()
        assert owners == [("postgres",)]


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
