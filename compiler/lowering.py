"""What a kernel module gets to lower an operation: places, addresses, and where to put kernels and launches.

`compiler/kernels/KIND.py` has `lower(context, op)`. It asks `context.region(value)`, `context.cache(value)` and
`context.packed(op, index)` for places, builds kernels through `context.kernel(build, ...)` and ends with
`context.launch(...)`; launches run one after the other, each waits for the one before.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import replace
from functools import cached_property

from compiler.graph import Operation
from compiler.mapped import CacheRegion, MappedGraph, Region
from compiler.touched import touches
from isa.affine import Dim
from isa.dtypes import Dtype
from isa.kernel import Kernel, verify
from isa.machine import Machine
from isa.program import Argument, Launch, LaunchPart, RoundedMacs
from isa.reuse import Kept

ArgumentValue = Argument | Dim
_KERNELS = Kept[Kernel](256)


class Lowering:
    """Collects kernels and launches of one entry; kernels with the same content are kept once."""

    def __init__(self, mapped: MappedGraph) -> None:
        self.mapped = mapped
        self.kernels: list[Kernel] = []
        self.launches: list[Launch] = []
        self._index_by_key: dict[Hashable, int] = {}
        self._index_by_kernel: dict[Kernel, int] = {}

    @property
    def machine(self) -> Machine:
        """The machine the program is for."""
        return self.mapped.machine

    @property
    def dtype(self) -> Dtype:
        """Element type of activations, weights and caches."""
        return self.mapped.dtype

    @cached_property
    def producers(self) -> Mapping[str, Operation]:
        """The operation that makes each value."""
        return self.mapped.graph.producers()

    def region(self, value: str | None) -> Region:
        """Return where a value lies."""
        return self.mapped.regions[value or ""]

    def cache(self, value: str | None) -> CacheRegion:
        """Return the cache of a key or value input of attention."""
        return self.mapped.caches[value or ""]

    def address(self, region: Region, offset_bytes: Dim = 0) -> Argument:
        """Return the launch argument that is a region's address plus an offset."""
        return Argument(region.offset_bytes + offset_bytes, region.storage)

    def cache_address(self, cache: CacheRegion, position: Dim = 0) -> Argument:
        """Return the launch argument that is the address of a position of the first head of the first sequence."""
        return Argument(position * cache.token_bytes, cache.storage)

    def packed(self, op: Operation, index: int) -> Argument:
        """Return the launch argument that is the address of the packed constant input."""
        return Argument(0, self.mapped.packed[op.name, index])

    def packed_bytes(self, op: Operation, index: int) -> int:
        """Return the bytes of the packed constant input."""
        return self.mapped.storages[self.mapped.packed[op.name, index]].bytes

    def kernel(self, build: Callable[..., Kernel], *arguments: Hashable) -> int:
        """Return the index of the kernel that `build(machine, *arguments)` makes, of nothing else.

        Raises ProgramError with all problems if the machine cannot run it.
        """
        key = (build, *arguments)
        if key not in self._index_by_key:
            kernel = _KERNELS.result(key, self.machine, lambda machine: build(machine, *arguments))
            verify(kernel, self.machine)
            if kernel not in self._index_by_kernel:
                self._index_by_kernel[kernel] = len(self.kernels)
                self.kernels.append(self._renamed(kernel))
            self._index_by_key[key] = self._index_by_kernel[kernel]
        return self._index_by_key[key]

    def _renamed(self, kernel: Kernel) -> Kernel:
        """Number a kernel whose name is taken by another one."""
        namesakes = sum(known.name == kernel.name for known in self._index_by_kernel) - 1
        return replace(kernel, name=f"{kernel.name}.{namesakes + 1}") if namesakes else kernel

    def launch(
        self,
        op: Operation,
        kernel: int,
        grid: tuple[int, int],
        arguments: Mapping[str, ArgumentValue],
        useful_macs: Dim = 0,
        issued_macs: Dim = 0,
        rounded_macs: tuple[RoundedMacs, ...] = (),
    ) -> None:
        """Add a launch on `grid` = (rows, columns) PEs from the corner; `arguments` are those the kernel declares."""
        names = self.kernels[kernel].arguments
        if set(arguments) != set(names):
            raise ValueError(f"{op.name}: arguments {sorted(arguments)} for a kernel with {sorted(names)}")
        values = [arguments[name] for name in names]
        touched = touches(self.mapped, op)
        used = {value.storage for value in values if isinstance(value, Argument) and value.storage}
        if not used <= {touch.storage for touch in touched}:
            raise ValueError(f"{op.name}: the kernel uses storages that compiler.touched does not know")
        index = len(self.launches)
        self.launches.append(
            Launch(
                name=f"{index}:{op.name}",
                kernel=kernel,
                row=0,
                column=0,
                rows=grid[0],
                columns=grid[1],
                arguments=tuple(value if isinstance(value, Argument) else Argument(value) for value in values),
                waits=(index - 1,) if index else (),
                signals=index,
                parts=(LaunchPart(op.name, useful_macs, issued_macs, rounded_macs, touched),),
            )
        )

    def rectangle(self, items: int) -> tuple[int, int]:
        """Return (rows, columns) of the smallest rectangle that gives every item its own PE, at most the whole grid."""
        columns = self.machine.grid.columns
        if items <= columns:
            return 1, max(items, 1)
        return min(-(-items // columns), self.machine.grid.rows), columns
