ALTER TABLE organisations ADD COLUMN new_feature_enabled BOOLEAN DEFAULT FALSE;

UPDATE organisations SET new_feature_enabled = TRUE WHERE id IN ('org1', 'org2');

UPDATE organisations SET new_feature_enabled = TRUE;

ALTER TABLE organisations DROP COLUMN new_feature_enabled;
