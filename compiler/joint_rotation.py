"""Rotations of queries and keys that are columns of one value, side by side -> one rotation of all their heads."""

from __future__ import annotations

from dataclasses import dataclass, replace

from compiler.graph import MoveAttributes, Operation, RopeAttributes, Value


@dataclass(frozen=True, slots=True)
class _Rotation:
    """A rotation of columns that a move takes from a value."""

    rope: Operation
    move: Operation
    attributes: RopeAttributes
    columns: MoveAttributes

    @property
    def first(self) -> int:
        """First column of the value."""
        return self.columns.starts[-1]

    @property
    def size(self) -> int:
        """Columns."""
        return self.columns.sizes[-1]


def rotate_together(
    values: dict[str, Value], operations: list[Operation], queries: str | None, keys: str | None
) -> None:
    """Rotate queries and keys at once if they may be; results are columns of what all are."""
    makers = {name: op for op in operations for name in op.outputs}
    parts = [_rotation(makers, name) for name in (queries, keys)]
    if None in parts:
        return
    left, right = sorted((part for part in parts if part), key=lambda part: part.first)
    if not _may_join(left, right):
        return
    whole = left.move.inputs[0] or ""
    name = f"{left.rope.outputs[0]}&{right.rope.outputs[0]}"
    shape = (*left.columns.sizes[:-1], left.size + right.size)
    values[f"{name}.unrotated"] = replace(values[whole], name=f"{name}.unrotated", shape=shape)
    values[name] = replace(values[whole], name=name, shape=shape)
    attributes = replace(left.attributes, head_count=left.attributes.head_count + right.attributes.head_count)
    rotation = [
        Operation("move", f"{name}.columns", (whole,), (f"{name}.unrotated",), replace(left.columns, sizes=shape)),
        Operation(
            "rope", f"{left.rope.name}&{right.rope.name}", (f"{name}.unrotated", *left.rope.inputs[1:]), (name,),
            attributes,
        ),
        *(_part(part, name, part.first - left.first) for part in (left, right)),
    ]  # fmt: skip
    first = min(operations.index(part.rope) for part in (left, right))
    operations[first:first] = rotation
    for part in (left, right):
        operations.remove(part.rope)
        if sum(part.move.outputs[0] in op.inputs for op in operations) == 0:
            operations.remove(part.move)


def _rotation(makers: dict[str | None, Operation], name: str | None) -> _Rotation | None:
    rope = makers.get(name)
    move = makers.get(rope.inputs[0]) if rope is not None else None
    if rope is None or move is None:
        return None
    if not isinstance(rope.attributes, RopeAttributes) or not isinstance(move.attributes, MoveAttributes):
        return None
    return _Rotation(rope, move, rope.attributes, move.attributes)


def _may_join(left: _Rotation, right: _Rotation) -> bool:
    """Tell whether two rotations differ in nothing but their columns, which lie side by side in plain rows."""
    alike = replace(right.attributes, head_count=left.attributes.head_count)
    neighbour = replace(left.columns, starts=(*left.columns.starts[:-1], right.first), sizes=right.columns.sizes)
    is_plain = left.columns.axes == tuple(range(len(left.columns.axes))) and set(left.columns.steps) == {1}
    return (
        left.move.inputs == right.move.inputs
        and left.rope.inputs[1:] == right.rope.inputs[1:]
        and left.attributes == alike
        and right.columns == neighbour
        and left.columns.sizes[:-1] == right.columns.sizes[:-1]
        and right.first == left.first + left.size
        and is_plain
    )


def _part(part: _Rotation, whole: str, first: int) -> Operation:
    """Return the move that takes the result of a rotation from that of all."""
    columns = replace(part.columns, starts=(0,) * (len(part.columns.starts) - 1) + (first,))
    return Operation("move", f"{part.rope.name}.part", (whole,), part.rope.outputs, columns)
