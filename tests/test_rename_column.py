"""Both names of a renamed column live and agree until contract, whatever old and new code write, and however."""

from __future__ import annotations

import random
import threading
from typing import Any

import psycopg
import pytest

from budget import sample
from pgrunbook.database import own_schema, shadows
from pgrunbook.database.schema import snapshot
from pgrunbook.database.schema_diff import diff
from pgrunbook.draft.expected_differences import is_declared
from pgrunbook.errors import Refused
from pgrunbook.plan.step import Expansion
from pgrunbook.safe_forms import rename_column
from pgrunbook.safe_forms.expander import Expander
from pgrunbook.sql import statements
from safe_forms_stage import Stage, Watch, end, perform, plan, undo, wait_until

# ruff: noqa: E501 - one statement on a line, whatever its length

RENAME = "ALTER TABLE public.n RENAME COLUMN was TO becomes"
TABLE = "CREATE TABLE public.n (id integer PRIMARY KEY, was {}, other integer)"


def make(stage: Stage, type_: str = "text", rows: int = 100) -> None:
    """Make a table with a column that is about to be renamed, and fill it."""
    stage.conn.execute(TABLE.format(type_))
    stage.conn.execute(f"INSERT INTO n (id, other) SELECT i, i FROM generate_series(1, {rows}) AS i")


def renamed(stage: Stage, statement: str = RENAME, **options: Any) -> Expansion:
    """Execute a rename in its safe form."""
    (found,) = plan(stage.conn, statement, batch_rows=30, **options)
    assert found.form == rename_column.FORM, found.gate and found.gate.says
    perform(stage.conn, [found])
    return found


def back(stage: Stage, statement: str = "ALTER TABLE public.n RENAME COLUMN becomes TO was") -> None:
    """Take a rename back."""
    (found,) = [Expander(stage.conn, is_back=True).expand(one) for one in statements.parse(statement, "m.sql")]
    assert found.form == rename_column.BACK, found.gate and found.gate.says
    for step in found.steps:
        stage.conn.execute(step.sql)


def both(stage: Stage, key: int = 1) -> tuple[object, object]:
    row = stage.conn.execute("SELECT was, becomes FROM n WHERE id = %s", [key]).fetchone()
    assert row is not None
    return row


