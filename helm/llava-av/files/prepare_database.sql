-- Makes MLflow's user and database, or gives the user the password of the Secret. Safe to repeat.
\getenv owner OWNER
\getenv password OWNER_PASSWORD
\getenv database DATABASE
-- The server's log has statements that fail: none of them shall hold the password.
SET log_min_error_statement = panic;
SELECT format('CREATE ROLE %I LOGIN', :'owner')
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'owner') \gexec
SELECT format('ALTER ROLE %I PASSWORD %L', :'owner', :'password') \gexec
SELECT format('CREATE DATABASE %I OWNER %I', :'database', :'owner')
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = :'database') \gexec
SELECT format('REVOKE ALL ON DATABASE %I FROM PUBLIC', :'database') \gexec
