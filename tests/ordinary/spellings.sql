-- Changes of type and renames as people and tools write them, each over tables of its own (test_change_spellings.py).
-- gates: those that its statements meet, in order.

-- spelling: django
-- migration:
BEGIN;
ALTER TABLE "orders" ALTER COLUMN "amount" TYPE bigint USING "amount"::bigint;
COMMIT;

-- spelling: django default
-- migration:
ALTER TABLE "orders" ALTER COLUMN "amount" TYPE bigint USING "amount"::bigint;
ALTER TABLE "orders" ALTER COLUMN "amount" SET DEFAULT 0;
UPDATE "orders" SET "rate" = 0 WHERE "rate" IS NULL;
SET CONSTRAINTS ALL IMMEDIATE;
ALTER TABLE "orders" ALTER COLUMN "rate" SET NOT NULL;
ALTER TABLE "orders" ALTER COLUMN "amount" DROP DEFAULT;

-- spelling: django one
-- migration:
ALTER TABLE "orders" ALTER COLUMN "rate" TYPE bigint USING "rate"::bigint, ALTER COLUMN "rate" SET DEFAULT 0, ALTER COLUMN "rate" SET NOT NULL;

-- spelling: django one update
-- setup:
UPDATE orders SET rate = NULL WHERE id % 9 = 0;
-- migration:
ALTER TABLE "orders" ALTER COLUMN "rate" SET DEFAULT 0;
UPDATE "orders" SET "rate" = 0 WHERE "rate" IS NULL;
ALTER TABLE "orders" ALTER COLUMN "rate" SET NOT NULL;
ALTER TABLE "orders" ALTER COLUMN "rate" DROP DEFAULT;
ALTER TABLE "orders" ALTER COLUMN "rate" TYPE bigint USING "rate"::bigint;

-- spelling: django identity
-- migration:
ALTER TABLE "orders" ALTER COLUMN "id" TYPE bigint USING "id"::bigint;
ALTER SEQUENCE IF EXISTS "orders_id_seq" AS bigint;
ALTER TABLE "lines" ALTER COLUMN "order_id" TYPE bigint USING "order_id"::bigint;

-- spelling: django auto fk
-- migration:
ALTER TABLE "lines" DROP CONSTRAINT "lines_order_id_fkey";
ALTER TABLE "orders" ALTER COLUMN "id" TYPE bigint USING "id"::bigint;
ALTER TABLE "lines" ALTER COLUMN "order_id" TYPE bigint USING "order_id"::bigint;
ALTER SEQUENCE IF EXISTS "orders_id_seq" AS bigint;
ALTER TABLE "lines" ADD CONSTRAINT "lines_order_id_fkey" FOREIGN KEY ("order_id") REFERENCES "orders" ("id") DEFERRABLE INITIALLY DEFERRED;

-- spelling: django fk set constraints
-- migration:
SET CONSTRAINTS "lines_order_id_fkey" IMMEDIATE;
ALTER TABLE "lines" DROP CONSTRAINT "lines_order_id_fkey";
ALTER TABLE "lines" ALTER COLUMN "order_id" TYPE bigint USING "order_id"::bigint;

-- spelling: django like index
-- setup:
CREATE INDEX orders_code_like ON orders (code varchar_pattern_ops);
-- migration:
DROP INDEX IF EXISTS "orders_code_like";
ALTER TABLE "orders" ALTER COLUMN "code" TYPE integer USING "code"::integer;

-- spelling: rails
-- migration:
ALTER TABLE "orders" ALTER COLUMN "amount" TYPE bigint;

-- spelling: rails default null
-- migration:
ALTER TABLE "orders" ALTER COLUMN "rate" TYPE bigint, ALTER COLUMN "rate" SET DEFAULT 5, ALTER COLUMN "rate" SET NOT NULL;

-- spelling: rails change_table
-- migration:
ALTER TABLE "orders" ALTER COLUMN "rate" TYPE bigint, ALTER COLUMN "rate" SET DEFAULT 5, ALTER COLUMN "rate" DROP NOT NULL, ADD "more" character varying DEFAULT 'x' NOT NULL;

