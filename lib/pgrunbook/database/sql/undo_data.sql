-- name: create
-- a row is: nothing; creates the table of entries
CREATE TABLE IF NOT EXISTS pgrunbook.kept (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    part_of bigint REFERENCES pgrunbook.kept,
    run_id text NOT NULL,
    migration text NOT NULL,
    direction text NOT NULL CHECK (direction IN ('up', 'down')),
    step int NOT NULL,
    kind text NOT NULL CHECK (kind IN ('update', 'delete', 'insert', 'column', 'table')),
    table_schema text NOT NULL,
    table_name text NOT NULL,
    key_columns text[] NOT NULL,
    columns text[] NOT NULL,
    kept_as text NOT NULL UNIQUE,
    made_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    keep_until timestamptz,
    state text NOT NULL DEFAULT 'kept' CHECK (state IN ('kept', 'giving back', 'given back', 'purged')),
    pages_left bigint,
    rows_given_back bigint NOT NULL DEFAULT 0,
    purged_at timestamptz
)

-- name: exists
-- a row is: whether the table of entries exists
SELECT pg_catalog.to_regclass('pgrunbook.kept') IS NOT NULL

-- name: equality
-- a row is: a column of a table, and the operator that compares it in an index; a domain is compared as what it is of
WITH RECURSIVE types AS (
    SELECT a.attname,
           a.atttypid AS oid
    FROM pg_catalog.pg_attribute AS a
    WHERE a.attrelid = %(oid)s::oid
      AND a.attname = ANY (%(columns)s::text[])
      AND a.attnum > 0
      AND NOT a.attisdropped
    UNION ALL
    SELECT t.attname,
           b.typbasetype
    FROM types AS t
    JOIN pg_catalog.pg_type AS b ON b.oid = t.oid AND b.typtype = 'd'
)
SELECT t.attname::text AS name,
       pg_catalog.format('OPERATOR(%%I.%%s)', n.nspname, o.oprname) AS operator
FROM types AS t
JOIN pg_catalog.pg_type AS b ON b.oid = t.oid
JOIN pg_catalog.pg_opclass AS c
  ON c.opcdefault
 AND c.opcintype = CASE
                       WHEN b.oid = 'pg_catalog.varchar'::pg_catalog.regtype THEN 'pg_catalog.text'::pg_catalog.regtype
                       WHEN b.typtype = 'e' THEN 'pg_catalog.anyenum'::pg_catalog.regtype
                       ELSE b.oid
                   END
JOIN pg_catalog.pg_am AS m ON m.oid = c.opcmethod AND m.amname = 'btree'
JOIN pg_catalog.pg_amop AS e
  ON e.amopfamily = c.opcfamily
 AND e.amoplefttype = c.opcintype
 AND e.amoprighttype = c.opcintype
 AND e.amopstrategy = 3
JOIN pg_catalog.pg_operator AS o ON o.oid = e.amopopr
JOIN pg_catalog.pg_namespace AS n ON n.oid = o.oprnamespace

-- name: traits
-- a row is: what decides how the rows of a table are captured and reverted
SELECT EXISTS (SELECT
               FROM pg_catalog.pg_trigger AS t
               WHERE t.tgrelid IN (SELECT %(oid)s::oid
                                   UNION ALL
                                   SELECT p.relid FROM pg_catalog.pg_partition_tree(%(oid)s::oid) AS p)
                 AND t.tgconstrindid = 0
                 AND t.tgenabled <> 'D'
                 AND (SELECT p.pronamespace FROM pg_catalog.pg_proc AS p WHERE p.oid = t.tgfoid)
                     IS DISTINCT FROM pg_catalog.to_regnamespace('pgrunbook')::oid
                 AND t.tgtype & 19 = 19) AS has_before_update,
       EXISTS (SELECT
               FROM pg_catalog.pg_constraint AS k
               WHERE k.contype = 'f'
                 AND k.conrelid = %(oid)s::oid
                 AND k.confrelid = %(oid)s::oid) AS references_itself,
       EXISTS (SELECT
               FROM pg_catalog.pg_index AS i
               WHERE i.indrelid = %(oid)s::oid
                 AND NOT i.indimmediate) AS has_deferrable_key,
       EXISTS (SELECT
               FROM pg_catalog.pg_constraint AS k
               WHERE k.contype = 'f'
                 AND %(oid)s::oid IN (k.conrelid, k.confrelid)
                 AND k.condeferrable) AS has_deferrable_reference,
       pg_catalog.row_security_active(%(oid)s::oid) AS is_filtered,
       -- Columns with a type of the application whose text depends on settings: by what it is of, below domains.
       ARRAY(WITH RECURSIVE parts AS (
                 SELECT a.attname,
                        a.atttypid AS oid
                 FROM pg_catalog.pg_attribute AS a
                 JOIN pg_catalog.pg_type AS t ON t.oid = a.atttypid
                 WHERE a.attrelid = %(oid)s::oid
                   AND a.attnum > 0
                   AND NOT a.attisdropped
                   AND t.typnamespace <> 'pg_catalog'::pg_catalog.regnamespace
                 UNION
                 SELECT p.attname,
                        x.oid
                 FROM parts AS p
                 JOIN pg_catalog.pg_type AS t ON t.oid = p.oid
                 CROSS JOIN LATERAL (SELECT t.typbasetype AS oid
                                     WHERE t.typtype = 'd'
                                     UNION ALL
                                     SELECT t.typelem
                                     WHERE t.typcategory = 'A'
                                     UNION ALL
                                     SELECT r.rngsubtype
                                     FROM pg_catalog.pg_range AS r
                                     WHERE t.oid IN (r.rngtypid, r.rngmultitypid)
                                     UNION ALL
                                     SELECT a.atttypid
                                     FROM pg_catalog.pg_attribute AS a
                                     WHERE t.typtype = 'c'
                                       AND a.attrelid = t.typrelid
                                       AND a.attnum > 0
                                       AND NOT a.attisdropped) AS x
             )
             SELECT DISTINCT p.attname::text
             FROM parts AS p
             JOIN pg_catalog.pg_type AS t ON t.oid = p.oid
             WHERE t.typtype = 'b'
               AND t.typcategory NOT IN ('A', 'S')
               AND t.oid <> ALL ('{int2,int4,int8,numeric,bool,uuid,oid,inet,cidr,macaddr,macaddr8,bit,varbit,jsonb}'::pg_catalog.regtype[]::oid[])) AS unsteady,
       (SELECT c.reltuples FROM pg_catalog.pg_class AS c WHERE c.oid = %(oid)s::oid) AS rows_estimate

