"""A DRAM channel in plain Python, written from `docs/timing.md`: the slow twin of `simulator.dram`."""

from __future__ import annotations

from dataclasses import dataclass, field

from simulator import hardware as hw
from simulator.hardware import Integers


@dataclass
class NaiveChannel:
    """The state of one channel; all times are ticks."""

    numbers: Integers
    bus: int = 0
    commands: int = 0
    activations: int = 0
    reads: int = 0
    writes: int = 0
    queue: list[int] = field(default_factory=list)
    open_rows: dict[int, int] = field(default_factory=dict)
    next_access: dict[int, int] = field(default_factory=dict)
    next_opening: dict[int, int] = field(default_factory=dict)
    groups: dict[int, int] = field(default_factory=dict)
    refreshes: int = 0

    def _number(self, index: int) -> int:
        return int(self.numbers[index])

    def _refresh_until(self, time: int) -> None:
        period, banks = self._number(hw.REFRESH_PERIOD_TICKS), self._number(hw.DRAM_BANKS)
        while period and (self.refreshes + 1) * period <= time:
            due = (self.refreshes + 1) * period
            end = max(due, self.bus, self.commands, self.activations) + self._number(hw.REFRESH_BLOCK_TICKS)
            self.bus = self.commands = self.activations = end
            time = max(time, end)
            for group in range(self._number(hw.DRAM_GROUPS)):
                self.groups[group] = max(self.groups.get(group, 0), end)
            if self._number(hw.BANK_REFRESH_TICKS):
                bank = self.refreshes % banks
                self.open_rows.pop(bank, None)
                self.next_opening[bank] = max(self.next_opening.get(bank, 0), due) + self._number(hw.BANK_REFRESH_TICKS)
            else:
                self.open_rows.clear()
                self.next_opening = dict.fromkeys(range(banks), end)
            self.refreshes += 1

    def _turn(self, bursts: int, is_write: bool) -> None:
        self.writes += bursts if is_write else 0
        self.reads += 0 if is_write else bursts
        if self.writes >= self._number(hw.WRITE_BATCH) and self.reads:
            self.bus += self._number(hw.TURN_TICKS)
            self.reads = self.writes = 0

    def burst(self, bank: int, row: int, is_write: bool, start: int) -> int:
        """Serve one burst; return when it passes, without the activation of its row."""
        if len(self.queue) == self._number(hw.DRAM_QUEUE):
            soonest = min(self.queue)
            self.queue.remove(soonest)
            start = max(start, soonest)
        self._refresh_until(max(start, self.bus, self.commands, self.activations))
        burst, group_burst, activate = (
            self._number(index) for index in (hw.BURST_TICKS, hw.GROUP_BURST_TICKS, hw.ACTIVATE_TICKS)
        )
        commands = 1
        if self.open_rows.get(bank) != row:
            commands += self._number(hw.ROW_COMMANDS)
            possible = max(self.activations, start)
            self.activations = possible + self._number(hw.ACTIVATE_SPACING_TICKS)
            opened = max(possible, self.next_opening.get(bank, 0))
            self.open_rows[bank] = row
            self.next_access[bank] = opened + activate
            self.next_opening[bank] = opened + self._number(hw.ROW_CYCLE_TICKS)
        begin = max(self.next_access[bank], start)
        self.next_access[bank] = begin + group_burst
        self._turn(1, is_write)
        group = bank % self._number(hw.DRAM_GROUPS)
        self.bus = max(self.bus, start) + burst
        self.commands = max(self.commands, start) + commands * self._number(hw.COMMAND_TICKS)
        self.groups[group] = max(self.groups.get(group, 0), start) + group_burst
        shared = max(self.bus, self.commands, self.groups[group])
        done = max(shared, begin + burst)
        closing = self._number(hw.WRITE_CLOSE_TICKS if is_write else hw.READ_CLOSE_TICKS)
        self.next_opening[bank] = max(self.next_opening[bank], done + closing)
        self.queue.append(done + self._number(hw.READ_LATENCY_TICKS))
        return max(shared, done - activate)

    def stream(self, bursts: int, is_write: bool, start: int) -> int:
        """Serve bursts that keep the bus busy, one by one; return when the last passes."""
        self._refresh_until(max(self.bus, start))
        self._turn(bursts, is_write)
        for index in range(bursts):
            if index:
                self._refresh_until(self.bus)
            self.bus = max(self.bus, start) + self._number(hw.BURST_TICKS)
        self.queue.clear()
        return self.bus