# Statements of old and of new code on row 1, and what both names hold after all of them.
WRITES = {
    "old inserts": (["INSERT INTO n (id, was) VALUES (1, 'a')"], "a"),
    "new inserts": (["INSERT INTO n (id, becomes) VALUES (1, 'a')"], "a"),
    "neither is given": (["INSERT INTO n (id) VALUES (1)"], None),
    "the new one is NULL": (["INSERT INTO n (id, becomes) VALUES (1, NULL)"], None),
    "all columns, as SELECT * gives them": (["INSERT INTO n (id, was, becomes) VALUES (1, 'a', 'a')"], "a"),
    "old updates": (["INSERT INTO n (id, becomes) VALUES (1, 'a')", "UPDATE n SET was = 'b'"], "b"),
    "new updates": (["INSERT INTO n (id, was) VALUES (1, 'a')", "UPDATE n SET becomes = 'b'"], "b"),
    "old updates to NULL": (["INSERT INTO n (id, was) VALUES (1, 'a')", "UPDATE n SET was = NULL"], None),
    "new updates to NULL": (["INSERT INTO n (id, was) VALUES (1, 'a')", "UPDATE n SET becomes = NULL"], None),
    "from NULL": (["INSERT INTO n (id) VALUES (1)", "UPDATE n SET was = 'b'"], "b"),
    "both change: the new one counts": (["INSERT INTO n (id, was) VALUES (1, 'a')", "UPDATE n SET was = 'b', becomes = 'c'"], "c"),
    "a whole row is written back, one name changed": (["INSERT INTO n (id, was) VALUES (1, 'a')", "UPDATE n SET was = 'a', becomes = 'c', other = 1"], "c"),
    "another column": (["INSERT INTO n (id, was) VALUES (1, 'a')", "UPDATE n SET other = 5"], "a"),
    "old upserts": (["INSERT INTO n (id, was) VALUES (1, 'a')", "INSERT INTO n (id, was) VALUES (1, 'x') ON CONFLICT (id) DO UPDATE SET was = EXCLUDED.was || 'y'"], "xy"),
    "new upserts": (["INSERT INTO n (id, was) VALUES (1, 'a')", "INSERT INTO n (id, becomes) VALUES (1, 'x') ON CONFLICT (id) DO UPDATE SET becomes = EXCLUDED.becomes || n.was"], "xa"),
    "old upserts by its unique index": (["INSERT INTO n (id, becomes) VALUES (1, 'a')", "INSERT INTO n (id, was) VALUES (2, 'a') ON CONFLICT (was) DO UPDATE SET was = 'z'"], "z"),
    "new upserts by the unique index": (["INSERT INTO n (id, was) VALUES (1, 'a')", "INSERT INTO n (id, becomes) VALUES (2, 'a') ON CONFLICT (becomes) DO UPDATE SET becomes = 'z'"], "z"),
    "old upserts and does nothing": (["INSERT INTO n (id, becomes) VALUES (1, 'a')", "INSERT INTO n (id, was) VALUES (2, 'a') ON CONFLICT (was) DO NOTHING"], "a"),
    "merge by the old name": (["INSERT INTO n (id, becomes) VALUES (1, 'a')", "MERGE INTO n USING (VALUES (1, 'm'), (2, 'w')) AS s (id, v) ON n.id = s.id WHEN MATCHED THEN UPDATE SET was = s.v WHEN NOT MATCHED THEN INSERT (id, was) VALUES (s.id, s.v)"], "m"),
    "merge by the new name": (["INSERT INTO n (id, was) VALUES (1, 'a')", "MERGE INTO n USING (VALUES (1, 'm')) AS s (id, v) ON n.id = s.id WHEN MATCHED THEN UPDATE SET becomes = s.v"], "m"),
    "by a view over the column": (["INSERT INTO v (id, was) VALUES (1, 'a')", "UPDATE v SET was = 'b'"], "b"),
    "in a session that replicates": (["SET session_replication_role = replica", "INSERT INTO n (id, was) VALUES (1, 'a')", "UPDATE n SET becomes = 'b'", "RESET session_replication_role"], "b"),
    "with another search_path": (["SET search_path = pg_temp, public", "CREATE FUNCTION pg_temp.eq(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT true'", "INSERT INTO n (id, was) VALUES (1, 'a')", "UPDATE n SET becomes = 'b'", "RESET search_path"], "b"),
}  # fmt: skip


@pytest.mark.newest
def test_old_and_new_code_write_side_by_side(stage: Stage) -> None:
    """Each way to write a column, by each of its names; both hold the same after each statement."""
    make(stage, "text", rows=0)
    stage.conn.execute("ALTER TABLE n ADD UNIQUE (was); CREATE VIEW v AS SELECT id, was FROM n")
    renamed(stage)
    for name, (writes, expected) in WRITES.items():
        if name.startswith("merge") and stage.conn.info.server_version < 150000:
            continue  # there is no MERGE yet
        stage.conn.execute("TRUNCATE n")
        for write in writes:
            stage.conn.execute(write)
            (apart,) = stage.conn.execute("SELECT count(*) FROM n WHERE was IS DISTINCT FROM becomes").fetchone() or (
                1,
            )
            assert apart == 0, (name, write)
        assert both(stage) == (expected, expected), name


def test_copy_gives_either_name(stage: Stage) -> None:
    """COPY with and without a list of columns."""
    make(stage, "text", rows=0)
    renamed(stage)
    for columns, line in (
        ("(id, was)", "1\ta\n"),
        ("(id, becomes)", "1\ta\n"),
        ("", "1\ta\t7\t\\N\n"),
        ("", "1\ta\t7\ta\n"),
    ):
        stage.conn.execute("TRUNCATE n")
        with stage.conn.cursor() as cursor, cursor.copy(f"COPY n {columns} FROM STDIN") as copy:
            copy.write(line)
        assert both(stage) == ("a", "a"), (columns, line)


