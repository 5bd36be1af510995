"""Bodies of the functions and blocks of ``column_sync``, in PL/pgSQL; placeholders stand for columns and functions."""

from __future__ import annotations

AGREES = """
DECLARE
    made {made_type};
BEGIN
    made := {forward}({given});
    IF CAST(ROW(made) AS record) OPERATOR(pg_catalog.*=) CAST(ROW(becomes) AS record) THEN
        RETURN true;
    END IF;
    RETURN made IS NOT DISTINCT FROM becomes;
EXCEPTION WHEN OTHERS THEN
    RETURN false;  -- it cannot be converted, or its type has no equality beside that of its bytes
END
"""
OLD_LEADS = """
BEGIN
    BEGIN
        NEW.{new} := {forward}({row});
        RETURN NEW;
    EXCEPTION WHEN OTHERS THEN
        NEW.{new} := NULL;
    END;
    INSERT INTO {notes} DEFAULT VALUES;
    RETURN NEW;
END
"""
NEW_LEADS = """
BEGIN
    IF {agrees}(NEW.{old}, NEW.{new}) THEN
        RETURN NEW;
    END IF;
    IF TG_OP = 'INSERT' AND NEW.{old} IS DISTINCT FROM NULL THEN
        NEW.{new} := {forward}(NEW.{old});
        RETURN NEW;
    END IF;
    BEGIN
        NEW.{old} := {backward}(NEW.{new});
    EXCEPTION WHEN OTHERS THEN
        NEW.{old} := NULL;
    END;
    IF NOT {agrees}(NEW.{old}, NEW.{new}) THEN
        NEW.{old} := NULL;
        INSERT INTO {notes} DEFAULT VALUES;
    END IF;
    RETURN NEW;
END
"""
# Where the new value is made of several columns, the old one is only ever a cast of it, and stays as it is until the
# new one is changed.
NEW_LEADS_ALONE = """
BEGIN
    IF TG_OP = 'INSERT' AND NEW.{old} IS DISTINCT FROM NULL THEN
        NEW.{new} := {again}(NEW.{old});
        RETURN NEW;
    END IF;
    IF TG_OP = 'UPDATE' THEN
        IF CAST(ROW(NEW.{new}) AS record) OPERATOR(pg_catalog.*=) CAST(ROW(OLD.{new}) AS record) THEN
            RETURN NEW;
        END IF;
    END IF;
    BEGIN
        NEW.{old} := {backward}(NEW.{new});
    EXCEPTION WHEN OTHERS THEN
        NEW.{old} := NULL;
    END;
    IF NOT {returns}(NEW.{old}, NEW.{new}) THEN
        NEW.{old} := NULL;
        INSERT INTO {notes} OVERRIDING SYSTEM VALUE VALUES (-pg_catalog.nextval({numbers}));
    END IF;
    RETURN NEW;
END
"""
# Of a row whose new value is made of several columns: an old value is not compared. Where there is none, that may be
# one of before; so it counts only where the trigger has noted for good that it could not make one.
AGREES_ALONE = """
DECLARE
    made {was_type};
BEGIN
    IF was IS DISTINCT FROM NULL OR becomes IS NOT DISTINCT FROM NULL
       OR NOT EXISTS (SELECT FROM {notes} WHERE id OPERATOR(pg_catalog.<) 0) THEN
        RETURN true;
    END IF;
    made := {backward}(becomes);
    RETURN {returns}(made, becomes);
EXCEPTION WHEN OTHERS THEN
    RETURN false;
END
"""
BOTH_LEAD = """
BEGIN
    IF TG_OP = 'INSERT' THEN
        IF NEW.{old} IS DISTINCT FROM NULL THEN
            NEW.{new} := {forward}(NEW.{old});
        ELSE
            NEW.{old} := {backward}(NEW.{new});
        END IF;
    ELSIF CAST(ROW(NEW.{new}) AS record) OPERATOR(pg_catalog.*<>) CAST(ROW(OLD.{new}) AS record) THEN
        NEW.{old} := {backward}(NEW.{new});
    ELSIF CAST(ROW(NEW.{old}) AS record) OPERATOR(pg_catalog.*<>) CAST(ROW(OLD.{old}) AS record) THEN
        NEW.{new} := {forward}(NEW.{old});
    END IF;
    RETURN NEW;
END
"""
PROOF = """
<<proof>>
DECLARE
    found text;
    rows bigint;
BEGIN
    SELECT g.tgname INTO found
    FROM pg_trigger AS g
    JOIN pg_class AS c ON c.oid = g.tgrelid AND c.relkind = 'r'
    WHERE g.tgfoid = {called}::regprocedure AND g.tgenabled <> 'A';
    IF found IS NOT NULL THEN
        RAISE 'somebody has switched trigger % off', found;
    END IF;
    {begins};
    SELECT count(*), min({place}) INTO rows, found FROM {table} AS t WHERE NOT {agrees}({compared});
    IF rows > 0 THEN
        RAISE integrity_constraint_violation USING MESSAGE = format({says}, rows), DETAIL = format({more}, found);
    END IF;
END
"""
# What was noted before the rows are read is among what is read; what is noted later is found by the guard. What is
# noted for good has a number below 0.
FROM_HERE = "DELETE FROM {notes} WHERE id > 0"
UNLESS_NOTED = """
    IF NOT EXISTS (SELECT FROM {notes})
       AND NOT EXISTS (SELECT
                       FROM pg_trigger AS g
                       WHERE g.tgfoid = {called}::regprocedure
                         AND NOT EXISTS (SELECT
                                         FROM pg_depend AS d
                                         WHERE d.classid = 'pg_trigger'::regclass
                                           AND d.objid = g.oid
                                           AND d.refobjid = g.tgfoid
                                           AND d.xmin = g.xmin)) THEN
        EXIT proof;  -- not RETURN: behind this block the search_path is put back
    END IF
"""
TRIAL = """
DECLARE
    one record;
    made {new_type};
    rows bigint := 0;
    told text := '';
BEGIN
    FOR one IN SELECT {place} AS place, {selected} FROM {table} AS t LOOP
        BEGIN
            made := {forward}({found});
            IF {not_null} AND made IS NOT DISTINCT FROM NULL THEN
                RAISE 'it would be NULL';
            END IF;
        EXCEPTION WHEN OTHERS THEN
            rows := rows + 1;
            IF rows <= 5 THEN
                told := told || format(' %s: %s.', one.place, sqlerrm);
            END IF;
        END;
    END LOOP;
    IF rows > 0 THEN
        RAISE integrity_constraint_violation USING MESSAGE = format({says}, rows), DETAIL = ltrim(told);
    END IF;
END
"""
HIDDEN = """
DECLARE
    taken text;
BEGIN
    FOR taken IN {granted} LOOP
        EXECUTE taken;
    END LOOP;
END
"""
