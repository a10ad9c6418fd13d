"""Sums of table rows that int32 indices choose, one row per bag, for any number of tables in one launch.

Bags are dealt over the PEs in groups. Core B loads the indices of a group, some tables ahead, so that nobody waits for
them; core A fetches the rows they choose, core B adds them up and stores, or stores them as they are where no bag has
more than one. Machines without indexed transfers read each index into a register of core A.

One command fetches the rows of several small bags, or a part of a bag that is too large to be added up at once: many
rows are on their way at any time, whatever the sizes of the bags.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from compiler.graph import Bags, EmbeddingBagAttributes, Operation
from compiler.kernel_builder import ZERO, BufferHandle, CoreBuilder, KernelBuilder, Register, Scalar, round_up
from compiler.kernels.dealing import INDEX_BYTES
from compiler.lowering import ArgumentValue, Lowering
from compiler.packing import ROW_ALIGNMENT_BYTES
from isa.dtypes import FP32, Dtype
from isa.errors import UnsupportedError
from isa.kernel import Kernel
from isa.machine import Machine

TABLE_ARGUMENTS = ("indices", "step", "skip", "local_step", "table", "hot", "together", "out", "out_pitch")
"""Of each table: where the indices of bag 0 are, the distance to the next bag's, bytes before the first index in what
is loaded and from bag to bag in there, the table, rows per bag, bags that are fetched together, and the result."""
LARGEST_INDEX_BYTES, LARGEST_SUM_BYTES, LARGEST_CHUNK_BYTES = 8192, 16384, 32768
"""Of a group's indices and results, and of the rows that are fetched by one command."""
MOST_CHUNKS_IN_FLIGHT = 16
WANTED_ROWS = 64
"""Rows that one command should fetch, if there are as many."""
MOST_TABLES_AHEAD, LARGEST_INDEX_PART = 6, 8
"""How far ahead indices are loaded, in at most that part of the local memory."""


@dataclass(frozen=True, slots=True)
class TableForm:
    """What shapes the code for one table: all indices of a group in one piece, and the factor of the sum."""

    contiguous: bool
    scale: float | None


@dataclass(frozen=True, slots=True)
class Plan:
    """Sizes of the buffers: `group` bags at a time, `chunk` rows per command, at most `chunks` of them per bag.

    Indices are loaded `ahead` tables ahead, at most all of a group.
    """

    tables: tuple[TableForm, ...]
    dtype: Dtype
    row_bytes: int
    group: int
    index_bytes: int
    chunk: int
    chunks: int
    slots: int
    ahead: int
    has_sums: bool
    """A table has bags of several rows; whoever adds is the only one to read them."""

    @property
    def columns(self) -> int:
        """Elements of a row with its padding."""
        return self.row_bytes // self.dtype.bytes


@dataclass(frozen=True, slots=True)
class _Buffers:
    indices: BufferHandle
    rows: BufferHandle
    sums: BufferHandle | None
    parts: BufferHandle | None
    totals: BufferHandle | None


def build(machine: Machine, plan: Plan) -> Kernel:
    """Return the kernel of a plan."""
    names = [f"{name}_{index}" for index in range(len(plan.tables)) for name in TABLE_ARGUMENTS]
    builder = KernelBuilder(f"embedding_bag_{len(plan.tables)}x{plan.row_bytes}", machine, ("bags", *names))
    wide = plan.columns * FP32.bytes
    buffers = _Buffers(
        builder.buffer("indices", plan.index_bytes, plan.ahead + 1),
        builder.buffer("rows", plan.chunk * plan.row_bytes, plan.slots),
        builder.buffer("sums", plan.group * plan.row_bytes, 2) if plan.has_sums else None,
        builder.buffer("parts", plan.chunks * wide, 2) if plan.chunks > 1 else None,
        builder.buffer("totals", wide, 2) if any(table.scale for table in plan.tables) else None,
    )
    _Fetcher(plan, machine, builder.core_a, buffers).emit()
    _Adder(plan, machine, builder.core_b, buffers).emit()
    return builder.build()


