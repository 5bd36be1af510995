-- name: scope
-- a row is: the schemas to read, and the relations in them that are left out (extensions', or by name)
WITH named AS (
    SELECT c.oid
    FROM pg_catalog.pg_class AS c
    JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.relname = ANY (%(last_parts)s::text[])
      AND (n.nspname || '.' || c.relname = ANY (%(leave_out)s::text[])
           OR pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname) = ANY (%(leave_out)s::text[]))
)
SELECT ARRAY(SELECT n.oid
             FROM pg_catalog.pg_namespace AS n
             WHERE n.nspname !~ '^pg_'
               AND n.nspname <> 'information_schema'
               AND n.nspname <> ALL (%(leave_out)s::text[]))::text AS schemas,
       ARRAY(SELECT oid
             FROM named
             UNION ALL
             SELECT i.indexrelid
             FROM named
             JOIN pg_catalog.pg_index AS i ON i.indrelid = named.oid
             UNION ALL
             SELECT d.objid
             FROM named
             JOIN pg_catalog.pg_depend AS d ON d.refobjid = named.oid
             WHERE d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
               AND d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
               AND d.deptype IN ('a', 'i')
             UNION ALL
             SELECT d.objid
             FROM pg_catalog.pg_depend AS d
             WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
               AND d.deptype = 'e')::text AS left_out;

-- name: schemas
-- a row is: a schema; the owner that initdb gives to public counts as none
SELECT 'schema' AS kind,
       pg_catalog.quote_ident(n.nspname) AS name,
       CASE WHEN n.nspname <> 'public' OR pg_catalog.pg_get_userbyid(n.nspowner) <> 'pg_database_owner' AND n.nspowner <> 10
            THEN pg_catalog.pg_get_userbyid(n.nspowner)::text END AS owner,
       '' AS definition
FROM pg_catalog.pg_namespace AS n
WHERE n.oid = ANY (%(schemas)s::oid[])
  AND NOT EXISTS (SELECT
                  FROM pg_catalog.pg_depend AS e
                  WHERE e.classid = 'pg_catalog.pg_namespace'::pg_catalog.regclass
                    AND e.objid = n.oid
                    AND e.deptype = 'e');

-- name: relations
-- a row is: a table, foreign table, view or materialized view
SELECT CASE c.relkind WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view' WHEN 'f' THEN 'foreign table' ELSE 'table' END AS kind,
       pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname) AS name,
       pg_catalog.pg_get_userbyid(c.relowner)::text AS owner,
       c.relpersistence = 'u' AS unlogged,
       (SELECT am.amname::text FROM pg_catalog.pg_am AS am WHERE am.oid = c.relam AND c.relam <> 2) AS access_method,
       (SELECT s.spcname::text FROM pg_catalog.pg_tablespace AS s WHERE s.oid = c.reltablespace AND c.reltablespace <> 0) AS tablespace,
       CASE WHEN c.reloftype <> 0 THEN pg_catalog.format_type(c.reloftype, NULL) END AS of_type,
       p.names AS parents,
       pg_catalog.pg_get_expr(c.relpartbound, c.oid) AS partition_bound,
       CASE c.relkind WHEN 'p' THEN pg_catalog.pg_get_partkeydef(c.oid) END AS partition_key,
       (SELECT pg_catalog.string_agg(o, ', ' ORDER BY o COLLATE "C") FROM pg_catalog.unnest(c.reloptions) AS o WHERE c.reloptions IS NOT NULL) AS options,
       (SELECT pg_catalog.string_agg('toast.' || o, ', ' ORDER BY o COLLATE "C") FROM pg_catalog.unnest(toast.reloptions) AS o WHERE toast.reloptions IS NOT NULL) AS toast_options,
       CASE c.relreplident
            WHEN 'n' THEN 'NOTHING'
            WHEN 'f' THEN 'FULL'
            WHEN 'i' THEN 'USING INDEX ' || coalesce((SELECT pg_catalog.quote_ident(ic.relname)
                                                      FROM pg_catalog.pg_index AS i
                                                      JOIN pg_catalog.pg_class AS ic ON ic.oid = i.indexrelid
                                                      WHERE i.indrelid = c.oid
                                                        AND i.indisreplident), 'that was dropped') END AS replica_identity,
       CASE WHEN c.relrowsecurity OR c.relforcerowsecurity
            THEN pg_catalog.concat_ws(', ', CASE WHEN c.relrowsecurity THEN 'ENABLE' END, CASE WHEN c.relforcerowsecurity THEN 'FORCE' END) END AS row_security,
       CASE WHEN c.relkind = 'f'
            THEN pg_catalog.concat_ws(' ', pg_catalog.quote_ident(s.srvname), 'OPTIONS (' || (SELECT pg_catalog.string_agg(pg_catalog.quote_ident(o.option_name) || ' ' || pg_catalog.quote_literal(o.option_value), ', ')
                                                                                              FROM pg_catalog.pg_options_to_table(f.ftoptions) AS o) || ')') END AS server,
       CASE WHEN c.relkind IN ('v', 'm') THEN pg_catalog.rtrim(pg_catalog.pg_get_viewdef(c.oid), ';') END AS query,
       c.relkind = 'm' AND NOT c.relispopulated AS unpopulated
FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
LEFT JOIN pg_catalog.pg_class AS toast ON toast.oid = c.reltoastrelid
LEFT JOIN (SELECT i.inhrelid,
                  pg_catalog.string_agg(i.inhparent::pg_catalog.regclass::text || CASE WHEN i.inhdetachpending THEN ' DETACH PENDING' ELSE '' END,
                                        ', ' ORDER BY i.inhseqno) AS names
           FROM pg_catalog.pg_inherits AS i
           GROUP BY i.inhrelid) AS p ON p.inhrelid = c.oid
LEFT JOIN pg_catalog.pg_foreign_table AS f ON f.ftrelid = c.oid
LEFT JOIN pg_catalog.pg_foreign_server AS s ON s.oid = f.ftserver
WHERE c.relkind IN ('r', 'p', 'f', 'v', 'm')
  AND c.relnamespace = ANY (%(schemas)s::oid[])
  AND c.oid <> ALL (%(left_out)s::oid[]);

