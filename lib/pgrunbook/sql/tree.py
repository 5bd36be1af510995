"""Parse trees of SQL: the names, types and constants in them, and their text."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from functools import lru_cache, wraps
from typing import Any, NamedTuple, TypeVar

import pglast
from pglast import ast, enums, keywords
from pglast.parser import ParseError, split
from pglast.stream import RawStream

from pgrunbook.sql.values_lists import shortened

CASCADE = 1
REMEMBERED_NODES = 1 << 16

# Each level of a tree takes its printer some ten calls, and 500 rows may stand there as SELECT ... UNION ALL SELECT ...
sys.setrecursionlimit(max(sys.getrecursionlimit(), 30_000))

T = TypeVar("T")
_SLOTS: dict[type[ast.Node], tuple[str, ...]] = {}
_PLAIN_NAME = re.compile("[a-z_][a-z0-9_]*")
_NOT_BARE = keywords.RESERVED_KEYWORDS | keywords.TYPE_FUNC_NAME_KEYWORDS | keywords.COL_NAME_KEYWORDS


class Name(NamedTuple):
    """A name as it is written; ``schema`` is None where it is found by the search path."""

    schema: str | None
    name: str

    def __str__(self) -> str:
        return ".".join(quoted(part) for part in self if part)


class TypeWord(NamedTuple):
    """A type as it is written: ``varchar(50)[]`` is ("varchar", (50,), True); no schema where the path finds it."""

    name: str
    modifiers: tuple[int, ...]
    array: bool
    text: str
    schema: str | None = None


@lru_cache(maxsize=4096)
def tree(sql: str) -> Any:
    """Return the node of a single statement, to be judged. It is shared: look at it, do not change it.

    Of rows of VALUES that differ in their literals only it has the first: it may be shown, and not be executed.
    """
    return trees(sql)[0]


def trees(sql: str) -> list[Any]:
    """Return the nodes of statements, to be judged as that of :func:`tree` is. Raises ParseError as the parser does."""
    short = shortened(sql)
    try:
        return [item.stmt for item in pglast.parse_sql(short.text)]
    except ParseError:
        if short.text is sql:
            raise
        return [item.stmt for item in pglast.parse_sql(sql)]  # it tells the place in the whole text


def apart(sql: str) -> list[str]:
    """Return the texts of statements, without their semicolons. Raises ParseError as the parser does."""
    short = shortened(sql)
    return [sql[short.at(part.start) : short.end(part.stop)] for part in split(short.text, only_slices=True)]


class Same:
    """A node as the key of what is known of it: equal to itself alone, as nodes have no hash."""

    __slots__ = ("node",)

    def __init__(self, node: Any) -> None:
        self.node = node

    def __hash__(self) -> int:
        return id(self.node)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self.node is other.node


def once_per_node(judge: Callable[[Any], T]) -> Callable[[Any], T]:
    """Remember what a function returns for a node: a body is reached from every statement that may run it.

    What it returns is shared, as a node of :func:`tree` is.
    """
    known: dict[int, tuple[Any, T]] = {}

    @wraps(judge)
    def remembered(node: Any) -> T:
        found = known.get(id(node))
        if found is None:
            if len(known) >= REMEMBERED_NODES:
                known.clear()
            found = known[id(node)] = (node, judge(node))  # as long as the node is held, no other one has its id
        return found[1]

    return remembered


def changed(sql: str, change: Callable[[Any], None]) -> str:
    """Return a statement's text after ``change`` has worked on a tree of its own."""
    node = pglast.parse_sql(sql)[0].stmt
    change(node)
    return text(node)


def text(node: Any) -> str:
    """Return a node as SQL on one line."""
    return str(RawStream()(node))


def walk(node: Any) -> Iterator[Any]:
    """Yield a node and every node below it, outermost first, as deep as they lie."""
    waiting = [node]
    while waiting:
        part = waiting.pop()
        if isinstance(part, ast.Node):
            yield part
            for slot in _slots_of_nodes(type(part)):
                value = getattr(part, slot)
                if value is not None:
                    waiting.append(value)
        elif isinstance(part, tuple):
            waiting.extend(reversed(part))


@once_per_node
def whole(node: Any) -> tuple[Any, ...]:
    """Return what :func:`walk` yields, remembered for statements at which many rooms look."""
    return tuple(walk(node))


def _slots_of_nodes(kind: type[ast.Node]) -> tuple[str, ...]:
    """Return the attributes of a kind of node that may hold others, the last first."""
    if kind in _SLOTS:
        return _SLOTS[kind]
    found = []
    for name, info in kind.__slots__.items():
        types = info.py_type if isinstance(info.py_type, tuple) else (info.py_type,)
        if any(each in (list, tuple) or issubclass(each, ast.Node) for each in types):
            found.append(name)
    _SLOTS[kind] = tuple(reversed(found))
    return _SLOTS[kind]


