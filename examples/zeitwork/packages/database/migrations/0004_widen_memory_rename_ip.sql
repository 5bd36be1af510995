ALTER TABLE "nodes" RENAME COLUMN "ip_address" TO "internal_ip";--> statement-breakpoint
ALTER TABLE "instances" ALTER COLUMN "memory" SET DATA TYPE bigint;