-- name: columns
-- a row is: a column of a table, or one of a view that has properties of its own
WITH relation AS MATERIALIZED (
    SELECT c.oid,
           c.relkind,
           c.relname,
           pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname) AS name,
           g.dropped
    FROM pg_catalog.pg_class AS c
    JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    LEFT JOIN (SELECT a.attrelid,
                      pg_catalog.array_agg(a.attnum) AS dropped
               FROM pg_catalog.pg_attribute AS a
               WHERE a.attisdropped
               GROUP BY a.attrelid) AS g ON g.attrelid = c.oid
    WHERE c.relkind IN ('r', 'p', 'f', 'v', 'm')
      AND c.relnamespace = ANY (%(schemas)s::oid[])
      AND c.oid <> ALL (%(left_out)s::oid[])
)
SELECT r.name AS relation,
       a.attname::text AS column_name,
       -- Without the gaps that dropped columns leave; few tables have any, and a window over all takes 4 ms more.
       CASE WHEN r.dropped IS NULL THEN a.attnum
            ELSE a.attnum - (SELECT pg_catalog.count(*) FROM pg_catalog.unnest(r.dropped) AS d WHERE d < a.attnum) END::integer AS position,
       pg_catalog.format_type(a.atttypid, a.atttypmod) AS type,
       CASE WHEN a.attcollation <> t.typcollation THEN a.attcollation::pg_catalog.regcollation::text END AS collation,
       a.attnotnull AS not_null,
       -- From PostgreSQL 18 on a NOT NULL is a constraint too; it is read where it has more properties than that.
       -- A partition's has its parent's name when made as a partition, its own when attached: neither is read.
       CASE WHEN k.oid IS NOT NULL
            THEN nullif(pg_catalog.concat_ws(' ',
                                             CASE WHEN k.conname <> r.relname || '_' || a.attname || '_not_null'
                                                       AND NOT (k.coninhcount > 0
                                                                AND EXISTS (SELECT
                                                                            FROM pg_catalog.pg_inherits AS h
                                                                            JOIN pg_catalog.pg_constraint AS p ON p.conrelid = h.inhparent
                                                                            WHERE h.inhrelid = k.conrelid
                                                                              AND p.contype = 'n'
                                                                              AND p.conname = k.conname))
                                                  THEN 'CONSTRAINT ' || pg_catalog.quote_ident(k.conname) END,
                                             CASE WHEN k.connoinherit THEN 'NO INHERIT' END,
                                             CASE WHEN NOT k.convalidated THEN 'NOT VALID' END,
                                             CASE WHEN k.conislocal AND k.coninhcount > 0 THEN 'LOCAL' END), '') END AS not_null_detail,
       -- A default names no column, and without a relation pg_get_expr is spared opening it: half the time.
       pg_catalog.pg_get_expr(d.adbin, CASE a.attgenerated WHEN '' THEN 0 ELSE d.adrelid END) AS expression,
       CASE a.attgenerated WHEN 's' THEN 'STORED' WHEN 'v' THEN 'VIRTUAL' END AS generated,
       CASE a.attidentity WHEN 'a' THEN 'ALWAYS' WHEN 'd' THEN 'BY DEFAULT' END AS identity,
       CASE WHEN a.attstorage <> t.typstorage
            THEN CASE a.attstorage WHEN 'p' THEN 'PLAIN' WHEN 'e' THEN 'EXTERNAL' WHEN 'm' THEN 'MAIN' ELSE 'EXTENDED' END END AS storage,
       CASE a.attcompression WHEN 'p' THEN 'pglz' WHEN 'l' THEN 'lz4' END AS compression,
       CASE WHEN a.attstattarget >= 0 THEN a.attstattarget::integer END AS statistics,
       nullif(pg_catalog.concat_ws(', ',
                                   pg_catalog.array_to_string(a.attoptions, ', '),
                                   (SELECT pg_catalog.string_agg(pg_catalog.quote_ident(o.option_name) || ' ' || pg_catalog.quote_literal(o.option_value), ', ')
                                    FROM pg_catalog.pg_options_to_table(a.attfdwoptions) AS o)),
              '') AS options,
       CASE WHEN a.attinhcount > 0 THEN CASE WHEN a.attislocal THEN 'INHERITED AND LOCAL' ELSE 'INHERITED' END END AS inherited
FROM relation AS r
JOIN pg_catalog.pg_attribute AS a ON a.attrelid = r.oid
JOIN pg_catalog.pg_type AS t ON t.oid = a.atttypid
LEFT JOIN pg_catalog.pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
LEFT JOIN pg_catalog.pg_constraint AS k ON k.conrelid = a.attrelid AND k.conkey[1] = a.attnum AND k.contype = 'n'
WHERE a.attnum > 0
  AND NOT a.attisdropped
  AND (r.relkind IN ('r', 'p', 'f') OR a.atthasdef OR a.attstattarget >= 0 OR a.attoptions IS NOT NULL
       OR r.relkind = 'm' AND (a.attstorage <> t.typstorage OR a.attcompression <> ''));

-- name: constraints
-- a row is: a constraint of a table or a domain; NOT NULL belongs to its column
SELECT pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(coalesce(c.relname, t.typname)) AS relation,
       k.conname::text AS constraint_name,
       CASE k.contype WHEN 'p' THEN 'PRIMARY KEY' WHEN 'u' THEN 'UNIQUE' WHEN 'f' THEN 'FOREIGN KEY' WHEN 'x' THEN 'EXCLUDE' ELSE 'CHECK' END AS type,
       pg_catalog.pg_get_constraintdef(k.oid) AS definition,
       k.convalidated AS valid,
       CASE WHEN k.coninhcount > 0 THEN CASE WHEN k.conislocal THEN 'INHERITED AND LOCAL' ELSE 'INHERITED' END END AS inherited
FROM pg_catalog.pg_constraint AS k
LEFT JOIN pg_catalog.pg_class AS c ON c.oid = k.conrelid
LEFT JOIN pg_catalog.pg_type AS t ON t.oid = k.contypid
JOIN pg_catalog.pg_namespace AS n ON n.oid = coalesce(c.relnamespace, t.typnamespace)
WHERE k.contype IN ('c', 'f', 'p', 'u', 'x')
  -- Copies that PostgreSQL makes for partitions, under names that depend on the order of creation.
  AND (k.contype <> 'f' OR k.conparentid = 0)
  AND n.oid = ANY (%(schemas)s::oid[])
  AND k.conrelid <> ALL (%(left_out)s::oid[])
  AND (k.contypid = 0
       OR NOT EXISTS (SELECT
                      FROM pg_catalog.pg_depend AS e
                      WHERE e.classid = 'pg_catalog.pg_type'::pg_catalog.regclass
                        AND e.objid = k.contypid
                        AND e.deptype = 'e'));

