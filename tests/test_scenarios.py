"""Scenes of the kinds that other tools' rules know, in our words: no miss, and no false alarm outside taste.

The kinds are those of squawk, eugene and strong_migrations: locks, rewrites, and what running code cannot take.
"""

# ruff: noqa: E501 - one statement on a line, whatever its length

from __future__ import annotations

from pgrunbook.review.hazards import Severity, Timeouts, Transactions
from pgrunbook.review.review import review
from pgrunbook.sql.classify import Type

# What is bad, with a rule that has to find it, judged by the text alone; tables that it does not make are in use.
BAD = """
index-not-concurrent: CREATE INDEX books_author ON books (author_id)
index-not-concurrent: CREATE UNIQUE INDEX books_isbn ON books (isbn)
index-not-concurrent: CREATE INDEX IF NOT EXISTS books_title ON books USING gin (title)
drop-index-not-concurrent: DROP INDEX books_author
drop-index-not-concurrent: DROP INDEX IF EXISTS books_author, books_title
reindex-not-concurrent: REINDEX INDEX books_author
reindex-not-concurrent: REINDEX TABLE books
reindex-not-concurrent: REINDEX (VERBOSE, CONCURRENTLY off) TABLE books
reindex-not-concurrent: REINDEX SCHEMA public
add-column-rewrites: ALTER TABLE books ADD COLUMN token uuid DEFAULT gen_random_uuid()
add-column-rewrites: ALTER TABLE books ADD COLUMN seen timestamptz DEFAULT clock_timestamp()
add-column-rewrites: ALTER TABLE books ADD COLUMN n serial
add-column-rewrites: ALTER TABLE books ADD COLUMN n bigint GENERATED ALWAYS AS IDENTITY
add-column-rewrites: ALTER TABLE books ADD COLUMN long text GENERATED ALWAYS AS (title || isbn) STORED
add-column-not-null: ALTER TABLE books ADD COLUMN state text NOT NULL
add-column-checks-rows: ALTER TABLE books ADD COLUMN price integer CHECK (price > 0)
add-column-checks-rows: ALTER TABLE books ADD COLUMN code text UNIQUE
foreign-key-locks-both: ALTER TABLE books ADD COLUMN shelf_id integer REFERENCES shelves
json-column: ALTER TABLE books ADD COLUMN extra json
column-type-rewrites: ALTER TABLE books ALTER COLUMN id TYPE bigint
column-type-rewrites: ALTER TABLE books ALTER COLUMN title SET DATA TYPE varchar(20)
column-type-rewrites: ALTER TABLE books ALTER COLUMN at TYPE timestamptz USING at AT TIME ZONE 'UTC'
set-not-null-scans: ALTER TABLE books ALTER COLUMN title SET NOT NULL
set-not-null-scans: ALTER TABLE books ADD CONSTRAINT there NOT NULL title
drop-not-null: ALTER TABLE books ALTER COLUMN title DROP NOT NULL
drop-column: ALTER TABLE books DROP COLUMN title
drop-column: ALTER TABLE books DROP title CASCADE
rename-column: ALTER TABLE books RENAME COLUMN title TO name
rename-table: ALTER TABLE books RENAME TO works
rename-table: ALTER TABLE books SET SCHEMA archive
drop-table: DROP TABLE books
drop-table: DROP TABLE IF EXISTS books CASCADE
drop-cascade: TRUNCATE books CASCADE
truncate: TRUNCATE TABLE books
foreign-key-validates: ALTER TABLE books ADD CONSTRAINT f FOREIGN KEY (author_id) REFERENCES authors (id)
check-validates: ALTER TABLE books ADD CONSTRAINT c CHECK (price > 0)
key-builds-index: ALTER TABLE books ADD CONSTRAINT u UNIQUE (isbn)
key-builds-index: ALTER TABLE books ADD PRIMARY KEY (id)
key-builds-index: ALTER TABLE books ADD CONSTRAINT x EXCLUDE USING gist (room WITH =)
validate-with-add: BEGIN; ALTER TABLE books ADD CONSTRAINT c CHECK (a > 0) NOT VALID; ALTER TABLE books VALIDATE CONSTRAINT c; COMMIT
partition-is-read: ALTER TABLE sales ATTACH PARTITION sales_27 FOR VALUES FROM (1) TO (2)
partition-detached: ALTER TABLE sales DETACH PARTITION sales_25
materialized-view-locked: REFRESH MATERIALIZED VIEW sums
table-rewritten: VACUUM FULL books
table-rewritten: VACUUM (FULL true, ANALYZE) books
table-rewritten: CLUSTER books USING books_pkey
table-rewritten: ALTER TABLE books SET UNLOGGED
table-rewritten: ALTER TABLE books SET TABLESPACE slow
table-locked-by-hand: LOCK TABLE books
update-unbatched: UPDATE books SET state = 'new'
update-unbatched: UPDATE books SET state = 'new' WHERE id = (SELECT min(id) FROM loans WHERE loans.isbn = books.isbn)
update-unbatched: UPDATE books SET state = 'new' WHERE id = (SELECT id)
update-unbatched: UPDATE books SET shelf = (SELECT id FROM shelves WHERE kind = books.kind LIMIT 1)
update-unbatched: WITH w AS (UPDATE books SET state = 'new' RETURNING id) SELECT count(*) FROM w
delete-unbatched: DELETE FROM books WHERE state = 'gone'
merge-unbatched: MERGE INTO books b USING feed f ON f.id = b.id WHEN MATCHED THEN UPDATE SET title = f.title
insert-select-unbatched: INSERT INTO archive (id) SELECT id FROM books
explain-analyze-writes: EXPLAIN ANALYZE DELETE FROM books WHERE id = 1
explain-analyze-writes: EXPLAIN (ANALYZE 1, COSTS off) UPDATE books SET a = 1 WHERE id = 1
domain-constraint: ALTER DOMAIN price ADD CONSTRAINT c CHECK (VALUE > 0)
domain-constraint: ALTER DOMAIN price SET NOT NULL
domain-constraint: ALTER DOMAIN price VALIDATE CONSTRAINT c
reaches-beyond: ALTER TYPE mood RENAME VALUE 'sad' TO 'blue'
reaches-beyond: ALTER TYPE mood RENAME TO humour
reaches-beyond: ALTER SCHEMA app RENAME TO apps
reaches-beyond: DROP DATABASE shop
reaches-beyond: DROP OWNED BY intern
reaches-beyond: ALTER VIEW recent RENAME TO latest
drop-cascade: DROP TYPE mood CASCADE
drop-used-object: DROP VIEW recent
drop-used-object: DROP FUNCTION total(integer)
drop-used-object: DROP SEQUENCE numbers
row-security-hides-rows: ALTER TABLE books ENABLE ROW LEVEL SECURITY
relied-upon-goes: ALTER TABLE books ALTER COLUMN id DROP IDENTITY
relied-upon-goes: ALTER TABLE books ALTER COLUMN long DROP EXPRESSION
relied-upon-goes: ALTER TABLE books DISABLE TRIGGER touch
relied-upon-goes: REVOKE SELECT ON books FROM reader
concurrently-in-transaction: BEGIN; CREATE INDEX CONCURRENTLY i ON books (a); COMMIT
enum-value-used-at-once: BEGIN; ALTER TYPE mood ADD VALUE 'new'; UPDATE books SET m = 'new' WHERE id = 1; COMMIT
column-type-rewrites: CREATE TABLE IF NOT EXISTS books (id integer); ALTER TABLE books ALTER COLUMN id TYPE bigint
history-edited-by-hand: UPDATE alembic_version SET version_num = '0002'
history-edited-by-hand: INSERT INTO alembic_version (version_num) VALUES ('0002')
session-terminated: SELECT pg_terminate_backend(17)
""".strip().splitlines()
# What is harmless, or done as it should be: under a lock_timeout no warning at all.
GOOD = """
CREATE TABLE books (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, title text NOT NULL)
CREATE TABLE books (id integer PRIMARY KEY, at timestamp, name varchar(20), author_id integer REFERENCES authors)
CREATE TABLE books (id integer PRIMARY KEY); CREATE INDEX ON books (id); ALTER TABLE books ALTER COLUMN id TYPE bigint
CREATE TABLE books (id integer); INSERT INTO books VALUES (1), (2); ALTER TABLE books ADD PRIMARY KEY (id)
CREATE TABLE books (id integer); DROP TABLE books
CREATE TABLE books (id integer); ALTER TABLE books RENAME TO works
CREATE INDEX CONCURRENTLY books_author ON books (author_id)
CREATE UNIQUE INDEX CONCURRENTLY books_isbn ON books (isbn)
DROP INDEX CONCURRENTLY books_author
DROP INDEX CONCURRENTLY IF EXISTS books_author
REINDEX INDEX CONCURRENTLY books_author
REINDEX (CONCURRENTLY) TABLE books
REINDEX (CONCURRENTLY true, VERBOSE 0) TABLE books
ALTER TABLE books ADD COLUMN state text
ALTER TABLE books ADD COLUMN state text DEFAULT 'new'
ALTER TABLE books ADD COLUMN state text NOT NULL DEFAULT 'new'
ALTER TABLE books ADD COLUMN at timestamptz DEFAULT now()
ALTER TABLE books ADD COLUMN extra jsonb
ALTER TABLE books ADD COLUMN flag boolean DEFAULT false
ALTER TABLE books ALTER COLUMN state SET DEFAULT 'new'
ALTER TABLE books ALTER COLUMN state SET STATISTICS 500
ALTER TABLE books SET (autovacuum_enabled = false)
ALTER TABLE books ADD CONSTRAINT c CHECK (price > 0) NOT VALID
ALTER TABLE books VALIDATE CONSTRAINT c
ALTER TABLE books ADD CONSTRAINT f FOREIGN KEY (author_id) REFERENCES authors NOT VALID
ALTER TABLE books ADD CONSTRAINT u UNIQUE USING INDEX books_isbn
ALTER TABLE books RENAME CONSTRAINT c TO d
ALTER INDEX books_author RENAME TO books_writer
ALTER TABLE sales DETACH PARTITION sales_25 CONCURRENTLY
CREATE VIEW recent AS SELECT id FROM books
CREATE OR REPLACE VIEW recent AS SELECT id FROM books
DROP VIEW recent; CREATE VIEW recent AS SELECT id, title FROM books
CREATE FUNCTION one() RETURNS integer LANGUAGE sql AS 'SELECT 1'
CREATE TYPE mood AS ENUM ('sad', 'ok')
ALTER TYPE mood ADD VALUE 'glad'
CREATE TYPE mood AS ENUM ('sad'); ALTER TYPE mood RENAME VALUE 'sad' TO 'blue'
CREATE SEQUENCE numbers
CREATE SCHEMA app
CREATE DOMAIN price AS integer CHECK (VALUE > 0)
ALTER DOMAIN price ADD CONSTRAINT c CHECK (VALUE > 0) NOT VALID
REFRESH MATERIALIZED VIEW CONCURRENTLY sums
VACUUM books
VACUUM (ANALYZE, FULL off) books
ANALYZE books
EXPLAIN DELETE FROM books
EXPLAIN (ANALYZE off) UPDATE books SET a = 1
EXPLAIN (ANALYZE false, VERBOSE) DELETE FROM books
UPDATE books SET state = 'new' WHERE id = 7 AND state IS DISTINCT FROM 'new'
DELETE FROM books WHERE id = 7
DELETE FROM books WHERE id = (SELECT book_id FROM loans WHERE loans.code = 'x')
UPDATE books SET state = 'new' WHERE id = (SELECT min(id) FROM books)
DELETE FROM books WHERE id IN (SELECT id FROM books WHERE state = 'gone' ORDER BY id LIMIT 1000)
INSERT INTO books (id, title) VALUES (1, 'a')
UPDATE books SET shelf = (SELECT id FROM shelves LIMIT 1) WHERE id = 7
UPDATE alembic_version SET version_num='0002' WHERE alembic_version.version_num = '0001'
DELETE FROM alembic_version WHERE alembic_version.version_num = '0001'
INSERT INTO alembic_version (version_num) VALUES ('0002') RETURNING alembic_version.version_num
CREATE TABLE alembic_version (version_num text PRIMARY KEY); INSERT INTO alembic_version (version_num) VALUES ('0001')
INSERT INTO books (id, title) VALUES (1, 'a') ON CONFLICT (id) DO UPDATE SET title = excluded.title
GRANT SELECT ON books TO reader
CREATE FUNCTION one() RETURNS integer LANGUAGE sql AS 'SELECT 1'; REVOKE ALL ON FUNCTION one() FROM PUBLIC
ALTER TABLE books ENABLE TRIGGER touch
COMMENT ON TABLE books IS 'what is read'
CREATE POLICY every ON books USING (true); ALTER TABLE books ENABLE ROW LEVEL SECURITY
BEGIN; ALTER TABLE books RENAME TO works; CREATE VIEW books AS SELECT * FROM works; COMMIT
SELECT 1
""".strip().splitlines()


