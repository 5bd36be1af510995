import { index, pgTable, text, uuid } from "drizzle-orm/pg-core";
import { id, timestamps } from "./columns";
import { organisations } from "./organisations";

export const sessions = pgTable(
  "sessions",
  {
    id: id(),
    organisationId: uuid("organisation_id")
      .notNull()
      .references(() => organisations.id, { onDelete: "cascade" }),
    tokenHash: text("token_hash").notNull().unique(),
    ...timestamps(),
  },
  (table) => [index("sessions_organisation_id_idx").on(table.organisationId)],
);
