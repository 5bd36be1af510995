-- Up Migration
INSERT INTO people VALUES (1, 'Ada', 36);

-- Down Migration
DELETE FROM people WHERE id = 1;