# Definitions of the column, a value for its rows, and one that is written later.
COLUMNS = {
    "not null": ("text NOT NULL DEFAULT 'd'", "'a'", "'b'"),
    "identity": ("integer GENERATED BY DEFAULT AS IDENTITY", "5", "6"),
    "serial": ("serial", "5", "6"),
    "check": ("integer CHECK (was > 0)", "5", "6"),
    "varchar": ("varchar(9)", "'a'", "'b'"),
    "char": ("char(4)", "'a'", "'b'"),
    "collated": ('text COLLATE "C"', "'a'", "'b'"),
    "numeric": ("numeric(9, 4)", "1.50", "1.5000001"),
    "numeric without scale": ("numeric", "1.50", "1.5"),
    "float": ("float8", "'-0'", "'0'"),
    "json": ("json", """'{"a":  1}'""", """'{"a": 1}'"""),
    "jsonb": ("jsonb", """'{"a": 1}'""", "NULL"),
    "point": ("point", "'(1,2)'", "'(1,3)'"),
    "array": ("integer[]", "'{1,NULL}'", "'[2:3]={1,NULL}'"),
    "enum": ("app.mood", "'sad'", "'ok'"),
    "bytea": ("bytea", "'\\x00'", "''"),
    "row": ("app.duo", "'(1,a)'", "'(2,a)'"),
    "row with a null in it": ("app.duo", "'(1,)'", "'(,)'"),
    "range": ("int4range", "'[1,5)'", "'empty'"),
    "long": ("text", "repeat('x', 10000)", "repeat('y', 10000)"),
    "foreign key": ("integer REFERENCES u ON UPDATE CASCADE ON DELETE SET NULL", "5", "6"),
    "domain without conditions": ("app.plain", "5", "6"),
}


@pytest.mark.first_case
@pytest.mark.parametrize("name", sample(COLUMNS, 4))
def test_columns_of_each_kind(stage: Stage, name: str) -> None:
    """Types with and without equality, defaults, constraints: filled, kept equal both ways, and in the schema as plain SQL leaves it."""
    type_, first, then = COLUMNS[name]
    stage.conn.execute("CREATE DOMAIN app.plain AS integer; CREATE TYPE app.duo AS (a integer, b text)")
    make(stage, type_, rows=0)
    stage.conn.execute(f"INSERT INTO n (id, was, other) SELECT i, {first}, i FROM generate_series(1, 70) AS i")
    stage.conn.execute("CREATE TABLE plain (LIKE n INCLUDING ALL)")
    found = renamed(stage)
    image = "SELECT count(*) FROM n WHERE ROW(was)::record *<> ROW(becomes)::record"
    assert stage.conn.execute(image).fetchone() == (0,)
    assert stage.conn.execute("SELECT count(*) FROM n WHERE was IS NULL").fetchone() == (0,)
    stage.conn.execute(f"UPDATE n SET was = {then} WHERE id % 2 = 0; UPDATE n SET becomes = {then} WHERE id % 2 = 1")
    stage.conn.execute(
        f"INSERT INTO n (id, was) VALUES (1001, {then}); INSERT INTO n (id, becomes) VALUES (1002, {then})"
    )
    assert stage.conn.execute(image).fetchone() == (0,)
    if name == "foreign key":
        stage.conn.execute("UPDATE u SET id = 1000 WHERE id = 6; DELETE FROM u WHERE id = 1000")
        assert stage.conn.execute("SELECT count(*) FROM n WHERE was IS NULL AND becomes IS NULL").fetchone() == (72,)
    assert {one.kind for one in found.differs} == {"until contract"}


