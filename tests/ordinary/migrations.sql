-- Ordinary migrations of a team, in order: "-- migration: NAME" begins one, "-- down:" its own down script.
-- "-- no way back: WHY" is an answer that is right: nothing could be captured, or nothing can be known.
-- migration: 001_create_coupons
CREATE TABLE coupons (id serial PRIMARY KEY, code text NOT NULL UNIQUE, percent integer CHECK (percent BETWEEN 1 AND 100));
INSERT INTO coupons (code, percent) VALUES ('WELCOME', 10), ('SUMMER', 20);
-- migration: 002_add_phone
ALTER TABLE users ADD COLUMN phone varchar(30);
-- migration: 003_seed_products
INSERT INTO products (sku, title, price, stock) VALUES ('NEW-1', 'Cup', 4.50, 10), ('NEW-2', 'Plate', 6.00, 5);
-- migration: 004_seed_users
INSERT INTO users (email, name) VALUES ('support@example.com', 'Support');
-- migration: 005_phone_index
CREATE INDEX users_phone_idx ON users (phone);
-- migration: 006_age_smallint
ALTER TABLE users ALTER COLUMN age TYPE smallint;
-- migration: 007_drop_notes
ALTER TABLE users DROP COLUMN notes;
-- migration: 008_rename_title
ALTER TABLE products RENAME COLUMN title TO name;
-- migration: 009_order_state_cancelled
ALTER TYPE order_state ADD VALUE 'cancelled';
-- migration: 010_total_bigint
ALTER TABLE orders ALTER COLUMN total TYPE bigint;
-- migration: 011_backfill_total
UPDATE orders SET total = total * 100;
-- migration: 012_rename_old_logs
ALTER TABLE old_logs RENAME TO log_lines;
ALTER TABLE log_lines ADD COLUMN level text NOT NULL DEFAULT 'info';
ALTER TABLE log_lines DROP COLUMN line;
-- migration: 013_agreed_text
ALTER TABLE sessions ALTER COLUMN agreed TYPE text USING CASE WHEN agreed THEN 'agreed' ELSE 'refused' END;
-- migration: 014_items_primary_key
ALTER TABLE order_items ADD COLUMN id bigserial PRIMARY KEY;
-- migration: 015_settings_new_key
ALTER TABLE settings DROP CONSTRAINT settings_pkey;
ALTER TABLE settings ADD COLUMN id serial PRIMARY KEY;
ALTER TABLE settings ADD CONSTRAINT settings_key_unique UNIQUE (key);
-- migration: 016_drizzle_foreign_key
DO $$ BEGIN
 ALTER TABLE "sessions" ADD CONSTRAINT "sessions_user_id_users_id_fk" FOREIGN KEY ("user_id") REFERENCES "public"."users"("id") ON DELETE cascade ON UPDATE no action;
EXCEPTION
 WHEN duplicate_object THEN null;
