import { index, integer, jsonb, pgTable, text, uuid } from "drizzle-orm/pg-core";
import { id, timestamps } from "./columns";
import { projects } from "./projects";

export const deployments = pgTable(
  "deployments",
  {
    id: id(),
    number: integer("number").generatedAlwaysAsIdentity(),
    projectId: uuid("project_id")
      .notNull()
      .references(() => projects.id, { onDelete: "cascade" }),
    status: text("status").notNull().default("pending"),
    config: jsonb("config"),
    ...timestamps(),
  },
  (table) => [index("deployments_project_id_idx").on(table.projectId)],
);