@pytest.mark.slow
def test_the_end_is_that_of_the_plain_sql_but_for_what_is_declared(stage: Stage) -> None:
    """With indexes of each kind, rights on the column, views and comments; quick steps read no rows, others block nobody."""
    setup = """
        CREATE INDEX plain_one ON n (was); CREATE UNIQUE INDEX lower_one ON n (lower(was));
        CREATE INDEX partial_one ON n (other) WHERE was IS NOT NULL; CREATE INDEX with_it ON n (other) INCLUDE (was);
        CREATE INDEX hash_one ON n USING hash (was); ALTER TABLE n ADD CONSTRAINT late UNIQUE (was) DEFERRABLE;
        CREATE VIEW v AS SELECT was FROM n; COMMENT ON COLUMN n.was IS 'it';
        CREATE POLICY mine ON n USING (was <> ''); ALTER TABLE n ADD CHECK (was <> 'no');
        GRANT SELECT (was), UPDATE (was) ON n TO reader_of_was WITH GRANT OPTION; GRANT SELECT (was) ON n TO PUBLIC;
        ALTER TABLE n ALTER was SET STATISTICS 7
    """
    make(stage)
    stage.conn.execute("CREATE ROLE reader_of_was")
    with stage.server.copied("plain", "stage_template"), stage.server.connect("plain") as plain:
        for conn in (stage.conn, plain):
            conn.execute(f"DROP TABLE IF EXISTS n; {TABLE.format('text')}")
            conn.execute(f"INSERT INTO n SELECT i, 'w' || i FROM generate_series(1, 100) AS i; {setup}")
        plain.execute(RENAME)
        watch = Watch()
        (found,) = plan(stage.conn, RENAME, batch_rows=30)
        perform(stage.conn, [found], watch=watch)
        own_schema.refuse_foreign(stage.conn)
        expected, made = snapshot(plain), end(stage.conn)[0]
        assert [d.line() for d in diff(expected, made) if not is_declared(d, found.differs)] == []
        seen = {d.name for d in diff(expected, made)}
        assert seen == {each.object for each in found.differs}
        assert seen == {one.name for one in shadows.objects(stage.conn, shadows.read(stage.conn))}
    assert watch.of_slow_steps([found]) <= {
        "AccessShareLock",
        "RowShareLock",
        "RowExclusiveLock",
        "ShareUpdateExclusiveLock",
    }
    assert (watch.rows_read_quickly(), watch.rewritten) == (0, [])
    stage.conn.execute("SET enable_seqscan = off")
    for query in ("was = 'w5'", "lower(was) = 'w5'"):
        shown = str(stage.conn.execute(f"EXPLAIN SELECT FROM n WHERE {query}").fetchall())
        assert "Index" in shown or "Bitmap" in shown, query
    stage.conn.execute(
        "RESET enable_seqscan; SET ROLE reader_of_was; UPDATE n SET was = 'by right' WHERE was = 'w9'; RESET ROLE"
    )
    assert both(stage, 9) == ("by right", "by right")
    stage.conn.execute("DROP OWNED BY reader_of_was; DROP ROLE reader_of_was")


OBSTACLES = {
    "it is generated": "ALTER TABLE n DROP was; ALTER TABLE n ADD was integer GENERATED ALWAYS AS (other * 2) STORED",
    "its values are GENERATED ALWAYS": "ALTER TABLE n DROP was; ALTER TABLE n ADD was integer GENERATED ALWAYS AS IDENTITY",
    "is a domain with conditions": "ALTER TABLE n ALTER was TYPE app.positive USING 1",
    "the table has rules": "CREATE RULE r AS ON DELETE TO n DO ALSO NOTHING",
    "no key by which to fill": "ALTER TABLE n DROP CONSTRAINT n_pkey",
    "inherit from each other": "CREATE TABLE below () INHERITS (n)",
    "publication sent ": "ALTER TABLE n DROP was, ADD was text; ALTER TABLE n DROP CONSTRAINT n_pkey; UPDATE n SET was = id; ALTER TABLE n ADD PRIMARY KEY (id, was); CREATE PUBLICATION sent FOR TABLE n",
    "publication every": "CREATE PUBLICATION every FOR ALL TABLES",
    "fires on UPDATE OF this column": "CREATE TRIGGER g AFTER UPDATE OF was ON n FOR EACH ROW EXECUTE FUNCTION app.touch()",
    "reads it before": "CREATE FUNCTION low() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.was := lower(NEW.was); RETURN NEW; END'; CREATE TRIGGER g BEFORE INSERT ON n FOR EACH ROW EXECUTE FUNCTION low()",
    'trigger "w" reads it': "CREATE TRIGGER w BEFORE UPDATE ON n FOR EACH ROW WHEN (OLD.was IS DISTINCT FROM NEW.was) EXECUTE FUNCTION app.touch()",
    'trigger "s" reads it': "ALTER TABLE n ADD ts tsvector; CREATE TRIGGER s BEFORE UPDATE ON n FOR EACH ROW EXECUTE FUNCTION tsvector_update_trigger(ts, 'pg_catalog.english', was)",
    "in the partition key": "DROP TABLE n; CREATE TABLE n (id integer, was text, PRIMARY KEY (id, was)) PARTITION BY LIST (was)",
    "in the partition key of": "DROP TABLE n; CREATE TABLE n (id integer, was text) PARTITION BY RANGE (id); CREATE TABLE n1 PARTITION OF n FOR VALUES FROM (1) TO (2) PARTITION BY LIST (was)",
    'is one of type "': "DROP TABLE n; CREATE TYPE app.kind AS (id integer, was text); CREATE TABLE n OF app.kind (PRIMARY KEY (id))",
}  # fmt: skip


