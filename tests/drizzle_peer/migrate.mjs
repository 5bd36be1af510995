// Runs the real migrate() of drizzle-orm 0.x ("0") or 1.0 ("1") on the database that PGHOST and PGDATABASE name,
// and prints the statements that it sent as one line of JSON.
// node migrate.mjs <0|1> <migrations folder> <schema> <table>
import pg from "pg";

const [major, migrationsFolder, migrationsSchema, migrationsTable] = process.argv.slice(2);
const { drizzle } = await import(`drizzle-orm-${major}/node-postgres`);
const { migrate } = await import(`drizzle-orm-${major}/node-postgres/migrator`);

const sent = [];
const client = new pg.Client();
await client.connect();
try {
  const logger = { logQuery: (query) => sent.push(query.trim()) };
  const db = major === "0" ? drizzle(client, { logger }) : drizzle({ client, logger });
  await migrate(db, { migrationsFolder, migrationsSchema, migrationsTable });
} finally {
  await client.end();
}
console.log(JSON.stringify(sent));
