-- file: 0000_init.sql
CREATE TYPE "public"."plan" AS ENUM('free', 'pro');--> statement-breakpoint
CREATE TABLE "accounts" (
	"id" uuid PRIMARY KEY DEFAULT gen_random_uuid() NOT NULL,
	"name" varchar(120) NOT NULL,
	"plan" "plan" DEFAULT 'free' NOT NULL,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL
);
--> statement-breakpoint
CREATE TABLE "projects" (
	"id" bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY (sequence name "projects_id_seq" INCREMENT BY 1 MINVALUE 1 MAXVALUE 9223372036854775807 START WITH 1 CACHE 1),
	"account_id" uuid NOT NULL,
	"slug" text NOT NULL,
	"meta" jsonb DEFAULT '{}'::jsonb NOT NULL,
	CONSTRAINT "projects_slug_unique" UNIQUE("slug")
);
--> statement-breakpoint
ALTER TABLE "projects" ADD CONSTRAINT "projects_account_id_accounts_id_fk" FOREIGN KEY ("account_id") REFERENCES "public"."accounts"("id") ON DELETE cascade ON UPDATE no action;--> statement-breakpoint
CREATE INDEX "projects_account_idx" ON "projects" USING btree ("account_id");
-- file: 0001_old_style.sql
DO $$ BEGIN
 CREATE TYPE "public"."channel" AS ENUM('email', 'sms');
EXCEPTION
 WHEN duplicate_object THEN null;
END $$;
--> statement-breakpoint
CREATE TABLE IF NOT EXISTS "notifications" (
	"id" serial PRIMARY KEY NOT NULL,
	"project_id" bigint NOT NULL,
	"channel" "channel" NOT NULL,
	"payload" jsonb
);
--> statement-breakpoint
DO $$ BEGIN
 ALTER TABLE "notifications" ADD CONSTRAINT "notifications_project_id_projects_id_fk" FOREIGN KEY ("project_id") REFERENCES "public"."projects"("id") ON DELETE no action ON UPDATE no action;
EXCEPTION
 WHEN duplicate_object THEN null;
END $$;
--> statement-breakpoint
CREATE INDEX IF NOT EXISTS "notifications_project_idx" ON "notifications" USING btree ("project_id");
-- file: 0002_add_column.sql
ALTER TABLE "projects" ADD COLUMN "archived_at" timestamp with time zone;
-- file: 0003_default.sql
ALTER TABLE "accounts" ALTER COLUMN "plan" SET DEFAULT 'pro';
-- file: 0004_enum_value.sql
ALTER TYPE "public"."plan" ADD VALUE 'team' BEFORE 'pro';
-- file: 0005_enum_rewrite.sql
ALTER TABLE "accounts" ALTER COLUMN "plan" SET DATA TYPE text;--> statement-breakpoint
ALTER TABLE "accounts" ALTER COLUMN "plan" SET DEFAULT 'free'::text;--> statement-breakpoint
DROP TYPE "public"."plan";--> statement-breakpoint
CREATE TYPE "public"."plan" AS ENUM('free', 'pro', 'enterprise');--> statement-breakpoint
ALTER TABLE "accounts" ALTER COLUMN "plan" SET DEFAULT 'free'::"public"."plan";--> statement-breakpoint
ALTER TABLE "accounts" ALTER COLUMN "plan" SET DATA TYPE "public"."plan" USING "plan"::"public"."plan";
-- file: 0006_members.sql
CREATE TABLE "members" (
	"account_id" uuid NOT NULL,
	"user_id" text NOT NULL,
	"role" text DEFAULT 'member' NOT NULL,
	CONSTRAINT "members_account_id_user_id_pk" PRIMARY KEY("account_id","user_id"),
	CONSTRAINT "role_check" CHECK ("members"."role" in ('member', 'owner'))
);
--> statement-breakpoint
ALTER TABLE "members" ADD CONSTRAINT "members_account_id_accounts_id_fk" FOREIGN KEY ("account_id") REFERENCES "public"."accounts"("id") ON DELETE cascade ON UPDATE no action;
-- file: 0007_rls.sql
ALTER TABLE "members" ENABLE ROW LEVEL SECURITY;--> statement-breakpoint
CREATE POLICY "members_own" ON "members" AS PERMISSIVE FOR SELECT TO public USING (user_id = current_setting('app.user', true));
-- file: 0008_view.sql
CREATE VIEW "public"."active_projects" AS (select "id", "slug" from "projects" where "projects"."archived_at" is null);
-- file: 0009_matview.sql
CREATE MATERIALIZED VIEW "public"."project_counts" AS (select "account_id", count(*) as "n" from "projects" group by "account_id");--> statement-breakpoint
CREATE UNIQUE INDEX "project_counts_account_idx" ON "project_counts" ("account_id");
-- file: 0010_drop_not_null.sql
ALTER TABLE "accounts" ALTER COLUMN "name" SET DATA TYPE text;
-- file: 0011_new_schema.sql
CREATE SCHEMA "billing";
--> statement-breakpoint
CREATE TABLE "billing"."invoices" (
	"id" uuid PRIMARY KEY DEFAULT gen_random_uuid() NOT NULL,
	"account_id" uuid NOT NULL REFERENCES "public"."accounts"("id"),
	"cents" bigint NOT NULL,
	"paid" boolean DEFAULT false NOT NULL
);
--> statement-breakpoint
CREATE INDEX "invoices_unpaid_idx" ON "billing"."invoices" USING btree ("account_id") WHERE not paid;
-- file: 0012_seed_flags.sql
CREATE TABLE "flags" ("key" text PRIMARY KEY NOT NULL, "on" boolean DEFAULT false NOT NULL);
--> statement-breakpoint
INSERT INTO "flags" ("key", "on") VALUES ('new_billing', false), ('beta', true) ON CONFLICT DO NOTHING;
-- file: 0013_check.sql
ALTER TABLE "billing"."invoices" ADD CONSTRAINT "cents_positive" CHECK ("billing"."invoices"."cents" >= 0) NOT VALID;
-- file: 0014_validate.sql
ALTER TABLE "billing"."invoices" VALIDATE CONSTRAINT "cents_positive";
-- file: 0015_sequence.sql
CREATE SEQUENCE "public"."invoice_numbers" INCREMENT BY 1 MINVALUE 1 MAXVALUE 9223372036854775807 START WITH 1000 CACHE 1;
-- file: 0016_generated.sql
CREATE TABLE "people" ("id" serial PRIMARY KEY NOT NULL, "first" text NOT NULL, "last" text NOT NULL, "full" text GENERATED ALWAYS AS ("first" || ' ' || "last") STORED);