@pytest.mark.parametrize("why", sample(OBSTACLES, 5))
def test_where_both_names_cannot_live_the_gate_says_why(stage: Stage, why: str) -> None:
    """Each obstacle on a real table; nothing of it is a safe form."""
    make(stage, rows=100)
    stage.conn.execute(OBSTACLES[why])
    (found,) = plan(stage.conn, RENAME, batch_rows=30)
    assert found.gate is not None
    assert (found.gate.id, found.form) == ("rename", "")
    assert "; both names cannot live side by side: " in found.gate.says
    assert why in found.gate.says


@pytest.mark.slow
def test_what_does_not_read_the_column_is_no_obstacle(stage: Stage) -> None:
    """Triggers on other columns, AFTER triggers, publications that leave it out; a partitioned table without an index on it."""
    make(stage)
    stage.conn.execute(
        "ALTER TABLE n ADD touched timestamptz; CREATE TRIGGER g BEFORE UPDATE OF other ON n FOR EACH ROW EXECUTE FUNCTION app.touch()"
    )
    stage.conn.execute(
        "CREATE TRIGGER a AFTER UPDATE ON n FOR EACH ROW WHEN (OLD.was IS DISTINCT FROM NEW.was) EXECUTE FUNCTION app.touch()"
    )
    if stage.conn.info.server_version >= 150000:  # before, a publication has all columns of a table
        stage.conn.execute("CREATE PUBLICATION part FOR TABLE n (id, other)")
    renamed(stage)
    stage.conn.execute(
        "CREATE TABLE p2 (id integer PRIMARY KEY, was text) PARTITION BY RANGE (id); CREATE TABLE p2a PARTITION OF p2 FOR VALUES FROM (1) TO (99)"
    )
    stage.conn.execute(
        "INSERT INTO p2 SELECT i, 'w' FROM generate_series(1, 90) AS i; DELETE FROM pgrunbook.batch; DROP SCHEMA performed CASCADE"
    )
    renamed(stage, "ALTER TABLE p2 RENAME COLUMN was TO becomes")
    stage.conn.execute(
        "CREATE TABLE p2b PARTITION OF p2 FOR VALUES FROM (99) TO (200); INSERT INTO p2 (id, was) VALUES (5, 'x') ON CONFLICT DO NOTHING; INSERT INTO p2 (id, was) VALUES (150, 'y'); UPDATE p2 SET becomes = 'z' WHERE id < 3; UPDATE p2 SET id = 160 WHERE id = 4"
    )
    assert stage.conn.execute("SELECT count(*) FROM p2 WHERE was IS DISTINCT FROM becomes").fetchone() == (0,)


LATER = {
    "ALTER TABLE n RENAME COLUMN becomes TO more": True,
    "ALTER TABLE n RENAME COLUMN was TO more": True,
    "ALTER TABLE n RENAME COLUMN becomes TO was": True,
    "ALTER TABLE n RENAME COLUMN other TO was": True,
    "ALTER TABLE n DROP COLUMN was": True,
    "ALTER TABLE n DROP COLUMN IF EXISTS becomes": True,
    "ALTER TABLE n ALTER COLUMN becomes TYPE varchar(9)": True,
    "ALTER TABLE n ALTER COLUMN was TYPE varchar(9)": True,
    "ALTER TABLE n ADD COLUMN was integer": True,
    "ALTER TABLE n ADD COLUMN IF NOT EXISTS was integer": True,
    "ALTER TABLE n RENAME TO m": True,
    "ALTER TABLE n SET SCHEMA app": True,
    "DROP TABLE n": True,
    "DROP TABLE IF EXISTS app.nothing, public.n": True,
    "DROP SCHEMA public CASCADE": True,
    "ALTER SCHEMA public RENAME TO other": True,
    "ALTER TABLE n ALTER COLUMN becomes SET NOT NULL": False,
    "ALTER TABLE n ALTER COLUMN becomes SET DEFAULT 'd'": False,
    "ALTER TABLE n ADD COLUMN more integer": False,
    "ALTER TABLE n DROP COLUMN other": False,
    "ALTER TABLE n ADD CHECK (becomes <> 'no')": False,
    "CREATE INDEX ON n (becomes)": False,
    "ALTER TABLE t DROP COLUMN c": False,
    "DROP TABLE keyless": False,
    "ALTER TABLE t RENAME COLUMN c TO was": False,
}


