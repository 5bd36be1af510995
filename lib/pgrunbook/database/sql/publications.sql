-- name: on_table
-- a row is: a publication that sends a table, what of it, and what it asks of the table's key
SELECT p.pubname::text AS name,
       pg_catalog.pg_has_role(p.pubowner, 'USAGE') AS is_own,
       CASE WHEN p.puballtables THEN 'all tables'
            WHEN s.is_of_schema THEN 'schema'
            ELSE 'table' END AS kind,
       s.has_schemas AS has_schemas,
       r.prattrs IS NOT NULL AS is_listed,
       ARRAY(SELECT a.attname::text
             FROM pg_catalog.pg_depend AS d
             JOIN pg_catalog.pg_attribute AS a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
             WHERE d.classid = 'pg_catalog.pg_publication_rel'::regclass
               AND d.objid = r.oid
               AND d.refclassid = 'pg_catalog.pg_class'::regclass
               AND d.refobjid = c.oid
             GROUP BY a.attname, a.attnum
             ORDER BY a.attnum) AS uses,
       ARRAY(SELECT a.attname::text
             FROM pg_catalog.pg_attribute AS a
             WHERE a.attrelid = c.oid
               AND (p.pubupdate OR p.pubdelete)
               AND a.attnum = ANY (i.columns)
             ORDER BY a.attnum) AS key,
       ARRAY(SELECT a.attname::text
             FROM pg_catalog.pg_attribute AS a
             WHERE a.attrelid = c.oid
               AND a.attnum IN (SELECT m[1]::smallint
                                FROM pg_catalog.regexp_matches(r.prqual::text, ':varattno (\d+)', 'g') AS m)
             ORDER BY a.attnum) AS filters,
       p.pubupdate AS sends_updates,
       p.pubupdate
           AND coalesce(CASE WHEN c.relreplident = 'f' THEN r.prattrs IS NOT NULL
                             ELSE i.columns IS NULL
                                  OR NOT i.columns <@ r.prattrs::smallint[]
                                  OR NOT ARRAY(SELECT m[1]::smallint
                                               FROM pg_catalog.regexp_matches(r.prqual::text, ':varattno (\d+)', 'g') AS m) <@ i.columns
                             END, false) AS forbids_updates,
       (p.pubupdate OR p.pubdelete) AND c.relreplident = 'f' AS needs_whole_rows
FROM pg_catalog.pg_class AS c
CROSS JOIN pg_catalog.pg_publication AS p
LEFT JOIN pg_catalog.pg_publication_rel AS r ON r.prpubid = p.oid AND r.prrelid = c.oid
CROSS JOIN LATERAL (SELECT coalesce(pg_catalog.bool_or(n.pnnspid = c.relnamespace), false) AS is_of_schema,
                           count(*) > 0 AS has_schemas
                    FROM pg_catalog.pg_publication_namespace AS n
                    WHERE n.pnpubid = p.oid) AS s
LEFT JOIN LATERAL (SELECT (x.indkey::smallint[])[0:x.indnkeyatts - 1] AS columns
                   FROM pg_catalog.pg_index AS x
                   WHERE x.indrelid = c.oid
                     AND x.indimmediate
                     AND CASE c.relreplident WHEN 'd' THEN x.indisprimary ELSE x.indisreplident END) AS i ON true
WHERE c.oid = %(table)s::oid
  AND c.relpersistence = 'p'
  AND (p.puballtables OR r.oid IS NOT NULL OR s.is_of_schema)
ORDER BY p.pubname

-- name: on_table_14
-- a row is: as on_table; before PostgreSQL 15 a publication sends all columns of its tables
SELECT p.pubname::text AS name,
       pg_catalog.pg_has_role(p.pubowner, 'USAGE') AS is_own,
       'before 15' AS kind,
       false AS has_schemas,
       false AS is_listed,
       '{}'::text[] AS uses,
       '{}'::text[] AS key,
       '{}'::text[] AS filters,
       p.pubupdate AS sends_updates,
       false AS forbids_updates,
       false AS needs_whole_rows
FROM pg_catalog.pg_class AS c
CROSS JOIN pg_catalog.pg_publication AS p
WHERE c.oid = %(table)s::oid
  AND c.relpersistence = 'p'
  AND (p.puballtables
       OR EXISTS (SELECT
                  FROM pg_catalog.pg_publication_rel AS r
                  WHERE r.prpubid = p.oid
                    AND r.prrelid = c.oid))
ORDER BY p.pubname

-- name: registry_is_there
-- a row is: whether this database notes which publications have a list of columns until contract
SELECT pg_catalog.to_regclass('pgrunbook.published') IS NOT NULL

