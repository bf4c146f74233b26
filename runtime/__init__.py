"""What a device installs: numpy and one inference engine. Front ends, bundles, streams."""

import os
import sys

# numpy's OpenBLAS starts a thread per core for products that one core does in 0.3 ms. On a busy machine its threads wait
# for each other: 40 times slower, measured with two other processes on two cores. It reads this once, when numpy loads.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

if sys.argv[:1] == ["-m"]:  # Python is on its way to one of our commands: its imports may fail or be interrupted
    from runtime import command

    sys.excepthook = command.failed_import
