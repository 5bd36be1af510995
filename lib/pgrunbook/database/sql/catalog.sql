-- name: session
-- a row is: the settings of the session on which names and values depend
SELECT pg_catalog.current_setting('server_version_num')::integer / 10000 AS major,
       pg_catalog.current_setting('TimeZone') AS time_zone,
       pg_catalog.current_schemas(true)::text[] AS search_path,
       current_user::text AS role;

-- name: fallen
-- a row is: what falls with an object that a statement drops, and a relation that is locked for it, without its schema where there is none
WITH RECURSIVE asked AS (
    SELECT a.*
    FROM pg_catalog.json_to_recordset(%(dropped)s::json)
        AS a (word text, kind text, schema text, name text, args text[])
), start AS (
    SELECT a.word,
           a.kind,
           'pg_catalog.pg_proc'::pg_catalog.regclass::oid AS classid,
           p.oid AS objid
    FROM asked AS a
    JOIN pg_catalog.pg_proc AS p ON p.proname = a.name
    JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace
    WHERE a.kind IN ('FUNCTION', 'PROCEDURE', 'ROUTINE', 'AGGREGATE')
      AND (n.nspname = a.schema OR a.schema IS NULL AND n.nspname = ANY (%(path)s::text[]))
      AND (a.args IS NULL OR a.args = ARRAY(SELECT t.typname::text
                                            FROM pg_catalog.unnest(p.proargtypes) WITH ORDINALITY AS u (oid, place)
                                            JOIN pg_catalog.pg_type AS t ON t.oid = u.oid
                                            ORDER BY u.place))
    UNION ALL
    SELECT a.word, a.kind, 'pg_catalog.pg_type'::pg_catalog.regclass, t.oid
    FROM asked AS a
    JOIN pg_catalog.pg_type AS t ON t.typname = a.name
    JOIN pg_catalog.pg_namespace AS n ON n.oid = t.typnamespace
    WHERE a.kind IN ('TYPE', 'DOMAIN')
      AND (n.nspname = a.schema OR a.schema IS NULL AND n.nspname = ANY (%(path)s::text[]))
    UNION ALL
    SELECT a.word, a.kind, 'pg_catalog.pg_class'::pg_catalog.regclass, c.oid
    FROM asked AS a
    JOIN pg_catalog.pg_class AS c ON c.relname = a.name AND c.relkind = 'S'
    JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    WHERE a.kind = 'SEQUENCE'
      AND (n.nspname = a.schema OR a.schema IS NULL AND n.nspname = ANY (%(path)s::text[]))
    UNION ALL
    SELECT a.word, a.kind, 'pg_catalog.pg_namespace'::pg_catalog.regclass, n.oid
    FROM asked AS a
    JOIN pg_catalog.pg_namespace AS n ON n.nspname = a.name
    WHERE a.kind = 'SCHEMA'
    UNION ALL
    SELECT a.word, a.kind, 'pg_catalog.pg_extension'::pg_catalog.regclass, e.oid
    FROM asked AS a
    JOIN pg_catalog.pg_extension AS e ON e.extname = a.name
    WHERE a.kind = 'EXTENSION'
    UNION ALL
    SELECT a.word, a.kind, 'pg_catalog.pg_foreign_server'::pg_catalog.regclass, s.oid
    FROM asked AS a
    JOIN pg_catalog.pg_foreign_server AS s ON s.srvname = a.name
    WHERE a.kind = 'FOREIGN_SERVER'
    UNION ALL
    SELECT a.word, a.kind, 'pg_catalog.pg_foreign_data_wrapper'::pg_catalog.regclass, w.oid
    FROM asked AS a
    JOIN pg_catalog.pg_foreign_data_wrapper AS w ON w.fdwname = a.name
    WHERE a.kind = 'FDW'
    UNION ALL
    SELECT a.word, a.kind, 'pg_catalog.pg_language'::pg_catalog.regclass, l.oid
    FROM asked AS a
    JOIN pg_catalog.pg_language AS l ON l.lanname = a.name
    WHERE a.kind = 'LANGUAGE'
    UNION ALL
    SELECT a.word, a.kind, 'pg_catalog.pg_collation'::pg_catalog.regclass, l.oid
    FROM asked AS a
    JOIN pg_catalog.pg_collation AS l ON l.collname = a.name
    JOIN pg_catalog.pg_namespace AS n ON n.oid = l.collnamespace
    WHERE a.kind = 'COLLATION'
      AND (n.nspname = a.schema OR a.schema IS NULL AND n.nspname = ANY (%(path)s::text[]))
    UNION ALL
    SELECT a.word, a.kind, 'pg_catalog.pg_operator'::pg_catalog.regclass, o.oid
    FROM asked AS a
    JOIN pg_catalog.pg_operator AS o ON o.oprname = a.name
    JOIN pg_catalog.pg_namespace AS n ON n.oid = o.oprnamespace
    WHERE a.kind = 'OPERATOR'
      AND (n.nspname = a.schema OR a.schema IS NULL AND n.nspname = ANY (%(path)s::text[]))
      AND a.args = ARRAY(SELECT t.typname::text
                         FROM pg_catalog.unnest(ARRAY[o.oprleft, o.oprright]) WITH ORDINALITY AS u (oid, place)
                         JOIN pg_catalog.pg_type AS t ON t.oid = u.oid
                         ORDER BY u.place)
    UNION ALL
    SELECT a.word, a.kind, o.classid, o.oid
    FROM asked AS a
    JOIN (
        SELECT 'OPCLASS' AS kind, c.tableoid AS classid, c.oid, c.opcname AS name, c.opcnamespace AS namespace
        FROM pg_catalog.pg_opclass AS c
        UNION ALL
        SELECT 'OPFAMILY', f.tableoid, f.oid, f.opfname, f.opfnamespace
        FROM pg_catalog.pg_opfamily AS f
        UNION ALL
        SELECT 'TSCONFIGURATION', c.tableoid, c.oid, c.cfgname, c.cfgnamespace
        FROM pg_catalog.pg_ts_config AS c
        UNION ALL
        SELECT 'TSDICTIONARY', d.tableoid, d.oid, d.dictname, d.dictnamespace
        FROM pg_catalog.pg_ts_dict AS d
        UNION ALL
        SELECT 'TSPARSER', p.tableoid, p.oid, p.prsname, p.prsnamespace
        FROM pg_catalog.pg_ts_parser AS p
        UNION ALL
        SELECT 'TSTEMPLATE', t.tableoid, t.oid, t.tmplname, t.tmplnamespace
        FROM pg_catalog.pg_ts_template AS t
    ) AS o ON o.kind = a.kind AND o.name = a.name
    JOIN pg_catalog.pg_namespace AS n ON n.oid = o.namespace
    WHERE n.nspname = a.schema OR a.schema IS NULL AND n.nspname = ANY (%(path)s::text[])
    UNION ALL
    SELECT a.word, a.kind, d.classid, d.objid
    FROM asked AS a
    JOIN pg_catalog.pg_roles AS r ON r.rolname = a.name
    JOIN pg_catalog.pg_shdepend AS d ON d.refobjid = r.oid AND d.deptype = 'o'
    JOIN pg_catalog.pg_database AS b ON b.oid = d.dbid AND b.datname = pg_catalog.current_database()
    WHERE a.kind IN ('OWNED', 'REASSIGNED')
      AND d.refclassid = 'pg_catalog.pg_authid'::pg_catalog.regclass
), fallen AS (
    SELECT start.word,
           start.kind,
           start.classid,
           start.objid,
           0 AS objsubid,
           false AS hinders
    FROM start
    UNION
    SELECT f.word, f.kind, n.classid, n.objid, n.objsubid, f.hinders OR n.deptype = 'n'
    FROM fallen AS f
    CROSS JOIN LATERAL (
        SELECT d.classid, d.objid, d.objsubid, d.deptype
        FROM pg_catalog.pg_depend AS d
        WHERE d.refclassid = f.classid
          AND d.refobjid = f.objid
          AND f.objsubid IN (0, d.refobjsubid)
          AND d.deptype <> 'p'
        UNION ALL
        SELECT d.refclassid, d.refobjid, d.refobjsubid, d.deptype
        FROM pg_catalog.pg_depend AS d
        WHERE d.classid = f.classid
          AND d.objid = f.objid
          AND d.deptype = 'i'
    ) AS n
    WHERE f.kind <> 'REASSIGNED'
), named AS (
    SELECT fallen.word,
           fallen.classid,
           fallen.objid,
           fallen.objsubid,
           pg_catalog.bool_and(fallen.hinders) AS hinders
    FROM fallen
    GROUP BY 1, 2, 3, 4
), locked AS (
    SELECT n.*, unnest(CASE n.classid
        WHEN 'pg_catalog.pg_class'::pg_catalog.regclass
            THEN ARRAY[coalesce((SELECT i.indrelid FROM pg_catalog.pg_index AS i WHERE i.indexrelid = n.objid), n.objid)]
        WHEN 'pg_catalog.pg_constraint'::pg_catalog.regclass
            THEN (SELECT k.conrelid || pg_catalog.array_remove(ARRAY[k.confrelid], 0::oid) FROM pg_catalog.pg_constraint AS k WHERE k.oid = n.objid)
        WHEN 'pg_catalog.pg_attrdef'::pg_catalog.regclass
            THEN ARRAY[(SELECT f.adrelid FROM pg_catalog.pg_attrdef AS f WHERE f.oid = n.objid)]
        WHEN 'pg_catalog.pg_trigger'::pg_catalog.regclass
            THEN ARRAY[(SELECT t.tgrelid FROM pg_catalog.pg_trigger AS t WHERE t.oid = n.objid)]
        WHEN 'pg_catalog.pg_policy'::pg_catalog.regclass
            THEN ARRAY[(SELECT y.polrelid FROM pg_catalog.pg_policy AS y WHERE y.oid = n.objid)]
        WHEN 'pg_catalog.pg_rewrite'::pg_catalog.regclass
            THEN ARRAY[(SELECT w.ev_class FROM pg_catalog.pg_rewrite AS w WHERE w.oid = n.objid)]
        WHEN 'pg_catalog.pg_statistic_ext'::pg_catalog.regclass
            THEN ARRAY[(SELECT x.stxrelid FROM pg_catalog.pg_statistic_ext AS x WHERE x.oid = n.objid)]
        WHEN 'pg_catalog.pg_publication_rel'::pg_catalog.regclass
            THEN ARRAY[(SELECT r.prrelid FROM pg_catalog.pg_publication_rel AS r WHERE r.oid = n.objid)]
        ELSE ARRAY[0::oid] END) AS relation
    FROM named AS n
)
SELECT l.word,
       pg_catalog.pg_describe_object(l.classid, l.objid, l.objsubid) AS says,
       l.hinders,
       c.oid::bigint AS relation,
       n.nspname::text AS schema,
       c.relname::text AS name,
       CASE WHEN l.classid IN ('pg_catalog.pg_statistic_ext'::pg_catalog.regclass,
                               'pg_catalog.pg_publication_rel'::pg_catalog.regclass)
            THEN 'ShareUpdateExclusiveLock'
            ELSE 'AccessExclusiveLock' END AS mode,
       CASE WHEN l.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND l.objsubid > 0 THEN 'column'
            WHEN l.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND l.objid <> l.relation THEN 'index'
            WHEN l.classid = 'pg_catalog.pg_class'::pg_catalog.regclass THEN 'relation'
            WHEN l.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass THEN 'default'
            WHEN k.conrelid = l.relation THEN 'constraint'
            ELSE '' END AS part,
       coalesce(k.conname, a.attname, x.relname, '')::text AS part_name,
       EXISTS (SELECT
               FROM start AS s
               WHERE (s.word, s.classid, s.objid) = (l.word, l.classid, l.objid)
                 AND s.kind <> 'OWNED') AS is_named
