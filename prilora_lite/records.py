"""A file of runs: one JSON line each, only ever appended to, whole after a kill, safe for several writers."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


def read_records(path: str | Path) -> list[dict[str, Any]]:
    """The finished runs of a file, in its order; none if there is no such file.

    A last line that was cut off (the process was killed) does not count, nor does a run that crashed.

    Raises:
        ValueError: a line that is no run; its number is given.
    """
    return [record for record in _lines(Path(path)) if "error" not in record]


def append_record(path: str | Path, record: dict[str, Any]) -> bool:
    """Add one line, unless its run is in the file already: two processes may have made the same one.

    A line cut off by an earlier crash is removed first.

    Returns:
        Whether it was added.
    """
    path = Path(path)
    with _locked(path), path.open("ab+") as file:
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


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    lines = path.read_bytes().split(b"\n")
    records = []
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            if number == len(lines):
                break
            raise ValueError(f"{path}, line {number} is no JSON ({error}); mend or remove that line") from error
        if not isinstance(record, dict) or "key" not in record:
            raise ValueError(f"{path}, line {number} is no run of a study; name another file")
        records.append(record)
    return records


def _identity(record: dict[str, Any]) -> str:
    return json.dumps(record["key"], sort_keys=True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One writer at a time, among threads and processes of one machine."""
    lock = path.with_name(path.name + ".lock")
    while True:
        try:
            os.close(os.open(lock, os.O_CREAT | os.O_EXCL))
            break
        except (FileExistsError, PermissionError) as error:  # the second: Windows, while another process removes it
            if isinstance(error, PermissionError) and os.name != "nt":
                raise
            with suppress(OSError):  # it may go between the two looks
                if time.time() - lock.stat().st_mtime > 30:  # its writer is dead: writing takes milliseconds
                    lock.unlink(missing_ok=True)
            time.sleep(0.01)
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
