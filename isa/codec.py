"""Plain values (what JSON holds) to frozen values and back, described once for both directions.

A `Codec` writes a value to plain data and reads it back with every type checked; reading raises ProgramError with the
path inside the data, e.g. `entries[0].launches[3].kernel: must be an integer, not 'x'`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from isa.affine import Affine, Dim
from isa.affine import parse as parse_affine
from isa.errors import ProgramError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Codec(Generic[T]):
    """`write(value)` gives plain data, `read(data, where)` checks it and gives the value."""

    write: Callable[[T], Any]
    read: Callable[[Any, str], T]


def wrong(where: str, wanted: str, data: object) -> ProgramError:
    """Return the error for data of the wrong form at a path."""
    text = repr(data)
    return ProgramError(f"must be {wanted}, not {text if len(text) <= 40 else text[:37] + '...'}", where=where)


def _same(value: T) -> T:
    return value


def _plain(kind: type[T], wanted: str) -> Codec[T]:
    def read(data: Any, where: str) -> T:
        if type(data) is not kind:
            raise wrong(where, wanted, data)
        return data

    return Codec(_same, read)


INTEGER: Codec[int] = _plain(int, "an integer")
TEXT: Codec[str] = _plain(str, "a text")
BOOLEAN: Codec[bool] = _plain(bool, "true or false")
PLAIN_TABLE: Codec[dict[str, Any]] = _plain(dict, "a table")


def _write_dim(value: Dim) -> int | str:
    return str(value) if isinstance(value, Affine) else int(value)


def _read_dim(data: Any, where: str) -> Dim:
    if type(data) is int:
        return data
    if type(data) is not str:
        raise wrong(where, "an integer or an expression", data)
    try:
        value = parse_affine(data)
    except ValueError as error:
        raise wrong(where, "an expression", data) from error
    if not (isinstance(value, Affine) and all(name.isidentifier() for name in value.symbols) and str(value) == data):
        raise wrong(where, "an expression of symbols in its shortest form", data)
    return value


DIM: Codec[Dim] = Codec(_write_dim, _read_dim)


def choice(*words: str) -> Codec[Any]:
    """One of a few words."""

    def read(data: Any, where: str) -> Any:
        if data not in words or type(data) is not str:
            raise wrong(where, "one of " + ", ".join(words), data)
        return data

    return Codec(_same, read)


def optional(codec: Codec[T]) -> Codec[T | None]:
    """The value or null."""
    return Codec(
        lambda value: None if value is None else codec.write(value),
        lambda data, where: None if data is None else codec.read(data, where),
    )


def many(codec: Codec[T]) -> Codec[tuple[T, ...]]:
    """A list of values, as a tuple."""

    def read(data: Any, where: str) -> tuple[T, ...]:
        if type(data) is not list:
            raise wrong(where, "a list", data)
        return tuple(codec.read(item, f"{where}[{index}]") for index, item in enumerate(data))

    return Codec(lambda values: [codec.write(value) for value in values], read)


def table(codec: Codec[T]) -> Codec[Mapping[str, T]]:
    """A mapping from texts to values, sorted by key."""

    def read(data: Any, where: str) -> Mapping[str, T]:
        if type(data) is not dict:
            raise wrong(where, "a table", data)
        return {key: codec.read(item, f"{where}.{key}") for key, item in sorted(data.items())}

    return Codec(lambda values: {key: codec.write(values[key]) for key in sorted(values)}, read)


def record(make: Callable[..., T], **fields: Codec[Any]) -> Codec[T]:
    """A value with exactly these named fields; `make` is called with them."""

    def write(value: T) -> dict[str, Any]:
        return {name: codec.write(getattr(value, name)) for name, codec in fields.items()}

    def read(data: Any, where: str) -> T:
        if type(data) is not dict or data.keys() != fields.keys():
            raise wrong(where, f"a table of {', '.join(fields)}", data)
        return make(**{name: codec.read(data[name], f"{where}.{name}") for name, codec in fields.items()})

    return Codec(write, read)


def union(**cases: tuple[type[Any], Codec[Any]]) -> Codec[Any]:
    """One of several records; the plain table also holds its `kind`."""

    def write(value: Any) -> dict[str, Any]:
        kind, codec = next((kind, codec) for kind, (cls, codec) in cases.items() if isinstance(value, cls))
        return {"kind": kind, **codec.write(value)}

    def read(data: Any, where: str) -> Any:
        if type(data) is not dict or data.get("kind") not in cases:
            raise wrong(where, "a table whose kind is one of " + ", ".join(cases), data)
        rest = {key: item for key, item in data.items() if key != "kind"}
        return cases[data["kind"]][1].read(rest, where)

    return Codec(write, read)
