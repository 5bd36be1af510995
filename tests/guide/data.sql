UPDATE projects SET status = 'active' WHERE status IS NULL;

UPDATE deployments
SET config = jsonb_set(config, '{version}', '"2.0"'::jsonb)
WHERE config->>'version' IS NULL;

DELETE FROM sessions WHERE created_at < NOW() - INTERVAL '30 days';
