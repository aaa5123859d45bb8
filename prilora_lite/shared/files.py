"""Files that are written whole or not at all, and checked to be the ones they should be."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from pathlib import Path


class NotWritten(OSError):
    """A file that can't be written; the message names it and a way out."""


def given_path(path: str | os.PathLike[str]) -> Path:
    """A path that a user gave, with the home folder for a leading ``~``, which the system takes for a name.

    Raises:
        TypeError: not a path.
    """
    return Path(os.path.expanduser(path))  # Path's own fails where there is no such user


def write_whole(path: Path, content: bytes) -> None:
    """Write a file beside its place, then move it there in one step: a crash leaves an older one as it was.

    What a killed process leaves beside it, ``.NAME.PROCESS.part``, is never read and may be deleted.

    Args:
        path: where to write; missing folders are made.
        content: the whole of it.

    Raises:
        NotWritten: the file can't be.
    """
    place = Path(os.path.realpath(path))  # a link stays one, and what it names has the new content
    part = place.with_name(f".{place.name}.{os.getpid()}.part")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            if place.exists():
                shutil.copymode(place, part)  # a private file stays private
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, place)
    except OSError as error:
        raise not_written(path, error) from error
    finally:
        with contextlib.suppress(OSError):  # it was moved, was never made, or its own error is under way
            part.unlink()


def not_written(path: Path, error: Exception) -> NotWritten:
    """What to say when a file can't be written: the system's own message names the file only sometimes."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else error
    return NotWritten(
        f"{path} can't be written ({reason}); what was there is as it was: make room or choose another place, and "
        "start again"
    )


def sha256_of(file: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def check_sha256(file: Path, expected: str) -> None:
    """Raise ValueError if the file's SHA-256 is not the expected one."""
    digest = sha256_of(file)
    if digest != expected:
        raise ValueError(f"{file} is not the file it should be: its SHA-256 is {digest}, expected {expected}")