-- name: indexes
-- a row is: an index; the definition of one that belongs to a constraint is the constraint's
-- pg_get_indexdef takes 30 us for each index, most of it to read what a join reads at once.
-- So plain btree indexes on columns, which most are, are put together here, in exactly its words.
WITH part AS MATERIALIZED (
    SELECT i.indexrelid,
           i.indrelid,
           g.place,
           i.indkey[g.place] AS attnum,
           i.indclass[g.place] AS opclass,
           i.indcollation[g.place] AS collated,
           i.indoption[g.place] & 3 AS options
    FROM pg_catalog.pg_index AS i
    JOIN pg_catalog.pg_class AS ic ON ic.oid = i.indexrelid
    CROSS JOIN LATERAL pg_catalog.generate_series(0, i.indnkeyatts - 1) AS g (place)
    WHERE ic.relnamespace = ANY (%(schemas)s::oid[])
      AND ic.relkind = 'i'
      AND ic.relam = 403
      AND ic.reloptions IS NULL
      AND NOT i.indisunique
      AND i.indnatts = i.indnkeyatts
      AND i.indexprs IS NULL
      AND i.indpred IS NULL
), plain AS (
    SELECT p.indexrelid,
           pg_catalog.string_agg(pg_catalog.quote_ident(a.attname)
                                 || CASE p.options WHEN 1 THEN ' DESC NULLS LAST' WHEN 2 THEN ' NULLS FIRST' WHEN 3 THEN ' DESC' ELSE '' END,
                                 ', ' ORDER BY p.place) AS columns
    FROM part AS p
    JOIN pg_catalog.pg_attribute AS a ON a.attrelid = p.indrelid AND a.attnum = p.attnum
    JOIN pg_catalog.pg_opclass AS q ON q.oid = p.opclass
    GROUP BY p.indexrelid
    HAVING pg_catalog.bool_and(q.opcdefault
                               AND (q.opcintype = a.atttypid OR q.opcintype = 'text'::pg_catalog.regtype AND a.atttypid = 'varchar'::pg_catalog.regtype)
                               AND p.collated = a.attcollation)
)
SELECT pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname) AS relation,
       ic.relname::text AS index_name,
       CASE WHEN k.oid IS NULL
            THEN coalesce('CREATE INDEX ' || pg_catalog.quote_ident(ic.relname) || ' ON ' || pg_catalog.quote_ident(n.nspname) || '.'
                          || pg_catalog.quote_ident(c.relname) || ' USING btree (' || plain.columns || ')',
                          pg_catalog.pg_get_indexdef(i.indexrelid)) END AS definition,
       k.conname::text AS constraint,
       i.indisvalid AND i.indisready AND i.indislive AS valid,
       i.indisclustered AS clustered,
       p.inhparent::pg_catalog.regclass::text AS parent,
       (SELECT s.spcname::text FROM pg_catalog.pg_tablespace AS s WHERE s.oid = ic.reltablespace AND ic.reltablespace <> 0) AS tablespace,
       CASE WHEN k.oid IS NOT NULL THEN pg_catalog.array_to_string(ic.reloptions, ', ') END AS options,
       CASE WHEN i.indexprs IS NOT NULL
            THEN (SELECT pg_catalog.string_agg(a.attnum || ' SET STATISTICS ' || a.attstattarget, ', ' ORDER BY a.attnum)
                  FROM pg_catalog.pg_attribute AS a
                  WHERE a.attrelid = i.indexrelid
                    AND a.attstattarget >= 0) END AS statistics
FROM pg_catalog.pg_index AS i
JOIN pg_catalog.pg_class AS ic ON ic.oid = i.indexrelid
JOIN pg_catalog.pg_class AS c ON c.oid = i.indrelid
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
LEFT JOIN plain ON plain.indexrelid = i.indexrelid
LEFT JOIN pg_catalog.pg_inherits AS p ON p.inhrelid = i.indexrelid
LEFT JOIN pg_catalog.pg_constraint AS k ON k.conindid = i.indexrelid AND k.conrelid = i.indrelid AND k.contype IN ('p', 'u', 'x')
WHERE c.relnamespace = ANY (%(schemas)s::oid[])
  AND c.oid <> ALL (%(left_out)s::oid[]);

-- name: sequences
-- a row is: a sequence with its options, and the column that owns it
SELECT pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname) AS name,
       pg_catalog.pg_get_userbyid(c.relowner)::text AS owner,
       c.relpersistence = 'u' AS unlogged,
       pg_catalog.format_type(s.seqtypid, NULL) AS type,
       s.seqstart AS start,
       s.seqincrement AS increment,
       s.seqmin AS minimum,
       s.seqmax AS maximum,
       s.seqcache AS cache,
       s.seqcycle AS cycle,
       d.refobjid::pg_catalog.regclass::text || '.' || pg_catalog.quote_ident(a.attname) AS owned_by,
       d.deptype IS NOT DISTINCT FROM 'i' AS of_identity
FROM pg_catalog.pg_sequence AS s
JOIN pg_catalog.pg_class AS c ON c.oid = s.seqrelid
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
LEFT JOIN pg_catalog.pg_depend AS d
       ON d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
      AND d.objid = c.oid
      AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
      AND d.refobjsubid > 0
      AND d.deptype IN ('a', 'i')
LEFT JOIN pg_catalog.pg_attribute AS a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
WHERE c.relnamespace = ANY (%(schemas)s::oid[])
  AND c.oid <> ALL (%(left_out)s::oid[]);

-- name: triggers
-- a row is: a trigger of a table or view, without the internal ones of constraints
SELECT g.tgrelid::pg_catalog.regclass::text AS relation,
       g.tgname::text AS trigger_name,
       pg_catalog.pg_get_triggerdef(g.oid) AS definition,
       CASE g.tgenabled WHEN 'O' THEN 'ENABLE' WHEN 'D' THEN 'DISABLE' WHEN 'R' THEN 'ENABLE REPLICA' ELSE 'ENABLE ALWAYS' END AS enabled
FROM pg_catalog.pg_trigger AS g
JOIN pg_catalog.pg_class AS c ON c.oid = g.tgrelid
-- Those of constraints have an index. PostgreSQL 14 calls internal also what partitions get from a partitioned table.
WHERE g.tgconstrindid = 0
  -- Those of ours note what becomes of rows; they go, and are no part of the application's schema.
  AND (SELECT p.pronamespace FROM pg_catalog.pg_proc AS p WHERE p.oid = g.tgfoid)
      IS DISTINCT FROM pg_catalog.to_regnamespace('pgrunbook')::oid
  AND c.relnamespace = ANY (%(schemas)s::oid[])
  AND c.oid <> ALL (%(left_out)s::oid[]);

-- name: on_relations
-- a row is: a rule, policy or extended statistics of a relation
SELECT 'rule' AS kind,
       w.ev_class::pg_catalog.regclass::text || '.' || pg_catalog.quote_ident(w.rulename) AS name,
       NULL::text AS owner,
       pg_catalog.pg_get_ruledef(w.oid)
       || CASE w.ev_enabled WHEN 'O' THEN '' WHEN 'D' THEN ' DISABLE' WHEN 'R' THEN ' ENABLE REPLICA' ELSE ' ENABLE ALWAYS' END AS definition
FROM pg_catalog.pg_rewrite AS w
JOIN pg_catalog.pg_class AS c ON c.oid = w.ev_class
WHERE (w.rulename <> '_RETURN' OR c.relkind NOT IN ('v', 'm'))
  AND c.relnamespace = ANY (%(schemas)s::oid[])
  AND c.oid <> ALL (%(left_out)s::oid[])
UNION ALL
SELECT 'policy',
       o.polrelid::pg_catalog.regclass::text || '.' || pg_catalog.quote_ident(o.polname),
       NULL,
       pg_catalog.concat_ws(' ',
                            'AS ' || CASE WHEN o.polpermissive THEN 'PERMISSIVE' ELSE 'RESTRICTIVE' END,
                            'FOR ' || CASE o.polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE' WHEN 'd' THEN 'DELETE' ELSE 'ALL' END,
                            'TO ' || (SELECT pg_catalog.string_agg(CASE r WHEN 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(r)) END,
                                                                   ', ' ORDER BY pg_catalog.pg_get_userbyid(r) COLLATE "C")
                                      FROM pg_catalog.unnest(o.polroles) AS r),
                            'USING (' || pg_catalog.pg_get_expr(o.polqual, o.polrelid) || ')',
                            'WITH CHECK (' || pg_catalog.pg_get_expr(o.polwithcheck, o.polrelid) || ')')