-- name: indexes_apart
-- a row is: a unique index or that of an exclusion constraint: its columns or expressions, the operators that tell two rows apart, its predicate, and all columns that it reads
SELECT (SELECT pg_catalog.array_agg(pg_catalog.pg_get_indexdef(i.indexrelid, n.place, true) ORDER BY n.place)
        FROM pg_catalog.generate_series(1, i.indnkeyatts) AS n (place)) AS expressions,
       (SELECT pg_catalog.array_agg(pg_catalog.format('OPERATOR(%%I.%%s)', s.nspname, o.oprname) ORDER BY n.place)
        FROM pg_catalog.generate_series(1, i.indnkeyatts) AS n (place)
        JOIN pg_catalog.pg_opclass AS c ON c.oid = i.indclass[n.place - 1]
        JOIN pg_catalog.pg_operator AS o
          ON o.oid = coalesce(k.conexclop[n.place],
                              (SELECT e.amopopr
                               FROM pg_catalog.pg_amop AS e
                               WHERE e.amopfamily = c.opcfamily
                                 AND e.amoplefttype = c.opcintype
                                 AND e.amoprighttype = c.opcintype
                                 AND e.amopstrategy = 3
                                 AND c.opcmethod = (SELECT m.oid FROM pg_catalog.pg_am AS m WHERE m.amname = 'btree')))
        JOIN pg_catalog.pg_namespace AS s ON s.oid = o.oprnamespace) AS operators,
       pg_catalog.pg_get_expr(i.indpred, i.indrelid, true) AS predicate,
       coalesce((pg_catalog.to_jsonb(i) ->> 'indnullsnotdistinct')::boolean, false) AS nulls_are_equal,
       ARRAY(SELECT a.attname::text
             FROM pg_catalog.pg_attribute AS a
             WHERE a.attrelid = i.indrelid
               AND (a.attnum = ANY (i.indkey::int2[])
                    OR a.attnum IN (SELECT d.refobjsubid
                                    FROM pg_catalog.pg_depend AS d
                                    WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
                                      AND d.objid = i.indexrelid
                                      AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
                                      AND d.refobjid = i.indrelid))
             ORDER BY a.attnum) AS columns
FROM pg_catalog.pg_index AS i
LEFT JOIN pg_catalog.pg_constraint AS k ON k.conindid = i.indexrelid AND k.conrelid = i.indrelid AND k.contype IN ('p', 'u', 'x')
WHERE i.indrelid = %(oid)s::oid
  AND i.indisvalid
  AND (i.indisunique OR k.contype = 'x')
ORDER BY i.indexrelid

-- name: unique_columns_of
-- a row is: a column of a unique index, each of whose rows is checked when it is written
SELECT DISTINCT a.attname::text AS name,
       NOT a.attnotnull AS is_nullable
FROM pg_catalog.pg_index AS i
JOIN pg_catalog.pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey::int2[])
WHERE i.indrelid = %(oid)s::oid
  AND i.indisunique
  AND i.indimmediate

-- name: references_of
-- a row is: a foreign key, with the operators that compare its columns: all, or those to another table that are checked with each statement
SELECT pg_catalog.format('%%I.%%I', max(home.nspname), max(parent.relname)) AS parent,
       max(home.nspname)::text AS parent_schema,
       max(parent.relname)::text AS parent_name,
       k.conrelid = k.confrelid AS is_own,
       pg_catalog.array_agg(a.attname::text ORDER BY u.place) AS columns,
       pg_catalog.array_agg(b.attname::text ORDER BY u.place) AS referenced,
       pg_catalog.array_agg(pg_catalog.format('OPERATOR(%%I.%%s)', n.nspname, o.oprname) ORDER BY u.place) AS operators
