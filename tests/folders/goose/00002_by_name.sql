-- +goose NO TRANSACTION
-- +goose Up
-- +goose StatementBegin
CREATE INDEX CONCURRENTLY people_name ON people (name);
-- +goose StatementEnd

-- +goose Down
DROP INDEX people_name;
