-- people
CREATE TABLE people (id int PRIMARY KEY, name text, age int);
SELECT 'é';
-- end