FROM pg_catalog.pg_constraint AS k
JOIN pg_catalog.pg_class AS parent ON parent.oid = k.confrelid
JOIN pg_catalog.pg_namespace AS home ON home.oid = parent.relnamespace
CROSS JOIN LATERAL ROWS FROM (
    pg_catalog.unnest(k.conkey),
    pg_catalog.unnest(k.confkey),
    pg_catalog.unnest(k.conpfeqop)
) WITH ORDINALITY AS u (attnum, of_parent, operator, place)
JOIN pg_catalog.pg_attribute AS a ON a.attrelid = k.conrelid AND a.attnum = u.attnum
JOIN pg_catalog.pg_attribute AS b ON b.attrelid = k.confrelid AND b.attnum = u.of_parent
JOIN pg_catalog.pg_operator AS o ON o.oid = u.operator
JOIN pg_catalog.pg_namespace AS n ON n.oid = o.oprnamespace
WHERE k.contype = 'f'
  AND k.conrelid = %(oid)s::oid
  AND k.conparentid = 0
  AND (%(all)s OR k.confrelid <> k.conrelid AND NOT k.condeferrable AND k.convalidated)
GROUP BY k.oid

-- name: foreign_keys
-- a row is: a foreign key from another table to this one, and what it does when a row is deleted or its key changes
SELECT k.conname::text AS name,
       k.conrelid::bigint AS oid,
       k.confdeltype::text AS on_delete,
       k.confupdtype::text AS on_update,
       (SELECT pg_catalog.array_agg(a.attname::text ORDER BY u.place)
        FROM pg_catalog.unnest(k.conkey) WITH ORDINALITY AS u (attnum, place)
        JOIN pg_catalog.pg_attribute AS a ON a.attrelid = k.conrelid AND a.attnum = u.attnum) AS columns,
       (SELECT pg_catalog.array_agg(a.attname::text ORDER BY u.place)
        FROM pg_catalog.unnest(k.confkey) WITH ORDINALITY AS u (attnum, place)
        JOIN pg_catalog.pg_attribute AS a ON a.attrelid = k.confrelid AND a.attnum = u.attnum) AS referenced,
       (SELECT pg_catalog.array_agg(a.attname::text)
        FROM pg_catalog.unnest(k.conkey) AS u (attnum)
        JOIN pg_catalog.pg_attribute AS a ON a.attrelid = k.conrelid AND a.attnum = u.attnum
        WHERE coalesce(pg_catalog.jsonb_array_length(nullif(pg_catalog.to_jsonb(k) -> 'confdelsetcols', 'null')), 0) = 0
           OR pg_catalog.to_jsonb(k) -> 'confdelsetcols' @> pg_catalog.to_jsonb(u.attnum)) AS emptied,
       (SELECT pg_catalog.array_agg(pg_catalog.format('OPERATOR(%%I.%%s)', n.nspname, o.oprname) ORDER BY u.place)
        FROM pg_catalog.unnest(k.conpfeqop) WITH ORDINALITY AS u (operator, place)
        JOIN pg_catalog.pg_operator AS o ON o.oid = u.operator
        JOIN pg_catalog.pg_namespace AS n ON n.oid = o.oprnamespace) AS operators
FROM pg_catalog.pg_constraint AS k
WHERE k.contype = 'f'
  AND k.confrelid = %(oid)s::oid
  AND NOT EXISTS (SELECT
                  FROM pg_catalog.pg_constraint AS p
                  WHERE p.oid = k.conparentid
                    AND p.confrelid = k.confrelid)
ORDER BY k.conrelid, k.conname

-- name: oid_of
-- a row is: the oid of a table by its schema and name
SELECT c.oid::bigint AS oid
FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = %(schema)s
  AND c.relname = %(name)s

-- name: side_columns
-- a row is: a column of a side table
SELECT a.attname::text AS name
FROM pg_catalog.pg_attribute AS a
WHERE a.attrelid = pg_catalog.to_regclass(%(kept_as)s)
  AND a.attnum > 0
  AND NOT a.attisdropped

-- name: may_lock
-- a row is: whether the session's role may keep others from writing to a table, and read all of it
SELECT pg_catalog.has_table_privilege(%(oid)s::oid, 'SELECT')
       AND pg_catalog.has_table_privilege(%(oid)s::oid, 'UPDATE, DELETE, TRUNCATE') AS may_lock

-- name: begin
-- a row is: nothing; adds the entry of a side table, unless an interrupted run has added it
INSERT INTO pgrunbook.kept (
    part_of, run_id, migration, direction, step, kind, table_schema, table_name, key_columns, columns, kept_as, keep_until
)
VALUES (
    (SELECT k.id FROM pgrunbook.kept AS k WHERE k.kept_as = %(part_of)s),
    %(run_id)s, %(migration)s, %(direction)s, %(step)s, %(kind)s, %(schema)s, %(name)s, %(key)s, %(columns)s,
    %(kept_as)s, %(keep_until)s
)
ON CONFLICT (kept_as) DO NOTHING

-- name: find
-- a row is: an entry, newest first; parts of another entry follow it, parents first
SELECT k.id, k.part_of, k.run_id, k.migration, k.direction, k.step, k.kind, k.table_schema, k.table_name,
       k.key_columns, k.columns, k.kept_as,
       pg_catalog.date_part('epoch', k.made_at) AS made_at,
       pg_catalog.date_part('epoch', k.keep_until) AS keep_until,
       k.state, k.pages_left, k.rows_given_back,
       pg_catalog.date_part('epoch', k.purged_at) AS purged_at,
       coalesce(pg_catalog.pg_total_relation_size(c.oid), 0) AS bytes,
       CASE WHEN k.kind = 'table' OR c.oid IS NULL THEN 0 ELSE greatest(c.reltuples, -1) END::bigint AS rows_estimate
