"""Each hazard is found in its bad example and not in its good one, and tells what to do in the operator's names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from types import MappingProxyType

import pglast
import pytest
from pglast import ast

from pgrunbook.database.catalog import UNKNOWN, Catalog, Dependent, Standing, Use
from pgrunbook.effects.catalog_after import after
from pgrunbook.review.hazards import RULES, Hazard, Note, Rule, Scene, Severity, Timeouts, Transactions, find
from pgrunbook.review.hazards.rule import Check
from pgrunbook.review.safe_mode import refusals
from pgrunbook.review.statement_scenes import script, stage
from pgrunbook.sql.statements import parse
from pgrunbook.sql.tree import tree

BIG, SMALL = 50_000_000, 50


def database(sql: str, rows: int = BIG) -> Catalog:
    """Return the catalog of a database that these statements made, and that has been in use for long."""
    catalog = Catalog(connected=True, major=18, time_zone="Europe/Berlin", search_path=("pg_catalog", "public"))
    for statement in parse(sql, "there.sql"):
        catalog = after(catalog, tree(statement.sql))
    tables = {
        key: replace(table, standing=Standing.THERE, rows_estimate=rows, table_bytes=rows * 100)
        for key, table in catalog.tables.items()
    }
    return replace(catalog, tables=MappingProxyType(tables))


def hazards(
    sql: str | tuple[str, ...],
    catalog: Catalog = UNKNOWN,
    transactions: Transactions = Transactions.UNKNOWN,
    timeouts: Timeouts | None = None,
    design: bool = True,
) -> list[Hazard]:
    """Return all hazards of one file, or of several."""
    files = [sql] if isinstance(sql, str) else list(sql)
    read = script([(f"{number}.sql", text) for number, text in enumerate(files)])
    scenes = stage(read, catalog, transactions=transactions, timeouts=timeouts)
    chosen = [rule.id for rule in RULES.values() if rule.taste] if design else []
    return [hazard for _, found in find(scenes, design_rules=chosen) for hazard in found]


def ids(*args: object, **options: object) -> set[str]:
    return {hazard.id for hazard in hazards(*args, **options)}  # type: ignore[arg-type]


def _there(rule: Rule) -> Catalog:
    return database(rule.setup) if rule.setup else UNKNOWN


@pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
def test_bad_example_is_found(rule: Rule) -> None:
    """The bad example of a rule has its hazard, told in full."""
    found = [hazard for hazard in hazards(rule.bad, _there(rule)) if hazard.id == rule.id]
    assert found
    for hazard in found:
        assert hazard.condition.endswith(".")
        assert hazard.effect.endswith(".")
        assert hazard.way_out
        assert "None" not in hazard.effect + hazard.way_out


@pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
def test_good_example_is_not_found(rule: Rule) -> None:
    """The good example of a rule does not have its hazard."""
    assert rule.id not in ids(rule.good, _there(rule))


@pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
def test_way_out_is_sql_of_the_same_names(rule: Rule) -> None:
    """What is advised can be parsed where it leaves nothing open."""
    for hazard in hazards(rule.bad, _there(rule)):
        is_part = any(word in hazard.way_out for word in ("...", "$last", "FOREIGN KEY (b)"))
        if hazard.id == rule.id and not is_part and not hazard.way_out[0].islower():
            pglast.parse_sql(hazard.way_out)


def test_a_rule_finds_nothing_where_it_says_that_it_concerns_nothing() -> None:
    """What a rule says that it looks at is all that it looks at: asked about anything else, it finds nothing."""
    texts = [text for rule in RULES.values() for text in (rule.bad, rule.good)]
    files = [[text] if isinstance(text, str) else list(text) for text in texts]
    reads = [script([(f"{number}.sql", text) for number, text in enumerate(each)]) for each in files]
    scenes = [scene for read in reads for scene in stage(read, UNKNOWN)]
    every = [one for scene in scenes for one in (scene, *scene.inner)]
    others = [(rule, one) for rule in RULES.values() for one in every if not rule.concerns(one.kinds)]
    missed = {rule.id for rule, one in others if list(rule.check(one))}
    assert not missed


@pytest.mark.slow
def test_the_expressions_of_a_body_are_left_to_the_rules_that_they_concern(monkeypatch: pytest.MonkeyPatch) -> None:
    """A body of a thousand assignments is judged by the few rules that look at every statement, and by no other."""
    asked: Counter[str] = Counter()
    for name, known in RULES.items():

        def counted(scene: Scene, check: Check = known.check, name: str = name) -> Iterator[Note]:
            asked[name] += 1
            return check(scene)

        monkeypatch.setitem(RULES, name, replace(known, check=counted))
    body = "".join(f"v := v + {number};" for number in range(1000))
    hazards(f"DO $$ DECLARE v bigint := 0; BEGIN {body} END $$;")
    assert {name for name, times in asked.items() if times > 1} == {rule.id for rule in RULES.values() if not rule.on}
    assert asked.total() < 6 * 1010


def test_a_way_out_is_written_where_it_is_told() -> None:
    """The batches of an UPDATE are not written where its table is new, and nothing is told of it."""
    table, change = "CREATE TABLE a (id integer PRIMARY KEY, b text);", "UPDATE a SET b = 'x';"
    (scene,) = [s for s in stage(script([("1.sql", table + change)]), UNKNOWN) if isinstance(s.node, ast.UpdateStmt)]
    (note,) = RULES["update-unbatched"].check(scene)
    assert callable(note.way_out)
    assert "update-unbatched" not in ids(table + change)


@pytest.mark.parametrize(
    ("sql", "told"),
    [
        ("DROP RULE quiet ON orders;", "rule quiet of orders: it no longer acts."),
        ("DROP POLICY mine ON orders;", "policy mine of orders: roles see no row that only it let through."),
        ("DROP PUBLICATION news;", "publication news: its subscribers get no more changes."),
        ("ALTER PUBLICATION news DROP TABLE orders;",
         "publication news: its subscribers get no more changes of what is taken out."),
        ("DROP SUBSCRIPTION news;", "subscription news: this database gets no more changes."),
        ("DROP ROLE app;", "role app: whoever logs in as it fails."),
        ("DROP POLICY mine ON orders; CREATE POLICY own ON orders USING (true);", None),
        ("CREATE PUBLICATION news; DROP PUBLICATION news;", None),
        ("CREATE ROLE app; DROP ROLE app;", None),
        ("CREATE TABLE a (); CREATE TRIGGER t AFTER UPDATE ON a EXECUTE FUNCTION f(); DROP TRIGGER t ON a;", None),
        ("ALTER PUBLICATION news ADD TABLE orders;", None),
    ],
)  # fmt: skip
def test_what_others_rely_on_is_told_when_it_is_dropped(sql: str, told: str | None) -> None:
    """Unless the same transaction puts another one in its place, or it was made here."""
    found = [hazard.effect for hazard in hazards(sql) if hazard.id == "relied-upon-dropped"]
    assert found == ([told] if told else [])


def test_ids_and_severities_are_well_formed() -> None:
    """An id is of small words with hyphens; nothing is registered under another id."""
    for name, rule in RULES.items():
        assert name == rule.id
        assert name.replace("-", "").islower()
        assert isinstance(rule.severity, Severity)


ORDERS = "CREATE TABLE orders (id integer PRIMARY KEY, user_id integer, total integer, email varchar(50), note text);"


@pytest.mark.parametrize(
    ("rows", "severity"), [(BIG, Severity.ERROR), (SMALL, Severity.NOTE), (0, None)], ids=["big", "small", "empty"]
)
def test_the_size_of_the_table_decides(rows: int, severity: Severity | None) -> None:
    """An index build is an error on 50 million rows, a note on 50, nothing on an empty table."""
    found = hazards("CREATE INDEX orders_user ON orders (user_id);", database(ORDERS, rows), design=False)
    assert [h.severity for h in found if h.id == "index-not-concurrent"] == ([severity] if severity else [])


def test_a_table_of_the_same_migrations_is_harmless() -> None:
    """On a table that an earlier statement, or file, makes, nobody waits."""
    make = ORDERS
    change = "CREATE INDEX ON orders (user_id); ALTER TABLE orders ALTER COLUMN total TYPE bigint;"
    assert ids((make, change), design=False) == set()
    assert ids((make, change), database(""), design=False) == set()
    assert {"index-not-concurrent", "column-type-rewrites"} <= ids(change, design=False)


def test_public_is_the_schema_that_is_meant() -> None:
    """Drizzle makes "a" and refers to "public"."a": without a database these are taken for one table."""
    make = 'CREATE TABLE "a" ("id" int PRIMARY KEY); CREATE TABLE "b" ("a" int); CREATE INDEX ON "b" ("a");'
    change = 'ALTER TABLE "b" ADD FOREIGN KEY ("a") REFERENCES "public"."a"("id");'
    assert ids(make + change, design=False) == set()


def test_a_copy_is_not_a_new_table() -> None:
    """A new table that is filled from a big one is as big."""
    copy = ORDERS.replace("orders", "copy")
    sql = copy + "INSERT INTO copy SELECT * FROM orders; CREATE INDEX ON copy (user_id);"
    assert "index-not-concurrent" in ids(sql, database(ORDERS), design=False)


def test_a_copy_is_one_whichever_way_its_columns_are_named() -> None:
    """All rows and columns of one table; some of them are a new table, which nobody uses before it has a name."""
    make, index = ORDERS.replace("orders", "copy"), "CREATE INDEX ON copy (user_id);"
    whole = ("*", "orders.*", "id, user_id, total, email, note", "note, email, total, user_id, id")
    some = ("* FROM orders WHERE id < 9", "* FROM orders LIMIT 9", "DISTINCT * FROM orders", "id, total FROM orders",
            "max(id) FROM orders", "* FROM orders, users", "* FROM (SELECT * FROM orders) AS o")  # fmt: skip
    for query, is_whole in (*((f"{columns} FROM orders", True) for columns in whole), *((q, False) for q in some)):
        sql = f"{make} INSERT INTO copy SELECT {query}; {index}"
        is_told = "index-not-concurrent" in ids(sql, database(ORDERS + "CREATE TABLE users (a int);"), design=False)
        assert is_told is is_whole, query


def test_estimates_tell_their_basis() -> None:
    """How long others wait is told with the size and speed it is taken from."""
    (found,) = [
        h
        for h in hazards("CREATE INDEX orders_user ON orders (user_id);", database(ORDERS))
        if h.id == "index-not-concurrent"
    ]
    assert "for about 2 min (50,000,000 rows at 400,000 a second)" in found.effect
    assert found.way_out.startswith("CREATE INDEX CONCURRENTLY orders_user ON orders (user_id);")


@pytest.mark.parametrize(
    ("type_", "rewrites"),
    [("varchar(100)", False), ("text", False), ("varchar(20)", True), ("char(50)", True)],
)
def test_type_changes_are_judged_by_the_old_type(type_: str, rewrites: bool) -> None:
    """Widening a varchar is free, narrowing is not."""
    found = ids(f"ALTER TABLE orders ALTER COLUMN email TYPE {type_};", database(ORDERS), design=False)
    assert ("column-type-rewrites" in found) is rewrites


def test_validated_check_saves_the_scan() -> None:
    """SET NOT NULL after a validated CHECK reads nothing."""
    steps = (
        "ALTER TABLE orders ADD CONSTRAINT total_there CHECK (total IS NOT NULL) NOT VALID;",
        "ALTER TABLE orders VALIDATE CONSTRAINT total_there;",
        "ALTER TABLE orders ALTER COLUMN total SET NOT NULL;",
    )
    assert "set-not-null-scans" not in ids(steps, database(ORDERS))
    assert "set-not-null-scans" in ids(steps[2], database(ORDERS))
    assert "set-not-null-scans" in ids((steps[0], steps[2]), database(ORDERS))


ADD = "ALTER TABLE orders ADD COLUMN x text;"


@pytest.mark.parametrize(
    ("sql", "found"),
    [
        (ADD, True),
        ("SET lock_timeout = '2s';" + ADD, False),
        (ADD + "SET lock_timeout = '2s';", True),
        ("SET lock_timeout = 0;" + ADD, True),
        ("SET lock_timeout = '2s'; RESET lock_timeout;" + ADD, True),
        ("SET lock_timeout = '2s'; SET lock_timeout TO DEFAULT;" + ADD, True),
        ("SELECT set_config('lock_timeout', '500ms', false);" + ADD, False),
        ("SET LOCAL lock_timeout = '2s';" + ADD, True),
        ("BEGIN; SET LOCAL lock_timeout = '2s';" + ADD + "COMMIT;", False),
        ("BEGIN; SET LOCAL lock_timeout = '2s'; COMMIT;" + ADD, True),
        ("SET lock_timeout = '1h';" + ADD, True),
        ("SET statement_timeout = '2s';" + ADD, True),
    ],
)
def test_timeouts_count_in_the_order_in_which_they_take_effect(sql: str, found: bool) -> None:
    """A timeout counts from its SET on, and as long as its SET says."""
    assert ("lock-without-timeout" in ids(sql, database(ORDERS))) is found


def test_timeouts_of_the_target_count_and_end_with_the_file() -> None:
    """What the runner sets holds everywhere; what a file sets holds in it."""
    assert "lock-without-timeout" not in ids(ADD, database(ORDERS), timeouts=Timeouts(lock_ms=2_000))
    found = hazards(("SET lock_timeout = '2s';", ADD), database(ORDERS))
    assert "lock-without-timeout" in {h.id for h in found}


def test_renames_in_one_transaction_are_atomic() -> None:
    """In a file that runs as one transaction there is no moment without the column."""
    swap = RULES["renames-not-atomic"].bad
    assert "renames-not-atomic" in ids(swap, transactions=Transactions.STATEMENT)
    assert "renames-not-atomic" not in ids(swap, transactions=Transactions.FILE)


def test_a_rename_back_is_no_swap() -> None:
    """Up and down in one review are not a column that takes another one's place."""
    found = ids(("ALTER TABLE a RENAME COLUMN b TO c;", "ALTER TABLE a RENAME COLUMN c TO b;"))
    assert not {"column-swap", "renames-not-atomic"} & found


