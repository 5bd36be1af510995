-- name: session
-- a row is: this session's search path, the schema in which it creates objects, and its role
SELECT pg_catalog.current_schemas(true)::pg_catalog.text[] AS path,
       pg_catalog.current_schema()::pg_catalog.text AS home,
       pg_catalog.quote_ident(current_user) AS me,
       pg_catalog.current_setting('search_path') AS search_path,
       EXISTS (SELECT FROM pg_catalog.pg_default_acl) AS has_default_acls;

-- name: relation_options
-- a row is: the properties of a relation, except those of its columns, that ALTER can set
SELECT coalesce(c.reloptions, '{}') AS options,
       coalesce((SELECT toast.reloptions FROM pg_catalog.pg_class AS toast WHERE toast.oid = c.reltoastrelid), '{}') AS toast_options,
       pg_catalog.quote_ident((SELECT s.spcname
                               FROM pg_catalog.pg_tablespace AS s
                               WHERE s.oid = coalesce(nullif(c.reltablespace, 0), (SELECT d.dattablespace
                                                                                   FROM pg_catalog.pg_database AS d
                                                                                   WHERE d.datname = pg_catalog.current_database())))) AS tablespace,
       (SELECT pg_catalog.quote_ident(am.amname) FROM pg_catalog.pg_am AS am WHERE am.oid = c.relam) AS access_method,
       CASE c.relreplident WHEN 'n' THEN 'NOTHING' WHEN 'f' THEN 'FULL' WHEN 'd' THEN 'DEFAULT'
            ELSE 'USING INDEX ' || (SELECT pg_catalog.quote_ident(ic.relname)
                                    FROM pg_catalog.pg_index AS i
                                    JOIN pg_catalog.pg_class AS ic ON ic.oid = i.indexrelid
                                    WHERE i.indrelid = c.oid
                                      AND i.indisreplident) END AS replica_identity,
       (SELECT pg_catalog.quote_ident(ic.relname)
        FROM pg_catalog.pg_index AS i
        JOIN pg_catalog.pg_class AS ic ON ic.oid = i.indexrelid
        WHERE i.indrelid = c.oid
          AND i.indisclustered) AS clustered,
       pg_catalog.pg_get_expr(c.relpartbound, c.oid) AS bound,
       CASE WHEN c.reloftype <> 0 THEN pg_catalog.format_type(c.reloftype, NULL) END AS of_type,
       ARRAY(SELECT i.inhparent::pg_catalog.regclass::text
             FROM pg_catalog.pg_inherits AS i
             WHERE i.inhrelid = c.oid
             ORDER BY i.inhseqno) AS parents,
       coalesce((SELECT f.ftoptions FROM pg_catalog.pg_foreign_table AS f WHERE f.ftrelid = c.oid), '{}') AS foreign_options
FROM pg_catalog.pg_class AS c
WHERE c.oid = %(oid)s;

-- name: family
-- a row is: a table and each below it, parents first
WITH RECURSIVE below (oid, depth) AS (
    SELECT %(oid)s::oid, 0
    UNION
    SELECT i.inhrelid, b.depth + 1
    FROM below AS b
    JOIN pg_catalog.pg_inherits AS i ON i.inhparent = b.oid
)
SELECT b.oid,
       b.oid::pg_catalog.regclass::text AS sql
FROM below AS b
GROUP BY b.oid
ORDER BY pg_catalog.max(b.depth), b.oid;

-- name: sequence
-- a row is: a sequence, its options as SQL, and its current value
SELECT c.oid,
       pg_catalog.format('%%I.%%I', n.nspname, c.relname) AS sql,
       pg_catalog.format('INCREMENT BY %%s MINVALUE %%s MAXVALUE %%s START WITH %%s CACHE %%s %%s',
                         s.seqincrement, s.seqmin, s.seqmax, s.seqstart, s.seqcache, CASE WHEN s.seqcycle THEN 'CYCLE' ELSE 'NO CYCLE' END) AS options,
       pg_catalog.format_type(s.seqtypid, NULL) AS type,
       s.seqstart AS start,
       s.seqincrement AS increment,
       s.seqmin AS minimum,
       s.seqmax AS maximum,
       pg_catalog.pg_sequence_last_value(c.oid) AS last_value,
       pg_catalog.has_sequence_privilege(c.oid, 'SELECT') AS is_readable,
       (SELECT d.refobjid::pg_catalog.regclass::text || '.' || pg_catalog.quote_ident(a.attname)
        FROM pg_catalog.pg_depend AS d
        JOIN pg_catalog.pg_attribute AS a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
        WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
          AND d.objid = c.oid
          AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
          AND d.deptype = 'a') AS owned_by
FROM pg_catalog.pg_sequence AS s
JOIN pg_catalog.pg_class AS c ON c.oid = s.seqrelid
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE s.seqrelid = %(oid)s;

-- name: serial_sequence
-- a row is: the sequence of a column
SELECT pg_catalog.pg_get_serial_sequence(%(table)s, %(column)s) AS name;

-- name: owned_sequences
-- a row is: a sequence that belongs to a column of one of these tables
SELECT DISTINCT d.objid AS oid
FROM pg_catalog.pg_depend AS d
JOIN pg_catalog.pg_sequence AS s ON s.seqrelid = d.objid
WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
  AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
  AND d.refobjid = ANY (%(oids)s::oid[])
  AND d.deptype IN ('a', 'i');

-- name: things
-- a row is: the identity of an object as the server words it, and its owner
SELECT u.classid::bigint AS class,
       u.classid::pg_catalog.regclass::text AS catalog,
       u.objid::bigint AS oid,
       u.part,
       i.type,
       i.identity,
       n.names,
       ARRAY(SELECT CASE i.type WHEN 'operator' THEN p.name ELSE pg_catalog.quote_ident(p.name) END
             FROM pg_catalog.unnest(n.names) AS p (name)) AS quoted,
       a.object_args AS args,
       pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(coalesce((SELECT s.refobjid
                                                                   FROM pg_catalog.pg_shdepend AS s
                                                                   WHERE s.classid = u.classid
                                                                     AND s.objid = u.objid
                                                                     AND s.objsubid = 0
                                                                     AND s.deptype = 'o'
                                                                     AND s.dbid IN (0, (SELECT d.oid FROM pg_catalog.pg_database AS d WHERE d.datname = pg_catalog.current_database()))
                                                                   LIMIT 1), 10))) AS owner
FROM ROWS FROM (pg_catalog.unnest(%(classes)s::oid[]), pg_catalog.unnest(%(objects)s::oid[]), pg_catalog.unnest(%(parts)s::integer[])) WITH ORDINALITY AS u (classid, objid, part, place)
CROSS JOIN LATERAL pg_catalog.pg_identify_object(u.classid, u.objid, u.part) AS i
CROSS JOIN LATERAL pg_catalog.pg_identify_object_as_address(u.classid, u.objid, u.part) AS a
CROSS JOIN LATERAL (SELECT coalesce((SELECT ARRAY[tn.nspname, t.typname]::text[]
                                     FROM pg_catalog.pg_type AS t
                                     JOIN pg_catalog.pg_namespace AS tn ON tn.oid = t.typnamespace
                                     WHERE u.classid = 'pg_catalog.pg_type'::pg_catalog.regclass
                                       AND t.oid = u.objid), a.object_names)) AS n (names)
ORDER BY u.place;

-- name: address
-- a row is: the object of a name, as the session's search path finds it
SELECT a.classid::bigint AS class,
       a.objid::bigint AS oid,
       a.objsubid AS part
FROM pg_catalog.pg_get_object_address(%(kind)s, %(names)s::pg_catalog.text[], %(args)s::pg_catalog.text[]) AS a;

-- name: routine
-- a row is: the function, procedure or aggregate of a signature (or of a name alone), 0 where there is none
SELECT coalesce(CASE WHEN %(args)s::pg_catalog.text IS NULL
                     THEN pg_catalog.to_regproc(%(name)s::pg_catalog.text)::pg_catalog.oid
                     ELSE pg_catalog.to_regprocedure(
                         pg_catalog.format('%%s(%%s)', %(name)s::pg_catalog.text, %(args)s::pg_catalog.text)
                     )::pg_catalog.oid END, 0)::bigint AS oid;

-- name: type
-- a row is: a type that a text names, 0 where there is none
SELECT coalesce(pg_catalog.to_regtype(%(name)s)::pg_catalog.oid, 0)::bigint AS oid;

-- name: type_facts
-- a row is: a type, with what a conversion into it and out of it would lose
SELECT t.oid::bigint AS oid,
       pg_catalog.format_type(t.oid, NULL) AS sql,
       t.typname::text AS name,
       t.typtype::text AS type,
       t.typcategory::text AS category,
       t.typrelid::bigint AS relation,
       t.typnotnull AS not_null,
       coalesce(pg_catalog.pg_get_expr(t.typdefaultbin, 0), t.typdefault) AS default,
       pg_catalog.format_type(coalesce(nullif(t.typbasetype, 0), t.oid), nullif(t.typtypmod, -1)) AS base,
       n.nspname::text AS schema
FROM pg_catalog.pg_type AS t
JOIN pg_catalog.pg_namespace AS n ON n.oid = t.typnamespace
WHERE t.oid = %(oid)s;

-- name: converts
-- a row is: how a value of one type is converted to the other: by itself (on assignment), by an explicit cast, or only as text; and whether it is stored alike in both
WITH RECURSIVE below (place, oid, target, brackets) AS (
    SELECT 0, %(source)s::oid, false, ''
    UNION ALL
    SELECT 0, %(target)s::oid, true, ''
    UNION ALL
    SELECT b.place + 1, n.oid, b.target, b.brackets || n.brackets
    FROM below AS b
    CROSS JOIN LATERAL (SELECT CASE t.typtype WHEN 'd' THEN t.typbasetype ELSE t.typelem END AS oid,
                               CASE t.typtype WHEN 'd' THEN '' ELSE '[]' END AS brackets
                        FROM pg_catalog.pg_type AS t
                        WHERE t.oid = b.oid
                          AND (t.typtype = 'd' OR t.typelem <> 0 AND t.typlen = -1)
                        OFFSET 0) AS n
), bottom AS (
    SELECT s.oid AS source,
           t.oid AS target,
           s.brackets AS source_brackets,
           t.brackets AS target_brackets
    FROM (SELECT b.oid, b.brackets FROM below AS b WHERE NOT b.target ORDER BY b.place DESC LIMIT 1) AS s
    CROSS JOIN (SELECT b.oid, b.brackets FROM below AS b WHERE b.target ORDER BY b.place DESC LIMIT 1) AS t
)
SELECT CASE WHEN o.source_brackets <> o.target_brackets
            THEN CASE WHEN o.target_brackets = '' AND y.typcategory = 'S' AND y.typtype = 'b' THEN 'by itself'
                      WHEN o.source_brackets = '' AND x.typcategory = 'S' THEN 'by a cast'
                      ELSE 'as text' END
            WHEN o.source = o.target
                 OR y.typcategory = 'S' AND y.typtype = 'b'
                 OR EXISTS (SELECT
                            FROM pg_catalog.pg_cast AS x
                            WHERE x.castsource = o.source
                              AND x.casttarget = o.target
                              AND x.castcontext IN ('a', 'i'))
            THEN 'by itself'
            WHEN x.typcategory = 'S'
                 OR EXISTS (SELECT
                            FROM pg_catalog.pg_cast AS x
                            WHERE x.castsource = o.source
                              AND x.casttarget = o.target)
            THEN 'by a cast'
            ELSE 'as text' END AS how,
       (SELECT count(*) = 2
        FROM pg_catalog.pg_cast AS x
        WHERE x.castmethod = 'b'
          AND o.source_brackets = o.target_brackets
          AND (x.castsource, x.casttarget) IN ((o.source, o.target), (o.target, o.source))) AS is_same_value,
       x.typname || CASE WHEN o.source_brackets <> o.target_brackets THEN o.source_brackets ELSE '' END AS source,
       x.typtype::text AS source_kind,
       y.typname || CASE WHEN o.source_brackets <> o.target_brackets THEN o.target_brackets ELSE '' END AS target,
       y.typtype::text AS target_kind
