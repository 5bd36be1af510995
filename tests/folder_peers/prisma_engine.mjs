// Prisma's own schema engine on a folder of migrations: node prisma_engine.mjs apply|diagnose FOLDER, with DATABASE_URL.
// It prints the engine's answer as JSON. The prisma command does the same, but downloads its engine.
import { existsSync, readFileSync, readdirSync } from 'node:fs'
import { createRequire } from 'node:module'
import path from 'node:path'

const [, , command, folder] = process.argv
const text = (...names) => readFileSync(path.join(folder, ...names), 'utf8')

const from = createRequire(path.join(process.cwd(), 'package.json'))
const { PrismaPg } = from('@prisma/adapter-pg')
const { bindMigrationAwareSqlAdapterFactory } = from('@prisma/driver-adapter-utils')

const place = path.dirname(from.resolve('@prisma/schema-engine-wasm'))
const engine = await import(path.join(place, 'schema_engine_bg.js'))
const module = new WebAssembly.Module(readFileSync(path.join(place, 'schema_engine_bg.wasm')))
const instance = new WebAssembly.Instance(module, { './schema_engine_bg.js': engine })
engine.__wbg_set_wasm(instance.exports)
instance.exports.__wbindgen_start()

const input = {
  filters: { externalTables: [], externalEnums: [] },
  migrationsList: {
    baseDir: folder,
    lockfile: { path: 'migration_lock.toml', content: text('migration_lock.toml') },
    shadowDbInitScript: '',
    migrationDirectories: readdirSync(folder)
      .filter((name) => existsSync(path.join(folder, name, 'migration.sql')))
      .sort()
      .map((name) => ({
        path: name,
        migrationFile: { path: 'migration.sql', content: { tag: 'ok', value: text(name, 'migration.sql') } },
      })),
  },
}
const adapter = bindMigrationAwareSqlAdapterFactory(new PrismaPg({ connectionString: process.env.DATABASE_URL }))
const datamodels = [['schema.prisma', 'datasource db {\n  provider = "postgresql"\n}\n']]
const prisma = await engine.SchemaEngine.new({ datamodels }, () => {}, adapter)
const answer =
  command === 'apply'
    ? await prisma.applyMigrations(input)
    : await prisma.diagnoseMigrationHistory({ ...input, optInToShadowDatabase: false })
console.log(JSON.stringify(answer))
process.exit(0)
