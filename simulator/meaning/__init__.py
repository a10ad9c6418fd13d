"""What every command does to memories, as a fast numba form and a plain NumPy twin side by side, one file per topic.

`dispatch.execute` is the entrance for the sequencer, `dispatch.execute_plain` its twin for tests. Both leave the same
bits behind. Nothing here knows time, queues or buffers: addresses arrive resolved, ranges checked.
"""
