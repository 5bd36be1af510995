"""The owner of a table that a superuser swaps: what they plant meanwhile calls nothing, what they change is kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import psycopg
import pytest

from pgrunbook.database.checksums import TableName
from pgrunbook.database.connection import connect
from pgrunbook.errors import Refused
from pgrunbook.online import backfill, swap_sync
from pgrunbook.online.swap_shape import SwapChoice
from servers import Server
from swap_stage import URL, SwapStage, differences, stage_of, url_of

CHOICE = SwapChoice(TableName("public", "t"))
CHANGE = "UPDATE t SET n = n + 1 WHERE id <= 10"
# sing() is heard where a superuser calls it: the number of a sequence stays, whatever becomes of the transaction.
SCENE = """
CREATE SEQUENCE public.heard;
CREATE FUNCTION public.told() RETURNS void LANGUAGE plpgsql AS 'BEGIN
    PERFORM nextval(''public.heard'') FROM pg_roles AS r WHERE r.rolname = current_user AND r.rolsuper;
END';
CREATE FUNCTION public.sing(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN PERFORM public.told(); RETURN 1; END';
CREATE TABLE public.t (id int PRIMARY KEY, n int, note text);
INSERT INTO public.t SELECT g, g, 'n' || g FROM generate_series(1, 200) AS g
"""


@dataclass(frozen=True)
class OwnersScene:
    """A table of a role without rights beyond it, which a superuser swaps."""

    stage: SwapStage
    owner: str

    def plant(self, statements: str) -> None:
        """Execute statements as the owner."""
        self.stage.do(f"SET ROLE {self.owner}; {statements}")

    @property
    def heard(self) -> int:
        """How often a superuser has called what the owner has planted."""
        ((calls,),) = self.stage.rows("SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM public.heard")
        return int(str(calls))

    def brought_to(self, state: str) -> None:
        """Bring a swap up to a state: begun, ready or cut over."""
        swap = self.stage.begun(CHOICE)
        if state != "begun":
            self.stage.filled(swap)
        if state == "cut over":
            self.stage.cut_over()
            self.plant(CHANGE)

    def go_on(self) -> None:
        """Do what comes next."""
        with connect(self.stage.target) as conn:
            swap_sync.fill(conn, self.stage.target, self.stage.swap(conn))
        self.stage.cut_over()


@pytest.fixture
def scene(server: Server, database: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> Iterator[OwnersScene]:
    owner = f"owner_{server.version}_{time.monotonic_ns()}"
    name = database(f"CREATE ROLE {owner}", f"GRANT CREATE ON SCHEMA public TO {owner}", f"SET ROLE {owner}; {SCENE}")
    monkeypatch.setenv(URL, url_of(server, name))
    stage = stage_of(server, name)
    yield OwnersScene(stage, owner)
    stage.do(f"DROP OWNED BY {owner} CASCADE", f"DROP ROLE {owner}")


@pytest.mark.newest
def test_what_its_owner_plants_meanwhile_is_seen(scene: OwnersScene) -> None:
    """Each part of a swap asks again: to read a table folds the constants in the expressions of its indexes."""
    scene.brought_to("begun")
    scene.plant("CREATE INDEX ON t ((n + sing(1)))")
    with pytest.raises(Refused, match=r"refused to swap public\.t\n"):
        scene.go_on()
    scene.stage.abandon()
    assert scene.heard == 0


PLANTED = {
    "an index": "CREATE INDEX ON t ((n + sing(1)))",
    "statistics": "CREATE STATISTICS planted ON (n + sing(1)) FROM t",
    "an index of who refers to it": "CREATE TABLE c (id int REFERENCES t); CREATE INDEX ON c ((id + sing(1)))",
}


@pytest.mark.slow
@pytest.mark.parametrize("state", ["begun", "ready", "cut over"])
@pytest.mark.parametrize("planted", PLANTED)
def test_nothing_is_called_in_whatever_state_it_is_planted(scene: OwnersScene, planted: str, state: str) -> None:
    """By the copy, the log, the comparison, the cut-over forth and back, and the validation of foreign keys."""
    scene.brought_to(state)
    scene.plant(PLANTED[planted])
    scene.plant(CHANGE)
    with pytest.raises(Refused, match="refused to swap"):
        scene.go_on()
    assert scene.heard == 0


HANGING = {
    "who refers to it": "CREATE TABLE c (id int REFERENCES t); CREATE INDEX ON c ((id + sing(1)))",
    "whom it refers to": "CREATE TABLE p (id int PRIMARY KEY); INSERT INTO p SELECT id FROM t;"
    " CREATE INDEX ON p ((id + sing(1))); ALTER TABLE t ADD FOREIGN KEY (id) REFERENCES p",
}


@pytest.mark.slow
@pytest.mark.parametrize("hanging", HANGING)
def test_foreign_key_whose_validation_would_call_code_is_told_at_the_begin(scene: OwnersScene, hanging: str) -> None:
    """It would be validated behind the cut-over, with our rights: the table of either side is planned with it."""
    scene.plant(HANGING[hanging])
    with pytest.raises(Refused, match=r"refused to swap public\.(c|p)\n"):
        scene.brought_to("begun")
    assert scene.heard == 0


@pytest.mark.slow
@pytest.mark.every_version
def test_materialized_view_is_filled_with_the_rights_of_its_owner(scene: OwnersScene) -> None:
    """CREATE MATERIALIZED VIEW would execute its query with ours, and an index of ours its expressions."""
    scene.plant("CREATE MATERIALIZED VIEW m AS SELECT id, n, sing(n) AS song FROM t;"
                " CREATE UNIQUE INDEX ON m ((id + sing(1))); CREATE INDEX ON m (sing(n)) WHERE sing(n) > sing(1);"
                " CREATE MATERIALIZED VIEW above AS SELECT id, sing(id) AS song FROM m;"
                " CREATE MATERIALIZED VIEW empty AS SELECT id, sing(id) AS song FROM t WITH NO DATA")  # fmt: skip
    before = scene.stage.schema()
    read = f"SET ROLE {scene.owner}; SELECT count(*), sum(n), (SELECT count(*) FROM above) FROM m"
    for total in (20100, 20110):
        scene.brought_to("cut over") if total == 20100 else scene.stage.cut_over()
        assert differences(before, scene.stage.schema()) == []
        with scene.stage.session() as conn:  # as the owner: a superuser who reads calls what is planted
            found = conn.execute(read.encode())
            assert found.nextset()
            assert found.fetchall() == [(200, total, 200)]
    assert scene.heard == 0
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
        scene.stage.rows("SELECT * FROM empty")


CHANGED = {
    "ALTER TABLE t ADD CONSTRAINT small CHECK (n < 1000)": r"It has constraint small CHECK \(\(n < 1000\)\) now",
    "ALTER TABLE t OWNER TO postgres": r"It has owner postgres now, it had owner owner_\d+_\d+",
    "ALTER TABLE t SET UNLOGGED": "It has UNLOGGED now, it had LOGGED",
    "CREATE INDEX added ON t (n)": "Added was added, and the other table lacks it",
    "CREATE STATISTICS added ON id, n FROM t": "Added was added, and the other table lacks it",
}
TUNED = {
    "ALTER TABLE t SET (fillfactor = 50, toast.autovacuum_enabled = false)":
        "It has option fillfactor=50 and option toast.autovacuum_enabled=false now",
    "ALTER TABLE t ALTER n SET STATISTICS 7, ALTER n SET (n_distinct = 5)":
        r"It has column n STORAGE PLAIN STATISTICS 7 OPTIONS \{n_distinct=5\} now",
    "ALTER TABLE t ALTER note SET STORAGE EXTERNAL": "It has column note STORAGE EXTERNAL now",
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("state", ["ready", "cut over"])
@pytest.mark.parametrize("change", [*CHANGED, *TUNED])
def test_change_that_a_cut_over_would_lose_is_refused_by_its_name(scene: OwnersScene, change: str, state: str) -> None:
    """The other table lacks it; but back, the rows are stored as they were before."""
    scene.brought_to(state)
    scene.stage.do(change)
    after = scene.stage.schema()
    if change in TUNED and state == "cut over":
        scene.stage.cut_over()
        return
    with pytest.raises(Refused, match={**CHANGED, **TUNED}[change]):
        scene.stage.cut_over()
    assert differences(after, scene.stage.schema()) == []


@pytest.mark.slow
def test_trigger_of_a_backfill_that_came_meanwhile_keeps_its_table(scene: OwnersScene) -> None:
    """Its functions take a row of the table, which is another one afterwards: the swap waits until it is gone."""
    scene.stage.do("CREATE TABLE public.mine (LIKE t INCLUDING ALL)", "INSERT INTO mine SELECT * FROM t")
    scene.stage.ready(SwapChoice(TableName("public", "mine")))
    with connect(scene.stage.target) as conn:
        made = backfill.resolve(conn, "mine", {"note": "n::text"})
        with conn.transaction(), conn.as_target():
            conn.execute(made.fill.installation().encode())
        with pytest.raises(Refused, match=r"Function pgrunbook\.fill_\w+\(\S*mine\): it uses the row type"):
            scene.stage.cut_over()
        conn.execute(made.fill.removal().encode())
    scene.stage.cut_over()


@pytest.mark.slow
def test_change_that_is_taken_back_is_no_obstacle(scene: OwnersScene) -> None:
    """A check that is not validated comes along; one that is has to go, or the swap is begun again."""
    scene.brought_to("ready")
    scene.plant("ALTER TABLE t ADD CONSTRAINT small CHECK (n < 1000)")
    with pytest.raises(Refused, match="begin it again"):
        scene.stage.cut_over()
    scene.plant("ALTER TABLE t DROP CONSTRAINT small; ALTER TABLE t ADD CONSTRAINT small CHECK (n < 1000) NOT VALID")
    scene.stage.cut_over()
    scene.plant("ALTER TABLE t VALIDATE CONSTRAINT small")
    with pytest.raises(Refused, match="finish the swap: the new table stays"):
        scene.stage.cut_over()
    scene.stage.finish()
