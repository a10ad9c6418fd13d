"""The program file: same program, same bytes; a damaged or foreign file is refused with the file and the reason."""

from __future__ import annotations

import errno
import json
import mmap
import os
import shutil
import struct
import zlib

import numpy as np
import pytest

from isa.container import ALIGNMENT_BYTES, MAGIC, VERSION, load_program, save_program
from isa.errors import ProgramError
from isa.packing import device_bytes
from isa.program import Reference
from tests.isa.sample_programs import WEIGHTS, sample_program

PREAMBLE = struct.Struct("<8sIQIQ")


@pytest.fixture
def file(tmp_path):
    """A saved program; the data it refers to lies beside it."""
    data = np.arange(64, dtype=np.uint8)
    data.tofile(tmp_path / "model.data")
    path = tmp_path / "model.program"
    save_program(sample_program(str(tmp_path / "model.data")), path)
    return path


def _with_header(path, change, version=VERSION):
    """Rewrite a program file with a changed header and right checksums."""
    content = path.read_bytes()
    _, _, length, _, data_bytes = PREAMBLE.unpack_from(content)
    header = json.loads(content[ALIGNMENT_BYTES : ALIGNMENT_BYTES + length])
    data = content[len(content) - data_bytes :]
    change(header)
    text = json.dumps(header, sort_keys=True).encode()
    fields = PREAMBLE.pack(MAGIC, version, len(text), zlib.crc32(text), data_bytes)
    start = (fields + struct.pack("<I", zlib.crc32(fields))).ljust(ALIGNMENT_BYTES, b"\0")
    path.write_bytes(start + text.ljust(-(-len(text) // ALIGNMENT_BYTES) * ALIGNMENT_BYTES, b"\0") + data)


def _refused(path):
    with pytest.raises(ProgramError) as caught:
        load_program(path)
    assert str(caught.value).startswith(str(path))
    return str(caught.value).removeprefix(str(path))


def test_a_program_comes_back(file):
    program = sample_program(str(file.parent / "model.data"))
    loaded = load_program(file)
    assert loaded == program
    assert loaded.machine.code_digest == program.machine.code_digest


def test_the_same_program_gives_the_same_bytes(file, tmp_path):
    again = tmp_path / "again.program"
    save_program(load_program(file), again)
    assert again.read_bytes() == file.read_bytes()


def test_code_and_constants_are_views_of_the_mapped_file(file):
    program = load_program(file)
    for array in (program.kernels[0].core_a, program.constants[0].source.array):
        root = array
        while isinstance(root, np.ndarray):
            root = root.base
        assert isinstance(root, mmap.mmap)
        assert not array.flags.writeable


def test_constants_are_made_from_the_file(file):
    program = load_program(file)
    inline, reference, absent, *_ = program.constants
    assert device_bytes(reference, program).tolist() == list(range(16, 48))
    assert device_bytes(inline, program).tolist() == device_bytes(sample_program().constants[0], program).tolist()
    assert program.constants[0].source.array.tobytes() == WEIGHTS.tobytes()
    with pytest.raises(ProgramError, match="constant 'later': the program has no data for it"):
        device_bytes(absent, program)


def test_a_program_and_its_data_can_be_moved_together(file, tmp_path):
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    shutil.move(file, moved)
    shutil.move(file.parent / "model.data", moved)
    program = load_program(moved / file.name)
    assert program.constants[1].source.path == str(moved / "model.data")
    assert device_bytes(program.constants[1], program).tolist() == list(range(16, 48))


def test_missing_data_is_told_when_it_is_needed(file):
    (file.parent / "model.data").unlink()
    program = load_program(file)
    with pytest.raises(ProgramError, match=r"constant 'table': cannot read .*model\.data: No such file"):
        device_bytes(program.constants[1], program)


def test_short_data_is_told_when_it_is_needed(file):
    os.truncate(file.parent / "model.data", 40)
    program = load_program(file)
    with pytest.raises(ProgramError, match=r"model\.data has 40 bytes, the program needs 48"):
        device_bytes(program.constants[1], program)


def test_every_truncated_file_is_refused(file):
    content = file.read_bytes()
    boundaries = [offset + delta for offset in range(0, len(content), ALIGNMENT_BYTES) for delta in (-1, 0, 1)]
    for length in sorted({*boundaries, len(content) - 1} & set(range(len(content)))):
        file.write_bytes(content[:length])
        assert "too short" in (message := _refused(file)) or "truncated" in message
    file.write_bytes(content + b"\0")
    assert "followed by other bytes" in _refused(file)


def test_every_damaged_byte_is_found(file):
    content = bytearray(file.read_bytes())
    for index in range(len(content)):
        content[index] ^= 1 << index % 8
        with open(file, "r+b") as handle:
            handle.write(content)
        _refused(file)
        content[index] ^= 1 << index % 8


def test_checksums_of_data_can_be_left_out(file):
    content = bytearray(file.read_bytes())
    place = content.index(WEIGHTS.tobytes())
    content[place] ^= 1
    file.write_bytes(content)
    assert ": section 4 is damaged" in _refused(file)
    assert load_program(file, check_constants=False).constants[0].source.array[0] == 1


def test_other_files_are_refused(tmp_path):
    assert ": no such file" in _refused(tmp_path / "nothing")
    assert ": cannot read the program" in _refused(tmp_path) or "too short" in _refused(tmp_path)
    (tmp_path / "text").write_text("x" * 1000)
    assert ": this is no program file: it begins with other bytes" in _refused(tmp_path / "text")


def test_another_version_is_refused(file):
    _with_header(file, lambda header: None, version=VERSION + 1)
    assert _refused(file).startswith(
        f": the file has format version {VERSION + 1}, these tools read {VERSION}\n  help: "
    )


def _set(*path_and_value):
    *path, last, value = path_and_value

    def change(header):
        for key in path:
            header = header[key]
        header[last] = value

    return change


def _drop(key):
    return lambda header: header.pop(key)


LAUNCH = ("entries", 0, "launches", 1)
PART = (*LAUNCH, "parts", 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_drop("kernels"), "header: must be a table of machine, kernels, storages"),
        (_set("extra", 1), "header: must be a table of machine, kernels, storages"),
        (_drop("sections"), "header.sections: must be a list, not None"),
        (_set(*LAUNCH, "kernel", "x"), "header.entries[0].launches[1].kernel: must be an integer, not 'x'"),
        (_set(*LAUNCH, "row", True), "header.entries[0].launches[1].row: must be an integer, not True"),
        (_set(*PART, "useful_macs", "past + past"), "parts[0].useful_macs: must be an expression of symbols"),
        (_set(*PART, "useful_macs", "past *"), "useful_macs: must be an expression, not 'past *'"),
        (_set(*LAUNCH, "kernel", 2), "launch 1 'second': kernel 2 of 2"),
        (_set(*LAUNCH, "kernel", 1), "launch 1 'second': 1 parts, the kernel has 2"),
        (_set(*LAUNCH, "parts", []), "launch 1 'second': 0 parts, the kernel has 1"),
        (_set("kernels", 1, "parts", 1, "core_b", "x"), "kernels[1].parts[1].core_b: must be an integer, not 'x'"),
        (
            _set("kernels", 1, "parts", 1, "core_a", 99),
            "part 'second' begins at instruction 99 of core A, not in 0..12",
        ),
        (_set(*LAUNCH, "waits", [5]), "launch 1 'second' waits for event 5, which nothing signals"),
        (_set("entries", 0, "symbols", "past", [0]), "symbols.past: must be a range [low, high], not [0]"),
        (_set("storages", 0, "space", "hbm"), "header.storages[0].space: must be one of sram, dram, not 'hbm'"),
        (_set("storages", 0, "address", 0), "storage 'x': addresses 0x0..0x1000 are outside the sram"),
        (_set("constants", 0, "source", "kind", "web"), "source: must be a table whose kind is one of inline"),
        (_set("constants", 0, "steps", 2, "indices", "step", 0), "indices.step: must be a step other than 0, not 0"),
        (_set("constants", 0, "source_dtype", "float31"), "constant 'weights': unknown source type 'float31'"),
        (_set("kernels", 0, "core_a", 13), "header.kernels[0].core_a: section 13 does not exist or is used twice"),
        (_set("kernels", 0, "core_a", 1), "header.kernels[0].core_b: section 1 does not exist or is used twice"),
        (_set("constants", []), "nothing uses section 4"),
        (_set("sections", 1, "offset", 64), "section 1 at 64, 16 bytes, overlaps another or lies outside the file"),
        (
            _set("sections", 2, "length", 1 << 40),
            "section 2 at 320, 1099511627776 bytes, overlaps another or lies outside",
        ),
        (_set("sections", 2, "length", 16), "section 2 is damaged"),
        (
            _set("machine", "code_digest", ""),
            "header.machine.code_digest: does not belong to the fields of this machine",
        ),
        (_set("machine", "fields", "grid", "rows", 0), "grid.rows: "),
    ],
)
def test_a_wrong_header_is_refused(file, change, message):
    _with_header(file, change)
    assert message in _refused(file)


def test_an_empty_program_is_a_file_too(file):
    program = sample_program(kernels=(), storages=(), constants=(), entries=())
    save_program(program, file)
    assert load_program(file) == program


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_save_leaves_the_old_file(file, monkeypatch, failure):
    before = {path.name: path.read_bytes() for path in file.parent.iterdir()}

    def fail(*_):
        raise failure

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises((ProgramError, KeyboardInterrupt)) as caught:
        save_program(sample_program(capacity_ignored=True), file)
    if isinstance(failure, OSError):
        assert str(caught.value) == f"{file}: cannot write the program: No space left on device"
    assert {path.name: path.read_bytes() for path in file.parent.iterdir()} == before


def test_a_program_cannot_be_saved_into_a_missing_folder(tmp_path):
    with pytest.raises(ProgramError, match="cannot write the program: No such file or directory"):
        save_program(sample_program(), tmp_path / "missing" / "model.program")


def test_paths_are_kept_relative_to_the_program(file, tmp_path):
    loaded = load_program(file)
    assert loaded.constants[1].source == Reference(str(tmp_path / "model.data"), 16, 32)
    assert b'"path":"model.data"' in file.read_bytes()
