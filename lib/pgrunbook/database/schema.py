"""Snapshot of a database's schema, read from the catalog; every procedure that compares schemas uses it.

It holds what ``pg_dump --schema-only`` writes, and also INVALID indexes and the versions of extensions.
It does not hold: subscriptions, security labels, transforms and the contents of extensions. Secrets (options of
servers and user mappings, texts in functions and views) are masked, each with a mark by which a change is seen.
``schema_diff`` compares two snapshots.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from hashlib import sha256
from itertools import groupby
from typing import NamedTuple, TypeVar

import psycopg
from psycopg.rows import RowFactory, TupleRow

from pgrunbook.config.secret_patterns import names_a_secret
from pgrunbook.database.connection import Connection
from pgrunbook.database.queries import load, snapshot_cursor
from pgrunbook.errors import Broken
from pgrunbook.sql.secrets import told_apart

OURS = ("pgrunbook",)

_FORMAT = 1

# In a catalog that was never analysed, as that of a new branch, the planner expects one row where there are
# thousands, and chooses nested loops: 580 ms for 1,500 indexes, where hash joins take 15 ms. Elsewhere it makes no
# difference.
_PLANNER = {"enable_nestloop": "off"}
_PLAIN_NAME = re.compile("[a-z_][a-z0-9_$]*")


class Relation(NamedTuple):
    """A table (also partitioned, or a partition), foreign table, view or materialized view."""

    kind: str
    name: str
    owner: str
    unlogged: bool
    access_method: str | None
    tablespace: str | None
    of_type: str | None
    parents: str | None
    partition_bound: str | None
    partition_key: str | None
    options: str | None
    toast_options: str | None
    replica_identity: str | None
    row_security: str | None
    server: str | None
    query: str | None
    unpopulated: bool

    def describe(self) -> str:
        """Return the relation in the words of SQL."""
        settings = [text for text in (self.options, self.toast_options) if text]
        return _words(
            "UNLOGGED" if self.unlogged else "",
            ("OF {}", self.of_type),
            ("PARTITION OF {}" if self.partition_bound else "INHERITS ({})", self.parents),
            self.partition_bound,
            ("PARTITION BY {}", self.partition_key),
            ("SERVER {}", self.server),
            ("USING {}", self.access_method),
            ("WITH ({})", ", ".join(settings)),
            ("TABLESPACE {}", self.tablespace),
            ("REPLICA IDENTITY {}", self.replica_identity),
            ("ROW LEVEL SECURITY {}", self.row_security),
            ("AS{}", self.query and "\n" + self.query),
            "WITH NO DATA" if self.unpopulated else "",
            ("OWNER TO {}", self.owner),
        )


class Column(NamedTuple):
    """A column; ``position`` skips dropped columns, ``expression`` is its default or generates it.

    ``not_null_detail`` holds the other properties of a NOT NULL constraint (from PostgreSQL 18 on).
    """

    relation: str
    column_name: str
    position: int
    type: str
    collation: str | None
    not_null: bool
    not_null_detail: str | None
    expression: str | None
    generated: str | None
    identity: str | None
    storage: str | None
    compression: str | None
    statistics: int | None
    options: str | None
    inherited: str | None

    @property
    def kind(self) -> str:
        """What it is."""
        return "column"

    @property
    def name(self) -> str:
        """The name under its relation's."""
        return f"{self.relation}.{_quoted(self.column_name)}"

    def describe(self) -> str:
        """Return the column as in CREATE TABLE, then what only ALTER TABLE can set."""
        origin = f"GENERATED ALWAYS AS ({{}}) {self.generated}" if self.generated else "DEFAULT {}"
        return _words(
            self.type,
            ("COLLATE {}", self.collation),
            (origin, self.expression),
            ("GENERATED {} AS IDENTITY", self.identity),
            "NOT NULL" if self.not_null else "",
            ("({})", self.not_null_detail),
            ("STORAGE {}", self.storage),
            ("COMPRESSION {}", self.compression),
            ("STATISTICS {}", self.statistics),
            ("OPTIONS ({})", self.options),
            self.inherited,
        )


class Constraint(NamedTuple):
    """A constraint of a table or a domain (``relation`` names either); its definition includes NOT VALID."""

    relation: str
    constraint_name: str
    type: str
    definition: str
    valid: bool
    inherited: str | None

    @property
    def kind(self) -> str:
        """What it is."""
        return "constraint"

    @property
    def name(self) -> str:
        """The name under its relation's."""
        return f"{self.relation}.{_quoted(self.constraint_name)}"

    def describe(self) -> str:
        """Return the constraint as in ALTER TABLE ... ADD CONSTRAINT."""
        return _words(self.definition, self.inherited)


