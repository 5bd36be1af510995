-- name: create
-- a row is: nothing; creates the tables of swaps: each swap of a table, and the ranges that it copies
CREATE TABLE IF NOT EXISTS pgrunbook.swap (
    name text PRIMARY KEY,
    table_schema text NOT NULL,
    table_name text NOT NULL,
    run_id text NOT NULL,
    state text NOT NULL,
    plan jsonb NOT NULL,
    relation oid NOT NULL,
    made_at timestamptz NOT NULL,
    cut_over_at timestamptz,
    keep_until timestamptz
);
CREATE TABLE IF NOT EXISTS pgrunbook.swap_range (
    name text NOT NULL,
    number integer NOT NULL,
    relation oid NOT NULL,
    file oid NOT NULL,
    first_place text[],
    next_place text[],
    rows bigint,
    PRIMARY KEY (name, number)
)

-- name: is_there
-- a row is: whether the tables of swaps are there
SELECT pg_catalog.to_regclass('pgrunbook.swap') IS NOT NULL
   AND pg_catalog.to_regclass('pgrunbook.swap_range') IS NOT NULL

-- name: swaps
-- a row is: a swap, those at work first
SELECT s.name,
       s.table_schema AS schema,
       s.table_name AS table,
       s.run_id,
       s.state,
       s.plan,
       s.relation::bigint AS relation,
       s.made_at,
       s.cut_over_at,
       s.keep_until
FROM pgrunbook.swap AS s
WHERE %(name)s IN ('', s.name)
ORDER BY s.state IN ('finished', 'abandoned'), s.made_at DESC

-- name: open
-- a row is: a swap that is not ended, with the key by which writes are noted
SELECT s.table_schema AS schema,
       s.table_name AS table,
       s.state,
       ARRAY(SELECT k.name FROM pg_catalog.jsonb_array_elements_text(s.plan -> 'key') AS k (name)) AS key
FROM pgrunbook.swap AS s
WHERE s.state NOT IN ('finished', 'abandoned')
ORDER BY 1, 2

-- name: begin
-- a row is: nothing; notes that a swap is begun, in the place of one of this table that has ended
INSERT INTO pgrunbook.swap AS s (name, table_schema, table_name, run_id, state, plan, relation, made_at)
VALUES (%(name)s, %(schema)s, %(table)s, %(run_id)s, 'copying', %(plan)s::jsonb, %(relation)s,
        pg_catalog.clock_timestamp())
ON CONFLICT (name) DO UPDATE
SET run_id = excluded.run_id, state = excluded.state, plan = excluded.plan, relation = excluded.relation,
    made_at = excluded.made_at, cut_over_at = NULL, keep_until = NULL

-- name: note
-- a row is: nothing; notes how far a swap has come
UPDATE pgrunbook.swap AS s
SET state = %(state)s,
    plan = %(plan)s::jsonb,
    cut_over_at = CASE WHEN %(state)s = 'cut over' AND s.state <> 'cut over' THEN pg_catalog.clock_timestamp()
                       WHEN %(state)s IN ('cut over', 'finished') THEN s.cut_over_at END,
    keep_until = CASE WHEN %(state)s = 'cut over' AND s.state <> 'cut over'
                      THEN pg_catalog.clock_timestamp() + pg_catalog.make_interval(hours => %(keep_hours)s)
                      WHEN %(state)s IN ('cut over', 'finished') THEN s.keep_until END
WHERE s.name = %(name)s

-- name: forget_ranges
-- a row is: nothing; forgets the ranges of a swap
DELETE FROM pgrunbook.swap_range AS r
WHERE r.name = %(name)s

-- name: add_range
-- a row is: nothing; notes a range that is to be copied
INSERT INTO pgrunbook.swap_range (name, number, relation, file, first_place, next_place)
VALUES (%(name)s, %(number)s, %(relation)s, pg_catalog.pg_relation_filenode(%(relation)s), %(first)s, %(next)s)

-- name: next_range
-- a row is: a range that nobody has copied and nobody copies now; locked until the end of the transaction
SELECT r.number,
       r.relation::bigint AS relation,
       r.relation::pg_catalog.regclass::text AS table,
       r.first_place,
       r.next_place