class _Walk:
    """What both cores share: the groups of bags of this PE."""

    def __init__(self, plan: Plan, machine: Machine, core: CoreBuilder, buffers: _Buffers) -> None:
        self.plan, self.machine, self.core, self.buffers = plan, machine, core, buffers
        self.bag = core.register()
        """First bag of the group."""
        self.stride = core.register()
        core.multiply(core.coordinate("row"), core.coordinate("columns"), self.bag)
        core.increase(self.bag, core.coordinate("column"))
        core.multiply(self.bag, plan.group, self.bag)
        core.multiply(core.coordinate("rows"), core.coordinate("columns"), self.stride)
        core.multiply(self.stride, plan.group, self.stride)

    @contextmanager
    def groups(self) -> Iterator[None]:
        """Repeat the block for the groups of this PE."""
        core = self.core
        with core.scratch() as trips:
            core.subtract(core.argument("bags"), self.bag, trips)
            core.increase(trips, self.stride)
            core.increase(trips, -1)
            core.compute("div", trips, self.stride, trips)
            with core.loop(trips):
                yield
                core.increase(self.bag, self.stride)

    def bags_of_group(self, first: Register, into: Register) -> Register:
        """Emit `into = bags of the group that starts with first`."""
        self.core.subtract(self.core.argument("bags"), first, into)
        return self.core.minimum(into, self.plan.group, into)

    def given(self, name: str, table: int, into: Register) -> Register:
        """Load an argument of a table."""
        return self.core.load_argument(f"{name}_{table}", into)

    def index_address(self, table: int, bag: Register, into: Register) -> Register:
        """Emit `into = address of the first index of a bag`."""
        core = self.core
        core.multiply(bag, self.given("step", table, into), into)
        with core.scratch() as base:
            core.increase(into, self.given("indices", table, base))
        return into

    @contextmanager
    def pieces(self, table: int) -> Iterator[Register]:
        """Repeat the block for the bags of the group that are fetched together; yields their number."""
        core = self.core
        with core.scratch() as left, core.scratch() as count, core.scratch() as together:
            self.bags_of_group(self.bag, left)
            self.given("together", table, together)
            with core.scratch() as trips:
                core.add(left, together, trips)
                core.increase(trips, -1)
                core.compute("div", trips, together, trips)
                with core.loop(trips):
                    yield core.minimum(left, together, count)
                    core.subtract(left, together, left)

    @contextmanager
    def chunks(self, table: int) -> Iterator[Register]:
        """Repeat the block for the chunks of a large bag; yields the rows in it."""
        core = self.core
        with core.scratch() as left, core.scratch() as rows:
            self.given("hot", table, left)
            with core.scratch() as trips:
                core.add(left, self.plan.chunk - 1, trips)
                core.compute("div", trips, self.plan.chunk, trips)
                with core.loop(trips):
                    yield core.minimum(left, self.plan.chunk, rows)
                    core.increase(left, -self.plan.chunk)


class _Fetcher(_Walk):
    """Core A: rows of the tables."""

    def emit(self) -> None:
        core = self.core
        with self.groups():
            for table, _ in enumerate(self.plan.tables):
                with core.scratch() as start, core.scratch() as step:
                    self._skip(table, start)
                    with self.pieces(table) as bags:
                        if self.plan.chunks == 1:
                            self._fetch_bags(table, start, bags)
                        else:
                            self._fetch_bag(table, start)
                        core.multiply(bags, self.given("local_step", table, step), step)
                        core.increase(start, step)
                core.pop(self.buffers.indices)

    def _skip(self, table: int, into: Register) -> None:
        """Emit `into = bytes before the group's first index` in what has been loaded."""
        alignment = self.machine.dma.alignment_bytes
        if not self.plan.tables[table].contiguous:
            self.given("skip", table, into)
        elif alignment == 1:
            self.core.copy(0, into)
        else:
            self.index_address(table, self.bag, into)
            self.core.compute("and", into, alignment - 1, into)

    def _fetch_bags(self, table: int, start: Register, bags: Register) -> None:
        """Fetch all rows of bags whose indices follow one another."""
        core = self.core
        with core.scratch() as rows, core.scratch() as base:
            core.multiply(bags, self.given("hot", table, rows), rows)
            self._fetch(rows, start, self.given("table", table, base))

    def _fetch_bag(self, table: int, start: Register) -> None:
        """Fetch the rows of one bag chunk by chunk."""
        core = self.core
        with core.scratch() as position, core.scratch() as base:
            core.copy(start, position)
            self.given("table", table, base)
            with self.chunks(table) as rows:
                self._fetch(rows, position, base)
                core.increase(position, self.plan.chunk * INDEX_BYTES)

    def _fetch(self, rows: Register, position: Register, base: Register) -> None:
        """Fetch and push the rows that the indices from byte `position` on choose."""
        core, row_bytes = self.core, self.plan.row_bytes
        if self.machine.dma.indexed:
            core.emit(
                "dma_gather", out=self.buffers.rows, out_pitch=row_bytes, a=self.buffers.indices, a_offset=position,
                address=base, address_pitch=row_bytes, rows=rows, row_bytes=row_bytes,
            )  # fmt: skip
        else:
            with core.scratch() as place:
                self._fetch_one_by_one(rows, core.copy(position, place), base)
        core.push(self.buffers.rows)

    def _fetch_one_by_one(self, rows: Register, position: Register, base: Register) -> None:
        core, row_bytes = self.core, self.plan.row_bytes
        with core.scratch() as address, core.scratch() as offset:
            core.copy(0, offset)
            with core.loop(rows):
                core.emit("lw", destination=address, a=self.buffers.indices, a_offset=position)
                core.multiply(address, row_bytes, address)
                core.increase(address, base)
                core.emit(
                    "dma_in", out=self.buffers.rows, out_offset=offset, address=address, rows=1, row_bytes=row_bytes
                )
                core.increase(position, INDEX_BYTES)
                core.increase(offset, row_bytes)


