"""A file of runs: one JSON line each, only ever appended to, whole after a kill, safe for several writers."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any

from prilora_lite.shared.files import given_path, not_written

if os.name == "nt":
    import msvcrt
else:
    import fcntl


def read_records(path: str | Path, fields: Iterable[str] = ()) -> list[dict[str, Any]]:
    """The finished runs of a file, in its order; none if there is no such file.

    A last line that was cut off (the process was killed) does not count, nor does a run that crashed.

    Args:
        path: the file.
        fields: what each run must have beside ``key``.

    Raises:
        TypeError: not a path, or fields that are not names.
        OSError: a path that can't be read.
        ValueError: a line that is not a run; the message gives its number and what it lacks.
    """
    return Records(path, fields).read()


def append_record(path: str | Path, record: dict[str, Any]) -> bool:
    """Add one line, unless its run is in the file already: two processes may have made the same one.

    A line cut off by an earlier crash is removed first.

    Returns:
        Whether it was added.

    Raises:
        OSError: the line can't be written; the lines before it stay.
    """
    return Records(path).append(record)


class Records:
    """A file of runs that grows, read once: what was read is kept, and only what has been added since is read.

    Args:
        path, fields: see :func:`read_records`.
        same: gives for a key what two keys share if they name the same run; default: the key itself.

    Raises:
        TypeError: not a path, or fields that are not names.
    """

    def __init__(self, path: str | Path, fields: Iterable[str] = (), same: Callable[[Any], str] | None = None) -> None:
        self._path, self._fields = given_path(path), ("key", *fields)
        self._same = same or (lambda key: json.dumps(key, sort_keys=True))
        self._forget()

    def read(self) -> list[dict[str, Any]]:
        """The finished runs, in the file's order; raises as :func:`read_records` does."""
        last = self._read_on()
        return [*self._records, *last]

    def by_run(self) -> dict[str, dict[str, Any]]:
        """The finished runs by what ``same`` gives for their keys; of two that are the same, the first."""
        last = self._read_on()
        for record in self._records[self._sorted :]:
            self._by_run.setdefault(self._same(record["key"]), record)
        self._sorted = len(self._records)
        return {self._same(record["key"]): record for record in last} | self._by_run if last else self._by_run

    def crashes(self, fields: Iterable[str] = ()) -> list[dict[str, Any]]:
        """The runs that crashed and were not finished since, each by its last line; lines without a field are not."""
        finished, needed = self.by_run(), {"key", *fields}
        crashed = {self._same(record["key"]): record for record in self._crashed if needed <= set(record)}
        return [record for same, record in crashed.items() if same not in finished]

    def append(self, record: dict[str, Any]) -> bool:
        """Add one line; see :func:`append_record`."""
        try:
            with self._path.open("ab+") as file:
                _lock(file)
                if self._same(record["key"]) in self.by_run():
                    return False
                file.seek(self._bytes)
                if last := file.read():
                    try:
                        json.loads(last)
                        file.write(b"\n")  # whole, only its end of line is missing
                    except (ValueError, RecursionError):
                        file.truncate(self._bytes)
                file.write(json.dumps(record).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
                return True
        except OSError as error:
            raise not_written(self._path, error) from error

    def _forget(self) -> None:
        self._records: list[dict[str, Any]] = []
        self._crashed: list[dict[str, Any]] = []
        self._by_run: dict[str, dict[str, Any]] = {}
        self._bytes = self._lines = 0  # read so far, all of them whole lines
        self._sorted = 0  # how many of the records are in _by_run

    def _read_on(self) -> list[dict[str, Any]]:
        """Read the whole lines that have been added; returns the run of a last line that has no end yet."""
        if not self._path.is_file():
            self._forget()
            return []
        with self._path.open("rb") as file:
            if file.seek(0, os.SEEK_END) < self._bytes:
                self._forget()  # somebody made it shorter
            file.seek(self._bytes)
            *whole, last = file.read().split(b"\n")
        for line in whole:
            for record in self._parsed(line, self._lines + 1):
                (self._crashed if "error" in record else self._records).append(record)
            self._lines, self._bytes = self._lines + 1, self._bytes + len(line) + 1
        return [run for run in self._parsed(last, self._lines + 1, may_be_cut_off=True) if "error" not in run]

    def _parsed(self, line: bytes, number: int, may_be_cut_off: bool = False) -> list[dict[str, Any]]:
        """The run of a line, finished or crashed, if it holds one."""
        if not line.strip():
            return []
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            if may_be_cut_off:
                return []
            if line.startswith((b"\xff\xfe", b"\xfe\xff", b"\0")):
                raise ValueError(
                    f"{self._path} is in UTF-16, as `>` writes in Windows PowerShell: save it in UTF-8, for example "
                    "with Get-Content and Set-Content -Encoding utf8"
                ) from error
            raise ValueError(f"{self._path}, line {number} is not JSON ({error}); mend or remove that line") from error
        if isinstance(record, dict) and "error" in record:
            return [record]
        lacks = [field for field in self._fields if not isinstance(record, dict) or field not in record]
        if lacks:
            what = f"it lacks {', '.join(lacks)}"
            raise ValueError(f"{self._path}, line {number} is not a run of a study: {what}; name another file")
        return [record]


def _lock(file: IO[bytes]) -> None:
    """One writer at a time, until the file is closed: the system gives the lock of a killed process back."""
    if os.name != "nt":
        fcntl.flock(file, fcntl.LOCK_EX)
        return
    file.seek(1 << 30)  # a byte far behind the end: on Windows, others can't read what is locked
    while True:
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)
            return
        except OSError as error:
            if error.errno != errno.EDEADLOCK:  # EDEADLOCK: the lock was not free within ten seconds
                raise