FROM pg_catalog.pg_policy AS o
JOIN pg_catalog.pg_class AS c ON c.oid = o.polrelid
WHERE c.relnamespace = ANY (%(schemas)s::oid[])
  AND c.oid <> ALL (%(left_out)s::oid[])
UNION ALL
SELECT 'statistics',
       pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(x.stxname),
       pg_catalog.pg_get_userbyid(x.stxowner),
       pg_catalog.pg_get_statisticsobjdef(x.oid) || CASE WHEN x.stxstattarget >= 0 THEN ' SET STATISTICS ' || x.stxstattarget ELSE '' END
FROM pg_catalog.pg_statistic_ext AS x
JOIN pg_catalog.pg_namespace AS n ON n.oid = x.stxnamespace
WHERE n.oid = ANY (%(schemas)s::oid[])
  AND x.stxrelid <> ALL (%(left_out)s::oid[]);

-- name: functions
-- a row is: a function, procedure, window function or aggregate, named with the types of its arguments
SELECT CASE p.prokind WHEN 'p' THEN 'procedure' WHEN 'a' THEN 'aggregate' ELSE 'function' END AS kind,
       pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(p.proname) || '(' || pg_catalog.oidvectortypes(p.proargtypes) || ')' AS name,
       pg_catalog.pg_get_userbyid(p.proowner)::text AS owner,
       CASE WHEN p.prokind <> 'a' THEN pg_catalog.pg_get_functiondef(p.oid)
            ELSE pg_catalog.concat_ws(', ',
                                      'ARGUMENTS = (' || pg_catalog.pg_get_function_arguments(p.oid) || ')',
                                      'KIND = ' || g.aggkind::text,
                                      'SFUNC = ' || g.aggtransfn::text,
                                      'STYPE = ' || pg_catalog.format_type(g.aggtranstype, NULL),
                                      'SSPACE = ' || nullif(g.aggtransspace, 0),
                                      'FINALFUNC = ' || nullif(g.aggfinalfn::oid, 0)::pg_catalog.regproc::text || ' ' || g.aggfinalmodify::text,
                                      CASE WHEN g.aggfinalextra THEN 'FINALFUNC_EXTRA' END,
                                      'COMBINEFUNC = ' || nullif(g.aggcombinefn::oid, 0)::pg_catalog.regproc::text,
                                      'SERIALFUNC = ' || nullif(g.aggserialfn::oid, 0)::pg_catalog.regproc::text,
                                      'DESERIALFUNC = ' || nullif(g.aggdeserialfn::oid, 0)::pg_catalog.regproc::text,
                                      'INITCOND = ' || pg_catalog.quote_literal(g.agginitval),
                                      'MSFUNC = ' || nullif(g.aggmtransfn::oid, 0)::pg_catalog.regproc::text,
                                      'MINVFUNC = ' || nullif(g.aggminvtransfn::oid, 0)::pg_catalog.regproc::text,
                                      'MSTYPE = ' || pg_catalog.format_type(nullif(g.aggmtranstype, 0), NULL),
                                      'MSSPACE = ' || nullif(g.aggmtransspace, 0),
                                      'MFINALFUNC = ' || nullif(g.aggmfinalfn::oid, 0)::pg_catalog.regproc::text || ' ' || g.aggmfinalmodify::text,
                                      CASE WHEN g.aggmfinalextra THEN 'MFINALFUNC_EXTRA' END,
                                      'MINITCOND = ' || pg_catalog.quote_literal(g.aggminitval),
                                      'SORTOP = ' || nullif(g.aggsortop, 0)::pg_catalog.regoperator::text,
                                      'PARALLEL = ' || p.proparallel::text) END AS definition
FROM pg_catalog.pg_proc AS p
JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace
LEFT JOIN pg_catalog.pg_aggregate AS g ON g.aggfnoid = p.oid
WHERE n.oid = ANY (%(schemas)s::oid[])
  AND NOT EXISTS (SELECT
                  FROM pg_catalog.pg_depend AS e
                  WHERE e.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass
                    AND e.objid = p.oid
                    AND e.deptype = 'e');

-- name: types
-- a row is: an enum, composite, range, base type or domain
SELECT CASE t.typtype WHEN 'd' THEN 'domain' ELSE 'type' END AS kind,
       pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(t.typname) AS name,
       pg_catalog.pg_get_userbyid(t.typowner)::text AS owner,
       CASE t.typtype
            WHEN 'e' THEN 'ENUM (' || coalesce((SELECT pg_catalog.string_agg(pg_catalog.quote_literal(e.enumlabel), ', ' ORDER BY e.enumsortorder)
                                                FROM pg_catalog.pg_enum AS e
                                                WHERE e.enumtypid = t.oid), '') || ')'
            WHEN 'c' THEN '(' || coalesce((SELECT pg_catalog.string_agg(pg_catalog.concat_ws(' ',
                                                                                             pg_catalog.quote_ident(a.attname),
                                                                                             pg_catalog.format_type(a.atttypid, a.atttypmod),
                                                                                             CASE WHEN a.attcollation <> y.typcollation
                                                                                                  THEN 'COLLATE ' || a.attcollation::pg_catalog.regcollation END),
                                                                        ', ' ORDER BY a.attnum)
                                           FROM pg_catalog.pg_attribute AS a
                                           JOIN pg_catalog.pg_type AS y ON y.oid = a.atttypid
                                           WHERE a.attrelid = t.typrelid
                                             AND a.attnum > 0
                                             AND NOT a.attisdropped), '') || ')'
            WHEN 'r' THEN (SELECT pg_catalog.concat_ws(', ',
                                                       'RANGE (SUBTYPE = ' || pg_catalog.format_type(r.rngsubtype, NULL),
                                                       'SUBTYPE_OPCLASS = ' || (SELECT pg_catalog.quote_ident(qn.nspname) || '.' || pg_catalog.quote_ident(q.opcname)
                                                                                FROM pg_catalog.pg_opclass AS q
                                                                                JOIN pg_catalog.pg_namespace AS qn ON qn.oid = q.opcnamespace
                                                                                WHERE q.oid = r.rngsubopc),
                                                       'COLLATION = ' || nullif(r.rngcollation, 0)::pg_catalog.regcollation::text,
                                                       'CANONICAL = ' || nullif(r.rngcanonical::oid, 0)::pg_catalog.regproc::text,
                                                       'SUBTYPE_DIFF = ' || nullif(r.rngsubdiff::oid, 0)::pg_catalog.regproc::text,
                                                       'MULTIRANGE_TYPE_NAME = ' || pg_catalog.format_type(r.rngmultitypid, NULL) || ')')
                           FROM pg_catalog.pg_range AS r
                           WHERE r.rngtypid = t.oid)
            WHEN 'd' THEN pg_catalog.concat_ws(' ',
                                               pg_catalog.format_type(t.typbasetype, t.typtypmod),
                                               CASE WHEN t.typcollation <> b.typcollation THEN 'COLLATE ' || t.typcollation::pg_catalog.regcollation END,
                                               'DEFAULT ' || coalesce(pg_catalog.pg_get_expr(t.typdefaultbin, 0), t.typdefault),
                                               -- From PostgreSQL 17 on a domain's NOT NULL has a name.
                                               (SELECT 'CONSTRAINT ' || pg_catalog.quote_ident(k.conname)
                                                FROM pg_catalog.pg_constraint AS k
                                                WHERE k.contypid = t.oid
                                                  AND k.contype = 'n'
                                                  AND k.conname <> t.typname || '_not_null'),
                                               CASE WHEN t.typnotnull THEN 'NOT NULL' END)
            ELSE CASE WHEN t.typisdefined
                      THEN pg_catalog.concat_ws(', ',
                                                '(INPUT = ' || t.typinput::text,
                                                'OUTPUT = ' || t.typoutput::text,
                                                'RECEIVE = ' || nullif(t.typreceive::oid, 0)::pg_catalog.regproc::text,
                                                'SEND = ' || nullif(t.typsend::oid, 0)::pg_catalog.regproc::text,
                                                'TYPMOD_IN = ' || nullif(t.typmodin::oid, 0)::pg_catalog.regproc::text,
                                                'TYPMOD_OUT = ' || nullif(t.typmodout::oid, 0)::pg_catalog.regproc::text,
                                                'ANALYZE = ' || nullif(t.typanalyze::oid, 0)::pg_catalog.regproc::text,
                                                'INTERNALLENGTH = ' || t.typlen,
                                                CASE WHEN t.typbyval THEN 'PASSEDBYVALUE' END,
                                                'ALIGNMENT = ' || t.typalign::text,
                                                'STORAGE = ' || t.typstorage::text,
                                                'CATEGORY = ' || t.typcategory::text,
                                                CASE WHEN t.typispreferred THEN 'PREFERRED' END,
                                                'DEFAULT = ' || pg_catalog.quote_literal(t.typdefault),
                                                'ELEMENT = ' || pg_catalog.format_type(nullif(t.typelem, 0), NULL),
                                                'DELIMITER = ' || pg_catalog.quote_literal(t.typdelim::text),
                                                CASE WHEN t.typcollation <> 0 THEN 'COLLATABLE' END) || ')'
                      ELSE '(SHELL)' END END AS definition
