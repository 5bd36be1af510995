"""Statements of files as scenes: each with the catalog before it, the timeouts in force and its transaction."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import pglast
from pglast import ast
from pglast.enums import TransactionStmtKind
from pglast.parser import ParseError

from pgrunbook.database.catalog import Catalog, Key
from pgrunbook.database.routines import RoutinePart
from pgrunbook.effects.catalog_after import after, path_after
from pgrunbook.effects.result import Effects
from pgrunbook.effects.statements import alone, together, under
from pgrunbook.errors import WrongInput
from pgrunbook.review.hazards.rule import Scene, Timeouts, Transactions
from pgrunbook.sql.calls import DML
from pgrunbook.sql.places import Place, numbered
from pgrunbook.sql.settings import ANY, Setting, settings
from pgrunbook.sql.size import too_many
from pgrunbook.sql.statements import Statement, left_out, line_of, parse, readable, refusal
from pgrunbook.sql.tree import Same, relations_in, tree
from pgrunbook.sql.values_lists import shortened

OF_ROWS = (ast.SelectStmt, *DML)
_OPENS = (TransactionStmtKind.TRANS_STMT_BEGIN, TransactionStmtKind.TRANS_STMT_START)
_CLOSES = (
    TransactionStmtKind.TRANS_STMT_COMMIT,
    TransactionStmtKind.TRANS_STMT_ROLLBACK,
    TransactionStmtKind.TRANS_STMT_PREPARE,
)
_UNITS_MS = {"": 1, "us": 0.001, "ms": 1, "s": 1_000, "min": 60_000, "h": 3_600_000, "d": 86_400_000}
_TIMEOUTS = {"lock_timeout": "lock_ms", "statement_timeout": "statement_ms"}


@dataclass(frozen=True)
class StatementContext:
    """A statement with the number of the transaction that its file opens around it; None outside of one."""

    statement: Statement
    transaction: int | None


@dataclass(frozen=True)
class TransactionMark:
    """A statement that opens or ends a transaction; prepare's refusal of it, None where it is left out."""

    file: str
    place: Place
    sql: str
    refusal: WrongInput | None


@dataclass(frozen=True)
class Script:
    """The statements of files, and those of BEGIN, COMMIT ... in them, each as :class:`TransactionMark`."""

    placed: tuple[StatementContext, ...]
    marks: tuple[TransactionMark, ...]
    texts: tuple[tuple[str, str], ...]

    @property
    def statements(self) -> list[Statement]:
        """All statements in order."""
        return [placed.statement for placed in self.placed]


def script(files: Sequence[tuple[str, str]], migrations: Mapping[str, str] | None = None) -> Script:
    """Read pairs of name and SQL; a file may open transactions, which :func:`statements.parse` refuses.

    ``migrations`` has the names of the files' migrations, where these differ from the names of the files.

    Raises WrongInput as that does for what does not parse.
    """
    placed: list[StatementContext] = []
    transactions: list[TransactionMark] = []
    texts = []
    number = 0
    for name, sql in files:
        text, marks = _without_transactions(readable(sql))
        number += 1
        inside: int | None = None
        migration = (migrations or {}).get(name, name)
        found = iter(parse(text, name, migration))
        both = [(mark, None if isinstance(mark[0], ast.TransactionStmt) else next(found)) for mark in marks]
        is_left_out = bool(left_out([node for node, _, _ in marks]))
        counted = [entry for entry in both if entry[1] is not None or not is_left_out]
        places = iter(numbered(migration, [statement.line if statement else mark[1] for mark, statement in counted]))
        for (node, line, written), statement in both:
            if statement is not None:
                placed.append(StatementContext(replace(statement, place=next(places)), inside))
                continue
            if node.kind in _OPENS:
                number, inside = number + 1, number + 1
            elif node.kind in _CLOSES:
                inside = None
            place = Place(migration, line) if is_left_out else next(places)
            why = None if is_left_out else refusal(node, name, line)
            transactions.append(TransactionMark(name, place, written, why))
        texts.append((name, text))
    return Script(tuple(placed), tuple(transactions), tuple(texts))


def _without_transactions(sql: str) -> tuple[str, list[tuple[Any, int, str]]]:
    """Blank BEGIN and COMMIT out; tell in order what stood on which line: the node, and the text of these."""
    short = shortened(sql)
    if too_many(short.text):
        return sql, []  # the parser would end this process
    try:
        raw = pglast.parse_sql(short.text)
    except ParseError:
        return sql, []  # the parser that is asked next says it better
    marks: list[tuple[Any, int, str]] = []
    text = sql
    for item in raw:
        start = short.at(item.stmt_location)
        end = short.end(item.stmt_location + item.stmt_len) if item.stmt_len else len(sql)
        if isinstance(item.stmt, ast.TransactionStmt):
            first = start + len(sql[start:end]) - len(_comments_off(sql[start:end]))
            marks.append((item.stmt, line_of(sql, first), sql[first:end].strip()))
            text = text[:first] + re.sub(r"[^\n]", " ", text[first:end]) + text[end:]
        else:
            marks.append((item.stmt, 0, ""))
    return text, marks


