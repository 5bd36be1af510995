"""What statements run beside themselves: the bodies of DO, of functions and of triggers, as deep as they call.

``database.routines_reader`` reads them from a database; safe forms and the review judge what they hold.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

from pglast import ast, enums

from pgrunbook.sql.calls import DML, Call, calls, operators, run_nodes, touched
from pgrunbook.sql.catalog_names import CatalogNames
from pgrunbook.sql.do_branches import read_block
from pgrunbook.sql.routines import UNREADABLE, Block, analyzes, block, routine, text_statements, unreadable_because
from pgrunbook.sql.settings import path_names, settings
from pgrunbook.sql.side_effects import ACTING, OF_TEXT
from pgrunbook.sql.tree import Name, dotted, once_per_node, options, relation, text

DEEPEST = 50
# None of these calls a function when it runs itself.
_DEFINES = (ast.CreatePolicyStmt, ast.AlterPolicyStmt, ast.ViewStmt, ast.CreateStmt, ast.RuleStmt)
# The bits of pg_trigger.tgtype, which a CREATE TRIGGER holds as well.
_RULE_EVENTS = {
    enums.CmdType.CMD_INSERT: "INSERT", enums.CmdType.CMD_UPDATE: "UPDATE", enums.CmdType.CMD_DELETE: "DELETE",
}  # fmt: skip
_EVENTS = {4: "INSERT", 8: "DELETE", 16: "UPDATE", 32: "TRUNCATE"}


@dataclass(frozen=True)
class Routine:
    """A function or procedure that somebody made; ``path`` is the search_path that it sets for itself, if it does."""

    schema: str
    name: str
    language: str
    sql: str
    fewest: int = 0
    most: int = 1000
    path: str | None = None

    @property
    def label(self) -> str:
        """The name as SQL needs it."""
        return str(Name(self.schema or None, self.name))

    @cached_property
    def code(self) -> Block:
        """What it holds, as far as it can be read."""
        return routine(self.sql) if self.language in ("sql", "plpgsql") else UNREADABLE


class Fired(NamedTuple):
    """A routine that runs when a relation is read or written; ``event`` is INSERT, READ ... ."""

    relation: Name
    event: str
    routine: Name


@dataclass(frozen=True)
class RoutinePart:
    """Something that runs within a statement: a statement, or with no ``node`` what cannot be judged, and why.

    ``within`` says where it stands; ``path`` is the search_path that its routine sets for itself. ``calls`` names
    the function of the system or of an extension that acts beyond the statement. ``is_of_routine`` says that it
    stands in a routine, which other statements may run as well.
    """

    node: Any
    within: str
    path: str | None = None
    in_loop: bool = False
    because: str = ""
    calls: str = ""
    is_of_routine: bool = False


@dataclass(frozen=True)
class Routines:
    """The routines that statements may run, by the names that they are called by, and what runs them unnamed.

    ``others`` are ("function", name) and ("operator", name): a name of PostgreSQL's own that somebody has given, too;
    and ("setting", plpgsql.variable_conflict) where a name is that of a column before it is that of a variable.
    ``is_read`` is false where no database was asked: what no statement has made is not known then.
    """

    named: Mapping[str, tuple[Routine, ...]] = field(default_factory=dict)
    fired: tuple[Fired, ...] = ()
    operators: Mapping[str, tuple[Name, ...]] = field(default_factory=dict)
    prepared: Mapping[str, Any] = field(default_factory=dict)
    others: frozenset[tuple[str, str]] = frozenset()
    is_read: bool = False

    def of(self, called: Call, path: Sequence[str] | None = None) -> list[Routine]:
        """Return the routines that a call may mean; without a path those of the name in any schema."""
        return [
            one
            for one in self.named.get(called.name.name, ())
            if (called.arguments < 0 or one.fewest <= called.arguments <= one.most)
            and (_is_in(one.schema, called.name.schema, path))
        ]

    def on(self, named: Name, event: str, path: Sequence[str] | None = None) -> list[Routine]:
        """Return the routines that run when a relation is read or written."""
        found = [
            one.routine
            for one in self._fired_by.get((named.name, event), ())
            if _is_in(one.relation.schema or "", named.schema, path)
        ]
        return [each for name in found for each in self.of(Call(name, -1))]

    @cached_property
    def _fired_by(self) -> dict[tuple[str, str], list[Fired]]:
        found: dict[tuple[str, str], list[Fired]] = {}
        for one in self.fired:
            found.setdefault((one.relation.name, one.event), []).append(one)
        return found

    def not_of_catalog(self, taken: CatalogNames, path: Sequence[str] | None = None) -> str:
        """Return why what has one of these names may not be PostgreSQL's own, "" where it is."""
        if path and "pg_catalog" in path and not all(_is_temporary(one) for one in path[: path.index("pg_catalog")]):
            return "another schema comes before pg_catalog in its search_path"
        for name in sorted(taken.variables):
            if any(kind == "setting" for kind, _ in self.others):
                return f"plpgsql.variable_conflict is use_column: {name} may be a column"
        for name in sorted(taken.functions):
            if ("function", name) in self.others or self.named.get(name):
                return f"a function {name}() is there that is not PostgreSQL's own"
        for name in sorted(taken.operators):
            if ("operator", name) in self.others:
                return f"an operator {name} is there that is not PostgreSQL's own"
        return ""

    def after(self, node: Any) -> Routines:
        """Return the routines as they are when a statement has made another, a trigger or a prepared statement."""
        match node:
            case ast.CreateFunctionStmt():
                made = _made(node)
                others = tuple(r for r in self.named.get(made.name, ()) if not _is_in(r.schema, made.schema or None))
                return replace(self, named={**self.named, made.name: (*others, made)})
            case ast.CreateTrigStmt():
                events = [event for bit, event in _EVENTS.items() if node.events & bit]
                name = dotted(node.funcname)
                fired = (Fired(relation(node.relation), event, name) for event in events)
                return replace(self, fired=(*self.fired, *fired))
            case ast.PrepareStmt():
                return replace(self, prepared={**self.prepared, node.name: node.query})
            case ast.DefineStmt(kind=enums.ObjectType.OBJECT_OPERATOR):
                return replace(self, others=self.others | {("operator", dotted(node.defnames).name)})
        return self

    def beside(self, nodes: Iterable[Any]) -> Routines:
        """Return the routines with those that code may have made, beside the ones that it may have replaced."""
        found = self
        for node in nodes:
            if isinstance(node, ast.CreateTrigStmt):
                fired = found.after(node).fired
                found = replace(found, fired=tuple(dict.fromkeys(fired)))
            elif isinstance(node, ast.CreateFunctionStmt):
                made = _made(node)
                every = dict.fromkeys((*found.named.get(made.name, ()), made))
                found = replace(found, named={**found.named, made.name: tuple(every)})
            elif isinstance(node, ast.DefineStmt):
                found = found.after(node)
        return found

    def parts(self, node: Any, path: Sequence[str] | None = None) -> list[RoutinePart]:
        """Return what runs within a statement, each routine once; [] for one that runs nothing beside itself.

        What code makes and then calls is read as well.
        """
        known = self
        while True:
            found = list(_parts(known, node, path))
            more = known.beside(part.node for part in found)
            if more == known:
                return found
            known = more


