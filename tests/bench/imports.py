"""Import the modules named on the command line; print when it began and ended.

What each task of the benchmark runs. The clock is the machine's: one for all nodes.
"""

import time

BEGAN = time.time()

import importlib  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402

for name in sys.argv[1:]:
    importlib.import_module(name)
record = {"node": os.uname().nodename, "began": BEGAN, "ended": time.time()}
sys.stdout.write(json.dumps(record) + "\n")
