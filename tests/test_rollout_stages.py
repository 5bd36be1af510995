"""The stages of a rollout on every version: who gets the flag, who keeps it, and what comes back, beside writers."""

from __future__ import annotations

# ruff: noqa: E501 - one case on a line, whatever its length
import hashlib
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest

from budget import sample
from pgrunbook.config.targets import Target
from pgrunbook.database import connection
from pgrunbook.database.connection import Connection
from pgrunbook.errors import Refused, WrongInput
from pgrunbook.online import rollout, rollout_preconditions, rollout_state
from pgrunbook.online.rollout_state import RolloutState, StageStanding
from pgrunbook.online.rollout_table import RolloutTable
from pgrunbook.plan.rollout import DeclaredRollout
from pgrunbook.procedures import rollout_views
from scenes import RUN
from servers import Server, Servers

CUSTOMERS = (
    "CREATE TABLE customers (id int PRIMARY KEY, name text, beta boolean NOT NULL DEFAULT false)",
    "INSERT INTO customers SELECT i, 'c' || i FROM generate_series(1, 300) AS i",
)
EVERYONE = {"name": "everyone", "all": True}


@dataclass
class Scene:
    """A database with a table, and a rollout on it."""

    server: Server
    database: str
    target: Target
    conn: Connection
    begun: set[int] = field(default_factory=set)

    def sql(self, statement: str) -> list[tuple[Any, ...]]:
        """Run a statement as the application, in a session of its own."""
        with self.server.connect(self.database) as conn:
            cursor = conn.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def table(self, *stages: dict[str, Any], **given: Any) -> RolloutTable:
        """Return the table of a rollout with these stages."""
        return rollout_preconditions.find(self.conn, declared(*stages, **given))

    def begin(self, table: RolloutTable) -> None:
        """Note that the rollout begins."""
        rollout_state.create(self.conn)
        rollout_state.begin(self.conn, table.rollout, (table.schema, table.name), RUN)

    def write(self, table: RolloutTable, number: int = 1) -> int:
        """Begin a stage where it has not, and write it; return how many rows are left."""
        state = self.state(table).stage(number)
        if state is None or state.state is StageStanding.BACK:
            rollout_state.begin_stage(self.conn, table.rollout, number, None, RUN)
        begun = self.state(table).stage(number)
        assert begun is not None
        return rollout.write(self.conn, self.target, table, begun, RUN)

    def back(self, table: RolloutTable, number: int = 1) -> None:
        """Take a stage back."""
        rollout_state.set_stage(self.conn, table.rollout, number, StageStanding.GOING_BACK, RUN, why="a test")
        rollout.take_back(self.conn, self.target, table, number, RUN)

    def state(self, table: RolloutTable) -> RolloutState:
        """Return what the rollout is at."""
        return rollout_state.read(self.conn, table.rollout)

    def ids(self, where: str = "beta", table: str = "customers") -> set[Any]:
        """Return the ids of rows."""
        return {row[0] for row in self.sql(f"SELECT id FROM {table} WHERE {where}")}


@pytest.fixture
def scene(
    server: Server, database: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Scene]]:
    """Give a function that makes a database by statements, on each version."""
    made: list[Connection] = []

    def make(*statements: str, **options: Any) -> Scene:
        name = database(*(statements or CUSTOMERS))
        monkeypatch.setenv("ROLLOUT_URL", f"postgresql://postgres@/{name}?host={server.socket_dir}")
        target = Target(name="demo", url_from="ROLLOUT_URL", **{"batch_rows": 40, **options})
        made.append(connection.connect(target, purpose="rolls out"))
        return Scene(server, name, target, made[-1])

    yield make
    for conn in made:
        conn.close()


def declared(*stages: dict[str, Any], **given: Any) -> DeclaredRollout:
    """Return a rollout of customers.beta with these stages, as its file would declare it."""
    facts = {"name": "beta", "table": "customers", "column": "beta", **given}
    return DeclaredRollout.model_validate({**facts, "stages": list(stages) or [EVERYONE]})


