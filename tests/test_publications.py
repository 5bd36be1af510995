"""A real subscriber of a table whose column changes its type: it gets the right rows all the time, there and back."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import psycopg
import pytest

from budget import sample
from permits import permitted_of
from pgrunbook.config.targets import Target
from pgrunbook.database import publications, schema, shadows, step_log
from pgrunbook.database.checksums import TableName
from pgrunbook.database.connection import connect
from pgrunbook.database.relations import Relation
from pgrunbook.database.schema import Snapshot
from pgrunbook.database.schema_diff import diff
from pgrunbook.draft.expected_differences import is_declared, until_contract
from pgrunbook.execute import contract
from pgrunbook.online.swap_shape import SwapChoice
from pgrunbook.plan.step import Expansion, SafeStep
from pgrunbook.procedures import contract as contract_procedure
from pgrunbook.safe_forms import rename_column, small_table
from pgrunbook.safe_forms.expander import Expander
from pgrunbook.sql import secrets, statements
from pgrunbook.sql.classify import Policy
from safe_forms_stage import perform, plan, undo
from scenes import error_of, until
from servers import Server
from swap_stage import URL, stage_of, url_of

pytestmark = [pytest.mark.usefixtures("none_is_small")]

Conn = psycopg.Connection[tuple[object, ...]]
CHANGE = "ALTER TABLE app.t ALTER n TYPE bigint"
RENAME = "ALTER TABLE app.t RENAME COLUMN n TO m"
TABLE = "CREATE SCHEMA app; CREATE TABLE app.t (id integer, n {0} NOT NULL, k integer, PRIMARY KEY ({1}))"
ROWS = "INSERT INTO app.t SELECT i, i, i FROM generate_series(1, 200) AS i"
# How a table is published, its key, and what a subscriber gets of it.
PUBLISHED = {
    "all columns": ("CREATE PUBLICATION p FOR TABLE app.t", "id", "SELECT id, n, k FROM app.t"),
    "a list with the column": ("CREATE PUBLICATION p FOR TABLE app.t (id, n)", "id", "SELECT id, n FROM app.t"),
    "a list without the column": ("CREATE PUBLICATION p FOR TABLE app.t (id, k)", "id", "SELECT id, k FROM app.t"),
    "rows by the column": (
        "CREATE PUBLICATION p FOR TABLE app.t WHERE (n > 50)", "id, n", "SELECT id, n, k FROM app.t WHERE n > 50",
    ),
    "a list and rows": (
        "CREATE PUBLICATION p FOR TABLE app.t (id, n) WHERE (n > 50)", "n, id", "SELECT id, n FROM app.t WHERE n > 50",
    ),
    "two that send all": (
        "CREATE PUBLICATION p FOR TABLE app.t; CREATE PUBLICATION q FOR TABLE app.t (id, n, k)",
        "id", "SELECT id, n, k FROM app.t",
    ),
    "rows by another column": (
        "CREATE PUBLICATION p FOR TABLE app.t WHERE (id < 1200)", "id", "SELECT id, n, k FROM app.t WHERE id < 1200",
    ),
    "its partition root": (
        "CREATE PUBLICATION p FOR TABLE app.t WITH (publish_via_partition_root)", "id", "SELECT id, n, k FROM app.t",
    ),
}  # fmt: skip
REFUSED = ("a list with the column", "rows by the column", "a list and rows", "two that send all")  # by PostgreSQL


@dataclass
class Stage:
    """A database that is published, one that subscribes to it, and one in which the plain change is made."""

    server: Server
    conn: Conn
    subscriber: Conn
    plain: Conn
    sent: str

    def catches_up(self) -> None:
        """See that the subscriber has what it should, and has met no error."""
        query = f"{self.sent} ORDER BY 1, 2"
        columns = query.partition(" WHERE ")[0].removesuffix(" ORDER BY 1, 2")
        until(
            lambda: (
                self.subscriber.execute(f"{columns} ORDER BY 1, 2").fetchall() == self.conn.execute(query).fetchall()
            )
        )
        errors = "SELECT apply_error_count FROM pg_stat_subscription_stats WHERE subname = 'follows'"
        assert self.subscriber.execute(errors).fetchall() == [(0,)]

    def published(self) -> list[tuple[str, list[str], str | None]]:
        """Return what the publications say of the table."""
        query = "SELECT pubname::text, attnames::text[], rowfilter FROM pg_publication_tables ORDER BY 1"
        return [
            (str(name), cast("list[str]", columns), cast("str | None", kept))
            for name, columns, kept in self.conn.execute(query)
        ]


@contextmanager
def stage(server: Server, how: str, *, publications: str = "p") -> Iterator[Stage]:
    """Give the three databases; the subscriber has the wider type, as its operator has seen to before."""
    made, key, sent = PUBLISHED[how]
    number = list(PUBLISHED).index(how)
    template = server.database(f"publisher_{number}", TABLE.format("integer", key), ROWS, made)
    other = server.database(f"subscriber_{number}", TABLE.format("bigint", key))
    with (
        server.copied("publisher", template), server.copied("subscriber", other),
        server.copied("publisher_plain", template), server.connect("publisher") as conn,
        server.connect("subscriber") as subscriber, server.connect("publisher_plain") as plain,
    ):  # fmt: skip
        step_log.create(conn)
        conn.prepare_threshold = subscriber.prepare_threshold = None  # types change between the same queries
        conn.execute("SELECT pg_create_logical_replication_slot('follows', 'pgoutput')")
        conn.execute("UPDATE app.t SET k = k")  # the rows of before, in place of a first copy
        if "n" not in key:
            subscriber.execute("ALTER TABLE app.t ALTER n DROP NOT NULL")
        columns = sent.partition(" FROM")[0].removeprefix("SELECT ")
        for row in conn.execute(sent).fetchall():
            subscriber.execute(f"INSERT INTO app.t ({columns}) VALUES ({', '.join(map(str, row))})")
        subscriber.execute(
            f"CREATE SUBSCRIPTION follows CONNECTION 'host={server.socket_dir} user=postgres dbname=publisher'"
            f" PUBLICATION {publications} WITH (create_slot = false, copy_data = false)"
        )
        try:
            yield Stage(server, conn, subscriber, plain, sent)
        finally:
            subscriber.execute("ALTER SUBSCRIPTION follows DISABLE; ALTER SUBSCRIPTION follows SET (slot_name = NONE)")
            subscriber.execute("DROP SUBSCRIPTION follows")
            until(lambda: conn.execute("SELECT FROM pg_replication_slots WHERE active").fetchall() == [])
            conn.execute("SELECT pg_drop_replication_slot('follows')")


@contextmanager
def writing(server: Server) -> Iterator[None]:
    """Let a client write meanwhile; an error that it sees is raised at the end."""
    stopped, begun = threading.Event(), threading.Event()

    def write() -> None:
        luck = random.Random(7)  # noqa: S311
        with server.connect("publisher") as conn:
            while not stopped.is_set():
                id_, value = luck.randrange(300), luck.randrange(1000)
                conn.execute(f"INSERT INTO app.t (id, n, k) VALUES ({id_ + 1000}, {value}, 0) ON CONFLICT DO NOTHING")
                conn.execute(f"UPDATE app.t SET n = {value}, k = k + 1 WHERE id = {id_}")
                conn.execute(f"DELETE FROM app.t WHERE id = {luck.randrange(1300)}")
                begun.set()

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(write)
        try:
            until(lambda: begun.is_set() or running.done())
            yield
        finally:
            stopped.set()
        running.result()


def looks(conn: Conn) -> Snapshot:
    """The schema, without what is ours."""
    return schema.snapshot(conn, leave_out=[*schema.OURS, "performed"])


def changed(both: Stage, change: str = CHANGE, form: str = "shadow-column") -> list[Expansion]:
    """Plan and perform the change while a client writes."""
    made = plan(both.conn, change, batch_rows=15)
    assert [one.form for one in made] == [form], [one.gate or one.explains for one in made]
    with writing(both.server):
        perform(both.conn, made)
    both.conn.execute("DROP SCHEMA performed CASCADE; TRUNCATE pgrunbook.batch")
    return made


def taken_back(both: Stage, steps: Iterable[SafeStep]) -> None:
    """Take it back while a client writes, each step in a transaction of its own."""
    with writing(both.server):
        for step in steps:
            if step.policy is Policy.ALONE:
                both.conn.execute(step.sql)
            else:
                with both.conn.transaction():
                    both.conn.execute(step.sql)


def contracted(target: Target) -> None:
    """Drop the old column as contract does."""
    with connect(target, purpose="contract") as conn:
        (one,) = shadows.read(conn)
        contract.drop(conn, target, one, permitted_of(contract.subject(one), conn))


@pytest.mark.slow
@pytest.mark.newest
@pytest.mark.parametrize("how", sample([*PUBLISHED], 8))
def test_a_subscriber_has_the_rows_of_its_publisher(server: Server, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through fill, cut-over, the way back, again, and contract; then it is published as by the plain change."""
    if server.version < (16 if how.startswith("two") else 15):
        pytest.skip("lists of columns are new in PostgreSQL 15, and one of all columns is as good as none from 16 on")
    with stage(server, how, publications="p, q" if how.startswith("two") else "p") as both:
        monkeypatch.setenv(URL, url_of(server, "publisher"))
        target = stage_of(server, "publisher").target
        before, was = looks(both.conn), both.published()
        expansions = changed(both)
        both.catches_up()
        both.conn.execute("INSERT INTO app.t (id, n, k) VALUES (5000, 70, 1); UPDATE app.t SET n = 71 WHERE id = 5000")
        both.catches_up()
        assert (expansions[0].same_as != "") == (how in REFUSED)
        if how in REFUSED:
            with pytest.raises(psycopg.errors.FeatureNotSupported, match="used by a publication"):
                both.plain.execute(CHANGE)
        with both.plain.transaction():
            both.plain.execute(expansions[0].same_as or CHANGE)
        differ = diff(looks(both.plain), looks(both.conn))
        assert [d.line() for d in differ if not is_declared(d, expansions[0].differs)] == []
        taken_back(both, expansions[0].back)
        both.catches_up()
        assert diff(before, looks(both.conn)) == []
        assert both.published() == was
        changed(both)
        contracted(target)
        both.conn.execute(
            "INSERT INTO app.t (id, n, k) VALUES (5001, 3000000000, 1); DELETE FROM app.t WHERE id = 5000"
        )
        both.catches_up()
        differ = diff(looks(both.plain), looks(both.conn))
        assert [d.kind for d in differ if not is_declared(d, expansions[0].differs)] == []
        assert [d for d in differ if d.kind == "published table"] == []
        assert both.conn.execute("SELECT FROM pgrunbook.published").fetchall() == []


