"""A row's record as compiled loops see it: one memory, as 64-bit and as 32-bit numbers."""

import numpy as np

from kernels.rows.columns import RECORD_BYTES, RECORD_OFFSETS

BYTES = np.uint64(RECORD_BYTES)
WIDE, NARROW = np.uint64(RECORD_BYTES // 8), np.uint64(RECORD_BYTES // 4)
"""Numbers in a record: 64-bit, 32-bit."""

LAST_SEEN = np.uint64(RECORD_OFFSETS["last_seen_ms"] // 8)
"""Its place among the 64-bit numbers."""

WEIGHT = np.uint64(RECORD_OFFSETS["weight"] // 4)
NORM = np.uint64(RECORD_OFFSETS["gradient_norm"] // 4)
SQUARE = np.uint64(RECORD_OFFSETS["square"] // 4)
STEPS = np.uint64(RECORD_OFFSETS["steps"] // 4)
"""Their places among the 32-bit numbers."""
