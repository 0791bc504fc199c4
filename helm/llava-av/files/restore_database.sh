#!/bin/sh
# Puts a dump in the place of all tables, at once or not at all: restore_database.sh DUMP.
set -eu
pg_restore --no-owner --no-privileges --file="$1.sql" "$1"
exec psql --no-psqlrc --quiet --single-transaction --set ON_ERROR_STOP=1 --file=- --file="$1.sql" <<'SQL'
do $$
declare
    name text;
begin
    for name in select tablename from pg_tables where schemaname = 'public' loop
        execute format('drop table public.%I cascade', name);
    end loop;
end
$$;
SQL
