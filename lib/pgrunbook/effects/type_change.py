"""Whether ALTER COLUMN TYPE rewrites the table, and what it rebuilds; for ``effects.statements``.

It follows the server: the new value is an expression over the old one, a chain of conversions. The table stays as it
is where each of them only gives the value another name: a cast without a function, a domain without constraints, or
parameters of the type (its modifiers) that let all values through.

Source: https://www.postgresql.org/docs/current/sql-altertable.html, Notes; ATColumnChangeRequiresRewrite and
coerce_type in the server, whose every pair of types the tests ask for.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from pglast import ast

from pgrunbook.database.catalog import Catalog
from pgrunbook.database.relations import Column, Index
from pgrunbook.sql.tree import TypeWord, type_word

# The time zones in which an instant has been the same number as its local time at all times.
_NO_OFFSET = re.compile(
    r"(posix/)?((etc/)?(utc|gmt|uct|zulu|universal|greenwich|gmt[+-]?0)|factory)|0|(<[-+\w]+>|[a-z]{3,})[-+]?0{1,2}(:?00)*",
    re.I,
)
_TIMES = {"timestamp", "timestamptz", "time", "timetz"}
_MOST_DIGITS = 6
# The fields of an interval as its modifier has them, and the least of them: 0 for seconds.
_YEAR, _MONTH, _DAY, _HOUR, _MINUTE, _SECOND = (1 << bit for bit in (2, 1, 3, 10, 11, 12))
_LEAST_FIELDS = ((_SECOND, 0), (_MINUTE, 1), (_HOUR, 2), (_DAY, 3), (_MONTH, 4), (_YEAR, 5))
# Of pg_type.typtype: enum, range, multirange.
_GENERIC = ("e", "r", "m")
# Indexes that store another type than the column's, where it is an array, an enum or a range.
_STORE_ANOTHER = ("hash", "gin", "brin")
# Casts without a function, where no database tells them.
_BINARY = frozenset(
    (f"pg_catalog.{source}", f"pg_catalog.{target}")
    for source, target in (
        ("varchar", "text"), ("text", "varchar"), ("cidr", "inet"), ("varchar", "bpchar"), ("text", "bpchar"),
        ("bit", "varbit"), ("varbit", "bit"), ("xml", "text"), ("xml", "varchar"),
    )
)  # fmt: skip
# Types that are sorted as another one, where no database tells them.
_ORDERED_AS = MappingProxyType({"pg_catalog.varchar": "pg_catalog.text", "pg_catalog.cidr": "pg_catalog.inet"})


@dataclass(frozen=True)
class Kind:
    """A type; ``base`` is the one below its domains, an array's begins with "_", as PostgreSQL names it.

    ``modifiers`` are those of ``base``. ``name`` and ``base_name`` have their schemas. ``is_generic`` says that its
    operators are those of all arrays, enums or ranges.
    """

    base: str
    modifiers: tuple[int, ...]
    checked: bool = False
    name: str = ""
    base_name: str = ""
    collation: str | None = None
    is_generic: bool = False

    @property
    def is_domain(self) -> bool:
        """Whether it is a domain."""
        return self.name != self.base_name

    @property
    def own_modifiers(self) -> tuple[int, ...]:
        """The modifiers of a value of this type: those of a domain are its base type's alone."""
        return () if self.is_domain else self.modifiers


@dataclass(frozen=True)
class TypeChange:
    """A column's old and new type, and the cost of the change."""

    column: str
    old: str
    new: str
    rewrites: bool
    known: bool
    reindexes: bool = False
    is_generic: bool = False

    def rebuilds(self, index: Index) -> bool:
        """Whether an index that uses the column is rebuilt although the table is not.

        Not one that only includes it; of arrays, enums and the like each index is that stores another type
        than theirs.
        """
        if self.column not in index.keys:
            return not index.plain
        return not index.plain or self.reindexes or (self.is_generic and index.method in _STORE_ANOTHER)


def judge(column: Column | None, cmd: Any, catalog: Catalog) -> TypeChange:
    """Return the effect of ALTER COLUMN ... TYPE; an unknown column counts as rewritten."""
    definition = cmd.def_
    word = type_word(definition.typeName)
    new = kind_of(word, catalog)
    if column is None:
        return TypeChange(cmd.name, "its type", word.text, rewrites=True, known=False)
    old = Kind(column.base, column.modifiers, column.checked, column.type_name, column.base_name)
    steps = _steps(cmd.name, definition.raw_default, new, catalog)
    rewrites = steps is None or _any_converts(old, steps, catalog)
    collation = definition.collClause.collname[-1].sval if definition.collClause else new.collation
    collation = None if collation == "default" else collation
    reindexes = collation != column.collation or not _same_order(old, new, catalog)
    return TypeChange(cmd.name, column.type, word.text, rewrites, True, reindexes, new.is_generic)


