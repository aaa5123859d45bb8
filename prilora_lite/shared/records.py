"""A file of runs: one JSON line each, only ever appended to, whole after a kill, safe for several writers."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

from prilora_lite.shared.files import not_written

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
    path, fields = Path(path), ("key", *fields)
    if not path.is_file():
        return []
    lines = path.read_bytes().split(b"\n")
    records = []
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            if number == len(lines):
                break
            raise ValueError(f"{path}, line {number} is not JSON ({error}); mend or remove that line") from error
        if isinstance(record, dict) and "error" in record:
            continue
        lacks = [field for field in fields if not isinstance(record, dict) or field not in record]
        if lacks:
            what = f"it lacks {', '.join(lacks)}"
            raise ValueError(f"{path}, line {number} is not a run of a study: {what}; name another file")
        records.append(record)
    return records


def append_record(path: str | Path, record: dict[str, Any]) -> bool:
    """Add one line, unless its run is in the file already: two processes may have made the same one.

    A line cut off by an earlier crash is removed first.

    Returns:
        Whether it was added.

    Raises:
        OSError: the line can't be written; the lines before it stay.
    """
    path = Path(path)
    try:
        return _append(path, record)
    except OSError as error:
        raise not_written(path, error) from error


def _append(path: Path, record: dict[str, Any]) -> bool:
    with path.open("ab+") as file:
        _lock(file)
        file.seek(0)
        whole = file.read()
        if whole and not whole.endswith(b"\n"):
            tail = whole[whole.rfind(b"\n") + 1 :]
            try:
                json.loads(tail)
                file.write(b"\n")  # whole, only its end of line is missing
            except ValueError:
                file.truncate(len(whole) - len(tail))
        file.flush()
        if _identity(record) in {_identity(earlier) for earlier in read_records(path)}:
            return False
        file.write(json.dumps(record).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
    return True


def _identity(record: dict[str, Any]) -> str:
    return json.dumps(record["key"], sort_keys=True)


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
