import { pgTable, text } from "drizzle-orm/pg-core";
import { id, timestamps } from "./columns";

export const nodes = pgTable("nodes", {
  id: id(),
  hostname: text("hostname").notNull().unique(),
  internalIp: text("internal_ip").notNull(),
  ...timestamps(),
});
