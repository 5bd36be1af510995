"""Secrets in SQL in every form that we know, each with the same mark; the tests of secrets take them from here."""

from __future__ import annotations

MARK = "Mk7Zq9xT"
# How the mark may be spelled: as it is, quoted, escaped, in a URL.
SPELLINGS = (MARK, "Zq9xT", r"Mk7\x5a", r"Mk7\005A", "Mk7!005A", r"Mk7\+00005A", "Mk7%5A", "TXs3WnE5eFQ")

# What a server runs: each is a migration of its own, on what STAGE has made.
STAGE = f"""
CREATE EXTENSION IF NOT EXISTS plpgsql;
CREATE FOREIGN DATA WRAPPER away;
CREATE SERVER far FOREIGN DATA WRAPPER away OPTIONS (host 'h', password 'old{MARK}');
CREATE SERVER near FOREIGN DATA WRAPPER away OPTIONS (host 'h');
CREATE USER MAPPING FOR PUBLIC SERVER far OPTIONS ("user" 'bob', password 'old{MARK}');
CREATE TABLE users (id int PRIMARY KEY, name text, password text, url text);
INSERT INTO users SELECT i, 'n' || i FROM generate_series(1, 20) AS i;
CREATE TABLE target_of_rows (id int PRIMARY KEY, j jsonb, api_key text);
CREATE FUNCTION dblink_connect(text, text) RETURNS text LANGUAGE sql AS 'SELECT ''OK''';
CREATE FUNCTION dblink_exec(text, text) RETURNS text LANGUAGE sql AS 'SELECT ''OK''';
CREATE FUNCTION pgp_sym_encrypt(text, text) RETURNS text LANGUAGE sql AS 'SELECT ''OK''';
CREATE FUNCTION crypt(text, text) RETURNS text LANGUAGE sql AS 'SELECT ''OK''';
CREATE FUNCTION set_password(who text, p_password text) RETURNS text LANGUAGE sql AS 'SELECT ''OK''';
CREATE FUNCTION holder() RETURNS text LANGUAGE sql AS $$ SELECT 'postgres://u:old{MARK}@h/d' $$;
CREATE VIEW shown AS SELECT 'postgres://u:old{MARK}@h/d'::text AS url;
"""
RUN = (
    "ALTER ROLE {role} PASSWORD 'Mk7Zq9xT'",
    "ALTER USER {role} WITH ENCRYPTED PASSWORD E'Mk7\\x5aq9xT'",
    "ALTER ROLE {role} PASSWORD U&'Mk7\\005Aq9xT' VALID UNTIL 'infinity'",
    "ALTER ROLE {role} PASSWORD U&'Mk7!005Aq9xT' UESCAPE '!'",
    "ALTER ROLE {role} PASSWORD $$Mk7Zq9xT$$",
    "ALTER ROLE {role} PASSWORD $tag$Mk7Zq9xT$tag$",
    "ALTER ROLE {role} PASSWORD 'Mk7''Zq9xT'",
    "ALTER ROLE {role} PASSWORD 'Mk7'\n  'Zq9xT'",
    "ALTER ROLE {role} SET app.api_key = 'Mk7Zq9xT'",
    "ALTER ROLE {role} SET app.token TO Mk7Zq9xT",
    "ALTER SERVER far OPTIONS (SET password 'Mk7Zq9xT')",
    "ALTER SERVER near OPTIONS (ADD \"PASSWORD\" 'Mk7Zq9xT', ADD passwd 'Mk7Zq9xT', ADD pwd 'Mk7Zq9xT')",
    "CREATE SERVER other FOREIGN DATA WRAPPER away OPTIONS (host 'h', auth_token 'Mk7Zq9xT', dsn 'Mk7Zq9xT')",
    "CREATE USER MAPPING FOR CURRENT_USER SERVER near OPTIONS (\"user\" 'bob', password 'Mk7Zq9xT', jwt 'Mk7Zq9xT')",
    "ALTER USER MAPPING FOR PUBLIC SERVER far OPTIONS (SET password 'Mk7Zq9xT')",
    "DROP USER MAPPING FOR PUBLIC SERVER far",
    "CREATE FOREIGN TABLE outside (a int OPTIONS (access_key 'Mk7Zq9xT')) SERVER near OPTIONS (secret 'Mk7Zq9xT')",
    "CREATE FOREIGN DATA WRAPPER another OPTIONS (client_secret 'Mk7Zq9xT')",
    "ALTER FOREIGN DATA WRAPPER away OPTIONS (ADD api_key 'Mk7Zq9xT')",
    "DROP SERVER far CASCADE",
    "SELECT dblink_connect('c', 'host=h password=Mk7Zq9xT')",
    "SELECT dblink_exec('host=h password = ''Mk7 Zq9xT'' user=u', 'select 1')",
    "SELECT dblink_connect('c', format('host=h password=%s', 'Mk7Zq9xT'))",
    "SET app.api_key = 'Mk7Zq9xT'",
    "SET LOCAL app.client_secret TO 'Mk7Zq9xT'",
    "SELECT set_config('app.jwt_secret', 'Mk7Zq9xT', false)",
    "SELECT pgp_sym_encrypt('data', 'Mk7Zq9xT')",
    "SELECT set_password('bob', p_password => 'Mk7Zq9xT')",
    "DO $$ BEGIN ALTER ROLE {role} PASSWORD 'Mk7Zq9xT'; END $$",
    "DO 'BEGIN ALTER ROLE {role} PASSWORD ''Mk7Zq9xT''; END'",
    "DO $$ BEGIN EXECUTE format('ALTER ROLE {role} PASSWORD %L', 'Mk7Zq9xT'); END $$",
    "DO $$ BEGIN EXECUTE 'ALTER ROLE {role} PASSWORD ' || quote_literal('Mk7Zq9xT'); END $$",
    "DO $$ DECLARE v_password text := 'Mk7Zq9xT'; BEGIN RAISE NOTICE '%', v_password; END $$",
    "DO $a$ BEGIN EXECUTE $b$ALTER ROLE {role} PASSWORD 'Mk7Zq9xT'$b$; END $a$",
    (
        "CREATE FUNCTION calls() RETURNS void LANGUAGE plpgsql AS $$ BEGIN PERFORM dblink_connect('c', "
        "'postgres://u:Mk7Zq9xT@h/d'); END $$"
    ),
    "CREATE FUNCTION sets() RETURNS int LANGUAGE sql SET app.secret = 'Mk7Zq9xT' AS 'SELECT 1'",
    "CREATE OR REPLACE FUNCTION holder() RETURNS text LANGUAGE sql AS $$ SELECT 'postgres://u:Mk7Zq9xT@h/d' $$",
    "CREATE OR REPLACE VIEW shown AS SELECT 'postgres://u:Mk7Zq9xT@h/d'::text AS url",
    "COMMENT ON ROLE {role} IS 'the password is Mk7Zq9xT'",
    "COMMENT ON TABLE users IS 'see postgres://u:Mk7Zq9xT@h/d'",
    "CREATE TABLE kept (a int /* postgres://u:Mk7Zq9xT@h/d */, b int -- password=Mk7Zq9xT\n)",
    "CREATE TABLE with_default (id int, api_key text DEFAULT 'Mk7Zq9xT', url text DEFAULT 'https://u:Mk7Zq9xT@h/')",
    "ALTER TABLE users ALTER COLUMN password SET DEFAULT 'Mk7Zq9xT'",
    "ALTER TABLE users ADD COLUMN token text NOT NULL DEFAULT 'Mk7Zq9xT'",
    "ALTER TABLE users ADD CONSTRAINT no_default CHECK (password <> 'noMk7Zq9xT')",
    "INSERT INTO users (id, name, password) VALUES (101, 'a', 'Mk7Zq9xT'), (102, 'b', 'Mk7Zq9xT')",
    'INSERT INTO target_of_rows (id, j) VALUES (1, \'{{"password": "Mk7Zq9xT"}}\'::jsonb)',
    "INSERT INTO target_of_rows (id, api_key) SELECT 2, 'Mk7Zq9xT'",
    "UPDATE users SET url = 'https://u:Mk7Zq9xT@h/d', password = crypt('Mk7Zq9xT', 'salt')",
    "DELETE FROM users WHERE password = 'Mk7Zq9xT'",
    "UPDATE users SET url = 'https://u:Mk7%5Aq9xT@h/d' WHERE id = 1",
    "NOTIFY channel, 'password=Mk7Zq9xT'",
    "CREATE PUBLICATION news FOR TABLE users WHERE (password <> 'Mk7Zq9xT')",
    (
        "CREATE SUBSCRIPTION sub_{database} CONNECTION 'postgresql://u:Mk7Zq9xT@127.0.0.1:1/d' PUBLICATION p "
        "WITH (connect = false, slot_name = NONE)"
    ),
    "ALTER SUBSCRIPTION sub_{database} CONNECTION 'host=127.0.0.1 port=1 password=''Mk7Zq9xT'' user=u'",
    "DROP SUBSCRIPTION sub_{database}",
    "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET app.api_key = %L', current_database(), 'Mk7Zq9xT'); END $$",
    "ALTER SYSTEM SET primary_conninfo = 'host=h password=Mk7Zq9xT'",
    "ALTER SYSTEM SET ssl_passphrase_command = 'echo Mk7Zq9xT'",
    "ALTER SYSTEM SET restore_command TO 'PGPASSWORD=Mk7Zq9xT pull %f %p'",
    "ALTER SYSTEM RESET primary_conninfo",
    "ALTER SYSTEM RESET ssl_passphrase_command",
    "ALTER SYSTEM RESET restore_command",
)
# What the server refuses, quoting the statement, the secret or the line; and what cannot be parsed.
REFUSED = (
    "DO $$ BEGIN EXECUTE 'ALTER ROLE nobody_here PASSWORD ''Mk7Zq9xT'''; END $$",
    "DO $$ BEGIN EXECUTE 'ALTER ROL x PASSWORD ''Mk7Zq9xT'''; END $$",
    (
        "DO $$ DECLARE v_password text := 'Mk7Zq9xT'; BEGIN RAISE EXCEPTION 'bad %', v_password USING "
        "DETAIL = v_password, HINT = 'not ' || v_password; END $$"
    ),
    "SELECT set_config('app.token', 'Mk7Zq9xT', false)::int",
    "INSERT INTO users (id, password) VALUES (1, 'Mk7Zq9xT')",
    "UPDATE users SET password = 'Mk7Zq9xT', id = 1 WHERE id = 2",
    "ALTER ROLE {role} PASSWORD 'Mk7Zq9xT' VALID UNTILL 'x'",
    "CREATE ROLE x PASSWORD 'Mk7Zq9xT",
    '\\connect "host=h password=Mk7Zq9xT"',
    "CREATE ROLE 'Mk7Zq9xT' PASSWORD 'Mk7Zq9xT'",
)
# What is no statement that a test runs: it needs what is not there, or is a message.
TEXTS = (
    "ALTER DATABASE d SET app.api_key = 'Mk7Zq9xT'",
    "CREATE GROUP r PASSWORD 'Mk7Zq9xT'",
    "CREATE USER r LOGIN PASSWORD N'Mk7Zq9xT'",
    "CREATE SUBSCRIPTION s CONNECTION 'postgresql://u@h/d?password=Mk7Zq9xT&sslmode=require' PUBLICATION p",
    "CREATE SUBSCRIPTION s CONNECTION 'postgresql://u@h/d?p%61ssword=Mk7Zq9xT' PUBLICATION p",
    "ALTER SUBSCRIPTION s CONNECTION E'postgresql\\x3a//u:Mk7Zq9xT\\x40h/d'",
    "ALTER SUBSCRIPTION s CONNECTION 'host=h sslpassword=Mk7Zq9xT'",
    "CREATE SUBSCRIPTION s CONNECTION $$host=h password=Mk7Zq9xT$$ PUBLICATION p",
    "CREATE USER MAPPING FOR u SERVER s OPTIONS (user 'bob', jwt 'Mk7Zq9xT')",
    "SELECT * FROM dblink('postgres://u:Mk7Zq9xT@h/d', 'select 1') AS t(a int)",
    "ALTER SYSTEM SET archive_command TO 'curl -u me:Mk7Zq9xT https://x/%f'",
    "SET SESSION app.token = Mk7Zq9xT",
    'SET "App"."Secret" TO "Mk7Zq9xT"',
    "SELECT pg_catalog.set_config('app.jwt_secret'::text, 'Mk7' || 'Zq9xT', false)",
    "ALTER ROLE r IN DATABASE d SET app.api_key TO Mk7Zq9xT",
    "COPY t FROM PROGRAM 'curl -H \"Authorization: Bearer Mk7Zq9xT\" https://h/x'",
    "COPY t FROM PROGRAM 'curl https://u:Mk7Zq9xT@h/x?b=c'",
    "COPY t TO PROGRAM 'curl \"https://h/x?token=Mk7Zq9xT&a=b\"'",
    "COPY t TO PROGRAM 'sshpass -p Mk7Zq9xT scp x h:'",
    "CREATE TABLE t (a int -- ALTER ROLE x PASSWORD 'Mk7Zq9xT'\n)",
    "/* password: Mk7Zq9xT */ SELECT 1",
    "INSERT INTO users AS u (name, \"api_key\") SELECT 'a', 'Mk7Zq9xT' FROM t",
    "INSERT INTO api_keys (id, key) VALUES (1, 'Mk7Zq9xT')",
    "INSERT INTO t(id, token) VALUES (1, '') ON CONFLICT (id) DO UPDATE SET token = 'Mk7Zq9xT'",
    "MERGE INTO t USING s ON t.id = s.id WHEN MATCHED THEN UPDATE SET password = 'Mk7Zq9xT'",
    "UPDATE t SET (name, password) = ('x', 'Mk7Zq9xT')",
    "DO $$ DECLARE token varchar(20) DEFAULT 'Mk7Zq9xT'; BEGIN NULL; END $$",
    'CREATE PROCEDURE p() LANGUAGE plpython3u AS $$\ntoken = "Mk7Zq9xT"\n$$',
    "SECURITY LABEL FOR x ON ROLE r IS 'password=Mk7Zq9xT'",
    "COMMENT ON ROLE r IS 'password Mk7Zq9xT'",
    "SELECT pgp_sym_decrypt(d, 'Mk7Zq9xT'), hmac('x', 'Mk7Zq9xT', 'sha256'), crypt('Mk7Zq9xT', gen_salt('bf')) FROM t",
    "SELECT jsonb_build_object('user', 'x', 'password', 'Mk7Zq9xT')",
    "SELECT * FROM t WHERE d->>'token' = 'Mk7Zq9xT'",
    "PREPARE p AS UPDATE users SET password = 'Mk7Zq9xT'",
    "EXECUTE p('Mk7Zq9xT')",
    "CALL set_api_key('Mk7Zq9xT')",
    "SELECT vault.create_secret('Mk7Zq9xT', 'name')",
    "CREATE POLICY p ON t USING (current_setting('app.token') = 'Mk7Zq9xT')",
    "CREATE TRIGGER t AFTER INSERT ON x FOR EACH ROW EXECUTE FUNCTION hook('https://u:Mk7Zq9xT@h/')",
    "SELECT http_post('https://x', headers := '{\"Authorization\": \"Bearer Mk7Zq9xT\"}'::jsonb)",
    "ALTER ROLE r PASWORD PASSWORD 'Mk7Zq9xT",
    "CREATE ROLE r PASSWORD $x$Mk7Zq9xT",
    "\\set password Mk7Zq9xT",
    "syntax error at or near \"x\" in \"ALTER ROLE r PASSWORD 'Mk7Zq9xT'\" can't",
    "-----BEGIN PRIVATE KEY-----\nMk7Zq9xT\n-----END PRIVATE KEY-----",
    "SELECT 'pscale_pw_Mk7Zq9xTabcdef', 'ghp_Mk7Zq9xTMk7Zq9xT00', 'SCRAM-SHA-256$4096:Mk7Zq9xT'",
)  # fmt: skip
# What was thought of afterwards, by somebody who looked for what is missed.
MISSED = (
    "CREATE SUBSCRIPTION s CONNECTION 'postgresql://u:Mk7Zq9xT@h1,h2:5432/d' PUBLICATION p",
    "CREATE SUBSCRIPTION s CONNECTION 'host=h password=Mk7Zq9xT\\'' user=u' PUBLICATION p",
    "CREATE SUBSCRIPTION s CONNECTION 'host=h password=Mk7@,;&(Zq9xT user=u' PUBLICATION p",
    "CREATE SUBSCRIPTION s CONNECTION 'host=h password=a\"Zq9xT user=u' PUBLICATION p",
    "CREATE SUBSCRIPTION s CONNECTION 'host=h PASSWORD=Mk7Zq9xT' PUBLICATION p",
    "CREATE SUBSCRIPTION s CONNECTION 'postgresql://:Mk7Zq9xT@h/d' PUBLICATION p",
    "CREATE SUBSCRIPTION s CONNECTION 'postgresql://u:Mk7/Zq9xT@h/d' PUBLICATION p",
    "CREATE SUBSCRIPTION s CONNECTION 'postgresql://u:Mk7#Zq9xT@h/d' PUBLICATION p",
    "CREATE SUBSCRIPTION s CONNECTION 'postgresql://u:Mk7?Zq9xT@h/d' PUBLICATION p",
    "CREATE SUBSCRIPTION s CONNECTION 'postgresql://u:Mk7''Zq9xT@h/d' PUBLICATION p",
    "ALTER SUBSCRIPTION s SET (password_required = false); ALTER ROLE a PASSWORD /* x */ 'Mk7Zq9xT'",
    "ALTER ROLE a WITH PASSWORD -- hi\n'Mk7Zq9xT'",
    "create user \"a\" in role b password 'Mk7Zq9xT' connection limit 3",
    "SET app.settings.jwt_secret TO 'Mk7Zq9xT', 'Zq9xT2'",
    "ALTER FUNCTION f() SET app.api_key = Mk7Zq9xT",
    "ALTER ROLE ALL SET app.api_key TO 'Mk7Zq9xT'",
    'CREATE USER MAPPING IF NOT EXISTS FOR CURRENT_USER SERVER s OPTIONS (credentials \'{"k":"Mk7Zq9xT"}\')',
    "CREATE SERVER s FOREIGN DATA WRAPPER w OPTIONS (url 'http://x/?key=1', api_token 'Mk7Zq9xT')",
    "IMPORT FOREIGN SCHEMA x FROM SERVER s INTO y OPTIONS (password 'Mk7Zq9xT')",
    "CREATE SERVER s FOREIGN DATA WRAPPER w OPTIONS (connstr 'host=h password=Mk7Zq9xT')",
    "DO LANGUAGE plpgsql $$ BEGIN EXECUTE 'ALTER ROLE r PASSWORD ''' || 'Mk7Zq9xT' || ''''; END $$",
    "DO $$ BEGIN EXECUTE concat('ALTER ROLE r PASSWORD ', quote_literal('Mk7Zq9xT')); END $$",
    "DO $$ BEGIN EXECUTE format('ALTER ROLE %I PASSWORD %L', 'bob', 'Mk7Zq9xT'); END $$",
    "DO $$ BEGIN EXECUTE format('ALTER ROLE %1$I PASSWORD %2$L', 'bob', 'Mk7Zq9xT'); END $$",
    "DO $$ BEGIN EXECUTE 'CREATE USER x PASSWORD $1' USING 'Mk7Zq9xT'; END $$",
    'DO $$ DECLARE c CONSTANT jsonb := \'{"api_key": "Mk7Zq9xT"}\'; BEGIN END $$',
    "CREATE FUNCTION f(p_password text DEFAULT 'Mk7Zq9xT') RETURNS int LANGUAGE sql AS 'select 1'",
    "CREATE FUNCTION f() RETURNS text LANGUAGE sql RETURN 'postgres://u:Mk7Zq9xT@h/d'",
    "CREATE FUNCTION f() RETURNS text LANGUAGE sql BEGIN ATOMIC SELECT dblink_connect('password=Mk7Zq9xT'); END",
    "INSERT INTO settings (key, value) VALUES ('smtp_password', 'Mk7Zq9xT')",
    "UPDATE settings SET value = 'Mk7Zq9xT' WHERE key = 'smtp_password'",
    "SELECT dblink_connect('host=h dbname=d user=u password=' || 'Mk7Zq9xT')",
    "SELECT dblink('host=h password=Mk7Zq9xT', $$ALTER ROLE x PASSWORD 'Mk7Zq9xT'$$)",
    "COMMENT ON DATABASE d IS 'pw: Mk7Zq9xT'",
    "COMMENT ON DATABASE d IS E'login\\npassword = Mk7Zq9xT\\n'",
    'CREATE TABLE t (a text) WITH (user_catalog_table = true); -- psql "postgres://u:Mk7Zq9xT@h"',
    "COPY t FROM PROGRAM 'mysql -pMk7Zq9xT db'",
    "COPY t FROM PROGRAM 'PGPASSWORD=\"Mk7Zq9xT\" psql -c x'",
    "COPY t FROM PROGRAM $$PGPASSWORD='Mk7 Zq9xT' psql -c x$$",
    "COPY t FROM PROGRAM 'psql \"host=h password=''Mk7 Zq9xT''\"'",
    "COPY t FROM PROGRAM 'aws s3 cp x --secret-key Mk7Zq9xT'",
    "COPY t FROM PROGRAM 'curl -H \"X-Api-Key: Mk7Zq9xT\" h'",
    "COPY t FROM PROGRAM 'curl --user me:Mk7Zq9xT h'",
    "COPY t FROM PROGRAM 'curl -uMe:Mk7Zq9xT h'",
    "SECURITY LABEL ON ROLE r IS 'token: Mk7Zq9xT'",
    "ALTER SYSTEM SET \"primary_conninfo\" TO 'host=h password=''Mk7Zq9xT'' user=u'",
    "ALTER SYSTEM SET primary_conninfo TO 'postgres://u:Mk7Zq9xT@h'",
    "ALTER SYSTEM SET ldapbindpasswd = 'Mk7Zq9xT'",
    "CREATE EVENT TRIGGER x ON y WHEN TAG IN ('password=Mk7Zq9xT') EXECUTE FUNCTION f()",
    "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO x /* pwd=Mk7Zq9xT */",
    "CREATE ROLE r PASSWORD U&'Mk7\\+00005Aq9xT'",
    "SELECT 'x' AS a, E'pass\\x77ord=Mk7Zq9xT'",
    "SELECT U&'p\\0061ssword=Mk7Zq9xT'",
    "VALUES ('postgres://u:Mk7Zq9xT@h/d')",
    "EXPLAIN INSERT INTO users (password) VALUES ('Mk7Zq9xT')",
    "WITH x AS (INSERT INTO users (password) VALUES ('Mk7Zq9xT') RETURNING 1) SELECT 1",
    "CREATE RULE r AS ON INSERT TO t DO ALSO INSERT INTO users (password) VALUES ('Mk7Zq9xT')",
    "CREATE TABLE t AS SELECT 'Mk7Zq9xT' AS password",
    "CREATE VIEW v AS SELECT 'Mk7Zq9xT'::text AS api_key, 1 AS b",
    "SELECT 'Mk7Zq9xT' password",
)
# What only speaks of secrets: it is kept as it is.
NONE = (
    (
        "CREATE TABLE users (id int, password text NOT NULL, kind text DEFAULT 'password' CHECK (kind IN ('password', "
        "'oauth', 'token')))"
    ),
    "CREATE TYPE auth AS ENUM ('password', 'token', 'oauth')",
    "SET password_encryption = 'scram-sha-256'",
    "ALTER ROLE a PASSWORD NULL",
    "ALTER ROLE a SET x = 'password'",
    "COMMENT ON COLUMN users.password IS 'password hash of the user'",
    "ALTER TABLE tokens ADD COLUMN kind text DEFAULT 'x'",
    "CREATE TABLE tokens (kind text DEFAULT 'x', token_type text DEFAULT 'bearer')",
    "UPDATE tokens SET kind = 'x' WHERE token_type = 'b'",
    "SELECT token FROM t WHERE kind = 'x'",
    "UPDATE users SET password = new_hash WHERE name = 'bob'",
    (
        "CREATE FUNCTION f(p text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN UPDATE users SET password = crypt(p, s) "
        "WHERE name = 'bob'; END $$"
    ),
    "INSERT INTO users (name, password) VALUES ('bob', NULL)",
    "SELECT 'http://host:8080/x', 'mailto:a@b', 'postgres://u@h:5432/d'",
    "CREATE INDEX ON tokens (kind) WHERE kind = 'x'",
    "CREATE SUBSCRIPTION s CONNECTION 'service=x' PUBLICATION p",
    "SELECT set_config('search_path', '', false)",
    "ALTER TABLE users ALTER COLUMN password TYPE varchar(200)",
    "COMMENT ON TABLE tokens IS 'one row per session'",
    "INSERT INTO kinds (name) VALUES ('password')",
    "CREATE VIEW v AS SELECT password, 'x' AS kind FROM users WHERE name = 'bob'",
    "CREATE TABLE tokens PARTITION OF x FOR VALUES IN ('a')",
    "SELECT nextval('password_resets_id_seq'::regclass)",
    (
        "CREATE FUNCTION check_token() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.token IS NULL THEN RAISE "
        "EXCEPTION 'no token given for %', NEW.id; END IF; RETURN NEW; END $$"
    ),
    "UPDATE users SET password_changed_at = '2020-01-01', token = '' WHERE id = 1",
    'could not connect: password authentication failed for user "bob"',
    "CREATE TABLE secrets (id int PRIMARY KEY, owner text DEFAULT 'nobody')",
)


def seen_in(text: str) -> list[str]:
    """Return the spellings of the mark that a text holds."""
    return [spelling for spelling in SPELLINGS if spelling in text]