FROM bottom AS o
JOIN pg_catalog.pg_type AS x ON x.oid = o.source
JOIN pg_catalog.pg_type AS y ON y.oid = o.target;

-- name: dropped_with
-- a row is: an object that is dropped with others, what it depends on, and its relation; whether it is created again with another object; of a relation the columns whose type or collation is not PostgreSQL's own
WITH RECURSIVE gone AS (
    SELECT u.classid,
           u.objid,
           u.objsubid
    FROM ROWS FROM (pg_catalog.unnest(%(classes)s::oid[]), pg_catalog.unnest(%(objects)s::oid[]), pg_catalog.unnest(%(parts)s::integer[])) AS u (classid, objid, objsubid)
    UNION
    SELECT n.classid,
           n.objid,
           n.objsubid
    FROM gone AS g
    CROSS JOIN LATERAL (
        SELECT d.classid,
               d.objid,
               d.objsubid
        FROM pg_catalog.pg_depend AS d
        WHERE d.refclassid = g.classid
          AND d.refobjid = g.objid
          AND (g.objsubid = 0 OR d.refobjsubid = g.objsubid)
        UNION ALL
        -- A dropped part drops its whole: the rule of a view, the index of a constraint, the expression of a column
        -- that is generated, which PostgreSQL 14 does not say.
        SELECT d.refclassid,
               d.refobjid,
               d.refobjsubid
        FROM pg_catalog.pg_depend AS d
        WHERE d.classid = g.classid
          AND d.objid = g.objid
          AND d.objsubid = g.objsubid
          AND (d.deptype = 'i'
               OR d.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass
                  AND EXISTS (SELECT FROM pg_catalog.pg_attribute AS a WHERE a.attrelid = d.refobjid AND a.attnum = d.refobjsubid AND a.attgenerated <> ''))
          AND d.refobjid >= 16384
    ) AS n
)
SELECT g.classid::bigint AS class,
       g.objid::bigint AS oid,
       g.objsubid AS part,
       g.classid::pg_catalog.regclass::text AS catalog,
       coalesce((SELECT pg_catalog.json_agg(pg_catalog.json_build_array(d.refclassid::bigint, d.refobjid::bigint, d.refobjsubid, d.deptype))
                 FROM pg_catalog.pg_depend AS d
                 WHERE d.classid = g.classid
                   AND d.objid = g.objid
                   AND (d.objsubid = g.objsubid OR g.objsubid = 0)), '[]') AS needs,
       p.relation::bigint AS relation,
       p.kind,
       p.number,
       p.comes_along,
       CASE WHEN g.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND g.objsubid = 0
            THEN ARRAY(SELECT a.attnum
                       FROM pg_catalog.pg_attribute AS a
                       JOIN pg_catalog.pg_type AS t ON t.oid = a.atttypid
                       LEFT JOIN pg_catalog.pg_collation AS l ON l.oid = a.attcollation
                       WHERE a.attrelid = g.objid
                         AND a.attnum > 0
                         AND NOT a.attisdropped
                         AND 'pg_catalog'::pg_catalog.regnamespace::oid <> ANY (ARRAY[t.typnamespace, l.collnamespace])) END AS foreign_columns
FROM gone AS g
LEFT JOIN LATERAL (
    SELECT coalesce(i.indrelid, 0) AS relation,
           c.relkind::text AS kind,
           0 AS number,
           c.relkind = 't' OR c.relkind = 'i' AND EXISTS (SELECT
                                                          FROM pg_catalog.pg_index AS x
                                                          JOIN pg_catalog.pg_class AS t ON t.oid = x.indrelid
                                                          WHERE x.indexrelid = c.oid
                                                            AND t.relkind = 't') AS comes_along
    FROM pg_catalog.pg_class AS c
    LEFT JOIN pg_catalog.pg_index AS i ON i.indexrelid = c.oid
    WHERE g.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
      AND c.oid = g.objid
    UNION ALL
    SELECT k.conrelid, k.contype::text, coalesce(k.conkey[1], 0),
           k.contype = 'f' AND k.conparentid <> 0 OR k.contype IN ('c', 'n') AND k.coninhcount > 0 AND NOT k.conislocal
    FROM pg_catalog.pg_constraint AS k
    WHERE g.classid = 'pg_catalog.pg_constraint'::pg_catalog.regclass
      AND k.oid = g.objid
    UNION ALL
    SELECT t.tgrelid, '', 0, t.tgconstrindid <> 0 OR t.tgparentid <> 0
    FROM pg_catalog.pg_trigger AS t
    WHERE g.classid = 'pg_catalog.pg_trigger'::pg_catalog.regclass
      AND t.oid = g.objid
    UNION ALL
    SELECT w.ev_class, '', 0, w.rulename = '_RETURN'
    FROM pg_catalog.pg_rewrite AS w
    WHERE g.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass
      AND w.oid = g.objid
    UNION ALL
    SELECT o.polrelid, '', 0, false
    FROM pg_catalog.pg_policy AS o
    WHERE g.classid = 'pg_catalog.pg_policy'::pg_catalog.regclass
      AND o.oid = g.objid
    UNION ALL
    SELECT d.adrelid, '', d.adnum, false
    FROM pg_catalog.pg_attrdef AS d
    WHERE g.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass
      AND d.oid = g.objid
    UNION ALL
    SELECT x.stxrelid, '', 0, false
    FROM pg_catalog.pg_statistic_ext AS x
    WHERE g.classid = 'pg_catalog.pg_statistic_ext'::pg_catalog.regclass
      AND x.oid = g.objid
    UNION ALL
    SELECT r.prrelid, '', 0, false
    FROM pg_catalog.pg_publication_rel AS r
    WHERE g.classid = 'pg_catalog.pg_publication_rel'::pg_catalog.regclass
      AND r.oid = g.objid
    UNION ALL
    SELECT t.typrelid, t.typtype::text, 0,
           t.typtype = 'm' OR t.typelem <> 0 AND t.typlen = -1 AND EXISTS (SELECT
                                                                           FROM pg_catalog.pg_type AS y
                                                                           WHERE y.oid = t.typelem
                                                                             AND y.typarray = t.oid)
    FROM pg_catalog.pg_type AS t
    WHERE g.classid = 'pg_catalog.pg_type'::pg_catalog.regclass
      AND t.oid = g.objid
) AS p ON true;

-- name: comments_and_labels
-- a row is: a comment on an object or on a part of it, or a security label of it, which has a provider
SELECT d.classoid::bigint AS class,
       d.objoid::bigint AS oid,
       d.objsubid AS part,
       NULL AS provider,
       d.description AS told
FROM pg_catalog.pg_description AS d
JOIN ROWS FROM (pg_catalog.unnest(%(classes)s::oid[]), pg_catalog.unnest(%(objects)s::oid[])) AS u (classid, objid) ON d.classoid = u.classid AND d.objoid = u.objid
UNION ALL
SELECT d.classoid::bigint,
       d.objoid::bigint,
       d.objsubid,
       d.provider,
       d.label
FROM pg_catalog.pg_seclabel AS d
JOIN ROWS FROM (pg_catalog.unnest(%(classes)s::oid[]), pg_catalog.unnest(%(objects)s::oid[])) AS u (classid, objid) ON d.classoid = u.classid AND d.objoid = u.objid
ORDER BY 4 NULLS FIRST, 3, 1, 2;

-- name: acls
-- a row is: a privilege on a relation or column as it is now; an object without grants has its defaults
WITH object (class, oid, part, name, acl, owner, own) AS (
    SELECT 'pg_catalog.pg_class'::pg_catalog.regclass, c.oid, 0, CASE c.relkind WHEN 'S' THEN 'SEQUENCE ' ELSE 'TABLE ' END || c.oid::pg_catalog.regclass,
           coalesce(c.relacl, pg_catalog.acldefault(CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", c.relowner)), c.relowner, c.relacl IS NOT NULL
    FROM pg_catalog.pg_class AS c
    WHERE c.oid = ANY (%(oids)s::oid[])
      AND c.relkind IN ('r', 'v', 'm', 'S', 'f', 'p')
    UNION ALL
    SELECT 'pg_catalog.pg_class'::pg_catalog.regclass, c.oid, a.attnum, pg_catalog.format('(%%I) ON TABLE ', a.attname) || c.oid::pg_catalog.regclass, a.attacl, c.relowner, true
    FROM pg_catalog.pg_attribute AS a
    JOIN pg_catalog.pg_class AS c ON c.oid = a.attrelid
    WHERE c.oid = ANY (%(oids)s::oid[])
      AND a.attacl IS NOT NULL
      AND NOT a.attisdropped
)
SELECT o.class::oid::bigint AS class,
       o.oid::bigint AS oid,
       o.part,
       o.name,
       CASE g.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(g.grantee)) END AS grantee,
       pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(o.owner)) AS owner,
       g.privilege_type AS privilege,
       g.is_grantable AS grantable,
       pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(g.grantor)) AS grantor,
       coalesce(g.grantor <> o.owner, false) AS by_another,
       pg_catalog.pg_has_role(g.grantor, CASE WHEN pg_catalog.current_setting('server_version_num')::integer >= 160000 THEN 'SET' ELSE 'MEMBER' END) AS can_be_grantor,
       o.own
FROM object AS o
LEFT JOIN LATERAL pg_catalog.aclexplode(o.acl) AS g ON true;

-- name: acls_of_others
-- a row is: a privilege on another object as it is now; those of an object that was never granted are its defaults
WITH object (class, oid, part, name, acl, owner, own) AS (
    SELECT 'pg_catalog.pg_proc'::pg_catalog.regclass, p.oid, 0, 'ROUTINE ' || p.oid::pg_catalog.regprocedure,
           coalesce(p.proacl, pg_catalog.acldefault('f', p.proowner)), p.proowner, p.proacl IS NOT NULL
    FROM pg_catalog.pg_proc AS p
    WHERE p.oid = ANY (%(oids)s::oid[])
    UNION ALL
    SELECT 'pg_catalog.pg_namespace'::pg_catalog.regclass, n.oid, 0, 'SCHEMA ' || pg_catalog.quote_ident(n.nspname),
           coalesce(n.nspacl, pg_catalog.acldefault('n', n.nspowner)), n.nspowner, n.nspacl IS NOT NULL
    FROM pg_catalog.pg_namespace AS n
    WHERE n.oid = ANY (%(oids)s::oid[])
    UNION ALL
    SELECT 'pg_catalog.pg_type'::pg_catalog.regclass, t.oid, 0, CASE t.typtype WHEN 'd' THEN 'DOMAIN ' ELSE 'TYPE ' END || pg_catalog.format_type(t.oid, NULL),
           coalesce(t.typacl, pg_catalog.acldefault('T', t.typowner)), t.typowner, t.typacl IS NOT NULL
    FROM pg_catalog.pg_type AS t
    WHERE t.oid = ANY (%(oids)s::oid[])
    UNION ALL
    SELECT 'pg_catalog.pg_language'::pg_catalog.regclass, l.oid, 0, 'LANGUAGE ' || pg_catalog.quote_ident(l.lanname),
           coalesce(l.lanacl, pg_catalog.acldefault('l', l.lanowner)), l.lanowner, l.lanacl IS NOT NULL
    FROM pg_catalog.pg_language AS l
    WHERE l.oid = ANY (%(oids)s::oid[])
    UNION ALL
    SELECT 'pg_catalog.pg_foreign_data_wrapper'::pg_catalog.regclass, w.oid, 0, 'FOREIGN DATA WRAPPER ' || pg_catalog.quote_ident(w.fdwname),
           coalesce(w.fdwacl, pg_catalog.acldefault('F', w.fdwowner)), w.fdwowner, w.fdwacl IS NOT NULL
    FROM pg_catalog.pg_foreign_data_wrapper AS w
    WHERE w.oid = ANY (%(oids)s::oid[])
    UNION ALL
    SELECT 'pg_catalog.pg_foreign_server'::pg_catalog.regclass, s.oid, 0, 'FOREIGN SERVER ' || pg_catalog.quote_ident(s.srvname),
           coalesce(s.srvacl, pg_catalog.acldefault('S', s.srvowner)), s.srvowner, s.srvacl IS NOT NULL
    FROM pg_catalog.pg_foreign_server AS s
    WHERE s.oid = ANY (%(oids)s::oid[])
    UNION ALL
    SELECT 'pg_catalog.pg_database'::pg_catalog.regclass, d.oid, 0, 'DATABASE ' || pg_catalog.quote_ident(d.datname),
           coalesce(d.datacl, pg_catalog.acldefault('d', d.datdba)), d.datdba, d.datacl IS NOT NULL
    FROM pg_catalog.pg_database AS d
    WHERE d.oid = ANY (%(oids)s::oid[])
    UNION ALL
    SELECT 'pg_catalog.pg_tablespace'::pg_catalog.regclass, s.oid, 0, 'TABLESPACE ' || pg_catalog.quote_ident(s.spcname),
           coalesce(s.spcacl, pg_catalog.acldefault('t', s.spcowner)), s.spcowner, s.spcacl IS NOT NULL
    FROM pg_catalog.pg_tablespace AS s
    WHERE s.oid = ANY (%(oids)s::oid[])
)
SELECT o.class::oid::bigint AS class,
       o.oid::bigint AS oid,
       o.part,
       o.name,
       CASE g.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(g.grantee)) END AS grantee,
       pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(o.owner)) AS owner,
       g.privilege_type AS privilege,
       g.is_grantable AS grantable,
       pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(g.grantor)) AS grantor,
       coalesce(g.grantor <> o.owner, false) AS by_another,
       pg_catalog.pg_has_role(g.grantor, CASE WHEN pg_catalog.current_setting('server_version_num')::integer >= 160000 THEN 'SET' ELSE 'MEMBER' END) AS can_be_grantor,
       o.own
