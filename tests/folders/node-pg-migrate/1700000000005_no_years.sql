-- Up Migration
ALTER TABLE people DROP years;

-- Down Migration
ALTER TABLE people ADD years int;
