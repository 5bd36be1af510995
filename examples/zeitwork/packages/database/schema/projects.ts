import { sql } from "drizzle-orm";
import { index, pgTable, text, uniqueIndex, uuid } from "drizzle-orm/pg-core";
import { id, timestamps } from "./columns";
import { organisations } from "./organisations";

export const projects = pgTable(
  "projects",
  {
    id: id(),
    orgId: uuid("org_id")
      .notNull()
      .references(() => organisations.id, { onDelete: "cascade" }),
    name: text("name").notNull(),
    slug: text("slug").notNull(),
    status: text("status"),
    ...timestamps(),
    description: text("description"),
  },
  (table) => [
    // Of live projects only: a deleted project gives its slug back.
    uniqueIndex("projects_slug_live_key").on(table.slug).where(sql`deleted_at IS NULL`),
    index("idx_projects_org_id").on(table.orgId),
  ],
);
