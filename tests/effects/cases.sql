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
-- partitions beside a default one
DROP TABLE shop.day_1
DROP TABLE shop.day_rest
DROP TABLE shop.day_2
DROP TABLE shop.day_2_a
DROP TABLE shop.day
CREATE TABLE shop.new PARTITION OF shop.day FOR VALUES FROM ('2040-01-01') TO ('2041-01-01')
CREATE TABLE shop.new PARTITION OF shop.day_2 FOR VALUES IN (7)
CREATE TABLE shop.new PARTITION OF shop.log DEFAULT
ALTER TABLE shop.day ATTACH PARTITION shop.day_3 FOR VALUES FROM ('2028-01-01') TO ('2029-01-01')
ALTER TABLE shop.log ATTACH PARTITION shop.log_3 DEFAULT
ALTER TABLE shop.day DETACH PARTITION shop.day_1
ALTER TABLE shop.day DETACH PARTITION shop.day_2
ALTER TABLE shop.day DETACH PARTITION shop.day_rest
ALTER INDEX shop.log_at ATTACH PARTITION shop.log_1_at_idx
CREATE INDEX ON shop.day (at)
DROP INDEX shop.day_id
DROP INDEX shop.day_1_at
REINDEX TABLE shop.day_1
ALTER INDEX shop.day_id RENAME TO day_n
ALTER TABLE shop.day_1 SET SCHEMA attic
ALTER TABLE shop.day SET SCHEMA attic
ALTER TABLE shop.day_1 RENAME TO x
ALTER TABLE shop.day ADD COLUMN c text
ALTER TABLE ONLY shop.day ALTER COLUMN id SET DEFAULT 3
ALTER TABLE shop.day ADD CONSTRAINT c CHECK (id > 0) NOT VALID
ALTER TABLE shop.day OWNER TO CURRENT_USER
ALTER TABLE shop.day_2_a ADD CONSTRAINT c CHECK (id > 0)
ALTER TABLE shop.day ENABLE ROW LEVEL SECURITY
TRUNCATE shop.day_2
TRUNCATE ONLY shop.day_1
ANALYZE shop.day
ANALYZE shop.parent
-- views
LOCK TABLE shop.some
LOCK TABLE shop.fewer IN SHARE MODE
LOCK TABLE shop.both IN ROW EXCLUSIVE MODE
LOCK TABLE ONLY shop.parent
LOCK TABLE shop.parent, shop.fewer IN ACCESS SHARE MODE
LOCK TABLE shop.day IN EXCLUSIVE MODE
UPDATE shop.some SET name = 'x'
UPDATE shop.fewer SET name = 'x' WHERE id = 1
DELETE FROM shop.strict WHERE id = 3
INSERT INTO shop.strict (id, total) VALUES (300, 3)
UPDATE shop.strict SET total = 3
UPDATE shop.chosen SET name = 'x'
SELECT * FROM shop.chosen FOR UPDATE
LOCK TABLE shop.chosen IN SHARE MODE
SELECT * FROM shop.fewer
SELECT * FROM shop.fewer FOR UPDATE
SELECT * FROM shop.both
INSERT INTO shop.plain (a) SELECT id + 1000 FROM shop.fewer
EXPLAIN UPDATE shop.fewer SET name = 'x'
COPY (SELECT * FROM shop.fewer) TO STDOUT
CREATE VIEW shop.new AS SELECT * FROM shop.fewer
CREATE OR REPLACE VIEW shop.some AS SELECT id, name, age, 1 AS one FROM shop.persons
CREATE OR REPLACE VIEW shop.fewer AS SELECT id, name FROM shop.some WHERE id > 1
ALTER VIEW shop.some RENAME TO someone
ALTER VIEW shop.some SET SCHEMA attic
ALTER VIEW shop.some SET (security_barrier)
ALTER VIEW shop.some ALTER COLUMN name SET DEFAULT 'x'
ALTER VIEW shop.some RENAME COLUMN name TO title
ALTER VIEW shop.some OWNER TO CURRENT_USER
DROP VIEW shop.some CASCADE
DROP VIEW shop.fewer, shop.some
CREATE MATERIALIZED VIEW shop.new AS SELECT * FROM shop.both WITH NO DATA
CREATE TABLE shop.new AS SELECT * FROM shop.both WITH NO DATA
REFRESH MATERIALIZED VIEW shop.totals WITH NO DATA
ALTER MATERIALIZED VIEW shop.totals RENAME TO sums
ALTER MATERIALIZED VIEW shop.totals SET SCHEMA attic
ALTER MATERIALIZED VIEW shop.totals SET (fillfactor = 70)
ALTER MATERIALIZED VIEW shop.totals CLUSTER ON totals_user
CREATE INDEX ON shop.totals (count)
-- what cascades
DROP FUNCTION shop.is_small(integer) CASCADE
DROP FUNCTION shop.one() CASCADE
DROP PROCEDURE shop.work()
DROP TYPE shop.pair CASCADE
DROP TYPE shop.row_type CASCADE
DROP DOMAIN shop.positive CASCADE
DROP DOMAIN shop.any_number CASCADE
DROP SEQUENCE shop.orders_num_seq CASCADE
DROP SCHEMA attic CASCADE
DROP TABLE shop.persons CASCADE
DROP TABLE shop.persons, shop.sales, shop.mine, attic.old CASCADE
DROP TABLE shop.mine CASCADE
DROP MATERIALIZED VIEW shop.totals CASCADE
DROP SERVER far CASCADE
DROP FOREIGN DATA WRAPPER nowhere CASCADE
DROP FOREIGN TABLE shop.remote
DROP OWNED BY shop_owner CASCADE
REASSIGN OWNED BY shop_owner TO CURRENT_USER
ALTER TABLE shop.persons DROP COLUMN age CASCADE
ALTER TABLE shop.persons DROP CONSTRAINT persons_pkey CASCADE
ALTER TABLE shop.odd DROP COLUMN n CASCADE
DROP INDEX shop.plain_a, shop.users_email
-- sequences and storage
ALTER TABLE shop.counted SET UNLOGGED
ALTER TABLE shop.light SET LOGGED
ALTER TABLE shop.light SET UNLOGGED
ALTER TABLE shop.counted SET LOGGED
ALTER TABLE shop.counted SET TABLESPACE pg_default
from 15 ALTER TABLE shop.counted SET ACCESS METHOD heap
ALTER TABLE shop.counted SET SCHEMA attic
ALTER TABLE shop.counted OWNER TO shop_owner
ALTER TABLE shop.counted RENAME COLUMN id TO no
ALTER TABLE shop.counted ALTER COLUMN n DROP DEFAULT
ALTER TABLE shop.counted ALTER COLUMN n TYPE bigint
ALTER TABLE shop.counted ALTER COLUMN id TYPE bigint
ALTER TABLE shop.counted DROP COLUMN n
ALTER SEQUENCE shop.counter OWNED BY shop.plain.a
ALTER SEQUENCE shop.counter AS bigint
ALTER SEQUENCE shop.counter RENAME TO c
ALTER SEQUENCE shop.counter SET SCHEMA attic
ALTER SEQUENCE shop.counter OWNER TO CURRENT_USER
from 15 ALTER SEQUENCE shop.counter SET UNLOGGED
ALTER SEQUENCE shop.counter INCREMENT 2
TRUNCATE shop.counted RESTART IDENTITY
TRUNCATE shop.counted CONTINUE IDENTITY
ALTER INDEX shop.plain_a SET TABLESPACE pg_default
CREATE SEQUENCE shop.new
-- schemas with elements
CREATE SCHEMA new CREATE TABLE a (id integer REFERENCES shop.users) CREATE VIEW v AS SELECT id FROM shop.orders
CREATE SCHEMA new CREATE TABLE a (id integer) CREATE INDEX ON a (id)
CREATE SCHEMA IF NOT EXISTS shop
ALTER SCHEMA attic RENAME TO loft
ALTER SCHEMA attic OWNER TO CURRENT_USER
-- subcommands
ALTER TABLE shop.plain ALTER COLUMN a SET STATISTICS 5, ALTER COLUMN b SET STORAGE PLAIN
ALTER TABLE shop.plain ALTER COLUMN a RESET (n_distinct)
ALTER TABLE shop.items ENABLE ALWAYS TRIGGER items_touch
ALTER TABLE shop.items ENABLE REPLICA TRIGGER items_touch
ALTER TABLE shop.items DISABLE TRIGGER USER
ALTER TABLE shop.items ENABLE ALWAYS RULE quiet
ALTER TABLE shop.items ENABLE REPLICA RULE quiet
ALTER TABLE shop.items ENABLE RULE quiet
ALTER TABLE shop.plain DISABLE ROW LEVEL SECURITY
ALTER TABLE shop.plain NO FORCE ROW LEVEL SECURITY
ALTER TABLE shop.plain REPLICA IDENTITY NOTHING
ALTER TABLE shop.orders REPLICA IDENTITY USING INDEX orders_pkey
ALTER TABLE shop.parent ADD CONSTRAINT c CHECK (a > 0) NO INHERIT
ALTER TABLE shop.typed NOT OF
ALTER TABLE shop.typed ADD PRIMARY KEY (a)
ALTER TYPE shop.row_type ADD ATTRIBUTE c integer CASCADE
ALTER TYPE shop.row_type RENAME ATTRIBUTE a TO z CASCADE
ALTER TYPE shop.pair ADD ATTRIBUTE c integer
ALTER TYPE shop.pair SET SCHEMA attic
ALTER TYPE shop.mood OWNER TO CURRENT_USER
ALTER DOMAIN shop.positive SET DEFAULT 3
ALTER DOMAIN shop.positive DROP NOT NULL
ALTER DOMAIN shop.positive RENAME CONSTRAINT above_zero TO over_zero
ALTER DOMAIN shop.positive RENAME TO plus
ALTER DOMAIN shop.positive SET SCHEMA attic
ALTER TABLE shop.orders DROP CONSTRAINT orders_user CASCADE
ALTER TABLE shop.orders ALTER CONSTRAINT orders_second DEFERRABLE INITIALLY DEFERRED
from 18 ALTER TABLE shop.orders ALTER CONSTRAINT orders_user NOT ENFORCED
ALTER TABLE shop.users ALTER COLUMN twice TYPE bigint
ALTER TABLE shop.items ADD FOREIGN KEY (order_id) REFERENCES shop.orders ON DELETE CASCADE
ALTER TABLE shop.orders ADD FOREIGN KEY (total) REFERENCES shop.orders
ALTER FOREIGN TABLE shop.remote ADD COLUMN c integer
ALTER FOREIGN TABLE shop.remote ALTER COLUMN a OPTIONS (ADD x 'y')
ALTER FOREIGN TABLE shop.remote RENAME TO r
CREATE FOREIGN TABLE shop.new (a integer) SERVER far
ALTER STATISTICS shop.item_stats SET STATISTICS 5
ALTER STATISTICS shop.item_stats RENAME TO s
ALTER STATISTICS shop.item_stats SET SCHEMA attic
ALTER FUNCTION shop.one() RENAME TO uno
ALTER FUNCTION shop.one() SET search_path = shop
ALTER FUNCTION shop.one() OWNER TO CURRENT_USER
ALTER POLICY mine ON shop.items RENAME TO ours
ALTER RULE quiet ON shop.items RENAME TO silent
ALTER PUBLICATION news SET TABLE shop.plain
ALTER PUBLICATION news OWNER TO CURRENT_USER
DROP PUBLICATION news
from 15 CREATE PUBLICATION new FOR TABLES IN SCHEMA shop
CREATE PUBLICATION new FOR ALL TABLES
-- words
COMMENT ON VIEW shop.some IS 'x'
COMMENT ON COLUMN shop.some.name IS 'x'
COMMENT ON MATERIALIZED VIEW shop.totals IS 'x'
COMMENT ON INDEX shop.plain_a IS 'x'
COMMENT ON SEQUENCE shop.counter IS 'x'
COMMENT ON TRIGGER items_touch ON shop.items IS 'x'
COMMENT ON POLICY mine ON shop.items IS 'x'
COMMENT ON RULE quiet ON shop.items IS 'x'
COMMENT ON STATISTICS shop.item_stats IS 'x'
COMMENT ON SCHEMA shop IS 'x'
COMMENT ON TYPE shop.mood IS 'x'
COMMENT ON DOMAIN shop.positive IS 'x'
COMMENT ON CONSTRAINT above_zero ON DOMAIN shop.positive IS 'x'
COMMENT ON FUNCTION shop.one() IS 'x'
COMMENT ON FOREIGN TABLE shop.remote IS 'x'
GRANT SELECT (a) ON shop.plain TO PUBLIC
REVOKE ALL ON shop.plain FROM PUBLIC
GRANT SELECT ON shop.some TO PUBLIC
GRANT USAGE ON SEQUENCE shop.counter TO PUBLIC
GRANT USAGE ON SCHEMA shop TO PUBLIC
GRANT EXECUTE ON FUNCTION shop.one() TO PUBLIC
GRANT USAGE ON TYPE shop.mood TO PUBLIC
GRANT SELECT ON ALL TABLES IN SCHEMA attic TO PUBLIC
GRANT USAGE ON ALL SEQUENCES IN SCHEMA attic TO PUBLIC
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA shop TO PUBLIC
ALTER DEFAULT PRIVILEGES IN SCHEMA shop GRANT SELECT ON TABLES TO PUBLIC
-- creating
CREATE TABLE IF NOT EXISTS shop.plain (a integer)
CREATE TABLE shop.new OF shop.row_type
CREATE TABLE shop.new (a integer, FOREIGN KEY (a) REFERENCES shop.users)
CREATE TABLE shop.new (a integer, EXCLUDE (a WITH =))
CREATE TABLE shop.new (d shop.positive, m shop.mood DEFAULT 'ok')
CREATE TABLE shop.new (LIKE shop.some)
CREATE TEMP TABLE t (a integer)
CREATE TEMP TABLE t AS SELECT * FROM shop.plain
SELECT * INTO shop.new FROM shop.plain
CREATE CONSTRAINT TRIGGER new AFTER INSERT ON shop.plain FROM shop.users FOR EACH ROW EXECUTE FUNCTION shop.touch()
CREATE TRIGGER new INSTEAD OF UPDATE ON shop.both FOR EACH ROW EXECUTE FUNCTION shop.touch()
CREATE TRIGGER new AFTER UPDATE ON shop.day FOR EACH ROW EXECUTE FUNCTION shop.touch()
CREATE RULE new AS ON INSERT TO shop.both DO INSTEAD INSERT INTO shop.plain (a) VALUES (NEW.id)
CREATE OR REPLACE RULE quiet AS ON UPDATE TO shop.items WHERE false DO ALSO NOTHING
CREATE POLICY new ON shop.plain USING (a IN (SELECT id FROM shop.users))
CREATE STATISTICS shop.new ON (a + 1) FROM shop.plain
CREATE FUNCTION shop.f() RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT count(*) FROM shop.plain; END
CREATE FUNCTION shop.f() RETURNS shop.users LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'
CREATE AGGREGATE shop.total(integer) (SFUNC = int4pl, STYPE = integer)
CREATE CAST (shop.mood AS integer) WITH INOUT
CREATE DOMAIN shop.new AS text CHECK (VALUE <> '')
CREATE TYPE shop.new AS (a integer, b shop.mood)
CREATE TYPE shop.new AS RANGE (SUBTYPE = integer)
CREATE OPERATOR shop.=== (LEFTARG = integer, RIGHTARG = integer, FUNCTION = int4eq)
CREATE COLLATION shop.new FROM "C"
CREATE ROLE shop_new
-- rows, other ways
INSERT INTO shop.plain (a, b) VALUES (1, 'x') ON CONFLICT (a) DO UPDATE SET b = 'y'
INSERT INTO shop.orders (id, user_id) SELECT a + 100, a FROM shop.plain
INSERT INTO shop.day VALUES (9, '2025-03-03')
UPDATE shop.day SET at = '2025-07-07' WHERE id = 1
UPDATE ONLY shop.parent SET b = 'x'
UPDATE shop.plain SET b = (SELECT max(name) FROM shop.users)
DELETE FROM shop.plain USING shop.users AS u WHERE u.id = a
from 15 MERGE INTO shop.plain AS p USING shop.users AS u ON u.id = p.a WHEN MATCHED THEN UPDATE SET b = u.name WHEN NOT MATCHED THEN INSERT (a) VALUES (u.id)
from 15 MERGE INTO shop.plain AS p USING shop.orders AS o ON o.id = p.a WHEN MATCHED THEN DELETE
from 15 MERGE INTO shop.plain AS p USING shop.orders AS o ON o.id = p.a WHEN MATCHED THEN DO NOTHING
SELECT * FROM shop.plain FOR UPDATE OF plain
SELECT p.* FROM shop.plain AS p JOIN shop.users AS u ON u.id = p.a FOR SHARE OF p
SELECT * FROM shop.plain FOR KEY SHARE SKIP LOCKED
SELECT * FROM ONLY shop.parent
SELECT * FROM shop.plain TABLESAMPLE SYSTEM (10)
SELECT id FROM shop.users UNION SELECT a FROM shop.plain
SELECT nextval('shop.counter')
TABLE shop.plain
VALUES (1), (2)
WITH w AS (INSERT INTO shop.plain (a) VALUES (77) RETURNING a) SELECT * FROM w
WITH w AS (SELECT * FROM shop.users) UPDATE shop.plain SET b = 'x' FROM w WHERE w.id = a
EXPLAIN ANALYZE SELECT * FROM shop.fewer
EXPLAIN (ANALYZE false) DELETE FROM shop.orders
COPY (SELECT * FROM shop.plain) TO STDOUT
DECLARE c CURSOR FOR SELECT * FROM shop.plain
PREPARE p AS SELECT * FROM shop.plain
CALL shop.work()
DO $$ BEGIN PERFORM 1 FROM shop.fewer; END $$
SET CONSTRAINTS ALL IMMEDIATE
ANALYZE shop.plain (a)
ANALYZE (SKIP_LOCKED) shop.plain
REINDEX (VERBOSE) INDEX shop.plain_a
REINDEX (CONCURRENTLY false) TABLE shop.plain
CLUSTER (VERBOSE) shop.plain USING plain_a
-- defaults, casts, several subcommands, partitions of partitions
ALTER TABLE shop.users ADD COLUMN n text DEFAULT lower('X'), ADD COLUMN o integer DEFAULT 1 + 2
ALTER TABLE shop.users ADD COLUMN n date DEFAULT current_date
ALTER TABLE shop.users ADD COLUMN n timestamptz DEFAULT statement_timestamp()
ALTER TABLE shop.users ADD COLUMN n timestamptz DEFAULT timezone('UTC', now())
ALTER TABLE shop.users ADD COLUMN n text DEFAULT current_user
ALTER TABLE shop.users ADD COLUMN n double precision DEFAULT random()
ALTER TABLE shop.users ADD COLUMN n bigint DEFAULT nextval('shop.counter')
ALTER TABLE shop.users ADD COLUMN n jsonb DEFAULT '{}'::jsonb NOT NULL
ALTER TABLE shop.users ADD COLUMN n text[] DEFAULT ARRAY['a', 'b']
ALTER TABLE shop.users ADD COLUMN n text DEFAULT concat('a', 'b')
ALTER TABLE shop.users ADD COLUMN n text DEFAULT md5('x')
ALTER TABLE shop.users ADD COLUMN n text DEFAULT to_char(now(), 'YYYY')
ALTER TABLE shop.users ADD COLUMN n uuid DEFAULT '00000000-0000-0000-0000-000000000000'
ALTER TABLE shop.users ADD COLUMN n interval DEFAULT make_interval(days => 1)
ALTER TABLE shop.users ADD COLUMN n integer DEFAULT coalesce(NULL, 3)
ALTER TABLE shop.users ADD COLUMN n timestamptz DEFAULT now() + interval '1 day'
ALTER TABLE shop.users ADD COLUMN n integer DEFAULT extract(year FROM clock_timestamp())
ALTER TABLE shop.users ADD COLUMN n integer REFERENCES shop.orders (id) ON DELETE SET NULL
ALTER TABLE shop.users ADD COLUMN n integer CONSTRAINT small CHECK (n < 9) DEFAULT 3
ALTER TABLE ONLY shop.users ADD COLUMN n text
ALTER TABLE shop.users ADD COLUMN n integer, DROP COLUMN memory CASCADE
ALTER TABLE shop.users ALTER COLUMN age TYPE bigint, ALTER COLUMN name TYPE varchar
ALTER TABLE shop.users ALTER COLUMN age TYPE integer USING age + 0
ALTER TABLE shop.users ALTER COLUMN name TYPE text USING name
ALTER TABLE shop.users ALTER COLUMN name TYPE text USING trim(name)
ALTER TABLE shop.users ALTER COLUMN name TYPE varchar(400)
ALTER TABLE shop.users ALTER COLUMN email TYPE varchar(400) COLLATE "C"
ALTER TABLE shop.users ALTER COLUMN email TYPE char(50)
ALTER TABLE shop.users ALTER COLUMN email SET DATA TYPE character varying(50)
ALTER TABLE shop.users ALTER COLUMN amount TYPE numeric(14, 2)
ALTER TABLE shop.users ALTER COLUMN amount TYPE integer
ALTER TABLE shop.users ALTER COLUMN amount TYPE double precision
ALTER TABLE shop.users ALTER COLUMN made TYPE timestamp(0)
ALTER TABLE shop.users ALTER COLUMN made TYPE text
ALTER TABLE shop.users ALTER COLUMN seen TYPE timestamptz(3)
ALTER TABLE shop.users ALTER COLUMN seen TYPE timestamptz(6)
ALTER TABLE shop.users ALTER COLUMN seen TYPE date
ALTER TABLE shop.users ALTER COLUMN bits TYPE varbit
ALTER TABLE shop.users ALTER COLUMN bits TYPE bit(8)
ALTER TABLE shop.users ALTER COLUMN net TYPE text
ALTER TABLE shop.users ALTER COLUMN tags TYPE varchar[]
ALTER TABLE shop.users ALTER COLUMN tags TYPE varchar(5)[]
ALTER TABLE shop.users ALTER COLUMN level TYPE shop.any_number
ALTER TABLE shop.users ALTER COLUMN age TYPE smallint
ALTER TABLE shop.users ALTER COLUMN span TYPE interval day
ALTER TABLE shop.users ALTER COLUMN span TYPE text
ALTER TABLE shop.plain ALTER COLUMN c TYPE json
ALTER TABLE shop.plain ALTER COLUMN c TYPE text
ALTER TABLE shop.plain ALTER COLUMN b TYPE bytea USING b::bytea
ALTER TABLE shop.plain ALTER COLUMN b TYPE integer USING NULL
ALTER TABLE shop.parent ALTER COLUMN a TYPE bigint
ALTER TABLE shop.parent ALTER COLUMN b TYPE varchar
ALTER TABLE shop.parent ALTER COLUMN a SET NOT NULL
ALTER TABLE ONLY shop.parent ALTER COLUMN b SET DEFAULT 'x'
ALTER TABLE shop.day ALTER COLUMN id SET NOT NULL
ALTER TABLE shop.users ALTER COLUMN name SET DEFAULT 'x', ALTER COLUMN age SET STATISTICS 100
ALTER TABLE shop.users ALTER COLUMN name RESET (n_distinct)
ALTER TABLE shop.orders ADD CHECK (note IS NOT NULL) NOT VALID, ADD CHECK (total > 2) NOT VALID
ALTER TABLE shop.orders ADD CHECK (total > 1) NOT VALID, ADD CHECK (total < 99)
ALTER TABLE shop.orders ADD UNIQUE (total)
ALTER TABLE shop.orders ADD UNIQUE (total, num) INCLUDE (note)
ALTER TABLE shop.orders ADD CONSTRAINT f FOREIGN KEY (second_user) REFERENCES shop.persons
ALTER TABLE shop.orders ADD CONSTRAINT f FOREIGN KEY (second_user) REFERENCES shop.persons NOT VALID
ALTER TABLE shop.day ADD CHECK (id > 0)
ALTER TABLE shop.day ADD CHECK (id > 0) NOT VALID
ALTER TABLE shop.day ADD FOREIGN KEY (id) REFERENCES shop.persons
ALTER TABLE shop.day ADD PRIMARY KEY (id, at)
ALTER TABLE shop.day_1 ADD CHECK (id > 0)
ALTER TABLE shop.parent ADD CHECK (a > 0)
ALTER TABLE ONLY shop.parent ADD CHECK (a > 0) NO INHERIT
ALTER TABLE shop.users VALIDATE CONSTRAINT known_there
ALTER TABLE shop.orders VALIDATE CONSTRAINT note_check, VALIDATE CONSTRAINT orders_second
ALTER TABLE shop.users ADD CONSTRAINT k UNIQUE USING INDEX users_known
ALTER TABLE shop.orders DROP CONSTRAINT note_check, ADD CONSTRAINT note_check CHECK (note <> 'x') NOT VALID
CREATE INDEX ON shop.plain (a) WHERE b = 'x'
CREATE INDEX ON shop.plain USING gin (c)
CREATE INDEX ON shop.plain USING hash (b)
CREATE INDEX ON shop.plain USING brin (a)
CREATE INDEX ON shop.plain (a DESC NULLS LAST) INCLUDE (b) WITH (fillfactor = 70)
CREATE INDEX ON ONLY shop.day (at)
CREATE INDEX ON shop.day_2 (at)
ALTER INDEX shop.plain_a SET (fillfactor = 80)
ALTER INDEX shop.users_lower ALTER COLUMN 1 SET STATISTICS 10
ALTER INDEX shop.plain_a RENAME TO pa
DROP INDEX shop.users_email, shop.plain_a
DROP INDEX shop.totals_user
DROP TABLE shop.log_3, shop.log_4
DROP VIEW shop.chosen
CREATE TABLE shop.new PARTITION OF shop.log FOR VALUES FROM ('2031-01-01') TO ('2032-01-01')
CREATE TABLE shop.new (id integer PRIMARY KEY, u integer REFERENCES shop.users, CHECK (id > 0))
CREATE TABLE shop.new AS SELECT * FROM shop.users
CREATE TABLE shop.new (LIKE shop.day_1 INCLUDING INDEXES)
CREATE TEMP TABLE t AS SELECT id FROM shop.users
CREATE MATERIALIZED VIEW shop.new AS SELECT count(*) FROM shop.users WITH NO DATA
CREATE OR REPLACE VIEW shop.rich AS SELECT id, memory, name FROM shop.users
ALTER TABLE shop.light SET LOGGED, ADD COLUMN x integer
ALTER TABLE shop.plain SET LOGGED
ALTER TABLE shop.plain SET (autovacuum_enabled = false, toast_tuple_target = 4000)
ALTER TABLE shop.items FORCE ROW LEVEL SECURITY
ALTER TABLE shop.orders OWNER TO shop_owner
ALTER SEQUENCE shop.orders_num_seq AS bigint
ALTER SEQUENCE shop.orders_num_seq RESTART
ALTER SEQUENCE shop.orders_num_seq MAXVALUE 100000
ALTER TYPE shop.mood ADD VALUE 'x' BEFORE 'ok'
ALTER DOMAIN shop.positive ADD CONSTRAINT c CHECK (VALUE < 5) NOT VALID
ALTER DOMAIN shop.positive DROP CONSTRAINT below_million
CREATE TRIGGER t AFTER UPDATE ON shop.plain FOR EACH STATEMENT EXECUTE FUNCTION shop.touch()
CREATE TRIGGER t BEFORE INSERT ON shop.day FOR EACH ROW EXECUTE FUNCTION shop.touch()
ALTER TABLE shop.items DISABLE TRIGGER ALL
GRANT INSERT, UPDATE ON ALL TABLES IN SCHEMA shop TO shop_owner
REVOKE SELECT ON shop.plain FROM PUBLIC
LOCK TABLE shop.day IN SHARE ROW EXCLUSIVE MODE
LOCK TABLE ONLY shop.parent IN EXCLUSIVE MODE
TRUNCATE shop.items, shop.plain RESTART IDENTITY
TRUNCATE shop.persons CASCADE
UPDATE shop.users SET name = 'x' WHERE id = 3
UPDATE shop.users SET name = 'x' WHERE id IN (1, 2, 3)
UPDATE shop.users SET name = 'x' WHERE id BETWEEN 1 AND 5
UPDATE shop.users SET name = 'x' WHERE email = 'user 3'
DELETE FROM shop.orders WHERE id = 19
DELETE FROM shop.plain WHERE a > 3
INSERT INTO shop.plain (a, b) VALUES (101, 'x'), (102, 'y')
INSERT INTO shop.plain (a) SELECT 200 + a FROM shop.plain
INSERT INTO shop.plain (a) VALUES (1) ON CONFLICT DO NOTHING
INSERT INTO shop.plain (a) VALUES (1) ON CONFLICT (a) DO UPDATE SET b = 'z'
DO $$ BEGIN ALTER TABLE shop.plain ALTER COLUMN a TYPE bigint; END $$
DO $$ BEGIN EXECUTE 'CREATE INDEX ON shop.plain (b)'; END $$
DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_class WHERE relname = 'nope') THEN ALTER TABLE shop.plain ADD COLUMN z text; END IF; END $$
SELECT setval('shop.counter', 1000)
-- what tables below get, and what not
ALTER DOMAIN shop.positive ADD CONSTRAINT low CHECK (VALUE < 1000)
ALTER DOMAIN shop.tiny ADD CONSTRAINT low CHECK (VALUE < 1000)
ALTER DOMAIN shop.tiny SET NOT NULL
ALTER TYPE shop.cells ALTER ATTRIBUTE a TYPE bigint CASCADE
ALTER TYPE shop.cells ALTER ATTRIBUTE b TYPE varchar CASCADE
ALTER TYPE shop.cells DROP ATTRIBUTE b CASCADE
ALTER TABLE shop.hashed ENABLE TRIGGER hashed_touch
ALTER TABLE shop.hashed ENABLE ALWAYS TRIGGER hashed_touch
ALTER TABLE shop.hashed DISABLE TRIGGER ALL
ALTER TABLE ONLY shop.hashed DISABLE TRIGGER ALL
ALTER TABLE shop.top DISABLE TRIGGER ALL
ALTER TABLE shop.hash_notes DROP CONSTRAINT hash_notes_a_b_fkey
ALTER TABLE shop.deep_notes DROP CONSTRAINT of_deep
DROP TABLE shop.deep_notes
DROP TABLE shop.hash_notes
DROP TABLE shop.hashed_1 CASCADE
DROP TABLE shop.deep_1_a CASCADE
DROP TABLE shop.hashed CASCADE
DROP TABLE shop.bottom
ALTER TABLE shop.hashed ADD UNIQUE (k, id)
ALTER TABLE ONLY shop.hashed ADD UNIQUE (k, id)
ALTER TABLE shop.hashed ADD FOREIGN KEY (k) REFERENCES shop.persons
ALTER TABLE shop.deep RENAME CONSTRAINT deep_pkey TO deep_key
CREATE INDEX ON shop.hashed (at)
CREATE UNIQUE INDEX ON shop.hashed (id, k)
CREATE INDEX IF NOT EXISTS hashed_at ON shop.hashed (at)
CREATE TABLE shop.new PARTITION OF shop.deep FOR VALUES FROM (100) TO (200)
CREATE TABLE shop.new PARTITION OF shop.deep FOR VALUES FROM (100) TO (200) PARTITION BY HASH (id)
CREATE TRIGGER new AFTER INSERT ON shop.hashed FOR EACH STATEMENT EXECUTE FUNCTION shop.touch()
CREATE TRIGGER new AFTER INSERT ON shop.hashed FOR EACH ROW EXECUTE FUNCTION shop.touch()
CREATE PUBLICATION new FOR TABLE shop.hashed
CREATE PUBLICATION new FOR TABLE ONLY shop.top
CREATE PUBLICATION new FOR TABLE shop.top
ALTER TABLE ONLY shop.top DROP CONSTRAINT top_a
ALTER TABLE ONLY shop.top ALTER COLUMN a SET NOT NULL
ALTER TABLE ONLY shop.top DROP COLUMN a
ALTER TABLE ONLY shop.top ALTER COLUMN b DROP NOT NULL
ALTER TABLE shop.top DROP COLUMN a
ALTER TABLE shop.top DROP COLUMN b
ALTER TABLE shop.top ALTER COLUMN a TYPE smallint
ALTER TABLE shop.top SET UNLOGGED
ALTER TABLE shop.top ADD UNIQUE (a)
ALTER TABLE ONLY shop.top ADD UNIQUE (a)
ALTER TABLE shop.top ADD PRIMARY KEY (a)
ALTER TABLE shop.top ADD PRIMARY KEY (b)
ALTER TABLE shop.top ADD FOREIGN KEY (a) REFERENCES shop.persons
ALTER TABLE shop.top ADD FOREIGN KEY (a) REFERENCES shop.persons NOT VALID
ALTER TABLE shop.top VALIDATE CONSTRAINT top_a
from 18 ALTER TABLE shop.top ADD CONSTRAINT filled NOT NULL a NO INHERIT
CREATE INDEX ON shop.top (a)
CREATE INDEX ON ONLY shop.top (a)
REINDEX TABLE shop.top
COPY shop.top TO STDOUT
CREATE TRIGGER new BEFORE UPDATE ON shop.top FOR EACH ROW EXECUTE FUNCTION shop.touch()
-- what proves that no row need be read
ALTER TABLE shop.never ALTER COLUMN w SET NOT NULL
ALTER TABLE shop.never ALTER COLUMN v SET NOT NULL, DROP CONSTRAINT never_v
ALTER TABLE shop.span ATTACH PARTITION shop.span_to FOR VALUES FROM ('2027-01-01') TO ('2028-01-01')
ALTER TABLE shop.span ATTACH PARTITION shop.span_between FOR VALUES FROM ('2027-01-01') TO ('2028-01-01')
ALTER TABLE shop.span ATTACH PARTITION shop.span_within FOR VALUES FROM ('2027-01-01') TO ('2028-01-01')
ALTER TABLE shop.span ATTACH PARTITION shop.span_within FOR VALUES FROM ('2027-01-01') TO (MAXVALUE)
ALTER TABLE shop.span ATTACH PARTITION shop.span_either FOR VALUES FROM ('2027-01-01') TO ('2028-01-01')
ALTER TABLE shop.span ATTACH PARTITION shop.span_two FOR VALUES FROM ('2027-01-01') TO ('2028-01-01')
ALTER TABLE shop.listed ATTACH PARTITION shop.listed_bc FOR VALUES IN ('b')
ALTER TABLE shop.listed ATTACH PARTITION shop.listed_bc FOR VALUES IN ('c', 'b', 'd')
ALTER TABLE shop.listed ATTACH PARTITION shop.listed_b FOR VALUES IN ('b', 'c')
ALTER TABLE shop.listed ATTACH PARTITION shop.listed_or FOR VALUES IN ('b', 'c')
ALTER TABLE shop.listed ATTACH PARTITION shop.listed_or FOR VALUES IN ('b')
ALTER TABLE shop.listed ATTACH PARTITION shop.listed_not FOR VALUES IN ('c')
ALTER TABLE shop.pairs ATTACH PARTITION shop.pairs_ab FOR VALUES FROM (1, 1) TO (1, 10)
ALTER TABLE shop.pairs ATTACH PARTITION shop.pairs_a FOR VALUES FROM (1, 1) TO (5, 1)
ALTER TABLE shop.rest ATTACH PARTITION shop.rest_new FOR VALUES FROM ('2027-01-01') TO ('2028-01-01')
ALTER TABLE shop.rest ATTACH PARTITION shop.rest_new FOR VALUES FROM ('2027-01-01') TO ('2027-09-01')
ALTER TABLE shop.rest ATTACH PARTITION shop.rest_new FOR VALUES FROM ('2027-01-01') TO ('2028-09-01')
-- extensions, foreign tables, rules, types
ALTER EXTENSION plpgsql ADD TABLE shop.never
ALTER EXTENSION plpgsql ADD FUNCTION shop.touch()
ALTER TRIGGER never_touch ON shop.never DEPENDS ON EXTENSION plpgsql
ALTER MATERIALIZED VIEW shop.totals DEPENDS ON EXTENSION plpgsql
ALTER INDEX IF EXISTS shop.nothing RENAME TO x
CREATE FOREIGN TABLE shop.new (a integer) INHERITS (shop.top) SERVER far
CREATE FOREIGN TABLE shop.new PARTITION OF shop.listed FOR VALUES IN ('z') SERVER far
CREATE RULE new AS ON UPDATE TO shop.never WHERE NEW.v > (SELECT count(*) FROM shop.plain) DO NOTHING
CREATE RULE new AS ON INSERT TO shop.both DO INSTEAD INSERT INTO shop.plain (a) SELECT NEW.id FROM shop.never
CREATE TABLE IF NOT EXISTS shop.never (a integer REFERENCES shop.persons)
ALTER TABLE shop.never ALTER COLUMN p TYPE text COLLATE pg_catalog."default"
ALTER TABLE shop.never ADD COLUMN q shop.positive[]
from 18 ALTER TABLE shop.never ADD COLUMN q integer GENERATED ALWAYS AS (v * 2) VIRTUAL NOT NULL
-- the kinds of statements that lock no table of anybody, and the rest of the subcommands
ALTER TABLE shop.plain INHERIT shop.parent
ALTER TABLE shop.bottom NO INHERIT shop.middle
ALTER TABLE shop.of_cells NOT OF
ALTER TABLE shop.items ENABLE TRIGGER USER
ALTER FOREIGN TABLE shop.remote OPTIONS (ADD kind 'x')
ALTER COLLATION pg_catalog."C" REFRESH VERSION
ALTER EXTENSION plpgsql UPDATE
ALTER FOREIGN DATA WRAPPER nowhere OPTIONS (ADD kind 'x')
ALTER SERVER far OPTIONS (ADD kind 'x')
ALTER OPERATOR FAMILY pg_catalog.float_ops USING hash ADD FUNCTION 1 (integer) hashint4(integer)
ALTER ROLE shop_owner SET work_mem = '8MB'
ALTER ROLE shop_owner CONNECTION LIMIT 3
ALTER TABLESPACE pg_default SET (seq_page_cost = 1)
ALTER TYPE pg_catalog.varbit SET (STORAGE = main)
CHECKPOINT
CLOSE ALL
CREATE ACCESS METHOD shop_heap TYPE TABLE HANDLER heap_tableam_handler
CREATE CONVERSION shop.new FOR 'LATIN1' TO 'UTF8' FROM iso8859_1_to_utf8
CREATE EXTENSION IF NOT EXISTS plpgsql
CREATE FOREIGN DATA WRAPPER shop_new
CREATE SERVER shop_new FOREIGN DATA WRAPPER nowhere
CREATE USER MAPPING FOR shop_owner SERVER far
CREATE OPERATOR FAMILY shop.new USING btree
CREATE OPERATOR CLASS shop.new FOR TYPE integer USING hash AS OPERATOR 1 =, FUNCTION 1 hashint4(integer)
CREATE LANGUAGE shop_c HANDLER plpgsql_call_handler
ALTER TABLE shop.parent OF shop.row_type
CREATE TRANSFORM FOR integer LANGUAGE sql (FROM SQL WITH FUNCTION prsd_lextype(internal))
DEALLOCATE ALL
DISCARD PLANS
DISCARD SEQUENCES
DROP ROLE IF EXISTS shop_nobody
DROP SUBSCRIPTION IF EXISTS shop_nothing
DROP USER MAPPING IF EXISTS FOR shop_owner SERVER far
GRANT pg_monitor TO shop_owner
LISTEN shop
LOAD 'plpgsql'
NOTIFY shop
SHOW work_mem
UNLISTEN shop
CREATE EVENT TRIGGER shop_watch ON sql_drop EXECUTE FUNCTION shop.watch()
-- What hangs on an object that is no relation falls with it, or keeps its name by number
DROP AGGREGATE shop.summed(integer) CASCADE
DROP COLLATION shop.posix CASCADE
DROP CONVERSION shop.conv
DROP OPERATOR shop.<+> (integer, integer) CASCADE
DROP CAST (shop.pair AS shop.row_type)
DROP OPERATOR CLASS shop.numbers USING btree CASCADE
DROP OPERATOR FAMILY shop.family USING btree CASCADE
DROP TEXT SEARCH CONFIGURATION shop.words CASCADE
DROP TEXT SEARCH DICTIONARY shop.plain_words
DROP EVENT TRIGGER shop_sees
DROP ROUTINE shop.is_small(integer) CASCADE
DROP ROUTINE shop.work
ALTER EVENT TRIGGER shop_sees DISABLE
ALTER EVENT TRIGGER shop_sees RENAME TO shop_watches
ALTER AGGREGATE shop.summed(integer) RENAME TO other
ALTER COLLATION shop.posix RENAME TO c
ALTER CONVERSION shop.conv RENAME TO other
ALTER OPERATOR CLASS shop.numbers USING btree RENAME TO other
ALTER OPERATOR FAMILY shop.family USING btree RENAME TO other
ALTER TEXT SEARCH CONFIGURATION shop.words RENAME TO other
ALTER TEXT SEARCH DICTIONARY shop.plain_words RENAME TO other
ALTER TYPE shop.mood RENAME TO humour
ALTER TYPE shop.row_type RENAME TO other
ALTER PROCEDURE shop.work() RENAME TO other
ALTER ROUTINE shop.one() RENAME TO other
