CREATE TABLE projects_new (LIKE projects INCLUDING ALL);

INSERT INTO projects_new SELECT * FROM projects;

BEGIN;
ALTER TABLE projects RENAME TO projects_old;
ALTER TABLE projects_new RENAME TO projects;
COMMIT;

DROP TABLE projects_old;
