import { boolean, pgTable, text, unique, uuid } from "drizzle-orm/pg-core";
import { id, timestamps } from "./columns";
import { projects } from "./projects";

export const featureFlags = pgTable(
  "featureFlags",
  {
    id: id(),
    projectId: uuid("projectId")
      .notNull()
      .references(() => projects.id, { onDelete: "cascade" }),
    flagKey: text("flagKey").notNull(),
    isEnabled: boolean("isEnabled").notNull().default(false),
    ...timestamps(),
  },
  (table) => [unique("featureFlags_projectId_flagKey_key").on(table.projectId, table.flagKey)],
);
