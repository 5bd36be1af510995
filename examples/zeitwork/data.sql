-- Deterministic data for the schema after 0001_add_live_projects_view.
-- The setting zeitwork.rows says how many rows the largest table (sessions) gets; the others follow in
-- proportion. Set it first:  SELECT set_config('zeitwork.rows', '200000', false);
-- Every value follows from the row's number i, without random() or now(), so that all copies are equal.
-- Times step in hours, because the length of a day depends on the session's time zone.
-- "featureFlags" stays empty.

INSERT INTO organisations (id, name, slug, plan, "externalId", created_at, updated_at, deleted_at)
SELECT
    md5('organisation-' || i)::uuid,
    CASE mod(i, 5)
        WHEN 1 THEN 'O''Brien & "Söhne" ' || i
        WHEN 2 THEN '株式会社ツァイト ' || i
        WHEN 3 THEN 'Trailing Spaces ' || i || '   '
        WHEN 4 THEN 'Back\slash; -- comment ' || i
        ELSE 'Organisation ' || i
    END,
    'organisation-' || i,
    (enum_range(NULL::organisation_plan))[1 + mod(i, 3)],
    CASE WHEN mod(i, 4) > 0 THEN 'EXT-' || lpad(i::text, 8, '0') END,
    timestamptz '2025-01-01 00:00:00+00' + make_interval(hours => mod(i * 31, 8760)),
    timestamptz '2026-01-01 00:00:00+00' + make_interval(hours => mod(i * 31, 4320)),
    CASE WHEN mod(i, 50) = 0 THEN timestamptz '2026-08-01 00:00:00+00' END
FROM generate_series(1, greatest(1, current_setting('zeitwork.rows')::integer / 1000)) AS i
ORDER BY i;

-- A third has no status yet: 0003_fill_status_and_config fills it.
INSERT INTO projects (id, org_id, name, slug, status, created_at, updated_at, deleted_at)
SELECT
    md5('project-' || i)::uuid,
    md5('organisation-' || 1 + mod(i - 1, parents.organisations))::uuid,
    CASE mod(i, 4)
        WHEN 1 THEN 'L''été ' || i
        WHEN 2 THEN 'Проект 🚀 ' || i || ' '
        WHEN 3 THEN '100% "quoted" ' || i
        ELSE 'Project ' || i
    END,
    'project-' || i,
    CASE mod(i, 3) WHEN 0 THEN 'active' WHEN 1 THEN NULL ELSE 'paused' END,
    timestamptz '2025-06-01 00:00:00+00' + make_interval(hours => mod(i * 29, 5000)),
    timestamptz '2026-01-01 00:00:00+00' + make_interval(hours => mod(i * 29, 4320)),
    CASE WHEN mod(i, 20) = 0 THEN timestamptz '2026-08-01 00:00:00+00' END
FROM generate_series(1, greatest(1, current_setting('zeitwork.rows')::integer / 100)) AS i,
    (SELECT count(*) AS organisations FROM organisations) AS parents
ORDER BY i;

-- A project gets eight deployments in a row, one of each kind of config.
-- 0003_fill_status_and_config may touch only the objects without a version: the first kind and the seventh.
INSERT INTO deployments (id, project_id, status, config, created_at, updated_at)
SELECT
    md5('deployment-' || i)::uuid,
    md5('project-' || 1 + mod(i / 8, parents.projects))::uuid,
    (ARRAY['ready', 'ready', 'failed', 'building', 'pending'])[1 + mod(i, 5)],
    CASE mod(i, 8)
        WHEN 0 THEN jsonb_build_object('region', 'fra1', 'replicas', mod(i, 7))
        WHEN 1 THEN NULL
        WHEN 2 THEN jsonb_build_array('build', 'start', i)
        WHEN 3 THEN to_jsonb('docker'::text)
        WHEN 4 THEN '{"version": null}'
        WHEN 5 THEN jsonb_build_object('version', '1.0', 'env', jsonb_build_object('PORT', '3000'))
        WHEN 6 THEN '{}'
        ELSE 'null'
    END,
    timestamptz '2026-01-01 00:00:00+00' + make_interval(hours => mod(i * 41, 6480)),
    timestamptz '2026-01-01 00:00:00+00' + make_interval(hours => mod(i * 41, 6480) + mod(i, 48))
FROM generate_series(1, greatest(1, current_setting('zeitwork.rows')::bigint * 3 / 10)::integer) AS i,
    (SELECT count(*) AS projects FROM projects) AS parents
ORDER BY i;

INSERT INTO nodes (id, hostname, ip_address, created_at, updated_at)
SELECT
    md5('node-' || i)::uuid,
    'node-' || i || '.fra1.zeitwork.example',
    host(inet '10.0.0.0' + i),
    timestamptz '2025-01-01 00:00:00+00' + make_interval(hours => mod(i * 23, 8760)),
    timestamptz '2026-01-01 00:00:00+00' + make_interval(hours => mod(i * 23, 4320))
FROM generate_series(1, greatest(1, current_setting('zeitwork.rows')::integer / 2000)) AS i
ORDER BY i;

INSERT INTO instances (id, deployment_id, node_id, status, memory, cpu, created_at, updated_at)
SELECT
    md5('instance-' || i)::uuid,
    md5('deployment-' || 1 + mod(i - 1, parents.deployments))::uuid,
    md5('node-' || 1 + mod(i - 1, parents.nodes))::uuid,
    (ARRAY['running', 'running', 'stopped', 'pending'])[1 + mod(i, 4)],
    256 * (1 << mod(i / 4, 8)),
    CASE WHEN mod(i, 10) > 0 THEN 1 + mod(i / 4, 16) END,
    timestamptz '2026-01-01 00:00:00+00' + make_interval(hours => mod(i * 43, 6480)),
    timestamptz '2026-01-01 00:00:00+00' + make_interval(hours => mod(i * 43, 6480) + mod(i, 24))
FROM generate_series(1, greatest(1, current_setting('zeitwork.rows')::integer / 5)) AS i,
    (SELECT
        (SELECT count(*) FROM deployments) AS deployments,
        (SELECT count(*) FROM nodes) AS nodes
    ) AS parents
ORDER BY i;

-- Spread over 270 days; the first 90 days are before the date at which 0003_fill_status_and_config deletes.
INSERT INTO sessions (id, organisation_id, token_hash, created_at, updated_at)
SELECT
    md5('session-' || i)::uuid,
    md5('organisation-' || 1 + mod(i - 1, parents.organisations))::uuid,
    encode(sha256(convert_to('token-' || i, 'UTF8')), 'hex'),
    timestamptz '2026-01-01 00:00:00+00' + make_interval(hours => mod(i * 37, 6480)),
    timestamptz '2026-01-01 00:00:00+00' + make_interval(hours => mod(i * 37, 6480) + mod(i, 12))
FROM generate_series(1, greatest(1, current_setting('zeitwork.rows')::integer)) AS i,
    (SELECT count(*) AS organisations FROM organisations) AS parents
ORDER BY i;

ANALYZE organisations, projects, deployments, nodes, instances, sessions, "featureFlags";
