"""The sandbox alone: what code can see and reach in it, how much it can take, and what it costs the other cells."""

import json
import os
import sys
from pathlib import Path

import pytest

from prilora_lite.teaching import confine, inside, sandbox

try:
    sandbox.require()
    lacks = ""
except ValueError as error:
    lacks = str(error)
pytestmark = pytest.mark.skipif(bool(lacks), reason=lacks)

PROBES = {
    "environments": """
import glob
seen = b""
for file in glob.glob("/proc/*/environ"):
    try:
        seen += open(file, "rb").read()
    except OSError:
        pass
found = b"canary" in seen or "canary" in str(os.environ)
""",
    "first process": """
found = []
for name in ("environ", "mem", "maps", "fd/0", "fd/1", "root/handed_in"):
    try:
        os.listdir("/proc/1/" + name) if "root" in name else open("/proc/1/" + name, "rb").close()
        found.append(name)
    except OSError:
        pass
for number in (15, 9):
    try:
        os.kill(1, number)
    except OSError:
        pass
""",
    "capabilities": """
found = [line.split()[1] for line in open("/proc/self/status") if line.startswith("Cap")]
""",
    "kernel calls": """
import ctypes
libc = ctypes.CDLL(None)
found = {
    "remount": libc.mount(b"none", PACKAGE.encode(), None, 32 | 4096, None),
    "bind": libc.mount(b"/tmp", b"/usr", None, 4096, None),
    "user namespace": libc.unshare(0x10000000),
    "host name": libc.sethostname(b"x", 1),
}
""",
    "hidden memory": """
import ctypes
libc = ctypes.CDLL(None)
found = {
    "file": libc.memfd_create(b"x", 0),
    "shared": libc.shmget(1, 4096, 0o1600),
    "messages": libc.msgget(1, 0o1600),
    "trace": libc.ptrace(0, 0, 0, 0),
    "ring": libc.syscall(425, 1, 0),
    "other numbers": libc.syscall(0x40000000 + 39) if os.uname().machine == "x86_64" else -1,
}
""",
    "writable": """
found = []
for folder in ("/", "/usr", "/etc", "/dev", "/handed_in", PACKAGE, PREFIX, "/proc/sys/kernel", "/root", "/home"):
    try:
        open(os.path.join(folder, "core_pattern"), "a").close()
        found.append(folder)
    except OSError:
        pass
""",
    "shown": """
found = [path for path in (COURSE, TESTS, SUBMITTED, "/etc/passwd", "/etc/shadow", "/etc/ssl", "/run", "/var", "/sys")
         if os.path.exists(path)]
""",
    "sizes": """
found = [os.statvfs(path).f_blocks * os.statvfs(path).f_bsize for path in ("/tmp", "/dev/shm")]
""",
    "terminal": """
found = []
for number in range(3):
    if os.isatty(number):
        found.append(number)
try:
    os.open("/dev/tty", os.O_RDWR)
    found.append("tty")
except OSError:
    pass
""",
    "network": """
import socket
found = []
for address in (("127.0.0.1", 9), ("8.8.8.8", 53), ("::1", 9)):
    try:
        socket.create_connection(address, timeout=2)
        found.append(address)
    except OSError:
        pass
""",
    "other processes": """
found = sorted(int(name) for name in os.listdir("/proc") if name.isdigit())[-1]
""",
    "module of that name": """
import fractions
found = fractions.__file__
""",
    "own module": """
import helper
found = helper.VALUE
""",
    "own file": """
found = open("data.txt").read()
open("data.txt", "w").write("changed")
""",
    "out of memory": """
found = int(open("/proc/self/oom_score_adj").read())
try:
    open("/proc/self/oom_score_adj", "w").write("0")
    found = "changed"
except OSError:
    pass
""",
    "limits": """
import resource
found = [resource.getrlimit(kind)[0] for kind in (
    resource.RLIMIT_AS, resource.RLIMIT_NPROC, resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE)]
for kind in (resource.RLIMIT_AS, resource.RLIMIT_NPROC, resource.RLIMIT_CPU):
    try:
        resource.setrlimit(kind, (-1, -1))
        found.append("raised")
    except (OSError, ValueError):
        pass
""",
}


