-- +goose NO TRANSACTION
-- +goose Up
-- +goose StatementBegin
CREATE TABLE people (id int PRIMARY KEY, name text, age int);
-- +goose StatementEnd

-- +goose Down
DROP TABLE people;
