"""The one way to compile a kernel: numba with strict IEEE arithmetic and an on-disk cache that cannot be stale.

numba's own cache misses edits in other files than the cached function's, and stops the program when a file is damaged.
Here the cache folder's name is a digest of everything that shapes machine code: all sources of `isa` and `simulator`,
versions, CPU, settings. Files carry checksums; one that cannot be read is deleted, and compiled once more.

The cache holds pickles, so its folder must belong to this user alone; otherwise there is no cache, only compilation.
"""

from __future__ import annotations

import functools
import hashlib
import os
import pickle
import shutil
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import llvmlite
import llvmlite.binding
import numba as numba_module
import numpy as np
from numba.core import caching as caching_module
from numba.core import codegen as codegen_module
from numba.core import compiler as compiler_module

from isa.cache_folder import cache_root, sources_digest

Function = TypeVar("Function", bound=Callable[..., Any])

numba: Any = numba_module
caching: Any = caching_module
codegen: Any = codegen_module
compiler: Any = compiler_module
"""Their annotations cover less than is used here."""
PACKAGES = ("isa", "simulator")
KEPT_DIGESTS = 4
"""Folders of this many versions of the sources are kept, the most recently used ones."""
BOUNDSCHECK = os.environ.get("TILEWRIGHT_BOUNDSCHECK", "") == "1"
_OPTIONS = {"error_model": "numpy", "fastmath": False, "parallel": False, "boundscheck": BOUNDSCHECK, "_nrt": False}
"""`_nrt=False`: no reference counts, because kernels allocate nothing; one that tries does not compile."""
_NO_WAY_IN = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
_ROOT = Path(__file__).resolve().parent.parent
_CHECKSUM_BYTES = 32
_PREFIX = "kernels-"


def kernel(function: Function) -> Function:
    """Compile a function with numba at its first call: no fast-math, no threads, IEEE division, cached on disk."""
    dispatcher: Any = numba.njit(**_OPTIONS)(function)
    if cache_directory() is not None and not numba.config.DISABLE_JIT:
        dispatcher._cache = _KernelCache(function)
    return cast(Function, dispatcher)


class _LinkedLibrary(codegen.JITCodeLibrary):  # type: ignore[misc]
    """Code for the linker alone: whoever calls it optimizes and translates it together with its own.

    That leaves out what takes numba longest: to do so for every function and all that it calls.
    """

    @property
    def codegen(self) -> _LinkedLibrary:
        """What environments are set in: this library, which is not in memory."""
        return self

    def set_env(self, name: str, environment: object) -> None:
        """Do nothing: only Python objects need an environment, and kernels have none."""

    def finalize(self) -> None:
        """Link what the code calls."""
        self._raise_if_finalized()
        for library in dict.fromkeys(self._linking_libraries):
            self._reload_init.update(library._reload_init)
            self._final_module.link_in(library._get_module_for_linking(), preserve=True)
        self._final_module.verify()
        self._finalize_dynamic_globals()
        self._finalized = True

    def get_pointer_to_function(self, name: str) -> int:
        """Return 0: there is no machine code to point to."""
        self._ensure_finalized()
        return 0


class _LinkedCompiler(compiler.Compiler):  # type: ignore[misc]
    """numba's compiler, for a kernel that only kernels call."""

    def _compile_bytecode(self) -> Any:
        state = self.state
        state.library = _LinkedLibrary(state.targetctx.codegen(), state.func_id.func_qualname)
        return super()._compile_bytecode()


def inner_kernel(function: Function) -> Function:
    """Compile a kernel that only kernels call, without a way in from Python.

    It is not cached: its code is part of the kernels that call it.
    """
    return cast(Function, numba.njit(**_OPTIONS, **_NO_WAY_IN, pipeline_class=_LinkedCompiler)(function))


def inlined_kernel(function: Function) -> Function:
    """Compile an inner kernel into its callers: for the hot path, where passing the arrays costs more than the work."""
    options = {**_OPTIONS, **_NO_WAY_IN, "forceinline": True, "pipeline_class": _LinkedCompiler}
    return cast(Function, numba.njit(**options)(function))


def build_settings() -> tuple[str, ...]:
    """Return what else shapes machine code: versions, CPU, bounds checks, numba's environment."""
    versions = (numba.__version__, llvmlite.__version__, np.__version__, sys.version)
    cpu = (llvmlite.binding.get_host_cpu_name(), str(llvmlite.binding.get_host_cpu_features().flatten()))
    environment = tuple(f"{name}={value}" for name, value in sorted(os.environ.items()) if name.startswith("NUMBA_"))
    return (*versions, *cpu, f"boundscheck={BOUNDSCHECK}", *environment)


