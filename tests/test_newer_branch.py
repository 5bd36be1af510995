"""A branch of a newer major version than the target's: what PostgreSQL words or adds anew is no difference.

Each statement runs on a server of the target's version and on a branch of the newest; what the branch promises must be
what the target has then.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import psycopg
import pytest

import inverse_stage
from pgrunbook.branches.binaries import embedded
from pgrunbook.branches.schema_branch import copy_schema
from pgrunbook.config.targets import Target
from pgrunbook.database import schema_versions
from pgrunbook.database.connection import Connection, connect
from pgrunbook.database.schema import Definition, Snapshot, snapshot
from pgrunbook.database.schema_diff import diff
from pgrunbook.rehearse import schema_only
from servers import VERSIONS, WHEEL, Servers

# ruff: noqa: E501 - one statement on a line, whatever its length

OLDER = [version for version in VERSIONS if version < WHEEL]
COMMON = [line for line in (inverse_stage.EFFECTS / "cases.sql").read_text().splitlines() if line]
# What an older version does not know, and the newest does: the rehearsal cannot find it out.
NEWER = {
    "CREATE TABLE public.x (a text STORAGE EXTERNAL)": 16,
    "CREATE TABLE public.x (a int UNIQUE NULLS NOT DISTINCT)": 15,
    "CREATE UNLOGGED SEQUENCE public.q": 15,
    "ALTER TABLE {table} ADD COLUMN v int GENERATED ALWAYS AS (1) VIRTUAL": 18,
    "GRANT MAINTAIN ON {table} TO runbook_reader": 17,
}
# One for each thing that versions word differently; these run in `make test` too.
WORDED = """
ALTER TABLE {table} RENAME TO others
ALTER TABLE {table} RENAME COLUMN {column} TO other
CREATE TABLE public.x (LIKE {table} INCLUDING ALL)
CREATE TABLE public.x (a int CONSTRAINT odd NOT NULL, b int NOT NULL, PRIMARY KEY (a, b))
CREATE TABLE public.x (a int) PARTITION BY RANGE (a); CREATE TABLE public.y (a int NOT NULL, CHECK (a > 0 AND a < 9)); ALTER TABLE public.x ATTACH PARTITION public.y FOR VALUES FROM (1) TO (9); ALTER TABLE public.x ADD PRIMARY KEY (a)
CREATE DOMAIN public.dd AS text CONSTRAINT there NOT NULL
CREATE VIEW public.v AS SELECT u.{column} FROM {table} AS u WHERE u.id > 3
CREATE EXTENSION btree_gist
GRANT ALL ON {table} TO runbook_reader WITH GRANT OPTION; REVOKE INSERT ON {table} FROM runbook_reader
GRANT ALL ON {table} TO runbook_reader; REVOKE SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER ON {table} FROM runbook_reader
REVOKE CREATE ON SCHEMA public FROM PUBLIC
""".strip().splitlines()
MORE = """
CREATE TABLE public.x (a int NOT NULL) PARTITION BY RANGE (a); CREATE TABLE public.x1 PARTITION OF public.x FOR VALUES FROM (1) TO (9)
CREATE TABLE public.x (a int NOT NULL); CREATE TABLE public.y (b int NOT NULL) INHERITS (public.x)
CREATE TABLE public.x (a int NOT NULL, b int); ALTER TABLE public.x RENAME a TO c; ALTER TABLE public.x RENAME TO z
CREATE TABLE public.x (a int PRIMARY KEY); ALTER TABLE public.x DROP CONSTRAINT x_pkey
CREATE TABLE public.x (a int, b bigint REFERENCES {table}) PARTITION BY RANGE (a); CREATE TABLE public.y PARTITION OF public.x FOR VALUES FROM (1) TO (9); ALTER TABLE public.x DETACH PARTITION public.y
CREATE TABLE public.x (a int) PARTITION BY RANGE (a); CREATE TABLE public.y PARTITION OF public.x FOR VALUES FROM (1) TO (9); CREATE TABLE public.z (r int PRIMARY KEY); ALTER TABLE public.x ADD CONSTRAINT fk FOREIGN KEY (a) REFERENCES public.z
CREATE TABLE public.x (a int PRIMARY KEY) PARTITION BY RANGE (a); CREATE TABLE public.y PARTITION OF public.x FOR VALUES FROM (1) TO (9); CREATE TABLE public.z (r int REFERENCES public.x)
CREATE TABLE public.x (a int, EXCLUDE USING btree (a WITH =))
CREATE TABLE public.x (i int, CHECK (i IS NOT NULL))
CREATE TABLE public.x (a timestamptz DEFAULT CURRENT_TIMESTAMP, b text DEFAULT CURRENT_USER, c text DEFAULT USER, d date DEFAULT CURRENT_DATE, e timestamp DEFAULT LOCALTIMESTAMP(2))
CREATE TABLE public.x (a timestamptz CHECK (a AT TIME ZONE 'UTC' > '2020-01-01'), b text CHECK (substring(b from 1 for 2) = 'ab' AND trim(b) = b AND position('a' in b) = 1), c int CHECK (extract(year from now()) > c))
ALTER TABLE {table} ADD COLUMN g text GENERATED ALWAYS AS ({column} || 'x') STORED
ALTER TABLE {table} ALTER COLUMN {column} SET STATISTICS 7; ALTER TABLE {table} ALTER COLUMN {column} SET STATISTICS -1
ALTER TABLE {table} ALTER COLUMN {column} SET STORAGE MAIN
ALTER TABLE {table} SET (autovacuum_enabled = off, toast.autovacuum_enabled = off)
CREATE DOMAIN public.dd AS text NOT NULL
CREATE VIEW public.v AS SELECT extract(day from now()) AS d, trim(both 'x' from 'y') AS t, 'a' SIMILAR TO 'b' AS s, (ARRAY[1,2])[1] AS e
CREATE MATERIALIZED VIEW public.v AS SELECT u.{column} FROM {table} AS u WHERE u.id > 3
CREATE TABLE public.x (a int); CREATE RULE r AS ON DELETE TO public.x DO ALSO SELECT u.{column} FROM {table} AS u WHERE u.id > 3
CREATE TABLE public.x (a int); CREATE POLICY pp ON public.x USING (EXISTS (SELECT 1 FROM {table} AS u WHERE u.id = x.a))
CREATE FUNCTION public.f(bigint) RETURNS text LANGUAGE sql STABLE BEGIN ATOMIC SELECT u.{column} FROM {table} AS u WHERE u.id = $1; END
CREATE FUNCTION public.p(a int, b text DEFAULT 'x', VARIADIC c int[] DEFAULT '{{}}') RETURNS TABLE (q int) LANGUAGE sql AS 'SELECT 1'
GRANT ALL ON {table} TO runbook_reader
GRANT SELECT ON {table} TO runbook_reader
GRANT ALL ON {table} TO runbook_reader; REVOKE SELECT ON {table} FROM postgres; REVOKE INSERT ON {table} FROM runbook_reader
REVOKE ALL ON {table} FROM PUBLIC
GRANT ALL ON ALL TABLES IN SCHEMA shop, rare TO runbook_reader
GRANT ALL ON SCHEMA public TO runbook_reader
GRANT CREATE ON SCHEMA public TO PUBLIC
ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO runbook_reader
ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO runbook_reader
CREATE EXTENSION pg_stat_statements
CREATE EXTENSION ltree
CREATE EXTENSION hstore
CREATE EXTENSION intarray
CREATE EXTENSION pg_trgm
CREATE PUBLICATION pb FOR TABLE {table}
CREATE PUBLICATION pb FOR ALL TABLES
CREATE STATISTICS public.s (ndistinct) ON id, {column} FROM {table}
CREATE INDEX ON {table} ({column} text_pattern_ops) INCLUDE (id)
CREATE TABLE public.x (a int); CREATE FUNCTION public.t() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'; CREATE TRIGGER tt AFTER UPDATE ON public.x REFERENCING OLD TABLE AS o FOR EACH STATEMENT EXECUTE FUNCTION public.t()
CREATE TABLE public.x (a int); CREATE FUNCTION public.t() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'; CREATE TRIGGER tt BEFORE UPDATE ON public.x FOR EACH ROW WHEN (OLD.a IS DISTINCT FROM NEW.a) EXECUTE FUNCTION public.t()
CREATE COLLATION public.col (provider = libc, locale = 'C')
CREATE SEQUENCE public.q AS integer
CREATE UNLOGGED TABLE public.x (a serial, b integer GENERATED ALWAYS AS IDENTITY)
CREATE TABLE public.x (a serial, b integer GENERATED ALWAYS AS IDENTITY); ALTER TABLE public.x SET UNLOGGED
CREATE AGGREGATE public.ag(int) (SFUNC = int4pl, STYPE = int)
CREATE TYPE public.r AS RANGE (subtype = float8)
CREATE TEXT SEARCH CONFIGURATION public.cfg (COPY = pg_catalog.english)
COMMENT ON COLUMN {table}.{column} IS 'x'
""".strip().splitlines()
TABLES = {"shop": ("shop.users", "email"), "rare": ("rare.people", "name")}
PARTS = 8  # of a test that asks for a minute on a quiet machine
# These depend on rows, or speak another protocol.
NOT_COMPARED = ("--", "from", "COPY", "INSERT", "UPDATE", "DELETE", "MERGE")


@dataclass(frozen=True)
class Pair:
    """A database, an empty branch of it on the newest version, and what the two do not have alike at the start."""

    stage: str
    target: Connection
    branch: Connection
    unlike: list[tuple[str, str]]

    def differing(self, case: str) -> list[str]:
        """Execute a statement on both; return what the target has otherwise than the branch promises."""
        promised, found = after(self.branch, case), after(self.target, case)
        if isinstance(promised, Snapshot) and isinstance(found, Snapshot):
            return [d.line() for d in schema_only.unexpected(promised, found, self.unlike)]
        return [f"{promised} on the branch, {found} on the target"] if type(promised) is not type(found) else []


def after(conn: Connection, case: str) -> Snapshot | str:
    """Return the schema after a statement, or the server's error; the statement is rolled back."""
    try:
        with conn.transaction(force_rollback=True):
            with conn.as_target():
                conn.execute(case.encode())
            return snapshot(conn)
    except psycopg.Error as exc:
        return str(exc.diag.message_primary)


