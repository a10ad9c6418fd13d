"""The store: what is committed stays, one writer, readers meanwhile, files that are none of ours."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from sweeps.evaluate import RunResult
from sweeps.points import PointRow
from sweeps.store import SCHEMA_VERSION, Store, StoredPoint, StoredRun, StoredSweep, StoreError

RESULT = RunResult("key", "ok", "", "", {"latency_seconds": 0.1 + 0.2}, "DRAM", 1.5)
RUN = StoredRun("digest", "workload", "version", RESULT)
MACHINES = {"digest": {"name": "x"}}


def _sweep(store: Store) -> StoredSweep:
    return store.sweep("name", "digest", "version", {"name": "name"}, 4)


def _point(number: int) -> StoredPoint:
    row = PointRow(number, "ok", "", {"sram.bytes": 1 << 40}, {"latency_seconds": 0.1 + 0.2}, "DRAM", "digest")
    return StoredPoint(row, (1, 2), 0.0)


def test_what_is_recorded_comes_back_exactly(tmp_path: Path) -> None:
    """Runs, points, machines and sweeps; a sweep is there once."""
    with Store.to_write(tmp_path / "s") as store:
        sweep = _sweep(store)
        store.record(sweep, MACHINES, [RUN], [_point(0), _point(-1)])
        assert _sweep(store) == sweep
    with Store.to_read(tmp_path / "s") as store:
        assert store.sweeps() == (sweep,)
        assert store.known_runs(["key", "other"]) == {"key": RESULT}
        assert list(store.points(sweep)) == [_point(-1), _point(0)]
        assert store.counts(sweep) == {"ok": 1} and store.run_counts() == {"ok": 1}
        assert store.machine("digest") == {"name": "x"} and store.machine("none") is None


def test_a_key_is_never_stored_twice(tmp_path: Path) -> None:
    """A second result is a bug, and leaves nothing of its transaction."""
    with Store.to_write(tmp_path / "s") as store:
        sweep = _sweep(store)
        store.record(sweep, MACHINES, [RUN], [_point(0)])
        with pytest.raises(sqlite3.IntegrityError):
            store.record(sweep, MACHINES, [RUN], [_point(1)])
        assert store.counts(sweep) == {"ok": 1}


def test_one_writer_and_many_readers(tmp_path: Path) -> None:
    """A second writer is told; readers see what is committed, while it is written and afterwards."""
    with Store.to_write(tmp_path / "s") as store:
        sweep = _sweep(store)
        with pytest.raises(StoreError, match="another run is writing this store"):
            Store.to_write(tmp_path / "s")
        with Store.to_read(tmp_path / "s") as reader:
            assert reader.counts(sweep) == {} and reader.is_being_written()
            store.record(sweep, MACHINES, [RUN], [_point(0)])
            assert reader.counts(sweep) == {"ok": 1}
    with Store.to_read(tmp_path / "s") as reader:
        assert not reader.is_being_written()
    Store.to_write(tmp_path / "s").close()


def test_a_writer_that_was_killed_leaves_no_lock(tmp_path: Path) -> None:
    """Nor an unfinished transaction."""
    code = """if True:
        import sys, time
        from sweeps.store import Store
        store = Store.to_write(sys.argv[1])
        store.sweep("name", "digest", "version", {}, None)
        store._connection.execute("BEGIN IMMEDIATE")
        store._connection.execute("INSERT INTO machines VALUES ('x', 'y')")
        print("ready", flush=True)
        time.sleep(60)
    """
    root = Path(__file__).parents[2]
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "s")], stdout=subprocess.PIPE, cwd=root
    )  # fmt: skip
    assert child.stdout is not None and child.stdout.readline() == b"ready\n"
    child.kill()
    child.wait()
    with Store.to_write(tmp_path / "s") as store:
        assert len(store.sweeps()) == 1 and store.machine("x") is None
    child.stdout.close()


def test_files_that_are_no_stores(tmp_path: Path) -> None:
    """None, another file, another database, a newer schema, an empty file: a sentence each, and nothing is changed."""
    with pytest.raises(StoreError, match="no such store"):
        Store.to_read(tmp_path / "none")
    (tmp_path / "text").write_text("hello, this is certainly no database" * 99)
    with sqlite3.connect(tmp_path / "other") as other:
        other.execute("CREATE TABLE x (y)")
    other.close()
    for name in ("text", "other"):
        before = (tmp_path / name).read_bytes()
        for opening in (Store.to_read, Store.to_write):
            with pytest.raises(StoreError):
                opening(tmp_path / name)
        assert (tmp_path / name).read_bytes() == before
    Store.to_write(tmp_path / "newer").close()
    with sqlite3.connect(tmp_path / "newer") as newer:
        newer.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    newer.close()
    with pytest.raises(StoreError, match=f"the store has schema {SCHEMA_VERSION + 1}, this version reads up to"):
        Store.to_write(tmp_path / "newer")
    (tmp_path / "empty").touch()
    with pytest.raises(StoreError, match="this store is empty"):
        Store.to_read(tmp_path / "empty")
    with pytest.raises(StoreError, match="cannot be written"):
        Store.to_write(tmp_path / "no" / "folder")
    with pytest.raises(StoreError, match="is a folder"):
        Store.to_write(Path())


def test_a_store_where_nothing_can_be_written(tmp_path: Path) -> None:
    """As on a read-only disk: SQLite finds no place for its index of the log, and needs none if the log is merged."""
    (tmp_path / "t-shm").symlink_to("no/where")
    with Store.to_write(tmp_path / "s") as store:
        sweep = _sweep(store)
        store.record(sweep, MACHINES, [RUN], [_point(0)])
        shutil.copy(tmp_path / "s", tmp_path / "t")
        shutil.copy(tmp_path / "s-wal", tmp_path / "t-wal")
        with pytest.raises(StoreError, match="cannot be opened"):
            Store.to_read(tmp_path / "t")
    shutil.copy(tmp_path / "s", tmp_path / "t")
    (tmp_path / "t-wal").unlink()
    with Store.to_read(tmp_path / "t") as store:
        assert store.counts(sweep) == {"ok": 1} and not store.is_being_written()


def test_a_damaged_store(tmp_path: Path) -> None:
    """Also if SQLite sees nothing of it."""
    with Store.to_write(tmp_path / "s") as store:
        sweep = _sweep(store)
        store.record(sweep, MACHINES, [RUN], [_point(0)])
        store._connection.execute("UPDATE points SET figures = '{\"latency'")
        with pytest.raises(StoreError, match="it is damaged"):
            list(store.points(sweep))


def test_failed_runs_can_be_forgotten(tmp_path: Path) -> None:
    """With the points that failed."""
    failed = RunResult("bad", "failed", "ValueError: x", "Traceback ...")
    point = PointRow(1, "failed", "ValueError: x", {}, {}, "", "digest")
    with Store.to_write(tmp_path / "s") as store:
        sweep = _sweep(store)
        runs = [RUN, StoredRun("digest", "other", "version", failed)]
        store.record(sweep, MACHINES, runs, [_point(0), StoredPoint(point, (0,), 1.0)])
        assert store.failures(5) == [("ValueError: x", "Traceback ...")]
        assert store.forget_failed() == 1
        assert store.counts(sweep) == {"ok": 1} and store.known_runs(["bad"]) == {}


def test_status_of_many_points_is_quick(tmp_path: Path) -> None:
    """It reads an index, not the points: a query plan without a scan of the table."""
    with Store.to_write(tmp_path / "s") as store:
        sweep = _sweep(store)
        store.record(sweep, MACHINES, [], [_point(number) for number in range(1000)])
        query = "EXPLAIN QUERY PLAN SELECT status, COUNT(*) FROM points WHERE sweep = 1 AND number >= 0 GROUP BY status"
        (row,) = store._connection.execute(query).fetchall()
        assert "USING COVERING INDEX points_by_status" in row[-1]
