"""Masked values are nowhere in a branch, wherever its server keeps values, and whatever fires or refers to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conftest import connect, rows
from own_state import own_source
from pgrunbook.branches import masking, registry
from pgrunbook.branches.provider import Wanted
from pgrunbook.branches.server import Server
from pgrunbook.branches.server_branches import ServerBranches
from pgrunbook.config import targets
from pgrunbook.config.targets import Target
from pgrunbook.database import step_log
from pgrunbook.database.shadows import Shadow
from pgrunbook.errors import WrongInput
from pgrunbook.session import naming
from renames import rename

Declare = Callable[..., Target]
PLACES = (
    # Where old values lie, or what writes them anew: each is told by the word before its number.
    """CREATE TABLE parent (id int, mail text);
    CREATE TABLE child (more text) INHERITS (parent);
    INSERT INTO child SELECT n, 'child-' || n, '-' FROM generate_series(1, 50) AS n""",
    """CREATE TABLE parted (id int, mail text) PARTITION BY RANGE (id);
    CREATE TABLE part PARTITION OF parted FOR VALUES FROM (0) TO (100);
    INSERT INTO parted SELECT n, 'part-' || n FROM generate_series(1, 50) AS n""",
    """CREATE TABLE audited (id int, mail text); CREATE TABLE audit (mail text);
    INSERT INTO audited SELECT n, 'audit-' || n FROM generate_series(1, 50) AS n;
    CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql
        AS 'BEGIN INSERT INTO public.audit VALUES (OLD.mail); RETURN NEW; END';
    CREATE TRIGGER note AFTER UPDATE ON audited FOR EACH ROW EXECUTE FUNCTION note();
    ALTER TABLE audited ENABLE ALWAYS TRIGGER note""",
    """CREATE TABLE kept (id int, mail text); INSERT INTO kept SELECT n, 'kept-' || n FROM generate_series(1, 50) AS n;
    CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN OLD; END';
    CREATE TRIGGER keep BEFORE UPDATE ON kept FOR EACH ROW EXECUTE FUNCTION keep();
    ALTER TABLE kept ENABLE REPLICA TRIGGER keep""",
    """CREATE TABLE ruled (id int, mail text);
    INSERT INTO ruled SELECT n, 'ruled-' || n FROM generate_series(1, 50) AS n;
    CREATE RULE nothing AS ON UPDATE TO ruled DO INSTEAD NOTHING; ALTER TABLE ruled ENABLE ALWAYS RULE nothing""",
    """CREATE TABLE viewed (id int, mail text);
    INSERT INTO viewed SELECT n, 'viewed-' || n FROM generate_series(1, 50) AS n;
    CREATE VIEW between AS SELECT * FROM viewed;
    CREATE MATERIALIZED VIEW above AS SELECT * FROM between;
    CREATE MATERIALIZED VIEW below AS SELECT * FROM viewed;
    CREATE OR REPLACE VIEW between AS SELECT * FROM below; REFRESH MATERIALIZED VIEW above""",
    """CREATE UNLOGGED TABLE unlogged (id int, mail text);
    INSERT INTO unlogged SELECT n, 'unlogged-' || n FROM generate_series(1, 50) AS n""",
    '''CREATE SCHEMA types; CREATE DOMAIN types.email AS text CHECK (value <> \'\');
    CREATE TABLE "o'dd %s ""t""" ("m%s ""x""" types.email);
    INSERT INTO "o'dd %s ""t""" SELECT 'odd-' || n FROM generate_series(1, 50) AS n''',
    """CREATE TABLE retyped (mail text, pgrunbook_old_mail varchar, pgrunbook_new_mail bytea);
    INSERT INTO retyped SELECT 'retyped-' || n, 'retyped-' || n, 'retyped-' FROM generate_series(1, 50) AS n;
    CREATE TABLE renamed (mail text, old_mail text);
    INSERT INTO renamed SELECT 'renamed-' || n, 'renamed-' || n FROM generate_series(1, 50) AS n;
    INSERT INTO pgrunbook.shadow VALUES
        ('public', 'retyped', 'mail', 'pgrunbook_old_mail', 'type change', '0001_a', 'sync_0123456789abcdef'),
        ('public', 'renamed', 'mail', 'old_mail', 'rename', '0002_b', 'sync_123456789abcdef0')""",
    """CREATE FUNCTION upper_of(text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN shout($1); END';
    CREATE FUNCTION shout(text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT upper($1)';
    CREATE TABLE called (mail text); INSERT INTO called SELECT 'called-' || n FROM generate_series(1, 50) AS n;
    CREATE STATISTICS of_called ON (lower(mail)), mail FROM called;
    CREATE INDEX ON called (upper_of(mail))""",
)
FOREIGN = """
    CREATE EXTENSION postgres_fdw; CREATE SERVER elsewhere FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '/nowhere');
    CREATE FOREIGN TABLE far PARTITION OF parted FOR VALUES FROM (100) TO (200) SERVER elsewhere;
    CREATE MATERIALIZED VIEW fetched AS SELECT * FROM far WITH NO DATA;
    UPDATE pg_class SET relispopulated = true WHERE relname = 'fetched'
"""
KEYS = """
    CREATE TABLE wide (n bigint UNIQUE, t text UNIQUE, d numeric UNIQUE);
    CREATE TABLE narrow (n int REFERENCES wide (n), t varchar(9) REFERENCES wide (t), d numeric REFERENCES wide (d));
    INSERT INTO wide SELECT n, 't' || n, n FROM generate_series(1, 50) AS n;
    INSERT INTO narrow SELECT n, 't' || n, n + 0.00 FROM generate_series(1, 50) AS n
"""
WORDS = (
    "child",
    "part",
    "audit",
    "kept",
    "ruled",
    "viewed",
    "unlogged",
    "odd",
    "called",
    "retyped",
    "renamed",
    "orphan",
    "template",
    "beside",
)
TABLES = ("parent", "parted", "audited", "kept", "ruled", "viewed", "unlogged", "called", "retyped", "renamed")
RULES = "\n".join((
    "[shop.masking]",
    *(f'"{table}.mail" = "hash"' for table in TABLES),
    r'''"\"o'dd %s \"\"t\"\"\".\"m%s \"\"x\"\"\"" = "hash"''',
    *(f'"{table}.{column}" = "hash"' for table in ("wide", "narrow") for column in "ntd"),
))  # fmt: skip


@pytest.fixture(scope="module")
def source(version: int) -> Iterator[Server]:
    """A server with values in every place, also in databases that every cluster has."""
    with own_source(version, targets="") as server:
        with server.connect() as conn:
            conn.execute("CREATE DATABASE shop")
            conn.execute("CREATE TABLE public.beside AS SELECT 'beside-' || n AS x FROM generate_series(1, 50) AS n")
        with server.connect(database="template1") as conn:
            conn.execute("CREATE TABLE public.more AS SELECT 'template-' || n AS x FROM generate_series(1, 50) AS n")
        called = "public.shout" if version >= 17 else "shout"  # before, an index is made with the session's search_path
        with server.connect(database="shop") as conn:
            step_log.create(conn)
        with server.connect(database="shop") as conn, conn.as_target():
            for text in (*PLACES, KEYS, "ANALYZE", FOREIGN):
                conn.execute(text.replace("RETURN shout", f"RETURN {called}").encode())
        yield server


@pytest.fixture
def declare(source: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Declare]:
    """Declare target ``shop``; its branches go with it."""
    file = tmp_path / "targets.toml"
    monkeypatch.setenv("PGRUNBOOK_TARGETS", str(file))

    def write(more: str = "", way: str = f'server = "{source.name}"') -> Target:
        file.write_text(f'[shop]\n{way}\ndatabase = "shop"\nhistory = "plain"\n{more}\n')
        return targets.load("shop")

    yield write
    for one in registry.branches():
        Server(str(one.server)).destroy()
        registry.forget(one)


def words_in(folder: Path) -> set[str]:
    """Return which words the files below a folder hold, each before its number."""
    contents = [path.read_bytes().lower() for path in folder.rglob("*") if path.is_file()]
    return {word for word in WORDS if any(f"{word}-17".encode() in one for one in contents)}


@pytest.mark.slow
def test_masked_values_are_in_no_file_of_a_branch(declare: Declare, source: Server) -> None:
    """Neither in what was there, nor in what fires meanwhile; keys hold, and what fires is as it was."""
    target = declare(RULES)
    assert words_in(source.dir) >= set(WORDS) - {"orphan"}
    with connect(target) as conn, conn.transaction(force_rollback=True):
        conn.execute("CREATE TABLE public.orphan AS SELECT 'orphan-' || n AS x FROM generate_series(1, 50000) AS n")
        conn.execute("CHECKPOINT")
        assert "orphan" in words_in(source.dir / "data" / "base")
        ServerBranches("cluster").create(target, Wanted("masked", "somebody"))
    branch = naming.target("shop@masked")
    with connect(branch) as conn:
        conn.execute("CHECKPOINT")
    assert words_in(Server(str(branch.server)).dir) == set()
    fires = "SELECT tgname, tgenabled FROM pg_trigger WHERE NOT tgisinternal ORDER BY tgname"
    assert rows(branch, fires) == [("keep", "R"), ("note", "A")]
    assert rows(branch, "SELECT ev_enabled FROM pg_rewrite WHERE rulename = 'nothing'") == [("A",)]
    for column in "ntd":
        joined = f"SELECT count(*) FROM narrow JOIN wide USING ({column})"
        assert rows(branch, joined) == [(50,)]
    assert rows(branch, "SELECT count(*) FROM above JOIN below USING (mail)") == [(50,)]
    databases = "SELECT datname, datistemplate FROM pg_database ORDER BY datname"
    assert rows(branch, databases) == rows(target, databases)
    assert len(rows(branch, "SELECT DISTINCT tablename FROM pg_stats WHERE attname = 'mail'")) >= len(TABLES)


@pytest.mark.slow
@pytest.mark.newest
@pytest.mark.parametrize("column", ["mail", "address"])
@pytest.mark.parametrize("rows_", [None, 20])
def test_what_lives_beside_a_masked_column_is_masked_too(
    declare: Declare, source: Server, column: str, rows_: int | None
) -> None:
    """Both names of a renamed column, whichever the rule names; of a changed type the old values are gone."""
    target = declare(f'[shop.masking]\n"pair.{column}" = "hash"\n"typed.n" = "hash"')
    with source.connect(database="shop") as conn:
        conn.execute("DROP TABLE IF EXISTS public.pair, public.typed")
        conn.execute("CREATE TABLE public.pair (id int PRIMARY KEY, mail text)")
        conn.execute("CREATE TABLE public.typed (id int PRIMARY KEY, n int)")
        conn.execute("INSERT INTO public.pair SELECT n, 'both-' || n FROM generate_series(1, 50) AS n")
        conn.execute("INSERT INTO public.typed SELECT n, 70000 + n FROM generate_series(1, 50) AS n")
        conn.execute("DROP SCHEMA IF EXISTS pgrunbook CASCADE")
    rename(target, "ALTER TABLE public.pair RENAME COLUMN mail TO address")
    with connect(target) as conn:
        old = Shadow("public", "typed", "n", "pgrunbook_old_n", "type change", "0001_a", "sync_0123456789abcdef")
        conn.execute(
            "ALTER TABLE public.typed RENAME n TO pgrunbook_old_n; ALTER TABLE public.typed ADD COLUMN n bigint"
        )
        conn.execute(f"UPDATE public.typed SET n = pgrunbook_old_n; {old.entry()}")
    assert rows(target, "SELECT count(*) FROM public.pair WHERE mail ~ 'both-' AND address ~ 'both-'") == [(50,)]
    provider = ServerBranches("cluster" if rows_ is None else "connection")
    provider.create(target, Wanted("masked", "somebody", rows=rows_))
    branch = naming.target("shop@masked")
    assert rows(branch, "SELECT count(*) > 0, bool_and(mail = address) FROM public.pair") == [(True, True)]
    assert rows(branch, "SELECT count(*) FROM public.pair WHERE mail ~ 'both-' OR address ~ 'both-'") == [(0,)]
    assert rows(
        branch, "SELECT count(*) FROM public.typed WHERE pgrunbook_old_n IS NOT NULL OR n BETWEEN 70000 AND 70050"
    ) == [(0,)]


@pytest.mark.slow
@pytest.mark.newest
def test_rules_name_what_the_sessions_of_the_target_see(
    declare: Declare, source: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where their search_path and mode are not those of the branch's superuser."""
    with source.connect(database="shop") as conn:
        for text in (
            "CREATE ROLE app SUPERUSER LOGIN; CREATE SCHEMA app",
            "CREATE TABLE app.parent AS SELECT 'own-17' AS mail; CREATE TABLE public.same AS SELECT 'same-17' AS mail",
            "DROP TABLE public.called",  # no dump of it can be loaded
            "ALTER ROLE app SET search_path = app, public",
            "ALTER DATABASE shop SET default_transaction_read_only = on",
        ):
            conn.execute(text.encode())
    monkeypatch.setenv("SHOP_URL", f"postgresql://app@/shop?host={source.socket_dir}")
    target = declare('[shop.masking]\n"parent.mail" = "hash"\n"same.mail" = "hash"', way='url_from = "SHOP_URL"')
    ServerBranches("connection").create(target, Wanted("masked", "somebody"))
    branch = naming.target("shop@masked")
    assert rows(branch, "SELECT count(*) FROM app.parent WHERE mail = 'own-17'") == [(0,)]
    assert rows(branch, "SELECT count(*) FROM same WHERE mail = 'same-17'") == [(0,)]
    assert rows(branch, "SELECT count(*) FROM public.parent WHERE mail LIKE 'child-%'") == [(50,)]


REFUSED = """
    CREATE COLLATION fuzzy (locale = 'C'); UPDATE pg_collation SET collisdeterministic = false WHERE collname = 'fuzzy';
    CREATE TABLE root (id int, k text, PRIMARY KEY (id, k)) PARTITION BY RANGE (id);
    CREATE TABLE leaf PARTITION OF root FOR VALUES FROM (0) TO (9);
    CREATE TABLE leads (id int, k text, more text, FOREIGN KEY (id, k) REFERENCES root);
    CREATE TABLE full_key (id int, k text, a text COLLATE fuzzy, b numeric(2, 4), c numeric(2, 2),
                           FOREIGN KEY (id, k) REFERENCES root MATCH FULL);
    CREATE DOMAIN required AS text NOT NULL; CREATE TABLE of_domain (a required)
"""
CANNOT = [
    ({"leaf.k": "hash"}, "Foreign key leads_id_k_fkey"),
    ({"root.k": "hash"}, "Foreign key leads_id_k_fkey leads from leads.k to root.k."),
    ({"root.k": "hash", "leads.k": "null"}, "Foreign key full_key_id_k_fkey leads from full_key.k to root.k."),
    ({"full_key.k": "null"}, "Foreign key full_key_id_k_fkey"),
    ({"full_key.a": "hash"}, "Its collation takes different values for equal."),
    ({"full_key.b": "hash"}, "Type numeric(2,4) has no hash."),
    ({"full_key.c": "hash"}, "Type numeric(2,2) has no hash."),
    ({"of_domain.a": "null"}, "The column is NOT NULL."),
]
CAN = [{"leads.k": "null"}, {"full_key.k": "null", "full_key.id": "null"}, {"full_key.a": "null"}]


@pytest.mark.newest
def test_a_rule_that_cannot_hold_is_refused_by_the_catalog(project: Callable[..., Target]) -> None:
    """One side of a key alone, also of a partition's; half of a full one; what has no hash."""
    target = project(folder={})
    with connect(target) as conn:
        conn.execute(REFUSED)
        for rules, says in CANNOT:
            with pytest.raises(WrongInput) as told:
                masking.check(conn, target.model_copy(update={"masking": rules}))
            assert says in str(told.value.detail), rules
        for rules in CAN:
            assert masking.check(conn, target.model_copy(update={"masking": rules})).keys() == rules.keys()
