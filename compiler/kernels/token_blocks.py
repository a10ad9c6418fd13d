"""Work on heads of many tokens: an item is a block of tokens of some heads that lie beside each other.

A block of tokens of one head is one piece of a cache, where a token of all heads would be as many pieces as heads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from compiler.kernel_builder import BufferHandle, CoreBuilder, Register
from compiler.kernels.dealing import dealt_items

BLOCK_TOKENS = (32, 16)
"""Tokens of a block."""
HEAD_TOKENS = 16
"""What the commands for a head of an item take, in tokens of it."""
ARGUMENTS = (
    "x",
    "x_pitch",
    "sequence",
    "blocks",
    "items",
    "out",
    "out_batch_pitch",
    "out_token_pitch",
    "out_head_pitch",
)
"""`blocks` of tokens per sequence; the rest says where things lie."""

Store = Literal["rows", "heads", "pieces"]
"""How a result lies: heads of a token beside each other, apart, or apart with tokens of a head behind each other."""


@dataclass(frozen=True, slots=True)
class TokenBlocks:
    """Tokens per block, heads per item, and heads in all."""

    tokens: int
    heads: int
    all_heads: int

    @property
    def groups(self) -> int:
        """Items per block of tokens."""
        return self.all_heads // self.heads

    @property
    def cost(self) -> int:
        """What an item takes, in tokens of a head: each head has its commands, and each token something for all."""
        return self.heads * (self.tokens + HEAD_TOKENS) + self.tokens

    def blocks(self, sequence: int) -> int:
        """Blocks of tokens per sequence."""
        return -(-sequence // self.tokens)


@dataclass(frozen=True, slots=True)
class Item:
    """Registers: the first token in its sequence, how many there are, the first head, the number of the sequence."""

    first: Register
    tokens: Register
    head: Register
    batch: Register


def choose_blocks(
    heads: int, batch: int, sequence: int, pe_count: int, fits: Callable[[TokenBlocks], bool]
) -> TokenBlocks | None:
    """Return the blocks with which the PE that has most items is ready first, of those that fit: the largest of such.

    None for a few tokens, and if no blocks fit in local memory.
    """

    def busiest(plan: TokenBlocks) -> int:
        rounds = -(-batch * plan.blocks(sequence) * plan.groups // pe_count)
        return rounds * plan.cost

    plans = [
        plan
        for tokens in BLOCK_TOKENS if sequence >= tokens
        for each in range(heads, 0, -1) if heads % each == 0 and fits(plan := TokenBlocks(tokens, each, heads))
    ]  # fmt: skip
    return min(plans, key=busiest, default=None)


@contextmanager
def dealt_blocks(core: CoreBuilder, plan: TokenBlocks) -> Iterator[Item]:
    """Repeat the code for the items of this PE; items of one block of tokens are dealt to neighbours."""
    with (
        core.scratch() as first, core.scratch() as tokens, core.scratch() as head, core.scratch() as batch,
        core.scratch() as items, dealt_items(core, core.load_argument("items", items)) as item,
    ):  # fmt: skip
        with core.scratch() as divisor:
            core.copy(plan.groups, divisor)
            core.compute("rem", item, divisor, head)
            core.multiply(head, plan.heads, head)
            core.compute("div", item, divisor, first)
            core.load_argument("blocks", divisor)
            core.compute("div", first, divisor, batch)
            core.compute("rem", first, divisor, first)
            core.multiply(first, plan.tokens, first)
            core.subtract(core.load_argument("sequence", tokens), first, tokens)
            core.minimum(tokens, core.copy(plan.tokens, divisor), tokens)
        yield Item(first, tokens, head, batch)


def store_item(
    core: CoreBuilder, plan: TokenBlocks, out: BufferHandle, item: Item, head_bytes: int, store: Store,
    target: str = "out",
) -> None:  # fmt: skip
    """Store the item, whose tokens lie one behind the other: its heads one by one where they lie apart.

    `target` is the argument that says where the result lies.
    """
    item_row_bytes = plan.heads * head_bytes
    row_bytes = item_row_bytes if store == "rows" else head_bytes
    with core.scratch() as address, core.scratch() as pitch, core.scratch() as offset, core.scratch() as size:
        find_out(core, item, address, target)
        if store == "pieces" and plan.heads == 1:
            core.multiply(item.tokens, head_bytes, size)
            core.emit("dma_out", address=address, a=out, rows=1, row_bytes=size)
            return
        core.copy(0, offset)
        with core.loop(1 if store == "rows" else plan.heads):
            core.emit(
                "dma_out", address=address, address_pitch=core.load_argument("out_token_pitch", pitch), a=out,
                a_offset=offset, a_pitch=item_row_bytes, rows=item.tokens, row_bytes=row_bytes,
            )  # fmt: skip
            core.increase(offset, head_bytes)
            core.increase(address, core.load_argument("out_head_pitch", pitch))


def load_item(
    core: CoreBuilder, plan: TokenBlocks, x: BufferHandle, item: Item, head_bytes: int, source: str = "x"
) -> None:
    """Load the item, its tokens one behind the other; `source` is the argument that says where x lies."""
    with core.scratch() as address, core.scratch() as pitch, core.scratch() as out_pitch:
        core.copy(plan.heads * head_bytes, out_pitch)
        core.emit(
            "dma_in", out=x, out_pitch=out_pitch, address=find_x(core, item, head_bytes, address, source),
            address_pitch=core.load_argument(f"{source}_pitch", pitch), rows=item.tokens, row_bytes=out_pitch,
        )  # fmt: skip
    core.push(x)


def load_heads(core: CoreBuilder, plan: TokenBlocks, x: BufferHandle, item: Item, head_bytes: int) -> None:
    """Load the heads of the item one by one, the tokens of each one behind the other."""
    with core.scratch() as address, core.scratch() as pitch, core.scratch() as heads:
        find_x(core, item, head_bytes, address)
        with core.loop(core.copy(plan.heads, heads)):
            core.emit(
                "dma_in", out=x, out_pitch=head_bytes, address=address,
                address_pitch=core.load_argument("x_pitch", pitch), rows=item.tokens, row_bytes=head_bytes,
            )  # fmt: skip
            core.push(x)
            core.increase(address, head_bytes)


def store_head(
    core: CoreBuilder, out: BufferHandle, item: Item, address: Register, head_bytes: int, store: Store
) -> None:
    """Store a head, whose tokens lie one behind the other, at an address, which moves to the next head, and pop it."""
    with core.scratch() as number:
        if store == "pieces":
            core.multiply(item.tokens, head_bytes, number)
            core.emit("dma_out", address=address, a=out, rows=1, row_bytes=number)
        else:
            core.emit(
                "dma_out", address=address, address_pitch=core.load_argument("out_token_pitch", number), a=out,
                a_pitch=head_bytes, rows=item.tokens, row_bytes=head_bytes,
            )  # fmt: skip
        core.pop(out)
        core.increase(address, core.load_argument("out_head_pitch", number))


def find_x(core: CoreBuilder, item: Item, head_bytes: int, into: Register, source: str = "x") -> Register:
    """Set `into` to the address of the item in x."""
    with core.scratch() as other:
        core.multiply(item.batch, core.load_argument("sequence", into), into)
        core.increase(into, item.first)
        core.multiply(into, core.load_argument(f"{source}_pitch", other), into)
        core.increase(into, core.multiply(item.head, head_bytes, other))
        core.increase(into, core.load_argument(source, other))
    return into


def find_out(core: CoreBuilder, item: Item, into: Register, target: str = "out") -> Register:
    """Set `into` to the address of the item's first head in the result."""
    with core.scratch() as other:
        core.multiply(item.batch, core.load_argument("out_batch_pitch", into), into)
        for number, pitch in ((item.first, "out_token_pitch"), (item.head, "out_head_pitch")):
            core.increase(into, core.multiply(number, core.load_argument(pitch, other), other))
        core.increase(into, core.load_argument(target, other))
    return into
