"""Whether ALTER COLUMN TYPE rewrites the table; for ``effects.statements``.

Source: https://www.postgresql.org/docs/current/sql-altertable.html, Notes
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pglast import ast

from pgrunbook.database.catalog import Catalog, Column, Index
from pgrunbook.sql.tree import TypeWord, type_word

# Time zones of a session in which timestamp and timestamptz are stored as the same number.
_NO_OFFSET = {"utc", "gmt", "uct", "zulu", "universal", "greenwich", "gmt0", "gmt+0", "gmt-0", "etc/utc", "etc/gmt"}
_TIMES = {"timestamp", "timestamptz", "time", "timetz"}
_MOST_DIGITS = 6
_INTERVAL_WHOLE = 0x7FFF
# Types that an index sorts in the same order, under the same operator class.
_SAME_ORDER = ({"text", "varchar"}, {"inet", "cidr"})


@dataclass(frozen=True)
class Kind:
    """A type without its domains; an array's ``base`` begins with "_", as PostgreSQL names it."""

    base: str
    modifiers: tuple[int, ...]
    checked: bool = False


@dataclass(frozen=True)
class TypeChange:
    """A column's old and new type, and the cost of the change."""

    old: str
    new: str
    rewrites: bool
    known: bool
    reindexes: bool = False

    def rebuilds(self, index: Index) -> bool:
        """Whether an index over the column is rebuilt although the table is not."""
        return self.reindexes or not index.plain


def judge(column: Column | None, cmd: Any, catalog: Catalog) -> TypeChange:
    """Return the effect of ALTER COLUMN ... TYPE; an unknown column counts as rewritten."""
    definition = cmd.def_
    word = type_word(definition.typeName)
    new = kind_of(word, catalog)
    if column is None:
        return TypeChange("its type", word.text, rewrites=True, known=False)
    old = Kind(column.base, column.modifiers)
    steps = _steps(cmd.name, definition.raw_default, new, catalog)
    rewrites = steps is None or _any_rewrites(old, steps, catalog)
    collation = definition.collClause.collname[-1].sval if definition.collClause else None
    moved = collation != column.collation and (collation is not None or column.collation is not None)
    reindexes = moved or not _same_order(old.base, new.base)
    return TypeChange(column.type, word.text, rewrites, known=True, reindexes=reindexes)


def kind_of(word: TypeWord, catalog: Catalog) -> Kind:
    """Return the type under a domain; without a catalog each name counts as a plain type."""
    fact = catalog.types.get(word.name)
    if fact is None or fact.kind != "d":
        return Kind("_" + word.name if word.array else word.name, word.modifiers)
    return Kind("_" + fact.base if word.array else fact.base, fact.modifiers, fact.checked)


def _steps(name: str, using: Any, new: Kind, catalog: Catalog) -> list[Kind] | None:
    """Return the conversions from the column to its new type; None if USING computes something."""
    if using is None:
        return [new]
    if isinstance(using, ast.TypeCast):
        inner = _steps(name, using.arg, new, catalog)
        return None if inner is None else [*inner[:-1], kind_of(type_word(using.typeName), catalog), new]
    if isinstance(using, ast.ColumnRef) and getattr(using.fields[-1], "sval", None) == name:
        return [new]
    return None


def _any_rewrites(old: Kind, steps: list[Kind], catalog: Catalog) -> bool:
    for new in steps:
        if new.checked or _converts(old, new, catalog):
            return True
        old = new
    return False


def _converts(old: Kind, new: Kind, catalog: Catalog) -> bool:
    if old.base == new.base:
        return old.modifiers != new.modifiers and _shortens(old, new)
    if {old.base, new.base} == {"timestamp", "timestamptz"}:
        same = (catalog.time_zone or "").lower() in _NO_OFFSET
        return not same or _shortens(old, new)
    pairs = catalog.binary_casts or {("varchar", "text"), ("text", "varchar"), ("cidr", "inet")}
    return (old.base, new.base) not in pairs or bool(new.modifiers)


def _shortens(old: Kind, new: Kind) -> bool:
    """Whether values may have to be cut, padded or checked, between modifiers of one base type."""
    match new.base:
        case "varchar" | "varbit":
            return bool(new.modifiers) and (not old.modifiers or new.modifiers[0] < old.modifiers[0])
        case "numeric":
            return bool(new.modifiers) and not _same_scale(old.modifiers, new.modifiers)
        case "interval":
            return _interval_shortens(old.modifiers, new.modifiers)
        case base if base in _TIMES:
            wanted = new.modifiers[0] if new.modifiers else _MOST_DIGITS
            return wanted < (old.modifiers[0] if old.modifiers else _MOST_DIGITS)
    return True


def _same_scale(old: tuple[int, ...], new: tuple[int, ...]) -> bool:
    if not old:
        return False
    scales = [modifiers[1] if len(modifiers) > 1 else 0 for modifiers in (old, new)]
    return scales[0] == scales[1] and new[0] >= old[0]


def _interval_shortens(old: tuple[int, ...], new: tuple[int, ...]) -> bool:
    fields = [modifiers[0] if modifiers else _INTERVAL_WHOLE for modifiers in (old, new)]
    digits = [modifiers[1] if len(modifiers) > 1 else _MOST_DIGITS for modifiers in (old, new)]
    return fields[1] not in (_INTERVAL_WHOLE, fields[0]) or digits[1] < digits[0]


def _same_order(old: str, new: str) -> bool:
    return old == new or any({old, new} <= group for group in _SAME_ORDER)
