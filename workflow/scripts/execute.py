"""Execute one page of the grid: the job of calostudy.study as JSON, and the notebook to write."""

import json
import sys

from calostudy.pages import execute

job = json.loads(sys.argv[1])
execute(job["kind"], job["title"], job["parameters"], sys.argv[2])
