"""The store of sweeps: one SQLite file, one writer, any number of readers while it writes.

A result is acknowledged when its transaction is committed (write-ahead log, synchronous=FULL), and is never computed
again, in any sweep of the store. A process that dies leaves nothing to repair: the lock of the writer is one of the
kernel's, and SQLite rolls an unfinished transaction back. The file must lie on a local disk, not on NFS.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from isa.errors import ToolError
from sweeps.evaluate import RunResult
from sweeps.points import PointRow

SCHEMA_VERSION = 1
_APPLICATION_ID = 0x54573031
_WAIT_SECONDS = 10.0
_MOMENT_SECONDS, _LOCK_TRIES = 0.05, 10
_SCHEMA = """
CREATE TABLE machines (digest TEXT PRIMARY KEY, json TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE runs (
    key TEXT PRIMARY KEY, machine TEXT NOT NULL REFERENCES machines, workload TEXT NOT NULL, version TEXT NOT NULL,
    status TEXT NOT NULL, reason TEXT NOT NULL, detail TEXT NOT NULL, measures TEXT NOT NULL, "limit" TEXT NOT NULL,
    seconds REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE sweeps (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL, digest TEXT NOT NULL, version TEXT NOT NULL, definition TEXT NOT NULL,
    total INTEGER, UNIQUE (digest, version)
);
CREATE TABLE points (
    sweep INTEGER NOT NULL REFERENCES sweeps, number INTEGER NOT NULL, choice TEXT NOT NULL, status TEXT NOT NULL,
    reason TEXT NOT NULL, violation REAL NOT NULL, "values" TEXT NOT NULL, figures TEXT NOT NULL, "limit" TEXT NOT NULL,
    machine TEXT NOT NULL, PRIMARY KEY (sweep, number)
) WITHOUT ROWID;
CREATE INDEX points_by_status ON points (sweep, status, number);
"""


class StoreError(ToolError):
    """A store that cannot be opened, is of another version, or is being written by another run."""


@dataclass(frozen=True, slots=True)
class StoredRun:
    """A run to be kept: what it was of, and what came of it."""

    machine: str
    workload: str
    version: str
    result: RunResult


@dataclass(frozen=True, slots=True)
class StoredPoint:
    """A point with what the sampler needs of it: its choice, and by how much it fails the constraints."""

    row: PointRow
    choice: tuple[int, ...]
    violation: float


@dataclass(frozen=True, slots=True)
class StoredSweep:
    """A sweep of the store; `total` is how many points it will have, None if that is not known."""

    id: int
    name: str
    digest: str
    version: str
    definition: Mapping[str, Any]
    total: int | None


class Store:
    """An open store. `Store.to_write` is exclusive, `Store.to_read` is not; both are contexts."""

    def __init__(self, path: Path, connection: sqlite3.Connection, lock: int | None) -> None:
        self._path, self._connection, self._lock = path, connection, lock

    @classmethod
    def to_write(cls, path: str | Path) -> Store:
        """Open or create a store; StoreError if another process writes it, or it is none of ours."""
        target = Path(path)
        if target.is_dir():
            raise StoreError("is a folder", where=str(path), help="give the name of a file with --store")
        lock = _locked(target, tries=_LOCK_TRIES)
        try:
            connection = _connected(target, create=True)
            try:
                _prepare(connection, target)
            except BaseException:
                connection.close()
                raise
        except BaseException:
            os.close(lock)
            raise
        return cls(target, connection, lock)

    @classmethod
    def to_read(cls, path: str | Path) -> Store:
        """Open a store that exists; StoreError if there is none, or it is none of ours."""
        target = Path(path)
        if not target.is_file():
            raise StoreError("no such store", where=str(path), help="`sweep-machines run FILE` makes one")
        connection = _connected(target, create=False)
        try:
            _check_version(connection, target)
        except BaseException:
            connection.close()
            raise
        return cls(target, connection, None)

    def close(self) -> None:
        """Close the file; a writer lets go of the lock."""
        self._connection.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def sweep(
        self, name: str, digest: str, version: str, definition: Mapping[str, Any], total: int | None
    ) -> StoredSweep:
        """Return the sweep with this definition and tool version, stored now if it was not."""
        with self._transaction() as cursor:
            cursor.execute(
                "INSERT OR IGNORE INTO sweeps (name, digest, version, definition, total) VALUES (?, ?, ?, ?, ?)",
                (name, digest, version, json.dumps(definition), total),
            )
        return next(one for one in self.sweeps() if (one.digest, one.version) == (digest, version))

    def sweeps(self) -> tuple[StoredSweep, ...]:
        """Return all sweeps in the order in which they began."""
        rows = self._read("SELECT id, name, digest, version, definition, total FROM sweeps ORDER BY id")
        return tuple(
            StoredSweep(id, name, digest, version, self._parsed(text), total)
            for id, name, digest, version, text, total in rows
        )

    def known_runs(self, keys: Sequence[str]) -> dict[str, RunResult]:
        """Return the results that are stored, by key."""
        found: dict[str, RunResult] = {}
        query = 'SELECT key, status, reason, detail, measures, "limit", seconds FROM runs WHERE key = ?'
        for key in keys:
            for row in self._read(query, (key,)):
                found[key] = RunResult(row[0], row[1], row[2], row[3], self._parsed(row[4]), row[5], row[6])
        return found

    def record(
        self,
        sweep: StoredSweep,
        machines: Mapping[str, Mapping[str, Any]],
        runs: Sequence[StoredRun],
        points: Sequence[StoredPoint],
    ) -> None:
        """Keep new runs and points with their machines: all or nothing, and for good when this returns.

        A key that is there already is a bug: `sqlite3.IntegrityError`.
        """
        with self._transaction() as cursor:
            cursor.executemany(
                "INSERT OR IGNORE INTO machines VALUES (?, ?)",
                [(digest, json.dumps(values)) for digest, values in machines.items()],
            )
            cursor.executemany("INSERT INTO runs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", map(_run_row, runs))
            cursor.executemany(
                "INSERT INTO points VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [_point_row(sweep.id, point) for point in points],
            )

    def points(self, sweep: StoredSweep) -> Iterator[StoredPoint]:
        """Yield the points of a sweep by number, the base machine first."""
        query = """SELECT number, choice, status, reason, violation, "values", figures, "limit", machine
                   FROM points WHERE sweep = ? ORDER BY number"""
        for number, choice, status, reason, violation, *texts, limit, machine in self._read(query, (sweep.id,)):
            choices, values, figures = self._parsed(f"[{','.join((choice, *texts))}]")
            yield StoredPoint(
                PointRow(number, status, reason, values, figures, limit, machine), tuple(choices), violation
            )

    def counts(self, sweep: StoredSweep) -> Counter[str]:
        """Return how many points there are by status, without the base machine."""
        query = "SELECT status, COUNT(*) FROM points WHERE sweep = ? AND number >= 0 GROUP BY status"
        return Counter(dict(self._read(query, (sweep.id,))))

    def run_counts(self) -> Counter[str]:
        """Return how many runs of all sweeps there are by status."""
        return Counter(dict(self._read("SELECT status, COUNT(*) FROM runs GROUP BY status")))

    def failures(self, most: int) -> list[tuple[str, str]]:
        """Return (reason, traceback) of the first failed runs."""
        query = "SELECT reason, detail FROM runs WHERE status = 'failed' ORDER BY key LIMIT ?"
        return [(reason, detail) for reason, detail in self._read(query, (most,))]

    def machine(self, digest: str) -> dict[str, Any] | None:
        """Return the values of a machine by its digest."""
        for (text,) in self._read("SELECT json FROM machines WHERE digest = ?", (digest,)):
            values: dict[str, Any] = self._parsed(text)
            return values
        return None

    def forget_failed(self) -> int:
        """Drop runs and points that failed, so that they are tried again; return how many runs."""
        with self._transaction() as cursor:
            cursor.execute("DELETE FROM points WHERE status = 'failed'")
            cursor.execute("DELETE FROM runs WHERE status = 'failed'")
            return cursor.rowcount

    def is_being_written(self) -> bool:
        """Tell whether a process writes this store now."""
        try:
            descriptor = os.open(_lock_of(self._path), os.O_RDONLY | os.O_CLOEXEC)
        except OSError:  # nobody wrote it since it was put here
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
        finally:
            os.close(descriptor)
        return False

    def _parsed(self, text: str) -> Any:
        try:
            return json.loads(text)
        except ValueError as error:
            raise StoreError(f"cannot be read: it is damaged: {error}", where=str(self._path)) from error

    def _read(self, query: str, values: Sequence[Any] = ()) -> Iterator[Any]:
        try:
            yield from self._connection.execute(query, values)
        except sqlite3.DatabaseError as error:
            raise StoreError(f"cannot be read: {error}", where=str(self._path)) from error

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Cursor]:
        cursor = self._connection.cursor()
        try:
            cursor.execute("BEGIN IMMEDIATE")
            yield cursor
            cursor.execute("COMMIT")
        except sqlite3.IntegrityError:
            cursor.execute("ROLLBACK")
            raise
        except sqlite3.DatabaseError as error:
            if self._connection.in_transaction:
                cursor.execute("ROLLBACK")
            raise StoreError(f"cannot be written: {error}", where=str(self._path)) from error


def _run_row(run: StoredRun) -> tuple[Any, ...]:
    result = run.result
    return (result.key, run.machine, run.workload, run.version, result.status, result.reason, result.detail,
            json.dumps(dict(result.measures)), result.limit, result.seconds)  # fmt: skip


def _point_row(sweep: int, point: StoredPoint) -> tuple[Any, ...]:
    row = point.row
    return (sweep, row.number, json.dumps(point.choice), row.status, row.reason, point.violation,
            json.dumps(dict(row.values)), json.dumps(dict(row.figures)), row.limit, row.key_machine)  # fmt: skip


def _lock_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.lock")


def _locked(path: Path, tries: int) -> int:
    """Return a descriptor that holds the writer's lock; the kernel frees it when the process ends, however it ends.

    A reader takes it for a moment to tell whether there is a writer, so that one try is not enough for a writer.
    """
    try:
        descriptor = os.open(_lock_of(path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise StoreError(f"cannot be written: {error.strerror}", where=str(path)) from error
    for _ in range(tries):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            time.sleep(_MOMENT_SECONDS)
        else:
            return descriptor
    os.close(descriptor)
    help = "wait for it, end it, or give another store with --store"
    raise StoreError("another run is writing this store", where=str(path), help=help)


def _connected(path: Path, create: bool) -> sqlite3.Connection:
    """Connect; a reader may write too, since it shares the log's index, but it never does.

    Where it cannot, as on a disk that is mounted read-only, a store whose log is merged is read as it is.
    """
    if create:
        return _opened(path, "mode=rwc")
    try:
        return _opened(path, "mode=rw")
    except StoreError as error:
        log = path.with_name(f"{path.name}-wal")
        if not isinstance(error.__cause__, sqlite3.OperationalError) or (log.exists() and log.stat().st_size):
            raise
        return _opened(path, "mode=ro&immutable=1")


def _opened(path: Path, mode: str) -> sqlite3.Connection:
    address = f"{path.resolve().as_uri()}?{mode}"
    try:
        connection = sqlite3.connect(address, uri=True, timeout=_WAIT_SECONDS, isolation_level=None)
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
    except sqlite3.DatabaseError as error:
        help = "it must be a store of sweeps; one that a writer left needs a folder that can be written once more"
        raise StoreError(f"cannot be opened: {error}", where=str(path), help=help) from error
    return connection


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Make the tables of a new store, at once; check those of an old one."""
    try:
        is_new = not connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0]
        if not is_new:
            _check_version(connection, path)
            return
        connection.execute("PRAGMA journal_mode = WAL")
        identity = f"PRAGMA application_id = {_APPLICATION_ID}; PRAGMA user_version = {SCHEMA_VERSION};"
        connection.executescript(f"BEGIN; {identity} {_SCHEMA} COMMIT;")
    except sqlite3.DatabaseError as error:
        help = "it must be a store of sweeps"
        raise StoreError(f"cannot be written: {error}", where=str(path), help=help) from error


def _check_version(connection: sqlite3.Connection, path: Path) -> None:
    """Check that a store is one of ours; a process that is just making it gets a moment to finish."""
    for _ in range(_LOCK_TRIES):
        try:
            identity = connection.execute("PRAGMA application_id").fetchone()[0]
            version = connection.execute("PRAGMA user_version").fetchone()[0]
        except sqlite3.DatabaseError as error:
            what = f"this is no store of sweeps: {error}"
            raise StoreError(what, where=str(path)) from error
        if identity == _APPLICATION_ID:
            break
        if connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0]:
            raise StoreError("this is no store of sweeps", where=str(path), help="give another file with --store")
        time.sleep(_MOMENT_SECONDS)
    else:
        raise StoreError("this store is empty", where=str(path), help="`sweep-machines run FILE` fills it")
    if version > SCHEMA_VERSION:
        raise StoreError(
            f"the store has schema {version}, this version reads up to {SCHEMA_VERSION}", where=str(path),
            help="use a newer version of the tool, or another store",
        )  # fmt: skip