@pytest.mark.slow
def test_later_statements_that_would_break_the_pair_are_refused(stage: Stage) -> None:
    """In the release that renames it gives the form up, and a later one is refused; others are as before."""
    make(stage)
    for later, breaks in LATER.items():
        first, *_ = plan(stage.conn, f"{RENAME};\n{later}")
        assert (first.form == "", first.gate is not None) == (breaks, breaks), later
        if first.gate is not None:
            assert "because m.sql:2 changes what would live on beside it" in first.gate.says
    swapped = plan(
        stage.conn,
        "ALTER TABLE n RENAME was TO tmp; ALTER TABLE n RENAME other TO was; ALTER TABLE n RENAME tmp TO other",
    )
    assert [bool(one.gate) for one in swapped[:2]] == [True, True]
    renamed(stage)
    for later, breaks in LATER.items():
        assert refusal(stage, later) == breaks, later
    with pytest.raises(Refused) as caught:
        plan(stage.conn, "SELECT 1;\nALTER TABLE n DROP COLUMN becomes")
    assert str(caught.value) == (
        "could not plan m.sql:2 (ALTER TABLE DROP COLUMN): public.n.was lives beside public.n.becomes\n"
        "Detail: m.sql (rename) leaves both until contract, and a trigger keeps them equal: no other change of these "
        "columns, or of the name or schema of their table, may come before.\n"
        "State: Nothing changed in the database.\n"
        "Hint: pgrunbook run contract --target TARGET, then begin again."
    )


def refusal(stage: Stage, sql: str) -> bool:
    try:
        plan(stage.conn, sql)
    except Refused:
        return True
    return False


@pytest.mark.slow
def test_an_abandoned_rename_leaves_nothing(stage: Stage) -> None:
    """Stopped before each of its steps, what it has made is taken away, and the rename begins anew."""
    make(stage)
    stage.conn.execute("UPDATE n SET was = 'w' || id; CREATE INDEX ON n (was)")
    before = end(stage.conn)
    (found,) = plan(stage.conn, RENAME, batch_rows=30)
    for stop in found.steps[1:]:
        perform(stage.conn, [found], until=lambda step, stop=stop: step is stop)
        undo(stage.conn, [found])
        stage.conn.execute("DROP SCHEMA performed CASCADE; DELETE FROM pgrunbook.batch")
        assert end(stage.conn) == before
        own_schema.refuse_foreign(stage.conn)
    perform(stage.conn, [found])
    assert both(stage, 5) == ("w5", "w5")


@pytest.mark.slow
def test_it_goes_on_where_it_was_stopped(stage: Stage) -> None:
    """Each step may be executed again after a crash, in the form that it was planned in."""
    make(stage)
    stage.conn.execute("UPDATE n SET was = 'w' || id; CREATE INDEX ON n (was)")
    (found,) = plan(stage.conn, RENAME, batch_rows=30)
    for stop in found.steps[1:]:
        perform(stage.conn, [found], until=lambda step, stop=stop: step is stop)
        stage.conn.execute(
            "UPDATE n SET was = 'x' || id WHERE id % 7 = 0; INSERT INTO n (id, was) SELECT max(id) + 1, 'new' FROM n"
        )
    perform(stage.conn, [found])
    assert stage.conn.execute(
        "SELECT count(*), count(*) FILTER (WHERE was IS DISTINCT FROM becomes) FROM n"
    ).fetchone() == (100 + len(found.steps) - 1, 0)


@pytest.mark.slow
def test_it_goes_back_without_a_lost_write(stage: Stage) -> None:
    """The schema is as before, and what was written by either name since is under the old one."""
    make(stage)
    stage.conn.execute("UPDATE n SET was = 'w' || id; CREATE INDEX ON n (was); GRANT SELECT (was) ON n TO PUBLIC")
    before = end(stage.conn)[0]
    renamed(stage)
    stage.conn.execute(
        "UPDATE n SET was = 'old' WHERE id = 1; UPDATE n SET becomes = 'new' WHERE id = 2; INSERT INTO n (id, becomes) VALUES (1001, 'come')"
    )
    back(stage)
    assert diff(before, end(stage.conn)[0]) == []
    assert shadows.read(stage.conn) == []
    assert stage.conn.execute("SELECT was FROM n WHERE id IN (1, 2, 1001) ORDER BY id").fetchall() == [
        ("old",),
        ("new",),
        ("come",),
    ]


