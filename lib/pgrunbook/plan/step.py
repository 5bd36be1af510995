"""What safe forms are made of: the case that a form judges, and the steps, gates and expansions it gives back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pgrunbook.sql.classify import Policy
from pgrunbook.sql.statements import Statement

# The word in a batch's statement that stands for its range of the key.
RANGE = "pgrunbook_range"

Procedure = Literal["swap", "backfill", "expand and contract", "restore", "troubleshoot"]


@dataclass(frozen=True)
class Batches:
    """A statement that is executed as a loop of transactions, over ranges of a table's key.

    ``statement`` is the UPDATE or DELETE with the word ``pgrunbook_range`` as a condition, which each batch
    replaces by its range of the key of ``alias``. An empty ``key`` stands for ranges of pages (ctid), which is for
    DELETE only. The setting ``pgrunbook.started_at`` is, in every batch, the time at which the loop began.
    """

    schema: str
    table: str
    alias: str
    statement: str
    key: tuple[str, ...]
    key_types: tuple[str, ...]
    rows: int = 1_000
    fires_triggers: bool = True


@dataclass(frozen=True)
class Keep:
    """What has to be kept before a statement is executed; names are quoted and qualified as SQL needs them.

    "table": the table as a whole, which comes back under its name before the first step. "column": the values
    of a column, filled back after the step that says so. "rows": the rows that the statement changes.
    ``key`` names the columns that tell rows apart, unquoted; () where nothing does. ``type`` is that of the column:
    its values are kept as text, for the type may go as well. ``kept_as`` is the side table, or the schema that a
    whole table is moved to, "" where that is not known yet.
    """

    kind: Literal["column", "table", "rows"]
    table: str
    column: str = ""
    key: tuple[str, ...] = ()
    type: str = ""
    kept_as: str = ""


@dataclass(frozen=True)
class SafeStep:
    """One step of a safe form, which can be run again after a crash.

    A step in a transaction is done when the executor's own row, written in that transaction, says so. One that
    cannot be in a transaction has two queries. Before every attempt each row of ``leftovers`` is a statement that
    clears away what an attempt left half done, and is executed alone. Before every attempt but the first, ``done``
    says whether the effect is there; at the first, what is there was not made by us.

    A ``quick`` step reads no row and may take a strong lock, for moments; any other may take long, and takes no
    lock that a reader or writer would wait for. A step with ``own_transaction`` is committed before the next one,
    and what came before it is committed first. With it what ``keeps`` says is kept, and noted in pgrunbook.kept;
    rows are kept by rewriting its statement when it is executed. With it what ``gives_back`` names (a side table, or
    the schema of a kept table) is given back to the last row. One with ``gives_rows`` has no statement of its own:
    it is a loop that gives back the rows which those steps of the migration, as it went up, have changed.
    """

    sql: str
    says: str
    policy: Policy = Policy.TOGETHER
    own_transaction: bool = True
    quick: bool = True
    batches: Batches | None = None
    done: str | None = None
    leftovers: str | None = None
    keeps: tuple[Keep, ...] = ()
    gives_back: tuple[str, ...] = ()
    gives_rows: tuple[int, ...] = ()


@dataclass(frozen=True)
class Gate:
    """What has no safe form: why, what it does to others, and the procedure that reaches the same end."""

    id: str
    says: str
    procedure: Procedure
    how: str


@dataclass(frozen=True)
class Expansion:
    """A statement and what is executed in its place.

    ``form`` is "" where the statement is executed as it is written; ``explains`` says why in both cases.
    Each row of each query of ``cleanup`` is a statement that takes away a helper, or an object half made, when
    the sequence is abandoned. ``differs`` lists where the end differs from that of the statement as written.
    """

    statement: Statement
    form: str
    explains: str
    steps: tuple[SafeStep, ...]
    cleanup: tuple[str, ...] = ()
    differs: tuple[str, ...] = ()
    gate: Gate | None = None
    off: str = ""