FROM pgrunbook.swap_range AS r
WHERE r.name = %(name)s
  AND r.rows IS NULL
ORDER BY r.number
LIMIT 1
FOR UPDATE SKIP LOCKED

-- name: end_range
-- a row is: whether the table has the pages yet that the range is of; notes that it is copied, where it is
UPDATE pgrunbook.swap_range AS r
SET rows = %(rows)s
WHERE r.name = %(name)s
  AND r.number = %(number)s
RETURNING coalesce(r.file = pg_catalog.pg_relation_filenode(r.relation), false) AS is_same

-- name: ranges
-- a row is: how many ranges of a swap there are and are copied, and how many rows
SELECT count(*) AS ranges,
       count(r.rows) AS copied,
       coalesce(sum(r.rows), 0)::bigint AS rows
FROM pgrunbook.swap_range AS r
WHERE r.name = %(name)s

-- name: room
-- a row is: how much the log of changes of a swap takes
SELECT coalesce(pg_catalog.pg_total_relation_size(pg_catalog.to_regclass(pg_catalog.format('pgrunbook.%%I', %(log)s::text))), 0)
       AS bytes

-- name: pages
-- a row is: a table without partitions that holds rows of this one, with its pages
SELECT c.oid::bigint AS relation,
       pg_catalog.pg_relation_size(c.oid) / pg_catalog.current_setting('block_size')::bigint AS pages
FROM pg_catalog.pg_class AS c
WHERE c.relkind = 'r'
  AND c.oid IN (SELECT %(oid)s::oid
                UNION
                SELECT p.relid::oid FROM pg_catalog.pg_partition_tree(%(oid)s::oid::regclass) AS p)
ORDER BY c.oid

-- name: columns
-- a row is: a column of a table, with what decides whether a value can be copied into it, and its type below domains
WITH RECURSIVE below AS (
    SELECT a.attnum,
           a.atttypid AS type,
           a.atttypmod AS modifier
    FROM pg_catalog.pg_attribute AS a
    WHERE a.attrelid = %(oid)s
      AND a.attnum > 0
      AND NOT a.attisdropped
    UNION ALL
    SELECT b.attnum,
           t.typbasetype,
           t.typtypmod
    FROM below AS b
    JOIN pg_catalog.pg_type AS t ON t.oid = b.type
    WHERE t.typtype = 'd'
)
SELECT a.attname::text AS name,
       pg_catalog.format_type(a.atttypid, a.atttypmod) AS type,
       pg_catalog.format_type(b.type, b.modifier) AS base,
       z.typnamespace = 'pg_catalog'::regnamespace OR z.typtype = 'e' AS is_plain,
       CASE WHEN a.attcollation <> y.typcollation THEN a.attcollation::regcollation::text END AS collation,
       a.attnotnull AS is_not_null,
       a.attgenerated <> '' AS is_generated,
       a.attidentity <> '' AS is_identity,
       d.oid IS NOT NULL AND a.attgenerated = '' OR y.typdefaultbin IS NOT NULL AS has_default,
       CASE WHEN a.attgenerated <> '' THEN pg_catalog.pg_get_expr(d.adbin, d.adrelid) END AS generated
FROM pg_catalog.pg_attribute AS a
JOIN pg_catalog.pg_type AS y ON y.oid = a.atttypid
JOIN below AS b ON b.attnum = a.attnum
JOIN pg_catalog.pg_type AS z ON z.oid = b.type AND z.typtype <> 'd'
LEFT JOIN pg_catalog.pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE a.attrelid = %(oid)s
  AND a.attnum > 0
  AND NOT a.attisdropped
ORDER BY a.attnum

