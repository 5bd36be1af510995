import { pgEnum, pgTable, text } from "drizzle-orm/pg-core";
import { id, timestamps } from "./columns";

export const organisationPlan = pgEnum("organisation_plan", ["hobby", "pro", "enterprise"]);

export const organisations = pgTable("organisations", {
  id: id(),
  name: text("name").notNull(),
  slug: text("slug").notNull().unique(),
  plan: organisationPlan("plan").notNull().default("hobby"),
  externalId: text("externalId").unique(),
  ...timestamps(),
});
