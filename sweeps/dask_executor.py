"""Tasks on a dask cluster: `--dask ADDRESS` of a scheduler. Its workers may come, die and go while a sweep runs.

dask gives tasks of lost workers to others, and calls a task bad after `distributed.scheduler.allowed-failures` of them.
Workers need the same version of this package, and the model files where a sweep names any.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from isa.errors import ToolError
from sweeps.evaluate import Outcome, Task, evaluate

_CONNECT_SECONDS = 30


class DaskCluster:
    """A scheduler at an address, like `tcp://10.0.0.1:8786`; ToolError if there is none."""

    def __init__(self, address: str) -> None:
        try:
            from distributed import Client
            from distributed.comm import get_address_host_port
        except ImportError as error:
            raise ToolError("--dask needs the package distributed", help="pip install tilewright[dask]") from error
        try:
            get_address_host_port(address)  # a client of no address takes a minute to go
            self._client: Any = Client(address, timeout=_CONNECT_SECONDS, set_as_default=False)
        except (OSError, ValueError, TimeoutError) as error:
            help = "start one with `dask scheduler`, and give its address, like tcp://HOST:8786"
            raise ToolError(f"no dask scheduler answers: {error}", where=address, help=help) from error

    def run(self, tasks: Sequence[Task]) -> Iterator[Outcome]:
        from distributed import as_completed
        from distributed.scheduler import KilledWorker

        numbers = {self._client.submit(evaluate, task, pure=False): task.number for task in tasks}
        for future in as_completed(list(numbers), loop=self._client.loop):  # else it asks for a default client
            error = future.exception()
            if isinstance(error, KilledWorker):
                yield Outcome(numbers[future], crash=" ".join(str(error).split()))
            elif error is not None:
                raise error
            else:
                yield future.result()
            future.release()

    def close(self) -> None:
        self._client.close()
