"""The state of a staged rollout in schema pgrunbook: which stages have begun, and what became of their rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

from psycopg.rows import class_row

from pgrunbook.database import own_schema, queries, step_log
from pgrunbook.database.connection import Connection
from pgrunbook.errors import Refused
from pgrunbook.plan.rollout import DeclaredRollout

TABLES = ("rollout", "rollout_stage", "rollout_row")


class RolloutStanding(StrEnum):
    """What a rollout as a whole is at."""

    NEW = "new"
    OPEN = "open"
    PAUSED = "paused"
    ABANDONED = "abandoned"
    REMOVED = "removed"


class StageStanding(StrEnum):
    """What a stage that has begun is at."""

    WRITING = "writing"
    HELD = "held"
    DONE = "done"
    GOING_BACK = "going back"
    BACK = "back"


@dataclass(frozen=True)
class BegunStage:
    """A stage that has begun: ``number`` counts from 1; ``rows`` had the flag by it when its state last changed.

    ``held_s`` is since when all of its rows have the flag, None before that; ``why`` is why it went back.
    """

    number: int
    name: str
    digest: str
    state: StageStanding
    attempt: int
    number_of_pass: int
    rows: int
    looks: int
    metric_before: float | None
    metric_now: float | None
    began_at: datetime
    held_at: datetime | None
    ended_at: datetime | None
    why: str
    run_id: str
    changed_by: str
    held_s: float | None


@dataclass(frozen=True)
class RolloutState:
    """A rollout in the database; ``became`` counts its rows by stage and by what became of them."""

    standing: RolloutStanding
    head: str = ""
    stages: tuple[BegunStage, ...] = ()
    became: dict[tuple[int, str], int] = field(default_factory=dict)
    changed_by: str = ""

    def stage(self, number: int) -> BegunStage | None:
        """Return a stage that has begun, None for any other."""
        return next((one for one in self.stages if one.number == number), None)

    def rows(self, number: int, state: str) -> int:
        """Return how many rows of a stage are in a state."""
        return self.became.get((number, state), 0)


def is_there(conn: Connection) -> bool:
    """Return whether the tables are there. Raises Refused where schema pgrunbook is somebody else's."""
    own_schema.refuse_foreign(conn)
    return conn.execute(_sql("is_there")).fetchone() == (True,)


def create(conn: Connection) -> None:
    """Create the tables where they are missing. Raises as ``step_log.create``."""
    step_log.create(conn)
    if not is_there(conn):
        with conn.transaction():
            conn.execute(_sql("create"))
            own_schema.hide(conn, *TABLES)
            conn.is_schema_ours = False
            own_schema.refuse_foreign(conn)


def read(conn: Connection, rollout: DeclaredRollout, *, counted: bool = True) -> RolloutState:
    """Return the state of a rollout; its rows by what became of them only where they are ``counted``.

    Raises Refused where it was begun with another declaration: the flag, its values and the salt are fixed then, and so
    is who gets the flag in a stage that has begun.
    """
    if not is_there(conn):
        return RolloutState(RolloutStanding.NEW)
    found = queries.rows(conn, "rollout", "rollout", name=rollout.name)
    if not found:
        return RolloutState(RolloutStanding.NEW)
    with conn.cursor(row_factory=class_row(BegunStage)) as cursor:
        stages = cursor.execute(_sql("stages"), {"name": rollout.name}).fetchall()
    rows = queries.rows(conn, "rollout", "became", name=rollout.name) if counted else []
    became = {(row["stage"], row["state"]): row["rows"] for row in rows}
    state = RolloutState(
        RolloutStanding(found[0]["state"]), found[0]["head"], tuple(_typed(one) for one in stages), became,
        found[0]["changed_by"],
    )  # fmt: skip
    _refuse_changed(rollout, state)
    return state


def begin(conn: Connection, rollout: DeclaredRollout, table: tuple[str, str], run_id: str) -> None:
    """Note that a rollout begins, where it has not; in the caller's transaction. Raises Refused beside another one."""
    schema, name = table
    about = {"name": rollout.name, "schema": schema, "table": name, "column": rollout.column}
    others = queries.rows(conn, "rollout", "others", **about)
    if others:
        raise Refused(
            f'column "{rollout.column}" of {schema}.{name} is rolled out by another rollout, "{others[0]["name"]}"',
            detail="Two rollouts would take each other's rows back.",
            hint=f"End that one first: -p name={others[0]['name']} -p do=abandon",
        )
    conn.execute(_sql("begin"), {**about, "head": rollout.head, "run_id": run_id})