class _Adder(_Walk):
    """Core B: indices, sums, and the way out."""

    def emit(self) -> None:
        core, ahead, count = self.core, self.plan.ahead, len(self.plan.tables)
        with core.when_less(self.bag, core.argument("bags")):
            for table in range(ahead):
                self._load_indices(table, self.bag)
        with self.groups():
            for table in range(count):
                if table + ahead < count:
                    self._load_indices(table + ahead, self.bag)
                else:
                    with core.scratch() as following:
                        core.add(self.bag, self.stride, following)
                        with core.when_less(following, core.argument("bags")):
                            self._load_indices(table + ahead - count, following)
                if self.plan.has_sums:
                    self._add_group(table)
                else:
                    self._store_rows(table)

    def _load_indices(self, table: int, first: Register) -> None:
        core, alignment = self.core, self.machine.dma.alignment_bytes
        with core.scratch() as address, core.scratch() as bags, core.scratch() as step, core.scratch() as size:
            self.index_address(table, first, address)
            self.bags_of_group(first, bags)
            self.given("step", table, step)
            if not self.plan.tables[table].contiguous:
                self.given("local_step", table, size)
                core.emit(
                    "dma_in", out=self.buffers.indices, out_pitch=size, address=address, address_pitch=step, rows=bags,
                    row_bytes=size,
                )  # fmt: skip
            else:
                core.multiply(bags, step, size)
                if alignment > 1:
                    core.compute("and", address, alignment - 1, step)
                    core.subtract(address, step, address)
                    core.increase(size, step)
                    core.increase(size, alignment - 1)
                    core.compute("and", size, -alignment, size)
                core.emit("dma_in", out=self.buffers.indices, address=address, rows=1, row_bytes=size)
        core.push(self.buffers.indices)

    def _add_group(self, table: int) -> None:
        core, sums = self.core, self._sums
        with core.scratch() as offset:
            core.copy(0, offset)
            with self.pieces(table) as bags:
                if self.plan.chunks == 1:
                    self._add_bags(table, offset, bags)
                else:
                    self._add_large_bag(table, offset)
                    core.increase(offset, self.plan.row_bytes)
        core.push(sums)
        with core.scratch() as bags, self._place(table) as (address, pitch):
            self._store(sums, self.bags_of_group(self.bag, bags), address, pitch)

    def _store_rows(self, table: int) -> None:
        """Store the rows of bags that have no more than one."""
        core = self.core
        with self._place(table) as (address, pitch), self.pieces(table) as bags:
            self._store(self.buffers.rows, bags, address, pitch)
            with core.scratch() as step:
                core.increase(address, core.multiply(bags, pitch, step))

    @contextmanager
    def _place(self, table: int) -> Iterator[tuple[Register, Register]]:
        """Yield the address of the result of the group's first bag, and the distance to the next one's."""
        core = self.core
        with core.scratch() as address, core.scratch() as pitch:
            core.multiply(self.bag, self.given("out_pitch", table, pitch), address)
            with core.scratch() as base:
                core.increase(address, self.given("out", table, base))
            yield address, pitch

    def _store(self, source: BufferHandle, bags: Register, address: Register, pitch: Register) -> None:
        """Store the results of so many bags and give their slot back."""
        row_bytes = self.plan.row_bytes
        self.core.emit(
            "dma_out", address=address, address_pitch=pitch, a=source, a_pitch=row_bytes, rows=bags, row_bytes=row_bytes
        )
        self.core.pop(source)

    @property
    def _sums(self) -> BufferHandle:
        assert self.buffers.sums is not None
        return self.buffers.sums

    def _target(self, table: int, offset: Register) -> tuple[BufferHandle, Register, Dtype]:
        """Return where the sum of a bag goes: to the result, or to be divided first."""
        totals = self.buffers.totals
        if self.plan.tables[table].scale is not None and totals is not None:
            return totals, ZERO, FP32
        return self._sums, offset, self.plan.dtype

    def _add_bags(self, table: int, offset: Register, bags: Register) -> None:
        """Add the rows of each of the bags that were fetched together, and go on in the result."""
        core, buffers, plan = self.core, self.buffers, self.plan
        target, place, dtype = self._target(table, offset)
        with core.scratch() as position, core.scratch() as hot, core.scratch() as step:
            core.copy(0, position)
            core.multiply(self.given("hot", table, hot), plan.row_bytes, step)
            with core.loop(bags):
                self._sum(target, place, dtype, buffers.rows, plan.dtype, hot, position)
                self._divide(table, offset)
                core.increase(position, step)
                core.increase(offset, plan.row_bytes)
        core.pop(buffers.rows)

    def _add_large_bag(self, table: int, offset: Register) -> None:
        """Add the rows of a bag chunk by chunk, then the sums of the chunks."""
        plan, core, buffers, parts = self.plan, self.core, self.buffers, self.buffers.parts
        assert parts is not None
        target, place, dtype = self._target(table, offset)
        with core.scratch() as part, core.scratch() as count:
            core.copy(0, part)
            core.copy(0, count)
            with self.chunks(table) as rows:
                self._sum(parts, part, FP32, buffers.rows, plan.dtype, rows)
                core.pop(buffers.rows)
                core.increase(part, plan.columns * FP32.bytes)
                core.increase(count, 1)
            core.push(parts)
            self._sum(target, place, dtype, parts, FP32, count)
        core.pop(parts)
        self._divide(table, offset)

    def _divide(self, table: int, offset: Register) -> None:
        """Make a mean of the sum, if that is wanted."""
        plan, core, buffers = self.plan, self.core, self.buffers
        scale, totals = plan.tables[table].scale, buffers.totals
        if scale is not None and totals is not None:
            core.push(totals)
            core.emit(
                "vmuls", out=self._sums, out_offset=offset, a=totals, rows=1, columns=plan.columns,
                out_dtype=plan.dtype.name, a_dtype=FP32.name, value=scale,
            )  # fmt: skip
            core.pop(totals)

    def _sum(
        self, out: BufferHandle, offset: Register, out_dtype: Dtype, a: BufferHandle, a_dtype: Dtype, rows: Scalar,
        position: Register = ZERO,
    ) -> None:  # fmt: skip
        self.core.emit(
            "colsum", out=out, out_offset=offset, a=a, a_offset=position, a_pitch=self.plan.columns * a_dtype.bytes,
            rows=rows, columns=self.plan.columns, out_dtype=out_dtype.name, a_dtype=a_dtype.name,
        )  # fmt: skip


