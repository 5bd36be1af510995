import { pgTable, text } from "drizzle-orm/pg-core";
import { createdAt, id } from "./columns";

export const auditLogs = pgTable("audit_logs", {
  id: id(),
  action: text("action").notNull(),
  createdAt: createdAt(),
});
