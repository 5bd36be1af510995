"""Nobody gets in: what a user of the database plants in a schema of theirs is never called by our own queries.

With CREATE on ``public`` (everybody's before PostgreSQL 15) an operator for two types that pg_catalog has none for,
a function or a cast is found by every session whose search_path names that schema.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from pglast import ast, parse_sql
from pglast.parser import ParseError

from acting import run
from conftest import ROOT, connect, rows
from pgrunbook.config.targets import Target
from pgrunbook.database import activity, connection, health, readiness, schema
from pgrunbook.database.queries import load
from pgrunbook.record.run import Status
from pgrunbook.sql.tree import walk

Project = Callable[..., Target]
SQL = sorted((ROOT / "lib" / "pgrunbook" / "database" / "sql").glob("*.sql"))

TYPES = (
    "oid", "regclass", "regtype", "regproc", "regnamespace", "name", "text", "varchar", '"char"', "int2", "int4",
    "int8", "bool", "numeric", "float8", "timestamptz", "interval", "xid", "pg_lsn", "oid[]", "name[]", "text[]",
    "int2[]", "int2vector", "json", "jsonb",
)  # fmt: skip
OPERATORS = ("=", "<>", "<", ">", "<=", ">=", "||", "~", "!~", "~~", "!~~", "+", "-", "*", "/", "&&", "@>", "->>")
FUNCTIONS = ("count", "sum", "max", "min", "coalesce_", "format", "quote_ident", "unnest", "string_agg", "array_agg")

# A function that says who called it, however the caller's transaction ends.
TRAP = """
CREATE FUNCTION public.trap() RETURNS void LANGUAGE plpgsql AS
    'BEGIN RAISE EXCEPTION ''planted: called as %'', current_user; END'
"""


def plant(target: Target) -> int:
    """Make operators of every name for every pair of types that pg_catalog has none for, and functions; count them."""
    with connect(target) as conn, conn.transaction():
        conn.execute(TRAP)
        known = {tuple(row) for row in conn.execute(
            "SELECT oprname::text, oprleft::regtype::text, oprright::regtype::text FROM pg_operator"
        )}  # fmt: skip
        said = {name: conn.execute(f"SELECT '{name}'::regtype::text").fetchone()[0] for name in TYPES}  # type: ignore[index]
        statements = []
        for left in TYPES:
            for right in TYPES:
                statements.append(
                    f"CREATE FUNCTION public.planted({left}, {right}) RETURNS boolean LANGUAGE plpgsql AS"
                    " 'BEGIN PERFORM public.trap(); RETURN true; END'"
                )
                statements += [
                    f"CREATE OPERATOR public.{name} (FUNCTION = public.planted, LEFTARG = {left}, RIGHTARG = {right})"
                    for name in OPERATORS
                    if (name, said[left], said[right]) not in known
                ]
        for name in FUNCTIONS:
            statements += [
                f"CREATE FUNCTION public.{name}({type_}) RETURNS {type_} LANGUAGE plpgsql AS"
                " 'BEGIN PERFORM public.trap(); RETURN $1; END'"
                for type_ in TYPES
            ]
        conn.execute("; ".join(statements).encode())
    return len(statements)


def test_a_planted_operator_is_called_where_the_search_path_finds_it(project: Project) -> None:
    """The trap works: a session of the target falls into it."""
    target = project()
    assert plant(target) > 5_000
    with pytest.raises(psycopg.errors.RaiseException, match="planted: called as postgres"):
        rows(target, "SELECT count(*) FROM pg_class WHERE relname !~~ 'pg_toast'::name")


def test_nothing_planted_is_called_by_what_we_read(project: Project) -> None:
    """Who the server is, what it does, whether it is safe to start, the schema, leftovers and rows."""
    target = project()
    plant(target)
    with connection.connect(target, purpose="reads") as conn:
        who = activity.identity(conn)
        activity.sessions(conn)
        readiness.checks(conn, who, readiness.Limits(), data_dir=None, needs_restore_point=True)
        schema.snapshot(conn)
        health.leftovers(conn)
        health.row_counts(conn)
        assert conn.execute("SHOW search_path").fetchone() == (connection.OURS,)


@pytest.mark.slow
def test_nothing_planted_is_called_by_a_release_and_its_rollback(project: Project) -> None:
    """prepare on branches with data, migrate, validate and rollback, by a superuser."""
    target = project()
    plant(target)
    made, code = run("release", with_data="true")
    assert (code, made.status) == (0, Status.DONE), made.parts
    made, code = run("rollback", with_data="true")
    assert (code, made.status) == (0, Status.DONE), made.parts


@pytest.mark.parametrize("path", SQL, ids=lambda path: path.stem)
def test_every_name_in_our_queries_says_its_schema(path: Path) -> None:
    """Relations and functions are those of pg_catalog or ours; operators are found in pg_catalog by the search_path."""
    for name, query in load(path.stem).items():
        text = re.sub(r"%\((\w+)\)s|\{\w+\}", "NULL", query).replace("%%", "%")
        try:
            trees = parse_sql(text)
        except ParseError:
            continue  # a template whose slots hold more than a value; what fills them is composed, and qualified
        made = {cte.ctename for node in trees for cte in walk(node.stmt) if isinstance(cte, ast.CommonTableExpr)}
        for node in trees:
            for part in walk(node.stmt):
                if isinstance(part, ast.RangeVar) and not part.schemaname:
                    assert part.relname in made, f"{name}: {part.relname}"
