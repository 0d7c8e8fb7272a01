"""The composition root: entry points, training loops and the services around them."""

import os

# Threads of one product wait for each other at its end, by default spinning: where another process
# holds a core they spin as long as it does, and an update takes many times as long. So they spin
# only briefly before they sleep, which costs nothing on an idle machine (docs/performance.md). The
# OpenMP runtime reads this when torch is loaded.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
