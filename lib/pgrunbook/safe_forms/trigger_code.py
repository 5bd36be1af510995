"""Functions of triggers that sessions compile anew, for a change of type.

PL/pgSQL keeps the types of the columns that a function has read, for as long as a session lives. Whoever writes a row
behind a change of type, in a session that has fired the trigger before, reads "type of parameter 14 (bigint) does not
match that when preparing the plan (integer)", until it connects anew. A function whose row in pg_proc is written in
the transaction of the change is compiled anew by all of them.

Source: https://www.postgresql.org/docs/current/plpgsql-implementation.html#PLPGSQL-PLAN-CACHING
"""

from __future__ import annotations

from psycopg import sql

from pgrunbook.database.relations import Relation
from pgrunbook.sql.own_code import do

_ANEW = """
DECLARE
    altered text;
BEGIN
    FOR altered IN
        WITH RECURSIVE changed AS (
            SELECT {table}::regclass::oid AS oid
            UNION
            SELECT i.inhrelid
            FROM pg_inherits AS i
            JOIN changed AS c ON c.oid = i.inhparent
        )
        SELECT format('ALTER FUNCTION %s COST %s', p.oid::regprocedure, p.procost)
        FROM pg_proc AS p
        JOIN pg_language AS l ON l.oid = p.prolang AND l.lanname = 'plpgsql'
        WHERE p.oid IN (SELECT g.tgfoid FROM pg_trigger AS g JOIN changed AS c ON c.oid = g.tgrelid)
          AND pg_has_role(p.proowner, 'USAGE')
    LOOP
        EXECUTE altered;
    END LOOP;
END
"""


def compiled_anew(table: Relation) -> str:
    """Return the statement by which every session compiles the functions of the table's triggers anew.

    It gives each the cost that it has. Those of other roles are left: nobody but their owner may alter them.
    """
    return do(sql.SQL(_ANEW).format(table=sql.Literal(table.sql))).as_string(None)
