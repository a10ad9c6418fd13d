"""From what a user passes to the sizes of a run: which entry, which value for each symbol, and whether all agree."""

from __future__ import annotations

import operator
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from isa.affine import Affine, Dim, evaluate, symbols_of
from isa.errors import SimulationError, did_you_mean
from isa.program import Entry, Port

Array = npt.NDArray[np.generic]


def bind_dims(entry: Entry, dims: Mapping[str, int]) -> dict[str, int]:
    """Return a value for every symbol of an entry; SimulationError names what is missing, unknown or out of range."""
    for name, value in dims.items():
        if name not in entry.symbols:
            known = ", ".join(sorted(entry.symbols)) or "none: all sizes were bound when it was compiled"
            raise SimulationError(
                f"no symbolic dim '{name}' in entry '{entry.name}'",
                help=f"{did_you_mean(name, entry.symbols)} symbolic dims: {known}".strip(),
            )
        low, high = entry.symbols[name]
        if not hasattr(value, "__index__"):
            raise SimulationError(f"{name} = {value!r} is no whole number", help=f"give one in {low}..{high}")
        if not low <= value <= high:
            raise SimulationError(
                f"{name} = {value} is outside {low}..{high}, the range this program was compiled for",
                help=f"compile with --dim {name}={max(0, min(low, value))}..{max(high, value)}",
            )
    missing = sorted(set(entry.symbols) - set(dims))
    if missing:
        low, high = entry.symbols[missing[0]]
        raise SimulationError(
            f"the size of dim '{missing[0]}' is not given", help=f"--dim {missing[0]}=VALUE, in {low}..{high}"
        )
    return {name: operator.index(value) for name, value in dims.items()}


def dims_of_inputs(entry: Entry, inputs: Mapping[str, Array]) -> dict[str, int]:
    """Return the symbols' values from the shapes of the inputs, and check names, ranks, sizes and element types."""
    ports = {port.name: port for port in entry.inputs}
    for name in inputs:
        if name not in ports:
            raise SimulationError(
                f"the program has no input '{name}'",
                help=f"{did_you_mean(name, ports)} inputs: {', '.join(ports)}".strip(),
            )
    missing = [name for name in ports if name not in inputs]
    if missing:
        shapes = ", ".join(_described(ports[name]) for name in missing)
        raise SimulationError(f"inputs are missing: {shapes}")
    dims: dict[str, int] = {}
    for port in entry.inputs:
        _check_array(port, inputs[port.name])
        for dim, size in zip(port.shape, inputs[port.name].shape, strict=True):
            _solve(dim, size, dims)
    bindings = bind_dims(entry, dims)
    for port in entry.inputs:
        expected = tuple(evaluate(dim, bindings) for dim in port.shape)
        if expected != inputs[port.name].shape:
            raise SimulationError(
                f"input '{port.name}' has shape {list(inputs[port.name].shape)}, not {list(expected)}",
                help=f"it is declared as {_described(port)}",
            )
    for left, right, origin in entry.equalities:
        sizes = evaluate(left, bindings), evaluate(right, bindings)
        if sizes[0] != sizes[1]:
            raise SimulationError(f"{left} = {sizes[0]} and {right} = {sizes[1]} differ", where=origin)
    return bindings


def _described(port: Port) -> str:
    return f"{port.name}[{', '.join(str(dim) for dim in port.shape)}] {port.host_dtype}"


def _check_array(port: Port, array: Array) -> None:
    if array.ndim != len(port.shape):
        raise SimulationError(
            f"input '{port.name}' has {array.ndim} dimensions, not {len(port.shape)}",
            help=f"it is declared as {_described(port)}",
        )
    if array.dtype.name != port.host_dtype and not _widens(array.dtype.name, port.host_dtype):
        raise SimulationError(
            f"input '{port.name}' has element type {array.dtype.name}, not {port.host_dtype}",
            help=f"convert it: array.astype('{port.host_dtype}')",
        )


def _widens(given: str, declared: str) -> bool:
    try:
        return np.can_cast(np.dtype(given), np.dtype(declared), "safe")
    except TypeError:  # one of them is an ml_dtypes name
        return False


def _solve(dim: Dim, size: int, dims: dict[str, int]) -> None:
    """Learn a symbol from a size if the dim has exactly one unknown symbol."""
    unknown = symbols_of(dim) - dims.keys()
    if not isinstance(dim, Affine) or len(unknown) != 1:
        return
    (name,) = unknown
    rest = dim.substitute({**dims, name: 0})
    factor = dict(dim.terms)[name]
    offset = size - evaluate(rest, {})
    if offset % factor == 0:
        dims[name] = offset // factor