FROM locked AS l
LEFT JOIN pg_catalog.pg_class AS c ON c.oid = l.relation AND c.relkind NOT IN ('c', 't')
LEFT JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
LEFT JOIN pg_catalog.pg_constraint AS k
    ON l.classid = 'pg_catalog.pg_constraint'::pg_catalog.regclass AND k.oid = l.objid
LEFT JOIN pg_catalog.pg_attrdef AS f ON l.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass AND f.oid = l.objid
LEFT JOIN pg_catalog.pg_class AS x
    ON l.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND l.objsubid = 0 AND x.oid = l.objid
LEFT JOIN pg_catalog.pg_attribute AS a
    ON (a.attrelid, a.attnum) = (f.adrelid, f.adnum)
    OR l.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
   AND l.objsubid > 0
   AND (a.attrelid, a.attnum) = (l.objid, l.objsubid)
ORDER BY l.word, n.nspname, c.relname, l.objsubid, 2;

-- name: relations
-- a row is: a relation that is named, or that is affected with it: by partitioning, inheritance, foreign keys
-- Each DISTINCT is for the planner only: it takes a recursion for ten times its input, and after a few of them the
-- hash tables of a query without rows take megabytes, and tens of milliseconds.
WITH RECURSIVE worn AS (
    SELECT t.oid,
           t.typarray
    FROM pg_catalog.pg_type AS t
    WHERE t.typname = ANY (%(types)s::text[])
      AND t.typtype <> 'b'
    UNION
    SELECT t.oid,
           t.typarray
    FROM worn
    JOIN pg_catalog.pg_type AS t ON t.typbasetype = worn.oid
), named AS (
    SELECT c.oid
    FROM pg_catalog.json_to_recordset(%(names)s::json) AS t (schema text, name text)
    JOIN pg_catalog.pg_class AS c ON c.relname = t.name
    JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    WHERE n.nspname = t.schema
       OR t.schema IS NULL AND n.nspname = ANY (%(path)s::text[])
    UNION
    SELECT c.oid
    FROM pg_catalog.pg_class AS c
    JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    WHERE n.nspname = ANY (%(schemas)s::text[])
    UNION
    SELECT a.attrelid
    FROM pg_catalog.pg_attribute AS a
    WHERE a.atttypid IN (SELECT worn.oid FROM worn UNION ALL SELECT worn.typarray FROM worn)
      AND NOT a.attisdropped
    UNION
    SELECT r.prrelid
    FROM pg_catalog.pg_publication AS p
    JOIN pg_catalog.pg_publication_rel AS r ON r.prpubid = p.oid
    WHERE p.pubname = ANY (%(publications)s::text[])
    UNION
    SELECT x.stxrelid
    FROM pg_catalog.json_to_recordset(%(names)s::json) AS t (schema text, name text)
    JOIN pg_catalog.pg_statistic_ext AS x ON x.stxname = t.name
    JOIN pg_catalog.pg_namespace AS n ON n.oid = x.stxnamespace
    WHERE n.nspname = t.schema
       OR t.schema IS NULL AND n.nspname = ANY (%(path)s::text[])
    UNION
    SELECT f.oid
    FROM pg_catalog.unnest(%(fallen)s::oid[]) AS f (oid)
), typed AS (
    SELECT oid
    FROM named
    UNION
    SELECT c.oid
    FROM named
    JOIN pg_catalog.pg_type AS t ON t.typrelid = named.oid
    JOIN pg_catalog.pg_class AS c ON c.reloftype = t.oid
), seen AS (
    SELECT DISTINCT oid
    FROM typed
    UNION
    SELECT d.refobjid
    FROM seen
    JOIN pg_catalog.pg_rewrite AS w ON w.ev_class = seen.oid
    JOIN pg_catalog.pg_class AS v ON v.oid = seen.oid AND v.relkind IN ('v', 'm')
    JOIN pg_catalog.pg_depend AS d ON d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass AND d.objid = w.oid
    WHERE d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
), whole AS (
    SELECT DISTINCT coalesce(i.indrelid, seen.oid) AS oid
    FROM seen
    LEFT JOIN pg_catalog.pg_index AS i ON i.indexrelid = seen.oid
), below AS (
    SELECT DISTINCT oid
    FROM whole
    UNION
    SELECT h.inhrelid
    FROM below
    JOIN pg_catalog.pg_inherits AS h ON h.inhparent = below.oid
), family AS (
    SELECT DISTINCT oid
    FROM below
    UNION
    SELECT h.inhparent
    FROM family
    JOIN pg_catalog.pg_inherits AS h ON h.inhrelid = family.oid
), reached AS (
    SELECT DISTINCT oid
    FROM family
    UNION
    SELECT k.conrelid
    FROM reached
    JOIN pg_catalog.pg_constraint AS k ON k.confrelid = reached.oid AND k.contype = 'f'
    WHERE k.confdeltype = ANY (%(cascades)s::"char"[])
), touched AS (
    SELECT DISTINCT oid
    FROM reached
    UNION
    SELECT k.confrelid
    FROM family
    JOIN pg_catalog.pg_constraint AS k ON k.conrelid = family.oid AND k.contype = 'f'
    UNION
    SELECT k.conrelid
    FROM reached
    JOIN pg_catalog.pg_constraint AS k ON k.confrelid = reached.oid AND k.contype = 'f'
    UNION
    -- With a partition goes a foreign key to the whole table, which is one to each other partition as well.
    SELECT part.confrelid
    FROM family
    JOIN pg_catalog.pg_constraint AS k ON k.confrelid = family.oid AND k.contype = 'f'
    JOIN pg_catalog.pg_constraint AS part ON part.conrelid = k.conrelid AND part.contype = 'f' AND part.conparentid <> 0
    UNION
    -- The default partition is locked when another one comes or goes.
    SELECT p.partdefid
    FROM family
    JOIN pg_catalog.pg_partitioned_table AS p ON p.partrelid = family.oid
)
SELECT c.oid::bigint AS oid,
       n.nspname::text AS schema,
       c.relname::text AS name,
       c.relkind::text AS kind,
       c.relpersistence::text AS persistence,
       c.reltuples::float8 AS reltuples,
       c.relpages AS pages,
       CASE WHEN c.relkind IN ('r', 'm') AND %(sized)s THEN pg_catalog.pg_relation_size(c.oid) ELSE 0 END AS heap_bytes,
       CASE WHEN c.relkind IN ('r', 'm') AND %(sized)s THEN pg_catalog.pg_table_size(c.oid) ELSE 0 END AS table_bytes,
       pg_catalog.pg_get_userbyid(c.relowner)::text AS owner,
       c.relrowsecurity AS row_security,
       c.relforcerowsecurity AS forces_row_security,
       c.relispartition AS is_partition,
       c.relispopulated AS is_populated,
       c.relhassubclass AS has_children,
       c.relhasrules AS has_rules,
       pg_catalog.pg_has_role(c.relowner, 'USAGE') AS is_own,
       (SELECT m.amname::text FROM pg_catalog.pg_am AS m WHERE m.oid = c.relam) AS method,
       (SELECT x.spcname::text
        FROM pg_catalog.pg_database AS b
        JOIN pg_catalog.pg_tablespace AS x ON x.oid IN (c.reltablespace, b.dattablespace)
        WHERE b.datname = pg_catalog.current_database()
        ORDER BY x.oid = c.reltablespace DESC
        LIMIT 1) AS tablespace,
       CASE WHEN c.relkind IN ('v', 'm') THEN pg_catalog.pg_get_viewdef(c.oid) ELSE '' END AS query,
       (SELECT pg_catalog.quote_ident(tn.nspname) || '.' || pg_catalog.quote_ident(t.typname)
        FROM pg_catalog.pg_type AS t
        JOIN pg_catalog.pg_namespace AS tn ON tn.oid = t.typnamespace
        WHERE t.oid = c.reloftype) AS of_type,
       ARRAY(SELECT h.inhparent::bigint FROM pg_catalog.pg_inherits AS h WHERE h.inhrelid = c.oid) AS parents,
       ARRAY(SELECT h.inhrelid::bigint FROM pg_catalog.pg_inherits AS h WHERE h.inhparent = c.oid) AS children,
       pg_catalog.pg_get_expr(c.relpartbound, 0) AS bound,
       CASE WHEN c.relkind = 'p' THEN pg_catalog.pg_get_partkeydef(c.oid) ELSE '' END AS partition_key,
       s.live_rows_estimate,
       coalesce(s.seq_scans, 0) + coalesce(s.index_scans, 0) AS scans,
       coalesce(s.writes, 0) AS writes,
       s.vacuumed_at