FROM object AS o
LEFT JOIN LATERAL pg_catalog.aclexplode(o.acl) AS g ON true
WHERE o.class::oid = ANY (%(classes)s::oid[]);

-- name: granted
-- a row is: an object of a schema to which GRANT ... ON ALL ... IN SCHEMA refers
SELECT 'pg_catalog.pg_class'::pg_catalog.regclass::oid::bigint AS class,
       c.oid::bigint AS oid
FROM pg_catalog.pg_class AS c
WHERE %(kind)s IN ('TABLE', 'SEQUENCE')
  AND c.relnamespace = ANY (SELECT n.oid FROM pg_catalog.pg_namespace AS n WHERE n.nspname = ANY (%(schemas)s::text[]))
  AND CASE %(kind)s WHEN 'TABLE' THEN c.relkind IN ('r', 'v', 'm', 'f', 'p') ELSE c.relkind = 'S' END
UNION ALL
SELECT 'pg_catalog.pg_proc'::pg_catalog.regclass::oid::bigint,
       p.oid::bigint
FROM pg_catalog.pg_proc AS p
WHERE %(kind)s IN ('FUNCTION', 'PROCEDURE', 'ROUTINE')
  AND p.pronamespace = ANY (SELECT n.oid FROM pg_catalog.pg_namespace AS n WHERE n.nspname = ANY (%(schemas)s::text[]));

-- name: default_acls
-- a row is: a privilege that future objects of a role get, as ALTER DEFAULT PRIVILEGES has set it (or as it is without)
SELECT pg_catalog.quote_ident(r.rolname) AS role,
       pg_catalog.quote_ident(n.nspname) AS schema,
       CASE g.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(g.grantee)) END AS grantee,
       g.privilege_type AS privilege,
       g.is_grantable AS grantable
FROM pg_catalog.pg_roles AS r
CROSS JOIN pg_catalog.unnest(%(schemas)s::text[]) AS w (schema)
LEFT JOIN pg_catalog.pg_namespace AS n ON n.nspname = w.schema
LEFT JOIN pg_catalog.pg_default_acl AS d
       ON d.defaclrole = r.oid
      AND d.defaclnamespace = coalesce(n.oid, 0)
      AND d.defaclobjtype = %(letter)s::"char"
CROSS JOIN LATERAL pg_catalog.aclexplode(coalesce(d.defaclacl,
                                                  CASE WHEN n.oid IS NULL
                                                       THEN pg_catalog.acldefault(CASE %(letter)s WHEN 'S' THEN 's' ELSE %(letter)s END::"char", r.oid) END)) AS g
WHERE r.rolname = ANY (%(roles)s::text[]);

-- name: default_grantees
-- a row is: a role to which ALTER DEFAULT PRIVILEGES grants something
SELECT DISTINCT CASE g.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(g.grantee)) END AS grantee
FROM pg_catalog.pg_default_acl AS d
CROSS JOIN LATERAL pg_catalog.aclexplode(d.defaclacl) AS g;

-- name: default_acl_names
-- a row is: an entry of ALTER DEFAULT PRIVILEGES by its OID
SELECT r.rolname::text AS role,
       n.nspname::text AS schema,
       d.defaclobjtype::text AS letter,
       ARRAY(SELECT DISTINCT CASE g.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(g.grantee)) END
             FROM pg_catalog.aclexplode(d.defaclacl) AS g) AS grantees
FROM pg_catalog.pg_default_acl AS d
JOIN pg_catalog.pg_roles AS r ON r.oid = d.defaclrole
LEFT JOIN pg_catalog.pg_namespace AS n ON n.oid = d.defaclnamespace
WHERE d.oid = ANY (%(oids)s::oid[]);

-- name: members
-- a row is: a role's membership in another
SELECT pg_catalog.quote_ident(g.rolname) AS role,
       pg_catalog.quote_ident(u.rolname) AS member,
       pg_catalog.concat_ws(', ',
                            CASE WHEN m.admin_option THEN 'ADMIN OPTION' END,
                            'INHERIT ' || (pg_catalog.to_jsonb(m) ->> 'inherit_option'),
                            'SET ' || (pg_catalog.to_jsonb(m) ->> 'set_option')) AS options
FROM pg_catalog.pg_auth_members AS m
JOIN pg_catalog.pg_roles AS g ON g.oid = m.roleid
JOIN pg_catalog.pg_roles AS u ON u.oid = m.member
WHERE g.rolname = ANY (%(names)s::text[])
   OR u.rolname = ANY (%(names)s::text[]);

-- name: roles
-- a row is: a role, with its attributes as SQL
SELECT r.oid::bigint AS oid,
       pg_catalog.quote_ident(r.rolname) AS sql,
       pg_catalog.concat_ws(' ',
                            CASE WHEN r.rolsuper THEN 'SUPERUSER' ELSE 'NOSUPERUSER' END,
                            CASE WHEN r.rolinherit THEN 'INHERIT' ELSE 'NOINHERIT' END,
                            CASE WHEN r.rolcreaterole THEN 'CREATEROLE' ELSE 'NOCREATEROLE' END,
                            CASE WHEN r.rolcreatedb THEN 'CREATEDB' ELSE 'NOCREATEDB' END,
                            CASE WHEN r.rolcanlogin THEN 'LOGIN' ELSE 'NOLOGIN' END,
                            CASE WHEN r.rolreplication THEN 'REPLICATION' ELSE 'NOREPLICATION' END,
                            CASE WHEN r.rolbypassrls THEN 'BYPASSRLS' ELSE 'NOBYPASSRLS' END,
                            'CONNECTION LIMIT ' || r.rolconnlimit,
                            'VALID UNTIL ' || pg_catalog.quote_literal(coalesce(r.rolvaliduntil::text, 'infinity'))) AS attributes,
       pg_catalog.shobj_description(r.oid, 'pg_authid') AS comment
FROM pg_catalog.pg_roles AS r
WHERE r.rolname = ANY (%(names)s::text[]);

-- name: settings_of
-- a row is: a setting of a role or database
SELECT pg_catalog.quote_ident(d.datname) AS database,
       pg_catalog.quote_ident(r.rolname) AS role,
       c.setting
FROM pg_catalog.pg_db_role_setting AS s
LEFT JOIN pg_catalog.pg_database AS d ON d.oid = s.setdatabase
LEFT JOIN pg_catalog.pg_roles AS r ON r.oid = s.setrole
CROSS JOIN LATERAL pg_catalog.unnest(s.setconfig) AS c (setting)
WHERE coalesce(r.rolname, '') = %(role)s
  AND coalesce(d.datname, '') = %(database)s;

-- name: databases
-- a row is: a database, with the properties that ALTER DATABASE can set
SELECT pg_catalog.quote_ident(d.datname) AS sql,
       d.datconnlimit AS connection_limit,
       d.datallowconn AS allow_connections,
       d.datistemplate AS is_template,
       pg_catalog.quote_ident(s.spcname) AS tablespace
FROM pg_catalog.pg_database AS d
JOIN pg_catalog.pg_tablespace AS s ON s.oid = d.dattablespace
WHERE d.datname = %(name)s;

-- name: system_setting
-- a row is: what ALTER SYSTEM has set
SELECT f.setting
FROM pg_catalog.pg_file_settings AS f
WHERE f.name = %(name)s
  AND f.sourcefile LIKE '%%postgresql.auto.conf'
ORDER BY f.seqno DESC
LIMIT 1;

-- name: make_relations
-- a row is: a statement that creates a view, materialized view, foreign table or sequence as it is
SELECT c.oid::bigint AS oid,
       p.place,
       p.sql
FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
LEFT JOIN pg_catalog.pg_sequence AS s ON s.seqrelid = c.oid
LEFT JOIN pg_catalog.pg_tablespace AS ts ON ts.oid = c.reltablespace
LEFT JOIN pg_catalog.pg_foreign_table AS f ON f.ftrelid = c.oid
LEFT JOIN pg_catalog.pg_foreign_server AS fs ON fs.oid = f.ftserver
CROSS JOIN LATERAL (
    SELECT 1 AS place,
           CASE c.relkind
                WHEN 'v' THEN pg_catalog.format('CREATE VIEW %%I.%%I%%s AS %%s', n.nspname, c.relname,
                                                ' WITH (' || pg_catalog.array_to_string(c.reloptions, ', ') || ')', pg_catalog.rtrim(pg_catalog.pg_get_viewdef(c.oid), ';'))
                WHEN 'm' THEN pg_catalog.format('CREATE MATERIALIZED VIEW %%I.%%I USING %%I%%s%%s AS %%s WITH %%sDATA', n.nspname, c.relname,
                                                (SELECT am.amname FROM pg_catalog.pg_am AS am WHERE am.oid = c.relam),
                                                ' WITH (' || pg_catalog.array_to_string(c.reloptions, ', ') || ')', ' TABLESPACE ' || pg_catalog.quote_ident(ts.spcname),
                                                pg_catalog.rtrim(pg_catalog.pg_get_viewdef(c.oid), ';'), CASE WHEN c.relispopulated THEN '' ELSE 'NO ' END)
                WHEN 'S' THEN pg_catalog.format('CREATE %%sSEQUENCE %%I.%%I AS %%s INCREMENT BY %%s MINVALUE %%s MAXVALUE %%s START WITH %%s CACHE %%s %%s',
                                                CASE c.relpersistence WHEN 'u' THEN 'UNLOGGED ' ELSE '' END, n.nspname, c.relname,
                                                pg_catalog.format_type(s.seqtypid, NULL), s.seqincrement, s.seqmin, s.seqmax, s.seqstart, s.seqcache,
                                                CASE WHEN s.seqcycle THEN 'CYCLE' ELSE 'NO CYCLE' END)
                WHEN 'f' THEN pg_catalog.format('CREATE FOREIGN TABLE %%I.%%I (%%s) SERVER %%I%%s', n.nspname, c.relname,
                                                (SELECT pg_catalog.string_agg(pg_catalog.concat_ws(' ',
                                                                                                   pg_catalog.quote_ident(a.attname),
                                                                                                   pg_catalog.format_type(a.atttypid, a.atttypmod),
                                                                                                   'OPTIONS (' || (SELECT pg_catalog.string_agg(pg_catalog.format('%%I %%L', o.option_name, o.option_value), ', ')
                                                                                                                   FROM pg_catalog.pg_options_to_table(a.attfdwoptions) AS o) || ')',
                                                                                                   CASE WHEN a.attcollation <> t.typcollation THEN 'COLLATE ' || a.attcollation::pg_catalog.regcollation END,
                                                                                                   CASE a.attgenerated WHEN '' THEN 'DEFAULT ' || pg_catalog.pg_get_expr(d.adbin, 0)
                                                                                                                       WHEN 's' THEN 'GENERATED ALWAYS AS (' || pg_catalog.pg_get_expr(d.adbin, d.adrelid) || ') STORED' END,
                                                                                                   CASE WHEN a.attnotnull THEN 'NOT NULL' END), ', ' ORDER BY a.attnum)
                                                 FROM pg_catalog.pg_attribute AS a
                                                 JOIN pg_catalog.pg_type AS t ON t.oid = a.atttypid
                                                 LEFT JOIN pg_catalog.pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
                                                 WHERE a.attrelid = c.oid
                                                   AND a.attnum > 0
                                                   AND NOT a.attisdropped), fs.srvname,
                                                ' OPTIONS (' || (SELECT pg_catalog.string_agg(pg_catalog.format('%%I %%L', o.option_name, o.option_value), ', ')
                                                                 FROM pg_catalog.pg_options_to_table(f.ftoptions) AS o) || ')')
                END AS sql
    UNION ALL
    SELECT 3,
           pg_catalog.format('SELECT pg_catalog.setval(%%L, %%s, true)', c.oid::pg_catalog.regclass, pg_catalog.pg_sequence_last_value(c.oid))
    WHERE c.relkind = 'S'
      AND pg_catalog.pg_sequence_last_value(c.oid) IS NOT NULL
) AS p
WHERE c.oid = ANY (%(oids)s::oid[])
  AND c.relkind IN ('v', 'm', 'S', 'f')
  AND p.sql IS NOT NULL
