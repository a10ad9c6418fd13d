"""The program file: one versioned, checksummed, memory-mapped file; no pickle.

Layout (little-endian):

    0    preamble, 64 bytes: magic, version, header length and CRC-32, data length, CRC-32 of the preamble, zeros
    64   header: JSON with sorted keys; machine, kernels, storages, constants, entries, and the list of sections
    ...  data: sections (kernel code, inline constants), each at a multiple of 64 bytes, zeros between them

Offsets of sections count from the start of the data, which begins at the first multiple of 64 after the header. The
same program always gives the same bytes. A file appears complete or not at all.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from isa.codec import INTEGER, Codec, many, record
from isa.errors import ProgramError
from isa.program import Program
from isa.program_checks import verify_program
from isa.program_codec import Bytes, Sections, program_codec
from isa.whole_file import replacing

MAGIC = b"\x89TWP\r\n\x1a\n"
VERSION = 6
ALIGNMENT_BYTES = 64

_PREAMBLE = struct.Struct("<8sIQIQ")  # magic, version, header bytes, header CRC, data bytes
_CHECKSUM = struct.Struct("<I")
_SECTIONS: Codec[tuple[dict[str, int], ...]] = many(record(dict, offset=INTEGER, length=INTEGER, crc32=INTEGER))


def save_program(program: Program, path: str | Path) -> None:
    """Write a program file; paths of referenced data are stored relative to it. Raises ProgramError if it cannot."""
    sections = Sections()
    folder = os.path.realpath(Path(path).parent)
    header: dict[str, Any] = program_codec(sections, folder).write(program)
    rows, data_bytes = [], 0
    for part in sections.parts:
        offset = _aligned(data_bytes)
        data_bytes = offset + len(part)
        rows.append({"offset": offset, "length": len(part), "crc32": zlib.crc32(part.data)})
    header["sections"] = rows
    text = json.dumps(header, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    try:
        with replacing(path) as file:
            file.write(_preamble(text, data_bytes))
            file.write(text)
            _fill_up(file)
            for part in sections.parts:
                file.write(part.data)
                _fill_up(file)
            file.truncate(_data_start(len(text)) + data_bytes)
    except OSError as error:
        raise ProgramError(f"cannot write the program: {error.strerror}", where=str(path)) from error


def _aligned(offset: int) -> int:
    return -(-offset // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def _data_start(header_bytes: int) -> int:
    return ALIGNMENT_BYTES + _aligned(header_bytes)


def _preamble(header: bytes, data_bytes: int) -> bytes:
    fields = _PREAMBLE.pack(MAGIC, VERSION, len(header), zlib.crc32(header), data_bytes)
    return (fields + _CHECKSUM.pack(zlib.crc32(fields))).ljust(ALIGNMENT_BYTES, b"\0")


def _fill_up(file: BinaryIO) -> None:
    position = file.tell()
    file.write(bytes(_aligned(position) - position))


def load_program(path: str | Path, *, check_constants: bool = True) -> Program:
    """Read a program file; code and inline constants are views of the mapped file.

    Every field and checksum is verified, ProgramError says what is wrong. `check_constants=False` leaves out the
    checksums of the sections, for timing a program of many gigabytes.
    """
    where = str(path)
    try:
        return _load(Path(path), where, check_constants)
    except ProgramError as error:
        place = error.where if error.where.startswith(where) else f"{where}: {error.where}" if error.where else where
        raise ProgramError(error.what, where=place, help=error.help) from error


def _load(path: Path, where: str, check_constants: bool) -> Program:
    data = _map(path)
    header_bytes, header_crc, data_bytes = _read_preamble(data)
    start = _data_start(header_bytes)
    if len(data) != start + data_bytes:
        state = "truncated" if len(data) < start + data_bytes else "followed by other bytes"
        raise ProgramError(f"the file is {state}: {len(data)} bytes instead of {start + data_bytes}")
    text = data[ALIGNMENT_BYTES : ALIGNMENT_BYTES + header_bytes]
    if zlib.crc32(text.data) != header_crc:
        raise ProgramError("the header is damaged: its checksum does not match")
    header = _parse(text.tobytes())
    _require_zeros(data[ALIGNMENT_BYTES + header_bytes : start], "after the header")
    sections = Sections(_sections_of(header.pop("sections", None), data[start:], check_constants))
    folder = os.path.realpath(path.parent)
    program = program_codec(sections, folder).read(header, "header")
    sections.finish()
    verify_program(program, where)
    return program


def _map(path: Path) -> Bytes:
    try:
        if path.stat().st_size < ALIGNMENT_BYTES:
            raise ProgramError("this is no program file: it is too short")
        return np.asarray(np.memmap(path, dtype=np.uint8, mode="r"))
    except FileNotFoundError as error:
        raise ProgramError("no such file", help="compile-model writes program files") from error
    except OSError as error:
        raise ProgramError(f"cannot read the program: {error.strerror}") from error


def _read_preamble(data: Bytes) -> tuple[int, int, int]:
    """Return (header bytes, header CRC, data bytes)."""
    fields = data[:ALIGNMENT_BYTES].tobytes()
    magic, version, header_bytes, header_crc, data_bytes = _PREAMBLE.unpack_from(fields)
    if magic != MAGIC:
        raise ProgramError("this is no program file: it begins with other bytes", help="compile-model writes them")
    if version != VERSION:
        help = "compile the model again, or use the version of the tools that wrote it"
        raise ProgramError(f"the file has format version {version}, these tools read {VERSION}", help=help)
    (checksum,) = _CHECKSUM.unpack_from(fields, _PREAMBLE.size)
    if checksum != zlib.crc32(fields[: _PREAMBLE.size]) or any(fields[_PREAMBLE.size + _CHECKSUM.size :]):
        raise ProgramError("the preamble is damaged: its checksum does not match")
    return header_bytes, header_crc, data_bytes


def _parse(text: bytes) -> dict[str, Any]:
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ProgramError(f"the header is not JSON: {error}") from error
    if type(header) is not dict:
        raise ProgramError("the header is not a table")
    return header


def _sections_of(rows: Any, data: Bytes, check_contents: bool) -> list[Bytes]:
    """Return the sections as views of the data; they must follow each other without overlap, with zeros between."""
    parts, end = [], 0
    for index, row in enumerate(_SECTIONS.read(rows, "header.sections")):
        name, offset, length = f"section {index}", row["offset"], row["length"]
        if offset != _aligned(end) or length < 0 or offset + length > len(data):
            raise ProgramError(f"{name} at {offset}, {length} bytes, overlaps another or lies outside the file")
        _require_zeros(data[end:offset], f"before {name}")
        parts.append(data[offset : offset + length])
        end = offset + length
        if check_contents and zlib.crc32(parts[-1].data) != row["crc32"]:
            raise ProgramError(f"{name} is damaged: its checksum does not match")
    if end != len(data):
        raise ProgramError(f"{len(data) - end} bytes after the last section")
    return parts


def _require_zeros(gap: Bytes, place: str) -> None:
    if gap.any():
        raise ProgramError(f"the file is damaged: bytes {place} are not zero")
