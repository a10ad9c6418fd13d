"""Who waits for what when nothing can go on, in words."""

from __future__ import annotations

from collections.abc import Iterator

from isa.kernel import Kernel
from isa.table import Unit
from simulator import state as st

_LIMIT = 12
_CORE_STATES = {
    st.ON_QUEUE: "waits for room in the queue of {unit}",
    st.ON_FENCE: "waits for its own commands to complete",
    st.ON_BARRIER: "waits at the barrier for the other PEs",
    st.ON_SEMAPHORE: "waits for semaphore {detail}",
    st.ON_DATA: "waits for data in buffer '{buffer}'",
}
_STREAM_STATES = {
    st.ON_INPUT: "waits for data in buffer '{buffer}'",
    st.ON_SPACE: "waits for space in buffer '{buffer}'",
    st.ON_BANK: "waits for accumulator bank {detail}",
    st.ON_GROUP: "waits for the other PEs of its broadcast",
    st.ON_LINK: "waits for its neighbour's reduction link",
}


def describe(kernel: Kernel, code: st.Code, state: st.State) -> str:
    """Return one line per waiting core or stream, the first ones of a long list."""
    lines = list(_lines(kernel, code, state))
    shown = lines[:_LIMIT]
    if len(lines) > _LIMIT:
        shown.append(f"    ... and {len(lines) - _LIMIT} more")
    return "\n".join(shown)


def _lines(kernel: Kernel, code: st.Code, state: st.State) -> Iterator[str]:
    def named(index: int) -> str:
        return kernel.buffers[index].name if index < len(kernel.buffers) else str(index)

    columns = int(code.header[st.COLUMNS])
    for core in range(int(code.header[st.ROWS]) * columns * st.CORES):
        pe, number = divmod(core, st.CORES)
        place = f"    PE ({pe // columns}, {pe % columns}) core {'AB'[number]}"
        status, detail = int(state.core[core, st.STATUS]), int(state.core[core, st.WAITING_FOR])
        if status in _CORE_STATES:
            sentence = _CORE_STATES[status].format(
                unit=Unit(detail % st.UNITS).name, detail=detail, buffer=named(detail) if status == st.ON_DATA else ""
            )
            yield f"{place} at instruction {int(state.core[core, st.PC])} {sentence}"
        for unit in range(st.UNITS):
            stream = state.stream[core * st.UNITS + unit]
            if stream[st.COUNT] and int(stream[st.STREAM_STATUS]) in _STREAM_STATES:
                detail = int(stream[st.DETAIL])
                sentence = _STREAM_STATES[int(stream[st.STREAM_STATUS])].format(buffer=named(detail), detail=detail)
                record = int(stream[st.QUEUE + int(stream[st.HEAD]) * st.ENTRY + st.Q_RECORD])
                pc = int(state.records[record, st.R_PC])
                yield f"{place} {Unit(unit).name} command at instruction {pc} {sentence}"