ORDER BY c.oid, p.place;

-- name: make_indexes
-- a row is: a statement that creates an index as it is
SELECT i.indexrelid::bigint AS oid,
       pg_catalog.pg_get_indexdef(i.indexrelid) AS sql
FROM pg_catalog.pg_index AS i
WHERE i.indexrelid = ANY (%(oids)s::oid[]);

-- name: finish_indexes
-- a row is: a statement that sets the properties of an index that CREATE INDEX and ADD CONSTRAINT cannot set
SELECT i.indexrelid::bigint AS oid,
       k.oid::bigint AS constraint,
       p.sql
FROM pg_catalog.pg_index AS i
JOIN pg_catalog.pg_class AS ic ON ic.oid = i.indexrelid
JOIN pg_catalog.pg_namespace AS n ON n.oid = ic.relnamespace
LEFT JOIN pg_catalog.pg_constraint AS k ON k.conindid = i.indexrelid AND k.contype IN ('p', 'u', 'x') AND k.conrelid = i.indrelid
CROSS JOIN LATERAL (
    SELECT 1 AS place,
           pg_catalog.format('ALTER INDEX %%s ATTACH PARTITION %%I.%%I', h.inhparent::pg_catalog.regclass, n.nspname, ic.relname) AS sql
    FROM pg_catalog.pg_inherits AS h
    WHERE h.inhrelid = i.indexrelid
    UNION ALL
    SELECT 2,
           pg_catalog.format('ALTER INDEX %%I.%%I SET (%%s)', n.nspname, ic.relname, pg_catalog.array_to_string(ic.reloptions, ', '))
    WHERE k.oid IS NOT NULL
      AND ic.reloptions IS NOT NULL
    UNION ALL
    SELECT 3,
           pg_catalog.format('ALTER INDEX %%I.%%I ALTER COLUMN %%s SET STATISTICS %%s', n.nspname, ic.relname, a.attnum, a.attstattarget)
    FROM pg_catalog.pg_attribute AS a
    WHERE a.attrelid = i.indexrelid
      AND a.attstattarget >= 0
    UNION ALL
    SELECT 4,
           pg_catalog.format('ALTER TABLE %%s CLUSTER ON %%I', i.indrelid::pg_catalog.regclass, ic.relname)
    WHERE i.indisclustered
    UNION ALL
    SELECT 5,
           pg_catalog.format('ALTER TABLE %%s REPLICA IDENTITY USING INDEX %%I', i.indrelid::pg_catalog.regclass, ic.relname)
    WHERE i.indisreplident
    UNION ALL
    SELECT 6,
           pg_catalog.format('ALTER INDEX %%I.%%I SET TABLESPACE %%I', n.nspname, ic.relname, s.spcname)
    FROM pg_catalog.pg_tablespace AS s
    WHERE s.oid = ic.reltablespace
) AS p
WHERE i.indexrelid = ANY (%(oids)s::oid[] || ARRAY(SELECT o.conindid
                                                   FROM pg_catalog.pg_constraint AS o
                                                   WHERE o.oid = ANY (%(constraints)s::oid[])
                                                     AND o.contype IN ('p', 'u', 'x')))
ORDER BY i.indexrelid, p.place;

-- name: make_constraints
-- a row is: a statement that creates a constraint as it is
SELECT k.oid::bigint AS oid,
       1 AS place,
       CASE WHEN k.contypid <> 0
            THEN pg_catalog.format('ALTER DOMAIN %%s ADD CONSTRAINT %%I %%s', pg_catalog.format_type(k.contypid, NULL), k.conname, pg_catalog.pg_get_constraintdef(k.oid))
            WHEN k.contype = 't' THEN NULL
            -- Where a table that inherits has a constraint of this name, SET NOT NULL would take another one.
            WHEN k.contype = 'n' AND k.convalidated AND NOT k.connoinherit AND k.conname = c.relname || '_' || a.attname || '_not_null'
                 AND NOT EXISTS (SELECT
                                 FROM pg_catalog.pg_inherits AS h
                                 JOIN pg_catalog.pg_class AS d ON d.oid = h.inhrelid AND NOT d.relispartition
                                 WHERE h.inhparent = c.oid)
            THEN pg_catalog.format('ALTER TABLE %%s ALTER COLUMN %%I SET NOT NULL', k.conrelid::pg_catalog.regclass, a.attname)
            ELSE pg_catalog.format('ALTER %%s %%s%%s ADD CONSTRAINT %%I %%s', CASE c.relkind WHEN 'f' THEN 'FOREIGN TABLE' ELSE 'TABLE' END,
                                   CASE WHEN k.contype IN ('p', 'u', 'x') AND (c.relkind = 'p' OR k.conparentid <> 0) THEN 'ONLY ' ELSE '' END,
                                   k.conrelid::pg_catalog.regclass, k.conname, pg_catalog.pg_get_constraintdef(k.oid)) END AS sql
FROM pg_catalog.pg_constraint AS k
LEFT JOIN pg_catalog.pg_class AS c ON c.oid = k.conrelid
LEFT JOIN pg_catalog.pg_attribute AS a ON a.attrelid = k.conrelid AND a.attnum = k.conkey[1]
WHERE k.oid = ANY (%(oids)s::oid[]);

-- name: make_on_relations
-- a row is: a statement that creates a trigger, rule, policy, statistics or default as it is; the object may exist already
SELECT 'pg_catalog.pg_trigger'::pg_catalog.regclass::oid::bigint AS class,
       g.oid::bigint AS oid,
       p.place,
       p.sql
FROM pg_catalog.pg_trigger AS g
CROSS JOIN LATERAL (
    SELECT 1 AS place,
           pg_catalog.format('DROP TRIGGER IF EXISTS %%I ON %%s', g.tgname, g.tgrelid::pg_catalog.regclass) AS sql
    WHERE %(again)s
    UNION ALL
    SELECT 2,
           pg_catalog.pg_get_triggerdef(g.oid)
    UNION ALL
    SELECT 3,
           pg_catalog.format('ALTER TABLE %%s%%s %%s TRIGGER %%I', CASE WHEN c.relkind = 'p' THEN 'ONLY ' ELSE '' END, s.tgrelid::pg_catalog.regclass,
                             CASE s.tgenabled WHEN 'O' THEN 'ENABLE' WHEN 'D' THEN 'DISABLE' WHEN 'R' THEN 'ENABLE REPLICA' ELSE 'ENABLE ALWAYS' END, s.tgname)
    FROM pg_catalog.pg_trigger AS s
    JOIN pg_catalog.pg_class AS c ON c.oid = s.tgrelid
    WHERE (s.oid = g.oid AND s.tgenabled <> 'O')
       OR (s.tgparentid <> 0 AND s.tgname = g.tgname AND s.tgfoid = g.tgfoid AND s.tgenabled <> g.tgenabled
           AND s.tgrelid IN (WITH RECURSIVE below (oid) AS (SELECT g.tgrelid
                                                            UNION
                                                            SELECT h.inhrelid FROM below AS b JOIN pg_catalog.pg_inherits AS h ON h.inhparent = b.oid)
                             SELECT b.oid FROM below AS b))
) AS p
WHERE g.oid = ANY (%(oids)s::oid[])
UNION ALL
SELECT 'pg_catalog.pg_rewrite'::pg_catalog.regclass::oid::bigint,
       w.oid::bigint,
       p.place,
       p.sql
FROM pg_catalog.pg_rewrite AS w
CROSS JOIN LATERAL (
    SELECT 1 AS place,
           pg_catalog.replace(pg_catalog.left(pg_catalog.pg_get_ruledef(w.oid), 12), 'CREATE RULE ', 'CREATE OR REPLACE RULE ')
           || pg_catalog.substr(pg_catalog.rtrim(pg_catalog.pg_get_ruledef(w.oid), ';'), 13) AS sql
    UNION ALL
    SELECT 2,
           pg_catalog.format('ALTER TABLE %%s %%s RULE %%I', w.ev_class::pg_catalog.regclass,
                             CASE w.ev_enabled WHEN 'O' THEN 'ENABLE' WHEN 'D' THEN 'DISABLE' WHEN 'R' THEN 'ENABLE REPLICA' ELSE 'ENABLE ALWAYS' END, w.rulename)
    WHERE w.ev_enabled <> 'O'
       OR %(again)s
) AS p
WHERE w.oid = ANY (%(oids)s::oid[])
UNION ALL
SELECT 'pg_catalog.pg_policy'::pg_catalog.regclass::oid::bigint,
       o.oid::bigint,
       p.place,
       p.sql
FROM pg_catalog.pg_policy AS o
CROSS JOIN LATERAL (
    SELECT 1 AS place,
           pg_catalog.format('DROP POLICY IF EXISTS %%I ON %%s', o.polname, o.polrelid::pg_catalog.regclass) AS sql
    WHERE %(again)s
    UNION ALL
    SELECT 2,
           pg_catalog.concat_ws(' ',
                                pg_catalog.format('CREATE POLICY %%I ON %%s', o.polname, o.polrelid::pg_catalog.regclass),
                                'AS ' || CASE WHEN o.polpermissive THEN 'PERMISSIVE' ELSE 'RESTRICTIVE' END,
                                'FOR ' || CASE o.polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE' WHEN 'd' THEN 'DELETE' ELSE 'ALL' END,
                                'TO ' || (SELECT pg_catalog.string_agg(CASE r WHEN 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(r)) END, ', ')
                                          FROM pg_catalog.unnest(o.polroles) AS r),
                                'USING (' || pg_catalog.pg_get_expr(o.polqual, o.polrelid) || ')',
                                'WITH CHECK (' || pg_catalog.pg_get_expr(o.polwithcheck, o.polrelid) || ')')
) AS p
WHERE o.oid = ANY (%(oids)s::oid[])
UNION ALL
SELECT 'pg_catalog.pg_statistic_ext'::pg_catalog.regclass::oid::bigint,
       x.oid::bigint,
       p.place,
       p.sql