def kind_of(word: TypeWord, catalog: Catalog) -> Kind:
    """Return the type that a word means; without a catalog each name counts as a plain type."""
    schema, fact = catalog.type_named(word.schema, word.name)
    if word.array:
        is_domain = fact is not None and fact.kind == "d"
        base, modifiers = (fact.base, fact.modifiers) if fact and is_domain else (word.name, word.modifiers)
        name = f"{schema}._{word.name}"
        collation = fact.collation if fact else None
        return Kind("_" + base, modifiers, bool(fact and is_domain and fact.checked), name, name, collation, True)
    name = f"{schema}.{word.name}"
    if fact is None:
        return Kind(word.name, word.modifiers, name=name, base_name=name)
    if fact.kind != "d":
        is_generic = fact.kind in _GENERIC
        return Kind(word.name, word.modifiers, False, name, name, fact.collation, is_generic)
    is_generic = fact.base.startswith("_")
    return Kind(fact.base, fact.modifiers, fact.checked, name, fact.base_name, fact.collation, is_generic)


def _steps(name: str, using: Any, new: Kind, catalog: Catalog) -> list[Kind] | None:
    """Return the conversions from the column to its new type; None if USING computes something."""
    if using is None:
        return [new]
    if isinstance(using, ast.CollateClause):
        return _steps(name, using.arg, new, catalog)
    if isinstance(using, ast.TypeCast):
        inner = _steps(name, using.arg, new, catalog)
        return None if inner is None else [*inner[:-1], kind_of(type_word(using.typeName), catalog), new]
    if isinstance(using, ast.ColumnRef) and getattr(using.fields[-1], "sval", None) == name:
        return [new]
    return None


def _any_converts(old: Kind, steps: list[Kind], catalog: Catalog) -> bool:
    """Follow a value from type to type; ``modifiers`` are what is known of it in between."""
    modifiers = old.own_modifiers
    for new in steps:
        if old.name != new.name:
            after = _modifiers_behind(old, modifiers, new, catalog)
            if after is None:
                return True
            modifiers = after
        if _shortens(new.base, modifiers, new.own_modifiers):
            return True
        old, modifiers = new, new.own_modifiers
    return False


def _modifiers_behind(old: Kind, modifiers: tuple[int, ...], new: Kind, catalog: Catalog) -> tuple[int, ...] | None:
    """Return what is known of a value's modifiers behind a cast to another type, None where the cast converts it."""
    casts = catalog.binary_casts or _BINARY
    if old.base_name != new.base_name and (old.base_name, new.base_name) not in casts:
        is_instant = {old.base, new.base} == {"timestamp", "timestamptz"}
        if not is_instant or not _NO_OFFSET.fullmatch(catalog.time_zone or ""):
            return None
        modifiers = ()
    if new.is_domain and (new.checked or _shortens(new.base, modifiers, new.modifiers)):
        return None
    return ()


def _shortens(base: str, old: tuple[int, ...], new: tuple[int, ...]) -> bool:
    """Whether values may have to be cut, padded or checked, between modifiers of one base type."""
    if not new or old == new:
        return False
    match base:
        case "varchar" | "varbit":
            return not old or new[0] < old[0]
        case "numeric":
            return not _same_scale(old, new)
        case "interval":
            return _interval_shortens(old, new)
        case _ if base in _TIMES:
            return new[0] < _MOST_DIGITS and (not old or new[0] < old[0])
    return True


def _same_scale(old: tuple[int, ...], new: tuple[int, ...]) -> bool:
    if not old:
        return False
    scales = [modifiers[1] if len(modifiers) > 1 else 0 for modifiers in (old, new)]
    return scales[0] == scales[1] and new[0] >= old[0]


def _interval_shortens(old: tuple[int, ...], new: tuple[int, ...]) -> bool:
    """PostgreSQL looks at the least field only, and at the digits of seconds where there are seconds."""
    least = [_least_field(modifiers) for modifiers in (old, new)]
    digits = [modifiers[1] if len(modifiers) > 1 else _MOST_DIGITS for modifiers in (old, new)]
    return least[1] > least[0] or (least[0] == 0 and digits[1] < digits[0])


def _least_field(modifiers: tuple[int, ...]) -> int:
    fields = modifiers[0] if modifiers else _SECOND
    return next(number for bit, number in _LEAST_FIELDS if fields & bit)


def _same_order(old: Kind, new: Kind, catalog: Catalog) -> bool:
    """Whether an index over the one type serves the other one: the same operator class, and for arrays the same type.

    Source: CheckIndexCompatible in the server
    """
    if old.name == new.name:
        return True
    if old.base.startswith("_") or new.base.startswith("_"):
        return False
    known = catalog.ordered_as or _ORDERED_AS
    return known.get(old.base_name, old.base_name) == known.get(new.base_name, new.base_name)
