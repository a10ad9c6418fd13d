"""What was found for one machine serves every machine that looks the same to whoever found it.

`Kept` runs a function on a `MachineView`, which notes the fields that are read. A function that reads the same values
again takes the same way and returns the same, so its result is kept by these values: what is reused is what would be
found anew. Nothing says which fields matter; what is read does.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from operator import attrgetter
from types import FunctionType, MethodType
from typing import Any, Generic, TypeVar, cast

from isa.machine import Machine
from isa.machine_sections import Section

Result = TypeVar("Result")
Paths = tuple[str, ...]
_Place = tuple[Hashable, Paths, tuple[object, ...]]
"""What a result is kept by: a key, the fields that were read, and their values."""


@functools.cache
def _members(kind: type[Section]) -> Mapping[str, property | FunctionType | None]:
    """Return the properties and methods of a class of sections by name, and its fields, which are None."""
    own = [vars(base) for base in reversed(kind.__mro__[: kind.__mro__.index(Section)])]
    found = {name: member for members in own for name, member in members.items()}
    computed = {name: member for name, member in found.items() if isinstance(member, (property, FunctionType))}
    return {**computed, **dict.fromkeys(kind.model_fields)}


class MachineView:
    """A machine, or one of its sections, that notes fields when they are read; properties and methods read them too.

    It has all that the classes of sections define. It equals nothing and has no hash: that would be to read all.
    """

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, section: Section, prefix: str, reads: dict[str, object]) -> None:
        self._section, self._prefix, self._reads = section, prefix, reads

    def __getattr__(self, name: str) -> Any:
        """Return a field or member, which is found without this the next time."""
        path, members = self._prefix + name, _members(type(self._section))
        if name not in members:
            raise AttributeError(f"a view of a machine has no '{path}'")
        member = members[name]
        value: Any
        if isinstance(member, property):
            assert member.fget is not None
            value = member.fget(self)
        elif member is not None:
            value = MethodType(member, self)
        else:
            value = getattr(self._section, name)
            if isinstance(value, Section):
                value = MachineView(value, f"{path}.", self._reads)
            else:
                self._reads[path] = value
        self.__dict__[name] = value
        return value

    def __getitem__(self, key: str) -> Any:
        """Return what the section has for a key."""
        return self.__getattr__("__getitem__")(key)

    def __eq__(self, other: object) -> bool:
        raise TypeError("a view of a machine equals nothing")


class _Way:
    """Fields that a function read for a key, and how many of its results are kept."""

    def __init__(self, paths: Paths) -> None:
        self.kept, self.paths = 0, paths
        self._getter = attrgetter(*paths) if paths else None

    def values(self, machine: Machine) -> tuple[object, ...]:
        """Return what a machine has there."""
        found = self._getter(machine) if self._getter else ()
        return (found,) if len(self.paths) == 1 else found


class Kept(Generic[Result]):
    """The last results of a function of a key and a machine, at most so many."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._results: OrderedDict[_Place, Result] = OrderedDict()
        self._ways: dict[Hashable, dict[Paths, _Way]] = {}

    def result(self, key: Hashable, machine: Machine, find: Callable[[Machine], Result]) -> Result:
        """Return what `find` returns, or returned for the key and a machine that looked the same to it.

        `find` depends on nothing but the key and the machine that it is given. Where that is a view already, what is
        read here is noted there. An error is not kept.
        """
        given: object = machine
        outer = given if isinstance(given, MachineView) else None
        whole = cast(Machine, outer._section) if outer else machine
        for way in self._ways.get(key, {}).values():
            place = (key, way.paths, way.values(whole))
            if place in self._results:
                self._results.move_to_end(place)
                if outer:
                    outer._reads.update(zip(*place[1:], strict=True))
                return self._results[place]
        reads: dict[str, object] = {}
        try:
            result = find(cast(Machine, MachineView(whole, "", reads)))
        finally:
            if outer:
                outer._reads.update(reads)
        self._keep((key, tuple(reads), tuple(reads.values())), result)
        return result

    def clear(self) -> None:
        """Forget all results."""
        self._results.clear()
        self._ways.clear()

    def _keep(self, place: _Place, result: Result) -> None:
        key, paths, _ = place
        self._results[place] = result
        self._ways.setdefault(key, {}).setdefault(paths, _Way(paths)).kept += 1
        if len(self._results) > self._most:
            (key, paths, _), _ = self._results.popitem(last=False)
            ways = self._ways[key]
            ways[paths].kept -= 1
            if not ways[paths].kept:
                del ways[paths]
            if not ways:
                del self._ways[key]
