-- Up Migration
CREATE INDEX CONCURRENTLY people_name ON people (name);

-- Down Migration
DROP INDEX people_name;
