"""The parts of a safe form: its steps, batches, captures, gates and expansions, as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pgrunbook.plan.declared import Declared
from pgrunbook.sql.classify import Policy
from pgrunbook.sql.statements import Statement
from pgrunbook.sql.tree import quoted

# The word in a batch's statement that is replaced by the batch's range of the key.
RANGE = "pgrunbook_range"
# And a second one, for a CASE around what may fail for rows of other ranges: only that decides what is evaluated first.
GUARD = "pgrunbook_guard"

Procedure = Literal["swap", "backfill", "expand and contract", "restore", "rollback", "troubleshoot", "by hand"]

# The id of the gate of a statement that reaches outside of its database: no branch executes it.
OUTSIDE = "reaches-outside"


@dataclass(frozen=True)
class Batches:
    """A statement that is executed as a loop of transactions, over ranges of a table's key.

    ``statement`` is the UPDATE or DELETE with the word ``pgrunbook_range`` as a condition, which each batch
    replaces by its range of the key of ``alias``. ``tracker`` is the name of the :class:`RowTracker` that a step
    before it has installed, "" where nobody else writes to the table. The setting ``pgrunbook.started_at`` is, in every
    batch, the time at which the loop began. With ``by_pages`` the ranges are of the table's pages, and the statement's
    own condition tells which rows are done; ``key`` then only names rows, and may be (). ``fills`` is the name of the
    trigger that keeps in sync what this loop fills, and is silent in it. ``left`` is the condition of a DELETE, "true"
    for one of all rows: what is done is gone, so that the run may go by pages, where it finds a random key and a large
    table.
    """

    schema: str
    table: str
    alias: str
    statement: str
    key: tuple[str, ...]
    key_types: tuple[str, ...]
    rows: int = 1_000
    fires_triggers: bool = True
    tracker: str = ""
    by_pages: bool = False
    fills: str = ""
    left: str = ""

    @property
    def label(self) -> str:
        """The table's name, for people."""
        return f"{self.schema}.{self.table}"


@dataclass(frozen=True)
class Keep:
    """What has to be captured before a statement is executed; names are quoted and qualified as SQL needs them.

    "table": the whole table is parked; it gets its name back before the first step. "column": the values of a
    column; they are reverted after the step that says so. "rows": the rows that the statement changes.
    ``key`` names the columns that identify rows, unquoted; () where none do. ``type`` is that of the column:
    its values are captured as text, because the type may be dropped too. ``kept_as`` is the side table, or the name
    of the parked table, in schema pgrunbook, "" where that is not known yet.
    """

    kind: Literal["column", "table", "rows"]
    table: str
    column: str = ""
    key: tuple[str, ...] = ()
    type: str = ""
    kept_as: str = ""

    @property
    def is_own_key(self) -> bool:
        """Whether it is a column in the key by which its own values are found."""
        return self.kind == "column" and self.column in map(quoted, self.key)


@dataclass(frozen=True)
class SafeStep:
    """One step of a safe form, which can be run again after a crash.

    A step in a transaction is done when the executor's own row, written in that transaction, says so. A step that
    cannot run in a transaction has two queries. ``leftovers`` is read before every attempt: each row is a statement
    that drops what an earlier attempt left half done, and is executed alone. ``done`` is read before every attempt
    but the first: it says whether the effect is there. At the first attempt, what is there was not made by us.

    A ``quick`` step reads no row and may take a strong lock, for moments. Any other step may take long, and takes
    no lock that a reader or writer would wait for. A step with ``own_transaction`` is committed before the next one,
    and what came before it is committed first. The step's transaction captures what ``keeps`` names and records it
    in pgrunbook.kept; rows are captured by rewriting the statement when it is executed. It also reverts, to the last
    row, what ``gives_back`` names (a side table or a parked table). A step with ``gives_rows`` has no
    statement: it is a loop that reverts the rows which these steps changed when the migration went up. The captured
    values of the columns that ``fills`` names are reverted right after the step. Without ``fires_triggers``, those of
    the application are silent while captured rows come back.
    ``follows`` names the tables that get triggers by which captured rows follow; the step locks out their writers.
    ``statements`` counts the written statements of a run (``sql.runs``) that it sends together.
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
    statements: int = 1
    fills: tuple[Keep, ...] = ()
    fires_triggers: bool = True
    follows: tuple[str, ...] = ()


@dataclass(frozen=True)
class Gate:
    """A statement or migration without a safe form: why, what it does to others, and the procedure that helps.

    ``loses`` names a column or table whose data is lost unless it is captured, "" where none is.
    """

    id: str
    says: str
    procedure: Procedure
    how: str
    loses: str = ""

    @property
    def is_rehearsed(self) -> bool:
        """Whether a branch executes the statement that meets this gate."""
        return self.id != OUTSIDE


@dataclass(frozen=True)
class Expansion:
    """A statement and what is executed in its place.

    ``form`` is "" where the statement is executed as it is written; ``explains`` says why in both cases.
    Each row of each query of ``cleanup`` is a statement that drops a helper object, or a half-made object, when
    the steps are abandoned. ``differs`` lists where the result differs from that of the statement as written. ``back``
    is the form's own way back, () where the inverse of the statement is the way; ``back_cleanup`` is that of its steps.
    ``same_as`` is what comes to the same as the statement where PostgreSQL refuses it as it is written, "" elsewhere.
    """

    statement: Statement
    form: str
    explains: str
    steps: tuple[SafeStep, ...]
    cleanup: tuple[str, ...] = ()
    differs: tuple[Declared, ...] = ()
    gate: Gate | None = None
    off: str = ""
    back: tuple[SafeStep, ...] = ()
    back_cleanup: tuple[str, ...] = ()
    same_as: str = ""