def set_standing(conn: Connection, rollout: DeclaredRollout, standing: RolloutStanding, run_id: str) -> None:
    """Note what a rollout is at, and who decided so."""
    conn.execute(_sql("set_state"), {"name": rollout.name, "state": standing.value, "run_id": run_id})


def begin_stage(conn: Connection, rollout: DeclaredRollout, number: int, metric: float | None, run_id: str) -> None:
    """Note that a stage begins."""
    stage = rollout.stages[number - 1]
    about = {"stage": stage.name, "digest": stage.digest, "metric": metric, "run_id": run_id}
    conn.execute(_sql("begin_stage"), {"name": rollout.name, "number": number, **about})


def set_stage(
    conn: Connection, rollout: DeclaredRollout, number: int, state: StageStanding, run_id: str, *, why: str = ""
) -> None:
    """Note what a stage is at, and count its rows."""
    about = {"state": state.value, "why": why, "run_id": run_id}
    conn.execute(_sql("set_stage"), {"name": rollout.name, "number": number, **about})


def next_pass(conn: Connection, rollout: DeclaredRollout, number: int) -> None:
    """Note that the batches of a stage go through the table once more."""
    conn.execute(_sql("next_pass"), {"name": rollout.name, "number": number})


def looked(conn: Connection, rollout: DeclaredRollout, number: int, value: float) -> None:
    """Note what the metric of a stage was."""
    conn.execute(_sql("looked"), {"name": rollout.name, "number": number, "metric": value})


def next_back(conn: Connection, rollout: DeclaredRollout, number: int, rows: int) -> list[str]:
    """Return the keys of the next rows of a stage that go back, locked in pgrunbook.rollout_row; [] at the end."""
    found = queries.rows(conn, "rollout", "next_back", name=rollout.name, number=number, rows=rows)
    return [row["row_key"] for row in found]


def set_rows(conn: Connection, rollout: DeclaredRollout, keys: Sequence[str], state: str) -> None:
    """Note what became of rows."""
    if keys:
        conn.execute(_sql("set_rows"), {"name": rollout.name, "keys": list(keys), "state": state})


def pass_name(rollout: DeclaredRollout, begun: BegunStage) -> str:
    """Return the name of the progress row of a stage's batches."""
    return f"{_prefix(rollout, begun)}{begun.attempt}.{begun.number_of_pass}"


def forget_passes(conn: Connection, rollout: DeclaredRollout, begun: BegunStage) -> None:
    """Forget how far the batches of a stage had come: it is written, or it goes back."""
    conn.execute(_sql("forget_passes"), {"prefix": _prefix(rollout, begun)})


def forget_rows(conn: Connection, rollout: DeclaredRollout) -> None:
    """Forget the rows of a rollout whose flag is gone."""
    conn.execute(_sql("forget_rows"), {"name": rollout.name})


def _prefix(rollout: DeclaredRollout, begun: BegunStage) -> str:
    return f"rollout {rollout.name} {begun.number}: "


def _typed(one: BegunStage) -> BegunStage:
    return replace(one, state=StageStanding(one.state))


def _refuse_changed(rollout: DeclaredRollout, state: RolloutState) -> None:
    hint = f"Give rollouts/{rollout.name}.yaml back what it had; or end this rollout (-p do=abandon with the old file)"
    if state.head != rollout.head:
        raise Refused(
            f'rollout "{rollout.name}" was begun with another flag',
            detail="Table, column, type, values and salt are fixed once a stage has begun: rows were chosen by them.",
            hint=f"{hint}, and declare a new one under another name.",
        )
    for begun in state.stages:
        stage = rollout.stages[begun.number - 1] if begun.number <= len(rollout.stages) else None
        if stage is None or stage.digest != begun.digest:
            raise Refused(
                f'stage {begun.number} ("{begun.name}") is declared otherwise than when it began',
                detail="Who is in a stage is fixed once it has begun; what it expects, and its hold, are not.",
                hint=f"{hint}; new stages come behind those that have begun.",
            )


def _sql(name: str) -> bytes:
    return queries.load("rollout")[name].encode()
