"""Wait until the model to serve is registered and has its alias: `wait_for_model.py models:/NAME@champion`.

Other addresses need no waiting. A version that was changed after its registration is an error at once.
"""

import sys
import time

from llava_av.errors import UserError
from llava_av.registry.versions import TamperedError, load_version
from llava_av.storage import ObjectStore

POLL_S = 5.0


def main() -> None:
    address, reported = sys.argv[1], ""
    while address.startswith("models:/"):
        try:
            version = load_version(ObjectStore.from_env(), address)
            print(f"{address} is version {version.version}", flush=True)
            return
        except TamperedError as error:
            raise SystemExit(str(error)) from None
        except UserError as error:
            reason = str(error)
            if reason != reported:
                print(f"waiting: {reason}", flush=True)
            reported = reason
        time.sleep(POLL_S)


if __name__ == "__main__":
    main()