FROM pg_catalog.pg_statistic_ext AS x
CROSS JOIN LATERAL (
    SELECT 1 AS place,
           pg_catalog.pg_get_statisticsobjdef(x.oid) AS sql
    UNION ALL
    SELECT 2,
           pg_catalog.format('ALTER STATISTICS %%s SET STATISTICS %%s', o.identity, x.stxstattarget)
    FROM pg_catalog.pg_identify_object('pg_catalog.pg_statistic_ext'::pg_catalog.regclass, x.oid, 0) AS o
    WHERE x.stxstattarget >= 0
) AS p
WHERE x.oid = ANY (%(oids)s::oid[])
UNION ALL
SELECT 'pg_catalog.pg_attrdef'::pg_catalog.regclass::oid::bigint,
       d.oid::bigint,
       1,
       pg_catalog.format('ALTER TABLE ONLY %%s ALTER COLUMN %%I SET DEFAULT %%s', d.adrelid::pg_catalog.regclass, a.attname, pg_catalog.pg_get_expr(d.adbin, 0))
FROM pg_catalog.pg_attrdef AS d
JOIN pg_catalog.pg_attribute AS a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
WHERE d.oid = ANY (%(oids)s::oid[])
ORDER BY 1, 2, 3;

-- name: make_published
-- a row is: a statement that publishes what a publication has lost as it is
SELECT 'pg_catalog.pg_publication_rel'::pg_catalog.regclass::oid::bigint AS class,
       r.oid::bigint AS oid,
       1 AS place,
       pg_catalog.format('ALTER PUBLICATION %%I SET TABLE %%s', p.pubname,
                         (SELECT pg_catalog.string_agg(pg_catalog.concat_ws(' ',
                                                                            'ONLY ' || o.prrelid::pg_catalog.regclass,
                                                                            '(' || (SELECT pg_catalog.string_agg(pg_catalog.quote_ident(a.attname), ', ' ORDER BY a.attnum)
                                                                                    FROM pg_catalog.pg_attribute AS a
                                                                                    WHERE a.attrelid = o.prrelid
                                                                                      AND a.attnum = ANY (o.prattrs)) || ')',
                                                                            'WHERE (' || pg_catalog.pg_get_expr(o.prqual, o.prrelid) || ')'), ', ' ORDER BY o.oid)
                          FROM pg_catalog.pg_publication_rel AS o
                          WHERE o.prpubid = p.oid)
                         || coalesce((SELECT ', TABLES IN SCHEMA ' || pg_catalog.string_agg(pg_catalog.quote_ident(n.nspname), ', ')
                                      FROM pg_catalog.pg_publication_namespace AS s
                                      JOIN pg_catalog.pg_namespace AS n ON n.oid = s.pnnspid
                                      WHERE s.pnpubid = p.oid), '')) AS sql
FROM pg_catalog.pg_publication_rel AS r
JOIN pg_catalog.pg_publication AS p ON p.oid = r.prpubid
WHERE r.oid = ANY (%(oids)s::oid[])
UNION ALL
SELECT 'pg_catalog.pg_publication_namespace'::pg_catalog.regclass::oid::bigint,
       r.oid::bigint,
       1,
       pg_catalog.format('ALTER PUBLICATION %%I ADD TABLES IN SCHEMA %%I', p.pubname, n.nspname)
FROM pg_catalog.pg_publication_namespace AS r
JOIN pg_catalog.pg_publication AS p ON p.oid = r.pnpubid
JOIN pg_catalog.pg_namespace AS n ON n.oid = r.pnnspid
WHERE r.oid = ANY (%(oids)s::oid[])
ORDER BY 1, 2;

-- name: make_published_14
-- a row is: as make_published gives; PostgreSQL 14 publishes whole tables, and no schemas
SELECT 'pg_catalog.pg_publication_rel'::pg_catalog.regclass::oid::bigint AS class,
       r.oid::bigint AS oid,
       1 AS place,
       pg_catalog.format('ALTER PUBLICATION %%I SET TABLE %%s', p.pubname,
                         (SELECT pg_catalog.string_agg('ONLY ' || o.prrelid::pg_catalog.regclass, ', ' ORDER BY o.oid)
                          FROM pg_catalog.pg_publication_rel AS o
                          WHERE o.prpubid = p.oid)) AS sql
FROM pg_catalog.pg_publication_rel AS r
JOIN pg_catalog.pg_publication AS p ON p.oid = r.prpubid
WHERE r.oid = ANY (%(oids)s::oid[])
ORDER BY 1, 2;

-- name: make_functions
-- a row is: a statement that creates a function, procedure or aggregate as it is
SELECT p.oid::bigint AS oid,
       1 AS place,
       CASE WHEN p.prokind <> 'a' THEN pg_catalog.rtrim(pg_catalog.pg_get_functiondef(p.oid), E'\n')
            ELSE pg_catalog.format('CREATE AGGREGATE %%I.%%I (%%s) (%%s)', n.nspname, p.proname,
                                   coalesce(nullif(pg_catalog.pg_get_function_arguments(p.oid), ''), '*'),
                                   pg_catalog.concat_ws(', ',
                                                        'SFUNC = ' || g.aggtransfn::text,
                                                        'STYPE = ' || pg_catalog.format_type(g.aggtranstype, NULL),
                                                        'SSPACE = ' || nullif(g.aggtransspace, 0),
                                                        'FINALFUNC = ' || nullif(g.aggfinalfn::oid, 0)::pg_catalog.regproc::text,
                                                        CASE WHEN g.aggfinalextra THEN 'FINALFUNC_EXTRA' END,
                                                        CASE WHEN g.aggfinalfn <> 0
                                                             THEN 'FINALFUNC_MODIFY = ' || CASE g.aggfinalmodify WHEN 'r' THEN 'READ_ONLY' WHEN 's' THEN 'SHAREABLE' ELSE 'READ_WRITE' END END,
                                                        'COMBINEFUNC = ' || nullif(g.aggcombinefn::oid, 0)::pg_catalog.regproc::text,
                                                        'SERIALFUNC = ' || nullif(g.aggserialfn::oid, 0)::pg_catalog.regproc::text,
                                                        'DESERIALFUNC = ' || nullif(g.aggdeserialfn::oid, 0)::pg_catalog.regproc::text,
                                                        'INITCOND = ' || pg_catalog.quote_literal(g.agginitval),
                                                        'MSFUNC = ' || nullif(g.aggmtransfn::oid, 0)::pg_catalog.regproc::text,
                                                        'MINVFUNC = ' || nullif(g.aggminvtransfn::oid, 0)::pg_catalog.regproc::text,
                                                        'MSTYPE = ' || pg_catalog.format_type(nullif(g.aggmtranstype, 0), NULL),
                                                        'MSSPACE = ' || nullif(g.aggmtransspace, 0),
                                                        'MFINALFUNC = ' || nullif(g.aggmfinalfn::oid, 0)::pg_catalog.regproc::text,
                                                        CASE WHEN g.aggmfinalextra THEN 'MFINALFUNC_EXTRA' END,
                                                        CASE WHEN g.aggmfinalfn <> 0
                                                             THEN 'MFINALFUNC_MODIFY = ' || CASE g.aggmfinalmodify WHEN 'r' THEN 'READ_ONLY' WHEN 's' THEN 'SHAREABLE' ELSE 'READ_WRITE' END END,
                                                        'MINITCOND = ' || pg_catalog.quote_literal(g.aggminitval),
                                                        'SORTOP = OPERATOR(' || (SELECT pg_catalog.quote_ident(sn.nspname) || '.' || so.oprname
                                                                                 FROM pg_catalog.pg_operator AS so
                                                                                 JOIN pg_catalog.pg_namespace AS sn ON sn.oid = so.oprnamespace
                                                                                 WHERE so.oid = g.aggsortop) || ')',
                                                        CASE WHEN g.aggkind = 'h' THEN 'HYPOTHETICAL' END,
                                                        'PARALLEL = ' || CASE p.proparallel WHEN 's' THEN 'SAFE' WHEN 'r' THEN 'RESTRICTED' ELSE 'UNSAFE' END)) END AS sql
FROM pg_catalog.pg_proc AS p
JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace
LEFT JOIN pg_catalog.pg_aggregate AS g ON g.aggfnoid = p.oid
WHERE p.oid = ANY (%(oids)s::oid[]);

-- name: function_facts
-- a row is: the signature of a function, which CREATE OR REPLACE cannot change back
SELECT p.oid::bigint AS oid,
       p.pronargdefaults::integer AS defaults,
       coalesce(p.proargnames, '{}')::text[] AS names,
       p.prokind::text AS kind
FROM pg_catalog.pg_proc AS p
WHERE p.oid = %(oid)s;

-- name: make_types
-- a row is: a statement that creates an enum, composite, range or domain as it is; none makes a base type
SELECT t.oid::bigint AS oid,
       1 AS place,
       CASE t.typtype
            WHEN 'e' THEN pg_catalog.format('CREATE TYPE %%I.%%I AS ENUM (%%s)', n.nspname, t.typname,
                                            (SELECT pg_catalog.string_agg(pg_catalog.quote_literal(e.enumlabel), ', ' ORDER BY e.enumsortorder)
                                             FROM pg_catalog.pg_enum AS e
                                             WHERE e.enumtypid = t.oid))
            WHEN 'c' THEN pg_catalog.format('CREATE TYPE %%I.%%I AS (%%s)', n.nspname, t.typname,
                                            (SELECT pg_catalog.string_agg(pg_catalog.concat_ws(' ',
                                                                                               pg_catalog.quote_ident(a.attname),
                                                                                               pg_catalog.format_type(a.atttypid, a.atttypmod),
                                                                                               CASE WHEN a.attcollation <> y.typcollation
                                                                                                    THEN 'COLLATE ' || a.attcollation::pg_catalog.regcollation END), ', ' ORDER BY a.attnum)
                                             FROM pg_catalog.pg_attribute AS a
                                             JOIN pg_catalog.pg_type AS y ON y.oid = a.atttypid
                                             WHERE a.attrelid = t.typrelid
                                               AND a.attnum > 0
                                               AND NOT a.attisdropped))
            WHEN 'r' THEN (SELECT pg_catalog.format('CREATE TYPE %%I.%%I AS RANGE (%%s)', n.nspname, t.typname,
                                                    pg_catalog.concat_ws(', ',
                                                                         'SUBTYPE = ' || pg_catalog.format_type(r.rngsubtype, NULL),
                                                                         'SUBTYPE_OPCLASS = ' || (SELECT pg_catalog.quote_ident(qn.nspname) || '.' || pg_catalog.quote_ident(q.opcname)
                                                                                                  FROM pg_catalog.pg_opclass AS q
                                                                                                  JOIN pg_catalog.pg_namespace AS qn ON qn.oid = q.opcnamespace
                                                                                                  WHERE q.oid = r.rngsubopc),
                                                                         'COLLATION = ' || nullif(r.rngcollation, 0)::pg_catalog.regcollation::text,
                                                                         'SUBTYPE_DIFF = ' || nullif(r.rngsubdiff::oid, 0)::pg_catalog.regproc::text,
                                                                         'MULTIRANGE_TYPE_NAME = ' || pg_catalog.format_type(r.rngmultitypid, NULL)))
                           FROM pg_catalog.pg_range AS r
                           WHERE r.rngtypid = t.oid
                             AND r.rngcanonical = 0)
            WHEN 'd' THEN pg_catalog.concat_ws(' ',
                                               pg_catalog.format('CREATE DOMAIN %%I.%%I AS', n.nspname, t.typname),
                                               pg_catalog.format_type(t.typbasetype, t.typtypmod),
                                               CASE WHEN t.typcollation <> b.typcollation THEN 'COLLATE ' || t.typcollation::pg_catalog.regcollation END,
                                               'DEFAULT ' || coalesce(pg_catalog.pg_get_expr(t.typdefaultbin, 0), t.typdefault),
                                               CASE WHEN t.typnotnull AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint AS k WHERE k.contypid = t.oid AND k.contype = 'n')
                                                    THEN 'NOT NULL' END) END AS sql