@pytest.fixture(scope="module", params=OLDER, ids=lambda version: f"pg{version}")
def pairs(request: pytest.FixtureRequest, servers: Servers) -> Iterator[list[Pair]]:
    server = servers.get(request.param)
    found = []
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("PGRUNBOOK_PG_BINDIR", str(embedded().bindir))
        for name in TABLES:
            setup = (inverse_stage.EFFECTS / "setup.sql").read_text()
            made = [setup] if name == "shop" else inverse_stage.rarer(request.param)
            patch.setenv(
                f"OLDER_{name}",
                f"host={server.socket_dir} user=postgres dbname={server.database(f'older_{name}', *made)}",
            )
            target = Target(name="older", url_from=f"OLDER_{name}")
            branch = stack.enter_context(stack.enter_context(copy_schema(target)).branch())
            one, other = (stack.enter_context(connect(to)) for to in (target, branch.as_superuser()))
            unlike = diff(*schema_versions.comparable(snapshot(one), snapshot(other)))
            found.append(Pair(name, one, other, [(d.kind, d.name) for d in unlike]))
        yield found


def filled(case: str, pair: Pair) -> str:
    table, column = TABLES[pair.stage]
    return case.format(table=table, column=column)


@pytest.mark.slow
@pytest.mark.every_version
def test_a_newer_branch_holds_the_same_schema(pairs: list[Pair]) -> None:
    """But for what PostgreSQL 14 did otherwise: rights on public, and which triggers of partitions are on."""
    for pair in pairs:
        is_14 = pair.target.info.server_version < 150000
        known = ("schema public to ", "rare.events_") if is_14 else ()
        assert [name for _, name in pair.unlike if not name.startswith(known or ("-",))] == []
        may = "SELECT has_schema_privilege('runbook_reader', 'public', 'CREATE')"
        allowed = [conn.execute(may.encode()).fetchone() for conn in (pair.target, pair.branch)]
        assert allowed == [(is_14,), (is_14,)]