FROM pg_catalog.pg_type AS t
JOIN pg_catalog.pg_namespace AS n ON n.oid = t.typnamespace
LEFT JOIN pg_catalog.pg_class AS c ON c.oid = t.typrelid AND t.typrelid <> 0
LEFT JOIN pg_catalog.pg_type AS b ON b.oid = t.typbasetype AND t.typbasetype <> 0
WHERE n.oid = ANY (%(schemas)s::oid[])
  AND t.typtype <> 'm'
  AND (c.relkind IS NULL OR c.relkind = 'c')
  AND NOT (t.typelem <> 0 AND t.typlen = -1 AND EXISTS (SELECT FROM pg_catalog.pg_type AS y WHERE y.oid = t.typelem AND y.typarray = t.oid))
  AND NOT EXISTS (SELECT
                  FROM pg_catalog.pg_depend AS e
                  WHERE e.classid = 'pg_catalog.pg_type'::pg_catalog.regclass
                    AND e.objid = t.oid
                    AND e.deptype = 'e');

-- name: rarities
-- a row is: an extension, event trigger, cast, operator, operator class or family, collation, conversion, language, access method, foreign data object or text search object
SELECT pg_catalog.replace(i.type, '-', ' ') AS kind,
       i.identity AS name,
       r.owner,
       r.definition
