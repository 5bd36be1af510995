-- +goose NO TRANSACTION
-- +goose Up
-- +goose StatementBegin
INSERT INTO people VALUES (1, 'Ada', 36);
-- +goose StatementEnd

-- +goose Down
DELETE FROM people WHERE id = 1;
