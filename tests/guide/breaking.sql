ALTER TABLE projects DROP COLUMN deprecated_field;

ALTER TABLE instances ALTER COLUMN memory TYPE BIGINT;

ALTER TABLE nodes RENAME COLUMN ip_address TO internal_ip;