def depth(node: Any) -> int:
    """Return how many nodes lie within one another."""
    deepest, waiting = 0, [(node, 0)]
    while waiting:
        part, level = waiting.pop()
        if isinstance(part, ast.Node):
            deepest = max(deepest, level)
            waiting.extend((getattr(part, slot), level + 1) for slot in _slots_of_nodes(type(part)))
        elif isinstance(part, tuple):
            waiting.extend((each, level) for each in part)
    return deepest


@lru_cache(maxsize=65_536)
def quoted(name: str) -> str:
    """Return an identifier as SQL needs it, in quotes only where they are needed."""
    if _PLAIN_NAME.fullmatch(name) and name not in _NOT_BARE:
        return name
    return '"' + name.replace('"', '""') + '"'


def dotted_name(*parts: str) -> str:
    """Return a qualified name, its parts in quotes only where they are needed."""
    return ".".join(quoted(part) for part in parts)


def relation(node: Any) -> Name:
    """Return the name in a RangeVar."""
    return Name(node.schemaname, node.relname)


def dotted(entry: Any) -> Name:
    """Return the name in a list of Strings, as DROP and COMMENT hold it."""
    if isinstance(entry, ast.TypeName):
        entry = entry.names
    if isinstance(entry, ast.ObjectWithArgs):
        entry = entry.objname
    parts = entry if isinstance(entry, tuple) else (entry,)
    words = [part.sval for part in parts if isinstance(part, ast.String)] or [text(entry)]
    return Name(words[-2] if len(words) > 1 else None, words[-1])


def strings(nodes: Any) -> tuple[str, ...]:
    """Return the texts of a list of Strings; () for None."""
    return tuple(part.sval for part in nodes or () if isinstance(part, ast.String))


def type_word(node: Any) -> TypeWord:
    """Return what a TypeName says."""
    modifiers = tuple(
        mod.val.ival for mod in node.typmods or () if isinstance(mod, ast.A_Const) and isinstance(mod.val, ast.Integer)
    )
    schema = node.names[-2].sval if len(node.names) > 1 else None
    return TypeWord(node.names[-1].sval, modifiers, bool(node.arrayBounds), text(node), schema)


def enum_name(kind: type[Any], value: Any) -> str:
    """Return the name of an enum's value without its prefix: ("AlterTableType", 0) is "AddColumn"."""
    return str(kind(value).name).partition("_")[2]


def subcommand(cmd: Any) -> str:
    """Return the word for a subcommand of ALTER TABLE: "AddColumn", "SetNotNull" ..."""
    return enum_name(enums.AlterTableType, cmd.subtype)


def constraint_kind(node: Any) -> str:
    """Return "FOREIGN", "CHECK", "NOTNULL" ... for a Constraint."""
    return enum_name(enums.ConstrType, node.contype)


def object_kind(value: Any) -> str:
    """Return "TABLE", "INDEX", "MATVIEW" ... for an ObjectType."""
    return enum_name(enums.ObjectType, value)


def options(node: Any) -> dict[str, Any]:
    """Return the DefElems of a list by their names; the value is their argument's node."""
    return {item.defname: item.arg for item in node or () if isinstance(item, ast.DefElem)}


def is_on(given: Any, name: str, *, default: bool = False) -> bool:
    """Tell whether a boolean option is on, as the server reads it: by its last value; named alone it is on."""
    found = default
    for item in given or ():
        if isinstance(item, ast.DefElem) and item.defname == name:
            found = item.arg is None or _option_word(item.arg).lower() not in ("false", "off", "0")
    return found


def _option_word(value: Any) -> str:
    """Return the word that an option's value is: a constant, or a name that the parser takes for a type's."""
    if isinstance(value, ast.TypeName):
        return str(value.names[-1].sval)
    return str(getattr(value, next(iter(value))))


def columns_in(node: Any) -> set[str]:
    """Return the last words of every column reference below a node; "*" for a star."""
    found = set()
    for part in walk(node):
        if isinstance(part, ast.ColumnRef):
            last = part.fields[-1]
            found.add("*" if isinstance(last, ast.A_Star) else last.sval)
    return found


@once_per_node
def functions_in(node: Any) -> tuple[str, ...]:
    """Return the names of the functions called below a node, without their schemas."""
    return tuple(part.funcname[-1].sval for part in walk(node) if isinstance(part, ast.FuncCall))


@once_per_node
def relations_named(node: Any) -> tuple[Any, ...]:
    """Return each RangeVar below a node, in order; names of WITH queries are left out."""
    parts = whole(node)
    own = {part.ctename for part in parts if isinstance(part, ast.CommonTableExpr)}
    named = (part for part in parts if isinstance(part, ast.RangeVar))
    return tuple(part for part in named if part.schemaname or part.relname not in own)


@once_per_node
def relations_in(node: Any) -> tuple[Name, ...]:
    """Return the relations named below a node, each once, in order; names of WITH queries are left out."""
    return tuple(dict.fromkeys(map(relation, relations_named(node))))


def column_names(node: Any) -> list[str]:
    """Return the names of the columns in an expression, each once, in the order they come."""
    found = [
        part.fields[-1].sval
        for part in walk(node)
        if isinstance(part, ast.ColumnRef) and isinstance(part.fields[-1], ast.String)
    ]
    return list(dict.fromkeys(found))