def test_locks_of_several_files_are_held_where_they_run_together() -> None:
    """What Drizzle does is found where files run together, and not where each has its own transaction."""
    files = RULES["locks-held-to-the-end"].bad
    assert "locks-held-to-the-end" in ids(files, transactions=Transactions.ALL)
    assert "locks-held-to-the-end" not in ids(files, transactions=Transactions.FILE)
    assert "locks-held-to-the-end" in ids("".join(files), transactions=Transactions.FILE)


def test_design_rules_are_off_until_they_are_asked_for() -> None:
    """Rules of design are a matter of taste, and of the target."""
    sql = "CREATE TABLE a (id bigint PRIMARY KEY);"
    assert not any(name.startswith("design-") for name in ids(sql, design=False))
    read = stage(script([("a.sql", sql)]), UNKNOWN)
    chosen = {h.id for _, found in find(read, design_rules=["design-uuid-key"]) for h in found}
    assert chosen == {"design-uuid-key"}


SHOP = (
    "CREATE TABLE users (id integer PRIMARY KEY, name text, nick text, free text);"
    "CREATE TABLE orders (id integer PRIMARY KEY, user_id integer, total integer,"
    " CONSTRAINT orders_user FOREIGN KEY (user_id) REFERENCES users);"
    "CREATE INDEX users_name ON users (name);"
)


