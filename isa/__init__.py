"""The contract between compiler and simulator: dtypes, machine, instructions, encoding, assembly, program file.

Public names are loaded on first use, so `import isa` stays cheap.
"""

from __future__ import annotations

import importlib

_MODULE_OF = {
    **dict.fromkeys(("Affine", "Dim"), "affine"),
    **dict.fromkeys(("parse_assembly", "print_kernel"), "assembly"),
    **dict.fromkeys(("load_program", "save_program"), "container"),
    **dict.fromkeys(("Dtype",), "dtypes"),
    **dict.fromkeys(("decode", "encode"), "encoding"),
    **dict.fromkeys(
        ("AssemblyError", "MachineError", "ModelError", "ProgramError", "SimulationError", "ToolError",
         "UnsupportedError"), "errors"),
    **dict.fromkeys(("Buffer", "Kernel", "buffer_bases", "local_bytes"), "kernel"),
    **dict.fromkeys(("PRESETS", "Machine", "load_machine", "preset"), "machine"),
    **dict.fromkeys(("DRAM_BASE", "SRAM_BASE"), "memory_map"),
    **dict.fromkeys(("device_bytes",), "packing"),
    **dict.fromkeys(
        ("Absent", "Argument", "Constant", "Entry", "Inline", "Joined", "Launch", "PackStep", "Port", "Program",
         "Reference", "Storage"), "program"),
    **dict.fromkeys(("verify_program",), "program_checks"),
    **dict.fromkeys(("compress",), "sparsity"),
}  # fmt: skip

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'isa' has no attribute '{name}'")
    return getattr(importlib.import_module(f"isa.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