FROM touched
JOIN pg_catalog.pg_class AS c ON c.oid = touched.oid
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
-- What pg_stat_user_tables tells, which looks at every table each time.
LEFT JOIN LATERAL (
    SELECT pg_catalog.pg_stat_get_live_tuples(c.oid) AS live_rows_estimate,
           pg_catalog.pg_stat_get_numscans(c.oid) AS seq_scans,
           (SELECT pg_catalog.sum(pg_catalog.pg_stat_get_numscans(i.indexrelid))::bigint
            FROM pg_catalog.pg_index AS i
            WHERE i.indrelid = c.oid) AS index_scans,
           pg_catalog.pg_stat_get_tuples_inserted(c.oid)
           + pg_catalog.pg_stat_get_tuples_updated(c.oid)
           + pg_catalog.pg_stat_get_tuples_deleted(c.oid) AS writes,
           greatest(pg_catalog.pg_stat_get_last_vacuum_time(c.oid),
                    pg_catalog.pg_stat_get_last_autovacuum_time(c.oid)) AS vacuumed_at
    WHERE c.relkind IN ('r', 'm', 'p')
) AS s ON true
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
  AND n.nspname !~ '^pg_'
  AND n.nspname <> 'information_schema';

-- name: dependents
-- a row is: something that depends on a touched relation, or on one of its columns; views also through views
WITH RECURSIVE seen AS (
    SELECT r.oid AS root,
           NULL::smallint AS attnum,
           r.oid AS relation
    FROM pg_catalog.unnest(%(oids)s::oid[]) AS r (oid)
    UNION
    SELECT seen.root,
           coalesce(seen.attnum, nullif(d.refobjsubid, 0)::smallint),
           w.ev_class
    FROM seen
    JOIN pg_catalog.pg_depend AS d ON d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid = seen.relation
    JOIN pg_catalog.pg_rewrite AS w ON w.oid = d.objid AND w.ev_class <> seen.relation
    WHERE d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass
), direct AS (
    SELECT r.oid AS root,
           nullif(d.refobjsubid, 0)::smallint AS attnum,
           d.classid,
           d.objid,
           d.objsubid,
           d.deptype
    FROM pg_catalog.unnest(%(oids)s::oid[]) AS r (oid)
    JOIN pg_catalog.pg_depend AS d ON d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid = r.oid
    UNION ALL
    SELECT c.oid,
           NULL,
           d.classid,
           d.objid,
           d.objsubid,
           d.deptype
    FROM pg_catalog.pg_class AS c
    JOIN pg_catalog.pg_depend AS d ON d.refclassid = 'pg_catalog.pg_type'::pg_catalog.regclass AND d.refobjid = c.reltype
    WHERE c.oid = ANY (%(oids)s::oid[])
      AND d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass
), found AS (
    SELECT seen.root,
           CASE v.relkind WHEN 'm' THEN 'materialized view' ELSE 'view' END AS kind,
           pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(v.relname) AS name,
           seen.attnum
    FROM seen
    JOIN pg_catalog.pg_class AS v ON v.oid = seen.relation
    JOIN pg_catalog.pg_namespace AS n ON n.oid = v.relnamespace
    WHERE seen.relation <> seen.root
      AND v.relkind IN ('v', 'm')
    UNION
    SELECT direct.root, 'rule', w.rulename::text, direct.attnum
    FROM direct
    JOIN pg_catalog.pg_rewrite AS w ON w.oid = direct.objid AND w.ev_class = direct.root AND w.rulename <> '_RETURN'
    WHERE direct.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass
    UNION
    SELECT direct.root, 'function', p.oid::pg_catalog.regprocedure::text, direct.attnum
    FROM direct
    JOIN pg_catalog.pg_proc AS p ON p.oid = direct.objid
    WHERE direct.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass
    UNION
    SELECT direct.root, 'trigger', t.tgname::text, direct.attnum
    FROM direct
    JOIN pg_catalog.pg_trigger AS t ON t.oid = direct.objid AND t.tgconstrindid = 0
    WHERE direct.classid = 'pg_catalog.pg_trigger'::pg_catalog.regclass
    UNION
    SELECT direct.root, 'policy', y.polname::text, direct.attnum
    FROM direct
    JOIN pg_catalog.pg_policy AS y ON y.oid = direct.objid
    WHERE direct.classid = 'pg_catalog.pg_policy'::pg_catalog.regclass
    UNION
    SELECT direct.root, 'statistics', x.stxname::text, direct.attnum
    FROM direct
    JOIN pg_catalog.pg_statistic_ext AS x ON x.oid = direct.objid
    WHERE direct.classid = 'pg_catalog.pg_statistic_ext'::pg_catalog.regclass
    UNION
    SELECT direct.root, 'publication', b.pubname::text, direct.attnum
    FROM direct
    JOIN pg_catalog.pg_publication_rel AS r ON r.oid = direct.objid
    JOIN pg_catalog.pg_publication AS b ON b.oid = r.prpubid
    WHERE direct.classid = 'pg_catalog.pg_publication_rel'::pg_catalog.regclass
    UNION
    SELECT r.oid, 'publication', b.pubname::text, NULL
    FROM pg_catalog.pg_publication AS b
    CROSS JOIN pg_catalog.unnest(%(oids)s::oid[]) AS r (oid)
    WHERE b.puballtables
    UNION
    SELECT direct.root, 'generated column', a.attname::text, direct.attnum
    FROM direct
    -- What the expression of a generated column needs, PostgreSQL 14 says of the column itself.
    LEFT JOIN pg_catalog.pg_attrdef AS f ON direct.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass AND f.oid = direct.objid
    JOIN pg_catalog.pg_attribute AS a
      ON a.attrelid = coalesce(f.adrelid, direct.objid)
     AND a.attnum = coalesce(f.adnum, direct.objsubid)
     AND a.attgenerated <> ''
    WHERE a.attrelid = direct.root
      AND a.attnum <> direct.attnum
      AND direct.classid IN ('pg_catalog.pg_attrdef'::pg_catalog.regclass, 'pg_catalog.pg_class'::pg_catalog.regclass)
    UNION
    SELECT direct.root,
           'sequence',
           pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(s.relname),
           direct.attnum
    FROM direct
    JOIN pg_catalog.pg_class AS s ON s.oid = direct.objid AND s.relkind = 'S'
    JOIN pg_catalog.pg_namespace AS n ON n.oid = s.relnamespace
    WHERE direct.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
      AND direct.deptype IN ('a', 'i')
    UNION
    SELECT k.conrelid,
           'view by key',
           pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(v.relname),
           NULL
    FROM pg_catalog.pg_constraint AS k
    JOIN pg_catalog.pg_depend AS d ON d.refclassid = 'pg_catalog.pg_constraint'::pg_catalog.regclass AND d.refobjid = k.oid
    JOIN pg_catalog.pg_rewrite AS w ON d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass AND w.oid = d.objid
    JOIN pg_catalog.pg_class AS v ON v.oid = w.ev_class
    JOIN pg_catalog.pg_namespace AS n ON n.oid = v.relnamespace
    WHERE k.conrelid = ANY (%(oids)s::oid[])
)
SELECT found.root::bigint AS oid,
       found.kind,
       found.name,
       coalesce(pg_catalog.array_agg(a.attname::text ORDER BY a.attnum) FILTER (WHERE a.attname IS NOT NULL), '{}') AS columns,
       coalesce((SELECT pg_catalog.format_type(q.seqtypid, NULL)
                 FROM pg_catalog.pg_sequence AS q
                 WHERE found.kind = 'sequence'
                   AND q.seqrelid = found.name::pg_catalog.regclass),
                (SELECT k.conname
                 FROM pg_catalog.pg_constraint AS k
                 WHERE found.kind = 'view by key'
                   AND k.conrelid = found.root
                   AND k.contype = 'p'),
                '') AS type