def _index_bytes(place: Bags, alignment_bytes: int) -> int:
    """Bytes of the window that holds the indices of one bag, when each bag has a row of its own."""
    before = place.first_column * INDEX_BYTES % alignment_bytes
    return round_up(before + place.hot * INDEX_BYTES, alignment_bytes)


def plan_of(attributes: EmbeddingBagAttributes, row_bytes: int, dtype: Dtype, machine: Machine, where: str) -> Plan:
    """Choose the sizes; raises UnsupportedError if a bag or a row does not fit in local memory."""
    alignment = machine.dma.alignment_bytes
    most_rows = max(place.hot for place in attributes.tables)
    forms = tuple(
        TableForm(place.row_step == 0, 1 / place.hot if place.mean and most_rows > 1 else None)
        for place in attributes.tables
    )
    widest = max(
        place.column_step * INDEX_BYTES if form.contiguous else _index_bytes(place, alignment)
        for place, form in zip(attributes.tables, forms, strict=True)
    )
    hottest = max(max(place.hot * INDEX_BYTES for place in attributes.tables), widest)
    group = _group(
        attributes.count, machine.pe_count, min(LARGEST_INDEX_BYTES // widest, LARGEST_SUM_BYTES // row_bytes)
    )
    chunk = max(1, min(most_rows, machine.simd.max_accumulate_rows, LARGEST_CHUNK_BYTES // row_bytes))
    chunks = -(-most_rows // chunk)
    if chunks == 1:
        chunk = max(chunk, min(WANTED_ROWS, group * most_rows, LARGEST_CHUNK_BYTES // row_bytes))
    slots = machine.pe.local_memory_bytes // 2 // (chunk * row_bytes)
    index_bytes = round_up(max(group * widest, hottest) + 2 * alignment, ROW_ALIGNMENT_BYTES)
    ahead = min(MOST_TABLES_AHEAD, machine.pe.local_memory_bytes // LARGEST_INDEX_PART // index_bytes - 1, len(forms))
    plan = Plan(
        forms, dtype, row_bytes, group, index_bytes, chunk, chunks, max(2, min(slots, MOST_CHUNKS_IN_FLIGHT)),
        max(1, ahead), most_rows > 1,
    )  # fmt: skip
    wide = plan.columns * FP32.bytes
    needed = (plan.ahead + 1) * index_bytes + 2 * (group * row_bytes + (chunks + 1) * wide)
    needed += plan.slots * chunk * row_bytes
    if needed > machine.pe.local_memory_bytes or chunks > machine.simd.max_accumulate_rows:
        what = f"bags of {most_rows} rows of {row_bytes} bytes"
        raise UnsupportedError(what, where=where, help="split the bag or the row: they must fit in local memory")
    return plan


def _group(bags: int, pes: int, largest: int) -> int:
    """Return how many bags a PE works on at a time, at most `largest`: as many on each PE, or nearly so."""
    largest = max(1, largest)
    rounds = -(-bags // (pes * largest))
    return max(1, -(-bags // (pes * rounds))) if rounds else 1


def _together(plan: Plan, place: Bags, local_step: int) -> int:
    """Return how many bags of a table are fetched by one command: their indices must follow one another."""
    is_dense = local_step == place.hot * INDEX_BYTES
    return max(1, plan.chunk // place.hot) if is_dense and plan.chunks == 1 else 1


def lower(context: Lowering, op: Operation) -> None:
    """Launch the look-up of all tables of the operation."""
    attributes, machine = op.attributes, context.machine
    assert isinstance(attributes, EmbeddingBagAttributes)
    row_bytes = context.region(op.outputs[0]).row_bytes
    plan = plan_of(attributes, row_bytes, context.dtype, machine, op.name)
    arguments: dict[str, ArgumentValue] = {"bags": attributes.count}
    for table, place in enumerate(attributes.tables):
        indices, out = context.region(op.inputs[2 * table]), context.region(op.outputs[table])
        offset = place.first_row * indices.pitch_bytes + place.first_column * INDEX_BYTES
        step = place.row_step * indices.pitch_bytes + place.column_step * INDEX_BYTES
        is_contiguous = plan.tables[table].contiguous
        skip = 0 if is_contiguous else offset % machine.dma.alignment_bytes
        local_step = step if is_contiguous else _index_bytes(place, machine.dma.alignment_bytes)
        values: tuple[ArgumentValue, ...] = (
            context.address(indices, offset - skip), step, skip, local_step, context.packed(op, 2 * table + 1),
            place.hot, _together(plan, place, local_step), context.address(out), out.pitch_bytes,
        )  # fmt: skip
        arguments |= {f"{name}_{table}": value for name, value in zip(TABLE_ARGUMENTS, values, strict=True)}
    kernel = context.kernel(build, plan)
    context.launch(op, kernel, context.rectangle(-(-attributes.count // plan.group)), arguments)