@functools.cache
def cache_directory() -> Path | None:
    """Return the folder of the present sources, made if needed, or None where nothing can be kept safely."""
    try:
        root = cache_root()
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _is_private(root):
            _warn(f"{root} can be written by others, kernels are compiled anew")
            return None
        directory = root / (_PREFIX + sources_digest(_ROOT, PACKAGES, build_settings())[:32])
        directory.mkdir(mode=0o700, exist_ok=True)
        os.utime(directory)
    except (OSError, RuntimeError):  # RuntimeError: a user without home
        return None
    if not os.access(directory, os.W_OK):
        return None
    prune(root, KEPT_DIGESTS)
    return directory


def prune(root: Path, kept: int) -> None:
    """Delete the folders of all but the `kept` most recently used digests."""
    ages = []
    for path in root.glob(_PREFIX + "*"):
        try:
            ages.append((path.stat().st_mtime_ns, path.name))
        except OSError:  # another process prunes too
            continue
    for _, name in sorted(ages, reverse=True)[kept:]:
        shutil.rmtree(root / name, ignore_errors=True)


def _is_private(path: Path) -> bool:
    status = path.stat()
    is_own = not hasattr(os, "getuid") or status.st_uid == os.getuid()
    return is_own and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _warn(sentence: str) -> None:
    print(f"warning: kernel cache: {sentence}", file=sys.stderr)


class _Locator(caching.UserProvidedCacheLocator):  # type: ignore[misc]
    """Puts the files of a module into a folder of the digest's folder; equal checkouts share it."""

    def __init__(self, py_func: Callable[..., Any], py_file: str) -> None:
        self._py_file = py_file
        self._lineno = py_func.__code__.co_firstlineno
        path = Path(py_file).resolve()
        inside = path.relative_to(_ROOT) if path.is_relative_to(_ROOT) else path
        folder = hashlib.sha256(inside.parent.as_posix().encode()).hexdigest()[:16]
        self._cache_path = str(Path(str(cache_directory())) / folder)

    @classmethod
    def from_function(cls, py_func: Callable[..., Any], py_file: str) -> _Locator:
        return cls(py_func, py_file)


class _CheckedFiles(caching.IndexDataCacheFile):  # type: ignore[misc]
    """numba's index and data files, each with a sha256 in front."""

    def _write(self, path: str, content: object) -> None:
        Path(path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        payload = self._dump(content)
        with self._open_for_write(path) as file:
            file.write(hashlib.sha256(payload).digest() + payload)

    def _read(self, path: str) -> Any:
        data = Path(path).read_bytes()
        payload = data[_CHECKSUM_BYTES:]
        if hashlib.sha256(payload).digest() != data[:_CHECKSUM_BYTES]:
            raise pickle.UnpicklingError(f"{path} is damaged")
        return pickle.loads(payload)  # noqa: S301 - the folder is private, see the module's text

    def _save_index(self, overloads: dict[Any, str]) -> None:
        self._write(self._index_path, (self._source_stamp, overloads))

    def _load_index(self) -> dict[Any, str]:
        try:
            stamp, overloads = self._read(self._index_path)
        except FileNotFoundError:
            return {}
        return overloads if stamp == self._source_stamp else {}

    def _save_data(self, name: str, data: object) -> None:
        self._write(self._data_path(name), data)

    def _load_data(self, name: str) -> Any:
        return self._read(self._data_path(name))


class _Implementation(caching.CompileResultCacheImpl):  # type: ignore[misc]
    _locator_classes = (_Locator,)


class _KernelCache(caching.FunctionCache):  # type: ignore[misc]
    """A cache that at worst costs a compilation, never the run."""

    _impl_class = _Implementation

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        stamp = self._impl.locator.get_source_stamp()
        self._cache_file: Any = _CheckedFiles(self._cache_path, self._impl.filename_base, stamp)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return the compiled code for a signature, or None to compile: also after a damaged file, which is deleted."""
        try:
            return super().load_overload(sig, target_context)
        except Exception as error:  # whatever unpickling or LLVM raise on damaged bytes
            _warn(f"cannot read {self._cache_path} ({type(error).__name__}), compiling again")
            shutil.rmtree(self._cache_path, ignore_errors=True)
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep compiled code; a full or vanished disk only means that the next start compiles."""
        try:
            super().save_overload(sig, data)
        except (OSError, EOFError, pickle.UnpicklingError) as error:
            _warn(f"cannot write {self._cache_path} ({type(error).__name__})")
            self.disable()
