"""Fused graph -> mapped graph without addresses: regions of values, caches, packed constants, choices for linears."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from compiler.attention_mapping import BIAS_INPUT, key_step
from compiler.evaluate import FLOAT_DTYPES, NARROW_FLOAT_DTYPES
from compiler.graph import (
    AttentionAttributes,
    Graph,
    LinearAttributes,
    MoveAttributes,
    Operation,
    RopeAttributes,
    ShapeAttributes,
    Value,
    WeightFormat,
)
from compiler.graph import Constant as GraphConstant
from compiler.kernel_builder import round_up
from compiler.kinds import GENERIC_KINDS, INDEX_INPUTS, VIEW_KINDS
from compiler.linear_mapping import LinearMapping
from compiler.linear_search import choose_linear
from compiler.linear_shape import LinearShape
from compiler.mapped import (
    BIAS,
    SCALES,
    UP_INPUTS,
    WEIGHT,
    ZERO_POINTS,
    CacheRegion,
    MappedGraph,
    MappedStorage,
    Region,
)
from compiler.packing import (
    ROW_ALIGNMENT_BYTES,
    pack_rows,
    pack_tensor,
    pack_vector,
    pack_weight,
    padded_row_bytes,
)
from compiler.products import is_spread
from compiler.quantized_packing import (
    pack_block_scales,
    pack_column_scales,
    pack_integer_rows,
    pack_integers,
    pack_zero_points,
    stored_dtype,
)
from compiler.shaping import linear_shape, product_shape
from compiler.symbols import interval
from compiler.views import moved_view, reshaped_view
from isa.affine import Affine, Dim
from isa.dtypes import BY_NAME, FP8E4M3, FP32, INT8, INT32, Dtype
from isa.errors import UnsupportedError
from isa.machine import Machine
from isa.machine_sections import PerDtype, dtype_family
from isa.packing import packed_bytes
from isa.program import Constant, Interleave, Role

CAPACITY_STEP = 32
"""Cache capacity is a multiple of this many positions, and of the keys that attention reads at a time."""
HEAD_DIM_STEP = 16
"""Heads in a cache are padded to a multiple of this many elements, and of a block of K."""
ROPE_TABLES = (2, 3)
"""Indices of cosines and sines among the inputs of rope; its positions come before them."""
QUANTIZED = {"int8": INT8, "float8_e4m3fn": FP8E4M3, "float32": FP32}
"""Types in memory of the results of `quantize`: numbers of a byte and scales."""
_BYTE_FAMILIES = ("int8", "fp8")
"""Types of `--quantize` that the matrix engine multiplies as they are."""
MASK_INPUTS = (5, 6)
"""Indices of the keep mask and the bias among the inputs of attention."""


Choose = Callable[[LinearShape, Operation, Graph, Machine, str], LinearMapping]
"""Chooses the mapping of a linear of a graph for a machine and an element type."""


def by_estimate(shape: LinearShape, op: Operation, graph: Graph, machine: Machine, dtype: str) -> LinearMapping:
    """Return the mapping with the lowest estimated cost."""
    return choose_linear(shape, machine)


def padded_head_dim(head_dim: int, machine: Machine, dtype: Dtype) -> int:
    """Return how many elements a head of that many has in a cache."""
    return round_up(head_dim, math.lcm(HEAD_DIM_STEP, machine.matrix.block_k_bytes // dtype.bytes))


def map_graph(graph: Graph, machine: Machine, dtype: str, choose: Choose = by_estimate) -> MappedGraph:
    """Give every value a region and every linear its mapping; raises UnsupportedError with the operation's name."""
    if machine.matrix.block_k_bytes > ROW_ALIGNMENT_BYTES:
        what = f"blocks with {machine.matrix.block_k_bytes} bytes of K; rows are padded to {ROW_ALIGNMENT_BYTES} bytes"
        raise UnsupportedError(
            what, where=machine.name, help=f"set matrix.block_k_bytes to {ROW_ALIGNMENT_BYTES} or less"
        )
    return _Mapper(graph, machine, BY_NAME[dtype], choose).run()