class Writers:
    """Old and new code at work: each change of the table, and of its twin, in one transaction."""

    def __init__(self, stage: Stage) -> None:
        self.stage, self.errors, self.done = stage, list[str](), dict.fromkeys(("was", "becomes"), 0)
        self._stop = {name: threading.Event() for name in self.done}
        self._threads: dict[str, threading.Thread] = {}

    def start(self, name: str) -> None:
        """Let code begin that knows the column by this name."""
        self._stop[name].clear()
        self._threads[name] = threading.Thread(target=self._write, args=(name,))
        self._threads[name].start()

    def end(self, name: str) -> None:
        """Let that code end."""
        self._stop[name].set()
        self._threads[name].join()

    def go_on(self, name: str, times: int = 30) -> None:
        """Wait until it has written so often again."""
        wanted = self.done[name] + times
        wait_until(lambda: self.done[name] >= wanted or bool(self.errors))

    def _write(self, name: str) -> None:
        chance = random.Random(name)  # noqa: S311 - the same each time
        with self.stage.session() as conn:
            while not self._stop[name].is_set():
                key, value = chance.randrange(60), chance.choice([None, f"{name} {self.done[name]}"])
                both = _CHANGES[chance.randrange(len(_CHANGES))]
                try:
                    with conn.transaction():
                        conn.execute("SELECT pg_advisory_xact_lock(7)")  # or the other one writes between both tables
                        for table, column in (("n", name), ("same", "value")):
                            text = both.format(table=table, column=column)
                            conn.execute(text, {"key": key, "value": value, "other": key + 1000})
                except psycopg.errors.DeadlockDetected:
                    continue  # of the writers with each other, as without a rename
                except psycopg.Error as exc:
                    self.errors.append(f"{name}: {exc}")
                    return
                self.done[name] += 1


_CHANGES = [
    "INSERT INTO {table} (id, {column}) VALUES (%(key)s, %(value)s) ON CONFLICT (id) DO UPDATE SET {column} = %(value)s",
    "UPDATE {table} SET {column} = %(value)s WHERE id = %(key)s",
    "UPDATE {table} SET {column} = {column} || 'x' WHERE id = %(key)s",
    "UPDATE {table} SET other = %(key)s WHERE id = %(key)s",
    "DELETE FROM {table} WHERE id = %(key)s",
    "UPDATE {table} SET id = -id WHERE id = %(key)s AND NOT EXISTS (SELECT FROM {table} WHERE id = -%(key)s)",
    "INSERT INTO {table} (id, {column}) SELECT %(key)s + i, %(value)s FROM generate_series(100, 400) AS i ON CONFLICT DO NOTHING",
    "DELETE FROM {table} WHERE id > 90",
]
APART = "SELECT count(*) FROM n FULL JOIN same USING (id) WHERE n.id IS NULL OR same.id IS NULL OR n.{0} IS DISTINCT FROM same.value"


@pytest.mark.slow
def test_writers_of_both_versions_lose_nothing_there_and_back(stage: Stage) -> None:
    """Old code writes throughout, new code from the cut-over until the way back begins; the twin differs in no row."""
    conn = stage.conn
    conn.execute("CREATE TABLE n (id integer PRIMARY KEY, was text, other integer); CREATE INDEX ON n (was)")
    conn.execute("INSERT INTO n SELECT i, 'w' || i, i FROM generate_series(1, 2000) AS i WHERE i < 60 OR i > 600")
    conn.execute("CREATE TABLE same (id integer PRIMARY KEY, value text, other integer); INSERT INTO same TABLE n")
    writers = Writers(stage)
    writers.start("was")
    try:
        writers.go_on("was")
        (found,) = plan(conn, RENAME, batch_rows=50)
        perform(conn, [found], until=lambda _: bool(writers.go_on("was", 5)))
        writers.start("becomes")
        writers.go_on("becomes", 200)
        writers.go_on("was", 200)
        with conn.transaction():
            conn.execute("LOCK TABLE n, same IN SHARE MODE")
            for column in ("was", "becomes"):
                assert conn.execute(APART.format(column)).fetchone() == (0,)
        writers.end("becomes")
        back(stage)
        writers.go_on("was", 50)
    finally:
        for name in writers._threads:
            writers.end(name)
    assert writers.errors == []
    assert conn.execute(APART.format("was")).fetchone() == (0,)
    assert min(writers.done.values()) >= 200
