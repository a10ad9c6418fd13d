"""A graph inside of another one (a branch, the definition of an operator) -> operations among those around it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from compiler.graph import Body, Constant, OnnxAttributes, Operation


def inlined(
    operations: Sequence[Operation],
    constants: Mapping[str, Constant],
    prefix: str,
    known: Mapping[str, str | None],
) -> tuple[list[Operation], dict[str, Constant]]:
    """Return operations and constants with names that begin with the prefix, but for those that are `known` outside.

    A name that nothing here makes and that is not known is one of the values around.
    """
    made = {*constants, *(name for operation in operations for name in operation.outputs if name)}
    names = {**{name: f"{prefix}/{name}" for name in made}, **known}
    renamed = [_renamed(operation, names, f"{prefix}/{operation.name}") for operation in operations]
    kept = {}
    for name, constant in constants.items():
        new = names[name] or ""
        kept[new] = dataclasses.replace(constant, value=dataclasses.replace(constant.value, name=new))
    return renamed, kept


def _renamed(operation: Operation, names: Mapping[str, str | None], name: str) -> Operation:
    attributes = operation.attributes
    if isinstance(attributes, OnnxAttributes):
        items = tuple(
            (key, _with_names(value, names) if isinstance(value, Body) else value)
            for key, value in attributes.attributes
        )
        attributes = dataclasses.replace(attributes, attributes=items)
    inputs, outputs = (
        tuple(names.get(value, value) if value else None for value in values)
        for values in (operation.inputs, operation.outputs)
    )
    return dataclasses.replace(operation, name=name, inputs=inputs, outputs=outputs, attributes=attributes)


def _with_names(body: Body, names: Mapping[str, str | None]) -> Body:
    """Return a body that reads renamed values around it; its own names hide those."""
    own = {*body.inputs, *body.constants, *(name for op in body.operations for name in op.outputs if name)}
    visible = {old: new for old, new in names.items() if old not in own}
    operations = tuple(_renamed(operation, visible, operation.name) for operation in body.operations)
    outputs = tuple(visible.get(name) or name for name in body.outputs)
    return dataclasses.replace(body, operations=operations, outputs=outputs)