class Index(NamedTuple):
    """An index; ``definition`` is None for one that belongs to a constraint, whose definition it shares."""

    relation: str
    index_name: str
    definition: str | None
    constraint: str | None
    valid: bool
    clustered: bool
    parent: str | None
    tablespace: str | None
    options: str | None
    statistics: str | None

    @property
    def kind(self) -> str:
        """What it is."""
        return "index"

    @property
    def name(self) -> str:
        """The name under its relation's."""
        return f"{self.relation}.{_quoted(self.index_name)}"

    def describe(self) -> str:
        """Return the index as in CREATE INDEX, then its state."""
        return _words(
            self.definition,
            f"of constraint {self.constraint} on {self.relation}" if self.constraint else "",
            ("WITH ({})", self.options),
            ("TABLESPACE {}", self.tablespace),
            ("attached to {}", self.parent),
            self.statistics,
            "CLUSTER" if self.clustered else "",
            "" if self.valid else "INVALID",
        )


class Sequence(NamedTuple):
    """A sequence, without its position."""

    name: str
    owner: str
    unlogged: bool
    type: str
    start: int
    increment: int
    minimum: int
    maximum: int
    cache: int
    cycle: bool
    owned_by: str | None
    of_identity: bool

    @property
    def kind(self) -> str:
        """What it is."""
        return "sequence"

    def describe(self) -> str:
        """Return the sequence as in CREATE SEQUENCE."""
        return _words(
            "UNLOGGED" if self.unlogged else "",
            f"AS {self.type} START {self.start} INCREMENT {self.increment}",
            f"MINVALUE {self.minimum} MAXVALUE {self.maximum} CACHE {self.cache}",
            "CYCLE" if self.cycle else "",
            ("IDENTITY OF {}" if self.of_identity else "OWNED BY {}", self.owned_by),
            ("OWNER TO {}", self.owner),
        )


class Trigger(NamedTuple):
    """A trigger, and for which sessions it fires."""

    relation: str
    trigger_name: str
    definition: str
    enabled: str

    @property
    def kind(self) -> str:
        """What it is."""
        return "trigger"

    @property
    def name(self) -> str:
        """The name under its relation's."""
        return f"{self.relation}.{_quoted(self.trigger_name)}"

    def describe(self) -> str:
        """Return the trigger as in CREATE TRIGGER, then its state."""
        return _words(self.definition, "" if self.enabled == "ENABLE" else self.enabled)


class Definition(NamedTuple):
    """Any other object: only the text of its definition, and its owner where it has one."""

    kind: str
    name: str
    owner: str | None
    definition: str

    def describe(self) -> str:
        """Return the object in the words of SQL."""
        return _words(self.definition, ("OWNER TO {}", self.owner))


SchemaObject = Relation | Column | Constraint | Index | Sequence | Trigger | Definition
Kind = TypeVar("Kind", bound=SchemaObject)

CLASSES: dict[str, type[SchemaObject]] = {
    "relations": Relation,
    "columns": Column,
    "constraints": Constraint,
    "indexes": Index,
    "sequences": Sequence,
    "triggers": Trigger,
    "schemas": Definition,
    "on_relations": Definition,
    "functions": Definition,
    "types": Definition,
    "rarities": Definition,
    "publications": Definition,
    "grants": Definition,
    "comments": Definition,
}