FROM (
    SELECT 'pg_catalog.pg_extension'::pg_catalog.regclass,
           x.oid,
           NULL::text,
           'VERSION ' || pg_catalog.quote_literal(x.extversion) || ' SCHEMA ' || pg_catalog.quote_ident(n.nspname)
    FROM pg_catalog.pg_extension AS x
    JOIN pg_catalog.pg_namespace AS n ON n.oid = x.extnamespace
    WHERE x.oid >= 16384
    UNION ALL
    SELECT 'pg_catalog.pg_event_trigger'::pg_catalog.regclass,
           x.oid,
           pg_catalog.pg_get_userbyid(x.evtowner),
           pg_catalog.concat_ws(' ',
                                'ON ' || x.evtevent,
                                'WHEN TAG IN (' || pg_catalog.array_to_string(x.evttags, ', ') || ')',
                                'EXECUTE FUNCTION ' || x.evtfoid::pg_catalog.regprocedure,
                                CASE x.evtenabled WHEN 'O' THEN NULL WHEN 'D' THEN 'DISABLE' WHEN 'R' THEN 'ENABLE REPLICA' ELSE 'ENABLE ALWAYS' END)
    FROM pg_catalog.pg_event_trigger AS x
    UNION ALL
    SELECT 'pg_catalog.pg_cast'::pg_catalog.regclass,
           x.oid,
           NULL,
           pg_catalog.concat_ws(' ',
                                CASE x.castmethod WHEN 'f' THEN 'WITH FUNCTION ' || x.castfunc::pg_catalog.regprocedure WHEN 'i' THEN 'WITH INOUT' ELSE 'WITHOUT FUNCTION' END,
                                CASE x.castcontext WHEN 'a' THEN 'AS ASSIGNMENT' WHEN 'i' THEN 'AS IMPLICIT' END)
    FROM pg_catalog.pg_cast AS x
    WHERE x.oid >= 16384
    UNION ALL
    SELECT 'pg_catalog.pg_operator'::pg_catalog.regclass,
           x.oid,
           pg_catalog.pg_get_userbyid(x.oprowner),
           pg_catalog.concat_ws(' ',
                                'FUNCTION ' || x.oprcode::text,
                                'COMMUTATOR ' || nullif(x.oprcom, 0)::pg_catalog.regoperator::text,
                                'NEGATOR ' || nullif(x.oprnegate, 0)::pg_catalog.regoperator::text,
                                'RESTRICT ' || nullif(x.oprrest::oid, 0)::pg_catalog.regproc::text,
                                'JOIN ' || nullif(x.oprjoin::oid, 0)::pg_catalog.regproc::text,
                                CASE WHEN x.oprcanhash THEN 'HASHES' END,
                                CASE WHEN x.oprcanmerge THEN 'MERGES' END)
    FROM pg_catalog.pg_operator AS x
    WHERE x.oprnamespace = ANY (%(schemas)s::oid[])
    UNION ALL
    SELECT 'pg_catalog.pg_opclass'::pg_catalog.regclass,
           x.oid,
           pg_catalog.pg_get_userbyid(x.opcowner),
           pg_catalog.concat_ws(' ',
                                CASE WHEN x.opcdefault THEN 'DEFAULT' END,
                                'FOR TYPE ' || pg_catalog.format_type(x.opcintype, NULL),
                                'FAMILY ' || pg_catalog.quote_ident(f.opfname),
                                'STORAGE ' || pg_catalog.format_type(nullif(x.opckeytype, 0), NULL))
    FROM pg_catalog.pg_opclass AS x
    JOIN pg_catalog.pg_opfamily AS f ON f.oid = x.opcfamily
    WHERE x.opcnamespace = ANY (%(schemas)s::oid[])
    UNION ALL
    SELECT 'pg_catalog.pg_opfamily'::pg_catalog.regclass,
           x.oid,
           pg_catalog.pg_get_userbyid(x.opfowner),
           pg_catalog.concat_ws(', ',
                                (SELECT pg_catalog.string_agg('OPERATOR ' || o.amopstrategy || ' ' || o.amopopr::pg_catalog.regoperator, ', '
                                                              ORDER BY o.amopstrategy, o.amopopr::pg_catalog.regoperator::text COLLATE "C")
                                 FROM pg_catalog.pg_amop AS o
                                 WHERE o.amopfamily = x.oid),
                                (SELECT pg_catalog.string_agg('FUNCTION ' || o.amprocnum || ' ' || o.amproc::pg_catalog.regprocedure, ', '
                                                              ORDER BY o.amprocnum, o.amproc::pg_catalog.regprocedure::text COLLATE "C")
                                 FROM pg_catalog.pg_amproc AS o
                                 WHERE o.amprocfamily = x.oid))
    FROM pg_catalog.pg_opfamily AS x
    WHERE x.opfnamespace = ANY (%(schemas)s::oid[])
    UNION ALL
    SELECT 'pg_catalog.pg_collation'::pg_catalog.regclass,
           x.oid,
           pg_catalog.pg_get_userbyid(x.collowner),
           -- The locale's column has another name in 14, in 15 and 16, and from 17 on.
           pg_catalog.concat_ws(', ',
                                'PROVIDER = ' || x.collprovider::text,
                                'LOCALE = ' || coalesce(j.told ->> 'colllocale', j.told ->> 'colliculocale', x.collcollate),
                                CASE WHEN x.collprovider = 'c' THEN 'LC_CTYPE = ' || x.collctype END,
                                'RULES = ' || (j.told ->> 'collicurules'),
                                'DETERMINISTIC = ' || x.collisdeterministic)
    FROM pg_catalog.pg_collation AS x
    CROSS JOIN LATERAL pg_catalog.to_jsonb(x) AS j (told)
    WHERE x.collnamespace = ANY (%(schemas)s::oid[])
    UNION ALL
    SELECT 'pg_catalog.pg_conversion'::pg_catalog.regclass,
           x.oid,
           pg_catalog.pg_get_userbyid(x.conowner),
           pg_catalog.concat_ws(' ',
                                CASE WHEN x.condefault THEN 'DEFAULT' END,
                                'FOR ' || pg_catalog.pg_encoding_to_char(x.conforencoding) || ' TO ' || pg_catalog.pg_encoding_to_char(x.contoencoding),
                                'FROM ' || x.conproc::text)
    FROM pg_catalog.pg_conversion AS x
    WHERE x.connamespace = ANY (%(schemas)s::oid[])
    UNION ALL
    SELECT 'pg_catalog.pg_language'::pg_catalog.regclass,
           x.oid,
           pg_catalog.pg_get_userbyid(x.lanowner),
           pg_catalog.concat_ws(' ', CASE WHEN x.lanpltrusted THEN 'TRUSTED' END, 'HANDLER ' || x.lanplcallfoid::pg_catalog.regprocedure)
    FROM pg_catalog.pg_language AS x
    WHERE x.oid >= 16384
    UNION ALL
    SELECT 'pg_catalog.pg_am'::pg_catalog.regclass,
           x.oid,
           NULL,
           'TYPE ' || x.amtype::text || ' HANDLER ' || x.amhandler::text
    FROM pg_catalog.pg_am AS x
    WHERE x.oid >= 16384
    UNION ALL
    SELECT 'pg_catalog.pg_foreign_data_wrapper'::pg_catalog.regclass,
           x.oid,
           pg_catalog.pg_get_userbyid(x.fdwowner),
           pg_catalog.concat_ws(' ',
                                'HANDLER ' || nullif(x.fdwhandler, 0)::pg_catalog.regproc::text,
                                'VALIDATOR ' || nullif(x.fdwvalidator, 0)::pg_catalog.regproc::text,
                                'OPTIONS (' || (SELECT pg_catalog.string_agg(pg_catalog.quote_ident(o.option_name) || ' ' || pg_catalog.quote_literal(o.option_value), ', ')
                                                FROM pg_catalog.pg_options_to_table(x.fdwoptions) AS o) || ')')
    FROM pg_catalog.pg_foreign_data_wrapper AS x
    UNION ALL
    SELECT 'pg_catalog.pg_foreign_server'::pg_catalog.regclass,
           x.oid,
           pg_catalog.pg_get_userbyid(x.srvowner),
           pg_catalog.concat_ws(' ',
                                'TYPE ' || pg_catalog.quote_literal(x.srvtype),
                                'VERSION ' || pg_catalog.quote_literal(x.srvversion),
                                'FOREIGN DATA WRAPPER ' || pg_catalog.quote_ident(w.fdwname),
                                'OPTIONS (' || (SELECT pg_catalog.string_agg(pg_catalog.quote_ident(o.option_name) || ' ' || pg_catalog.quote_literal(o.option_value), ', ')
                                                FROM pg_catalog.pg_options_to_table(x.srvoptions) AS o) || ')')
    FROM pg_catalog.pg_foreign_server AS x
    JOIN pg_catalog.pg_foreign_data_wrapper AS w ON w.oid = x.srvfdw
    UNION ALL
    -- The values of a user mapping's options are mostly passwords: they are masked before anybody sees them.
    SELECT 'pg_catalog.pg_user_mapping'::pg_catalog.regclass,
           x.umid,
           NULL,
           'OPTIONS (' || coalesce((SELECT pg_catalog.string_agg(pg_catalog.quote_ident(o.option_name) || ' ' || pg_catalog.quote_literal(o.option_value),
                                                          ', ' ORDER BY o.option_name COLLATE "C")
                                    FROM pg_catalog.pg_options_to_table(x.umoptions) AS o), '') || ')'
    FROM pg_catalog.pg_user_mappings AS x
    UNION ALL
    SELECT 'pg_catalog.pg_ts_parser'::pg_catalog.regclass,
           x.oid,
           NULL,
           pg_catalog.concat_ws(' ', x.prsstart, x.prstoken, x.prsend, x.prsheadline, x.prslextype)
    FROM pg_catalog.pg_ts_parser AS x
    WHERE x.prsnamespace = ANY (%(schemas)s::oid[])
    UNION ALL
    SELECT 'pg_catalog.pg_ts_template'::pg_catalog.regclass,
           x.oid,
           NULL,
           pg_catalog.concat_ws(' ', x.tmplinit, x.tmpllexize)
    FROM pg_catalog.pg_ts_template AS x
    WHERE x.tmplnamespace = ANY (%(schemas)s::oid[])
    UNION ALL
    SELECT 'pg_catalog.pg_ts_dict'::pg_catalog.regclass,
           x.oid,
           pg_catalog.pg_get_userbyid(x.dictowner),
           pg_catalog.concat_ws(', ', 'TEMPLATE = ' || t.tmplname, x.dictinitoption)
    FROM pg_catalog.pg_ts_dict AS x
    JOIN pg_catalog.pg_ts_template AS t ON t.oid = x.dicttemplate
    WHERE x.dictnamespace = ANY (%(schemas)s::oid[])
    UNION ALL
    SELECT 'pg_catalog.pg_ts_config'::pg_catalog.regclass,
           x.oid,
           pg_catalog.pg_get_userbyid(x.cfgowner),
           pg_catalog.concat_ws(', ',
                                'PARSER = ' || p.prsname,
                                (SELECT pg_catalog.string_agg(m.maptokentype || ' WITH ' || m.mapdict::pg_catalog.regdictionary, ', ' ORDER BY m.maptokentype, m.mapseqno)
                                 FROM pg_catalog.pg_ts_config_map AS m
                                 WHERE m.mapcfg = x.oid))
    FROM pg_catalog.pg_ts_config AS x
    JOIN pg_catalog.pg_ts_parser AS p ON p.oid = x.cfgparser
    WHERE x.cfgnamespace = ANY (%(schemas)s::oid[])
) AS r (catalog, oid, owner, definition)
CROSS JOIN LATERAL pg_catalog.pg_identify_object(r.catalog, r.oid, 0) AS i
WHERE NOT EXISTS (SELECT
                  FROM pg_catalog.pg_depend AS e
                  WHERE e.classid = r.catalog
                    AND e.objid = r.oid
                    AND e.deptype = 'e');

