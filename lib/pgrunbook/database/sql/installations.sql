-- name: needs
-- a row is: what this session's database asks of an installation of PostgreSQL that a branch of it runs on
SELECT
    (
        SELECT coalesce(pg_catalog.array_agg(e.extname::pg_catalog.text ORDER BY e.extname), '{}')
        FROM pg_catalog.pg_extension e
    ) AS extensions,
    (
        SELECT coalesce(pg_catalog.array_agg(a.name::pg_catalog.text ORDER BY a.name), '{}')
        FROM pg_catalog.pg_available_extensions a
    ) AS available,
    EXISTS (
        SELECT
        FROM pg_catalog.pg_collation c
        WHERE c.collprovider = 'i'
          AND (
                c.collnamespace <> 'pg_catalog'::pg_catalog.regnamespace
             OR EXISTS (
                    SELECT
                    FROM pg_catalog.pg_depend d
                    WHERE d.refclassid = 'pg_catalog.pg_collation'::pg_catalog.regclass
                      AND d.refobjid = c.oid
                )
          )
    ) AS icu,
    EXISTS (
        SELECT
        FROM pg_catalog.pg_attribute a
        JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
        WHERE a.atttypid IN ('pg_catalog.xml'::pg_catalog.regtype, 'pg_catalog._xml'::pg_catalog.regtype)
          AND a.attnum > 0
          AND c.relnamespace NOT IN (
                'pg_catalog'::pg_catalog.regnamespace, 'information_schema'::pg_catalog.regnamespace
          )
    ) AS xml,
    EXISTS (
        SELECT
        FROM pg_catalog.pg_attribute a
        WHERE a.attcompression = 'l'
    ) AS lz4
