"""How the tests run: notebooks from top to bottom, compared with the text committed with them; files side by side.

Here and not in pyproject's addopts, which would break a bare pytest where nbval or xdist is missing.
"""

import gc
import os
import sys

import pytest

os.environ.setdefault("PYTHONUTF8", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # kernels that fight over two cores take minutes, one thread seconds
os.environ.setdefault("HF_DEACTIVATE_ASYNC_LOAD", "1")  # small weights: copied sooner than shared out to threads

LONG = (
    "tests/assignments/test_class.py",
    "tests/experiments/test_study.py",
    "tests/pocket/test_pocket.py",
    "tests/integrations/test_trainer_options.py",
    "tests/browser",
    "tests/notebooks/test_written_by_the_learner.py",
    "tests/experiments/test_distributed.py",
    "tests/experiments/test_faults.py",
    "tests/teaching/test_exercises.py",
    "notebooks/0",
)

SLOW = "source/a4_ablation_report"  # its study is run by the test of its answers, too

collect_ignore_glob = ["notebooks/**/.ipynb_checkpoints/*"]


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config):
    """The whole suite in several processes; a notebook's cells, and a file's tests, stay together."""
    option = config.option
    whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS and not hasattr(config, "workerinput")
    if whole and hasattr(option, "numprocesses") and option.numprocesses is None and not option.usepdb:
        option.numprocesses, option.dist = min(os.cpu_count() or 1, 4), "loadfile"  # a process takes 1 GB
        option.loadscopereorder = False  # in the order below, not files of most tests first


def pytest_collection_modifyitems(items):
    """What takes minutes comes first, so that no process is left alone with it at the end; or is asked for."""
    if not os.environ.get("PRILORA_SLOW"):
        for item in items:
            if "slow" in item.keywords or SLOW in item.nodeid:
                item.add_marker(pytest.mark.skip(reason="takes minutes: PRILORA_SLOW=1 runs it"))
    items.sort(key=lambda item: not item.nodeid.startswith(LONG))


def pytest_collection_finish():
    _spare_what_is_imported()
    gc.set_threshold(20_000, 20, 20)  # fewer searches for garbage: a fortieth of the time
    gc.enable()


@pytest.hookimpl(trylast=True)  # when the fixtures of the file are gone
def pytest_runtest_teardown(item, nextitem):
    if nextitem is None or item.path != nextitem.path:
        _spare_what_is_imported()


_spared = 0  # modules, when the collector of garbage was last told to leave them alone


def _spare_what_is_imported():
    """Trainer collects garbage whenever it begins, and need not walk through hundreds of modules each time."""
    global _spared
    if len(sys.modules) > _spared:
        gc.collect()
        gc.freeze()
        _spared = len(sys.modules)


def pytest_configure(config):
    gc.disable()  # until all is imported, of which nothing is garbage
    option = config.option
    if not hasattr(option, "nbval"):
        return
    if not option.nbval_lax:
        option.nbval = True
    option.nbval_current_env = option.nbval_kernel_name is None  # a saved kernel's name would fail elsewhere
    if option.nbval_cell_timeout == 2000:  # nbval's own default
        option.nbval_cell_timeout = 300


def pytest_collectstart(collector):
    if type(collector).__name__ == "IPyNbFile":
        collector.skip_compare += ("stderr", "image/svg+xml")
