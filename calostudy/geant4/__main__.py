"""Entry of the worker process: ``python -m calostudy.geant4 JOB`` with the job as JSON."""

import json
import os
import sys
import traceback

from calostudy.errors import UsageError
from calostudy.geant4 import worker

if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("this is the worker process of calostudy.geant4.simulate; use: calostudy simulate")
    status = worker.FAILED
    try:
        status = worker.main(worker.Job(**json.loads(sys.argv[1])))
    except UsageError as error:  # the bridge found another library than the pinned one
        print(error, flush=True)
        status = worker.BAD_ABI
    except BaseException:
        traceback.print_exc()
    finally:  # Geant4's own clean-up at exit would destroy objects that Python owns
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