RENAMED = [how for how in PUBLISHED if how not in ("rows by the column", "a list and rows")]


@pytest.mark.newest
def test_a_renamed_column_goes_on_under_its_old_name(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until contract: then the subscriber is renamed, and goes on under the new one."""
    if server.version < 15:
        pytest.skip("lists of columns are new in PostgreSQL 15")
    with stage(server, "all columns") as both:
        monkeypatch.setenv(URL, url_of(server, "publisher"))
        made = plan(both.conn, RENAME, batch_rows=300)
        perform(both.conn, made)
        both.conn.execute("INSERT INTO app.t (id, m, k) VALUES (5000, 70, 1); UPDATE app.t SET n = 71 WHERE id = 5000")
        both.catches_up()
        contracted(stage_of(server, "publisher").target)
        both.subscriber.execute(RENAME)
        both.sent = both.sent.replace(" n", " m")
        both.conn.execute("UPDATE app.t SET m = 72 WHERE id = 5000")
        both.catches_up()
        assert both.published() == [("p", ["id", "m", "k"], None)]


@pytest.mark.newest
@pytest.mark.slow
@pytest.mark.parametrize("how", RENAMED)
def test_a_subscriber_of_a_renamed_column_has_the_rows(
    server: Server, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It keeps the old name through fill, cut-over, the way back and again; then contract, and it is renamed there."""
    if server.version < (16 if how.startswith("two") else 15):
        pytest.skip("lists of columns are new in PostgreSQL 15, and one of all columns is as good as none from 16 on")
    with stage(server, how, publications="p, q" if how.startswith("two") else "p") as both:
        monkeypatch.setenv(URL, url_of(server, "publisher"))
        target = stage_of(server, "publisher").target
        before, was = looks(both.conn), both.published()
        (made,) = changed(both, RENAME, rename_column.FORM)
        both.catches_up()
        both.conn.execute("INSERT INTO app.t (id, m, k) VALUES (5000, 70, 1); UPDATE app.t SET m = 71 WHERE id = 5000")
        both.catches_up()
        both.plain.execute(RENAME)
        differ = diff(looks(both.plain), looks(both.conn))
        assert [d.line() for d in differ if not is_declared(d, made.differs)] == []
        with connect(target) as conn:
            declared = until_contract(conn)
        assert [d.line() for d in differ if not is_declared(d, declared)] == []
        backwards = statements.parse("ALTER TABLE app.t RENAME COLUMN m TO n", "m.sql")
        (back,) = [Expander(both.conn, is_back=True).expand(one) for one in backwards]
        assert back.form == rename_column.BACK
        taken_back(both, back.steps)
        both.catches_up()
        assert (diff(before, looks(both.conn)), both.published()) == ([], was)
        changed(both, RENAME, rename_column.FORM)
        both.catches_up()
        contracted(target)
        if "without" not in how:
            both.subscriber.execute(RENAME)
            both.sent = both.sent.replace(" n", " m")
        both.conn.execute("INSERT INTO app.t (id, m, k) VALUES (5001, 3, 1); DELETE FROM app.t WHERE id = 5000")
        both.catches_up()
        assert diff(looks(both.plain), looks(both.conn)) == []
        assert both.conn.execute("SELECT FROM pgrunbook.published").fetchall() == []


@pytest.mark.newest
@pytest.mark.slow
def test_a_subscriber_that_is_renamed_later_stops_until_then_and_loses_nothing(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with a plain rename; contract shows the statement before it drops the column."""
    if server.version < 15:
        pytest.skip("lists of columns are new in PostgreSQL 15")
    with stage(server, "all columns") as both:
        monkeypatch.setenv(URL, url_of(server, "publisher"))
        target = stage_of(server, "publisher").target
        changed(both, RENAME, rename_column.FORM)
        with connect(target) as conn:
            (one,) = shadows.read(conn)
            told = contract_procedure._after(conn, one)
        assert told.endswith(
            "; p sends the new name from then on: a subscriber stops at the next row, loses nothing, and goes on after"
            f" {RENAME} there"
        )
        both.catches_up()
        contracted(target)
        both.conn.execute("UPDATE app.t SET m = m + 1")
        errors = "SELECT apply_error_count > 0 FROM pg_stat_subscription_stats WHERE subname = 'follows'"
        until(lambda: both.subscriber.execute(errors).fetchall() == [(True,)])
        both.subscriber.execute(RENAME)
        query = "SELECT id, m, k FROM app.t ORDER BY id"
        until(lambda: both.subscriber.execute(query).fetchall() == both.conn.execute(query).fetchall())


NOT_RENAMED = {
    "the row filter of publication p reads it": ("CREATE PUBLICATION p FOR TABLE app.t WHERE (n > 50)", "id, n"),
    "sends it in the replica identity": ("CREATE PUBLICATION p FOR TABLE app.t", "n, id"),
    "publication p of all tables would send the other column": ("CREATE PUBLICATION p FOR ALL TABLES", "id"),
    "publication p of whole schemas would send": ("CREATE PUBLICATION p FOR TABLES IN SCHEMA app", "id"),
    "with REPLICA IDENTITY FULL it takes no list": (
        "ALTER TABLE app.t REPLICA IDENTITY FULL; CREATE PUBLICATION p FOR TABLE app.t", "id",
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.newest
def test_where_a_publication_cannot_keep_the_old_name_the_gate_says_why(server: Server) -> None:
    """Each reason on a real table."""
    if server.version < 15:
        pytest.skip("lists of columns are new in PostgreSQL 15")
    for why, (made, key) in NOT_RENAMED.items():
        with server.copied("publisher", "template1"), server.connect("publisher") as conn:
            conn.execute(TABLE.format("integer", key))
            conn.execute(f"{ROWS}; {made}")
            (found,) = plan(conn, RENAME, batch_rows=15)
            assert found.gate is not None
            assert why in found.gate.says


@pytest.mark.newest
@pytest.mark.slow
def test_a_subscriber_of_a_swapped_table_has_the_rows(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through copy, cut-over and the way back; a publication that is made while rows are copied comes along."""
    if server.version < 15:
        pytest.skip("what a subscriber has met is counted from PostgreSQL 15 on")
    with stage(server, "all columns") as both:
        monkeypatch.setenv(URL, url_of(server, "publisher"))
        swapped = stage_of(server, "publisher")
        choice = SwapChoice(TableName("app", "t"), "ALTER TABLE {table} ALTER n TYPE bigint")
        with writing(server):
            begun = swapped.begun(choice)
            both.conn.execute("CREATE PUBLICATION later FOR TABLE app.t (id, k) WHERE (id < 100)")
            swapped.filled(begun)
            swapped.cut_over()
        both.catches_up()
        assert [name for name, _, _ in both.published()] == ["later", "p"]
        assert both.published()[0][1:] == (["id", "k"], "(id < 100)")
        with writing(server):
            swapped.cut_over()
        both.catches_up()
        assert [name for name, _, _ in both.published()] == ["later", "p"]
        swapped.cut_over()
        swapped.finish()
        both.conn.execute("UPDATE app.t SET k = k + 1")
        both.catches_up()


@pytest.mark.newest
@pytest.mark.slow
def test_a_subscriber_that_must_not_stop_has_both_names_before_contract(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a trigger that fires for what it is sent, too: it meets no error, and both names hold the same."""
    if server.version < 15:
        pytest.skip("lists of columns are new in PostgreSQL 15")
    with stage(server, "all columns") as both:
        monkeypatch.setenv(URL, url_of(server, "publisher"))
        changed(both, RENAME, rename_column.FORM)
        both.catches_up()
        both.subscriber.execute("ALTER TABLE app.t ADD COLUMN m bigint; UPDATE app.t SET m = n")
        both.subscriber.execute(BOTH_NAMES)
        both.conn.execute("INSERT INTO app.t (id, n, k) VALUES (5000, 70, 1); UPDATE app.t SET n = n + 1 WHERE id < 9")
        both.catches_up()
        contracted(stage_of(server, "publisher").target)
        both.conn.execute("INSERT INTO app.t (id, m, k) VALUES (5001, 3, 1); UPDATE app.t SET m = m + 1 WHERE id < 9")
        both.sent = both.sent.replace(" n", " m")
        both.catches_up()
        assert both.subscriber.execute("SELECT FROM app.t WHERE n <> m").fetchall() == []
        both.subscriber.execute("ALTER TABLE app.t DROP COLUMN n; DROP TRIGGER twin ON app.t")
        both.conn.execute("UPDATE app.t SET m = m + 1")
        both.catches_up()


BOTH_NAMES = """
CREATE FUNCTION both_names() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        NEW.n := coalesce(NEW.n, NEW.m);
        NEW.m := NEW.n;
    ELSIF NEW.m IS DISTINCT FROM OLD.m THEN
        NEW.n := NEW.m;
    ELSE
        NEW.m := NEW.n;
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER twin BEFORE INSERT OR UPDATE ON app.t FOR EACH ROW EXECUTE FUNCTION both_names();
ALTER TABLE app.t ENABLE ALWAYS TRIGGER twin
"""


@pytest.mark.slow
@pytest.mark.parametrize("change", [CHANGE, RENAME])
def test_given_up_the_publication_is_as_before(server: Server, change: str) -> None:
    """Behind each number of steps: it sends all columns again, and nothing of ours is noted."""
    if server.version < 15:
        pytest.skip("lists of columns are new in PostgreSQL 15")
    template = server.database("published_all", TABLE.format("integer", "id"), ROWS, PUBLISHED["all columns"][0])
    number, total = 0, 1
    while number < total:
        with server.copied("publisher", template), server.connect("publisher") as conn:
            step_log.create(conn)
            before = looks(conn)
            made = plan(conn, change, batch_rows=100)
            total = len(made[0].steps)
            perform(conn, made, until=lambda step, last=made[0].steps[number]: step is last)
            undo(conn, made)
            assert diff(before, looks(conn)) == []
            assert conn.execute("SELECT FROM pgrunbook.published").fetchall() == []
        number += 1


def test_no_statement_of_ours_looks_like_a_secret() -> None:
    """A plan whose text is masked could not be executed."""
    table = Relation(0, "app", "t")
    made = [publications.listed(table, ["n"]), publications.whole(table), publications.cleanup(table)]
    made += [publications.around(CHANGE, table, ["n"]), publications.unsent(table, ["n"], 18)]
    made.append(publications.with_others(table, come=["n"], gone=["k"]))
    assert [text for text in made if list(secrets.spans(text))] == []


@pytest.mark.slow
def test_columns_come_and_go_before_the_change_or_after_contract(server: Server) -> None:
    """A list would leave out a new one: the statement is refused, and of one release the change has no safe form."""
    if server.version < 15:
        pytest.skip("lists of columns are new in PostgreSQL 15")
    template = server.database("published_all", TABLE.format("integer", "id"), ROWS, PUBLISHED["all columns"][0])
    with server.copied("publisher", template), server.connect("publisher") as conn:
        step_log.create(conn)
        for later in ("ALTER TABLE app.t ADD COLUMN z text", "ALTER TABLE app.t DROP COLUMN k"):
            found = plan(conn, f"{CHANGE}; {later}", batch_rows=15)
            assert [one.form for one in found] == ["", ""]
            assert "changes what would live on beside it until contract" in (
                found[0].gate.says if found[0].gate else ""
            )
            assert plan(conn, f"{later}; {CHANGE}", batch_rows=15)[1].form == "shadow-column"
        perform(conn, plan(conn, CHANGE, batch_rows=100))
        refused = error_of(lambda: plan(conn, "ALTER TABLE app.t ADD COLUMN z text"))
        assert str(refused) == (
            "could not plan m.sql:1 (ALTER TABLE ADD COLUMN):"
            " publication p has a list of columns of app.t until contract\n"
            "Detail: It would not send a column that is added, and a column that is dropped is still in it.\n"
            "State: Nothing changed in the database.\n"
            "Hint: pgrunbook run contract --target TARGET, then begin again."
        )


@pytest.mark.newest
@pytest.mark.slow
def test_a_column_that_is_added_beside_is_sent_from_the_cut_over_on(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by the plain change, of which it is a part; the way back takes it out of the list, and drops it."""
    if server.version < 15:
        pytest.skip("lists of columns are new in PostgreSQL 15")
    beside = "ADD COLUMN z integer DEFAULT 7, ADD COLUMN y float8 DEFAULT random()"
    with stage(server, "all columns") as both:
        monkeypatch.setenv(URL, url_of(server, "publisher"))
        both.subscriber.execute("ALTER TABLE app.t ADD COLUMN z integer, ADD COLUMN y float8")
        before = looks(both.conn)
        (made,) = changed(both, f"{CHANGE}, {beside}")
        both.catches_up()
        added, both.sent = both.sent, "SELECT id, z, y FROM app.t WHERE id > 5000"
        both.conn.execute("INSERT INTO app.t (id, n, k) VALUES (5001, 1, 1); UPDATE app.t SET z = 8 WHERE id = 5001")
        until(lambda: both.subscriber.execute(both.sent).fetchall() == both.conn.execute(both.sent).fetchall())
        both.conn.execute("DELETE FROM app.t WHERE id = 5001")
        both.sent = added
        taken_back(both, made.back)
        both.catches_up()
        assert diff(before, looks(both.conn)) == []
        changed(both, f"{CHANGE}, {beside}")
        contracted(stage_of(server, "publisher").target)
        both.conn.execute("UPDATE app.t SET z = 9")
        both.catches_up()
        assert [sorted(columns) for _, columns, _ in both.published()] == [["id", "k", "n", "y", "z"]]
        assert both.conn.execute("SELECT FROM pgrunbook.published").fetchall() == []


@pytest.mark.first_case
@pytest.mark.parametrize("change", [CHANGE, RENAME])
def test_a_publication_that_was_made_since_the_plan_refuses_the_step(server: Server, change: str) -> None:
    """Before its first write, and before the cut-over: the transaction is aborted, and the publication is named."""
    if server.version < 15:
        pytest.skip("lists of columns are new in PostgreSQL 15")
    template = server.database("published_none", TABLE.format("integer", "id"), ROWS)
    made = "publication {} would send .* of app.t, which its subscribers lack"
    with server.copied("publisher", template), server.connect("publisher") as conn:
        step_log.create(conn)
        before = looks(conn)
        found = plan(conn, change, batch_rows=300)
        adds = next(step for step in found[0].steps if "ADD COLUMN" in step.sql)
        for publication in ("FOR TABLE app.t", "FOR ALL TABLES", "FOR TABLES IN SCHEMA app"):
            conn.execute(f"CREATE PUBLICATION late {publication}")
            assert diff(before, looks(conn)) != []  # which a run refuses that has not begun yet
            with pytest.raises(psycopg.errors.RaiseException, match=made.format("late")), conn.transaction():
                conn.execute(adds.sql)
            conn.execute("DROP PUBLICATION late; CREATE PUBLICATION harmless FOR TABLE app.t (id, k)")
            conn.execute("DROP PUBLICATION harmless")
            assert diff(before, looks(conn)) == []
        perform(conn, found, until=lambda step: step is found[0].steps[-1])
        between = looks(conn)
        conn.execute("CREATE PUBLICATION late FOR TABLE app.t")
        with pytest.raises(psycopg.errors.RaiseException, match=made.format("late")), conn.transaction():
            conn.execute(found[0].steps[-1].sql)
        conn.execute("DROP PUBLICATION late")
        assert diff(between, looks(conn)) == []


@pytest.mark.slow
def test_what_rewrites_nothing_is_done_though_a_list_has_the_column(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the rewrite of a small table is; PostgreSQL refuses both as they are written."""
    if server.version < 15:
        pytest.skip("lists of columns are new in PostgreSQL 15")
    made = "CREATE PUBLICATION p FOR TABLE app.t (id, n, w), app.o (id) WHERE (id > 5)"
    others = "ALTER TABLE app.t ADD w varchar(9); CREATE TABLE app.o (id integer PRIMARY KEY)"
    template = server.database("published_list", TABLE.format("integer", "id"), ROWS, others, made)
    with server.copied("publisher", template), server.connect("publisher") as conn:
        step_log.create(conn)
        was = "SELECT pubname, tablename, attnames::text, rowfilter FROM pg_publication_tables ORDER BY 2"
        before = conn.execute(was).fetchall()
        monkeypatch.setattr(small_table, "MOST_ROWS", 1_000)
        for change in ("ALTER TABLE app.t ALTER w TYPE text", CHANGE, "ALTER TABLE app.o ALTER id TYPE bigint"):
            with pytest.raises(psycopg.errors.FeatureNotSupported):
                conn.execute(change)
            found = plan(conn, change)
            assert [(one.form, one.gate) for one in found] == [("", None)]
            perform(conn, found)
            conn.execute("DROP SCHEMA performed CASCADE")
        assert conn.execute(was).fetchall() == before
        types = "SELECT pg_typeof(n)::text, pg_typeof(w)::text FROM app.t LIMIT 1"
        assert conn.execute(types).fetchall() == [("bigint", "text")]


@pytest.mark.slow
def test_a_publication_of_another_role_is_a_gate(server: Server) -> None:
    """Where it sends the column; where its list leaves that out, nothing of it is changed."""
    if server.version < 15:
        pytest.skip("lists of columns are new in PostgreSQL 15")
    template = server.database("published_all", TABLE.format("integer", "id"), ROWS, PUBLISHED["all columns"][0])
    with server.copied("publisher", template), server.connect("publisher") as conn:
        step_log.create(conn)
        conn.execute("CREATE ROLE owns_table; GRANT ALL ON SCHEMA app TO owns_table")
        conn.execute("ALTER TABLE app.t OWNER TO owns_table; ALTER SCHEMA pgrunbook OWNER TO owns_table")
        conn.execute("GRANT ALL ON ALL TABLES IN SCHEMA pgrunbook TO owns_table; SET ROLE owns_table")
        try:
            (found,) = plan(conn, CHANGE, batch_rows=15)
            assert found.gate is not None
            assert "publication p, which sends it, is another role's" in found.gate.says
            conn.execute("RESET ROLE; ALTER PUBLICATION p SET TABLE app.t (id, k); SET ROLE owns_table")
            made = plan(conn, CHANGE, batch_rows=15)
            assert [one.form for one in made] == ["shadow-column"]
            conn.execute("RESET ROLE; GRANT CREATE ON DATABASE publisher TO owns_table; SET ROLE owns_table")
            perform(conn, made)
            assert conn.execute("SELECT attnames::text FROM pg_publication_tables").fetchall() == [("{id,k}",)]
        finally:
            conn.execute("RESET ROLE; REASSIGN OWNED BY owns_table TO postgres; DROP OWNED BY owns_table")
            conn.execute("DROP ROLE owns_table")


@pytest.mark.slow
def test_a_publication_that_was_renamed_sends_all_columns_again(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind contract; one that has a list of its own keeps it, also where that has all columns."""
    if server.version < 15:
        pytest.skip("lists of columns are new in PostgreSQL 15")
    template = server.database("published_all", TABLE.format("integer", "id"), ROWS, PUBLISHED["all columns"][0])
    lists = "SELECT p.pubname::text, r.prattrs::text FROM pg_publication_rel AS r JOIN pg_publication AS p"
    lists += " ON p.oid = r.prpubid ORDER BY 1"
    for renamed, ends in (("ALTER PUBLICATION p RENAME TO a", None), ("SELECT 1", "1 3 4")):
        with server.copied("publisher", template), server.connect("publisher") as conn:
            step_log.create(conn)
            monkeypatch.setenv(URL, url_of(server, "publisher"))
            perform(conn, plan(conn, CHANGE, batch_rows=100))
            conn.execute(renamed.encode())
            if ends is not None:
                conn.execute("CREATE PUBLICATION a FOR TABLE app.t (id, k, n)")
            contracted(stage_of(server, "publisher").target)
            found = dict(conn.execute(lists).fetchall())  # type: ignore[arg-type]
            assert found == ({"a": None} if ends is None else {"a": ends, "p": None})