def _comments_off(text: str) -> str:
    return re.sub(r"\A(?:\s+|--[^\n]*(?:\n|\Z)|/\*.*?\*/)+", "", text, flags=re.S)


def stage(
    read: Script,
    catalog: Catalog,
    *,
    transactions: Transactions = Transactions.UNKNOWN,
    timeouts: Timeouts | None = None,
) -> list[Scene]:
    """Return every statement as a scene, judged on the catalog that earlier statements leave behind."""
    scenes: list[Scene] = []
    routines = _InRoutines()
    clock, zones = _Clock(timeouts or Timeouts()), _Zones(catalog.time_zone)
    home, file = catalog.search_path, ""
    made_if_missing: frozenset[Key] = frozenset()
    for position, placed in enumerate(read.placed):
        if placed.statement.file != file and transactions is not Transactions.ALL:
            catalog = replace(catalog, search_path=home)
        file = placed.statement.file
        node = tree(placed.statement.sql)
        now = clock.at(placed, transactions)
        catalog = replace(catalog, time_zone=zones.at(placed, transactions))
        parts = catalog.parts(node)
        scene = Scene(
            statement=placed.statement,
            node=node,
            effects=Effects(),
            catalog=catalog,
            timeouts=now,
            transaction=placed.transaction,
            transactions=transactions,
            position=position,
            zone_is_set=zones.is_set,
            made_if_missing=made_if_missing,
            parts=parts,
        )
        scenes.append(scene)
        catalog, inner = _inner(scene, routines)
        scene.effects = together(node, scene.catalog, parts, inner)
        local_counts = placed.transaction is not None or transactions in _TOGETHER
        clock.pass_by(node, local_counts=local_counts)
        zones.pass_by([node, *(part.node for part in scene.parts if part.node is not None)], local_counts=local_counts)
        if isinstance(node, ast.CreateStmt) and node.if_not_exists:
            made_if_missing |= {scene.table(node.relation).key}
        catalog = _under_path(after(catalog, node), node, scene.parts, home)
    for each in (*scenes, *{id(inner): inner for scene in scenes for inner in scene.inner}.values()):
        each.scenes = scenes
        each.final = catalog
    return scenes


def _inner(scene: Scene, routines: _InRoutines) -> tuple[Catalog, list[Effects]]:
    """Give a scene one for each statement that runs within it.

    Returns the catalog that these leave behind, and what each does on that before them all.
    """
    catalog, effects = scene.catalog, []
    seen_by = before = _seen_by(catalog)
    for part in scene.parts:
        if part.node is None:
            continue
        here = seen_by(part.path)
        inner = routines.scene(scene, part, here)
        scene.inner.append(inner)
        effects.append(inner.effects if seen_by is before else routines.effects(part.node, before(part.path)))
        left = after(here, part.node)
        if left is not here:
            catalog = replace(left, search_path=catalog.search_path)
            seen_by = _seen_by(catalog)
    return catalog, effects


def _seen_by(catalog: Catalog) -> Callable[[str | None], Catalog]:
    return lru_cache(partial(under, catalog))


class _InRoutines:
    """What stands in routines: judged once for each state of the tables, whoever runs it how often.

    What changes more than rows is judged once in each file, as that and its transaction decide what its locks cost.
    """

    def __init__(self) -> None:
        self._effects: dict[Hashable, Effects] = {}
        self._scenes: dict[Hashable, Scene] = {}

    def effects(self, node: Any, catalog: Catalog) -> Effects:
        """Return the effects of a statement that stands in another one."""
        key = _standing(node, catalog)
        if key not in self._effects:
            self._effects[key] = alone(node, catalog)
        return self._effects[key]

    def scene(self, outer: Scene, part: RoutinePart, catalog: Catalog) -> Scene:
        """Return the scene of a statement that stands in another one, the same one for a routine's."""
        if not part.is_of_routine:
            return self._made(outer, part, catalog)
        where = () if isinstance(part.node, OF_ROWS) else (outer.statement.file, outer.transaction, outer.timeouts)
        key = (_standing(part.node, catalog), where)
        if key not in self._scenes:
            self._scenes[key] = self._made(outer, part, catalog)
        return self._scenes[key]

    def _made(self, outer: Scene, part: RoutinePart, catalog: Catalog) -> Scene:
        found = self.effects(part.node, catalog)
        return replace(
            outer, node=part.node, effects=found, catalog=catalog, within=part.within, parts=(), inner=[], checked={}
        )