def _is_in(schema: str, named: str | None, path: Sequence[str] | None = None) -> bool:
    """Tell whether what lies in a schema may be meant; "" is a schema that is not known."""
    if not schema or (named is None and path is None):
        return True
    return schema == named if named else schema in (path or ())


def _is_temporary(schema: str) -> bool:
    return schema == "pg_temp" or schema.startswith("pg_temp_")


def within(node: Any, routines: Routines, path: Sequence[str] | None = None) -> Iterator[RoutinePart]:
    """Yield the statements that stand in a statement itself: in DO, EXPLAIN ANALYZE, WITH, and a prepared one."""
    match node:
        case ast.DoStmt():
            yield from _of_do(node, routines, path)
            return
        case ast.ExplainStmt() if analyzes(node):
            yield RoutinePart(node.query, "EXPLAIN ANALYZE")
            return
        case ast.ExecuteStmt():
            prepared = routines.prepared.get(node.name)
            why = "" if prepared is not None else "the statement was prepared elsewhere"
            yield RoutinePart(prepared, f"EXECUTE {node.name}", because=why)
            return
        case ast.CreateTableAsStmt() if isinstance(node.query, ast.ExecuteStmt):
            yield from within(node.query, routines, path)
            return
        case ast.CopyStmt() if isinstance(node.query, DML):
            yield RoutinePart(node.query, "COPY")
        case ast.RuleStmt():
            yield from (RoutinePart(action, f"rule {node.rulename}") for action in node.actions or ())
            return
    yield from _written_in(node)


@once_per_node
def _written_in(node: Any) -> tuple[RoutinePart, ...]:
    """Return the changes in WITH, and what functions of the system execute as a text."""
    found: list[RoutinePart] = []
    for part in run_nodes(node):
        if isinstance(part, ast.CommonTableExpr) and isinstance(part.ctequery, DML):
            found.append(RoutinePart(part.ctequery, f"WITH {part.ctename}"))
        elif isinstance(part, ast.FuncCall) and part.funcname[-1].sval in OF_TEXT:
            found += _of_text(part)
    return tuple(found)


def _of_do(node: Any, routines: Routines, path: Sequence[str] | None) -> Iterator[RoutinePart]:
    """Yield what a DO block holds; texts that it puts together are read where PostgreSQL's own functions do that."""
    code, reading = block(text(node)), read_block(node)
    known = reading.statements
    why = routines.not_of_catalog(reading.names, path) if code.dynamic and known is not None else ""
    for part in _of_block(code if known is None else replace(code, dynamic=False), "DO"):
        is_told = not part.because or not reading.because or not code.readable
        yield part if is_told else replace(part, because=f"{part.because} ({reading.because})")
    if why:
        yield RoutinePart(None, "DO", because=f"it puts its statements together when it runs, and {why}")
    elif code.dynamic:
        yield from (RoutinePart(one.node, "DO") for one in known or ())