FROM pg_catalog.pg_type AS t
JOIN pg_catalog.pg_namespace AS n ON n.oid = t.typnamespace
LEFT JOIN pg_catalog.pg_type AS b ON b.oid = t.typbasetype AND t.typbasetype <> 0
WHERE t.oid = ANY (%(oids)s::oid[]);

-- name: uses_of_type
-- a row is: a column of a table whose values are of a type
SELECT d.objid::pg_catalog.regclass::text AS table
FROM pg_catalog.pg_depend AS d
JOIN pg_catalog.pg_class AS c ON c.oid = d.objid
WHERE d.refclassid = 'pg_catalog.pg_type'::pg_catalog.regclass
  AND d.refobjid IN (SELECT t.oid FROM pg_catalog.pg_type AS t WHERE t.oid = %(oid)s OR t.typelem = %(oid)s)
  AND d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
  AND d.objsubid > 0
  AND d.deptype = 'n'
  AND c.relkind IN ('r', 'p', 'm')
LIMIT 1;

-- name: uses_of_enum
-- a row is: an object that depends on an enum or its array, or on a column of these; a table's column, or what must be created again; or why it cannot be
WITH type AS (
    SELECT t.oid
    FROM pg_catalog.pg_type AS t
    WHERE t.oid = %(oid)s
       OR t.typelem = %(oid)s AND t.typcategory = 'A'
),
uses AS NOT MATERIALIZED (
    -- What the expression of a generated column needs, PostgreSQL 14 says of the column itself.
    SELECT CASE WHEN v.oid IS NULL THEN d.classid ELSE 'pg_catalog.pg_attrdef'::pg_catalog.regclass END AS classid,
           coalesce(v.oid, d.objid) AS objid,
           CASE WHEN v.oid IS NULL THEN d.objsubid ELSE 0 END AS objsubid,
           d.refclassid,
           d.refobjid,
           d.refobjsubid,
           CASE WHEN v.oid IS NULL THEN d.deptype ELSE 'n' END AS deptype
    FROM pg_catalog.pg_depend AS d
    LEFT JOIN pg_catalog.pg_attrdef AS v
      ON d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
     AND d.deptype = 'a'
     AND v.adrelid = d.objid
     AND v.adnum = d.objsubid
),
direct AS (
    SELECT d.classid,
           d.objid,
           d.objsubid,
           d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objsubid > 0 AND c.relkind IN ('r', 'p') AS is_column
    FROM uses AS d
    LEFT JOIN pg_catalog.pg_class AS c ON d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND c.oid = d.objid
    WHERE d.refclassid = 'pg_catalog.pg_type'::pg_catalog.regclass
      AND d.refobjid IN (SELECT t.oid FROM type AS t)
      AND NOT (d.classid = 'pg_catalog.pg_type'::pg_catalog.regclass AND d.objid IN (SELECT t.oid FROM type AS t))
),
found AS (
    SELECT * FROM direct
    UNION
    SELECT d.classid,
           d.objid,
           d.objsubid,
           false
    FROM direct AS k
    JOIN uses AS d
      ON d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
     AND d.refobjid = k.objid
     AND d.refobjsubid = k.objsubid
    WHERE k.is_column
      AND (d.classid IN ('pg_catalog.pg_rewrite'::pg_catalog.regclass, 'pg_catalog.pg_policy'::pg_catalog.regclass,
                         'pg_catalog.pg_trigger'::pg_catalog.regclass)
           OR d.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass AND d.deptype = 'n')
)
SELECT f.classid::bigint AS class,
       f.objid::bigint AS oid,
       CASE WHEN f.is_column THEN f.objsubid ELSE 0 END AS part,
       f.is_column,
       CASE WHEN f.classid = 'pg_catalog.pg_type'::pg_catalog.regclass
              OR f.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass
              OR f.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND c.relkind IN ('c', 'f')
              OR f.is_column AND k.partattrs IS NOT NULL
            THEN pg_catalog.pg_describe_object(f.classid, f.objid, f.objsubid) END AS obstacle
FROM found AS f
LEFT JOIN pg_catalog.pg_class AS c ON f.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND c.oid = f.objid
LEFT JOIN pg_catalog.pg_attrdef AS v ON f.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass AND v.oid = f.objid
LEFT JOIN pg_catalog.pg_attribute AS a ON a.attrelid = v.adrelid AND a.attnum = v.adnum
LEFT JOIN pg_catalog.pg_partitioned_table AS k
  ON f.is_column AND k.partrelid = f.objid AND f.objsubid = ANY (k.partattrs::int2[])
WHERE v.oid IS NULL
   OR a.attgenerated <> ''
   OR a.atttypid NOT IN (SELECT t.oid FROM type AS t)
ORDER BY 1, 2, 3;

-- name: make_rarities
-- a row is: a statement that creates a schema, extension, publication, event trigger, cast, operator, operator class or family, collation, conversion, language, access method, foreign server or text search object as it is
WITH member AS (
    -- What a class holds goes with it; what was added to a family goes with that.
    SELECT d.refclassid AS class,
           d.refobjid AS oid,
           pg_catalog.format('OPERATOR %%s %%s%%s', o.amopstrategy, o.amopopr::pg_catalog.regoperator,
                             ' FOR ORDER BY ' || (SELECT pg_catalog.format('%%I.%%I', fn.nspname, f.opfname)
                                                  FROM pg_catalog.pg_opfamily AS f
                                                  JOIN pg_catalog.pg_namespace AS fn ON fn.oid = f.opfnamespace
                                                  WHERE f.oid = o.amopsortfamily)) AS sql
    FROM pg_catalog.pg_amop AS o
    JOIN pg_catalog.pg_depend AS d ON d.classid = 'pg_catalog.pg_amop'::pg_catalog.regclass AND d.objid = o.oid
    WHERE d.refclassid IN ('pg_catalog.pg_opclass'::pg_catalog.regclass, 'pg_catalog.pg_opfamily'::pg_catalog.regclass)
      AND NOT (d.refclassid = 'pg_catalog.pg_opfamily'::pg_catalog.regclass AND d.refobjid <> o.amopfamily)
    UNION ALL
    SELECT d.refclassid,
           d.refobjid,
           pg_catalog.format('FUNCTION %%s (%%s, %%s) %%s', o.amprocnum, pg_catalog.format_type(o.amproclefttype, NULL),
                             pg_catalog.format_type(o.amprocrighttype, NULL), o.amproc::pg_catalog.regprocedure)
    FROM pg_catalog.pg_amproc AS o
    JOIN pg_catalog.pg_depend AS d ON d.classid = 'pg_catalog.pg_amproc'::pg_catalog.regclass AND d.objid = o.oid
    WHERE d.refclassid IN ('pg_catalog.pg_opclass'::pg_catalog.regclass, 'pg_catalog.pg_opfamily'::pg_catalog.regclass)
)
SELECT r.class::oid::bigint AS class,
       r.oid::bigint AS oid,
       r.place,
       r.sql
