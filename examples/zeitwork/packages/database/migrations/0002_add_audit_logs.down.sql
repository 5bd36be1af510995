DROP INDEX "idx_projects_org_id";--> statement-breakpoint
ALTER TABLE "projects" DROP COLUMN "description";--> statement-breakpoint
DROP TABLE "audit_logs";