-- name: beside
-- a row is: what CREATE TABLE ... LIKE leaves out of a table, as statements on another one
SELECT x.sql
FROM pg_catalog.pg_class AS c
LEFT JOIN pg_catalog.pg_class AS toast ON toast.oid = c.reltoastrelid
LEFT JOIN pg_catalog.pg_tablespace AS s ON s.oid = c.reltablespace
LEFT JOIN pg_catalog.pg_am AS m ON m.oid = c.relam
CROSS JOIN LATERAL (
    SELECT 0 AS place, 'SET UNLOGGED' AS sql
    WHERE c.relpersistence = 'u'
    UNION ALL
    SELECT 1, 'SET (' || pg_catalog.array_to_string(c.reloptions, ', ') || ')'
    UNION ALL
    SELECT 2, 'SET (' || (SELECT pg_catalog.string_agg('toast.' || o, ', ') FROM pg_catalog.unnest(toast.reloptions) AS o)
              || ')'
    UNION ALL
    SELECT 3, pg_catalog.format('SET TABLESPACE %%I', s.spcname)
    WHERE s.oid IS NOT NULL
    UNION ALL
    SELECT 4, pg_catalog.format('SET ACCESS METHOD %%I', m.amname)
    WHERE m.amname <> pg_catalog.current_setting('default_table_access_method')
    UNION ALL
    SELECT 5, pg_catalog.format('ALTER COLUMN %%I SET STATISTICS %%s', a.attname, a.attstattarget)
    FROM pg_catalog.pg_attribute AS a
    WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attstattarget >= 0
    UNION ALL
    SELECT 6, pg_catalog.format('ALTER COLUMN %%I SET (%%s)', a.attname, pg_catalog.array_to_string(a.attoptions, ', '))
    FROM pg_catalog.pg_attribute AS a
    WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attoptions IS NOT NULL
    UNION ALL
    SELECT 7, pg_catalog.format('OF %%s', c.reloftype::regtype)
    WHERE c.reloftype <> 0
) AS x
WHERE c.oid = %(oid)s
  AND x.sql IS NOT NULL
ORDER BY x.place

-- name: indexes
-- a row is: an index of a table, with the constraint that it is of; its text behind the table's name, so that it can be made elsewhere
SELECT i.indexrelid::bigint AS oid,
       ic.relname::text AS name,
       i.indisprimary AS is_primary,
       i.indisunique AS is_unique,
       i.indisunique AND i.indpred IS NULL AND i.indexprs IS NULL AND i.indimmediate AS is_key,
       i.indisvalid AS is_valid,
       ARRAY(SELECT a.attname::text
             FROM pg_catalog.unnest(i.indkey::smallint[]) WITH ORDINALITY AS u (number, place)
             JOIN pg_catalog.pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = u.number
             WHERE u.place <= i.indnkeyatts
             ORDER BY u.place) AS columns,
       pg_catalog.substr(pg_catalog.pg_get_indexdef(i.indexrelid),
                         pg_catalog.length('CREATE ' || CASE WHEN i.indisunique THEN 'UNIQUE ' ELSE '' END || 'INDEX '
                                           || pg_catalog.quote_ident(ic.relname) || ' ON '
                                           || CASE WHEN ic.relkind = 'I' THEN 'ONLY ' ELSE '' END
                                           || pg_catalog.format('%%I.%%I', n.nspname, c.relname)) + 1) AS rest,
       k.conname::text AS constraint,
       k.contype::text AS constraint_type,
       pg_catalog.pg_get_constraintdef(k.oid) AS definition,
       k.condeferrable AS is_deferrable,
       k.condeferred AS is_deferred,
       coalesce((pg_catalog.to_jsonb(k) ->> 'conperiod')::boolean, false) AS has_period,
       ic.reloptions::text[] AS options,
       (SELECT s.spcname::text FROM pg_catalog.pg_tablespace AS s WHERE s.oid = ic.reltablespace) AS tablespace,
       ARRAY(SELECT pg_catalog.format('ALTER COLUMN %%s SET STATISTICS %%s', a.attnum, a.attstattarget)
             FROM pg_catalog.pg_attribute AS a
             WHERE a.attrelid = i.indexrelid AND a.attstattarget >= 0
             ORDER BY a.attnum) AS targets
