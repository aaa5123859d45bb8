"""Runs of older versions, brought to the form that a run's key has today: ``prilora-lite migrate FILE ...``."""

from __future__ import annotations

import json
from pathlib import Path

from prilora_lite.experiments.identity import KEY, digest_of
from prilora_lite.shared.files import write_whole


def migrate(file: str | Path) -> int:
    """Give the keys of a study's file what they lack: the digest of the encoder's weights.

    It is that of the encoder as it is found today under its name, so a folder must still hold what the runs were made
    with. Lines whose keys have it stay as they are, byte for byte: called again, it changes nothing but lines that an
    older version has added since. No study may be writing to the file meanwhile.

    Returns:
        The number of lines that were changed.

    Raises:
        ValueError: a line that is not a run of a study, or an encoder that can't be used.
        OSError: a file or an encoder that is not available; the file stays as it was.
    """
    file, digests, changed = Path(file), {}, 0
    lines = file.read_bytes().splitlines(keepends=True)
    for number, line in enumerate(lines):
        if not line.strip():
            continue
        try:
            run = json.loads(line)
        except (ValueError, RecursionError) as error:
            if number == len(lines) - 1 and not line.endswith(b"\n"):
                continue  # cut off as it was written
            raise ValueError(f"{file}, line {number + 1} is not JSON ({error}); mend or remove that line") from error
        key = run.get("key") if isinstance(run, dict) else None
        if not isinstance(key, list) or not len(KEY) - 1 <= len(key) <= len(KEY):
            raise ValueError(f"{file}, line {number + 1} is not a run of a study: expected a key of {', '.join(KEY)}")
        if len(key) == len(KEY):
            continue
        encoder = key[KEY.index("encoder")]
        if encoder not in digests:
            digests[encoder] = digest_of(encoder)
        lines[number] = json.dumps(run | {"key": [*key, digests[encoder]]}).encode() + b"\n"
        changed += 1
    if changed:
        write_whole(file, b"".join(lines))
    return changed