FROM pgrunbook.kept AS k
LEFT JOIN pg_catalog.pg_class AS c
  ON c.relnamespace = pg_catalog.to_regnamespace('pgrunbook')
 AND c.relname = k.kept_as
WHERE (%(ids)s::bigint[] IS NULL OR k.id = ANY (%(ids)s::bigint[]) OR k.part_of = ANY (%(ids)s::bigint[]))
  AND (%(migration)s::text IS NULL OR k.migration = %(migration)s AND k.direction = %(direction)s)
  AND (%(steps)s::int[] IS NULL OR k.step = ANY (%(steps)s::int[]))
  AND (%(after)s::int IS NULL OR k.step > %(after)s)
  AND k.state = ANY (%(states)s::text[])
ORDER BY coalesce(k.part_of, k.id) DESC, k.id

-- name: mark
-- a row is: nothing; sets the state of entries
UPDATE pgrunbook.kept
SET state = %(state)s,
    purged_at = CASE WHEN %(state)s = 'purged' THEN pg_catalog.clock_timestamp() END
WHERE id = ANY (%(ids)s::bigint[])

-- name: due
-- a row is: an entry to purge: by its id, its age, or because its time is over
SELECT k.id, k.kept_as, k.kind
FROM pgrunbook.kept AS k
WHERE k.state <> 'purged'
  AND CASE WHEN %(ids)s::bigint[] IS NOT NULL
           THEN k.id = ANY (%(ids)s::bigint[]) OR k.part_of = ANY (%(ids)s::bigint[])
           WHEN %(made_before)s::timestamptz IS NOT NULL THEN k.made_at < %(made_before)s::timestamptz
           ELSE k.keep_until < pg_catalog.clock_timestamp() END
ORDER BY k.kind = 'table' AND k.part_of IS NULL, k.id

-- name: followers
-- a row is: a side table whose rows follow those of a table, of its partitions or of what it is a partition of
SELECT DISTINCT k.kept_as, k.key_columns AS key
FROM pg_catalog.pg_trigger AS g
JOIN pg_catalog.pg_proc AS p ON p.oid = g.tgfoid AND p.pronamespace = pg_catalog.to_regnamespace('pgrunbook')
JOIN pgrunbook.kept AS k ON p.proname = 'write_' || k.kept_as
JOIN pg_catalog.pg_attribute AS a
  ON a.attrelid = pg_catalog.to_regclass(pg_catalog.format('pgrunbook.%%I', k.kept_as))
 AND a.attname = 'pgrunbook_gone'
WHERE g.tgrelid = %(oid)s::oid
   OR g.tgrelid IN (SELECT t.relid FROM pg_catalog.pg_partition_tree(%(oid)s::oid) AS t)

-- name: followed
-- a row is: a side table whose rows follow those of a table
SELECT DISTINCT k.kept_as
FROM pgrunbook.kept AS k
JOIN pg_catalog.pg_proc AS p
  ON p.proname = 'write_' || k.kept_as
 AND p.pronamespace = pg_catalog.to_regnamespace('pgrunbook')
JOIN pg_catalog.pg_trigger AS g ON g.tgfoid = p.oid

-- name: at_work
-- a row is: whether all triggers by which captured rows follow are on a table, and none of them was ever switched off
SELECT pg_catalog.count(*) FILTER (WHERE g.tgrelid = %(oid)s::oid AND g.tgenabled = 'A')
       = (SELECT CASE c.relkind WHEN 'p' THEN 3 ELSE 2 END FROM pg_catalog.pg_class AS c WHERE c.oid = %(oid)s::oid)
       AND coalesce(pg_catalog.bool_and(g.tgenabled = 'A'), false)
       AND (
           f.notes[1] <> pg_catalog.to_regnamespace('pgrunbook')::oid::text
           OR coalesce(
               pg_catalog.bool_and(EXISTS (SELECT
                                           FROM pg_catalog.pg_depend AS d
                                           WHERE d.classid = 'pg_catalog.pg_trigger'::pg_catalog.regclass
                                             AND d.objid = g.oid
                                             AND d.refobjid = f.oid
                                             AND d.xmin = g.xmin)),
               false)
           AND NOT EXISTS (SELECT
                           FROM pg_catalog.unnest(f.notes) AS n (one)
                           JOIN pg_catalog.pg_class AS c
                             ON pg_catalog.starts_with(n.one, pg_catalog.concat(%(on)s::text, c.oid, ' '))
                             OR c.oid = %(oid)s::oid AND pg_catalog.starts_with(n.one, pg_catalog.concat(c.oid, ':'))
                           WHERE NOT EXISTS (SELECT
                                             FROM pg_catalog.pg_trigger AS t
                                             WHERE t.tgrelid = c.oid
                                               AND n.one IN (pg_catalog.concat(%(on)s::text, c.oid, ' ', t.oid),
                                                             pg_catalog.concat(c.oid, ':', t.oid))))
           AND (f.notes IS NULL
                OR (SELECT pg_catalog.concat(%(of)s::text, pg_catalog.concat_ws(
                               ' ', %(oid)s::oid, pg_catalog.string_agg(a.attnum::text, ' ' ORDER BY k.place)))
                    FROM pg_catalog.unnest(%(key)s::text[]) WITH ORDINALITY AS k (name, place)
                    JOIN pg_catalog.pg_attribute AS a ON a.attname = k.name
                    WHERE a.attrelid = %(oid)s::oid) = ANY (f.notes))
       ) AS are_at_work
