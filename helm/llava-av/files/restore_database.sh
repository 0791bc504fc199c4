#!/bin/sh
# Replaces all tables and functions by those of a dump in one transaction: restore_database.sh DUMP.
set -eu
pg_restore --no-owner --no-privileges --file="$1.sql" "$1"
exec psql --no-psqlrc --quiet --single-transaction --set ON_ERROR_STOP=1 --file=- --file="$1.sql" <<'SQL'
set client_min_messages = warning;
do $$
declare
    name text;
begin
    for name in select tablename from pg_tables where schemaname = 'public' loop
        execute format('drop table public.%I cascade', name);
    end loop;
    for name in select oid::regprocedure from pg_proc
        where pronamespace = 'public'::regnamespace and proowner = current_user::regrole loop
        execute format('drop routine %s cascade', name);
    end loop;
end
$$;
SQL
