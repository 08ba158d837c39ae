"""Batch sizes for which vLLM captures a CUDA graph; a step runs at the next captured size.

Source: vLLM 0.19 `cudagraph_capture_sizes` as resolved by a real engine: 1, 2, 4, then every 8 to 256,
then every 16 to 512. Above 512 tokens nothing is captured and nothing is padded.
"""

from __future__ import annotations

import numpy as np

CAPTURED: tuple[int, ...] = (1, 2, 4, *range(8, 257, 8), *range(272, 513, 16))


def padded(tokens: np.ndarray) -> np.ndarray:
    """int64 array: each token count rounded up to a captured size, unchanged at 0 and above the largest."""
    tokens = np.asarray(tokens, dtype=np.int64)
    sizes = np.asarray(CAPTURED, dtype=np.int64)
    index = np.minimum(np.searchsorted(sizes, tokens), len(sizes) - 1)
    return np.where((tokens == 0) | (tokens > sizes[-1]), tokens, sizes[index])