FROM pg_catalog.pg_index AS i
JOIN pg_catalog.pg_class AS ic ON ic.oid = i.indexrelid
JOIN pg_catalog.pg_class AS c ON c.oid = i.indrelid
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
LEFT JOIN pg_catalog.pg_constraint AS k
       ON k.conindid = i.indexrelid AND k.conrelid = i.indrelid AND k.contype IN ('p', 'u', 'x')
WHERE i.indrelid = %(oid)s
ORDER BY i.indisprimary DESC, i.indisunique DESC, ic.relname

-- name: statistics
-- a row is: extended statistics of a table, and their text without the names
SELECT x.oid::bigint AS oid,
       n.nspname::text AS schema,
       x.stxname::text AS name,
       CASE WHEN x.stxkind = '{e}' THEN ''
            ELSE coalesce(pg_catalog.substring(pg_catalog.substr(x.def, pg_catalog.length(x.head) + 1),
                                               '^ (\([a-z_, ]+\)) ON '), '') END AS kinds,
       pg_catalog.pg_get_statisticsobjdef_columns(x.oid) AS columns,
       x.stxstattarget AS target
FROM (SELECT s.*,
             pg_catalog.pg_get_statisticsobjdef(s.oid) AS def,
             pg_catalog.format('CREATE STATISTICS %%I.%%I', m.nspname, s.stxname) AS head
      FROM pg_catalog.pg_statistic_ext AS s
      JOIN pg_catalog.pg_namespace AS m ON m.oid = s.stxnamespace) AS x
JOIN pg_catalog.pg_namespace AS n ON n.oid = x.stxnamespace
WHERE x.stxrelid = %(oid)s
ORDER BY x.stxname