FROM (SELECT p.oid, pg_catalog.obj_description(p.oid, 'pg_proc')::text[] AS notes
      FROM pg_catalog.pg_proc AS p
      WHERE p.pronamespace = pg_catalog.to_regnamespace('pgrunbook')::oid
        AND p.proname = %(function)s) AS f
JOIN pg_catalog.pg_trigger AS g ON g.tgfoid = f.oid
GROUP BY f.oid, f.notes

-- name: are_inserts_watched
-- a row is: whether the triggers of a side table fire for INSERT, too, for no index watches its key
SELECT pg_catalog.count(*) > 0 AS are_watched
FROM pg_catalog.pg_trigger AS g
JOIN pg_catalog.pg_proc AS p ON p.oid = g.tgfoid
WHERE p.pronamespace = pg_catalog.to_regnamespace('pgrunbook')::oid
  AND p.proname = %(function)s
  AND g.tgtype & 4 <> 0

-- name: following
-- a row is: a statement that drops a trigger by which captured values follow their rows, and their function at last
SELECT pg_catalog.format('DROP TRIGGER %%I ON %%s', g.tgname, g.tgrelid::pg_catalog.regclass) AS statement
FROM pg_catalog.pg_trigger AS g
JOIN pg_catalog.pg_proc AS p ON p.oid = g.tgfoid
WHERE p.pronamespace = pg_catalog.to_regnamespace('pgrunbook')::oid
  AND p.proname = %(function)s
  AND g.tgparentid = 0
UNION ALL
SELECT pg_catalog.format('DROP FUNCTION %%s', p.oid::pg_catalog.regprocedure)
FROM pg_catalog.pg_proc AS p
WHERE p.pronamespace = pg_catalog.to_regnamespace('pgrunbook')::oid
  AND p.proname = %(function)s

-- name: begin_revert
-- a row is: nothing; begins the revert of an entry, from its last page to its first
UPDATE pgrunbook.kept
SET state = 'giving back',
    pages_left = %(pages)s
WHERE id = %(id)s

-- name: read_revert
-- a row is: how many pages of a side table are not reverted yet, locked until the batch is committed
SELECT k.pages_left, k.rows_given_back
FROM pgrunbook.kept AS k
WHERE k.id = %(id)s
FOR UPDATE

-- name: write_revert
-- a row is: nothing; records the progress of a revert, in the transaction of the batch
UPDATE pgrunbook.kept
SET pages_left = %(pages_left)s,
    rows_given_back = %(rows_given_back)s
WHERE id = %(id)s

-- name: column_named
-- a row is: a table, and the name of one of its columns, NULL when it does not exist
SELECT c.oid::bigint AS oid,
       (SELECT a.attname::text
        FROM pg_catalog.pg_attribute AS a
        WHERE a.attrelid = c.oid
          AND pg_catalog.quote_ident(a.attname) = %(column)s
          AND NOT a.attisdropped) AS name
FROM pg_catalog.pg_class AS c
WHERE c.oid = pg_catalog.to_regclass(%(table)s)

-- name: add_entry
-- a row is: nothing; adds the entry of a column or a table
INSERT INTO pgrunbook.kept (
    run_id, migration, direction, step, kind, table_schema, table_name, key_columns, columns, kept_as, keep_until
)
VALUES (
    %(run_id)s, %(migration)s, %(direction)s, %(step)s, %(kind)s, %(schema)s, %(name)s, %(key)s, %(columns)s,
    %(kept_as)s, %(keep_until)s
)
ON CONFLICT (kept_as) DO UPDATE
SET run_id = excluded.run_id, step = excluded.step, keep_until = excluded.keep_until, state = 'kept'

-- name: renamed
-- a row is: nothing; renames an older entry whose name is needed
UPDATE pgrunbook.kept
SET kept_as = %(kept_as)s
WHERE id = %(id)s

-- name: mark_reverted
-- a row is: nothing; marks the entry of a column or a table as reverted
UPDATE pgrunbook.kept
SET state = 'given back',
    rows_given_back = %(rows)s
WHERE id = %(id)s

