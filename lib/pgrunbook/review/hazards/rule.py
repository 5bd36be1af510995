"""Hazards as data, the rules that find them, and the scene in which a rule judges one statement."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Any

from pglast import ast

from pgrunbook.database.catalog import Catalog, Key, Standing, Table, Weight
from pgrunbook.database.routines import RoutinePart
from pgrunbook.effects.result import Effects
from pgrunbook.sql.classify import Policy
from pgrunbook.sql.routines import bodies
from pgrunbook.sql.statements import Statement
from pgrunbook.sql.tree import object_kind, once_per_node, relation, text, whole

CHANGES = (ast.InsertStmt, ast.UpdateStmt, ast.DeleteStmt)


class Severity(StrEnum):
    """How bad a hazard is: an error blocks traffic or loses data, a warning may do so, a note is information."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"

    @property
    def rank(self) -> int:
        """Higher is worse."""
        return ("note", "warning", "error").index(self)


class Transactions(StrEnum):
    """What runs in one transaction: every statement alone, a file, all files; UNKNOWN if the caller did not say."""

    STATEMENT = "statement"
    FILE = "file"
    ALL = "all"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Hazard:
    """A danger of a statement: when it applies, who waits or what is lost, and what to write instead."""

    id: str
    severity: Severity
    condition: str
    effect: str
    way_out: str
    file: str
    line: int


@dataclass(frozen=True)
class Timeouts:
    """The timeouts in force when a statement begins, in ms; 0 is none."""

    lock_ms: int = 0
    statement_ms: int = 0


@dataclass
class Scene:
    """A statement among the others, with the catalog before it; ``final`` is the catalog after all of them.

    ``transaction`` counts the BEGINs of the files; None outside of them. ``parts`` is what runs within the
    statement, ``inner`` a scene for each statement in it, whose ``within`` says where it stands; ``checked`` is what
    rules have said already, by their ids. ``zone_is_set`` says
    that a file has set the TimeZone in force, which is the catalog's; ``made_if_missing`` are the tables that earlier
    statements make IF NOT EXISTS.
    """

    statement: Statement
    node: Any
    effects: Effects
    catalog: Catalog
    timeouts: Timeouts
    transaction: int | None
    transactions: Transactions
    position: int
    scenes: Sequence[Scene] = field(default_factory=list, repr=False)
    final: Catalog = field(default_factory=Catalog, repr=False)
    within: str = ""
    zone_is_set: bool = False
    made_if_missing: frozenset[Key] = frozenset()
    parts: Sequence[RoutinePart] = ()
    inner: list[Scene] = field(default_factory=list, repr=False)
    checked: dict[str, list[Note]] = field(default_factory=dict, repr=False)

    @property
    def earlier(self) -> Sequence[Scene]:
        """The scenes before this one, in order."""
        return self.scenes[: self.position]

    @property
    def later(self) -> Sequence[Scene]:
        """The scenes after this one, in order."""
        return self.scenes[self.position + 1 :]

    @cached_property
    def nodes(self) -> list[Any]:
        """The statement's node and those of the statements inside it (a DO block's, EXPLAIN's)."""
        return [self.node, *bodies(self.node)]

    @cached_property
    def kinds(self) -> frozenset[type[ast.Node]]:
        """The kinds of all nodes in the statement and in those inside it."""
        return frozenset().union(*map(_kinds, self.nodes))

    @cached_property
    def written(self) -> list[Any]:
        """Every INSERT, UPDATE and DELETE of the statement, in WITH and in DO blocks too."""
        nodes = (node for node in self.nodes if isinstance(node, (ast.SelectStmt, ast.MergeStmt, *CHANGES)))
        return [part for node in nodes for part in whole(node) if isinstance(part, CHANGES)]

    @property
    def sql(self) -> str:
        """The text: as it is written, or as the parser read what stands within another statement."""
        return text(self.node) if self.within else self.statement.sql

    def table(self, name: Any) -> Table:
        """Return the relation that a RangeVar names."""
        return self.catalog.find(relation(name))

    def may_be_new(self, table: Table) -> bool:
        """Whether nobody was asked for a table, and an earlier statement makes it where it is not there."""
        return table.standing is Standing.UNKNOWN and table.key in self.made_if_missing

    def commits_with(self, other: Scene) -> bool:
        """Whether one transaction certainly holds both statements."""
        if self.transaction is not None or other.transaction is not None:
            return self.transaction == other.transaction
        if Policy.ALONE in (self.statement.policy, other.statement.policy):
            return False
        same_file = self.statement.file == other.statement.file
        return self.transactions is Transactions.ALL or (self.transactions is Transactions.FILE and same_file)

    def may_commit_with(self, other: Scene) -> bool:
        """Whether one transaction may hold both statements."""
        if self.commits_with(other):
            return True
        unknown = self.transactions is Transactions.UNKNOWN and self.transaction is None
        return unknown and other.transaction is None and not (self.is_alone or other.is_alone)

    @property
    def is_alone(self) -> bool:
        """Whether PostgreSQL refuses the statement in a transaction; a new enum label runs alone by our choice only."""
        return self.statement.policy is Policy.ALONE and not isinstance(self.node, ast.AlterEnumStmt)

    def altered(self) -> Iterator[tuple[Table, Any]]:
        """Yield each subcommand of ALTER TABLE with its table, of ALTER TYPE with those of the type, or the type."""
        if isinstance(self.node, ast.AlterTableStmt):
            is_type = object_kind(self.node.objtype) == "TYPE"
            named = relation(self.node.relation)
            for table in (self.catalog.of_type(named) if is_type else ()) or [self.catalog.find(named)]:
                yield from ((table, cmd) for cmd in self.node.cmds)