@pytest.mark.slow
@pytest.mark.first_case
@pytest.mark.every_version
@pytest.mark.parametrize("case", WORDED)
def test_what_versions_word_differently_is_no_difference(pairs: list[Pair], case: str) -> None:
    """Names of NOT NULL constraints, ALL with and without MAINTAIN, versions of extensions, queries of views."""
    assert {pair.stage: pair.differing(filled(case, pair)) for pair in pairs} == {"shop": [], "rare": []}


@pytest.mark.slow
@pytest.mark.every_version
@pytest.mark.parametrize("part", range(PARTS))
def test_what_a_newer_branch_promises_comes_true(pairs: list[Pair], part: int) -> None:
    """For every statement that both versions know."""
    found = {}
    for pair in pairs:
        cases = [filled(case, pair) for case in MORE]
        cases += [case for case in COMMON if pair.stage == "shop" and not case.startswith(NOT_COMPARED)]
        found |= {(pair.stage, case): other for case in cases[part::PARTS] if (other := pair.differing(case))}
    assert found == {}


@pytest.mark.slow
@pytest.mark.every_version
@pytest.mark.parametrize("case", NEWER)
def test_what_only_a_newer_version_knows_fails_on_the_target_alone(pairs: list[Pair], case: str) -> None:
    """Which the row of is-it-safe-to-start says."""
    for pair in pairs:
        differing = pair.differing(filled(case, pair))
        assert bool(differing) == (pair.target.info.server_version < NEWER[case] * 10_000)