def in_share(percent: float, keys: list[str], salt: str = "beta") -> set[str]:
    """Return which keys are in a share, as an application would compute it."""
    return {key for key in keys
            if int(hashlib.sha256(f"{salt}:{key}".encode()).hexdigest()[:8], 16) < percent / 100 * 2**32}  # fmt: skip


@pytest.mark.slow
@pytest.mark.every_version
def test_share_is_that_of_sha256_and_stays_within_a_larger_one(scene: Callable[..., Scene]) -> None:
    """On every version the same rows, which any program can compute; who has 10 % has 50 % too."""
    here = scene()
    stages = [{"name": f"s{int(share)}", "share": share} for share in (0.5, 10, 50, 99.9)]
    table, keys = here.table(*stages), [str(i) for i in range(1, 301)]
    here.begin(table)
    before: set[int] = set()
    for number, stage in enumerate(stages, 1):
        assert here.write(table, number) == 0
        assert {str(one) for one in here.ids()} == in_share(stage["share"], keys)
        assert before <= here.ids()
        before = here.ids()
    other = here.table({"name": "s10", "share": 10}, salt="another")
    assert rollout.count(here.conn, other, other.rollout.stages[0]).rows == len(in_share(10, keys, "another"))


KEYS = {
    "smallint": ("smallint", "i::smallint"), "bigint": ("bigint", "-i * 4000000000"), "uuid": ("uuid", "md5(i::text)::uuid"),
    "text": ("text", "'ä \"' || i || E'\\\\\\''"), "varchar": ("varchar(20)", "'k' || i"), "char": ("char(9)", "'c' || i"),
    "collated": ('text COLLATE "C"', "CASE WHEN i % 2 = 0 THEN 'a' ELSE 'B' END || i"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.every_version
@pytest.mark.parametrize("kind", sample(list(KEYS), 4))
def test_every_kind_of_key_is_rolled_out_and_back(scene: Callable[..., Scene], kind: str) -> None:
    """By list, by share and for all; alone and in a key of two columns."""
    type_, value = KEYS[kind]
    for key in ("id", 'id, "B b"'):
        here = scene(
            f'CREATE TABLE customers (id {type_}, "B b" int DEFAULT 7, beta boolean NOT NULL DEFAULT false,'
            f" PRIMARY KEY ({key}))",
            f"INSERT INTO customers (id) SELECT {value} FROM generate_series(1, 100) AS i",
        )
        ids = [str(row[0]) for row in here.sql("SELECT id::text FROM customers ORDER BY id LIMIT 3")]
        listed = [[one, 7] if "," in key else one for one in ids]
        table = here.table({"name": "list", "keys": listed}, {"name": "half", "share": 50}, EVERYONE)
        here.begin(table)
        assert rollout.unknown_keys(here.conn, table, table.rollout.stages[0]) == []
        here.write(table)
        assert {str(row[0]) for row in here.sql("SELECT id::text FROM customers WHERE beta")} == set(ids)
        here.write(table, 2)
        texts = [f"{row[0]}{':7' if ',' in key else ''}" for row in here.sql("SELECT id::text FROM customers")]
        has = {f"{row[0]}{':7' if ',' in key else ''}" for row in here.sql("SELECT id::text FROM customers WHERE beta")}
        assert has == in_share(50, texts) | {f"{one}{':7' if ',' in key else ''}" for one in ids}
        here.write(table, 3)
        assert here.ids("NOT beta") == set()
        for number in (3, 2, 1):
            here.back(table, number)
        assert here.ids() == set()


@pytest.mark.slow
@pytest.mark.first_case
@pytest.mark.parametrize(
    ("type_", "off", "on"),
    [("boolean", "false", "true"), ("smallint", 0, 1), ("text", "old 'way'", 'new "way" \\ %s'), ("varchar(3)", "v1", "v2"),
     ("mood", "sad", "ok")],
)  # fmt: skip
def test_flag_of_any_value(scene: Callable[..., Scene], type_: str, off: Any, on: Any) -> None:
    """A boolean, a number, a text, an enum; a row with a third value is left as it is."""
    quoted = str(off).replace("'", "''")
    here = scene(
        "CREATE TYPE mood AS ENUM ('sad', 'ok', 'third')",
        f"CREATE TABLE customers (id int PRIMARY KEY, beta {type_} NOT NULL DEFAULT '{quoted}')",
        "INSERT INTO customers SELECT i FROM generate_series(1, 50) AS i",
    )
    third = {"smallint": "7", "text": "'x'", "varchar(3)": "'x'", "mood": "'third'"}.get(type_)
    if third:
        here.sql(f"UPDATE customers SET beta = {third} WHERE id = 7")
    table = here.table(disabled=off, enabled=on)
    here.begin(table)
    assert here.write(table) == 0
    assert here.state(table).rows(1, "on") == (49 if third else 50)
    here.back(table)
    kept = {7} if third else set()
    assert here.ids(f"beta <> '{quoted}'::{type_}") == kept


@pytest.mark.newest
def test_only_rows_that_differ_are_written(scene: Callable[..., Scene]) -> None:
    """Who had the flag before is not touched, neither forward nor back."""
    here = scene()
    here.sql("UPDATE customers SET beta = true WHERE id <= 10")
    before = dict(here.sql("SELECT id, xmin::text FROM customers WHERE id <= 10"))
    table = here.table()
    here.begin(table)
    assert rollout.count(here.conn, table, table.rollout.stages[0]).due == 290
    here.write(table)
    here.back(table)
    assert dict(here.sql("SELECT id, xmin::text FROM customers WHERE id <= 10")) == before
    assert here.ids() == set(range(1, 11))


def test_what_somebody_changed_meanwhile_is_not_overwritten(scene: Callable[..., Scene]) -> None:
    """Taken away by a person: neither a later stage nor the way back touches it; deleted rows are told."""
    here = scene()
    table = here.table({"name": "few", "keys": [1, 2, 3, 4]}, EVERYONE)
    here.begin(table)
    here.write(table)
    here.sql("UPDATE customers SET beta = false WHERE id = 2; DELETE FROM customers WHERE id = 3")
    assert rollout.count(here.conn, table, table.rollout.stages[1]).decided == 1
    here.write(table, 2)
    assert here.ids("NOT beta") == {2}
    here.back(table, 2)
    assert here.ids() == {1, 4}
    here.back(table)
    assert here.ids() == set()
    state = here.state(table)
    assert [state.rows(1, kind) for kind in ("back", "changed", "gone")] == [2, 1, 1]


def test_rows_that_come_in_between_are_followed(scene: Callable[..., Scene]) -> None:
    """A new row is off until the next look, and gets the flag only where the share has it."""
    here = scene()
    table = here.table({"name": "half", "share": 50})
    here.begin(table)
    here.write(table)
    here.sql("INSERT INTO customers SELECT i, 'new' FROM generate_series(301, 400) AS i")
    assert not here.ids("beta AND id > 300")
    begun = here.state(table).stage(1)
    assert begun is not None
    came = rollout.follow(here.conn, here.target, table, begun, RUN)
    assert came == len(in_share(50, [str(i) for i in range(301, 401)]))
    assert {str(one) for one in here.ids()} == in_share(50, [str(i) for i in range(1, 401)])


@pytest.mark.slow
@pytest.mark.every_version
def test_partitioned_table(scene: Callable[..., Scene]) -> None:
    """Each partition's rows, those of a row that moves to another one included."""
    here = scene(
        "CREATE TABLE customers (id int, region text, beta boolean NOT NULL DEFAULT false, PRIMARY KEY (id, region))"
        " PARTITION BY LIST (region)",
        "CREATE TABLE eu PARTITION OF customers FOR VALUES IN ('eu')",
        "CREATE TABLE us PARTITION OF customers FOR VALUES IN ('us')",
        "INSERT INTO customers SELECT i, CASE WHEN i % 3 = 0 THEN 'eu' ELSE 'us' END FROM generate_series(1, 200) AS i",
    )
    table = here.table({"name": "half", "share": 50}, EVERYONE)
    here.begin(table)
    here.write(table)
    here.sql("UPDATE customers SET region = 'us' WHERE region = 'eu' AND id < 60")
    assert here.write(table, 2) == 0
    assert here.ids("NOT beta") == set()
    here.back(table, 2)
    here.back(table)
    moved = here.state(table).rows(1, "gone")
    assert here.ids() == here.ids("beta AND id < 60")  # whose key changed is another row now: told, and left
    assert len(here.ids()) == moved > 0


WRITERS = 3


class Writers:
    """Clients that write the table and a twin of it in one transaction, until they are told to stop."""

    def __init__(self, scene: Scene) -> None:
        self.scene, self.over, self.errors = scene, threading.Event(), []  # type: ignore[var-annotated]
        self.threads = [threading.Thread(target=self._run, args=(n,)) for n in range(WRITERS)]

    def __enter__(self) -> Writers:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        for thread in self.threads:
            thread.join()

    def _run(self, number: int) -> None:
        try:
            with self.scene.server.connect(self.scene.database) as conn:
                n = number
                while not self.over.is_set():
                    n += WRITERS
                    for statement in self._statements(n, 10_000 + n):
                        with conn.transaction():
                            conn.execute(statement.format(table="customers").encode())
                            conn.execute(statement.format(table="twin").encode())
                    self.over.wait(0.1)
        except psycopg.Error as exc:
            self.errors.append(exc)

    @staticmethod
    def _statements(n: int, new: int) -> list[str]:
        row = 1 + n % 300
        return [
            f"UPDATE {{table}} SET name = 'n{n}' WHERE id = {row}",
            f"INSERT INTO {{table}} (id, name) VALUES ({new}, 'new')",
            f"UPDATE {{table}} SET id = -id WHERE id = {new - WRITERS} AND id % 2 = 0",
            f"DELETE FROM {{table}} WHERE id = {new - 4 * WRITERS} AND id % 5 = 0",
            f"UPDATE {{table}} SET name = NULL WHERE id = {1 + n * 7 % 300}",
        ]


@pytest.mark.slow
@pytest.mark.every_version
@pytest.mark.parametrize("rounds", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_writers_lose_nothing(scene: Callable[..., Scene], rounds: int) -> None:
    """Forward and back beside writers: every other column is as in the twin, the flag is as the notes say."""
    here = scene(
        *CUSTOMERS, "CREATE TABLE twin (LIKE customers INCLUDING ALL)", "INSERT INTO twin SELECT * FROM customers"
    )
    table = here.table({"name": "half", "share": 50}, EVERYONE)
    here.begin(table)
    with Writers(here) as writers:
        for _ in range(rounds):
            for number in (1, 2):
                here.write(table, number)
                noted = set(here.sql("SELECT (row_key::json ->> 0)::int FROM pgrunbook.rollout_row WHERE state = 'on'"))
                has = set(here.sql("SELECT id FROM customers WHERE beta"))
                assert len(noted) >= 300 * (0.3 if number == 1 else 1)
                assert has
            for number in (2, 1):
                here.back(table, number)
    assert not writers.errors
    differ = "(SELECT id, name FROM {} EXCEPT SELECT id, name FROM {})"
    assert here.sql(differ.format("customers", "twin")) == here.sql(differ.format("twin", "customers")) == []
    # Whose key changed after it got the flag is another row now, and keeps it; nobody else does.
    assert {one for one in here.ids() if one > 0} == set()
    state = here.state(table)
    assert state.rows(1, "on") == state.rows(2, "on") == 0


@pytest.mark.slow
@pytest.mark.every_version
def test_killed_in_the_middle_it_goes_on(scene: Callable[..., Scene]) -> None:
    """A session that ends in a batch, forward and back: the database says what is done, and each row is noted once."""
    here = scene()
    table = here.table()
    here.begin(table)
    ends = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name LIKE '%rolls out%'"

    def kill(rows: int) -> None:
        if rows >= 80:
            here.sql(ends)

    rollout_state.begin_stage(here.conn, table.rollout, 1, None, RUN)
    begun = here.state(table).stage(1)
    assert begun is not None
    with pytest.raises(psycopg.OperationalError):
        rollout.write(here.conn, here.target, table, begun, RUN, kill)
    here.conn = connection.connect(here.target, purpose="rolls out")
    before = len(here.ids())
    assert 80 <= before == here.state(table).rows(1, "on") < 300
    told: list[int] = []
    begun = here.state(table).stage(1)
    assert begun is not None
    assert rollout.write(here.conn, here.target, table, begun, RUN, told.append) == 0
    assert before < told[0] <= told[-1] == 300
    rollout_state.set_stage(here.conn, table.rollout, 1, StageStanding.GOING_BACK, RUN, why="a test")
    with pytest.raises(psycopg.OperationalError):
        rollout.take_back(here.conn, here.target, table, 1, RUN, kill)
    here.conn = connection.connect(here.target, purpose="rolls out")
    assert here.state(table).rows(1, "back") == 80
    rollout.take_back(here.conn, here.target, table, 1, RUN)
    assert here.ids() == set()
    assert here.sql("SELECT name FROM pgrunbook.batch") == []
    here.conn.close()


def test_more_rows_than_expected_stop_a_stage(scene: Callable[..., Scene]) -> None:
    """Others bring rows in after the count: it stops behind the batch that passes the number."""
    here = scene()
    table = here.table({**EVERYONE, "rows": [0, 100]})
    here.begin(table)
    with pytest.raises(Refused) as caught:
        here.write(table)
    says = 'stage "everyone" was stopped: it has changed {} rows, and 0 to 100 were expected'
    assert caught.value.message == says.format(len(here.ids()))
    assert 100 < len(here.ids()) < 300
    here.back(table)
    assert here.ids() == set()


FLAG = "beta boolean NOT NULL DEFAULT false"
NO_ROLLOUT = {
    "no table": (["SELECT"], {}, 'there is no table "customers"'),
    "no name": (["SELECT"], {"table": "a b.c..d"}, 'there is no table "a b.c..d"'),
    "view": (["CREATE VIEW customers AS SELECT 1 AS id, true AS beta"], {}, "there is no table"),
    "no key": ([f"CREATE TABLE customers (id int, {FLAG})"], {}, "no key tells its rows apart"),
    "key of another type": ([f"CREATE TABLE customers (id timestamptz PRIMARY KEY, {FLAG})"], {}, "its key is of type timest"),
    "nullable": (["CREATE TABLE customers (id int PRIMARY KEY, beta boolean DEFAULT false)"], {}, "can be NULL"),
    "generated": (["CREATE TABLE customers (id int PRIMARY KEY, beta boolean NOT NULL GENERATED ALWAYS AS (id > 1) STORED)"],
                  {}, "is generated"),
    "type": (["CREATE TABLE customers (id int PRIMARY KEY, beta json NOT NULL DEFAULT '1')"], {}, "cannot be a flag: it is of"),
    "new column's type": (["CREATE TABLE customers (id int PRIMARY KEY)"], {"type": "jsonb"}, "cannot be a flag"),
    "no type": (["CREATE TABLE customers (id int PRIMARY KEY)"], {"type": "no such; DROP"}, "cannot be a flag"),
    "array": (["CREATE TABLE customers (id int PRIMARY KEY)"], {"type": "integer[]"}, "cannot be a flag"),
    "value": ([f"CREATE TABLE customers (id int PRIMARY KEY, {FLAG})"], {"enabled": "maybe"}, "are no values of column"),
    "same value": ([f"CREATE TABLE customers (id int PRIMARY KEY, {FLAG})"], {"enabled": "f", "disabled": False}, "are the same"),
    "parent": ([f"CREATE TABLE customers (id int PRIMARY KEY, {FLAG})", "CREATE TABLE child () INHERITS (customers)"], {},
               "has tables that inherit from it"),
    "rules": ([f"CREATE TABLE customers (id int PRIMARY KEY, {FLAG})",
               "CREATE RULE r AS ON UPDATE TO customers DO ALSO NOTHING"], {}, "has rules"),
    "parts of a key": ([f"CREATE TABLE customers (id int, b int, {FLAG}, PRIMARY KEY (id, b))"],
                       {"stages": [{"name": "few", "keys": [1]}]}, "the key of public.customers is id, b"),
    "no table of": ([f"CREATE TABLE customers (id int PRIMARY KEY, {FLAG})"], {"of": "people"}, 'there is no table "people"'),
    "other key": ([f"CREATE TABLE customers (id int PRIMARY KEY, {FLAG})", "CREATE TABLE people (id bigint PRIMARY KEY)"],
                  {"of": "people"}, "their keys are of other types"),
    "no default": ([f"CREATE TABLE customers (id int PRIMARY KEY, why text NOT NULL, {FLAG})",
                    "CREATE TABLE people (id int PRIMARY KEY)"], {"of": "people"}, "why is NOT NULL and has no default"),
    "hostile trigger": (
        [f"CREATE TABLE customers (id int PRIMARY KEY, {FLAG})", "CREATE ROLE mallory",
         "CREATE FUNCTION evil() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
         "ALTER FUNCTION evil() OWNER TO mallory",
         "CREATE TRIGGER t BEFORE UPDATE ON customers FOR EACH ROW EXECUTE FUNCTION evil()"], {}, "refused to change rows of"),
}  # fmt: skip


@pytest.mark.first_case
@pytest.mark.parametrize("case", NO_ROLLOUT)
def test_what_cannot_be_rolled_out_is_refused(scene: Callable[..., Scene], case: str) -> None:
    """Each says what is wrong before anything changes."""
    statements, given, message = NO_ROLLOUT[case]
    made = [one for one in statements if one != "SELECT"]
    here = scene(*(made or ["SELECT 1"]))
    try:
        with pytest.raises((Refused, WrongInput)) as caught:
            here.table(*given.get("stages", []), **{name: value for name, value in given.items() if name != "stages"})
        assert message in str(caught.value)
        assert here.sql("SELECT to_regnamespace('pgrunbook')::text") == [(None,)]
    finally:
        if case == "hostile trigger":
            here.sql("DROP OWNED BY mallory CASCADE; DROP ROLE mallory")


@pytest.mark.slow
def test_operators_of_somebody_else_are_not_called(scene: Callable[..., Scene]) -> None:
    """The texts run with the target's search_path, for its triggers, and name what is in pg_catalog."""
    here = scene(
        *CUSTOMERS,
        "CREATE SCHEMA trap",
        "CREATE FUNCTION trap.raises(boolean, boolean) RETURNS boolean LANGUAGE plpgsql AS"
        " 'BEGIN RAISE EXCEPTION ''trapped''; END'",
        "CREATE FUNCTION trap.raises(text, text) RETURNS boolean LANGUAGE plpgsql AS"
        " 'BEGIN RAISE EXCEPTION ''trapped''; END'",
        "CREATE FUNCTION trap.raises(int, int) RETURNS boolean LANGUAGE plpgsql AS"
        " 'BEGIN RAISE EXCEPTION ''trapped''; END'",
        "CREATE FUNCTION trap.raises(bigint, bigint) RETURNS boolean LANGUAGE plpgsql AS"
        " 'BEGIN RAISE EXCEPTION ''trapped''; END'",
        *(f"CREATE OPERATOR trap.= (FUNCTION = trap.raises, LEFTARG = {one}, RIGHTARG = {one})"
          for one in ("boolean", "text", "int")),
        "CREATE OPERATOR trap.< (FUNCTION = trap.raises, LEFTARG = bigint, RIGHTARG = bigint)",
        "CREATE DOMAIN trap.text AS int", "CREATE DOMAIN trap.json AS int",
    )  # fmt: skip
    here.sql(f"ALTER DATABASE {here.database} SET search_path = trap, public, pg_catalog")
    here.conn = connection.connect(here.target, purpose="rolls out")
    table = here.table(
        {"name": "few", "keys": [1, 2]}, {"name": "half", "share": 50}, EVERYONE, table="public.customers"
    )
    here.begin(table)
    for number in (1, 2, 3):
        here.write(table, number)
    for number in (3, 2, 1):
        here.back(table, number)
    assert here.state(table).rows(3, "back") > 0
    here.conn.close()


def test_keys_that_no_row_has_are_named(scene: Callable[..., Scene]) -> None:
    """A list with a mistake names it; one that is no value of the key says so."""
    here = scene()
    table = here.table({"name": "few", "keys": [1, 999, 2, 1000]})
    assert rollout.unknown_keys(here.conn, table, table.rollout.stages[0]) == ["999", "1000"]
    table = here.table({"name": "few", "keys": ["org1"]})
    with pytest.raises(Refused, match="names a key that is none of"):
        rollout.unknown_keys(here.conn, table, table.rollout.stages[0])


def test_what_has_begun_is_fixed(scene: Callable[..., Scene]) -> None:
    """The flag and its values, and who is in a stage that has begun; what comes later may change."""
    here = scene()
    few = {"name": "few", "keys": [1, 2]}
    here.begin(here.table(few))
    here.write(here.table(few))
    later = [few, {"name": "more", "share": 20}]
    assert here.state(here.table(*later, metric={"query": "SELECT 1", "at_most": 2})).stages
    for stages, given, message in (
        ([{**few, "keys": [1, 2, 3]}], {}, "declared otherwise"), ([later[1]], {}, "declared otherwise"),
        ([later[1], few], {}, "declared otherwise"), ([few], {"salt": "x"}, "begun with another flag"),
    ):  # fmt: skip
        with pytest.raises(Refused, match=message):
            here.state(here.table(*stages, **given))
    other = here.table(few, name="another")
    with pytest.raises(Refused, match="rolled out by another rollout"):
        here.begin(other)


@pytest.mark.slow
@pytest.mark.every_version
def test_who_reads_the_flag_is_shown(version: int, servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    """Statements that were counted, SELECT * among them, views and indexes, and since when; none of our own."""
    server = servers.get(version, shared_preload_libraries="pg_stat_statements")
    with server.copied("counted_flag", "template1") as name:
        monkeypatch.setenv("ROLLOUT_URL", f"postgresql://postgres@/{name}?host={server.socket_dir}")
        target = Target(name="demo", url_from="ROLLOUT_URL", batch_rows=40)
        with connection.connect(target, purpose="rolls out") as conn:
            here = Scene(server, name, target, conn)
            server.run(name, *CUSTOMERS)
            table = here.table()
            assert "none: pg_stat_statements is not installed" in str(rollout_views.uses(conn, table).rows[-1][1])
            server.run(name, "CREATE EXTENSION pg_stat_statements", "CREATE INDEX by_flag ON customers (beta)",
                       "CREATE VIEW testers AS SELECT id FROM customers WHERE beta",
                       "SELECT pg_stat_statements_reset()")  # fmt: skip
            here.begin(table)
            here.write(table)
            for _ in range(3):
                here.sql("SELECT name FROM customers WHERE beta AND id = 7")
            here.sql("SELECT * FROM customers WHERE id = 8")
            here.sql("SELECT name FROM customers WHERE id = 9")
            shown = [tuple(map(str, row)) for row in rollout_views.uses(conn, table).rows]
            assert shown[:-1] == [
                ("view", "public.testers", ""), ("index", "by_flag", ""),
                ("statement", "SELECT name FROM customers WHERE beta AND id = $1", "3"),
                ("statement", "SELECT * FROM customers WHERE id = $1", "1"),
            ]  # fmt: skip
            assert re.fullmatch(r"pg_stat_statements counts since .*; SELECT \* uses every column", shown[-1][1])


@pytest.mark.slow
@pytest.mark.every_version
def test_ordinary_role_rolls_out_its_own_table(scene: Callable[..., Scene]) -> None:
    """Who owns the table and may create a schema needs no more; where policies hide rows, nothing is changed."""
    here = scene(*CUSTOMERS, "CREATE ROLE clerk LOGIN", "ALTER TABLE customers OWNER TO clerk")
    try:
        here.sql(f"GRANT CREATE ON DATABASE {here.database} TO clerk")
        url = os.environ["ROLLOUT_URL"].replace("postgres@", "clerk@")
        with pytest.MonkeyPatch.context() as patch, closing(here.conn):
            patch.setenv("ROLLOUT_URL", url)
            here.conn = connection.connect(here.target, purpose="rolls out")
            table = here.table({"name": "half", "share": 50}, EVERYONE)
            here.begin(table)
            here.write(table)
            here.write(table, 2)
            here.back(table, 2)
            assert {str(one) for one in here.ids()} == in_share(50, [str(i) for i in range(1, 301)])
            here.sql("ALTER TABLE customers FORCE ROW LEVEL SECURITY, ENABLE ROW LEVEL SECURITY")
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"):
                rollout.count(here.conn, table, table.rollout.stages[1])
            here.conn.close()
    finally:
        here.sql("DROP OWNED BY clerk CASCADE; DROP ROLE clerk")


@pytest.mark.slow
@pytest.mark.every_version
def test_flag_in_a_table_of_its_own(scene: Callable[..., Scene]) -> None:
    """Rows that it lacks are added when a stage needs them, and count as rows that are off."""
    here = scene(
        "CREATE TABLE organisations (id text PRIMARY KEY)",
        "INSERT INTO organisations SELECT 'o' || i FROM generate_series(1, 200) AS i",
        "CREATE TABLE flags (organisation text PRIMARY KEY REFERENCES organisations ON DELETE CASCADE,"
        " beta boolean NOT NULL DEFAULT false, other int NOT NULL DEFAULT 5)",
        "INSERT INTO flags SELECT 'o' || i, i = 1 FROM generate_series(1, 20) AS i",
    )
    few, half = {"name": "few", "keys": ["o2", "o150"]}, {"name": "half", "share": 50}
    table = here.table(few, half, EVERYONE, table="flags", of="organisations")
    here.begin(table)
    assert rollout.unknown_keys(here.conn, table, table.rollout.stages[0]) == []
    counted = rollout.count(here.conn, table, table.rollout.stages[0])
    assert (counted.rows, counted.due, counted.verdict(table.rollout.stages[0])) == (2, 2, "")
    has = "SELECT organisation FROM flags WHERE beta"
    here.write(table)
    assert {row[0] for row in here.sql(has)} == {"o1", "o2", "o150"}
    every = [f"o{i}" for i in range(1, 201)]
    due = in_share(50, every) - {"o1", "o2", "o150"}
    assert rollout.count(here.conn, table, table.rollout.stages[1]).due == len(due)
    assert here.write(table, 2) == 0
    assert {row[0] for row in here.sql(has)} == in_share(50, every) | {"o1", "o2", "o150"}
    assert here.state(table).rows(2, "on") == len(due)
    here.sql(
        "INSERT INTO organisations SELECT 'o' || i FROM generate_series(201, 300) AS i; DELETE FROM organisations WHERE id = 'o2'"
    )
    begun = here.state(table).stage(2)
    assert begun is not None
    came = rollout.follow(here.conn, here.target, table, begun, RUN)
    assert came == len(in_share(50, [f"o{i}" for i in range(201, 301)]))
    assert here.write(table, 3) == 0
    assert here.sql("SELECT count(*) FROM flags WHERE beta") == [(299,)]
    for number in (3, 2, 1):
        here.back(table, number)
    assert here.sql(has) == [("o1",)]
    assert here.sql("SELECT DISTINCT other FROM flags") == [(5,)]


@pytest.mark.slow
def test_trigger_of_the_application_that_keeps_rows_off_is_told(scene: Callable[..., Scene]) -> None:
    """Rows that a trigger resets, or does not let through, are left and counted; the stage ends all the same."""
    here = scene(
        *CUSTOMERS,
        "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.id = 5 THEN NEW.beta := false; END IF;"
        " IF NEW.id = 6 THEN RETURN NULL; END IF; RETURN NEW; END $$",
        "CREATE TRIGGER keep BEFORE UPDATE ON customers FOR EACH ROW EXECUTE FUNCTION keep()",
    )
    table = here.table()
    here.begin(table)
    assert here.write(table) == 2
    assert here.ids("NOT beta") == {5, 6}
    assert here.state(table).rows(1, "on") == 298
