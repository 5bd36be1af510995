import { timestamp, uuid } from "drizzle-orm/pg-core";

const timestamptz = (name: string) => timestamp(name, { withTimezone: true });

export const id = () => uuid("id").primaryKey().defaultRandom();
export const createdAt = () => timestamptz("created_at").notNull().defaultNow();
export const timestamps = () => ({
  createdAt: createdAt(),
  updatedAt: timestamptz("updated_at").notNull().defaultNow(),
  deletedAt: timestamptz("deleted_at"),
});