-- name: facts
-- a row is: what decides whether a table can be swapped
SELECT c.oid::bigint AS oid,
       n.nspname::text AS schema,
       c.relname::text AS name,
       c.relkind::text AS kind,
       c.relpersistence::text AS persistence,
       c.relispartition AS is_partition,
       c.relowner::bigint AS owner,
       pg_catalog.pg_get_userbyid(c.relowner)::text AS owner_name,
       pg_catalog.pg_has_role(c.relowner, 'USAGE') AS is_ours,
       c.relrowsecurity AS has_row_security,
       c.relforcerowsecurity AS forces_row_security,
       pg_catalog.pg_total_relation_size(c.oid)
       + coalesce((SELECT sum(pg_catalog.pg_total_relation_size(p.relid))
                   FROM pg_catalog.pg_partition_tree(c.oid) AS p
                   WHERE p.isleaf AND p.relid <> c.oid), 0)::bigint AS bytes,
       c.reltuples::bigint AS rows_estimate,
       EXISTS (SELECT FROM pg_catalog.pg_subscription_rel AS s WHERE s.srrelid = c.oid) AS is_subscribed,
       EXISTS (SELECT FROM pg_catalog.pg_depend AS d
               WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e') AS is_of_extension
FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.oid = %(oid)s

-- name: hanging
-- a row is: an object that hangs on a table, with its kind in our words, and the columns of the table that it needs
WITH self AS (
    SELECT c.oid,
           c.reltype,
           t.typarray
    FROM pg_catalog.pg_class AS c
    LEFT JOIN pg_catalog.pg_type AS t ON t.oid = c.reltype
    WHERE c.oid = %(oid)s
), sequences AS (
    SELECT d.objid AS oid,
           d.deptype
    FROM self
    JOIN pg_catalog.pg_depend AS d
      ON d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid = self.oid AND d.refobjsubid > 0
     AND d.classid = 'pg_catalog.pg_class'::regclass AND d.deptype IN ('a', 'i')
    JOIN pg_catalog.pg_class AS c ON c.oid = d.objid AND c.relkind = 'S'
), roots AS (
    SELECT 'pg_catalog.pg_class'::regclass::oid AS class, self.oid FROM self
    UNION ALL
    SELECT 'pg_catalog.pg_type'::regclass, y.oid FROM self CROSS JOIN LATERAL (VALUES (self.reltype), (self.typarray)) AS y (oid)
    UNION ALL
    SELECT 'pg_catalog.pg_class'::regclass, s.oid FROM sequences AS s WHERE s.deptype = 'i'
), needing AS (
    SELECT d.classid,
           CASE WHEN d.classid = 'pg_catalog.pg_rewrite'::regclass AND w.rulename = '_RETURN' THEN w.ev_class
                ELSE d.objid END AS objid,
           CASE WHEN d.classid = 'pg_catalog.pg_rewrite'::regclass AND w.rulename = '_RETURN' THEN 'view'
                ELSE d.classid::regclass::text END AS what,
           r.class,
           d.refobjid,
           pg_catalog.array_agg(DISTINCT a.attname::text) FILTER (WHERE a.attname IS NOT NULL) AS columns,
           bool_or(d.objsubid > 0) AS is_part
    FROM roots AS r
    JOIN pg_catalog.pg_depend AS d ON d.refclassid = r.class AND d.refobjid = r.oid
    LEFT JOIN pg_catalog.pg_rewrite AS w ON d.classid = 'pg_catalog.pg_rewrite'::regclass AND w.oid = d.objid
    LEFT JOIN pg_catalog.pg_attribute AS a
           ON r.class = 'pg_catalog.pg_class'::regclass AND a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
          AND d.refobjsubid > 0
    WHERE (d.classid, d.objid) NOT IN (SELECT r2.class, r2.oid FROM roots AS r2)
    GROUP BY 1, 2, 3, 4, 5
), told AS (
    SELECT n.*,
           CASE
               WHEN n.refobjid IN (SELECT s.oid FROM sequences AS s) THEN
                   CASE WHEN n.classid = 'pg_catalog.pg_attrdef'::regclass
                             AND EXISTS (SELECT FROM pg_catalog.pg_attrdef AS f JOIN self ON f.adrelid = self.oid WHERE f.oid = n.objid)
                        THEN 'part' ELSE 'user of identity' END
               WHEN n.class = 'pg_catalog.pg_type'::regclass THEN
                   CASE WHEN n.what = 'view' AND EXISTS (SELECT FROM needing AS o JOIN self ON o.refobjid = self.oid AND o.objid = n.objid)
                        THEN 'part' ELSE 'user of row type' END
               WHEN n.what = 'view' THEN (SELECT CASE c.relkind WHEN 'm' THEN 'materialized view' ELSE 'view' END
                                          FROM pg_catalog.pg_class AS c WHERE c.oid = n.objid)
               WHEN n.classid = 'pg_catalog.pg_constraint'::regclass THEN
                   (SELECT CASE WHEN k.conparentid <> 0 AND k.contype = 'f' THEN 'part'
                                WHEN k.contype = 'f' AND k.conrelid = self.oid THEN 'foreign key'
                                WHEN k.contype = 'f' THEN 'foreign key to it'
                                WHEN k.contype = 'c' AND k.conrelid = self.oid AND NOT k.convalidated THEN 'check not valid'
                                WHEN k.contype = 't' THEN 'part'
                                WHEN k.conrelid = self.oid THEN 'part'
                                ELSE 'other' END
                    FROM pg_catalog.pg_constraint AS k CROSS JOIN self WHERE k.oid = n.objid)
               WHEN n.classid = 'pg_catalog.pg_trigger'::regclass THEN
                   (SELECT CASE WHEN g.tgisinternal OR g.tgparentid <> 0 THEN 'part'
                                WHEN f.pronamespace = pg_catalog.to_regnamespace('pgrunbook')::oid
                                     AND f.proname ~ '^note_changes_' THEN 'part'
                                WHEN g.tgrelid = self.oid THEN 'trigger'
                                ELSE 'trigger elsewhere' END
                    FROM pg_catalog.pg_trigger AS g
                    JOIN pg_catalog.pg_proc AS f ON f.oid = g.tgfoid
                    CROSS JOIN self
                    WHERE g.oid = n.objid)
               WHEN n.classid = 'pg_catalog.pg_rewrite'::regclass THEN
                   (SELECT CASE WHEN w.ev_class = self.oid THEN 'rule' ELSE 'rule elsewhere' END
                    FROM pg_catalog.pg_rewrite AS w CROSS JOIN self WHERE w.oid = n.objid)
               WHEN n.classid = 'pg_catalog.pg_policy'::regclass THEN
                   (SELECT CASE WHEN o.polrelid = self.oid THEN 'policy' ELSE 'policy elsewhere' END
                    FROM pg_catalog.pg_policy AS o CROSS JOIN self WHERE o.oid = n.objid)
               WHEN n.classid = 'pg_catalog.pg_publication_rel'::regclass THEN 'publication'
               WHEN n.classid = 'pg_catalog.pg_statistic_ext'::regclass THEN 'statistics'
               WHEN n.classid = 'pg_catalog.pg_proc'::regclass THEN 'function'
               WHEN n.classid = 'pg_catalog.pg_attrdef'::regclass
                    AND EXISTS (SELECT FROM pg_catalog.pg_attrdef AS f JOIN self ON f.adrelid = self.oid WHERE f.oid = n.objid)
                   THEN 'part'
               WHEN n.classid = 'pg_catalog.pg_type'::regclass THEN 'part'
               WHEN n.classid = 'pg_catalog.pg_class'::regclass THEN
                   (SELECT CASE WHEN c.relkind IN ('i', 'I') THEN 'index'
                                WHEN c.relkind = 't' THEN 'part'
                                WHEN c.relkind = 'S' AND s.deptype = 'i' THEN 'identity'
                                WHEN c.relkind = 'S' THEN 'sequence'
                                WHEN c.relispartition THEN 'partition'
                                WHEN EXISTS (SELECT FROM pg_catalog.pg_inherits AS h JOIN self ON h.inhparent = self.oid
                                             WHERE h.inhrelid = c.oid) THEN 'child'
                                ELSE 'user of row type' END
                    FROM pg_catalog.pg_class AS c LEFT JOIN sequences AS s ON s.oid = c.oid WHERE c.oid = n.objid)
               ELSE 'other' END AS kind
    FROM needing AS n
)
SELECT t.kind,
       CASE WHEN t.what = 'view' THEN 'pg_catalog.pg_class'::regclass::oid ELSE t.classid END::bigint AS class,
       t.objid::bigint AS oid,
       pg_catalog.pg_describe_object(CASE WHEN t.what = 'view' THEN 'pg_catalog.pg_class'::regclass::oid ELSE t.classid END,
                                     t.objid, 0) AS says,
       coalesce(t.columns, '{}') AS columns
FROM told AS t
WHERE t.kind <> 'part'
UNION ALL
SELECT 'parent', 'pg_catalog.pg_class'::regclass::oid::bigint, h.inhparent::bigint,
       pg_catalog.pg_describe_object('pg_catalog.pg_class'::regclass, h.inhparent, 0), '{}'
FROM pg_catalog.pg_inherits AS h
WHERE h.inhrelid = %(oid)s
ORDER BY 1, 4

-- name: identities
-- a row is: the sequence of an identity column of a table
SELECT c.oid::bigint AS oid,
       n.nspname::text AS schema,
       c.relname::text AS name,
       a.attname::text AS column
FROM pg_catalog.pg_depend AS d
JOIN pg_catalog.pg_class AS c ON c.oid = d.objid AND c.relkind = 'S'
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_attribute AS a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
WHERE d.classid = 'pg_catalog.pg_class'::regclass
  AND d.refclassid = 'pg_catalog.pg_class'::regclass
  AND d.refobjid = %(oid)s
  AND d.deptype = 'i'
ORDER BY a.attnum

-- name: foreign_keys
-- a row is: a foreign key of a table or to it: which tables it locks, and whether it can be made without a check of all rows
SELECT k.oid::bigint AS oid,
       k.conname::text AS name,
       k.conrelid::bigint AS child_oid,
       k.conrelid::regclass::text AS child,
       k.confrelid::regclass::text AS parent,
       k.confrelid::bigint AS parent_oid,
       k.convalidated AS is_valid,
       coalesce((pg_catalog.to_jsonb(k) ->> 'conenforced')::boolean, true) AS is_enforced,
       c.relkind = 'p' AS is_partitioned,
       ARRAY(SELECT a.attname::text
             FROM pg_catalog.unnest(k.confkey) WITH ORDINALITY AS u (number, place)
             JOIN pg_catalog.pg_attribute AS a ON a.attrelid = k.confrelid AND a.attnum = u.number
             ORDER BY u.place) AS referred
FROM pg_catalog.pg_constraint AS k
JOIN pg_catalog.pg_class AS c ON c.oid = k.conrelid
WHERE k.contype = 'f'
  AND k.conparentid = 0
  AND %(oid)s IN (k.conrelid, k.confrelid)
ORDER BY k.conrelid = %(oid)s, k.conname

-- name: constraint_names
-- a row is: the name of a constraint of a table
SELECT k.conname::text AS name
FROM pg_catalog.pg_constraint AS k
WHERE k.conrelid = %(oid)s

-- name: grantees
-- a row is: a role that has rights on a table, beside its owner
SELECT DISTINCT CASE g.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(g.grantee)) END AS grantee
FROM pg_catalog.pg_class AS c
LEFT JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attacl IS NOT NULL AND NOT a.attisdropped
CROSS JOIN LATERAL (SELECT * FROM pg_catalog.aclexplode(c.relacl)
                    UNION ALL
                    SELECT * FROM pg_catalog.aclexplode(a.attacl)) AS g
