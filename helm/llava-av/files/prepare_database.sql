-- Creates MLflow's user and database, and sets the user's password to that of the Secret. Safe to repeat.
\getenv owner OWNER
\getenv password OWNER_PASSWORD
\getenv database DATABASE
-- The server logs failed statements; keep the password out of its log.
SET log_min_error_statement = panic;
SELECT format('CREATE ROLE %I LOGIN', :'owner')
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'owner') \gexec
SELECT format('ALTER ROLE %I PASSWORD %L', :'owner', :'password') \gexec
SELECT format('CREATE DATABASE %I OWNER %I', :'database', :'owner')
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = :'database') \gexec
SELECT format('REVOKE ALL ON DATABASE %I FROM PUBLIC', :'database') \gexec