-- name: publications
-- a row is: a publication, or a schema or table in it
SELECT 'publication' AS kind,
       pg_catalog.quote_ident(p.pubname) AS name,
       pg_catalog.pg_get_userbyid(p.pubowner)::text AS owner,
       pg_catalog.concat_ws(', ',
                            CASE WHEN p.puballtables THEN 'FOR ALL TABLES' END,
                            CASE WHEN p.pubinsert THEN 'insert' END,
                            CASE WHEN p.pubupdate THEN 'update' END,
                            CASE WHEN p.pubdelete THEN 'delete' END,
                            CASE WHEN p.pubtruncate THEN 'truncate' END,
                            CASE WHEN p.pubviaroot THEN 'publish_via_partition_root' END,
                            -- Generated columns are published from PostgreSQL 18 on, and not by default.
                            CASE WHEN pg_catalog.to_jsonb(p) ->> 'pubgencols' = 's' THEN 'publish_generated_columns = stored' END) AS definition
FROM pg_catalog.pg_publication AS p
UNION ALL
SELECT 'published table',
       pg_catalog.quote_ident(p.pubname) || ' ' || r.prrelid::pg_catalog.regclass,
       NULL,
       pg_catalog.concat_ws(' ',
                            '(' || (SELECT pg_catalog.string_agg(pg_catalog.quote_ident(a.attname), ', ' ORDER BY a.attname COLLATE "C")
                                    FROM pg_catalog.pg_attribute AS a
                                    WHERE a.attrelid = r.prrelid
                                      AND a.attnum = ANY (r.prattrs)) || ')',
                            'WHERE (' || pg_catalog.pg_get_expr(r.prqual, r.prrelid) || ')')
FROM pg_catalog.pg_publication_rel AS r
JOIN pg_catalog.pg_publication AS p ON p.oid = r.prpubid
JOIN pg_catalog.pg_class AS c ON c.oid = r.prrelid
WHERE c.relnamespace = ANY (%(schemas)s::oid[])
  AND c.oid <> ALL (%(left_out)s::oid[])
UNION ALL
SELECT 'published schema',
       pg_catalog.quote_ident(p.pubname) || ' ' || pg_catalog.quote_ident(n.nspname),
       NULL,
       ''
FROM pg_catalog.pg_publication_namespace AS r
JOIN pg_catalog.pg_publication AS p ON p.oid = r.pnpubid
JOIN pg_catalog.pg_namespace AS n ON n.oid = r.pnnspid
WHERE n.oid = ANY (%(schemas)s::oid[]);

-- name: publications_14
-- a row is: a publication or a table in it; PostgreSQL 14 knows neither schemas, columns nor filters there
SELECT 'publication' AS kind,
       pg_catalog.quote_ident(p.pubname) AS name,
       pg_catalog.pg_get_userbyid(p.pubowner)::text AS owner,
       pg_catalog.concat_ws(', ',
                            CASE WHEN p.puballtables THEN 'FOR ALL TABLES' END,
                            CASE WHEN p.pubinsert THEN 'insert' END,
                            CASE WHEN p.pubupdate THEN 'update' END,
                            CASE WHEN p.pubdelete THEN 'delete' END,
                            CASE WHEN p.pubtruncate THEN 'truncate' END,
                            CASE WHEN p.pubviaroot THEN 'publish_via_partition_root' END) AS definition
FROM pg_catalog.pg_publication AS p
UNION ALL
SELECT 'published table',
       pg_catalog.quote_ident(p.pubname) || ' ' || r.prrelid::pg_catalog.regclass,
       NULL,
       ''
FROM pg_catalog.pg_publication_rel AS r
JOIN pg_catalog.pg_publication AS p ON p.oid = r.prpubid
JOIN pg_catalog.pg_class AS c ON c.oid = r.prrelid
WHERE c.relnamespace = ANY (%(schemas)s::oid[])
  AND c.oid <> ALL (%(left_out)s::oid[]);