-- spelling: rails bulk
-- gates: drop
-- migration:
ALTER TABLE "orders" ADD "more" character varying, ADD "created_at" timestamp(6) NOT NULL DEFAULT '2026-01-01', ALTER COLUMN "code" TYPE integer USING code::integer, DROP COLUMN "note";

-- spelling: rails index
-- migration:
DROP INDEX "orders_code_idx";
ALTER TABLE "orders" ALTER COLUMN "code" TYPE integer USING code::integer;
CREATE INDEX "orders_code_idx" ON "orders" ("code");

-- spelling: rails default enum
-- migration:
ALTER TABLE "orders" ALTER COLUMN "state" DROP DEFAULT;
ALTER TABLE "orders" ALTER COLUMN "state" TYPE kind USING state::kind;
ALTER TABLE "orders" ALTER COLUMN "state" SET DEFAULT 'new';

-- spelling: alembic
-- migration:
ALTER TABLE orders ALTER COLUMN amount TYPE BIGINT;
ALTER TABLE orders ALTER COLUMN code TYPE INTEGER USING code::integer;
ALTER TABLE orders ALTER COLUMN rate SET NOT NULL;
ALTER TABLE orders ALTER COLUMN rate TYPE BIGINT;

-- spelling: alembic enum
-- migration:
ALTER TABLE orders ALTER COLUMN state DROP DEFAULT;
ALTER TABLE orders ALTER COLUMN state TYPE kind USING state::text::kind;
ALTER TABLE orders ALTER COLUMN state SET DEFAULT 'new'::kind;

-- spelling: alembic enum replaced
-- setup:
ALTER TABLE orders ALTER state DROP DEFAULT;
ALTER TABLE orders ALTER state TYPE kind USING state::kind;
ALTER TABLE orders ALTER state SET DEFAULT 'new';
-- migration:
ALTER TYPE kind RENAME TO kind_old;
CREATE TYPE kind AS ENUM('new', 'done', 'late');
ALTER TABLE orders ALTER COLUMN state DROP DEFAULT;
ALTER TABLE orders ALTER COLUMN state TYPE kind USING state::text::kind;
ALTER TABLE orders ALTER COLUMN state SET DEFAULT 'new';
DROP TYPE kind_old;

-- spelling: drizzle
-- migration:
ALTER TABLE "orders" ALTER COLUMN "amount" SET DATA TYPE bigint;--> statement-breakpoint
ALTER TABLE "orders" ALTER COLUMN "amount" SET DEFAULT 5;--> statement-breakpoint
ALTER TABLE "orders" ALTER COLUMN "rate" SET NOT NULL;

-- spelling: drizzle enum
-- setup:
ALTER TABLE orders ALTER state DROP DEFAULT;
ALTER TABLE orders ALTER state TYPE kind USING state::kind;
ALTER TABLE orders ALTER state SET DEFAULT 'new';
-- migration:
ALTER TABLE "orders" ALTER COLUMN "state" SET DATA TYPE text;--> statement-breakpoint
ALTER TABLE "orders" ALTER COLUMN "state" SET DEFAULT 'new'::text;--> statement-breakpoint
DROP TYPE "public"."kind";--> statement-breakpoint
CREATE TYPE "public"."kind" AS ENUM('new', 'old');--> statement-breakpoint
ALTER TABLE "orders" ALTER COLUMN "state" SET DEFAULT 'new'::"public"."kind";--> statement-breakpoint
ALTER TABLE "orders" ALTER COLUMN "state" SET DATA TYPE "public"."kind" USING "state"::"public"."kind";

-- spelling: prisma
-- migration:
-- AlterTable
ALTER TABLE "orders" ALTER COLUMN "amount" SET DATA TYPE BIGINT;

-- spelling: prisma pk
-- setup:
ALTER TABLE lines DROP CONSTRAINT lines_order_id_fkey;
-- migration:
-- DropForeignKey
-- AlterTable
ALTER TABLE "orders" DROP CONSTRAINT "orders_pkey",
ALTER COLUMN "id" SET DATA TYPE BIGINT,
ADD CONSTRAINT "orders_pkey" PRIMARY KEY ("id");

