"""The swaps that the database knows of: for each table its shape, its state, and what is to be done yet.

A state is written in the transaction that reaches it, so that a swap that was broken off goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from pgrunbook.database import own_schema, step_log
from pgrunbook.database.checksums import TableName
from pgrunbook.database.connection import Connection
from pgrunbook.database.queries import load, rows

SCHEMA = "pgrunbook"
TABLES = ("swap", "swap_range")


class SwapState(StrEnum):
    """How far a swap has come; each state says which table is the live one, and what the other one holds."""

    COPYING = "copying"
    BUILDING = "building"
    READY = "ready"
    CUT_OVER = "cut over"
    FINISHED = "finished"
    ABANDONED = "abandoned"

    @property
    def is_over(self) -> bool:
        """Whether nothing of the swap is left in the database."""
        return self in (SwapState.FINISHED, SwapState.ABANDONED)


@dataclass(frozen=True)
class SwapSide:
    """One of the two tables: the columns of its key with their types and operators of equality.

    ``filled`` are the columns that are written from the other side, each with the expression that gives its value;
    ``parts`` are the names of its indexes, sequences and statistics while it is the live table, by their kind and the
    name that they have otherwise.
    """

    types: tuple[str, ...]
    collations: tuple[str, ...]
    operators: tuple[str, ...]
    filled: tuple[tuple[str, str], ...]
    parts: tuple[tuple[str, str, str], ...] = ()


@dataclass(frozen=True)
class SwapPlan:
    """What a swap does: the shape, the key by which rows are synchronised, and both sides.

    ``order`` are the columns by which rows are laid out. ``validated`` are the constraints that are to be validated,
    ``views`` the materialized views that are to be made anew, both behind a cut-over. ``has_own_index`` says that the
    new table has an index of ours for the key; ``digests`` are those of the columns of both tables, ``traits`` what
    each is beside them, by its kind.
    """

    shape: str
    key: tuple[str, ...]
    old: SwapSide
    new: SwapSide
    order: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    validated: tuple[str, ...] = ()
    views: tuple[str, ...] = ()
    digests: tuple[str, ...] = ()
    has_own_index: bool = False
    traits: tuple[tuple[tuple[str, str], ...], ...] = ()


@dataclass(frozen=True)
class TableSwap:
    """A swap as the database has it; ``relation`` is the OID of the table of the start."""

    name: str
    table: TableName
    run_id: str
    state: SwapState
    plan: SwapPlan
    relation: int
    made_at: datetime | None = None
    cut_over_at: datetime | None = None
    keep_until: datetime | None = None

    @property
    def other(self) -> TableName:
        """The table that is not the live one."""
        return TableName(SCHEMA, f"swap_{self.name}")

    @property
    def is_new_live(self) -> bool:
        """Whether the live table is the one in the new shape."""
        return self.state is SwapState.CUT_OVER

    @property
    def live_side(self) -> SwapSide:
        """The side that the application writes to."""
        return self.plan.new if self.is_new_live else self.plan.old

    @property
    def other_side(self) -> SwapSide:
        """The side that is written by the synchronisation."""
        return self.plan.old if self.is_new_live else self.plan.new

    @property
    def changes(self) -> str:
        """The name of the log of changes of the live table."""
        return f"changes_{self.name}_back" if self.is_new_live else f"changes_{self.name}"


@dataclass(frozen=True)
class SwapProgress:
    """How much of a table is copied."""

    ranges: int = 0
    copied: int = 0
    rows: int = 0
    waits: Mapping[str, float] = field(default_factory=dict)


def name_of(table: TableName) -> str:
    """Return the name of the swap of a table: the same in every run."""
    return hashlib.sha256(str(table).encode()).hexdigest()[:16]


def create(conn: Connection) -> None:
    """Create the tables of swaps where they are missing. Raises as ``step_log.create``."""
    step_log.create(conn)
    if not _is_there(conn):
        with conn.transaction():
            conn.execute(load("swap")["create"].encode())
            own_schema.hide(conn, *TABLES)


def of_table(conn: Connection, table: TableName) -> TableSwap | None:
    """Return the swap of a table, also one that has ended; None where there is none. Raises Refused."""
    found = swaps(conn, name_of(table))
    return found[0] if found else None


def swaps(conn: Connection, name: str = "") -> list[TableSwap]:
    """Return the swaps in this database, those at work first. Raises Refused where the schema is not ours."""
    if not _is_there(conn):
        return []
    return [_swap(row) for row in rows(conn, "swap", "swaps", name=name)]


def begin(conn: Connection, swap: TableSwap) -> None:
    """Note that a swap is begun. Call it in the transaction that makes its table."""
    conn.execute(load("swap")["forget_ranges"].encode(), {"name": swap.name})
    conn.execute(
        load("swap")["begin"].encode(),
        {"name": swap.name, "schema": swap.table.schema, "table": swap.table.name, "run_id": swap.run_id,
         "plan": json.dumps(asdict(swap.plan)), "relation": swap.relation},
    )  # fmt: skip


def note(conn: Connection, swap: TableSwap, *, keep_hours: float = 0) -> None:
    """Note how far a swap has come. Call it in the transaction that has done it."""
    conn.execute(
        load("swap")["note"].encode(),
        {"name": swap.name, "state": swap.state.value, "plan": json.dumps(asdict(swap.plan)),
         "keep_hours": keep_hours},
    )  # fmt: skip


def _is_there(conn: Connection) -> bool:
    own_schema.refuse_foreign(conn)
    return conn.execute(load("swap")["is_there"].encode()).fetchone() == (True,)


def _swap(row: Mapping[str, Any]) -> TableSwap:
    return TableSwap(
        row["name"], TableName(row["schema"], row["table"]), row["run_id"], SwapState(row["state"]),
        _plan(row["plan"]), row["relation"], row["made_at"], row["cut_over_at"], row["keep_until"],
    )  # fmt: skip


def _plan(given: Mapping[str, Any]) -> SwapPlan:
    sides = {side: SwapSide(**{name: _frozen(value) for name, value in given[side].items()}) for side in ("old", "new")}
    others: dict[str, Any] = {name: _frozen(value) for name, value in given.items() if name not in sides}
    return SwapPlan(old=sides["old"], new=sides["new"], **others)


def _frozen(value: Any) -> Any:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(_frozen(one) for one in value)
    return value
