"""The front end: an imported ONNX graph -> a fused graph of the composite operations that the back end maps.

The steps are pure functions from graph to graph; `FRONT_END` lists them in order. Masks, positions and rotary tables
are not matched by their spelling but evaluated (see `compiler.dialects.mask` and `compiler.dialects.tables`): a
causal, padding or absent mask is told from what it does on several cache lengths and random flags. An attention whose
mask agrees with none of those runs by its definition, or is refused if a cache length is open. So are models with
operations that have no kernel: nothing is dropped or assumed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from compiler.branches import take_branches
from compiler.dialects.activation import fuse_activations
from compiler.dialects.attention import fuse_attention
from compiler.dialects.bags import unroll_bags
from compiler.dialects.embedding import fuse_embeddings
from compiler.dialects.embedding_bag import fuse_embedding_bags, fuse_lookups
from compiler.dialects.forms import cancel_layout
from compiler.dialects.group_query import fuse_group_query
from compiler.dialects.interaction import fuse_interactions
from compiler.dialects.joining import fuse_joins
from compiler.dialects.linear import fuse_linear, fuse_linear_activations, fuse_residuals
from compiler.dialects.quantized import fuse_quantized
from compiler.dialects.rms_norm import fuse_norms
from compiler.dialects.rotary import fuse_rotary
from compiler.dialects.slicing import fuse_packed, fuse_slices
from compiler.expand import expand_functions
from compiler.fold import drop_no_operations, fold_constants, merge_equal, remove_dead
from compiler.generic.lower import lower_generic
from compiler.graph import Graph
from compiler.kinds import GENERIC_KINDS, SUPPORTED_KINDS
from compiler.shape_inference import bind_dims, infer_shapes
from compiler.unsupported import check_known, unsupported_operations
from isa.affine import Affine
from isa.errors import ModelError, UnsupportedError

Step = Callable[[Graph], Graph]

# Each step with its name and what it does, in order; `bind_dims` comes before them.
FRONT_END: tuple[tuple[str, Step, str], ...] = (
    ("remove_unused", remove_dead, "Drop what no output needs, so that it cannot be unsupported."),
    ("take_branches", take_branches, "If with a condition that is known -> the branch that is taken."),
    ("unroll_bags", unroll_bags, "Loops over bags of rows -> one reduction over all rows."),
    ("check_known", check_known, "Refuse operators that nothing here knows, all at once."),
    ("infer_shapes", infer_shapes, "Find every shape, and the sizes that follow from others."),
    ("fold_constants", fold_constants, "Evaluate what depends on constants and sizes only."),
    ("drop_no_operations", drop_no_operations, "Drop Identity, casts between float types and the like."),
    ("merge_equal", merge_equal, "Merge equal constants and operations, so that layers share masks and tables."),
    ("fuse_quantized", fuse_quantized, "Quantized weights and activations -> formats of linear and embedding."),
    ("fuse_linear", fuse_linear, "MatMul with a constant, its transposition and its bias -> linear."),
    ("fuse_embedding_bags", fuse_embedding_bags, "Sums of gathered rows -> embedding_bag."),
    ("fuse_embeddings", fuse_embeddings, "Gather of token rows -> embedding."),
    ("fuse_packed", fuse_packed, "Columns of a packed projection -> slice."),
    ("fuse_norms", fuse_norms, "All spellings of RMS norm -> rms_norm."),
    ("fuse_rotary", fuse_rotary, "All spellings of rotary embedding -> rope with fp32 tables."),
    ("fuse_group_query", fuse_group_query, "GroupQueryAttention -> rope and attention."),
    ("fuse_attention", fuse_attention, "Softmax attention with masks, repeated heads and cache -> attention."),
    ("fuse_lookups", fuse_lookups, "Other look-ups of rows -> embedding_bag with bags of one."),
    ("fuse_interactions", fuse_interactions, "Products of features with each other, and the choice of some."),
    ("cancel_layout", cancel_layout, "Drop reshapes and transposes that cancel."),
    ("fuse_activations", fuse_activations, "SiLU gates -> swiglu."),
    ("fuse_residuals", fuse_residuals, "Additions to a linear result -> its residual input."),
    (
        "fuse_linear_activations",
        fuse_linear_activations,
        "Relu, sigmoid and tanh of a linear result -> its activation.",
    ),
    ("fuse_slices", fuse_slices, "Slices of activations -> slice."),
    ("fuse_joins", fuse_joins, "Computed rows side by side -> join."),
    ("expand_functions", expand_functions, "What is left and defined by other operators -> those."),
    ("lower_generic", lower_generic, "What is left of ONNX operations -> kinds that work on any rank."),
    ("remove_dead", remove_dead, "Drop what no output needs any more."),
    ("check_supported", lambda graph: check_supported(graph), "Refuse what has not become a composite operation."),
)


def fuse_model(graph: Graph, dims: Mapping[str, int | tuple[int, int]]) -> Graph:
    """Bind dims (a size, or a range for a cache length) and fuse; raises ModelError or UnsupportedError."""
    graph = bind_dims(graph, dims)
    for _, step, _ in FRONT_END:
        graph = step(graph)
    return graph


def check_supported(graph: Graph) -> Graph:
    """Return the graph if only composite operations of fixed batch and sequence are left; else raise."""
    for operation in graph.operations:
        if operation.kind not in ("embedding", "linear"):
            continue
        shape = graph.value(operation.outputs[0] or "").shape
        symbolic = [dim for dim in shape if isinstance(dim, Affine)]
        if symbolic:
            what = (
                f"the activations of {operation.name!r} have the size {symbolic[0]}; only cache lengths may be ranges"
            )
            names = " ".join(f"--dim {name}=VALUE" for name in sorted(symbolic[0].symbols))
            raise ModelError(what, where=graph.name, help=f"give a number: {names}")
    left = [operation for operation in graph.operations if operation.kind not in SUPPORTED_KINDS]
    readers = (
        [operation for operation in graph.operations if operation.kind in ("onnx", *GENERIC_KINDS)] if left else []
    )
    absent = [name for operation in readers for name in operation.inputs if name and _is_absent(graph, name)]
    if absent:
        what = f"the data of {', '.join(sorted(set(absent)))} is absent, but masks or tables are computed from it"
        raise ModelError(what, where=graph.name, help="keep the small constants in the model file")
    if left:
        raise unsupported_operations(graph, left)
    _check_order(graph)
    return graph


def _check_order(graph: Graph) -> None:
    """Check that values are made once and before they are read; a cache used outside of its attention is not."""
    known = {*graph.inputs, *graph.constants}
    for operation in graph.operations:
        early = [name for name in operation.inputs if name and name not in known]
        if early or any(name in known for name in operation.outputs):
            what = f"the operation reads {early[0]!r} before it is made" if early else "an output is made twice"
            raise UnsupportedError(what, where=operation.name, help="use a cache in one attention only")
        known.update(name for name in operation.outputs if name)
    for name in graph.outputs:
        if name in graph.inputs or name in graph.constants:
            what = f"the output {name!r} is an input or constant of the model"
            raise ModelError(what, where=graph.name, help="remove this output")


def _is_absent(graph: Graph, name: str) -> bool:
    return name in graph.constants and graph.constants[name].source is None