-- spelling: prisma pk fk
-- migration:
ALTER TABLE "lines" DROP CONSTRAINT "lines_order_id_fkey";
ALTER TABLE "orders" DROP CONSTRAINT "orders_pkey",
ALTER COLUMN "id" DROP DEFAULT,
ALTER COLUMN "id" SET DATA TYPE TEXT,
ADD CONSTRAINT "orders_pkey" PRIMARY KEY ("id");
DROP SEQUENCE "orders_id_seq";
ALTER TABLE "lines" ALTER COLUMN "order_id" SET DATA TYPE TEXT;
ALTER TABLE "lines" ADD CONSTRAINT "lines_order_id_fkey" FOREIGN KEY ("order_id") REFERENCES "orders"("id") ON DELETE SET NULL ON UPDATE CASCADE;

-- spelling: prisma several
-- migration:
ALTER TABLE "orders" ADD COLUMN     "more" TEXT,
ALTER COLUMN "amount" SET DATA TYPE BIGINT,
ALTER COLUMN "rate" SET NOT NULL,
ALTER COLUMN "rate" SET DATA TYPE BIGINT,
ALTER COLUMN "code" DROP NOT NULL;

-- spelling: prisma drop add
-- gates: drop
-- migration:
ALTER TABLE "orders" DROP COLUMN "code",
ADD COLUMN     "code" INTEGER;

-- spelling: prisma enum
-- setup:
ALTER TABLE orders ALTER state DROP DEFAULT;
ALTER TABLE orders ALTER state TYPE kind USING state::kind;
ALTER TABLE orders ALTER state SET DEFAULT 'new';
-- migration:
BEGIN;
CREATE TYPE "kind_new" AS ENUM ('new', 'done', 'x');
ALTER TABLE "orders" ALTER COLUMN "state" DROP DEFAULT;
ALTER TABLE "orders" ALTER COLUMN "state" TYPE "kind_new" USING ("state"::text::"kind_new");
ALTER TYPE "kind" RENAME TO "kind_old";
ALTER TYPE "kind_new" RENAME TO "kind";
DROP TYPE "kind_old";
ALTER TABLE "orders" ALTER COLUMN "state" SET DEFAULT 'new';
COMMIT;

-- spelling: typeorm
-- gates: drop
-- migration:
ALTER TABLE "orders" DROP COLUMN "code";
ALTER TABLE "orders" ADD "code" integer;

-- spelling: typeorm length
-- migration:
ALTER TABLE "orders" ALTER COLUMN "code" TYPE character varying(5);

-- spelling: ef core
-- migration:
START TRANSACTION;
ALTER TABLE orders ALTER COLUMN amount TYPE bigint;
ALTER TABLE orders ALTER COLUMN code TYPE integer USING code::integer;
UPDATE orders SET rate = 0 WHERE rate IS NULL;
ALTER TABLE orders ALTER COLUMN rate SET NOT NULL;
ALTER TABLE orders ALTER COLUMN rate SET DEFAULT 0;
COMMIT;

-- spelling: knex
-- migration:
alter table "orders" alter column "amount" drop default;
alter table "orders" alter column "amount" drop not null;
alter table "orders" alter column "amount" type bigint using ("amount"::bigint);
alter table "orders" alter column "amount" set default '7';
alter table "orders" alter column "amount" set not null;

-- spelling: flyway
-- migration:
ALTER TABLE orders ALTER COLUMN amount TYPE numeric(12,2) USING amount / 100.0;

-- spelling: sequelize
-- migration:
ALTER TABLE "orders" ALTER COLUMN "amount" DROP NOT NULL;
ALTER TABLE "orders" ALTER COLUMN "amount" DROP DEFAULT;
ALTER TABLE "orders" ALTER COLUMN "amount" TYPE BIGINT;

-- spelling: liquibase
-- migration:
ALTER TABLE public.orders ALTER COLUMN amount TYPE BIGINT USING (amount::BIGINT);

