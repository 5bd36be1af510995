-- no_years
ALTER TABLE people DROP years;
