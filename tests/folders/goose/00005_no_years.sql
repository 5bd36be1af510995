-- +goose NO TRANSACTION
-- +goose Up
-- +goose StatementBegin
ALTER TABLE people DROP years;
-- +goose StatementEnd

-- +goose Down
ALTER TABLE people ADD years int;