-- spelling: ecto
-- migration:
ALTER TABLE "orders" ALTER COLUMN "amount" TYPE bigint, ALTER COLUMN "amount" SET NOT NULL, ALTER COLUMN "amount" SET DEFAULT 0;

-- spelling: ecto fk
-- migration:
ALTER TABLE "lines" DROP CONSTRAINT "lines_order_id_fkey", ALTER COLUMN "order_id" TYPE bigint, ADD CONSTRAINT "lines_order_id_fkey" FOREIGN KEY ("order_id") REFERENCES "orders"("id") ON DELETE CASCADE;

-- spelling: laravel
-- migration:
alter table "orders" alter column "amount" type bigint, alter column "amount" set not null, alter column "amount" drop default, alter column "amount" drop identity if exists;

-- spelling: laravel comment
-- migration:
alter table "orders" alter column "rate" type bigint, alter column "rate" drop not null, alter column "rate" set default '0', alter column "rate" drop identity if exists;
comment on column "orders"."rate" is NULL;

-- spelling: mixed add column
-- migration:
ALTER TABLE orders ALTER amount TYPE bigint, ADD COLUMN more integer DEFAULT 5;

-- spelling: mixed add column volatile
-- migration:
ALTER TABLE orders ALTER amount TYPE bigint, ADD COLUMN more uuid DEFAULT gen_random_uuid();

-- spelling: mixed drop column
-- gates: drop
-- migration:
ALTER TABLE orders ALTER amount TYPE bigint, DROP COLUMN note;

-- spelling: mixed not null other
-- migration:
ALTER TABLE orders ALTER amount TYPE bigint, ALTER rate SET NOT NULL;

-- spelling: mixed not null own
-- migration:
ALTER TABLE orders ALTER rate TYPE bigint, ALTER rate SET NOT NULL;

-- spelling: mixed drop not null
-- migration:
ALTER TABLE orders ALTER amount TYPE bigint, ALTER amount DROP NOT NULL;

-- spelling: mixed default other
-- migration:
ALTER TABLE orders ALTER amount TYPE bigint, ALTER rate SET DEFAULT 8, ALTER state DROP DEFAULT;

-- spelling: mixed check
-- migration:
ALTER TABLE orders ALTER amount TYPE bigint, ADD CONSTRAINT less CHECK (amount < 100000), ADD CHECK (rate < 9);

-- spelling: mixed check again
-- migration:
ALTER TABLE orders DROP CONSTRAINT positive, ALTER amount TYPE text USING amount::text, ALTER amount DROP DEFAULT, ADD CONSTRAINT positive CHECK (amount <> '');

-- spelling: mixed unique
-- migration:
ALTER TABLE orders ALTER amount TYPE bigint, ADD UNIQUE (amount);

-- spelling: mixed statistics
-- migration:
ALTER TABLE orders ALTER amount TYPE bigint, ALTER amount SET STATISTICS 200, ALTER rate SET STATISTICS 100;

-- spelling: mixed fk
-- migration:
ALTER TABLE lines DROP CONSTRAINT lines_order_id_fkey, ALTER order_id TYPE bigint, ADD CONSTRAINT lines_order_id_fkey FOREIGN KEY (order_id) REFERENCES orders;

-- spelling: mixed storage
-- gates: type-change
-- migration:
ALTER TABLE orders ALTER amount TYPE text, ALTER amount SET STORAGE external, ALTER amount DROP DEFAULT, DROP CONSTRAINT positive;

-- spelling: mixed reloptions
-- gates: type-change
-- migration:
ALTER TABLE orders ALTER amount TYPE bigint, SET (fillfactor = 80), ENABLE ROW LEVEL SECURITY;

-- spelling: mixed identity
-- gates: type-change
-- migration:
ALTER TABLE orders ALTER id DROP DEFAULT, ALTER id TYPE bigint, ALTER id ADD GENERATED BY DEFAULT AS IDENTITY;

-- spelling: mixed drop and add
-- gates: drop
-- migration:
ALTER TABLE orders DROP COLUMN note, ADD COLUMN note integer, ALTER amount TYPE bigint;