def told(sql: str) -> set[str]:
    """Return the rules that find something a reviewer would stop at; squawk is not asked."""
    transactions = Transactions.UNKNOWN if sql.startswith("BEGIN") else Transactions.STATEMENT
    timeouts = Timeouts(lock_ms=2_000)
    found = review([("a.sql", sql)], with_squawk=False, timeouts=timeouts, transactions=transactions)
    return {h.id for finding in found for h in finding.hazards if h.severity is not Severity.NOTE}


def test_what_is_bad_is_found() -> None:
    """By the rule that knows why."""
    pairs = [line.split(": ", 1) for line in BAD]
    assert [(rule, sql) for rule, sql in pairs if rule not in told(sql)] == []


def test_what_is_harmless_raises_no_alarm() -> None:
    """Nothing is found outside rules of taste."""
    assert [(sql, found) for sql in GOOD if (found := told(sql) - {"transaction-in-file"})] == []


def test_what_breaks_code_is_not_called_compatible() -> None:
    """The type of a statement says so too."""
    lines = [line for line in BAD if line.startswith(("rename", "drop-", "reaches")) and "INDEX" not in line]
    types = {line: {f.type for f in review([("a.sql", line.split(": ", 1)[1])], with_squawk=False)} for line in lines}
    assert [line for line, found in types.items() if Type.COMPATIBLE in found] == []