-- name: grants
-- a row is: what one grantee may do with one object, or with future objects, beyond PostgreSQL's defaults
WITH object (name, letter, owner, acl, base) AS (
    SELECT CASE c.relkind WHEN 'S' THEN 'sequence ' ELSE 'table ' END || c.oid::pg_catalog.regclass,
           CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END::"char",
           c.relowner,
           c.relacl,
           pg_catalog.acldefault(CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", c.relowner)
    FROM pg_catalog.pg_class AS c
    WHERE c.relacl IS NOT NULL
      AND c.relnamespace = ANY (%(schemas)s::oid[])
      AND c.oid <> ALL (%(left_out)s::oid[])
    UNION ALL
    SELECT 'column ' || c.oid::pg_catalog.regclass || '.' || pg_catalog.quote_ident(a.attname),
           'c',
           c.relowner,
           a.attacl,
           pg_catalog.acldefault('c', c.relowner)
    FROM pg_catalog.pg_attribute AS a
    JOIN pg_catalog.pg_class AS c ON c.oid = a.attrelid
    WHERE a.attacl IS NOT NULL
      AND NOT a.attisdropped
      AND c.relnamespace = ANY (%(schemas)s::oid[])
      AND c.oid <> ALL (%(left_out)s::oid[])
    UNION ALL
    SELECT 'schema ' || pg_catalog.quote_ident(n.nspname),
           'n',
           n.nspowner,
           n.nspacl,
           coalesce((SELECT i.initprivs
                     FROM pg_catalog.pg_init_privs AS i
                     WHERE i.objoid = n.oid
                       AND i.classoid = 'pg_catalog.pg_namespace'::pg_catalog.regclass),
                    pg_catalog.acldefault('n', n.nspowner))
    FROM pg_catalog.pg_namespace AS n
    WHERE n.nspacl IS NOT NULL
      AND n.oid = ANY (%(schemas)s::oid[])
    UNION ALL
    SELECT 'function ' || p.oid::pg_catalog.regprocedure,
           'f',
           p.proowner,
           p.proacl,
           pg_catalog.acldefault('f', p.proowner)
    FROM pg_catalog.pg_proc AS p
    WHERE p.proacl IS NOT NULL
      AND p.pronamespace = ANY (%(schemas)s::oid[])
      AND NOT EXISTS (SELECT
                      FROM pg_catalog.pg_depend AS e
                      WHERE e.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass
                        AND e.objid = p.oid
                        AND e.deptype = 'e')
    UNION ALL
    SELECT 'type ' || pg_catalog.format_type(t.oid, NULL),
           'T',
           t.typowner,
           t.typacl,
           pg_catalog.acldefault('T', t.typowner)
    FROM pg_catalog.pg_type AS t
    WHERE t.typacl IS NOT NULL
      AND t.typnamespace = ANY (%(schemas)s::oid[])
      AND t.typrelid <> ALL (%(left_out)s::oid[])
      AND NOT EXISTS (SELECT
                      FROM pg_catalog.pg_depend AS e
                      WHERE e.classid = 'pg_catalog.pg_type'::pg_catalog.regclass
                        AND e.objid = t.oid
                        AND e.deptype = 'e')
    UNION ALL
    SELECT 'language ' || pg_catalog.quote_ident(l.lanname),
           'l',
           l.lanowner,
           l.lanacl,
           coalesce((SELECT i.initprivs
                     FROM pg_catalog.pg_init_privs AS i
                     WHERE i.objoid = l.oid
                       AND i.classoid = 'pg_catalog.pg_language'::pg_catalog.regclass),
                    pg_catalog.acldefault('l', l.lanowner))
    FROM pg_catalog.pg_language AS l
    WHERE l.lanacl IS NOT NULL
    UNION ALL
    SELECT 'foreign data wrapper ' || pg_catalog.quote_ident(w.fdwname),
           'F',
           w.fdwowner,
           w.fdwacl,
           pg_catalog.acldefault('F', w.fdwowner)
    FROM pg_catalog.pg_foreign_data_wrapper AS w
    WHERE w.fdwacl IS NOT NULL
    UNION ALL
    SELECT 'server ' || pg_catalog.quote_ident(s.srvname),
           'S',
           s.srvowner,
           s.srvacl,
           pg_catalog.acldefault('S', s.srvowner)
    FROM pg_catalog.pg_foreign_server AS s
    WHERE s.srvacl IS NOT NULL
    UNION ALL
    SELECT pg_catalog.concat_ws(' ',
                                'future',
                                CASE d.defaclobjtype WHEN 'r' THEN 'tables' WHEN 'S' THEN 'sequences' WHEN 'f' THEN 'functions' WHEN 'T' THEN 'types'
                                                     WHEN 'n' THEN 'schemas' ELSE 'large objects' END,
                                'of',
                                pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(d.defaclrole)),
                                'in schema ' || pg_catalog.quote_ident(n.nspname)),
           CASE d.defaclobjtype WHEN 'S' THEN 's' ELSE d.defaclobjtype END::"char",
           d.defaclrole,
           d.defaclacl,
           CASE WHEN d.defaclnamespace = 0
                THEN pg_catalog.acldefault(CASE d.defaclobjtype WHEN 'S' THEN 's' ELSE d.defaclobjtype END::"char", d.defaclrole)
           END
    FROM pg_catalog.pg_default_acl AS d
    LEFT JOIN pg_catalog.pg_namespace AS n ON n.oid = d.defaclnamespace
    WHERE d.defaclnamespace = 0
       OR n.oid = ANY (%(schemas)s::oid[])
), item AS (
    (SELECT 'GRANT ' AS verb, o.name, o.letter, o.owner, g.* FROM object AS o, pg_catalog.aclexplode(o.acl) AS g
     EXCEPT
     SELECT 'GRANT ', o.name, o.letter, o.owner, g.* FROM object AS o, pg_catalog.aclexplode(o.base) AS g)
    UNION ALL
    (SELECT 'REVOKE ', o.name, o.letter, o.owner, g.* FROM object AS o, pg_catalog.aclexplode(o.base) AS g
     EXCEPT
     SELECT 'REVOKE ', o.name, o.letter, o.owner, g.* FROM object AS o, pg_catalog.aclexplode(o.acl) AS g)
), clause AS (
    SELECT i.name,
           CASE i.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(i.grantee)) END AS grantee,
           -- ALL, so that it stays the same when a new version knows one privilege more (MAINTAIN in 17).
           i.verb || CASE WHEN pg_catalog.count(*) = (SELECT pg_catalog.count(*)
                                                      FROM pg_catalog.aclexplode(pg_catalog.acldefault(i.letter, i.owner)) AS e
                                                      WHERE e.grantee = i.owner)
                          THEN 'ALL'
                          ELSE pg_catalog.string_agg(i.privilege_type, ', ' ORDER BY i.privilege_type COLLATE "C") END
           || CASE WHEN i.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END
           || CASE WHEN i.grantor <> i.owner THEN ' GRANTED BY ' || pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(i.grantor)) ELSE '' END AS words
    FROM item AS i
    GROUP BY i.verb, i.name, i.letter, i.owner, i.grantee, i.is_grantable, i.grantor
)
SELECT 'grant' AS kind,
       c.name || ' to ' || c.grantee AS name,
       NULL::text AS owner,
       pg_catalog.string_agg(c.words, '; ' ORDER BY c.words COLLATE "C") AS definition
FROM clause AS c
GROUP BY c.name, c.grantee;

-- name: comments
-- a row is: a comment on an object of the schemas that are read, or on one without schema
SELECT 'comment' AS kind,
       o.type || ' ' || o.identity AS name,
       NULL::text AS owner,
       d.description AS definition
FROM pg_catalog.pg_description AS d
LEFT JOIN pg_catalog.pg_constraint AS k ON d.classoid = 'pg_catalog.pg_constraint'::pg_catalog.regclass AND k.oid = d.objoid
LEFT JOIN pg_catalog.pg_trigger AS g ON d.classoid = 'pg_catalog.pg_trigger'::pg_catalog.regclass AND g.oid = d.objoid
LEFT JOIN pg_catalog.pg_policy AS p ON d.classoid = 'pg_catalog.pg_policy'::pg_catalog.regclass AND p.oid = d.objoid
LEFT JOIN pg_catalog.pg_rewrite AS w ON d.classoid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass AND w.oid = d.objoid
LEFT JOIN pg_catalog.pg_class AS c
       ON c.oid = CASE d.classoid WHEN 'pg_catalog.pg_class'::pg_catalog.regclass THEN d.objoid
                                  ELSE coalesce(k.conrelid, g.tgrelid, p.polrelid, w.ev_class) END
CROSS JOIN LATERAL pg_catalog.pg_identify_object(d.classoid, d.objoid, d.objsubid) AS o
WHERE (d.objoid >= 16384
       OR d.classoid = 'pg_catalog.pg_namespace'::pg_catalog.regclass AND d.objoid = ANY (%(schemas)s::oid[])
          AND d.description <> 'standard public schema')
  AND coalesce(c.oid, 0) <> ALL (%(left_out)s::oid[])
  AND (c.oid IS NULL OR c.relnamespace = ANY (%(schemas)s::oid[]))
  AND (k.oid IS NULL OR k.connamespace = ANY (%(schemas)s::oid[]))
  AND coalesce(o.schema, CASE WHEN o.type = 'schema' THEN o.name END, '') <> ALL (%(left_schemas)s::text[])
  AND NOT EXISTS (SELECT
                  FROM pg_catalog.pg_depend AS e
                  WHERE e.classid = d.classoid
                    AND e.objid = d.objoid
                    AND e.deptype = 'e');