-- spelling: mixed drop index constraint
-- setup:
ALTER TABLE orders ADD CONSTRAINT ucode UNIQUE (code);
-- migration:
ALTER TABLE orders DROP CONSTRAINT ucode, ALTER code TYPE integer USING code::integer, ADD CONSTRAINT ucode UNIQUE (code, id);

-- spelling: using two
-- migration:
ALTER TABLE orders ALTER amount TYPE bigint USING amount * rate + 1;

-- spelling: using other only
-- migration:
ALTER TABLE orders ALTER note TYPE bigint USING rate * 2;

-- spelling: using coalesce
-- migration:
ALTER TABLE orders ALTER note TYPE text USING coalesce(note, state);

-- spelling: using coalesce type
-- migration:
ALTER TABLE orders ALTER note TYPE jsonb USING jsonb_build_object('note', note, 'state', state);

-- spelling: using qualified
-- migration:
ALTER TABLE orders ALTER amount TYPE bigint USING orders.amount + orders.rate;

-- spelling: using case
-- migration:
ALTER TABLE orders ALTER state TYPE integer USING CASE WHEN amount > 5 THEN 1 ELSE 2 END, ALTER state DROP DEFAULT;

-- spelling: using of generated
-- gates: type-change
-- setup:
ALTER TABLE orders ADD g integer GENERATED ALWAYS AS (rate + 1) STORED;
-- migration:
ALTER TABLE orders ALTER note TYPE bigint USING g;

-- spelling: using each other
-- gates: type-change
-- migration:
ALTER TABLE orders ALTER amount TYPE bigint USING rate + 1, ALTER rate TYPE bigint USING amount;

-- spelling: using constant
-- migration:
ALTER TABLE orders ALTER note TYPE bigint USING 5;

-- spelling: using system
-- gates: type-change
-- migration:
ALTER TABLE orders ALTER note TYPE text USING tableoid::regclass::text;

-- spelling: view
-- gates: drop
-- setup:
CREATE VIEW seen AS SELECT id, amount, code FROM orders WHERE amount > 3;
-- migration:
DROP VIEW seen;
ALTER TABLE orders ALTER amount TYPE bigint;
CREATE VIEW seen AS SELECT id, amount, code FROM orders WHERE amount > 3;

-- spelling: view cascade
-- gates: drop
-- setup:
CREATE VIEW seen AS SELECT id, amount, code FROM orders WHERE amount > 3;CREATE VIEW over AS SELECT id FROM seen;
-- migration:
DROP VIEW seen CASCADE;
ALTER TABLE orders ALTER amount TYPE bigint;
CREATE VIEW seen AS SELECT id, amount, code FROM orders WHERE amount > 3;
CREATE VIEW over AS SELECT id FROM seen;

-- spelling: view or replace
-- gates: drop
-- setup:
CREATE VIEW seen AS SELECT id, amount, code FROM orders WHERE amount > 3;
-- migration:
DROP VIEW IF EXISTS seen;
ALTER TABLE orders ALTER amount TYPE bigint;
CREATE OR REPLACE VIEW seen AS SELECT id, amount, code FROM orders WHERE amount > 3;
GRANT SELECT ON seen TO PUBLIC;

-- spelling: view star
-- gates: drop, runs-as-written
-- setup:
CREATE VIEW seen AS SELECT * FROM orders;
-- migration:
DROP VIEW seen;
ALTER TABLE orders ALTER amount TYPE bigint;
CREATE VIEW seen AS SELECT * FROM orders;

-- spelling: matview
-- gates: drop
-- setup:
CREATE MATERIALIZED VIEW seen AS SELECT id, amount FROM orders;
CREATE UNIQUE INDEX seen_id ON seen (id);
-- migration:
DROP MATERIALIZED VIEW seen;
ALTER TABLE orders ALTER amount TYPE bigint;
CREATE MATERIALIZED VIEW seen AS SELECT id, amount FROM orders;
CREATE UNIQUE INDEX seen_id ON seen (id);

