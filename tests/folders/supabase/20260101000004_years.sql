-- years
ALTER TABLE people RENAME age TO years;
SELECT 'é';
-- end
