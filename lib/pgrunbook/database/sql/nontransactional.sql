-- name: index_is_valid
-- a row is: whether a table has an index of that name which is valid
SELECT EXISTS (SELECT
               FROM pg_catalog.pg_index AS i
               JOIN pg_catalog.pg_class AS c ON c.oid OPERATOR(pg_catalog.=) i.indexrelid
               WHERE i.indrelid OPERATOR(pg_catalog.=) pg_catalog.to_regclass({table})
                 AND c.relname OPERATOR(pg_catalog.=) {index}
                 AND i.indisvalid
                 AND i.indisready)

-- name: invalid_index
-- a row is: the statement that drops the index that an interrupted build has left on this table
SELECT pg_catalog.format('DROP INDEX CONCURRENTLY IF EXISTS %I.%I', n.nspname, c.relname) AS statement
FROM pg_catalog.pg_index AS i
JOIN pg_catalog.pg_class AS c ON c.oid OPERATOR(pg_catalog.=) i.indexrelid
JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
WHERE i.indrelid OPERATOR(pg_catalog.=) pg_catalog.to_regclass({table})
  AND c.relname OPERATOR(pg_catalog.=) {index}
  AND NOT (i.indisvalid AND i.indisready)

-- name: label_is_there
-- a row is: whether an enum has a label
SELECT EXISTS (SELECT
               FROM pg_catalog.pg_enum AS e
               WHERE e.enumtypid OPERATOR(pg_catalog.=) pg_catalog.to_regtype({type})
                 AND e.enumlabel OPERATOR(pg_catalog.=) {label})

-- name: database_is_there
-- a row is: whether the server has a database
SELECT EXISTS (SELECT FROM pg_catalog.pg_database AS d WHERE d.datname OPERATOR(pg_catalog.=) {name})

-- name: tablespace_is_there
-- a row is: whether the server has a tablespace
SELECT EXISTS (SELECT FROM pg_catalog.pg_tablespace AS t WHERE t.spcname OPERATOR(pg_catalog.=) {name})

-- name: subscription_is_there
-- a row is: whether the server has a subscription
SELECT EXISTS (SELECT FROM pg_catalog.pg_subscription AS s WHERE s.subname OPERATOR(pg_catalog.=) {name})