class _Mapper:
    """Collects the tables of a mapped graph, operation by operation."""

    def __init__(self, graph: Graph, machine: Machine, dtype: Dtype, choose: Choose) -> None:
        self.graph, self.machine, self.dtype, self.choose = graph, machine, dtype, choose
        self.regions: dict[str, Region] = {}
        self.caches: dict[str, CacheRegion] = {}
        self.packed: dict[tuple[str, int], str] = {}
        self.storages: dict[str, MappedStorage] = {}
        self.constants: dict[str, tuple[Constant, ...]] = {}
        """What fills each storage of constants."""
        self.linears: dict[str, LinearMapping] = {}
        self.joined = {
            part: (op.outputs[0] or "", index) for op in graph.operations if op.kind == "join"
            for index, part in enumerate(op.inputs) if part
        }  # fmt: skip
        """Where in a `join` a value stands: (the whole, its number among the parts)."""
        joins = [op for op in graph.operations if op.kind == "join"]
        self.parts = {op.outputs[0] or "": [part or "" for part in op.inputs] for op in joins}
        self.stacked = {op.outputs[0] for op in joins if isinstance(op.attributes, ShapeAttributes)}
        """Results of joins, and those of them that are joins of rows."""
        self.index = -1

    def run(self) -> MappedGraph:
        """Visit inputs, operations and outputs in order."""
        self._plan_caches()
        for name in self.graph.inputs:
            if name not in self.caches:
                self._map_input(self.graph.value(name))
        for op in self.graph.operations:
            self.index += 1
            self._map_operation(op)
        self.index += 1
        for name in self.graph.outputs:
            self._keep_output(name)
        return MappedGraph(
            self.graph, self.machine, self.dtype, self.regions, self.caches, self.packed, self.storages,
            tuple(itertools.chain(*self.constants.values())), self.linears,
        )  # fmt: skip

    # --- caches ------------------------------------------------------------------------------------------------

    def _plan_caches(self) -> None:
        for op in self.graph.operations:
            if op.kind == "attention":
                for part, past, present in ((1, 3, 1), (2, 4, 2)):
                    self._plan_cache(op, part, _at(op.inputs, past), _at(op.outputs, present))

    def _plan_cache(self, op: Operation, part: int, past: str | None, present: str | None) -> None:
        attributes, name = op.attributes, op.inputs[part]
        assert isinstance(attributes, AttentionAttributes) and name is not None
        batch, sequence = (self._size(dim, op) for dim in self.graph.value(name).shape[:2])
        longest = interval(attributes.past, self.graph.symbols)[1] + sequence
        storage = past or name
        position_step = math.lcm(CAPACITY_STEP, key_step(self.machine, self.dtype))
        cache = CacheRegion(
            storage=storage, batch=batch, sequence=sequence, past=attributes.past, heads=attributes.kv_head_count,
            capacity=round_up(longest, position_step), head_dim=attributes.head_dim,
            padded_head_dim=padded_head_dim(attributes.head_dim, self.machine, self.dtype), dtype=self.dtype,
            axes=attributes.cache_axes,
        )  # fmt: skip
        last = len(self.graph.operations)
        self.storages[storage] = MappedStorage(storage, cache.bytes, "state", -1, last, "dram")
        self.caches.update({value: cache for value in (name, past, present) if value})

    # --- values ------------------------------------------------------------------------------------------------

    def _map_input(self, value: Value) -> None:
        consumers = self.graph.consumers().get(value.name, [])
        is_mask = all(
            op.kind == "count_keys"
            or (op.kind == "attention" and value.name in [_at(op.inputs, index) for index in MASK_INPUTS])
            for op in consumers
        )
        shape = [interval(dim, self.graph.symbols)[1] if is_mask else self._size(dim, value) for dim in value.shape]
        rows, columns = _rows_and_columns(shape)
        dtype = self._element_type(value)
        if dtype is INT32 and consumers and all(op.kind in INDEX_INPUTS for op in consumers):
            rows, columns = 1, rows * columns
        self._store(value.name, value.name, rows, columns, dtype, "input")
        self._extend(value.name, len(self.graph.operations))

    def _element_type(self, value: Value) -> Dtype:
        """Return the type in memory: whole numbers and truth values as int32, floats as the program computes."""
        return self.dtype if value.dtype in (*FLOAT_DTYPES, *NARROW_FLOAT_DTYPES) else INT32

    def _store(self, value: str, storage: str, rows: int, columns: int, dtype: Dtype, role: Role) -> None:
        pitch = padded_row_bytes(columns, dtype)
        self.regions[value] = Region(storage, 0, rows, columns, pitch, dtype)
        size = max(rows * pitch, ROW_ALIGNMENT_BYTES)
        self.storages[storage] = MappedStorage(storage, size, role, self.index, self.index)

    def _store_part(self, name: str, op: Operation) -> None:
        """Give a part of a `join` its columns or rows of the whole, which gets its memory with the first part."""
        whole, number = self.joined[name]
        parts = [self.graph.value(part).shape for part in self.parts[whole]]
        if whole not in self.regions:
            shape = [self._size(dim, op) for dim in self.graph.value(whole).shape]
            self._store(whole, whole, *_rows_and_columns(shape), self.dtype, "scratch")
        place = self.regions[whole]
        if whole in self.stacked:
            rows = [self._size(shape[0], op) for shape in parts]
            offset = sum(rows[:number]) * place.pitch_bytes
            self.regions[name] = replace(place, offset_bytes=offset, rows=rows[number])
        else:
            columns = [self._size(shape[-1], op) for shape in parts]
            offset = sum(columns[:number]) * self.dtype.bytes
            self.regions[name] = replace(place, offset_bytes=offset, columns=columns[number])
        self._extend(whole, self.index)

    def _extend(self, storage: str, last: int) -> None:
        known = self.storages[storage]
        self.storages[storage] = replace(known, last=max(known.last, last))

    def _size(self, dim: Dim, where: Operation | Value) -> int:
        if isinstance(dim, Affine):
            help = f"bind it, for example --dim {sorted(dim.symbols)[0]}=1; only the length of the past may stay open"
            raise UnsupportedError(f"the size {dim} is not known when compiling", where=where.name, help=help)
        return int(dim)

    def _keep_output(self, name: str) -> None:
        if name in self.caches:
            return
        if name not in self.regions:
            raise UnsupportedError("an output that no operation makes", where=name, help="remove it from the outputs")
        storage = self.storages[self.regions[name].storage]
        role: Role = "output" if storage.role == "scratch" else storage.role
        self.storages[storage.name] = replace(storage, role=role, last=len(self.graph.operations))

    # --- operations --------------------------------------------------------------------------------------------

    def _map_operation(self, op: Operation) -> None:
        for name in op.inputs:
            if name in self.regions:
                self._extend(self.regions[name].storage, self.index)
        if op.kind in GENERIC_KINDS:
            self._map_generic_inputs(op)
        if op.kind == "join" or (op.kind in VIEW_KINDS and self._is_view(op)):
            return
        for name in op.outputs:
            if name and name not in self.caches:
                value = self.graph.value(name)
                shape = [self._size(dim, op) for dim in value.shape]
                if name in self.joined:
                    self._store_part(name, op)
                    continue
                dtype = QUANTIZED[value.dtype] if op.kind == "quantize" else self._element_type(value)
                self._store(name, name, *_rows_and_columns(shape), dtype, "scratch")
        pack = _PACKERS.get(op.kind)
        if pack:
            pack(self, op)

    def _map_generic_inputs(self, op: Operation) -> None:
        """Give constants regions; a cache has none, its layout is known to attention only."""
        for name in op.inputs:
            if name in self.graph.constants:
                self._map_constant(self.graph.constants[str(name)])
            elif name in self.caches and name not in self.regions:
                help = "use the keys and values before they are appended to the cache"
                raise UnsupportedError(f"{op.kind} reads {name}, which is a cache", where=op.name, help=help)

    def _map_constant(self, constant: GraphConstant) -> None:
        """Give a constant a region like that of a value: padded rows, whole numbers as int32."""
        value = constant.value
        dtype = self._element_type(value)
        rows, columns = _rows_and_columns([self._size(dim, value) for dim in value.shape])
        storage = f"{value.name}.{dtype.name}_rows"
        if storage in self.storages:
            return
        self._store(value.name, storage, rows, columns, dtype, "constant")
        self._fill(storage, (pack_tensor(constant, storage, rows, columns, dtype),))

    def _is_view(self, op: Operation) -> bool:
        """Make the output a view of the input if its place is a strided one."""
        source, output = op.inputs[0] or "", op.outputs[0] or ""
        shape = [self._size(dim, op) for dim in self.graph.value(source).shape]
        if isinstance(op.attributes, ShapeAttributes):
            view = reshaped_view(self.regions[source], op.attributes.shape)
        else:
            assert isinstance(op.attributes, MoveAttributes)
            view = moved_view(self.regions[source], shape, op.attributes)
        if view is not None:
            self.regions[output] = view
        return view is not None

    def _constant(self, op: Operation, index: int, storage: str, pack: Callable[[str], Constant]) -> None:
        """Note the packed constant of an input; `pack` makes it unless an equal one is there."""
        self._constants(op, index, storage, lambda: (pack(storage),))

    def _constants(self, op: Operation, index: int, storage: str, pack: Callable[[], tuple[Constant, ...]]) -> None:
        if storage not in self.constants:
            self._fill(storage, pack())
        self.packed[op.name, index] = storage

    def _fill(self, storage: str, constants: tuple[Constant, ...]) -> None:
        """Make the storage that constants fill."""
        self.constants[storage] = constants
        size, last = sum(map(packed_bytes, constants)), len(self.graph.operations)
        self.storages[storage] = MappedStorage(storage, size, "constant", -1, last, "dram")

    def constant_input(self, op: Operation, index: int) -> str:
        """Return the name of a constant input; UnsupportedError if it is computed."""
        name = op.inputs[index]
        if name not in self.graph.constants:
            what = f"{op.kind} needs a constant as input {index}, '{name}' is computed"
            raise UnsupportedError(what, where=op.name, help="only weights that are in the file are supported")
        return str(name)

    def pack_linear(self, op: Operation) -> None:
        """Choose the mapping; pack the weight and the bias for it."""
        assert isinstance(op.attributes, LinearAttributes)
        shape = linear_shape(self.graph, op, self.dtype)
        if shape.is_scaled and not self.machine.matrix.rate_by_dtype[shape.dtype.name]:
            raise _without_type(self.machine, op, dtype_family(shape.dtype.name))
        choice = self.choose(shape, op, self.graph, self.machine, self.dtype.name)
        self.linears[op.name] = choice
        rows_are_outputs = op.attributes.weight_rows_are_outputs
        layout = f"{choice.output_tiles}x{choice.packed_chunks}x{choice.tile_outputs}x{choice.chunk_inputs}"
        layout += "" if rows_are_outputs else "_transposed"
        if op.attributes.weight_format is not None:
            self._pack_quantized(op, op.attributes.weight_format, choice, layout)
        else:
            self._linear_constant(
                op, WEIGHT, f"blocks_{layout}", choice.output_tiles * choice.packed_chunks,
                lambda weight, storage: pack_weight(weight, storage, choice, rows_are_outputs),
            )  # fmt: skip
        if shape.has_bias:
            elements = choice.output_tiles * choice.tile_outputs
            self._linear_constant(
                op, BIAS, f"row_{elements}", choice.output_tiles,
                lambda row, storage: pack_vector(row, storage, elements),
            )  # fmt: skip

    def _linear_constant(
        self,
        op: Operation,
        index: int,
        layout: str,
        blocks: int,
        pack: Callable[[GraphConstant, str], Constant],
        source: int | None = None,
    ) -> None:
        """Note the packed constant of an input, made from the input `source`; two that meet in a gate take turns.

        Each then has one of the `blocks` after the other.
        """
        places = [index if source is None else source]
        if isinstance(op.attributes, LinearAttributes) and op.attributes.gate:
            places.append(UP_INPUTS[places[0]])
        sources = [self.graph.constants[self.constant_input(op, place)] for place in places]
        storage = f"{'+'.join(constant.value.name for constant in sources)}.{layout}"
        self._constants(op, index, storage, lambda: _in_turn([pack(one, storage) for one in sources], blocks))

    def _pack_quantized(self, op: Operation, weight_format: WeightFormat, choice: LinearMapping, layout: str) -> None:
        """Pack weights, scales and zero points; computed ones all come from the same floats."""
        assert isinstance(op.attributes, LinearAttributes)
        rows_are_outputs = op.attributes.weight_rows_are_outputs
        layout += f"_{stored_dtype(weight_format).name}_by_{weight_format.block or 'column'}"
        blocks, is_scaled = choice.output_tiles * choice.chunks, choice.shape.is_scaled
        self._linear_constant(
            op, WEIGHT, f"integers_{layout}", blocks,
            lambda integers, storage: pack_integers(integers, storage, choice, rows_are_outputs, weight_format),
        )  # fmt: skip
        pack = pack_column_scales if is_scaled else pack_block_scales
        kind = "column_scales" if is_scaled else f"{choice.shape.dtype.name}_scales"
        self._linear_constant(
            op, SCALES, f"{kind}_{layout}", choice.output_tiles if is_scaled else blocks,
            lambda scales, storage: pack(scales, storage, choice, rows_are_outputs, weight_format),
            source=WEIGHT if weight_format.is_computed else SCALES,
        )  # fmt: skip
        if choice.shape.packed and choice.shape.packed.has_zero_points:
            self._linear_constant(
                op, ZERO_POINTS, f"zero_points_{layout}", blocks,
                lambda zero_points, storage: pack_zero_points(zero_points, storage, choice, rows_are_outputs),
            )  # fmt: skip

    def pack_norm(self, op: Operation) -> None:
        """Pack the weight as one fp32 row with the padding of x."""
        weight = self.graph.constants[self.constant_input(op, 1)]
        elements = self.regions[op.inputs[0] or ""].row_bytes // self.dtype.bytes
        self._constant(
            op, 1, f"{weight.value.name}.row_{elements}", lambda storage: pack_vector(weight, storage, elements)
        )

    def pack_embedding(self, op: Operation) -> None:
        """Pack the table with padded rows."""
        table = self.graph.constants[self.constant_input(op, 1)]
        if isinstance(op.attributes, WeightFormat):
            self._pack_quantized_table(op, op.attributes)
        else:
            self._constant(op, 1, f"{table.value.name}.rows", lambda storage: pack_rows(table, storage, self.dtype))

    def _pack_quantized_table(self, op: Operation, weight_format: WeightFormat) -> None:
        """Pack integers, scales and zero points as rows that one id chooses; a single row of scales serves all."""
        columns, dtype = self.regions[op.outputs[0] or ""].columns, stored_dtype(weight_format)
        groups = -(-columns // weight_format.block) if weight_format.block else 1
        table, scales = (self.graph.constants[self.constant_input(op, index)] for index in (1, 2))
        self._constant(
            op, 1, f"{table.value.name}.{dtype.name}_rows",
            lambda storage: pack_integer_rows(table, storage, columns, dtype),
        )  # fmt: skip
        self._constant(
            op, 2, f"{scales.value.name}.fp32_rows", lambda storage: pack_rows(scales, storage, FP32, groups)
        )
        if _at(op.inputs, 3):
            zero_points = self.graph.constants[self.constant_input(op, 3)]
            self._constant(
                op, 3, f"{zero_points.value.name}.int8_rows",
                lambda storage: pack_integer_rows(zero_points, storage, groups, INT8),
            )  # fmt: skip

    def pack_embedding_bag(self, op: Operation) -> None:
        """Pack every table with padded rows."""
        for index in range(1, len(op.inputs), 2):
            table = self.graph.constants[self.constant_input(op, index)]
            self._constant(
                op, index, f"{table.value.name}.rows",
                lambda storage, table=table: pack_rows(table, storage, self.dtype),  # type: ignore[misc]
            )  # fmt: skip

    def pack_attention(self, op: Operation) -> None:
        """Pack a constant bias as rows of keys."""
        bias = _at(op.inputs, BIAS_INPUT)
        if bias in self.graph.constants:
            constant = self.graph.constants[bias or ""]
            self._constant(op, BIAS_INPUT, f"{bias}.rows", lambda storage: pack_rows(constant, storage, self.dtype))

    def map_product(self, op: Operation) -> None:
        """Choose the mapping of a product that is spread like a linear."""
        if is_spread(self.graph, op):
            a, out = (self.regions[name or ""].dtype for name in (op.inputs[0], op.outputs[0]))
            shape = product_shape(self.graph, op, a, out)
            self.linears[op.name] = self.choose(shape, op, self.graph, self.machine, self.dtype.name)

    def pack_rope(self, op: Operation) -> None:
        """Pack both tables as fp32 rows of half a head."""
        assert isinstance(op.attributes, RopeAttributes)
        half = op.attributes.head_dim // 2
        for index in ROPE_TABLES:
            table = self.graph.constants[self.constant_input(op, index)]
            if int(table.value.shape[-1]) not in (half, 2 * half):  # type: ignore[arg-type]
                what = f"a rotary table of {table.value.shape[-1]} columns for heads of {2 * half}"
                raise UnsupportedError(what, where=op.name, help="partial rotary embedding is not supported")
            self._constant(
                op, index, f"{table.value.name}.rows_{half}",
                lambda storage, table=table: pack_rows(table, storage, FP32, half),  # type: ignore[misc]
            )  # fmt: skip


_PACKERS: Mapping[str, Callable[[_Mapper, Operation], None]] = {
    "linear": _Mapper.pack_linear,
    "matmul": _Mapper.map_product,
    "rms_norm": _Mapper.pack_norm,
    "embedding": _Mapper.pack_embedding,
    "embedding_bag": _Mapper.pack_embedding_bag,
    "rope": _Mapper.pack_rope,
    "attention": _Mapper.pack_attention,
}


def _in_turn(constants: Sequence[Constant], blocks: int) -> tuple[Constant, ...]:
    """Let constants of one size take turns in their storage; one alone has it all."""
    if len(constants) == 1:
        return tuple(constants)
    sizes = [packed_bytes(constant) // blocks for constant in constants]
    return tuple(
        replace(constant, interleave=Interleave(part, len(constants), size))
        for part, (constant, size) in enumerate(zip(constants, sizes, strict=True))
    )


def _rows_and_columns(shape: Sequence[int]) -> tuple[int, int]:
    """Return how a tensor lies in memory: the last axis is a row, the others count rows; a scalar is one element."""
    return math.prod(shape[:-1]), shape[-1] if shape else 1


def _without_type(machine: Machine, op: Operation, family: str) -> UnsupportedError:
    """Return the refusal of products of a byte each; one that `--quantize` asked for is not about the model."""
    assert isinstance(op.attributes, LinearAttributes) and op.attributes.weight_format is not None
    rates = machine.matrix.rate_by_dtype
    able = [name for name in PerDtype.model_fields if rates[name]]
    what = f"the matrix engine of {machine.name} multiplies {', '.join(able)}, not {family}"
    other = f"take a machine whose matrix.rate_by_dtype.{family} is above 0"
    if op.attributes.weight_format.is_computed:
        instead = next((f"use --quantize {name}" for name in _BYTE_FAMILIES if name in able), "leave it out")
        help = f"{instead}, quantize the weights alone with --quantize int4, or {other}"
        return UnsupportedError(what, where=f"--quantize {family}", help=help)
    return UnsupportedError(what, where=op.name, help=f"export with the weights alone quantized, or {other}")


def _at(names: tuple[str | None, ...], index: int) -> str | None:
    return names[index] if index < len(names) else None
