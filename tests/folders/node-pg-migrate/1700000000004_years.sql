-- Up Migration
ALTER TABLE people RENAME age TO years;

-- Down Migration
ALTER TABLE people RENAME years TO age;
