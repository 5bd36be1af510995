"""Parked partitioned tables whose partition key needs something of the application: a type, a function, an operator.

No statement changes a partition key. So while such a table is parked, a plain table without rows is in its place: with
its columns, their properties and sequences. Its partitions are parked by themselves. On the way back it is made anew
from that table, by its key as PostgreSQL has written it; its indexes and constraints are created again before its
partitions are attached.

Source: https://www.postgresql.org/docs/current/sql-createtable.html
"""

from __future__ import annotations

from psycopg import sql

from pgrunbook.database.checksums import TableName
from pgrunbook.sql.deparse import text
from pgrunbook.sql.own_code import do

# Between the two, the old one has a name that nothing else has.
_ASIDE = "_root"
_REPLACED = """
DECLARE
    new text := {table};
    old regclass := {table}::regclass;
    numbers text;
    renamed text[] := '{{}}';
    each record;
BEGIN
    EXECUTE format('ALTER TABLE %s RENAME TO %I', new, {aside});
    SELECT c.*, t.spcname INTO STRICT each
    FROM pg_class AS c LEFT JOIN pg_tablespace AS t ON t.oid = c.reltablespace WHERE c.oid = old;
    EXECUTE format('CREATE TABLE %s (LIKE %s INCLUDING CONSTRAINTS INCLUDING DEFAULTS INCLUDING GENERATED'
                   ' INCLUDING IDENTITY INCLUDING STORAGE INCLUDING COMPRESSION)', new, old)
            || {partitioned} || coalesce(' TABLESPACE ' || quote_ident(each.spcname), '');
    IF each.relrowsecurity THEN
        EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', new);
    END IF;
    IF each.relforcerowsecurity THEN
        EXECUTE format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', new);
    END IF;
    IF each.relreplident IN ('f', 'n') THEN
        EXECUTE format('ALTER TABLE %s REPLICA IDENTITY %s', new,
                       CASE each.relreplident WHEN 'f' THEN 'FULL' ELSE 'NOTHING' END);
    END IF;
    FOR each IN
        SELECT format('ALTER TABLE ONLY %s ALTER COLUMN %I SET STATISTICS %s', new, a.attname, a.attstattarget) AS sql
        FROM pg_attribute AS a
        WHERE a.attrelid = old AND a.attnum > 0 AND NOT a.attisdropped AND a.attstattarget >= 0
        UNION ALL
        SELECT format('ALTER TABLE ONLY %s ALTER COLUMN %I SET (%s)', new, a.attname,
                      array_to_string(a.attoptions, ', '))
        FROM pg_attribute AS a
        WHERE a.attrelid = old AND a.attnum > 0 AND NOT a.attisdropped AND a.attoptions IS NOT NULL
        UNION ALL
        -- What default privileges have given.
        SELECT DISTINCT format('REVOKE ALL ON %s FROM %s', new,
                               CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE x.grantee::regrole::text END)
        FROM pg_class AS c
        CROSS JOIN aclexplode(c.relacl) AS x
        WHERE c.oid = new::regclass AND x.grantee <> c.relowner
    LOOP
        EXECUTE each.sql;
    END LOOP;
    FOR each IN
        SELECT d.deptype, s.oid::regclass::text AS sql, s.relname, a.attname
        FROM pg_depend AS d
        JOIN pg_class AS s ON s.oid = d.objid AND s.relkind = 'S'
        JOIN pg_attribute AS a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
        WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = old
          AND d.deptype IN ('a', 'i')
    LOOP
        IF each.deptype = 'a' THEN
            EXECUTE format('ALTER SEQUENCE %s OWNED BY %s.%I', each.sql, new, each.attname);
        ELSE
            numbers := pg_get_serial_sequence(new, each.attname);
            EXECUTE format('SELECT setval(%L, last_value, is_called) FROM %s', numbers, each.sql);
            renamed := renamed || format('ALTER SEQUENCE %s RENAME TO %I', numbers, each.relname);
        END IF;
    END LOOP;
    EXECUTE format('DROP TABLE %s', old);
    FOREACH numbers IN ARRAY renamed LOOP
        EXECUTE numbers;
    END LOOP;
END
"""


def replaced(there: TableName, key: str = "") -> str:
    """Return the statement that puts a table without rows in the place of another one, with its columns.

    It is a plain table, or partitioned by a key. The other one has no partition, no index and no key any more.
    """
    block = sql.SQL(_REPLACED).format(
        table=sql.Literal(there.identifier().as_string(None)), aside=sql.Literal(f"{there.name}{_ASIDE}"),
        partitioned=sql.Literal(f" PARTITION BY {key}" if key else ""),
    )  # fmt: skip
    return text(do(block))
