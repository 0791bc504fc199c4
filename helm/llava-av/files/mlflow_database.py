"""Wait for MLflow's database and migrate it, one pod at a time, before a server uses it.

`mlflow server` rejects a database of an earlier version, and several servers that start on an empty database
conflict. DATABASE_URI names the database; PGPASSWORD and PGSSLMODE of libpq hold the credentials.
"""

import os
import time

import sqlalchemy
from sqlalchemy.exc import OperationalError

LOCK = 0x6C6C617661  # an arbitrary number, the same in every pod
DEADLINE_S = 600
POLL_S = 1.0


def main() -> None:
    engine = sqlalchemy.create_engine(os.environ["DATABASE_URI"], poolclass=sqlalchemy.NullPool)
    wait(engine)
    from mlflow.server.auth.db.utils import migrate_if_needed
    from mlflow.store.db.utils import _all_tables_exist, _initialize_tables, _upgrade_db

    with engine.connect() as lock:
        lock.execute(sqlalchemy.text("SELECT pg_advisory_lock(:number)"), {"number": LOCK})
        if _all_tables_exist(engine):
            _upgrade_db(engine)
        else:
            _initialize_tables(engine)
        migrate_if_needed(engine, "head")
    print("the database is up to date")


def wait(engine: sqlalchemy.Engine) -> None:
    """Wait until the database accepts a connection, and print its error whenever that changes."""
    deadline, said = time.monotonic() + DEADLINE_S, ""
    while True:
        try:
            engine.connect().close()
            return
        except OperationalError as error:
            reason = " ".join(str(error.orig).split())
            if reason != said:
                print(f"waiting for the database: {reason}", flush=True)
            said = reason
            if time.monotonic() > deadline:
                raise SystemExit(f"no connection to the database within {DEADLINE_S} s: {reason}") from None
        time.sleep(POLL_S)


if __name__ == "__main__":
    main()