END $$;
-- migration: 017_drop_legacy
ALTER TABLE orders DROP COLUMN legacy_code, DROP COLUMN legacy_number;
-- migration: 018_touch_trigger
CREATE TRIGGER users_touch BEFORE UPDATE ON users FOR EACH ROW EXECUTE FUNCTION touch();
-- migration: 019_create_reviews
CREATE TABLE reviews (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(), product_id bigint NOT NULL REFERENCES products ON DELETE CASCADE,
    stars smallint NOT NULL CHECK (stars BETWEEN 1 AND 5), body text, created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX reviews_product_idx ON reviews (product_id);
-- migration: 020_email_not_null_and_check
ALTER TABLE users ADD CONSTRAINT users_age_check CHECK (age >= 0);
ALTER TABLE users ALTER COLUMN name SET NOT NULL;
-- migration: 021_down_of_a_team
ALTER TABLE orders DROP COLUMN comment;
-- down:
ALTER TABLE orders ADD COLUMN comment text;
-- migration: 022_down_with_other_white_space
CREATE OR REPLACE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.updated_at := clock_timestamp(); RETURN NEW; END';
-- down:
CREATE OR REPLACE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS
'BEGIN
    NEW.updated_at := now();
    RETURN NEW;
END';
-- migration: 023_replace_view
DROP VIEW admins;
CREATE VIEW admins AS SELECT id, email, name FROM users WHERE is_admin;
-- migration: 024_drop_log_lines
DROP TABLE log_lines;
-- migration: 025_new_partition
CREATE TABLE events_2026_03 PARTITION OF events FOR VALUES FROM ('2026-03-01') TO ('2026-04-01');
-- migration: 026_seed_events
INSERT INTO events (at, what) VALUES ('2026-03-05', 'seeded');
-- migration: 027_delete_orphans
DELETE FROM sessions WHERE user_id > 55;
-- migration: 028_country_of_users
ALTER TABLE users ADD COLUMN country char(2) REFERENCES countries;
UPDATE users SET country = 'de' WHERE id BETWEEN 10 AND 20;
-- migration: 029_stock_not_null
UPDATE products SET stock = 0 WHERE stock IS NULL;
ALTER TABLE products ALTER COLUMN stock SET NOT NULL, ALTER COLUMN stock SET DEFAULT 0;
-- migration: 030_price_cents
ALTER TABLE products ADD COLUMN price_cents integer;
UPDATE products SET price_cents = (price * 100)::integer;
ALTER TABLE products ALTER COLUMN price_cents SET NOT NULL;
ALTER TABLE products DROP COLUMN price;
-- migration: 031_seen_at_zone
ALTER TABLE sessions ALTER COLUMN seen_at TYPE timestamptz USING seen_at AT TIME ZONE 'UTC';
-- migration: 032_unique_sku
ALTER TABLE products ADD CONSTRAINT products_sku_key UNIQUE (sku);
-- migration: 033_replica_identity
ALTER TABLE products REPLICA IDENTITY USING INDEX products_sku_key;
-- migration: 034_countries_more
INSERT INTO countries VALUES ('es', 'Spain'), ('fr', 'La France') ON CONFLICT (code) DO UPDATE SET name = excluded.name;
-- migration: 035_state_to_text
ALTER TABLE orders ALTER COLUMN state DROP DEFAULT;
ALTER TABLE orders ALTER COLUMN state TYPE text USING state::text;
ALTER TABLE orders ALTER COLUMN state SET DEFAULT 'new';
DROP TYPE order_state;
-- migration: 036_full_name_generated
ALTER TABLE users ADD COLUMN label text GENERATED ALWAYS AS (name || ' <' || email || '>') STORED;
-- migration: 037_drop_country_name
ALTER TABLE countries DROP COLUMN name;
-- migration: 038_audit_copy
CREATE TABLE order_archive AS SELECT id, user_id, total FROM orders WHERE placed_on < '2026-02-10';
DELETE FROM order_items WHERE order_id IN (SELECT id FROM order_archive);
DELETE FROM orders WHERE id IN (SELECT id FROM order_archive);
-- migration: 039_uuid_keys
ALTER TABLE coupons ADD COLUMN uid uuid NOT NULL DEFAULT gen_random_uuid();
ALTER TABLE coupons DROP CONSTRAINT coupons_pkey;
ALTER TABLE coupons DROP COLUMN id;
ALTER TABLE coupons ADD PRIMARY KEY (uid);
-- migration: 040_events_not_null
ALTER TABLE events ALTER COLUMN what SET NOT NULL;
-- migration: 041_truncate_sessions
TRUNCATE sessions;
-- migration: 042_expand_weight
ALTER TABLE products ALTER COLUMN weight TYPE double precision;
-- migration: 043_tags_table
CREATE TABLE tags (id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL UNIQUE);
INSERT INTO tags (name) SELECT DISTINCT unnest(tags) FROM products WHERE tags IS NOT NULL;
CREATE TABLE product_tags (product_id bigint REFERENCES products, tag_id integer REFERENCES tags, PRIMARY KEY (product_id, tag_id));
INSERT INTO product_tags SELECT p.id, t.id FROM products AS p JOIN tags AS t ON t.name = ANY (p.tags);
ALTER TABLE products DROP COLUMN tags;
-- migration: 044_loop
DO $$ DECLARE u record; BEGIN FOR u IN SELECT id FROM users LOOP UPDATE users SET age = age + 1 WHERE id = u.id; END LOOP; END $$;
-- migration: 045_matview
CREATE MATERIALIZED VIEW order_totals AS SELECT user_id, sum(total) AS total FROM orders GROUP BY user_id;
CREATE UNIQUE INDEX order_totals_user_idx ON order_totals (user_id);
-- migration: 046_grant
GRANT SELECT ON users TO PUBLIC;
COMMENT ON TABLE users IS 'people';
-- migration: 047_merge_names
UPDATE users SET name = upper(name) WHERE id % 2 = 0;
-- migration: 048_drop_index
DROP INDEX products_title_idx;
-- migration: 049_drop_function_trigger
DROP TRIGGER settings_shout ON settings;
DROP FUNCTION shout();
-- migration: 050_detach
ALTER TABLE events DETACH PARTITION events_2026_01;
DROP TABLE events_2026_01;
-- migration: 051_schema
CREATE SCHEMA billing;
CREATE TABLE billing.invoices (id serial PRIMARY KEY, order_id integer REFERENCES orders, amount numeric(12, 2));
INSERT INTO billing.invoices (order_id, amount) SELECT id, total FROM orders WHERE id > 100;
-- migration: 052_json_split
ALTER TABLE products ADD COLUMN n integer;
UPDATE products SET n = (details ->> 'n')::integer;
ALTER TABLE products DROP COLUMN details;
-- migration: 053_citext_email
CREATE EXTENSION IF NOT EXISTS citext;
DROP VIEW admins;
ALTER TABLE users DROP COLUMN label;
ALTER TABLE users ALTER COLUMN email TYPE citext;
CREATE VIEW admins AS SELECT id, email, name FROM users WHERE is_admin;
-- migration: 054_plans
CREATE TABLE plans (code text PRIMARY KEY, title text NOT NULL, price numeric(8, 2) NOT NULL DEFAULT 0);
INSERT INTO plans VALUES ('free', 'Free', 0), ('pro', 'Pro', 9.5), ('old', 'Old', 5) ON CONFLICT DO NOTHING;
-- migration: 055_plans_upsert
INSERT INTO plans (code, title, price) VALUES ('pro', 'Professional', 12), ('team', 'Team', 30)
    ON CONFLICT (code) DO UPDATE SET title = excluded.title, price = excluded.price WHERE plans.price <> excluded.price;
-- migration: 056_plans_refill
TRUNCATE TABLE plans;
INSERT INTO plans (code, title, price) VALUES ('free', 'Free', 0), ('pro', 'Pro', 15), ('team', 'Team', 40);
-- migration: 057_subscriptions
CREATE TYPE subscription_state AS ENUM ('trial', 'active', 'ended');
CREATE TABLE subscriptions (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id integer NOT NULL REFERENCES users ON DELETE CASCADE,
    plan text NOT NULL REFERENCES plans, state subscription_state NOT NULL DEFAULT 'trial', started_on date NOT NULL DEFAULT current_date
);
CREATE UNIQUE INDEX subscriptions_active_key ON subscriptions (user_id) WHERE state <> 'ended';
-- migration: 058_subscribe_all
INSERT INTO subscriptions (id, user_id, plan, state, started_on)
    SELECT md5(id::text)::uuid, id, CASE WHEN id % 4 = 0 THEN 'pro' ELSE 'free' END, 'active', '2026-05-01' FROM users WHERE id % 2 = 0;
-- migration: 059_state_paused
ALTER TYPE subscription_state ADD VALUE IF NOT EXISTS 'paused' BEFORE 'ended';
-- migration: 060_state_replaced
ALTER TYPE subscription_state RENAME TO subscription_state_old;
CREATE TYPE subscription_state AS ENUM ('active', 'paused', 'ended');
DROP INDEX subscriptions_active_key;
UPDATE subscriptions SET state = 'active' WHERE state = 'trial';
ALTER TABLE subscriptions ALTER COLUMN state DROP DEFAULT;
ALTER TABLE subscriptions ALTER COLUMN state TYPE subscription_state USING state::text::subscription_state;
ALTER TABLE subscriptions ALTER COLUMN state SET DEFAULT 'active';
CREATE UNIQUE INDEX subscriptions_active_key ON subscriptions (user_id) WHERE state <> 'ended';
DROP TYPE subscription_state_old;
-- migration: 061_stock_from_supplier
-- from 15
MERGE INTO products AS p USING (VALUES ('S1', 50), ('S2', 0), ('S99', 7)) AS s (sku, stock) ON p.sku = s.sku
    WHEN MATCHED AND s.stock = 0 THEN UPDATE SET stock = 0
    WHEN MATCHED THEN UPDATE SET stock = p.stock + s.stock
    WHEN NOT MATCHED THEN INSERT (sku, name, stock, price_cents) VALUES (s.sku, 'Unnamed', s.stock, 0);
-- migration: 062_totals_from_items
UPDATE orders AS o SET total = s.quantity * 100 FROM (SELECT order_id, sum(quantity) AS quantity FROM order_items GROUP BY order_id) AS s
    WHERE s.order_id = o.id;
-- migration: 063_items_of_sent_orders
DELETE FROM order_items USING orders WHERE orders.id = order_items.order_id AND orders.state = 'sent' AND orders.user_id > 40;
-- migration: 064_names_in_a_loop
DO $$
DECLARE u record;
BEGIN
    FOR u IN SELECT id, name FROM users WHERE name LIKE 'USER %' LOOP
        UPDATE users SET name = initcap(u.name) WHERE id = u.id;
        INSERT INTO settings (key, value) VALUES ('renamed ' || u.id, u.name) ON CONFLICT (key) DO NOTHING;
    END LOOP;
END $$;
-- migration: 065_guarded_type
DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_type WHERE typname = 'currency') THEN
        CREATE TYPE currency AS ENUM ('eur', 'usd');
    END IF;