@dataclass(frozen=True)
class Snapshot:
    """The schema of a database at one moment; ``objects`` are in the order of their classes and names."""

    server_version: int
    objects: tuple[SchemaObject, ...]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of everything but the server's version.

        It does not depend on OIDs, on the order of creation or on gaps that dropped columns leave.
        Between major versions it differs where PostgreSQL words a thing differently: views, rules, policies, names of
        NOT NULL constraints other than the default (from 18 on), versions of extensions.
        """
        return sha256(_json(self._rows()).encode()).hexdigest()

    def of(self, cls: type[Kind]) -> Iterator[Kind]:
        """Give the objects of one class by name."""
        return (obj for obj in self.objects if isinstance(obj, cls))

    def to_json(self) -> str:
        """Return the snapshot as compact JSON: by class its rows, as arrays in the order of its fields."""
        return _json({"format": _FORMAT, "server_version": self.server_version, "objects": self._rows()})

    @classmethod
    def from_json(cls, text: str) -> Snapshot:
        """Read a snapshot that :meth:`to_json` wrote. Raises Broken when it is something else."""
        classes = {c.__name__: c for c in CLASSES.values()}
        try:
            stored = json.loads(text)
            if stored["format"] != _FORMAT:
                raise ValueError(f"its format is {stored['format']}, not {_FORMAT}")
            rows = (classes[name](*row) for name, group in stored["objects"].items() for row in group)
            return cls(int(stored["server_version"]), tuple(rows))
        except (ValueError, KeyError, TypeError, AttributeError) as exc:
            raise Broken("cannot read the stored schema snapshot", detail=repr(exc)) from exc

    def _rows(self) -> dict[str, list[SchemaObject]]:
        return {cls.__name__: list(group) for cls, group in groupby(self.objects, type)}


def snapshot(conn: Connection, *, leave_out: Collection[str] = OURS) -> Snapshot:
    """Read the schema of the connection's database, as one state.

    ``leave_out`` names schemas, and single relations by qualified name (their indexes, constraints and
    sequences go with them). Inside a transaction it reads under that transaction's isolation level.

    Raises Blocked when another session's lock keeps definitions from being read.
    Locks: AccessShareLock on views and tables, while their definitions are read.
    """
    with snapshot_cursor(conn, settings=_PLANNER) as cursor:
        return Snapshot(conn.info.server_version, _read(cursor, list(leave_out)))


def _read(cursor: psycopg.Cursor[TupleRow], leave_out: list[str]) -> tuple[SchemaObject, ...]:
    conn = cursor.connection
    queries = load("schema", conn.info.server_version // 10_000)
    quoted = ['"' + name.replace('"', '""') + '"' for name in leave_out]
    # The possible names of a relation, wherever the dot is: the server reads no other relations.
    last_parts = [
        name[dot + 1 :].removeprefix('"').removesuffix('"').replace('""', '"')
        for name in leave_out
        for dot, char in enumerate(name)
        if char == "."
    ]
    cursor.execute(queries["scope"], {"leave_out": leave_out, "last_parts": last_parts})
    schemas, left_out = cursor.fetchone() or ("{}", "{}")
    parameters = {"schemas": schemas, "left_out": left_out, "left_schemas": leave_out + quoted}
    rows: dict[type[SchemaObject], list[SchemaObject]] = {cls: [] for cls in CLASSES.values()}
    with conn.pipeline():
        cursors = {name: psycopg.Cursor(conn, row_factory=_maker(cls)) for name, cls in CLASSES.items()}
        for name, answer in cursors.items():
            answer.execute(queries[name], parameters)
        # Inside the pipeline, so that these rows are converted while the server works on the next query.
        for name, answer in cursors.items():
            rows[CLASSES[name]].extend(_masked(row) if _holds_secrets(row) else row for row in answer.fetchall())
    # By code point, in Python: the server sorts by the database's collation. A row starts with its name.
    return tuple(obj for group in rows.values() for obj in sorted(group))


def _maker(cls: type[SchemaObject]) -> RowFactory[SchemaObject]:
    make: Callable[..., SchemaObject] = partial(tuple.__new__, cls)  # as its _make does, and in C
    return lambda _: make


@lru_cache(maxsize=1 << 17, typed=True)  # a run reads the same objects several times
def _holds_secrets(row: SchemaObject) -> bool:
    return _masked(row) != row


def _masked(row: SchemaObject) -> SchemaObject:
    """Return an object with its secrets masked, so that another secret is another text, and nobody can guess it."""
    if isinstance(row, Column) and row.expression and names_a_secret(row.column_name):
        named = "password DEFAULT "  # what a default is for is known by its column
        row = row._replace(expression=told_apart(named + row.expression).removeprefix(named))
    if isinstance(row, Definition) and row.kind == "user mapping":
        named = "CREATE USER MAPPING FOR a SERVER b "  # of a user mapping every option is one, but for the user's name
        return row._replace(definition=told_apart(named + row.definition).removeprefix(named))
    if isinstance(row, Definition) and row.kind == "comment":
        return row._replace(definition=told_apart(row.definition, is_message=True))
    return type(row)._make(told_apart(value) if isinstance(value, str) else value for value in row)


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _quoted(name: str) -> str:
    return name if _PLAIN_NAME.fullmatch(name) else '"' + name.replace('"', '""') + '"'


def _words(*parts: str | tuple[str, object] | None) -> str:
    words = (part[0].format(part[1]) if isinstance(part, tuple) and part[1] else part for part in parts)
    return " ".join(word for word in words if isinstance(word, str) and word)
