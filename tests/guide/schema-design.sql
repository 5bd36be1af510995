-- The guide shows these as parts of a table; here they are put into one.
CREATE TABLE designed (
    id UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    project_id UUID,
    slug TEXT UNIQUE,
    created_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    updated_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    deleted_at TIMESTAMP,
    FOREIGN KEY (project_id) REFERENCES projects(id) ON DELETE CASCADE
);

CREATE INDEX CONCURRENTLY idx_table_column ON "table"("column");

ALTER TABLE deployments ADD FOREIGN KEY (project_id) REFERENCES projects(id) ON DELETE CASCADE;
