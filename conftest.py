"""How the notebooks are tested: each runs from top to bottom and must give the text that is committed with it.

Here and not in pyproject's addopts, which would break a bare pytest where nbval is missing.
"""

import os

os.environ.setdefault("PYTHONUTF8", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # kernels that fight over two cores take minutes, one thread seconds

collect_ignore_glob = ["notebooks/**/.ipynb_checkpoints/*"]


def pytest_configure(config):
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