def run(folder, *sources, tests=(), timeout=20):
    """What the cells show, and whether they ended well."""
    room = folder / "room"
    room.mkdir(exist_ok=True)
    handed_in = folder / "handed_in"
    handed_in.mkdir(exist_ok=True)
    cells = [{"source": source, "test": number in tests} for number, source in enumerate(sources)]
    done = sandbox.run(cells, {"parts": [], "names": []}, handed_in, room, timeout=timeout, shown=[])
    return [
        "".join(output.get("text") or output.get("ename", "") for output in done["cells"][number]["outputs"])
        for number in sorted(done["cells"])
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sandbox")
    handed_in = folder / "handed_in"
    handed_in.mkdir()
    (handed_in / "helper.py").write_text("VALUE = 7\n", encoding="utf-8")
    (handed_in / "data.txt").write_text("as it was", encoding="utf-8")
    for name in ("fractions", "sitecustomize", "usercustomize", "json", "traitlets"):
        (handed_in / f"{name}.py").write_text("raise SystemExit('taken')\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def found(folder):
    """Probe -> what it found, from one run."""
    places = {
        "PACKAGE": str(sandbox.PACKAGE), "PREFIX": sys.prefix, "TESTS": str(Path(__file__).parent),
        "COURSE": str(sandbox.PACKAGE.parent / "notebooks"), "SUBMITTED": str(folder),
    }  # fmt: skip
    start = "import json, os\n" + "".join(f"{name} = {path!r}\n" for name, path in places.items())
    probes = [f"{code}\nprint(json.dumps(found, default=str))" for code in PROBES.values()]
    os.environ["TEACHER_TOKEN"] = "canary"
    try:
        shown = run(folder, start, *probes)
    finally:
        del os.environ["TEACHER_TOKEN"]
    return {name: json.loads(text) for name, text in zip(PROBES, shown[1:], strict=True)}


@pytest.mark.parametrize(
    ("probe", "expected"),
    [
        ("environments", False),
        ("first process", []),
        ("capabilities", ["0000000000000000"] * 5),
        ("writable", []),
        ("shown", []),
        ("terminal", []),
        ("out of memory", 1000),
        ("network", []),
        ("own module", 7),
        ("own file", "as it was"),
    ],
)
def test_what_code_finds(probe, expected, found):
    assert found[probe] == expected


def test_the_kernel_of_the_system_grants_nothing(found):
    assert set(found["kernel calls"].values()) == set(found["hidden memory"].values()) == {-1}


def test_memory_file_systems_and_processes_are_limited(found):
    assert sum(found["sizes"]) <= sandbox.TEMPORARY + sandbox.SHARED
    assert found["limits"] == [sandbox.ADDRESSES, 2 * sandbox.PROCESSES, sandbox.TEMPORARY, sandbox.FILES]
    assert found["other processes"] < 100


def test_what_was_handed_in_takes_no_modules_place(found):
    assert found["module of that name"].startswith(sys.base_prefix)


def test_what_was_handed_in_stays_and_nothing_else_is_left(found, folder):
    assert (folder / "handed_in" / "data.txt").read_text(encoding="utf-8") == "as it was"
    assert list((folder / "room").iterdir()) == []


def test_where_a_control_group_can_be_made_the_system_holds_the_sums(tmp_path):
    with confine.groups(2**30, 100) as made:
        if not made:
            pytest.skip("this account may not make a control group")
        said = {file.name: file.read_text() for group in made for file in group.glob("*") if file.name in HELD}
    assert {int(said[name]) for name in said if name.startswith("memory.")} == {2**30}
    assert said["pids.max"] == "100\n"
    assert not [group for group in made if group.exists()]


HELD = ("memory.max", "memory.limit_in_bytes", "pids.max")


@pytest.mark.parametrize(
    ("own", "places"),
    [
        ("0::/user.slice/app\n", {"": "user.slice/app"}),
        ("8:pids:/\n4:memory:/a/b\n1:cpu:/c\n0::/\n", {"pids": "pids", "memory": "memory/a/b", "": ""}),
        ("8:pids:/../../x\n", {"pids": "../x"}),  # of a container, seen from within: nothing is made there
        ("", {}),
    ],
)
def test_control_groups_of_both_versions_are_found(own, places, tmp_path, monkeypatch):
    (tmp_path / "cgroup.controllers").touch()
    (tmp_path / "own").write_text(own, encoding="utf-8")
    monkeypatch.setattr(confine, "GROUPS", tmp_path)
    monkeypatch.setattr(confine, "OWN", tmp_path / "own")
    found = {str(root.relative_to(tmp_path)).strip("."): place for root, place in confine._hierarchies()}
    assert found == {root: Path(os.path.normpath(tmp_path / place)) for root, place in places.items()}


def test_a_folder_that_is_no_control_group_is_left_as_it_was(tmp_path):
    (tmp_path / "a").mkdir()
    assert confine._make(tmp_path, tmp_path / "a", {"pids.max": 1}) is None
    assert list(tmp_path.rglob("*")) == [tmp_path / "a"]


LOOPS = {
    "in Python": "while True:\n    pass",
    "in C": "import collections\ncollections.deque(iter(int, 1), maxlen=0)",
    "that takes no interrupt": "while True:\n  try:\n    while True:\n      pass\n  except BaseException:\n    pass",
    "that prints": "while True:\n    print('x' * 1000)",
    "that waits": "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(1000)",
}  # fmt: skip


@pytest.mark.parametrize("loop", LOOPS)
def test_an_endless_loop_costs_its_own_cell_alone(loop, tmp_path):
    counts = "open('count', 'a').write('x')"
    cells = ["kept = 5", counts, LOOPS[loop], "print(kept, len(open('count').read()))"]
    shown = run(tmp_path, *cells, tests=[1], timeout=3)
    assert shown[2].endswith("CellTimeoutError")
    assert shown[3] == "5 1\n", "the cells before were not there any more, or a test was run twice"


def test_code_that_can_not_be_looked_through_costs_no_cell(monkeypatch):
    """Looking takes too long, as with thousands of magics: the cells get another kernel, which is not busy with it."""
    made = []

    class Kernel:
        def __init__(self, *_):
            made.append([])

        def run(self, source, timeout, outputs, *, history=True):
            made[-1].append(source[:5])
            if "look" in source:
                raise inside.CellTimeoutError
            return "ok"

        def end(self):
            made[-1].append("ended")

    monkeypatch.setattr(inside, "Kernel", Kernel)
    reports = []
    cells = [{"source": "x = 1", "test": False}, {"source": "y = 2", "test": True}]
    inside.run_cells({"cells": cells, "first": [], "timeout": 1, "look": {}}, "/tmp", reports.append)
    assert made == [["print", "ended"], ["x = 1", "y = 2", "ended"]]
    assert reports[0] == {"notes": [inside.UNSEEN]}
    assert [report["cell"] for report in reports[1:]] == [0, 1]


def test_of_thousands_of_outputs_the_first_are_kept_and_the_error_always(tmp_path):
    code = (
        "from IPython.display import display\nfor n in range(1000):\n    display({'text/plain': 'x'}, raw=True)\n1 / 0"
    )
    shown = run(tmp_path, code)
    assert shown == ["ZeroDivisionError"]


def test_a_loop_in_a_daemon_does_not_outlive_its_kernel(tmp_path):
    daemon = "if not os.fork():\n    os.setsid()\n    while True:\n        pass\nimport time\ntime.sleep(99)"
    count = (
        "names = [name for name in os.listdir('/proc') if name.isdigit()]\n"
        "states = [open(f'/proc/{name}/stat').read().split(') ')[1][0] for name in names]\n"
        "print(len(states) - states.count('Z'))  # the first one and the kernel"
    )
    assert run(tmp_path, "import os", daemon, count, timeout=3)[2] == "2\n"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import os\nos._exit(0)", "the kernel died"),
        ("import ctypes\nctypes.string_at(0)", "the kernel died"),
        ("import os\nos.kill(os.getpid(), 9)", "the kernel died"),
        ("import os\nwhile True:\n    os.fork()", "more than 256 processes|GiB of memory"),
        ("import threading, time\nfor _ in range(400):\n    threading.Thread(target=time.sleep, args=(99,)).start()\n"
         "time.sleep(99)", "more than 256 processes"),
        ("import os\nfor n in range(200_000):\n    open(f'{n}', 'w').close()", "the kernel died"),
        ("import os, time\nfor _ in range(3):\n    if not os.fork():\n        held = b'x' * 2**29\n"
         "        time.sleep(99)\ntime.sleep(99)", "GiB of memory in all its processes"),
    ],
)  # fmt: skip
def test_code_that_goes_too_far_is_ended_with_a_reason(code, said, tmp_path, monkeypatch):
    monkeypatch.setattr(sandbox, "MEMORY", 2**30)
    with pytest.raises(RuntimeError, match=said):
        run(tmp_path, code)
