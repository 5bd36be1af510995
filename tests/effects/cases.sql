-- Each statement stands on a line of its own; "from 18" in front: only there.
-- adding columns
ALTER TABLE shop.users ADD COLUMN bio text
ALTER TABLE shop.users ADD COLUMN IF NOT EXISTS name text
ALTER TABLE shop.users ADD COLUMN bio text DEFAULT 'none'
ALTER TABLE shop.users ADD COLUMN bio text NOT NULL DEFAULT 'none'
ALTER TABLE shop.users ADD COLUMN at timestamptz NOT NULL DEFAULT now()
ALTER TABLE shop.users ADD COLUMN at timestamptz NOT NULL DEFAULT clock_timestamp()
ALTER TABLE shop.users ADD COLUMN token uuid DEFAULT gen_random_uuid()
ALTER TABLE shop.users ADD COLUMN n integer DEFAULT shop.one()
ALTER TABLE shop.users ADD COLUMN n integer DEFAULT shop.dice()
ALTER TABLE shop.users ADD COLUMN n serial
ALTER TABLE shop.users ADD COLUMN n bigint GENERATED ALWAYS AS IDENTITY
ALTER TABLE shop.users ADD COLUMN n integer GENERATED ALWAYS AS (age * 2) STORED
ALTER TABLE shop.users ADD COLUMN n integer CHECK (n > 0)
ALTER TABLE shop.users ADD COLUMN n integer UNIQUE
ALTER TABLE shop.users ADD COLUMN n shop.any_number
ALTER TABLE shop.users ADD COLUMN n shop.positive
ALTER TABLE shop.users ADD COLUMN n shop.positive DEFAULT 1
ALTER TABLE shop.users ADD COLUMN m shop.mood DEFAULT 'ok'
ALTER TABLE shop.items ADD COLUMN user_id integer REFERENCES shop.users
ALTER TABLE shop.items ADD COLUMN user_id integer DEFAULT 1 REFERENCES shop.users
from 18 ALTER TABLE shop.users ADD COLUMN n integer GENERATED ALWAYS AS (age * 2) VIRTUAL
ALTER TABLE shop.log ADD COLUMN extra text
ALTER TABLE shop.parent ADD COLUMN extra text
-- dropping columns
ALTER TABLE shop.users DROP COLUMN name
ALTER TABLE shop.users DROP COLUMN memory CASCADE
ALTER TABLE shop.orders DROP COLUMN user_id CASCADE
ALTER TABLE shop.users DROP COLUMN IF EXISTS nothing
ALTER TABLE shop.log DROP COLUMN kind
ALTER TABLE shop.orders DROP COLUMN num
-- types
ALTER TABLE shop.users ALTER COLUMN email TYPE varchar(100)
ALTER TABLE shop.users ALTER COLUMN email TYPE varchar
ALTER TABLE shop.users ALTER COLUMN email TYPE text
ALTER TABLE shop.users ALTER COLUMN email TYPE varchar(20)
ALTER TABLE shop.users ALTER COLUMN email TYPE text USING lower(email)
ALTER TABLE shop.users ALTER COLUMN email TYPE text USING email::text
ALTER TABLE shop.users ALTER COLUMN email TYPE text COLLATE "C"
ALTER TABLE shop.users ALTER COLUMN name TYPE varchar
ALTER TABLE shop.users ALTER COLUMN name TYPE varchar(50)
ALTER TABLE shop.users ALTER COLUMN age TYPE bigint
ALTER TABLE shop.users ALTER COLUMN age TYPE integer
ALTER TABLE shop.users ALTER COLUMN age TYPE oid
ALTER TABLE shop.users ALTER COLUMN age TYPE text
ALTER TABLE shop.users ALTER COLUMN amount TYPE numeric(12, 2)
ALTER TABLE shop.users ALTER COLUMN amount TYPE numeric
ALTER TABLE shop.users ALTER COLUMN amount TYPE numeric(12, 3)
ALTER TABLE shop.users ALTER COLUMN amount TYPE numeric(8, 2)
ALTER TABLE shop.users ALTER COLUMN made TYPE timestamptz
ALTER TABLE shop.users ALTER COLUMN made TYPE timestamp(3)
ALTER TABLE shop.users ALTER COLUMN made TYPE timestamp(6)
ALTER TABLE shop.users ALTER COLUMN made TYPE date
ALTER TABLE shop.users ALTER COLUMN seen TYPE timestamp
ALTER TABLE shop.users ALTER COLUMN seen TYPE timestamp USING seen AT TIME ZONE 'UTC'
ALTER TABLE shop.users ALTER COLUMN bits TYPE varbit(16)
ALTER TABLE shop.users ALTER COLUMN bits TYPE varbit(4)
ALTER TABLE shop.users ALTER COLUMN code TYPE char(8)
ALTER TABLE shop.users ALTER COLUMN code TYPE text
ALTER TABLE shop.users ALTER COLUMN code TYPE varchar(4)
ALTER TABLE shop.users ALTER COLUMN net TYPE inet
ALTER TABLE shop.users ALTER COLUMN tags TYPE varchar(20)[]
ALTER TABLE shop.users ALTER COLUMN tags TYPE text[]
ALTER TABLE shop.users ALTER COLUMN doc TYPE jsonb
ALTER TABLE shop.users ALTER COLUMN doc TYPE text
ALTER TABLE shop.users ALTER COLUMN mood TYPE text
ALTER TABLE shop.users ALTER COLUMN age TYPE shop.any_number
ALTER TABLE shop.users ALTER COLUMN age TYPE shop.positive
ALTER TABLE shop.users ALTER COLUMN level TYPE integer
ALTER TABLE shop.users ALTER COLUMN rank TYPE integer
ALTER TABLE shop.users ALTER COLUMN span TYPE interval(3)
ALTER TABLE shop.users ALTER COLUMN span TYPE interval
ALTER TABLE shop.orders ALTER COLUMN total TYPE bigint
ALTER TABLE shop.orders ALTER COLUMN user_id TYPE bigint
ALTER TABLE shop.orders ALTER COLUMN id TYPE bigint
ALTER TABLE shop.log ALTER COLUMN id TYPE bigint
ALTER TABLE shop.log ALTER COLUMN kind TYPE varchar
-- columns' properties
ALTER TABLE shop.users ALTER COLUMN name SET DEFAULT 'x'
ALTER TABLE shop.users ALTER COLUMN name DROP DEFAULT
ALTER TABLE shop.users ALTER COLUMN email SET NOT NULL
ALTER TABLE shop.users ALTER COLUMN known SET NOT NULL
ALTER TABLE shop.orders ALTER COLUMN total SET NOT NULL
ALTER TABLE shop.orders ALTER COLUMN total SET NOT NULL, ADD CONSTRAINT there CHECK (total IS NOT NULL)
ALTER TABLE shop.users ALTER COLUMN email DROP NOT NULL
ALTER TABLE shop.users ALTER COLUMN name SET STATISTICS 500
ALTER TABLE shop.users ALTER COLUMN name SET STORAGE EXTERNAL
ALTER TABLE shop.users ALTER COLUMN name SET COMPRESSION pglz
ALTER TABLE shop.users ALTER COLUMN name SET (n_distinct = 5)
ALTER TABLE shop.users ALTER COLUMN twice DROP EXPRESSION
from 17 ALTER TABLE shop.users ALTER COLUMN twice SET EXPRESSION AS (3)
ALTER TABLE shop.big_key ALTER COLUMN v ADD GENERATED BY DEFAULT AS IDENTITY
ALTER TABLE shop.big_key ALTER COLUMN id DROP IDENTITY
ALTER TABLE shop.big_key ALTER COLUMN id SET GENERATED ALWAYS
ALTER TABLE shop.big_key ALTER COLUMN id RESTART WITH 50
-- constraints
ALTER TABLE shop.orders ADD CONSTRAINT c CHECK (total < 1000)
ALTER TABLE shop.orders ADD CONSTRAINT c CHECK (total < 1000) NOT VALID
ALTER TABLE shop.orders ADD CONSTRAINT c FOREIGN KEY (total) REFERENCES shop.users (id)
ALTER TABLE shop.orders ADD CONSTRAINT c FOREIGN KEY (total) REFERENCES shop.users (id) NOT VALID
ALTER TABLE shop.orders VALIDATE CONSTRAINT note_check
ALTER TABLE shop.orders VALIDATE CONSTRAINT orders_second
ALTER TABLE shop.orders VALIDATE CONSTRAINT total_check
ALTER TABLE shop.orders DROP CONSTRAINT total_check
ALTER TABLE shop.orders DROP CONSTRAINT orders_user
ALTER TABLE shop.orders DROP CONSTRAINT orders_pkey CASCADE
ALTER TABLE shop.orders ALTER CONSTRAINT orders_user DEFERRABLE
ALTER TABLE shop.plain ADD PRIMARY KEY (a)
ALTER TABLE shop.plain ADD PRIMARY KEY USING INDEX plain_a
ALTER TABLE shop.users ADD CONSTRAINT u UNIQUE USING INDEX users_age
ALTER TABLE shop.plain ADD CONSTRAINT u UNIQUE (a, b)
ALTER TABLE shop.plain ADD CONSTRAINT u EXCLUDE (a WITH =)
ALTER TABLE shop.log ADD CONSTRAINT c CHECK (id > 0)
from 18 ALTER TABLE shop.orders ADD CONSTRAINT nn NOT NULL total
from 18 ALTER TABLE shop.orders ADD CONSTRAINT nn NOT NULL total NOT VALID
-- tables' properties
ALTER TABLE shop.users RENAME TO people
ALTER TABLE shop.users RENAME COLUMN name TO full_name
ALTER TABLE shop.log RENAME COLUMN kind TO sort
ALTER TABLE shop.orders RENAME CONSTRAINT total_check TO t_check
ALTER TABLE shop.plain SET SCHEMA public
ALTER TABLE shop.orders SET SCHEMA public
ALTER TABLE shop.plain OWNER TO CURRENT_USER
ALTER TABLE shop.plain SET (fillfactor = 70)
ALTER TABLE shop.plain SET (autovacuum_enabled = false)
ALTER TABLE shop.plain SET (user_catalog_table = true)
ALTER TABLE shop.plain RESET (fillfactor)
ALTER TABLE shop.plain SET UNLOGGED
ALTER TABLE shop.plain CLUSTER ON plain_a
ALTER TABLE shop.plain SET WITHOUT CLUSTER
ALTER TABLE shop.plain REPLICA IDENTITY FULL
ALTER TABLE shop.plain ENABLE ROW LEVEL SECURITY
ALTER TABLE shop.plain FORCE ROW LEVEL SECURITY
ALTER TABLE shop.items DISABLE TRIGGER items_touch
ALTER TABLE shop.items ENABLE TRIGGER ALL
ALTER TABLE shop.items DISABLE RULE quiet
ALTER TABLE shop.child NO INHERIT shop.parent
ALTER TABLE shop.log ATTACH PARTITION shop.log_3 FOR VALUES FROM ('2027-01-01') TO ('2028-01-01')
ALTER TABLE shop.log ATTACH PARTITION shop.log_4 FOR VALUES FROM ('2028-01-01') TO ('2029-01-01')
ALTER TABLE shop.log DETACH PARTITION shop.log_1
ALTER TABLE shop.users ADD COLUMN x text, ALTER COLUMN name SET DEFAULT 'y', ADD CONSTRAINT c CHECK (id > 0)
-- indexes
CREATE INDEX ON shop.orders (user_id)
CREATE UNIQUE INDEX ON shop.orders (num)
CREATE INDEX ON shop.log (id)
CREATE INDEX ON ONLY shop.log (id)
DROP INDEX shop.users_email
DROP INDEX IF EXISTS shop.nothing
ALTER INDEX shop.users_email RENAME TO users_mail
ALTER INDEX shop.users_email SET (fillfactor = 70)
REINDEX INDEX shop.users_email
REINDEX TABLE shop.users
-- creating
CREATE TABLE shop.new (a integer)
CREATE TABLE shop.new (a integer REFERENCES shop.users)
CREATE TABLE shop.new (LIKE shop.users INCLUDING ALL)
CREATE TABLE shop.new PARTITION OF shop.log FOR VALUES FROM ('2030-01-01') TO ('2031-01-01')
CREATE TABLE shop.new (d integer) INHERITS (shop.parent)
CREATE TABLE shop.new AS SELECT * FROM shop.orders
CREATE VIEW shop.new AS SELECT id FROM shop.orders
CREATE OR REPLACE VIEW shop.rich AS SELECT id, memory FROM shop.users
CREATE MATERIALIZED VIEW shop.new AS SELECT id FROM shop.orders
REFRESH MATERIALIZED VIEW shop.totals
REFRESH MATERIALIZED VIEW CONCURRENTLY shop.totals
CREATE SEQUENCE shop.new OWNED BY shop.plain.a
ALTER SEQUENCE shop.counter RESTART WITH 10
CREATE TRIGGER new BEFORE UPDATE ON shop.plain FOR EACH ROW EXECUTE FUNCTION shop.touch()
CREATE OR REPLACE TRIGGER items_touch BEFORE UPDATE ON shop.items FOR EACH ROW EXECUTE FUNCTION shop.touch()
DROP TRIGGER items_touch ON shop.items
ALTER TRIGGER items_touch ON shop.items RENAME TO t
CREATE POLICY new ON shop.plain USING (true)
ALTER POLICY mine ON shop.items USING (false)
DROP POLICY mine ON shop.items
CREATE RULE new AS ON DELETE TO shop.plain DO INSTEAD NOTHING
DROP RULE quiet ON shop.items
CREATE STATISTICS shop.new ON a, b FROM shop.plain
DROP STATISTICS shop.item_stats
CREATE PUBLICATION new FOR TABLE shop.plain
ALTER PUBLICATION news ADD TABLE shop.plain
ALTER PUBLICATION news DROP TABLE shop.orders
COMMENT ON TABLE shop.plain IS 'x'
COMMENT ON COLUMN shop.plain.a IS 'x'
COMMENT ON CONSTRAINT total_check ON shop.orders IS 'x'
GRANT SELECT ON shop.plain TO PUBLIC
CREATE FUNCTION shop.f() RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM shop.plain'
CREATE SCHEMA other
CREATE TYPE shop.other AS ENUM ('a')
ALTER TYPE shop.mood ADD VALUE 'glad'
ALTER TYPE shop.mood RENAME VALUE 'ok' TO 'fine'
ALTER DOMAIN shop.positive ADD CONSTRAINT small CHECK (VALUE < 100)
ALTER DOMAIN shop.positive ADD CONSTRAINT small CHECK (VALUE < 100) NOT VALID
ALTER DOMAIN shop.positive VALIDATE CONSTRAINT below_million
ALTER DOMAIN shop.positive DROP CONSTRAINT above_zero
-- dropping
DROP TABLE shop.plain
DROP TABLE shop.items
DROP TABLE shop.orders CASCADE
DROP TABLE shop.log
DROP TABLE shop.log_1
DROP TABLE IF EXISTS shop.nothing
DROP VIEW shop.rich
DROP MATERIALIZED VIEW shop.totals
DROP SEQUENCE shop.counter
DROP TYPE shop.mood CASCADE
DROP FUNCTION shop.touch() CASCADE
TRUNCATE shop.plain
TRUNCATE shop.orders CASCADE
TRUNCATE shop.log
-- rows
SELECT * FROM shop.users
SELECT * FROM shop.users FOR UPDATE
INSERT INTO shop.plain (a, b) VALUES (100, 'x')
INSERT INTO shop.plain (a, b) SELECT id + 100, name FROM shop.users
INSERT INTO shop.orders (id, user_id) VALUES (100, 1)
UPDATE shop.plain SET b = 'y'
UPDATE shop.users SET name = 'y'
UPDATE shop.log SET kind = 'y'
UPDATE shop.plain SET b = u.name FROM shop.users AS u WHERE u.id = a
DELETE FROM shop.plain
DELETE FROM shop.items
DELETE FROM shop.log WHERE id = 7
WITH gone AS (DELETE FROM shop.plain RETURNING a) SELECT count(*) FROM gone
LOCK TABLE shop.plain
LOCK TABLE shop.plain IN SHARE MODE
ANALYZE shop.plain
CLUSTER shop.plain USING plain_a
COPY shop.plain TO STDOUT
EXPLAIN SELECT * FROM shop.plain
EXPLAIN ANALYZE DELETE FROM shop.plain
DO $$ BEGIN LOOP UPDATE shop.plain SET b = 'z'; EXIT; END LOOP; END $$
SET lock_timeout = '1s'