-- name: listed
-- a row is: a table that has a list of columns in a publication until contract, by the name that a snapshot gives it
SELECT pg_catalog.quote_ident(p.pubname) || ' ' || pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname) AS name
FROM pgrunbook.published AS w
JOIN pg_catalog.pg_publication AS p ON p.pubname = w.publication
JOIN pg_catalog.pg_namespace AS n ON n.nspname = w.table_schema
JOIN pg_catalog.pg_class AS c ON c.relnamespace = n.oid AND c.relname = w.table_name
ORDER BY 1

-- name: names_are_there
-- a row is: whether this database notes which columns live beside others until contract
SELECT pg_catalog.to_regclass('pgrunbook.shadow') IS NOT NULL

-- name: renamed
-- a row is: a table of which a publication's list has the old name of a renamed column until contract, as in listed
SELECT DISTINCT
       pg_catalog.quote_ident(p.pubname) || ' ' || pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname) AS name
FROM pgrunbook.shadow AS w
JOIN pg_catalog.pg_namespace AS n ON n.nspname = w.table_schema
JOIN pg_catalog.pg_class AS c ON c.relnamespace = n.oid AND c.relname = w.table_name
JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attname = w.shadow_name
JOIN pg_catalog.pg_depend AS d
  ON d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
 AND d.refobjid = c.oid
 AND d.refobjsubid = a.attnum
 AND d.classid = 'pg_catalog.pg_publication_rel'::pg_catalog.regclass
JOIN pg_catalog.pg_publication_rel AS r ON r.oid = d.objid
JOIN pg_catalog.pg_publication AS p ON p.oid = r.prpubid
WHERE w.kind = 'rename'
ORDER BY 1

-- name: having
-- a row is: how a publication has a table, or some of its columns: what takes it out, and what puts it back
SELECT pg_catalog.format('ALTER PUBLICATION %%I DROP TABLE ONLY %%s', p.pubname, r.prrelid::pg_catalog.regclass) AS out,
       pg_catalog.format('ALTER PUBLICATION %%I ADD TABLE %%s', p.pubname,
                         pg_catalog.concat_ws(' ',
                                              'ONLY ' || r.prrelid::pg_catalog.regclass,
                                              '(' || (SELECT pg_catalog.string_agg(DISTINCT pg_catalog.quote_ident(coalesce({names}::pg_catalog.jsonb ->> a.attname::pg_catalog.text, a.attname)), ', ')
                                                      FROM pg_catalog.pg_attribute AS a
                                                      WHERE a.attrelid = r.prrelid
                                                        AND a.attnum = ANY (r.prattrs)) || ')',
                                              'WHERE (' || pg_catalog.pg_get_expr(r.prqual, r.prrelid) || ')')) AS back
FROM pg_catalog.pg_publication_rel AS r
JOIN pg_catalog.pg_publication AS p ON p.oid = r.prpubid
WHERE r.prrelid = {table}::pg_catalog.regclass
  AND ({columns}::pg_catalog.text[] IS NULL
       OR EXISTS (SELECT
                  FROM pg_catalog.pg_depend AS d
                  JOIN pg_catalog.pg_attribute AS a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
                  WHERE d.classid = 'pg_catalog.pg_publication_rel'::pg_catalog.regclass
                    AND d.objid = r.oid
                    AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
                    AND d.refobjid = r.prrelid
                    AND a.attname = ANY ({columns}::pg_catalog.text[])))
ORDER BY p.pubname

-- name: having_14
-- a row is: as having, of all columns; PostgreSQL 14 knows neither columns nor filters there
SELECT pg_catalog.format('ALTER PUBLICATION %%I DROP TABLE ONLY %%s', p.pubname, r.prrelid::pg_catalog.regclass) AS out,
       pg_catalog.format('ALTER PUBLICATION %%I ADD TABLE ONLY %%s', p.pubname, r.prrelid::pg_catalog.regclass) AS back
FROM pg_catalog.pg_publication_rel AS r
JOIN pg_catalog.pg_publication AS p ON p.oid = r.prpubid
WHERE r.prrelid = {table}::pg_catalog.regclass
ORDER BY p.pubname

