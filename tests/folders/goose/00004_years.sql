-- +goose NO TRANSACTION
-- +goose Up
-- +goose StatementBegin
ALTER TABLE people RENAME age TO years;
-- +goose StatementEnd

-- +goose Down
ALTER TABLE people RENAME years TO age;