-- name: advancing
-- a row is: a statement that advances the sequences of a table past the values of its columns, never back
SELECT pg_catalog.format(
    'DO %%L',
    pg_catalog.format(
        'DECLARE owned record; highest pg_catalog.int8; stands pg_catalog.int8; called pg_catalog.bool;'
        ' path pg_catalog.text := pg_catalog.current_setting(''search_path'');'
        ' BEGIN PERFORM pg_catalog.set_config(''search_path'', ''pg_catalog, pg_temp'', true);'
        ' FOR owned IN SELECT a.attname, q.seqrelid::pg_catalog.regclass AS sequence, q.seqincrement > 0 AS rises'
        ' FROM pg_catalog.pg_attribute AS a JOIN pg_catalog.pg_sequence AS q'
        ' ON q.seqrelid = pg_catalog.pg_get_serial_sequence(%%L, a.attname)::pg_catalog.regclass'
        ' WHERE a.attrelid = %%L::pg_catalog.regclass AND a.attnum > 0 AND NOT a.attisdropped LOOP'
        ' EXECUTE pg_catalog.format(''SELECT %%%%s(%%%%I) FROM %%s'', CASE WHEN owned.rises THEN ''max'' ELSE ''min'' END, owned.attname) INTO highest;'
        ' EXECUTE pg_catalog.format(''SELECT last_value, is_called FROM %%%%s'', owned.sequence) INTO stands, called;'
        ' IF owned.rises AND highest > stands OR NOT owned.rises AND highest < stands OR highest = stands AND NOT called'
        ' THEN PERFORM pg_catalog.setval(owned.sequence, highest); END IF;'
        ' END LOOP; PERFORM pg_catalog.set_config(''search_path'', path, true); END',
        %(table)s::text, %(table)s::text, %(table)s::text
    )
) AS sql

-- name: foreign_columns
-- a row is: a column of a table whose type or collation is not PostgreSQL's own, and that is not generated
SELECT a.attname::text AS name,
       pg_catalog.format_type(a.atttypid, a.atttypmod) AS type,
       pg_catalog.pg_get_expr(d.adbin, CASE a.attgenerated WHEN '' THEN 0 ELSE d.adrelid END) AS default_value,
       CASE WHEN a.attcollation <> t.typcollation
            THEN pg_catalog.format('%%I.%%I', n.nspname, l.collname) END AS collation
FROM pg_catalog.pg_attribute AS a
JOIN pg_catalog.pg_type AS t ON t.oid = a.atttypid
LEFT JOIN pg_catalog.pg_collation AS l ON l.oid = a.attcollation
LEFT JOIN pg_catalog.pg_namespace AS n ON n.oid = l.collnamespace
LEFT JOIN pg_catalog.pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE a.attrelid = pg_catalog.to_regclass(%(table)s)
  AND a.attnum > 0
  AND NOT a.attisdropped
  AND a.attgenerated = ''
  AND 'pg_catalog'::pg_catalog.regnamespace::oid <> ANY (ARRAY[t.typnamespace, l.collnamespace])
ORDER BY a.attnum

-- name: default_of
-- a row is: the default of a column: an expression, or that it is an identity
SELECT pg_catalog.pg_get_expr(d.adbin, CASE a.attgenerated WHEN '' THEN 0 ELSE d.adrelid END) AS default_value,
       a.attidentity <> '' AS is_identity
FROM pg_catalog.pg_attribute AS a
LEFT JOIN pg_catalog.pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE a.attrelid = %(oid)s::oid
  AND a.attname = %(column)s

-- name: at_name
-- a row is: what has the name of a side table or of a parked table
SELECT (SELECT k.id FROM pgrunbook.kept AS k WHERE k.kept_as = %(kept_as)s) AS id,
       (SELECT c.oid::bigint
        FROM pg_catalog.pg_class AS c
        JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
        WHERE n.nspname = 'pgrunbook'
          AND c.relname = %(kept_as)s) AS table_oid

-- name: ids_of
-- a row is: the id of an entry by its side table or parked table
SELECT k.id
FROM pgrunbook.kept AS k
WHERE k.kept_as = ANY (%(names)s::text[])

-- name: join_families
-- a row is: nothing; makes parked tables that have a parked parent part of the topmost one
WITH RECURSIVE parked AS (
    SELECT k.id,
           c.oid
    FROM pgrunbook.kept AS k
    JOIN pg_catalog.pg_class AS c ON c.relname = k.kept_as AND c.relnamespace = 'pgrunbook'::pg_catalog.regnamespace
    WHERE k.kind = 'table'
      AND k.state = 'kept'
), above AS (
    SELECT p.id,
           p.oid AS upper
    FROM parked AS p
    UNION
    SELECT a.id,
           i.inhparent
    FROM above AS a
    JOIN pg_catalog.pg_inherits AS i ON i.inhrelid = a.upper
)
UPDATE pgrunbook.kept AS k
SET part_of = u.id
FROM above AS a
JOIN parked AS u ON u.oid = a.upper
WHERE k.id = a.id
  AND u.id <> k.id
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_inherits AS i WHERE i.inhrelid = a.upper)

-- name: parts_of_table
-- a row is: a table, or an object with a name of its own that moves with it, in the order of their names
SELECT x.kind,
       x.schema,
       x.name
