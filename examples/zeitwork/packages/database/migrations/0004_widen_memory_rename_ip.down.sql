ALTER TABLE "nodes" RENAME COLUMN "internal_ip" TO "ip_address";--> statement-breakpoint
ALTER TABLE "instances" ALTER COLUMN "memory" SET DATA TYPE integer;