WHERE c.oid = %(oid)s
  AND g.grantee <> c.relowner
ORDER BY 1

-- name: view_owners
-- a row is: a view with its owner, as SQL
SELECT c.oid::regclass::text AS view,
       pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(c.relowner)) AS owner
FROM pg_catalog.pg_class AS c
WHERE c.oid = ANY (%(oids)s::oid[])
ORDER BY c.oid

-- name: own_parts
-- a row is: a constraint, index, sequence of an identity column or statistics of a table
SELECT 'pg_catalog.pg_constraint'::regclass::oid::bigint AS class,
       k.oid::bigint AS oid,
       k.conname::text AS name,
       true AS is_constraint
FROM pg_catalog.pg_constraint AS k
WHERE k.conrelid = %(oid)s
  AND k.contype <> 'f'
UNION ALL
SELECT 'pg_catalog.pg_class'::regclass::oid::bigint, i.indexrelid::bigint, c.relname::text, false
FROM pg_catalog.pg_index AS i
JOIN pg_catalog.pg_class AS c ON c.oid = i.indexrelid
WHERE i.indrelid = %(oid)s
UNION ALL
SELECT 'pg_catalog.pg_class'::regclass::oid::bigint, c.oid::bigint, c.relname::text, false
FROM pg_catalog.pg_depend AS d
JOIN pg_catalog.pg_class AS c ON c.oid = d.objid AND c.relkind = 'S'
WHERE d.classid = 'pg_catalog.pg_class'::regclass
  AND d.refclassid = 'pg_catalog.pg_class'::regclass
  AND d.refobjid = %(oid)s
  AND d.deptype = 'i'
