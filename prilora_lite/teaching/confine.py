"""What bubblewrap leaves open, closed: calls to the system that no answer needs, and sums over all processes.

Memory that belongs to no process's pages (``memfd_create``, System V's shared memory) can't be summed from outside, so
the calls that give it are refused, with others by which sandboxes have been left. Where this account may make a control
group, the system itself holds the sums of memory and processes; where it may not, :mod:`~.sandbox` looks at them.
"""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import struct
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

# Numbers of calls on x86-64 and on 64-bit ARM
CALLS = {
    "memfd_create": (319, 279), "memfd_secret": (447, 447), "shmget": (29, 194), "msgget": (68, 186),
    "semget": (64, 190), "mq_open": (240, 180), "io_uring_setup": (425, 425), "userfaultfd": (323, 282),
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "pidfd_getfd": (438, 438),
    "bpf": (321, 280), "perf_event_open": (298, 241), "keyctl": (250, 219), "add_key": (248, 217),
    "request_key": (249, 218), "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "unshare": (272, 97),
    "setns": (308, 268), "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430),
    "fsmount": (432, 432), "mount_setattr": (442, 442), "open_by_handle_at": (304, 265), "fanotify_init": (300, 262),
}  # fmt: skip
MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # place in CALLS, the system's number for it
X32 = 0x40000000  # a second set of numbers on x86-64
LOAD, EQUALS, AT_LEAST, RETURN = 0x20, 0x15, 0x35, 0x06  # of Berkeley's packet filter, which seccomp runs
REFUSE, ALLOW = 0x00050000 | errno.EPERM, 0x7FFF0000
GROUPS, OWN, OOM = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup"), Path("/proc/self/oom_score_adj")
PREFIX = "prilora-"


def call_filter() -> bytes | None:
    """The calls that are refused, as a program for bubblewrap's ``--seccomp``; None on a machine not known here."""
    if platform.machine() not in MACHINES:
        return None
    place, machine = MACHINES[platform.machine()]
    refused = [numbers[place] for numbers in CALLS.values()]
    # Each step: what it does, how many steps it skips if so and if not, the value; 4 and 0 are where the machine's
    # number and the call's stand
    steps = [(LOAD, 0, 0, 4), (EQUALS, 0, len(refused) + 3, machine), (LOAD, 0, 0, 0)]
    steps += [(AT_LEAST, len(refused) + 1, 0, X32)]
    steps += [(EQUALS, len(refused) - number, 0, call) for number, call in enumerate(refused)]
    steps += [(RETURN, 0, 0, ALLOW), (RETURN, 0, 0, REFUSE)]
    return b"".join(struct.pack("<HBBI", *step) for step in steps)


@contextlib.contextmanager
def groups(memory: int, processes: int) -> Iterator[list[Path]]:
    """Control groups for one run, gone afterwards; none where this account may not make them.

    Args:
        memory: bytes of all processes together, with what they keep in folders in memory.
        processes: with their threads.
    """
    limits = {"memory.max": memory, "memory.limit_in_bytes": memory, "memory.swap.max": 0, "pids.max": processes}
    made = [group for root, own in _hierarchies() if (group := _make(root, own, limits)) is not None]
    try:
        yield made
    finally:
        for group in made:
            _remove(group)


def join(made: list[Path]) -> Callable[[], None]:
    """What a process does before it becomes the sandbox: join the groups, and be the first to go if memory runs out."""

    def before() -> None:
        for file, text in [(group / "cgroup.procs", "0") for group in made] + [(OOM, "1000")]:
            with contextlib.suppress(OSError):
                file.write_text(text)

    return before


def _hierarchies() -> Iterator[tuple[Path, Path]]:
    """Where groups are made, and the group of this process there: one place with version 2, two with version 1."""
    with contextlib.suppress(OSError):
        for line in OWN.read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            root = GROUPS / controllers
            if controllers in ("memory", "pids") or (not controllers and (root / "cgroup.controllers").is_file()):
                yield root, Path(os.path.normpath(f"{root}/{path}"))


def _make(root: Path, own: Path, limits: dict[str, int]) -> Path | None:
    """A group below this process's own, or, where that may not have one, as near to it as can be."""
    for place in [own, *own.parents]:
        if root not in (place, *place.parents):
            return None
        with contextlib.suppress(OSError):
            for old in place.glob(f"{PREFIX}*"):
                if not psutil.pid_exists(int(old.name.split("-")[1])):  # of a process that was killed
                    _remove(old)
            group = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=place))
            given = [name for name in limits if (group / name).exists()]
            try:
                for name in given:
                    (group / name).write_text(str(limits[name]))
                if given:
                    return group
            except OSError:
                given = []
            _remove(group)
    return None


def _remove(group: Path) -> None:
    """Remove a group; its processes are dead, but some may not be gone yet."""
    for _ in range(40):
        try:
            return group.rmdir()
        except FileNotFoundError:
            return None
        except OSError:
            time.sleep(0.05)
    return None
