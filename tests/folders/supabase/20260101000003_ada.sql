-- ada
INSERT INTO people VALUES (1, 'Ada', 36);
SELECT 'é';
-- end
