ALTER TABLE projects DROP COLUMN IF EXISTS new_column;

DROP INDEX IF EXISTS idx_projects_new;

ALTER TABLE nodes RENAME COLUMN internal_ip TO ip_address;

DELETE FROM schema_migrations WHERE version = '0003_add_new_feature';