def _standing(node: Any, catalog: Catalog) -> Hashable:
    """Return what tells whether a statement does the same again: one of rows depends on its own tables only."""
    of_rows = isinstance(node, OF_ROWS)
    tables = catalog.state(relations_in(node)) if of_rows else Same(catalog.tables)
    return Same(node), tables, Same(catalog.types), catalog.search_path, catalog.time_zone


def _under_path(catalog: Catalog, node: Any, parts: Sequence[RoutinePart], home: tuple[str, ...]) -> Catalog:
    """Return the catalog as names find it behind a statement that sets search_path: in every schema if it is computed.

    Where no database was asked, every name means one table.
    """
    within = [setting for part in parts if part.node is not None for setting in settings(part.node)]
    for setting, is_sure in [*((each, each.is_known) for each in settings(node)), *((each, False) for each in within)]:
        if setting.may_be_search_path and catalog.connected:
            catalog = replace(catalog, search_path=_path(catalog, setting, home, is_sure=is_sure))
    return catalog


def _path(catalog: Catalog, setting: Setting, home: tuple[str, ...], *, is_sure: bool) -> tuple[str, ...]:
    path = path_after(catalog, setting, home) if is_sure else None
    return ("pg_catalog", *sorted({schema for schema, _ in catalog.tables})) if path is None else path


_TOGETHER = (Transactions.FILE, Transactions.ALL)


class _Clock:
    """The timeouts in force: those of the session, and those that end with a transaction.

    Source: https://www.postgresql.org/docs/current/sql-set.html
    """

    def __init__(self, base: Timeouts) -> None:
        self.base = base
        self.session = base
        self.local: dict[str, int] = {}
        self.where: tuple[str, int | None] | None = None

    def at(self, placed: StatementContext, transactions: Transactions) -> Timeouts:
        file = placed.statement.file
        if self.where is not None and self.where[0] != file and transactions is not Transactions.ALL:
            self.session, self.local = self.base, {}
        if self.where is not None and self.where[1] != placed.transaction:
            self.local = {}
        self.where = (file, placed.transaction)
        return replace(self.session, **self.local)

    def pass_by(self, node: Any, *, local_counts: bool) -> None:
        for name, value_ms, local in _settings(node):
            if not local:
                default = getattr(self.base, name)
                self.session = replace(self.session, **{name: default if value_ms is None else value_ms})
                self.local.pop(name, None)
            elif local_counts and value_ms is not None:
                self.local[name] = value_ms


class _Zones:
    """The TimeZone in force, as :class:`_Clock` has the timeouts; None where it is not known."""

    def __init__(self, home: str | None) -> None:
        self.home = self.session = home
        self.local: str | None = None
        self.is_local = self.was_set = False
        self.where: tuple[str, int | None] | None = None

    @property
    def is_set(self) -> bool:
        """Whether a file has set it."""
        return self.is_local or self.was_set

    def at(self, placed: StatementContext, transactions: Transactions) -> str | None:
        """Return the zone in which a statement runs."""
        file = placed.statement.file
        if self.where is not None and self.where[0] != file and transactions is not Transactions.ALL:
            self.session, self.was_set, self.is_local = self.home, False, False
        if self.where is not None and self.where[1] != placed.transaction:
            self.is_local = False
        self.where = (file, placed.transaction)
        return self.local if self.is_local else self.session

    def pass_by(self, nodes: Sequence[Any], *, local_counts: bool) -> None:
        """Take note of what a statement sets, and what those in it do."""
        for setting in (each for node in nodes for each in settings(node) if each.name in _ZONE):
            resets = setting.value is None and setting.is_known
            value = None if not setting.is_known else self.home if resets else setting.value
            if not setting.is_local:
                self.session, self.was_set, self.is_local = value, not resets, False
            elif local_counts:
                self.local, self.is_local = value, True


_ZONE = ("timezone", ANY)


def _settings(node: Any) -> Iterator[tuple[str, int | None, bool]]:
    """Yield what a statement sets: the timeout, its ms (None for the default), and whether it is local."""
    for setting in settings(node):
        for name in _TIMEOUTS if setting.name == ANY and setting.is_known else (setting.name,):
            if name in _TIMEOUTS:
                yield _TIMEOUTS[name], _milliseconds(setting.value), setting.is_local


def _milliseconds(value: str | None) -> int | None:
    written = re.fullmatch(r"\s*([0-9.]+)\s*([a-z]*)\s*", value or "")
    if written is None or written.group(2) not in _UNITS_MS:
        return None
    return round(float(written.group(1)) * _UNITS_MS[written.group(2)])