END $$;
-- migration: 066_guarded_type_drizzle
DO $$ BEGIN
 CREATE TYPE "public"."channel" AS ENUM('mail', 'push');
EXCEPTION
 WHEN duplicate_object THEN null;
END $$;
-- migration: 067_split_name
ALTER TABLE users ADD COLUMN first_name text, ADD COLUMN last_name text;
UPDATE users SET first_name = split_part(name, ' ', 1), last_name = nullif(split_part(name, ' ', 2), '');
ALTER TABLE users ALTER COLUMN first_name SET NOT NULL;
DROP VIEW admins;
ALTER TABLE users DROP COLUMN name;
CREATE VIEW admins AS SELECT id, email, first_name, last_name FROM users WHERE is_admin;
-- migration: 068_orders_bigint
ALTER TABLE orders ALTER COLUMN id TYPE bigint;
ALTER SEQUENCE orders_id_seq AS bigint;
ALTER TABLE order_items ALTER COLUMN order_id TYPE bigint;
ALTER TABLE billing.invoices ALTER COLUMN order_id TYPE bigint;
-- migration: 069_tags_bigint_key
ALTER TABLE tags ADD COLUMN uid bigint;
UPDATE tags SET uid = id * 1000;
ALTER TABLE product_tags ADD COLUMN tag_uid bigint;
UPDATE product_tags SET tag_uid = tags.uid FROM tags WHERE tags.id = product_tags.tag_id;
ALTER TABLE product_tags DROP CONSTRAINT product_tags_tag_id_fkey, DROP CONSTRAINT product_tags_pkey, ADD PRIMARY KEY (product_id, tag_uid);
ALTER TABLE product_tags DROP COLUMN tag_id;
ALTER TABLE tags DROP CONSTRAINT tags_pkey;
ALTER TABLE tags ADD PRIMARY KEY (uid);
ALTER TABLE tags DROP COLUMN id;
ALTER TABLE product_tags ADD CONSTRAINT product_tags_tag_uid_fkey FOREIGN KEY (tag_uid) REFERENCES tags;
-- migration: 070_row_security
ALTER TABLE orders ENABLE ROW LEVEL SECURITY;
CREATE POLICY orders_of_user ON orders USING (user_id = nullif(current_setting('app.user_id', true), '')::integer);
CREATE POLICY orders_insert ON orders FOR INSERT WITH CHECK (total >= 0);
ALTER POLICY orders_insert ON orders WITH CHECK (total > 0);
-- migration: 071_rights
GRANT SELECT, INSERT (user_id, total), UPDATE (state) ON orders TO PUBLIC;
REVOKE SELECT ON users FROM PUBLIC;
ALTER DEFAULT PRIVILEGES IN SCHEMA billing GRANT SELECT ON TABLES TO PUBLIC;
GRANT USAGE ON SCHEMA billing TO PUBLIC;
-- migration: 072_comments
COMMENT ON COLUMN orders.total IS 'in cents';
COMMENT ON TYPE channel IS 'how we write to people';
COMMENT ON INDEX subscriptions_active_key IS 'one at a time';
-- migration: 073_items_product_not_valid
ALTER TABLE order_items ADD CONSTRAINT order_items_product_id_fkey FOREIGN KEY (product_id) REFERENCES products NOT VALID;
ALTER TABLE orders ADD CONSTRAINT orders_total_check CHECK (total >= 0) NOT VALID;
-- migration: 074_items_product_valid
ALTER TABLE order_items VALIDATE CONSTRAINT order_items_product_id_fkey;
ALTER TABLE orders VALIDATE CONSTRAINT orders_total_check;
-- migration: 075_rename_join_table
ALTER TABLE product_tags RENAME TO products_to_tags;
ALTER TABLE products_to_tags RENAME CONSTRAINT product_tags_pkey TO products_to_tags_pkey;
ALTER INDEX reviews_product_idx RENAME TO reviews_product_id_idx;
-- migration: 076_rename_schema
ALTER SCHEMA billing RENAME TO invoicing;
-- migration: 077_rename_type
ALTER TYPE subscription_state RENAME TO plan_state;
ALTER TYPE plan_state RENAME VALUE 'ended' TO 'closed';
-- migration: 078_move_reviews
ALTER TABLE reviews SET SCHEMA invoicing;
ALTER TABLE invoicing.reviews RENAME COLUMN body TO comment;
-- migration: 079_index_concurrently
CREATE INDEX CONCURRENTLY orders_placed_idx ON orders (placed_on) WHERE state <> 'sent';
-- migration: 080_drop_index_concurrently
DROP INDEX CONCURRENTLY IF EXISTS orders_user_idx;
-- migration: 081_email_domain
CREATE DOMAIN email_address AS text CHECK (VALUE ~ '^[^@]+@[^@]+$');
ALTER TABLE coupons ADD COLUMN contact email_address DEFAULT 'sales@example.com';
ALTER DOMAIN email_address ADD CONSTRAINT email_short CHECK (length(VALUE) < 200);
-- migration: 082_invoice_numbers
CREATE SEQUENCE invoicing.numbers START 1000 INCREMENT 10;
ALTER TABLE invoicing.invoices ADD COLUMN number bigint DEFAULT nextval('invoicing.numbers');
UPDATE invoicing.invoices SET number = 100 + id;
ALTER TABLE invoicing.invoices ALTER COLUMN number SET NOT NULL;
ALTER SEQUENCE invoicing.numbers OWNED BY invoicing.invoices.number;
-- migration: 083_setval
SELECT setval(pg_get_serial_sequence('users', 'id'), (SELECT max(id) + 100 FROM users));
-- migration: 084_settings_to_json
ALTER TABLE settings ADD COLUMN data jsonb NOT NULL DEFAULT '{}';
UPDATE settings SET data = jsonb_build_object('value', value, 'since', '2026-06-01');
ALTER TABLE settings DROP COLUMN value;
-- migration: 085_json_path
UPDATE settings SET data = jsonb_set(data - 'since', '{unit}', '"eur"') || '{"v": 2}' WHERE key <> 'theme';
CREATE INDEX settings_data_idx ON settings USING gin (data jsonb_path_ops);
-- migration: 086_replace_view
CREATE OR REPLACE VIEW admins WITH (security_invoker = false) AS SELECT id, email, first_name, last_name, created_at FROM users WHERE is_admin AND age > 18;
-- migration: 087_replace_matview
DROP MATERIALIZED VIEW order_totals;
CREATE MATERIALIZED VIEW order_totals AS SELECT user_id, sum(total) AS total, count(*) AS orders FROM orders GROUP BY user_id;
CREATE UNIQUE INDEX order_totals_user_idx ON order_totals (user_id);
REFRESH MATERIALIZED VIEW CONCURRENTLY order_totals;
-- migration: 088_replace_trigger
CREATE OR REPLACE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN IF NEW IS DISTINCT FROM OLD THEN NEW.updated_at := now(); END IF; RETURN NEW; END';
DROP TRIGGER users_touch ON users;
CREATE TRIGGER users_touch BEFORE UPDATE OF email, first_name ON users FOR EACH ROW EXECUTE FUNCTION touch();
-- migration: 089_audit
CREATE TABLE audit (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, at timestamptz NOT NULL DEFAULT now(), what text, before jsonb, after jsonb);
CREATE FUNCTION audit_row() RETURNS trigger LANGUAGE plpgsql AS $f$
BEGIN
    INSERT INTO audit (what, before, after) VALUES (TG_OP || ' ' || TG_TABLE_NAME, to_jsonb(OLD), to_jsonb(NEW));
    RETURN NULL;