FROM (
    SELECT 0 AS place,
           'TABLE' AS kind,
           n.nspname::text AS schema,
           c.relname::text AS name
    FROM pg_catalog.pg_class AS c
    JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.oid = pg_catalog.to_regclass(%(table)s)
    UNION ALL
    SELECT 1,
           'INDEX',
           n.nspname,
           c.relname
    FROM pg_catalog.pg_index AS i
    JOIN pg_catalog.pg_class AS c ON c.oid = i.indexrelid
    JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    WHERE i.indrelid = pg_catalog.to_regclass(%(table)s)
    UNION ALL
    SELECT 2,
           'SEQUENCE',
           n.nspname,
           c.relname
    FROM pg_catalog.pg_depend AS d
    JOIN pg_catalog.pg_class AS c ON c.oid = d.objid AND c.relkind = 'S'
    JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
      AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
      AND d.refobjid = pg_catalog.to_regclass(%(table)s)
      AND d.deptype IN ('a', 'i')
    UNION ALL
    SELECT 3,
           'STATISTICS',
           n.nspname,
           x.stxname
    FROM pg_catalog.pg_statistic_ext AS x
    JOIN pg_catalog.pg_namespace AS n ON n.oid = x.stxnamespace
    WHERE x.stxrelid = pg_catalog.to_regclass(%(table)s)
) AS x
ORDER BY x.place, x.name COLLATE "C"

-- name: rights_of_others
-- a row is: a statement that revokes the rights of a role on a table, or on a sequence that moves with it
WITH moves AS (
    SELECT c.oid,
           c.relkind,
           c.relnamespace,
           c.relname,
           c.relowner,
           c.relacl
    FROM pg_catalog.pg_class AS c
    WHERE c.oid = pg_catalog.to_regclass(%(table)s)
       OR c.relkind = 'S'
      AND c.oid IN (SELECT d.objid
                    FROM pg_catalog.pg_depend AS d
                    WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
                      AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
                      AND d.refobjid = pg_catalog.to_regclass(%(table)s)
                      AND d.deptype = 'a')
)
SELECT DISTINCT pg_catalog.format('REVOKE ALL ON %%s %%I.%%I FROM %%I CASCADE', CASE m.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END,
                                  n.nspname, m.relname, r.rolname) AS statement
FROM moves AS m
JOIN pg_catalog.pg_namespace AS n ON n.oid = m.relnamespace
CROSS JOIN LATERAL (
    SELECT x.grantee
    FROM pg_catalog.aclexplode(m.relacl) AS x
    UNION
    SELECT x.grantee
    FROM pg_catalog.pg_attribute AS a
    CROSS JOIN pg_catalog.aclexplode(a.attacl) AS x
    WHERE a.attrelid = m.oid
) AS g
JOIN pg_catalog.pg_roles AS r ON r.oid = g.grantee
WHERE g.grantee <> m.relowner
ORDER BY 1

-- name: is_mine
-- a row is: whether the session's role itself owns a table
SELECT c.relowner = (SELECT r.oid FROM pg_catalog.pg_roles AS r WHERE r.rolname = CURRENT_USER) AS is_mine
FROM pg_catalog.pg_class AS c
WHERE c.oid = pg_catalog.to_regclass(%(table)s)

-- name: access_method
-- a row is: the access method of a table, and whether it is PostgreSQL's own
SELECT m.amname::text AS name,
       coalesce(m.amname = 'heap', true) AS is_plain
FROM pg_catalog.pg_class AS c
LEFT JOIN pg_catalog.pg_am AS m ON m.oid = c.relam
WHERE c.oid = pg_catalog.to_regclass(%(table)s)

-- name: parked_notes
-- a row is: the comment on a parked table
SELECT pg_catalog.obj_description(pg_catalog.to_regclass(%(table)s)::oid, 'pg_class') AS notes

-- name: implicit_cast
-- a row is: whether a column takes values of another type: there is an implicit cast, which does not round or pad
SELECT EXISTS (SELECT
               FROM pg_catalog.pg_cast AS c
               WHERE c.castsource = %(old)s::pg_catalog.regtype
                 AND c.casttarget = %(new)s::pg_catalog.regtype
                 AND c.castcontext = 'i'
                 AND c.casttarget = ANY ('{int4,int8,numeric,text,varchar,varbit,inet,timestamp}'::pg_catalog.regtype[])
              ) AS is_there

-- name: captured_from
-- a row is: the fingerprint of a file whose rollback captured something
SELECT DISTINCT s.file_sha256
FROM pgrunbook.step AS s
WHERE s.run_id = %(run_id)s
  AND s.migration = %(migration)s
  AND s.direction = 'down'

-- name: is_generated
-- a row is: whether a column is generated, stored or virtual
SELECT a.attgenerated <> '' AS is_generated
FROM pg_catalog.pg_attribute AS a
WHERE a.attrelid = pg_catalog.to_regclass(%s)
  AND a.attname = %s

-- name: fires
-- a row is: whether a trigger or rule of the application is on one of these tables or their partitions
SELECT EXISTS (SELECT
               FROM pg_catalog.unnest(%(names)s::text[]) AS n (name)
               CROSS JOIN LATERAL (SELECT pg_catalog.to_regclass(n.name) AS oid
                                   UNION ALL
                                   SELECT p.relid FROM pg_catalog.pg_partition_tree(pg_catalog.to_regclass(n.name)) AS p
                                  ) AS c
               WHERE EXISTS (SELECT
                             FROM pg_catalog.pg_trigger AS t
                             WHERE t.tgrelid = c.oid
                               AND t.tgconstrindid = 0
                               AND t.tgenabled <> 'D'
                               AND t.tgfoid NOT IN (SELECT p.oid
                                                    FROM pg_catalog.pg_proc AS p
                                                    WHERE p.pronamespace = pg_catalog.to_regnamespace('pgrunbook')))
                  OR EXISTS (SELECT
                             FROM pg_catalog.pg_rewrite AS r
                             WHERE r.ev_class = c.oid
                               AND r.ev_enabled <> 'D'
                               AND r.ev_type <> '1')) AS fires

