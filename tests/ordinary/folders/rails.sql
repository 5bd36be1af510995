-- file: 20230101120000_create_orders.sql
CREATE TABLE orders (
    id bigserial primary key,
    number character varying NOT NULL,
    total_cents integer DEFAULT 0 NOT NULL,
    currency character varying(3) DEFAULT 'EUR' NOT NULL,
    state character varying,
    created_at timestamp(6) without time zone NOT NULL,
    updated_at timestamp(6) without time zone NOT NULL
);
CREATE UNIQUE INDEX index_orders_on_number ON orders USING btree (number);
-- file: 20230102120000_create_line_items.sql
CREATE TABLE line_items (
    id bigserial primary key,
    order_id bigint NOT NULL,
    sku character varying,
    quantity integer DEFAULT 1,
    CONSTRAINT fk_rails_2dc2e5c22c FOREIGN KEY (order_id) REFERENCES orders(id)
);
CREATE INDEX index_line_items_on_order_id ON line_items (order_id);
-- file: 20230103120000_add_notes_to_orders.sql
ALTER TABLE orders ADD COLUMN notes text;
-- file: 20230104120000_add_index_concurrently.sql
CREATE INDEX CONCURRENTLY index_orders_on_state ON orders (state);
-- file: 20230105120000_add_fk_not_valid.sql
CREATE TABLE customers (id bigserial primary key, email character varying NOT NULL);
ALTER TABLE orders ADD COLUMN customer_id bigint;
ALTER TABLE orders ADD CONSTRAINT fk_rails_customer FOREIGN KEY (customer_id) REFERENCES customers (id) NOT VALID;
-- file: 20230106120000_validate_fk.sql
ALTER TABLE orders VALIDATE CONSTRAINT fk_rails_customer;
-- file: 20230107120000_index_customer.sql
CREATE INDEX CONCURRENTLY index_orders_on_customer_id ON orders (customer_id);
-- file: 20230108120000_change_default.sql
ALTER TABLE orders ALTER COLUMN state SET DEFAULT 'new';
-- file: 20230109120000_not_null_check.sql
ALTER TABLE line_items ADD CONSTRAINT line_items_sku_null CHECK (sku IS NOT NULL) NOT VALID;
-- file: 20230110120000_not_null_validate.sql
ALTER TABLE line_items VALIDATE CONSTRAINT line_items_sku_null;
ALTER TABLE line_items ALTER COLUMN sku SET NOT NULL;
ALTER TABLE line_items DROP CONSTRAINT line_items_sku_null;
-- file: 20230111120000_backfill_one.sql
UPDATE orders SET state = 'done' WHERE id = 1;
-- file: 20230112120000_comment.sql
COMMENT ON COLUMN orders.state IS 'new, paid, done';
-- file: 20230113120000_create_audits.sql
CREATE TABLE audits (
    id bigserial primary key,
    auditable_type character varying,
    auditable_id bigint,
    audited_changes jsonb,
    created_at timestamp(6) without time zone
);
CREATE INDEX auditable_index ON audits (auditable_type, auditable_id);
CREATE INDEX index_audits_on_created_at ON audits (created_at);
-- file: 20230114120000_citext.sql
CREATE EXTENSION IF NOT EXISTS citext WITH SCHEMA public;
ALTER TABLE customers ADD COLUMN handle citext;
-- file: 20230115120000_default_true.sql
ALTER TABLE customers ADD COLUMN active boolean DEFAULT TRUE NOT NULL;
-- file: 20230116120000_structure_function.sql
CREATE FUNCTION touch_updated_at() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
  NEW.updated_at = now();
  RETURN NEW;
END;
$$;
CREATE TRIGGER orders_touch BEFORE UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION touch_updated_at();
-- file: 20230117120000_delete_old_row.sql
DELETE FROM customers WHERE id = 42;