END $f$;
CREATE TRIGGER plans_audit AFTER INSERT OR UPDATE OR DELETE ON plans FOR EACH ROW EXECUTE FUNCTION audit_row();
-- migration: 090_raise_prices
-- no way back: an audit log keeps what was written, by this release as by anybody
UPDATE plans SET price = price * 1.1 WHERE price > 0;
-- migration: 091_more_partitions
CREATE TABLE events_2026_04 PARTITION OF events FOR VALUES FROM ('2026-04-01') TO ('2026-05-01');
CREATE TABLE events_2026_05 (LIKE events INCLUDING ALL);
ALTER TABLE events ATTACH PARTITION events_2026_05 FOR VALUES FROM ('2026-05-01') TO ('2026-06-01');
CREATE INDEX events_what_idx ON events (what);
-- migration: 092_identity
CREATE SEQUENCE users_id_seq1 AS integer START 1000;
ALTER TABLE users ALTER COLUMN id SET DEFAULT nextval('users_id_seq1');
DROP SEQUENCE users_id_seq;
ALTER TABLE users ALTER COLUMN id DROP DEFAULT;
DROP SEQUENCE users_id_seq1;
ALTER TABLE users ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (START 1000);
-- migration: 093_storage
ALTER TABLE orders SET (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05);
CREATE STATISTICS orders_state_user ON state, user_id FROM orders;
ALTER TABLE products ALTER COLUMN name SET STATISTICS 200;
-- migration: 094_delete_accounts
UPDATE orders SET user_id = NULL WHERE user_id > 56;
DELETE FROM sessions WHERE user_id > 56;
DELETE FROM users WHERE id > 56;
-- migration: 095_trigrams
CREATE EXTENSION IF NOT EXISTS pg_trgm;
CREATE INDEX users_email_trgm ON users USING gin ((email::text) gin_trgm_ops);
ALTER TABLE users ADD COLUMN email_hash bytea;
UPDATE users SET email_hash = sha256(lower(email::text)::bytea);
-- migration: 096_bookings
CREATE EXTENSION IF NOT EXISTS btree_gist;
CREATE TABLE bookings (id bigserial PRIMARY KEY, room integer NOT NULL, during tstzrange NOT NULL, EXCLUDE USING gist (room WITH =, during WITH &&));
INSERT INTO bookings (room, during) VALUES (1, '[2026-07-01 10:00+00,2026-07-01 11:00+00)'), (1, '[2026-07-01 11:00+00,2026-07-01 12:00+00)');
ALTER TABLE bookings ADD CONSTRAINT bookings_room_check CHECK (room > 0);
-- migration: 097_archive_totals
-- no way back: the archive has no key, so nobody can tell which row had which value
UPDATE order_archive SET total = round(total / 100.0);
-- migration: 098_trim_all_texts
-- no way back: nobody can know what a block did that puts its statements together
DO $$
DECLARE c record;
BEGIN
    FOR c IN SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'public' AND table_name = 'settings' AND data_type = 'text' LOOP
        EXECUTE format('UPDATE %I SET %I = trim(%I)', c.table_name, c.column_name, c.column_name);
    END LOOP;
END $$;
-- migration: 099_detach_concurrently
ALTER TABLE events DETACH PARTITION events_2026_02 CONCURRENTLY;
-- migration: 100_drop_archive
DROP TABLE order_archive, events_2026_02;
DROP TYPE currency;
