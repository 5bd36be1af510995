"""Notes of partitions that we park: nobody writes to them meanwhile, and their rows are those of then afterwards."""

from __future__ import annotations

from psycopg import sql

from pgrunbook.sql.deparse import text
from pgrunbook.sql.own_code import do
from pgrunbook.undo_data.row_notes import PART, WATCHED
from pgrunbook.undo_data.tables import SCHEMA

# A partition that we park is written by nobody: in the place of its trigger, the notes have 0 until it is attached.
_NOTE_PARTS = """
DECLARE
    noted record;
BEGIN
    FOR noted IN
        SELECT DISTINCT g.tgfoid AS id, format('%I.%I', {schema}, substr(f.proname, 7)) AS side
        FROM pg_trigger AS g
        JOIN pg_proc AS f ON f.oid = g.tgfoid
        WHERE g.tgrelid = {table}::regclass
          AND f.pronamespace = to_regnamespace({schema}) AND f.proname ~ '^write_kept_'
          AND obj_description(f.oid, 'pg_proc') IS NOT NULL
    LOOP
        EXECUTE (
            SELECT format('COMMENT ON FUNCTION %s IS %L', noted.id::regprocedure, array_agg(
                CASE WHEN {which} THEN concat(p.relid::oid, ':', {note}) ELSE w.one END ORDER BY w.number))
            FROM unnest(obj_description(noted.id, 'pg_proc')::text[]) WITH ORDINALITY AS w (one, number)
            LEFT JOIN pg_partition_tree({table}::regclass) AS p ON starts_with(w.one, concat(p.relid::oid, ':'))
        );
        IF EXISTS (SELECT FROM pg_attribute AS a WHERE a.attrelid = noted.side::regclass AND a.attname = {watched}) THEN
            EXECUTE format({moved}, noted.side, noted.id, {table});
        END IF;
    END LOOP;
END
"""
_IS_WATCHED = (
    "EXISTS (SELECT FROM pg_trigger AS g WHERE g.tgrelid = p.relid AND w.one = concat(p.relid::oid, ':', g.oid))"
)
# No trigger has the number 1.
_NEW_TRIGGER = (
    "coalesce((SELECT max(g.oid) FROM pg_trigger AS g WHERE g.tgrelid = p.relid AND g.tgfoid = noted.id), 1::oid)"
)
# The same of rows that came to such a partition since the capture.
_PARKED = """
UPDATE %1$s AS k SET {watched} = 0
FROM pg_partition_tree(%3$L::regclass) AS p
WHERE k.{part} = p.relid AND EXISTS (SELECT FROM pg_trigger AS g WHERE g.oid = k.{watched} AND g.tgrelid = p.relid)
"""
_ATTACHED = """
UPDATE %1$s AS k
SET {watched} = coalesce((SELECT max(g.oid) FROM pg_trigger AS g WHERE g.tgrelid = p.relid AND g.tgfoid = %2$s), 1)
FROM pg_partition_tree(%3$L::regclass) AS p
WHERE k.{part} = p.relid AND k.{watched} = 0
"""


def note_parked(table: str) -> str:
    """Return the statement that notes of a partition which is to be parked, that it needs no trigger meanwhile.

    One that was detached before, and attached again, stays unwatched.
    """
    return _note_parts(table, _IS_WATCHED, "0", _PARKED)


def note_attached(table: str) -> str:
    """Return the statement that notes the triggers of a partition which was parked, and is attached again."""
    return _note_parts(table, "w.one = concat(p.relid::oid, ':0')", _NEW_TRIGGER, _ATTACHED)


def _note_parts(table: str, which: str, note: str, moved: str) -> str:
    names = {"table": sql.Literal(table), "schema": sql.Literal(SCHEMA), "watched": sql.Literal(WATCHED)}
    rows_moved = sql.SQL(moved).format(watched=sql.Identifier(WATCHED), part=sql.Identifier(PART))
    noted = sql.SQL(_NOTE_PARTS).format(
        which=sql.SQL(which), note=sql.SQL(note), moved=sql.Literal(text(rows_moved)), **names
    )
    return text(do(noted))
