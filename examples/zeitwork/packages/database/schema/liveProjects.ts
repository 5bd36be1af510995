import { and, eq, isNull } from "drizzle-orm";
import { pgView } from "drizzle-orm/pg-core";
import { organisations } from "./organisations";
import { projects } from "./projects";

export const liveProjects = pgView("live_projects").as((query) =>
  query
    .select({ id: projects.id, slug: projects.slug, status: projects.status, plan: organisations.plan })
    .from(projects)
    .innerJoin(organisations, eq(organisations.id, projects.orgId))
    .where(and(isNull(projects.deletedAt), isNull(organisations.deletedAt))),
);
