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
-- no way back: PostgreSQL cannot remove a value from an enum
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
-- no way back: which rows an ON CONFLICT DO UPDATE inserts, and which it updates, is not captured
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
-- no way back: rows that a TRUNCATE removes are not captured, because all would wait for it
TRUNCATE sessions;
-- migration: 042_expand_weight
ALTER TABLE products ALTER COLUMN weight TYPE double precision;
-- migration: 043_tags_table
CREATE TABLE tags (id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL UNIQUE);
INSERT INTO tags (name) SELECT DISTINCT unnest(tags) FROM products WHERE tags IS NOT NULL;
CREATE TABLE product_tags (product_id bigint REFERENCES products, tag_id integer REFERENCES tags, PRIMARY KEY (product_id, tag_id));
INSERT INTO product_tags SELECT p.id, t.id FROM products AS p JOIN tags AS t ON t.name = ANY (p.tags);
ALTER TABLE products DROP COLUMN tags;
-- migration: 044_call
-- no way back: nobody can know what a procedure or a block did
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
