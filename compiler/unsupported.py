"""What a graph has that nothing here compiles: found before shapes are, or what is left at the end, in one error."""

from __future__ import annotations

from collections.abc import Mapping

from compiler.advice import advice_for
from compiler.expand import EXPANDED
from compiler.generic.lower import RULES
from compiler.graph import Graph, OnnxAttributes, Operation
from compiler.kinds import GENERIC_KINDS, SUPPORTED_KINDS
from compiler.shape_inference import facts_so_far, is_deterministic
from compiler.shape_rules import SHAPE_RULES
from isa.affine import Affine, Dim
from isa.errors import UnsupportedError

MOST_LISTED = 12
"""One attention that does not fuse leaves dozens of operations behind."""
KNOWN_DOMAINS = ("", "com.microsoft")
"""Domains whose operators are looked up by their bare name."""


def check_known(graph: Graph) -> Graph:
    """Return the graph; raises UnsupportedError with all operators that no rule here knows."""
    unknown = _unknown_operations(graph)
    if unknown:
        shapes = {name: fact.shape for name, fact in facts_so_far(graph).items()}
        raise unsupported_operations(graph, unknown, shapes)
    return graph


def _unknown_operations(graph: Graph) -> list[Operation]:
    """Return the operations without a rule; of constants, any operator that the onnx package evaluates is known."""
    fixed = set(graph.constants)
    unknown = []
    for operation in graph.operations:
        attributes = operation.attributes
        if not isinstance(attributes, OnnxAttributes):
            continue
        has_rule = attributes.op_type in SHAPE_RULES and attributes.domain in KNOWN_DOMAINS
        is_fixed = bool(operation.inputs) and all(name in fixed for name in operation.inputs if name)
        if is_fixed and (has_rule or is_deterministic(attributes, graph.opset)):
            fixed.update(name for name in operation.outputs if name)
        elif not has_rule and (attributes.domain or attributes.op_type not in (*RULES, *EXPANDED)):
            unknown.append(operation)
    return unknown


def unsupported_operations(
    graph: Graph, operations: list[Operation], shapes: Mapping[str, tuple[Dim, ...]] | None = None
) -> UnsupportedError:
    """Return the error that lists operations (name, type, input shapes), what to use instead, and what is supported."""
    known = {name: value.shape for name, value in graph.values.items()} if shapes is None else dict(shapes)
    known |= {name: constant.value.shape for name, constant in graph.constants.items()}
    lines = []
    for operation in operations[:MOST_LISTED]:
        attributes = operation.attributes
        kind = attributes.op_type if isinstance(attributes, OnnxAttributes) else operation.kind
        inputs = ", ".join(_shape_text(known, name) for name in operation.inputs)
        lines.append(f"  {operation.name} ({kind}) of {inputs or 'no inputs'}")
    if len(operations) > MOST_LISTED:
        lines.append(f"  and {len(operations) - MOST_LISTED} more")
    is_open = any(
        isinstance(dim, Affine) for op in operations for name in op.inputs for dim in known.get(name or "", ())
    )
    found = [op.attributes for op in operations if isinstance(op.attributes, OnnxAttributes)]
    advice = {attributes.op_type: advice_for(attributes) for attributes in found}
    lines += [f"  for {kind}, {item}" for kind, item in advice.items() if item]
    other_forms = [name for name, item in advice.items() if item is None and name in RULES and not is_open]
    if other_forms:
        lines.append(f"  {', '.join(other_forms)}: supported, but not with these operands and attributes")
    count = "1 operation is" if len(operations) == 1 else f"{len(operations)} operations are"
    what = f"{count} not supported:\n" + "\n".join(lines)
    composite = ", ".join(kind for kind in SUPPORTED_KINDS if kind not in GENERIC_KINDS)
    help = f"operations must fuse to: {composite}; or be among those of docs/supported_ops.md"
    return UnsupportedError(what, where=graph.name, help=help)


def _shape_text(shapes: Mapping[str, tuple[Dim, ...]], name: str | None) -> str:
    if name is None:
        return "none"
    return f"[{', '.join(map(str, shapes[name]))}]" if name in shapes else "[unknown]"