GRANTS = {
    "GRANT ALL WITH GRANT OPTION": "GRANT ALL WITH GRANT OPTION",
    "GRANT MAINTAIN": None,
    "GRANT MAINTAIN, SELECT": "GRANT SELECT",
    'GRANT INSERT, MAINTAIN WITH GRANT OPTION GRANTED BY "a; GRANT b"': 'GRANT INSERT WITH GRANT OPTION GRANTED BY "a; GRANT b"',
    "GRANT MAINTAIN WITH GRANT OPTION; GRANT SELECT": "GRANT SELECT",
    "GRANT DELETE, INSERT, MAINTAIN, REFERENCES, SELECT, TRIGGER, TRUNCATE, UPDATE": "GRANT ALL",
    "GRANT DELETE, INSERT, REFERENCES, SELECT, TRIGGER, TRUNCATE, UPDATE": "GRANT ALL",
    "REVOKE MAINTAIN, SELECT": "REVOKE SELECT",
}


@pytest.mark.parametrize("text", GRANTS)
def test_a_right_that_the_older_version_has_not_is_left_out(text: str) -> None:
    """In whatever clause of a grant it stands; the same version keeps it."""
    grant = Definition("grant", "table t to a", None, text)
    newer, older = Snapshot(180004, (grant,)), Snapshot(160014, ())
    left, _ = schema_versions.comparable(newer, older)
    assert [obj.definition for obj in left.of(Definition)] == ([GRANTS[text]] if GRANTS[text] else [])
    assert schema_versions.comparable(newer, Snapshot(170001, ()))[0] == newer
    assert schema_versions.comparable(newer, Snapshot(180001, ()))[0] is newer


@pytest.mark.parametrize(("one", "other", "differs"), [(140023, 180004, False), (160014, 180004, True)])
def test_rights_on_schema_public_are_those_of_the_version(one: int, other: int, *, differs: bool) -> None:
    """Before PostgreSQL 15 everybody may create in it: what is told is what is otherwise than on a new server."""
    open_, closed = (
        Snapshot(one, ()),
        Snapshot(other, (Definition("grant", "schema public to b", None, "GRANT USAGE"),)),
    )
    assert bool(diff(*schema_versions.comparable(open_, closed))) == differs
