import { sql } from "drizzle-orm";
import { bigint, check, index, integer, pgTable, text, uuid } from "drizzle-orm/pg-core";
import { id, timestamps } from "./columns";
import { deployments } from "./deployments";
import { nodes } from "./nodes";

export const instances = pgTable(
  "instances",
  {
    id: id(),
    deploymentId: uuid("deployment_id")
      .notNull()
      .references(() => deployments.id, { onDelete: "cascade" }),
    nodeId: uuid("node_id")
      .notNull()
      .references(() => nodes.id, { onDelete: "cascade" }),
    status: text("status").notNull().default("pending"),
    memory: bigint("memory", { mode: "number" }).notNull(), // MB
    cpu: integer("cpu"), // cores; null means shared
    ...timestamps(),
  },
  (table) => [
    index("instances_deployment_id_idx").on(table.deploymentId),
    index("instances_node_id_idx").on(table.nodeId),
    check("instances_cpu_positive", sql`cpu > 0`),
  ],
);