def shop() -> Catalog:
    catalog = database(SHOP)
    users = catalog.tables["public", "users"]
    users = replace(users, dependents=(Dependent("view", "public.nicks", ("nick",)),))
    tables = {**catalog.tables, users.key: users}
    uses = (Use("SELECT total FROM orders WHERE id = $1", 7),)
    return replace(catalog, tables=MappingProxyType(tables), uses=uses, uses_known=True)


@pytest.mark.parametrize(
    ("sql", "refused"),
    [
        ("DROP TABLE orders;", {"public.orders"}),
        ("DROP TABLE users CASCADE;", {"public.users", "public.orders.orders_user"}),
        ("DROP TABLE nothing;", set()),
        ("CREATE TABLE a (b integer); DROP TABLE a;", set()),
        ("ALTER TABLE users DROP COLUMN name;", {"public.users.name"}),
        ("ALTER TABLE users DROP COLUMN nick CASCADE;", {"public.users.nick"}),
        ("ALTER TABLE orders DROP COLUMN total;", {"public.orders.total"}),
        ("ALTER TABLE users DROP COLUMN free;", set()),
        ("ALTER TABLE orders DROP COLUMN user_id;", {"public.orders.orders_user"}),
        ("ALTER TABLE orders DROP CONSTRAINT orders_user;", {"public.orders.orders_user"}),
        ("ALTER TABLE users DROP CONSTRAINT users_pkey CASCADE;", {"public.orders.orders_user"}),
        ("ALTER TABLE users ADD COLUMN more text;", set()),
    ],
)
def test_safe_migrations_mode_refuses(sql: str, refused: set[str]) -> None:
    """Rows, columns in use and foreign keys are kept, unless the operator names them."""
    statements = parse(sql, "m.sql")
    assert {refusal.object for refusal in refusals(statements, shop(), set())} == refused
    assert refusals(statements, shop(), refused) == []
    short = {name.removeprefix("public.") for name in refused}
    assert refusals(statements, shop(), short) == []


def test_refusals_without_a_database_know_nothing() -> None:
    """What nobody knows is refused, with that reason."""
    (refusal,) = refusals(parse("DROP TABLE orders;", "m.sql"), UNKNOWN, set())
    assert (refusal.object, refusal.reason) == ("orders", "it is unknown whether the table holds rows")
    assert (refusal.file, str(refusal.place)) == ("m.sql", "m.sql:1")


def test_like_is_a_note_where_nothing_but_rights_stays_behind() -> None:
    """A foreign key of the table, or one to it, is what a reviewer stops at."""
    like = "CREATE TABLE orders_new (LIKE orders INCLUDING ALL);"
    for more, severity in (
        ("", Severity.NOTE),
        ("CREATE TABLE items (of integer REFERENCES orders);", Severity.WARNING),
    ):
        (found,) = (h for h in hazards(like, database(ORDERS + more)) if h.id == "like-leaves-behind")
        assert found.severity is severity