-- spelling: generated
-- gates: drop, stored-generated
-- setup:
ALTER TABLE orders ADD twice integer GENERATED ALWAYS AS (amount * 2) STORED;
-- migration:
ALTER TABLE orders DROP COLUMN twice;
ALTER TABLE orders ALTER amount TYPE bigint;
ALTER TABLE orders ADD twice bigint GENERATED ALWAYS AS (amount * 2) STORED;

-- spelling: policy
-- setup:
CREATE POLICY mine ON orders USING (amount > 0);
-- migration:
DROP POLICY mine ON orders;
ALTER TABLE orders ALTER amount TYPE bigint;
CREATE POLICY mine ON orders USING (amount > 0);

-- spelling: trigger
-- setup:
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER touched AFTER UPDATE OF amount ON orders FOR EACH ROW EXECUTE FUNCTION touch();
-- migration:
DROP TRIGGER touched ON orders;
ALTER TABLE orders ALTER amount TYPE bigint;
CREATE TRIGGER touched AFTER UPDATE OF amount ON orders FOR EACH ROW EXECUTE FUNCTION touch();

-- spelling: trigger in transaction
-- setup:
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER touched AFTER UPDATE OF amount ON orders FOR EACH ROW EXECUTE FUNCTION touch();
-- migration:
BEGIN;
DROP TRIGGER touched ON orders;
ALTER TABLE orders ALTER amount TYPE bigint;
CREATE TRIGGER touched AFTER UPDATE OF amount ON orders FOR EACH ROW EXECUTE FUNCTION touch();
COMMIT;

-- spelling: index again
-- migration:
DROP INDEX orders_amount_idx;
ALTER TABLE orders ALTER amount TYPE bigint;
CREATE INDEX orders_amount_idx ON orders (amount);

-- spelling: index again concurrently
-- migration:
DROP INDEX CONCURRENTLY orders_amount_idx;
ALTER TABLE orders ALTER amount TYPE bigint;
CREATE INDEX CONCURRENTLY orders_amount_idx ON orders (amount);

-- spelling: view and index
-- gates: drop
-- setup:
CREATE VIEW seen AS SELECT id, amount, code FROM orders WHERE amount > 3;
-- migration:
DROP VIEW seen;
DROP INDEX orders_amount_idx;
ALTER TABLE orders ALTER amount TYPE bigint;
CREATE INDEX orders_amount_idx ON orders (amount);
CREATE VIEW seen AS SELECT id, amount, code FROM orders WHERE amount > 3;

-- spelling: publication
-- setup:
CREATE PUBLICATION sent FOR TABLE orders;
-- migration:
ALTER PUBLICATION sent DROP TABLE orders;
ALTER TABLE orders ALTER amount TYPE bigint;
ALTER PUBLICATION sent ADD TABLE orders;

-- spelling: function body
-- setup:
CREATE FUNCTION total() RETURNS bigint LANGUAGE sql STABLE BEGIN ATOMIC SELECT sum(amount) FROM orders; END;
-- migration:
DROP FUNCTION total();
ALTER TABLE orders ALTER amount TYPE bigint;
CREATE FUNCTION total() RETURNS bigint LANGUAGE sql STABLE BEGIN ATOMIC SELECT sum(amount) FROM orders; END;

-- spelling: keys under a view
-- gates: drop
-- setup:
CREATE VIEW seen AS SELECT id, amount, code FROM orders WHERE amount > 3;
-- migration:
DROP VIEW seen;
ALTER TABLE orders ALTER id TYPE bigint;
ALTER TABLE lines ALTER order_id TYPE bigint;
CREATE VIEW seen AS SELECT id, amount, code FROM orders WHERE amount > 3;

-- spelling: rename
-- migration:
ALTER TABLE orders RENAME COLUMN amount TO total;

-- spelling: rename view
-- setup:
CREATE VIEW seen AS SELECT id, amount, code FROM orders WHERE amount > 3;
-- migration:
ALTER TABLE orders RENAME COLUMN amount TO total;

-- spelling: rename view again
-- gates: drop
-- setup:
CREATE VIEW seen AS SELECT id, amount, code FROM orders WHERE amount > 3;
-- migration:
DROP VIEW seen;
ALTER TABLE orders RENAME COLUMN amount TO total;
CREATE VIEW seen AS SELECT id, total, code FROM orders WHERE total > 3;

