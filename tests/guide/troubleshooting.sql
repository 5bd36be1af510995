SELECT pg_terminate_backend(4711);

DELETE FROM schema_migrations
WHERE version = 'duplicate_version'
AND applied_at != (SELECT MIN(applied_at) FROM schema_migrations WHERE version = 'duplicate_version');

ANALYZE table_name;

REINDEX TABLE table_name;

EXPLAIN ANALYZE SELECT * FROM table_name WHERE condition;