UNION ALL
SELECT 'pg_catalog.pg_statistic_ext'::regclass::oid::bigint, x.oid::bigint, x.stxname::text, false
FROM pg_catalog.pg_statistic_ext AS x
WHERE x.stxrelid = %(oid)s

-- name: owned
-- a row is: a sequence that belongs to a column of a table
SELECT c.oid::bigint AS oid,
       n.nspname::text AS schema,
       c.relname::text AS name,
       a.attname::text AS column,
       d.deptype = 'i' AS is_identity
FROM pg_catalog.pg_depend AS d
JOIN pg_catalog.pg_class AS c ON c.oid = d.objid AND c.relkind = 'S'
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_attribute AS a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
WHERE d.classid = 'pg_catalog.pg_class'::regclass
  AND d.refclassid = 'pg_catalog.pg_class'::regclass
  AND d.refobjid = %(oid)s
  AND d.deptype IN ('a', 'i')
ORDER BY a.attnum, c.relname

-- name: names
-- a row is: one of these tables, by its name
SELECT n.nspname::text AS schema,
       c.relname::text AS name
FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.oid = ANY (%(oids)s::oid[])
ORDER BY 1, 2

-- name: traits
-- a row is: what a table is beside its columns, indexes and what hangs on it: the kind of it, and what it is
SELECT 'owner' AS kind,
       'owner ' || pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(c.relowner)) AS says
