"""Code of ours that the session of a target executes, where names mean what its user has planted."""

from __future__ import annotations

from psycopg import sql

_IN_CATALOG = """
DECLARE
    pgrunbook_path pg_catalog.text := pg_catalog.current_setting('search_path');
BEGIN
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    {};
    PERFORM pg_catalog.set_config('search_path', pgrunbook_path, true);
END
"""


def do(block: sql.Composable) -> sql.Composed:
    """Return a DO statement in which a block of PL/pgSQL finds the names of pg_catalog only.

    Name everything else with its schema. Behind it search_path is as before.
    """
    body = sql.SQL(_IN_CATALOG).format(block)
    return sql.SQL("DO {}").format(sql.Literal(body.as_string(None)))