FROM found
LEFT JOIN pg_catalog.pg_attribute AS a ON a.attrelid = found.root AND a.attnum = found.attnum
GROUP BY found.root, found.kind, found.name
ORDER BY found.root, found.kind, found.name COLLATE "C";

-- name: binary_casts
-- a row is: a pair of types between which PostgreSQL needs no conversion
SELECT sn.nspname || '.' || s.typname AS source,
       tn.nspname || '.' || t.typname AS target
FROM pg_catalog.pg_cast AS c
JOIN pg_catalog.pg_type AS s ON s.oid = c.castsource
JOIN pg_catalog.pg_namespace AS sn ON sn.oid = s.typnamespace
JOIN pg_catalog.pg_type AS t ON t.oid = c.casttarget
JOIN pg_catalog.pg_namespace AS tn ON tn.oid = t.typnamespace
WHERE c.castmethod = 'b';

-- name: orders
-- a row is: a type without an operator class of its own, and one whose it may use, the server's choice last
SELECT sn.nspname || '.' || s.typname AS type,
       tn.nspname || '.' || t.typname AS ordered_as
FROM pg_catalog.pg_cast AS c
JOIN pg_catalog.pg_type AS s ON s.oid = c.castsource
JOIN pg_catalog.pg_namespace AS sn ON sn.oid = s.typnamespace
JOIN pg_catalog.pg_type AS t ON t.oid = c.casttarget
JOIN pg_catalog.pg_namespace AS tn ON tn.oid = t.typnamespace
JOIN pg_catalog.pg_opclass AS o ON o.opcintype = t.oid AND o.opcdefault
JOIN pg_catalog.pg_am AS m ON m.oid = o.opcmethod AND m.amname = 'btree'
WHERE c.castmethod = 'b'
  AND c.castcontext = 'i'
  AND NOT EXISTS (SELECT
                  FROM pg_catalog.pg_opclass AS own
                  WHERE own.opcintype = s.oid
                    AND own.opcdefault
                    AND own.opcmethod = m.oid)
ORDER BY t.typispreferred;

-- name: statement_statistics
-- a row is: the schema in which pg_stat_statements is installed
SELECT n.nspname::text AS schema
FROM pg_catalog.pg_extension AS e
JOIN pg_catalog.pg_namespace AS n ON n.oid = e.extnamespace
WHERE e.extname = 'pg_stat_statements';

-- name: schemas
-- a row is: a schema
SELECT n.nspname::text AS schema
FROM pg_catalog.pg_namespace AS n
ORDER BY n.nspname;