FROM pg_catalog.pg_class AS c
WHERE c.oid = %(oid)s
UNION ALL
SELECT 'persistence', CASE c.relpersistence WHEN 'u' THEN 'UNLOGGED' ELSE 'LOGGED' END
FROM pg_catalog.pg_class AS c
WHERE c.oid = %(oid)s
UNION ALL
SELECT 'check', pg_catalog.format('constraint %%I %%s', k.conname, pg_catalog.pg_get_constraintdef(k.oid))
FROM pg_catalog.pg_constraint AS k
WHERE k.conrelid = %(oid)s
  AND k.contype = 'c'
  AND k.convalidated
UNION ALL
SELECT 'storage', 'tablespace ' || pg_catalog.quote_ident(s.spcname)
FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_tablespace AS s ON s.oid = c.reltablespace
WHERE c.oid = %(oid)s
UNION ALL
SELECT 'storage', 'option ' || CASE WHEN c.oid = %(oid)s THEN '' ELSE 'toast.' END || o.option
FROM pg_catalog.pg_class AS c
CROSS JOIN LATERAL pg_catalog.unnest(c.reloptions) AS o (option)
WHERE c.oid = %(oid)s
   OR c.oid = (SELECT t.reltoastrelid FROM pg_catalog.pg_class AS t WHERE t.oid = %(oid)s)
UNION ALL
SELECT 'storage', pg_catalog.format('column %%I STORAGE %%s', a.attname,
                                    CASE a.attstorage WHEN 'p' THEN 'PLAIN' WHEN 'e' THEN 'EXTERNAL'
                                                      WHEN 'm' THEN 'MAIN' ELSE 'EXTENDED' END)
                  || CASE a.attcompression WHEN 'p' THEN ' COMPRESSION pglz' WHEN 'l' THEN ' COMPRESSION lz4' ELSE '' END
                  || CASE WHEN a.attstattarget >= 0 THEN ' STATISTICS ' || a.attstattarget ELSE '' END
                  || CASE WHEN a.attoptions IS NULL THEN '' ELSE ' OPTIONS ' || a.attoptions::text END
FROM pg_catalog.pg_attribute AS a
WHERE a.attrelid = %(oid)s
  AND a.attnum > 0
  AND NOT a.attisdropped
ORDER BY 1, 2

-- name: unchecked
-- a row is: a check of a table that is not validated
SELECT k.conname::text AS name
FROM pg_catalog.pg_constraint AS k
WHERE k.conrelid = %(oid)s
  AND k.contype = 'c'
  AND NOT k.convalidated

-- name: seen
-- a row is: the rights on a table, and all that depends on it, as a digest
SELECT pg_catalog.md5(pg_catalog.concat_ws('|', c.relacl::text, c.relowner,
                                           (SELECT pg_catalog.string_agg(a.attname || a.attacl::text, ',' ORDER BY a.attnum)
                                            FROM pg_catalog.pg_attribute AS a
                                            WHERE a.attrelid = c.oid AND a.attacl IS NOT NULL),
                                           (SELECT pg_catalog.string_agg(d.classid || '.' || d.objid || '.' || d.refobjsubid, ','
                                                                         ORDER BY d.classid, d.objid, d.objsubid, d.refobjsubid)
                                            FROM pg_catalog.pg_depend AS d
                                            WHERE d.refclassid IN ('pg_catalog.pg_class'::regclass, 'pg_catalog.pg_type'::regclass)
                                              AND d.refobjid IN (c.oid, c.reltype)))) AS digest
FROM pg_catalog.pg_class AS c
WHERE c.oid = %(oid)s

-- name: relations
-- a row is: a relation of a schema that has one of these names
SELECT pg_catalog.pg_describe_object('pg_catalog.pg_class'::regclass, c.oid, 0) AS says
FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = %(schema)s
  AND c.relname = ANY (%(names)s::text[])
ORDER BY c.relname
