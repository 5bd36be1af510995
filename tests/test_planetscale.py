"""The whole release and the whole restore on a target at PlanetScale, with real databases behind its API."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import acting
from conftest import connect, write_folder
from pgrunbook.branches.planetscale import login
from pgrunbook.config.targets import Target
from pgrunbook.session import naming
from planetscale_api.service import Service

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