-- name: keys_to_check
-- a row is: a foreign key of one of these tables, or to one, or a deferrable unique constraint, and a query that finds a row that violates it
WITH RECURSIVE tables AS (
    SELECT pg_catalog.to_regclass(n.name)::oid AS oid
    FROM pg_catalog.unnest(%(names)s::text[]) AS n (name)
    UNION
    SELECT i.inhparent
    FROM tables AS t
    JOIN pg_catalog.pg_class AS c ON c.oid = t.oid AND c.relispartition
    JOIN pg_catalog.pg_inherits AS i ON i.inhrelid = t.oid
)
SELECT k.conname::text AS name,
       pg_catalog.format('%%I.%%I', home.nspname, child.relname) AS child,
       'foreign key' AS kind,
       pg_catalog.format(
           'SELECT FROM %%s%%s AS c WHERE %%s AND NOT EXISTS (SELECT FROM %%s%%s AS p WHERE %%s)',
           CASE WHEN child.relkind = 'p' THEN '' ELSE 'ONLY ' END,
           k.conrelid::pg_catalog.regclass,
           pg_catalog.string_agg(pg_catalog.format('c.%%I IS NOT NULL', a.attname), ' AND ' ORDER BY u.place),
           CASE WHEN parent.relkind = 'p' THEN '' ELSE 'ONLY ' END,
           k.confrelid::pg_catalog.regclass,
           pg_catalog.string_agg(
               pg_catalog.format('p.%%I OPERATOR(%%I.%%s) c.%%I', b.attname, n.nspname, o.oprname, a.attname),
               ' AND ' ORDER BY u.place
           )
       ) AS query
FROM pg_catalog.pg_constraint AS k
JOIN pg_catalog.pg_class AS child ON child.oid = k.conrelid
JOIN pg_catalog.pg_namespace AS home ON home.oid = child.relnamespace
JOIN pg_catalog.pg_class AS parent ON parent.oid = k.confrelid
CROSS JOIN LATERAL ROWS FROM (
    pg_catalog.unnest(k.conkey),
    pg_catalog.unnest(k.confkey),
    pg_catalog.unnest(k.conpfeqop)
) WITH ORDINALITY AS u (attnum, of_parent, operator, place)
JOIN pg_catalog.pg_attribute AS a ON a.attrelid = k.conrelid AND a.attnum = u.attnum
JOIN pg_catalog.pg_attribute AS b ON b.attrelid = k.confrelid AND b.attnum = u.of_parent
JOIN pg_catalog.pg_operator AS o ON o.oid = u.operator
JOIN pg_catalog.pg_namespace AS n ON n.oid = o.oprnamespace
WHERE k.contype = 'f'
  AND k.conparentid = 0
  AND k.convalidated
  AND (k.conrelid IN (SELECT t.oid FROM tables AS t) OR k.confrelid IN (SELECT t.oid FROM tables AS t))
GROUP BY k.oid, k.conname, k.conrelid, k.confrelid, home.nspname, child.relname, child.relkind, parent.relkind
UNION ALL
SELECT k.conname::text,
       pg_catalog.format('%%I.%%I', home.nspname, c.relname),
       'unique constraint',
       pg_catalog.format(
           'SELECT FROM %%s%%s WHERE %%s GROUP BY %%s HAVING pg_catalog.count(*) > 1',
           CASE WHEN c.relkind = 'p' THEN '' ELSE 'ONLY ' END,
           k.conrelid::pg_catalog.regclass,
           pg_catalog.string_agg(
               CASE WHEN (pg_catalog.to_jsonb(i) ->> 'indnullsnotdistinct')::boolean THEN 'true'
                    ELSE pg_catalog.format('%%I IS NOT NULL', a.attname) END, ' AND '
           ),
           pg_catalog.string_agg(pg_catalog.quote_ident(a.attname), ', ')
       )
FROM pg_catalog.pg_constraint AS k
JOIN pg_catalog.pg_index AS i ON i.indexrelid = k.conindid
JOIN pg_catalog.pg_class AS c ON c.oid = k.conrelid
JOIN pg_catalog.pg_namespace AS home ON home.oid = c.relnamespace
JOIN pg_catalog.pg_attribute AS a ON a.attrelid = k.conrelid AND a.attnum = ANY (k.conkey)
WHERE k.contype IN ('p', 'u')
  AND k.condeferrable
  AND k.conparentid = 0
  AND k.conrelid IN (SELECT t.oid FROM tables AS t)
GROUP BY k.oid, k.conname, k.conrelid, home.nspname, c.relname, c.relkind
ORDER BY 2, 1

-- name: has_period_keys
-- a row is: whether a foreign key has a PERIOD, which PostgreSQL knows from 18 on
SELECT EXISTS (SELECT
               FROM pg_catalog.pg_constraint AS k
               WHERE k.contype = 'f'
                 AND (pg_catalog.to_jsonb(k) ->> 'conperiod')::boolean) AS has