def _of_text(call: Any) -> Iterator[RoutinePart]:
    """Yield the statements in the text that a function of the system executes."""
    name = call.funcname[-1].sval
    if name == "ts_rewrite" and len(call.args) != 2:  # with three arguments it executes nothing
        return
    found = text_statements(call.args[OF_TEXT[name]])
    if found is None:
        yield RoutinePart(None, name, because="it executes a text that is put together when it runs")
    yield from (RoutinePart(inner, name) for inner in found or ())


def _of_block(code: Block, where: str, path: str | None = None, *, of_routine: bool = False) -> Iterator[RoutinePart]:
    for inner, in_loop in code.nodes:
        yield RoutinePart(inner, where, path, in_loop, is_of_routine=of_routine)
    why = unreadable_because(code)
    if why:
        yield RoutinePart(None, where, path, because=why, is_of_routine=of_routine)


@once_per_node
def _run_by(node: Any) -> tuple[tuple[Call, ...], frozenset[str], tuple[tuple[Name, str], ...]]:
    return calls(node), operators(node), touched(node)


def _parts(routines: Routines, node: Any, path: Sequence[str] | None) -> Iterator[RoutinePart]:
    waiting = deque([(node, "", path, 0, False)])
    seen: set[Routine] = set()
    while waiting:
        at, where, path_here, depth, is_of_routine = waiting.popleft()
        found = [
            replace(part, within=_joined(where, part.within), is_of_routine=is_of_routine)
            for part in within(at, routines, path_here)
        ]
        called_here, operators_here, touched_here = _run_by(at)
        for called in called_here:
            known = routines.of(called, path_here)
            found += _unknown(routines, called, where, at) if not known else []
            found += _entered(known, seen, where)
        for operator in operators_here & routines.operators.keys():
            named = [r for name in routines.operators[operator] for r in routines.of(Call(name, -1))]
            found += _entered(named, seen, where)
        for named_relation, event in touched_here:
            found += _entered(routines.on(named_relation, event, path_here), seen, where)
        for part in found:
            yield part
            if part.node is not None:
                inner = path_names(part.path) if part.path is not None else path_here
                if depth < DEEPEST:
                    waiting.append((part.node, part.within, inner, depth + 1, part.is_of_routine))
                else:
                    yield RoutinePart(None, part.within, because=f"routines call one another more than {DEEPEST} deep")


def _entered(found: Iterable[Routine], seen: set[Routine], where: str) -> list[RoutinePart]:
    new = dict.fromkeys(one for one in found if one not in seen)
    seen.update(new)
    return [part for one in new for part in _of_block(one.code, _joined(where, one.label), one.path, of_routine=True)]


def _unknown(routines: Routines, called: Call, where: str, at: Any) -> list[RoutinePart]:
    """Judge a function that nobody made: of the system, of an extension, or in a database that was not asked."""
    name = called.name
    if name.name in ACTING:
        return [RoutinePart(None, where, because=f"{name}() {ACTING[name.name]}", calls=str(name))]
    theirs = isinstance(at, ast.CallStmt) or name.schema not in (None, "pg_catalog")  # the system has no procedures
    if theirs and not routines.is_read and not isinstance(at, _DEFINES):
        return [RoutinePart(None, _joined(where, str(name)), because="no database was asked for its code")]
    return []


def _joined(where: str, inner: str) -> str:
    return f"{where}, {inner}" if where and inner else where or inner


def _made(node: Any) -> Routine:
    name = dotted(node.funcname)
    given = options(node.options)
    kinds = [parameter.mode for parameter in node.parameters or ()]
    taking = [p for p in node.parameters or () if p.mode.value not in "ot"]
    variadic = any(kind.value == "v" for kind in kinds)
    return Routine(
        schema=name.schema or "",
        name=name.name,
        language=getattr(given.get("language"), "sval", "sql"),
        sql=text(node),
        fewest=len([p for p in taking if p.defexpr is None and p.mode.value != "v"]),
        most=1000 if variadic else len(node.parameters or ()) if node.is_procedure else len(taking),
        path=_own_path(node),
    )


def _own_path(node: Any) -> str | None:
    for item in node.options or ():
        if item.defname == "set" and item.arg.name == "search_path":
            return settings(item.arg)[0].value
    return None


def of_rule(node: Any) -> tuple[Routine, list[Fired]]:
    """Return a rule as a routine that holds its actions, and what runs it; () for one that only rewrites a query."""
    named = relation(node.relation)
    label = f"rule {node.rulename} of {named}"
    body = "; ".join(text(action) for action in node.actions or ()).replace("'", "''")
    made = Routine("", label, "sql", f"CREATE FUNCTION r() RETURNS void LANGUAGE sql AS '{body}'")
    event = _RULE_EVENTS.get(node.event)
    return made, [Fired(named, event, Name(None, label))] if event and node.actions else []