-- name: sending
-- a row is: a publication that sends some of a table's columns
SELECT pg_catalog.quote_ident(p.pubname) AS name
FROM pg_catalog.pg_publication AS p
JOIN pg_catalog.pg_class AS c ON c.oid = {table}::pg_catalog.regclass AND c.relpersistence = 'p'
LEFT JOIN pg_catalog.pg_publication_rel AS r ON r.prpubid = p.oid AND r.prrelid = c.oid
WHERE CASE WHEN r.oid IS NOT NULL AND r.prattrs IS NOT NULL THEN
                EXISTS (SELECT
                        FROM pg_catalog.pg_attribute AS a
                        WHERE a.attrelid = c.oid
                          AND a.attnum = ANY (r.prattrs)
                          AND a.attname = ANY ({columns}::pg_catalog.text[]))
           ELSE p.puballtables
                OR r.oid IS NOT NULL
                OR EXISTS (SELECT
                           FROM pg_catalog.pg_publication_namespace AS n
                           WHERE n.pnpubid = p.oid
                             AND n.pnnspid = c.relnamespace) END
ORDER BY p.pubname

-- name: sending_14
-- a row is: as sending; before PostgreSQL 15 a publication sends all columns of its tables
SELECT pg_catalog.quote_ident(p.pubname) AS name
FROM pg_catalog.pg_publication AS p
WHERE p.puballtables
   OR EXISTS (SELECT
              FROM pg_catalog.pg_publication_rel AS r
              WHERE r.prpubid = p.oid
                AND r.prrelid = {table}::pg_catalog.regclass)
ORDER BY p.pubname

-- name: of_table
-- a row is: a publication that has a table by its name: its list, what it could send, and how it is set anew
SELECT p.pubname::pg_catalog.text AS name,
       r.prattrs IS NOT NULL AS is_listed,
       pg_catalog.format('ALTER PUBLICATION %%I DROP TABLE ONLY %%s', p.pubname, r.prrelid::pg_catalog.regclass) AS out,
       pg_catalog.format('ALTER PUBLICATION %%I ADD TABLE ONLY %%s', p.pubname, r.prrelid::pg_catalog.regclass) AS back,
       ' (' || s.columns || ')' AS list,
       coalesce(' WHERE (' || pg_catalog.pg_get_expr(r.prqual, r.prrelid) || ')', '') AS filter,
       s.numbers = ARRAY(SELECT x.number FROM pg_catalog.unnest(r.prattrs::pg_catalog.int2[]) AS x (number) ORDER BY 1)
           AS has_all
FROM pg_catalog.pg_publication_rel AS r
JOIN pg_catalog.pg_publication AS p ON p.oid = r.prpubid
CROSS JOIN LATERAL (SELECT pg_catalog.string_agg(pg_catalog.quote_ident(a.attname), ', ' ORDER BY a.attnum) AS columns,
                           pg_catalog.array_agg(a.attnum ORDER BY a.attnum) AS numbers
                    FROM pg_catalog.pg_attribute AS a
                    WHERE a.attrelid = r.prrelid
                      AND a.attnum > 0
                      AND NOT a.attisdropped
                      AND a.attname <> ALL ({without}::pg_catalog.text[])
                      AND (a.attgenerated = ''
                           OR a.attgenerated = 's' AND pg_catalog.to_jsonb(p) ->> 'pubgencols' = 's')) AS s
WHERE r.prrelid = {table}::pg_catalog.regclass
ORDER BY p.pubname

-- name: with_others
-- a row is: a publication that has a list of a table's columns until contract, and the statements that change that
SELECT pg_catalog.format('ALTER PUBLICATION %%I DROP TABLE ONLY %%s', p.pubname, r.prrelid::pg_catalog.regclass) AS out,
       pg_catalog.format('ALTER PUBLICATION %%I ADD TABLE ONLY %%s (%%s)%%s', p.pubname, r.prrelid::pg_catalog.regclass,
                         (SELECT pg_catalog.string_agg(pg_catalog.quote_ident(a.attname), ', ' ORDER BY a.attnum)
                          FROM pg_catalog.pg_attribute AS a
                          WHERE a.attrelid = r.prrelid
                            AND NOT a.attisdropped
                            AND (a.attnum = ANY (r.prattrs) AND a.attname <> ALL ({gone}::pg_catalog.text[])
                                 OR a.attname = ANY ({come}::pg_catalog.text[]))),
                         ' WHERE (' || pg_catalog.pg_get_expr(r.prqual, r.prrelid) || ')') AS back
FROM pg_catalog.pg_publication_rel AS r
JOIN pg_catalog.pg_publication AS p ON p.oid = r.prpubid
WHERE r.prrelid = {table}::pg_catalog.regclass
  AND r.prattrs IS NOT NULL
  AND EXISTS (SELECT
              FROM pgrunbook.published AS w
              WHERE (w.publication, w.table_schema, w.table_name) = (p.pubname, {schema}, {name}))
ORDER BY p.pubname