FROM (
    SELECT 'pg_catalog.pg_namespace'::pg_catalog.regclass, x.oid, 1, pg_catalog.format('CREATE SCHEMA %%I', x.nspname)
    FROM pg_catalog.pg_namespace AS x
    UNION ALL
    SELECT 'pg_catalog.pg_extension'::pg_catalog.regclass, x.oid, 1,
           pg_catalog.format('CREATE EXTENSION %%I SCHEMA %%I VERSION %%L', x.extname, n.nspname, x.extversion)
    FROM pg_catalog.pg_extension AS x
    JOIN pg_catalog.pg_namespace AS n ON n.oid = x.extnamespace
    UNION ALL
    SELECT 'pg_catalog.pg_publication'::pg_catalog.regclass, x.oid, 1,
           pg_catalog.format('CREATE PUBLICATION %%I%%s WITH (%%s)', x.pubname, CASE WHEN x.puballtables THEN ' FOR ALL TABLES' ELSE '' END,
                             pg_catalog.concat_ws(', ',
                                                  pg_catalog.format('publish = %%L', pg_catalog.concat_ws(', ',
                                                                                                          CASE WHEN x.pubinsert THEN 'insert' END,
                                                                                                          CASE WHEN x.pubupdate THEN 'update' END,
                                                                                                          CASE WHEN x.pubdelete THEN 'delete' END,
                                                                                                          CASE WHEN x.pubtruncate THEN 'truncate' END)),
                                                  'publish_via_partition_root = ' || x.pubviaroot,
                                                  'publish_generated_columns = ' || CASE pg_catalog.to_jsonb(x) ->> 'pubgencols' WHEN 's' THEN 'stored' WHEN 'n' THEN 'none' END))
    FROM pg_catalog.pg_publication AS x
    UNION ALL
    SELECT 'pg_catalog.pg_event_trigger'::pg_catalog.regclass, x.oid, p.place, p.sql
    FROM pg_catalog.pg_event_trigger AS x
    CROSS JOIN LATERAL (
        VALUES (1, pg_catalog.concat_ws(' ',
                                        pg_catalog.format('CREATE EVENT TRIGGER %%I ON %%s', x.evtname, x.evtevent),
                                        'WHEN TAG IN (' || (SELECT pg_catalog.string_agg(pg_catalog.quote_literal(t), ', ') FROM pg_catalog.unnest(x.evttags) AS t) || ')',
                                        'EXECUTE FUNCTION ' || (SELECT i.identity FROM pg_catalog.pg_identify_object('pg_catalog.pg_proc'::pg_catalog.regclass, x.evtfoid, 0) AS i))),
               (2, pg_catalog.format('ALTER EVENT TRIGGER %%I %%s', x.evtname,
                                     CASE x.evtenabled WHEN 'D' THEN 'DISABLE' WHEN 'R' THEN 'ENABLE REPLICA' WHEN 'A' THEN 'ENABLE ALWAYS' ELSE 'ENABLE' END))
    ) AS p (place, sql)
    UNION ALL
    SELECT 'pg_catalog.pg_cast'::pg_catalog.regclass, x.oid, 1,
           pg_catalog.concat_ws(' ',
                                'CREATE CAST (' || pg_catalog.format_type(x.castsource, NULL) || ' AS ' || pg_catalog.format_type(x.casttarget, NULL) || ')',
                                CASE x.castmethod WHEN 'f' THEN 'WITH FUNCTION ' || x.castfunc::pg_catalog.regprocedure WHEN 'i' THEN 'WITH INOUT' ELSE 'WITHOUT FUNCTION' END,
                                CASE x.castcontext WHEN 'a' THEN 'AS ASSIGNMENT' WHEN 'i' THEN 'AS IMPLICIT' END)
    FROM pg_catalog.pg_cast AS x
    UNION ALL
    SELECT 'pg_catalog.pg_operator'::pg_catalog.regclass, x.oid, 1,
           pg_catalog.format('CREATE OPERATOR %%I.%%s (%%s)', n.nspname, x.oprname,
                             pg_catalog.concat_ws(', ',
                                                  'FUNCTION = ' || x.oprcode::text,
                                                  'LEFTARG = ' || pg_catalog.format_type(nullif(x.oprleft, 0), NULL),
                                                  'RIGHTARG = ' || pg_catalog.format_type(nullif(x.oprright, 0), NULL),
                                                  'COMMUTATOR = ' || (SELECT pg_catalog.format('OPERATOR(%%I.%%s)', cn.nspname, c.oprname)
                                                                      FROM pg_catalog.pg_operator AS c
                                                                      JOIN pg_catalog.pg_namespace AS cn ON cn.oid = c.oprnamespace
                                                                      WHERE c.oid = x.oprcom),
                                                  'NEGATOR = ' || (SELECT pg_catalog.format('OPERATOR(%%I.%%s)', cn.nspname, c.oprname)
                                                                   FROM pg_catalog.pg_operator AS c
                                                                   JOIN pg_catalog.pg_namespace AS cn ON cn.oid = c.oprnamespace
                                                                   WHERE c.oid = x.oprnegate),
                                                  'RESTRICT = ' || nullif(x.oprrest::oid, 0)::pg_catalog.regproc::text,
                                                  'JOIN = ' || nullif(x.oprjoin::oid, 0)::pg_catalog.regproc::text,
                                                  CASE WHEN x.oprcanhash THEN 'HASHES' END,
                                                  CASE WHEN x.oprcanmerge THEN 'MERGES' END))
    FROM pg_catalog.pg_operator AS x
    JOIN pg_catalog.pg_namespace AS n ON n.oid = x.oprnamespace
    UNION ALL
    SELECT 'pg_catalog.pg_collation'::pg_catalog.regclass, x.oid, 1,
           pg_catalog.format('CREATE COLLATION %%I.%%I (%%s)', n.nspname, x.collname,
                             pg_catalog.concat_ws(', ',
                                                  'PROVIDER = ' || CASE x.collprovider WHEN 'i' THEN 'icu' WHEN 'b' THEN 'builtin' ELSE 'libc' END,
                                                  CASE WHEN x.collprovider = 'c' THEN NULL
                                                       ELSE 'LOCALE = ' || pg_catalog.quote_literal(coalesce(j.told ->> 'colllocale', j.told ->> 'colliculocale')) END,
                                                  CASE WHEN x.collprovider = 'c' THEN 'LC_COLLATE = ' || pg_catalog.quote_literal(x.collcollate) END,
                                                  CASE WHEN x.collprovider = 'c' THEN 'LC_CTYPE = ' || pg_catalog.quote_literal(x.collctype) END,
                                                  'RULES = ' || pg_catalog.quote_literal(j.told ->> 'collicurules'),
                                                  CASE WHEN NOT x.collisdeterministic THEN 'DETERMINISTIC = false' END))
    FROM pg_catalog.pg_collation AS x
    JOIN pg_catalog.pg_namespace AS n ON n.oid = x.collnamespace
    CROSS JOIN LATERAL pg_catalog.to_jsonb(x) AS j (told)
    UNION ALL
    SELECT 'pg_catalog.pg_conversion'::pg_catalog.regclass, x.oid, 1,
           pg_catalog.format('CREATE %%sCONVERSION %%I.%%I FOR %%L TO %%L FROM %%s', CASE WHEN x.condefault THEN 'DEFAULT ' ELSE '' END, n.nspname, x.conname,
                             pg_catalog.pg_encoding_to_char(x.conforencoding), pg_catalog.pg_encoding_to_char(x.contoencoding), x.conproc::text)
    FROM pg_catalog.pg_conversion AS x
    JOIN pg_catalog.pg_namespace AS n ON n.oid = x.connamespace
    UNION ALL
    SELECT 'pg_catalog.pg_language'::pg_catalog.regclass, x.oid, 1,
           pg_catalog.concat_ws(' ',
                                'CREATE ' || CASE WHEN x.lanpltrusted THEN 'TRUSTED ' ELSE '' END || 'LANGUAGE ' || pg_catalog.quote_ident(x.lanname),
                                'HANDLER ' || x.lanplcallfoid::pg_catalog.regproc,
                                'INLINE ' || nullif(x.laninline, 0)::pg_catalog.regproc::text,
                                'VALIDATOR ' || nullif(x.lanvalidator, 0)::pg_catalog.regproc::text)
    FROM pg_catalog.pg_language AS x
    UNION ALL
    SELECT 'pg_catalog.pg_am'::pg_catalog.regclass, x.oid, 1,
           pg_catalog.format('CREATE ACCESS METHOD %%I TYPE %%s HANDLER %%s', x.amname, CASE x.amtype WHEN 'i' THEN 'INDEX' ELSE 'TABLE' END, x.amhandler::text)
    FROM pg_catalog.pg_am AS x
    UNION ALL
    SELECT 'pg_catalog.pg_foreign_data_wrapper'::pg_catalog.regclass, x.oid, 1,
           pg_catalog.concat_ws(' ',
                                'CREATE FOREIGN DATA WRAPPER ' || pg_catalog.quote_ident(x.fdwname),
                                'HANDLER ' || nullif(x.fdwhandler, 0)::pg_catalog.regproc::text,
                                'VALIDATOR ' || nullif(x.fdwvalidator, 0)::pg_catalog.regproc::text,
                                'OPTIONS (' || (SELECT pg_catalog.string_agg(pg_catalog.format('%%I %%L', o.option_name, o.option_value), ', ')
                                                FROM pg_catalog.pg_options_to_table(x.fdwoptions) AS o) || ')')
    FROM pg_catalog.pg_foreign_data_wrapper AS x
    UNION ALL
    SELECT 'pg_catalog.pg_opfamily'::pg_catalog.regclass, x.oid, p.place, p.sql
    FROM pg_catalog.pg_opfamily AS x
    JOIN pg_catalog.pg_namespace AS n ON n.oid = x.opfnamespace
    JOIN pg_catalog.pg_am AS m ON m.oid = x.opfmethod
    CROSS JOIN LATERAL (
        SELECT 1 AS place,
               pg_catalog.format('CREATE OPERATOR FAMILY %%I.%%I USING %%I', n.nspname, x.opfname, m.amname) AS sql
        UNION ALL
        SELECT 2,
               pg_catalog.format('ALTER OPERATOR FAMILY %%I.%%I USING %%I ADD %%s', n.nspname, x.opfname, m.amname, pg_catalog.string_agg(o.sql, ', ' ORDER BY o.sql))
        FROM member AS o
        WHERE o.class = 'pg_catalog.pg_opfamily'::pg_catalog.regclass
          AND o.oid = x.oid
        HAVING pg_catalog.count(*) > 0
    ) AS p
    UNION ALL
    SELECT 'pg_catalog.pg_opclass'::pg_catalog.regclass, x.oid, 1,
           pg_catalog.format('CREATE OPERATOR CLASS %%I.%%I%%s FOR TYPE %%s USING %%I FAMILY %%I.%%I AS %%s', n.nspname, x.opcname,
                             CASE WHEN x.opcdefault THEN ' DEFAULT' ELSE '' END, pg_catalog.format_type(x.opcintype, NULL), m.amname, fn.nspname, f.opfname,
                             pg_catalog.concat_ws(', ',
                                                  -- A class without members has its own type as STORAGE: it needs one part.
                                                  'STORAGE ' || pg_catalog.format_type(nullif(x.opckeytype, 0), NULL),
                                                  coalesce((SELECT pg_catalog.string_agg(o.sql, ', ' ORDER BY o.sql)
                                                            FROM member AS o
                                                            WHERE o.class = 'pg_catalog.pg_opclass'::pg_catalog.regclass
                                                              AND o.oid = x.oid),
                                                           CASE x.opckeytype WHEN 0 THEN 'STORAGE ' || pg_catalog.format_type(x.opcintype, NULL) END)))
    FROM pg_catalog.pg_opclass AS x
    JOIN pg_catalog.pg_namespace AS n ON n.oid = x.opcnamespace
    JOIN pg_catalog.pg_am AS m ON m.oid = x.opcmethod
    JOIN pg_catalog.pg_opfamily AS f ON f.oid = x.opcfamily
    JOIN pg_catalog.pg_namespace AS fn ON fn.oid = f.opfnamespace
    UNION ALL
    SELECT 'pg_catalog.pg_foreign_server'::pg_catalog.regclass, x.oid, 1,
           pg_catalog.concat_ws(' ',
                                'CREATE SERVER ' || pg_catalog.quote_ident(x.srvname),
                                'TYPE ' || pg_catalog.quote_literal(x.srvtype),
                                'VERSION ' || pg_catalog.quote_literal(x.srvversion),
                                'FOREIGN DATA WRAPPER ' || pg_catalog.quote_ident(w.fdwname),
                                'OPTIONS (' || (SELECT pg_catalog.string_agg(pg_catalog.format('%%I %%L', o.option_name, o.option_value), ', ')
                                                FROM pg_catalog.pg_options_to_table(x.srvoptions) AS o) || ')')
    FROM pg_catalog.pg_foreign_server AS x
    JOIN pg_catalog.pg_foreign_data_wrapper AS w ON w.oid = x.srvfdw
    UNION ALL
    SELECT 'pg_catalog.pg_user_mapping'::pg_catalog.regclass, x.umid, 1,
           pg_catalog.format('CREATE USER MAPPING FOR %%s SERVER %%I', CASE x.umuser WHEN 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(x.usename) END, x.srvname)
    FROM pg_catalog.pg_user_mappings AS x
    JOIN pg_catalog.pg_foreign_server AS s ON s.oid = x.srvid
    -- To who may not see them the view shows NULL as well: as if there were none.
    WHERE x.umoptions IS NULL
      AND (pg_catalog.current_setting('is_superuser') = 'on'
           OR x.usename = current_user AND (pg_catalog.pg_has_role(s.srvowner, 'USAGE') OR pg_catalog.has_server_privilege(s.oid, 'USAGE'))
           OR x.umuser = 0 AND pg_catalog.pg_has_role(s.srvowner, 'USAGE'))
    UNION ALL
    SELECT 'pg_catalog.pg_ts_dict'::pg_catalog.regclass, x.oid, 1,
           pg_catalog.format('CREATE TEXT SEARCH DICTIONARY %%I.%%I (%%s)', n.nspname, x.dictname,
                             pg_catalog.concat_ws(', ', 'TEMPLATE = ' || pg_catalog.quote_ident(tn.nspname) || '.' || pg_catalog.quote_ident(t.tmplname), x.dictinitoption))
    FROM pg_catalog.pg_ts_dict AS x
    JOIN pg_catalog.pg_namespace AS n ON n.oid = x.dictnamespace
    JOIN pg_catalog.pg_ts_template AS t ON t.oid = x.dicttemplate
    JOIN pg_catalog.pg_namespace AS tn ON tn.oid = t.tmplnamespace
    UNION ALL
    SELECT 'pg_catalog.pg_ts_config'::pg_catalog.regclass, x.oid, p.place, p.sql
    FROM pg_catalog.pg_ts_config AS x
    JOIN pg_catalog.pg_namespace AS n ON n.oid = x.cfgnamespace
    JOIN pg_catalog.pg_ts_parser AS t ON t.oid = x.cfgparser
    JOIN pg_catalog.pg_namespace AS tn ON tn.oid = t.prsnamespace
    CROSS JOIN LATERAL (
        SELECT 1 AS place,
               pg_catalog.format('CREATE TEXT SEARCH CONFIGURATION %%I.%%I (PARSER = %%I.%%I)', n.nspname, x.cfgname, tn.nspname, t.prsname) AS sql
        UNION ALL
        SELECT 2,
               pg_catalog.format('ALTER TEXT SEARCH CONFIGURATION %%I.%%I ADD MAPPING FOR %%I WITH %%s', n.nspname, x.cfgname, k.alias,
                                 pg_catalog.string_agg(m.mapdict::pg_catalog.regdictionary::text, ', ' ORDER BY m.mapseqno))
        FROM pg_catalog.pg_ts_config_map AS m
        JOIN pg_catalog.ts_token_type(x.cfgparser) AS k ON k.tokid = m.maptokentype
        WHERE m.mapcfg = x.oid
        GROUP BY k.alias
    ) AS p
) AS r (class, oid, place, sql)
WHERE r.oid = ANY (%(oids)s::oid[])
  AND r.class::oid = ANY (%(classes)s::oid[])
ORDER BY 1, 2, 3;

-- name: facts_of_rarity
-- a row is: what ALTER can change of an event trigger, extension, server, wrapper or statistics
SELECT e.evtenabled::text AS enabled,
       NULL::text AS version,
       NULL::text[] AS options,
       NULL::integer AS statistics
