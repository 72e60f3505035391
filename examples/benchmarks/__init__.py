"""RegNewton and its peers side by side: ``python -m examples.benchmarks --size short``."""

import os

# Before torch is imported: threads that wait by spinning cost every contender a factor of ten as
# soon as anything else wants a core, which would make the figures those of the neighbours.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
