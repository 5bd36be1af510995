-- Up Migration
CREATE TABLE people (id int PRIMARY KEY, name text, age int);

-- Down Migration
DROP TABLE people;