-- spelling: rename view old name
-- gates: drop
-- setup:
CREATE VIEW seen AS SELECT id, amount, code FROM orders WHERE amount > 3;
-- migration:
DROP VIEW seen;
ALTER TABLE orders RENAME COLUMN amount TO total;
CREATE VIEW seen AS SELECT id, total AS amount, code FROM orders WHERE total > 3;

-- spelling: rename generated
-- setup:
ALTER TABLE orders ADD twice integer GENERATED ALWAYS AS (amount * 2) STORED;
-- migration:
ALTER TABLE orders RENAME COLUMN amount TO total;

-- spelling: rename policy
-- setup:
CREATE POLICY mine ON orders USING (amount > 0);
-- migration:
ALTER TABLE orders RENAME COLUMN amount TO total;

-- spelling: rename function
-- setup:
CREATE FUNCTION total_of() RETURNS bigint LANGUAGE sql AS 'SELECT sum(amount) FROM orders';
-- migration:
ALTER TABLE orders RENAME COLUMN amount TO total;
CREATE OR REPLACE FUNCTION total_of() RETURNS bigint LANGUAGE sql AS 'SELECT sum(total) FROM orders';

-- spelling: rename function atomic
-- setup:
CREATE FUNCTION total_of() RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT sum(amount) FROM orders; END;
-- migration:
ALTER TABLE orders RENAME COLUMN amount TO total;

-- spelling: rename matview
-- setup:
CREATE MATERIALIZED VIEW seen AS SELECT id, amount FROM orders;
CREATE UNIQUE INDEX seen_id ON seen (id);
-- migration:
ALTER TABLE orders RENAME COLUMN amount TO total;

-- spelling: rename index
-- migration:
ALTER TABLE "orders" RENAME COLUMN "code" TO "number";
ALTER INDEX "orders_code_idx" RENAME TO "orders_number_idx";

-- spelling: rename constraint
-- migration:
ALTER TABLE "orders" RENAME "amount" TO "total";
ALTER TABLE "orders" RENAME CONSTRAINT "positive" TO "total_positive";

-- spelling: rename fk
-- migration:
ALTER TABLE "lines" RENAME COLUMN "order_id" TO "of_id";
ALTER TABLE "lines" RENAME CONSTRAINT "lines_order_id_fkey" TO "lines_of_id_fkey";

-- spelling: rename then type
-- gates: runs-as-written
-- migration:
ALTER TABLE orders RENAME COLUMN amount TO total;
ALTER TABLE orders ALTER total TYPE bigint;

-- spelling: type then rename
-- gates: runs-as-written
-- migration:
ALTER TABLE orders ALTER amount TYPE bigint;
ALTER TABLE orders RENAME COLUMN amount TO total;

-- spelling: array of an enum
-- setup:
ALTER TABLE orders ADD tags kind[];
-- migration:
ALTER TABLE orders ALTER tags TYPE text[] USING tags::text[];

-- spelling: view star kept
-- gates: runs-as-written
-- migration:
ALTER TABLE orders ALTER amount TYPE bigint;
CREATE VIEW seen AS SELECT * FROM orders;

-- spelling: table like
-- gates: runs-as-written
-- migration:
ALTER TABLE orders ALTER amount TYPE bigint;
CREATE TABLE over (LIKE orders INCLUDING ALL);

-- spelling: rename view star
-- gates: runs-as-written
-- migration:
ALTER TABLE orders RENAME COLUMN amount TO total;
CREATE VIEW seen AS SELECT * FROM orders;

-- spelling: rename check
-- setup:
ALTER TABLE orders ADD CHECK (amount < 100000 OR rate > 0);
-- migration:
ALTER TABLE orders RENAME COLUMN amount TO total;

-- spelling: rename view columns
-- gates: rename
-- setup:
CREATE VIEW seen AS SELECT id, amount, code FROM orders WHERE amount > 3;
-- migration:
ALTER TABLE orders RENAME COLUMN amount TO total;
ALTER VIEW seen RENAME COLUMN amount TO total;
