"""Power over time: piecewise constant, each launch spreads its energy over its own duration."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def peak_watts(spans: Sequence[tuple[float, float]], window_seconds: float) -> float:
    """Return the highest mean power over any window of a run of consecutive spans (seconds, joules).

    Exact: the energy of a window is piecewise linear in its start, so a window that begins or ends where a span does
    has the most. A run shorter than the window gives its mean; one that takes no time gives 0.
    """
    seconds, joules = np.array(spans, dtype=np.float64).reshape(-1, 2).T
    edges, used = (np.concatenate(([0.0], np.cumsum(values))) for values in (seconds, joules))
    length = min(window_seconds, float(edges[-1]))
    if length <= 0:
        return 0.0
    starts = np.clip(np.concatenate((edges, edges - length)), 0.0, edges[-1] - length)
    energies = np.interp(starts + length, edges, used) - np.interp(starts, edges, used)
    return float(energies.max() / length)
