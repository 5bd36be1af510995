-- no_years
ALTER TABLE people DROP years;
SELECT 'é';
-- end
