-- Custom SQL migration file, put your code below! --
UPDATE "projects" SET "status" = 'active' WHERE "status" IS NULL;--> statement-breakpoint
UPDATE "deployments" SET "config" = jsonb_set("config", '{version}', '"2.0"') WHERE jsonb_typeof("config") = 'object' AND NOT "config" ? 'version';--> statement-breakpoint
DELETE FROM "sessions" WHERE "created_at" < '2026-04-01 00:00:00+00';