@once_per_node
def _kinds(node: Any) -> frozenset[type[ast.Node]]:
    return frozenset(map(type, whole(node)))


@dataclass(frozen=True)
class Note:
    """What a rule found: the effect and the way out; ``on`` is the table whose size decides how bad it is.

    A way out that takes long to write is made where it is told.
    """

    effect: str
    way_out: str | Callable[[], str]
    on: Table | None = None
    severity: Severity | None = None


Check = Callable[[Scene], Iterator[Note]]
SQL = str | tuple[str, ...]


@dataclass(frozen=True)
class Rule:
    """One kind of hazard, with a bad and a good example; a tuple is several files.

    It concerns the statements that hold a node of a kind in ``on``, all of them where that is ().
    ``setup`` is SQL that prepares a database for the examples; without it they are judged by their text alone.
    A rule of ``taste`` is off unless a target switches it on: what it finds hurts nobody at once.
    """

    id: str
    severity: Severity
    condition: str
    check: Check
    on: tuple[type[ast.Node], ...]
    bad: SQL
    good: SQL
    setup: str = ""
    taste: bool = False

    def concerns(self, kinds: Set[type[ast.Node]]) -> bool:
        """Tell whether it may find something in a statement that holds nodes of these kinds."""
        return not self.on or not kinds.isdisjoint(self.on)

    def hazards(self, scene: Scene) -> Iterator[Hazard]:
        """Yield at most one hazard of a scene: none on new and empty tables, only a note on small ones."""
        notes = [note for note in self._notes(scene) if not self._is_told(scene, note)]
        found = [(note, severity) for note in notes if (severity := self._severity(scene, note))]
        if found:
            worst = max((severity for _, severity in found), key=lambda severity: severity.rank)
            perhaps = [_PERHAPS for note, _ in found if note.on is not None and scene.may_be_new(note.on)]
            effect = " ".join(dict.fromkeys([*(note.effect for note, _ in found), *perhaps]))
            ways = (note.way_out if isinstance(note.way_out, str) else note.way_out() for note, _ in found)
            way_out = "\n".join(dict.fromkeys(ways))
            where = scene.statement
            yield Hazard(self.id, worst, self.condition, effect, way_out, where.file, where.line)

    def _is_told(self, scene: Scene, note: Note) -> bool:
        """Whether the file has told the same of a table that it makes IF NOT EXISTS: the first stands for all."""
        if note.on is None or not scene.may_be_new(note.on):
            return False
        same_file = [s for s in scene.earlier if s.statement.file == scene.statement.file]
        inner = [each for other in same_file for each in (other, *other.inner)]
        return any(told.on and told.on.key == note.on.key for each in inner for told in self._notes(each))

    def _notes(self, scene: Scene) -> list[Note]:
        if self.id not in scene.checked:
            scene.checked[self.id] = list(self.check(scene))
        return scene.checked[self.id]

    def _severity(self, scene: Scene, note: Note) -> Severity | None:
        severity = note.severity or self.severity
        if note.on is None:
            return severity
        weight = scene.catalog.weight(note.on)
        if weight is Weight.NOTHING:
            return None
        return Severity.NOTE if weight is Weight.SMALL else severity


_PERHAPS = "This is so where the table is there: CREATE TABLE IF NOT EXISTS does not tell."
RULES: dict[str, Rule] = {}


def rule(
    name: str,
    severity: Severity,
    *,
    on: tuple[type[ast.Node], ...] = (),
    bad: SQL,
    good: SQL,
    setup: str = "",
    taste: bool = False,
) -> Callable[[Check], Check]:
    """Register a check under an id; its docstring is the hazard's condition."""

    def register(check: Check) -> Check:
        condition = (check.__doc__ or "").strip().splitlines()[0]
        RULES[name] = Rule(name, severity, condition, check, on, bad, good, setup, taste)
        return check

    return register


def others_see(table: Table) -> bool:
    """Whether others may use a table: it was not created by these statements."""
    return table.standing in (Standing.THERE, Standing.UNKNOWN)