FROM pg_catalog.pg_event_trigger AS e
WHERE e.oid = %(oid)s
UNION ALL
SELECT NULL, x.extversion, NULL, NULL
FROM pg_catalog.pg_extension AS x
WHERE x.oid = %(oid)s
UNION ALL
SELECT NULL, s.srvversion, coalesce(s.srvoptions, '{}'), NULL
FROM pg_catalog.pg_foreign_server AS s
WHERE s.oid = %(oid)s
UNION ALL
SELECT NULL, NULL, coalesce(w.fdwoptions, '{}'), NULL
FROM pg_catalog.pg_foreign_data_wrapper AS w
WHERE w.oid = %(oid)s
UNION ALL
SELECT NULL, NULL, NULL, coalesce(x.stxstattarget, -1)::integer
FROM pg_catalog.pg_statistic_ext AS x
WHERE x.oid = %(oid)s;

-- name: downgrade
-- a row is: whether an extension can be brought from one version to another
SELECT u.path IS NOT NULL AS is_known
FROM pg_catalog.pg_extension_update_paths(%(name)s) AS u
WHERE u.source = %(source)s
  AND u.target = %(target)s;

-- name: default_version
-- a row is: the version of an extension to which an update without one goes
SELECT a.default_version AS version
FROM pg_catalog.pg_available_extensions AS a
WHERE a.name = %(name)s;

-- name: publication
-- a row is: a publication's options, and what is in it
SELECT p.oid::bigint AS oid,
       pg_catalog.quote_ident(p.pubname) AS sql,
       pg_catalog.concat_ws(', ',
                            pg_catalog.format('publish = %%L', pg_catalog.concat_ws(', ',
                                                                                    CASE WHEN p.pubinsert THEN 'insert' END,
                                                                                    CASE WHEN p.pubupdate THEN 'update' END,
                                                                                    CASE WHEN p.pubdelete THEN 'delete' END,
                                                                                    CASE WHEN p.pubtruncate THEN 'truncate' END)),
                            'publish_via_partition_root = ' || p.pubviaroot,
                            'publish_generated_columns = ' || CASE pg_catalog.to_jsonb(p) ->> 'pubgencols' WHEN 's' THEN 'stored' WHEN 'n' THEN 'none' END) AS options,
       ARRAY(SELECT r.oid::bigint FROM pg_catalog.pg_publication_rel AS r WHERE r.prpubid = p.oid) AS tables,
       ARRAY(SELECT pg_catalog.quote_ident(n.nspname)
             FROM pg_catalog.pg_publication_namespace AS r
             JOIN pg_catalog.pg_namespace AS n ON n.oid = r.pnnspid
             WHERE r.pnpubid = p.oid) AS schemas
FROM pg_catalog.pg_publication AS p
WHERE p.pubname = %(name)s;

-- name: publication_14
-- a row is: as publication gives; PostgreSQL 14 publishes no schemas
SELECT p.oid::bigint AS oid,
       pg_catalog.quote_ident(p.pubname) AS sql,
       pg_catalog.concat_ws(', ',
                            pg_catalog.format('publish = %%L', pg_catalog.concat_ws(', ',
                                                                                    CASE WHEN p.pubinsert THEN 'insert' END,
                                                                                    CASE WHEN p.pubupdate THEN 'update' END,
                                                                                    CASE WHEN p.pubdelete THEN 'delete' END,
                                                                                    CASE WHEN p.pubtruncate THEN 'truncate' END)),
                            'publish_via_partition_root = ' || p.pubviaroot) AS options,
       ARRAY(SELECT r.oid::bigint FROM pg_catalog.pg_publication_rel AS r WHERE r.prpubid = p.oid) AS tables,
       ARRAY[]::text[] AS schemas
FROM pg_catalog.pg_publication AS p
WHERE p.pubname = %(name)s;

-- name: triggers
-- a row is: a trigger of one of these tables and for which sessions it fires
SELECT g.tgrelid AS relation,
       g.tgrelid::pg_catalog.regclass::text AS table,
       g.tgname::text AS name,
       pg_catalog.quote_ident(g.tgname) AS sql,
       g.tgenabled::text AS enabled,
       g.tgconstrindid <> 0 AS internal,
       g.oid::bigint AS oid
FROM pg_catalog.pg_trigger AS g
WHERE g.tgrelid = ANY (%(oids)s::oid[])
  AND (SELECT p.pronamespace FROM pg_catalog.pg_proc AS p WHERE p.oid = g.tgfoid)
      IS DISTINCT FROM pg_catalog.to_regnamespace('pgrunbook')::oid
ORDER BY g.oid;

-- name: rules
-- a row is: a rule of a relation and for which sessions it fires
SELECT w.rulename::text AS name,
       pg_catalog.quote_ident(w.rulename) AS sql,
       w.ev_enabled::text AS enabled,
       w.oid::bigint AS oid
FROM pg_catalog.pg_rewrite AS w
WHERE w.ev_class = %(oid)s;

-- name: policies
-- a row is: a policy of a table
SELECT o.polname::text AS name,
       o.oid::bigint AS oid
FROM pg_catalog.pg_policy AS o
WHERE o.polrelid = %(oid)s;

-- name: written_by
-- a row is: a table whose rows change when those of a table are deleted, updated or truncated; below another that has them
WITH RECURSIVE reached (oid, below) AS (
    SELECT o, false
    FROM pg_catalog.unnest(%(oids)s::oid[]) AS o
    UNION
    SELECT n.oid,
           n.below
    FROM reached AS r
    CROSS JOIN LATERAL (
        -- pg_constraint has no index on confrelid; pg_depend has one on what is referred to.
        SELECT k.conrelid AS oid,
               k.conparentid <> 0 AS below
        FROM pg_catalog.pg_constraint AS k
        WHERE k.oid = ANY (ARRAY(SELECT d.objid
                                 FROM pg_catalog.pg_depend AS d
                                 WHERE d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
                                   AND d.refobjid = r.oid
                                   AND d.classid = 'pg_catalog.pg_constraint'::pg_catalog.regclass))
          AND k.confrelid = r.oid
          AND k.contype = 'f'
          AND CASE %(how)s WHEN 'delete' THEN k.confdeltype IN ('c', 'n', 'd') WHEN 'update' THEN k.confupdtype IN ('c', 'n', 'd')
                   ELSE %(how)s = 'truncate' END
        UNION ALL
        SELECT i.inhrelid,
               true
        FROM pg_catalog.pg_inherits AS i
        WHERE i.inhparent = r.oid
    ) AS n
)
SELECT r.below,
       r.oid::bigint AS oid,
       r.oid::pg_catalog.regclass::text AS sql,
       (SELECT c.relkind::text FROM pg_catalog.pg_class AS c WHERE c.oid = r.oid) AS kind,
       ARRAY(SELECT pg_catalog.format('%%I', g.tgname)
             FROM pg_catalog.pg_trigger AS g
             WHERE g.tgrelid = r.oid
               AND g.tgconstrindid = 0
               AND g.tgenabled <> 'D'
               AND (SELECT p.pronamespace FROM pg_catalog.pg_proc AS p WHERE p.oid = g.tgfoid)
                   IS DISTINCT FROM pg_catalog.to_regnamespace('pgrunbook')::oid
             ORDER BY g.tgname) AS triggers
FROM reached AS r;

-- name: taken_statistics
-- a row is: the name of statistics in a schema
SELECT x.stxname::text AS name
FROM pg_catalog.pg_statistic_ext AS x
WHERE x.stxnamespace = (SELECT n.oid FROM pg_catalog.pg_namespace AS n WHERE n.nspname = %(schema)s);

-- name: labels_of_enum
-- a row is: a value of an enum, or of that of which a type is an array
SELECT e.enumlabel::text AS label
FROM pg_catalog.pg_enum AS e
WHERE e.enumtypid IN (%(oid)s, (SELECT t.typelem FROM pg_catalog.pg_type AS t WHERE t.oid = %(oid)s))
ORDER BY e.enumsortorder;

-- name: shared_comment
-- a row is: the comment on a database, tablespace or role
SELECT d.description AS comment
FROM pg_catalog.pg_shdescription AS d
WHERE d.classoid = %(class_)s
  AND d.objoid = %(oid)s;

-- name: owned
-- a row is: an object of this database that one of these roles owns
SELECT s.classid::bigint AS class,
       s.objid::bigint AS oid
FROM pg_catalog.pg_shdepend AS s
JOIN pg_catalog.pg_roles AS r ON r.oid = s.refobjid
WHERE s.refclassid = 'pg_catalog.pg_authid'::pg_catalog.regclass
  AND s.deptype = 'o'
  AND s.objsubid = 0
  AND s.dbid = (SELECT d.oid FROM pg_catalog.pg_database AS d WHERE d.datname = pg_catalog.current_database())
  AND r.rolname = ANY (%(names)s::text[])
  -- The sequence of a column follows its table.
  AND NOT EXISTS (SELECT
                  FROM pg_catalog.pg_depend AS d
                  WHERE d.classid = s.classid
                    AND d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
                    AND d.objid = s.objid
                    AND d.refclassid = d.classid
                    AND d.refobjsubid > 0
                    AND d.deptype IN ('a', 'i'))
ORDER BY s.classid, s.objid;

-- name: tablespace_options
-- a row is: the options of a tablespace
SELECT coalesce(s.spcoptions, '{}') AS options
FROM pg_catalog.pg_tablespace AS s
WHERE s.spcname = %(name)s;

-- name: in_tablespace
-- a row is: a relation that lies in a tablespace
SELECT c.oid::pg_catalog.regclass::text AS sql
FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_tablespace AS s ON s.oid = coalesce(nullif(c.reltablespace, 0), (SELECT d.dattablespace FROM pg_catalog.pg_database AS d WHERE d.datname = pg_catalog.current_database()))
WHERE s.spcname = %(name)s
  AND c.relkind::text = ANY (%(kinds)s::text[])
  AND c.oid >= 16384
  AND c.relnamespace <> 'pg_toast'::pg_catalog.regnamespace
ORDER BY c.oid;

-- name: regclass
-- a row is: the OID of a relation whose name stands in a text, 0 where there is none
SELECT coalesce(pg_catalog.to_regclass(%(name)s)::pg_catalog.oid, 0)::bigint AS oid;

-- name: writing_functions
-- a row is: the name of a function that may change something, as far as its volatility tells
SELECT p.proname::text AS name,
       pg_catalog.bool_or(p.pronamespace = 'pg_catalog'::pg_catalog.regnamespace) AS is_builtin
FROM pg_catalog.pg_proc AS p
WHERE p.proname = ANY (%(names)s::text[])
  AND p.provolatile = 'v'
  AND (p.pronamespace <> 'pg_catalog'::pg_catalog.regnamespace
       OR p.proname ~ '^(lo_|lowrite|query_to_|cursor_to_|pg_replication_|pg_logical_emit|pg_create_|pg_drop_)')
GROUP BY 1
ORDER BY 1;

-- name: indexes_of_partitions
-- a row is: an index of a partition that an index of the partitioned table may take over, as its definition
SELECT pg_catalog.pg_get_indexdef(i.indexrelid) AS definition,
       pg_catalog.format('%%I.%%I', n.nspname, c.relname) AS name
FROM pg_catalog.pg_partition_tree(%(oid)s::oid::pg_catalog.regclass) AS p
JOIN pg_catalog.pg_index AS i ON i.indrelid = p.relid
JOIN pg_catalog.pg_class AS c ON c.oid = i.indexrelid
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE p.level > 0
  AND c.relkind = 'i'
  AND NOT c.relispartition
  AND i.indisvalid
  AND i.indisunique = %(is_unique)s
  AND i.indnkeyatts = %(keys)s
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint AS k WHERE k.conindid = i.indexrelid)
ORDER BY p.level, i.indexrelid;

-- name: references
-- a row is: a foreign key that refers to a partitioned table, or to one that it is a partition of
SELECT k.conname::text AS name
FROM pg_catalog.pg_constraint AS k
WHERE k.contype = 'f'
  AND k.confrelid IN (SELECT a.relid FROM pg_catalog.pg_partition_ancestors(%(oid)s::oid) AS a)
