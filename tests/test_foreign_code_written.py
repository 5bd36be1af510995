"""Code of other roles that a row which we write would run: salvage refuses such tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from pgrunbook.database import foreign_code
from pgrunbook.errors import Refused
from pgrunbook.online import salvage_plan
from pgrunbook.online.salvage_plan import SalvageChoice
from servers import Server

Make = Callable[..., str]
ROLE = "writes_code"
KEY = "id int PRIMARY KEY"
PLANTED = {
    "check": f"CREATE TABLE {{t}} ({KEY}, CHECK (f(id) > 0))",
    "default": f"CREATE TABLE {{t}} ({KEY}, n int DEFAULT f(1))",
    "generated": f"CREATE TABLE {{t}} ({KEY}, n int GENERATED ALWAYS AS (f(id)) STORED)",
    "rule": f"CREATE TABLE {{t}} ({KEY}); CREATE RULE r AS ON INSERT TO {{t}} DO ALSO SELECT f(1)",
    "domain": f"CREATE DOMAIN {{t}}_d AS int CHECK (f(VALUE) > 0); CREATE TABLE {{t}} ({KEY}, n {{t}}_d)",
    "cast of a text": (
        f"CREATE TYPE {{t}}_e AS ENUM ('a'); CREATE FUNCTION {{t}}_c(text) RETURNS {{t}}_e LANGUAGE plpgsql AS"
        " 'BEGIN RETURN NULL; END';"
        f" CREATE CAST (text AS {{t}}_e) WITH FUNCTION {{t}}_c(text); CREATE TABLE {{t}} ({KEY}, n {{t}}_e)"
    ),
    "trigger that is always enabled": (
        f"CREATE TABLE {{t}} ({KEY}); CREATE TRIGGER g BEFORE INSERT ON {{t}} FOR EACH ROW EXECUTE FUNCTION g();"
        " ALTER TABLE {t} ENABLE ALWAYS TRIGGER g"
    ),
    "trigger of a partition": (
        f"CREATE TABLE {{t}} ({KEY}) PARTITION BY LIST (id); CREATE TABLE {{t}}_1 PARTITION OF {{t}} DEFAULT;"
        " CREATE TRIGGER g BEFORE INSERT ON {t}_1 FOR EACH ROW EXECUTE FUNCTION g();"
        " ALTER TABLE {t}_1 ENABLE ALWAYS TRIGGER g"
    ),
    "index": f"CREATE TABLE {{t}} ({KEY}); CREATE INDEX ON {{t}} (f(id))",
}
SILENT = f"CREATE TABLE quiet ({KEY}); CREATE TRIGGER g BEFORE INSERT ON quiet FOR EACH ROW EXECUTE FUNCTION g()"
FUNCTIONS = (
    "CREATE FUNCTION f(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN 1; END'",
    "CREATE FUNCTION g() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
)


@pytest.fixture
def planted(server: Server, database: Make) -> Iterator[str]:
    """A database in which an ordinary role has planted all of it, beside a table of which nothing is called."""
    name = database(f"CREATE ROLE {ROLE}", f"GRANT ALL ON SCHEMA public TO {ROLE}")
    made = [statement.format(t=f"t{place}") for place, statement in enumerate(PLANTED.values())]
    server.run(name, f"SET ROLE {ROLE}; {'; '.join([*FUNCTIONS, *made, SILENT, f'CREATE TABLE plain ({KEY})'])}")
    yield name
    server.run(name, f"DROP OWNED BY {ROLE} CASCADE", f"DROP ROLE {ROLE}")


@pytest.mark.slow
@pytest.mark.every_version
def test_no_row_is_salvaged_into_a_table_that_runs_code_of_another_role(server: Server, planted: str) -> None:
    """In each way of planting it; a trigger that stays silent is none, and what calls nothing is salvaged."""
    passed = []
    with server.connect(planted) as old, server.connect(planted) as conn:
        for side in (old, conn):
            side.pin()

        def plan(table: str, triggers: str = "silent") -> None:
            salvage_plan.plan(old, conn, SalvageChoice((f"public.{table}",), {}, triggers=triggers))  # type: ignore[arg-type]

        for place, how in enumerate(PLANTED):
            try:
                plan(f"t{place}")
            except Refused as exc:
                assert foreign_code.WHY in exc.detail, how  # noqa: PT017 - one that passes is named below
            else:
                passed.append(how)
        assert passed == []
        plan("plain")
        plan("quiet")
        with pytest.raises(Refused, match=r"write rows into public\.quiet"):
            plan("quiet", "fire")
