-- by_name
CREATE INDEX CONCURRENTLY people_name ON people (name);
