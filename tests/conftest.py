"""Settings for all tests: no network, one thread (tiny matrices gain nothing from more), a clean environment."""

import os
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import pytest
from hypothesis import settings

from tests.environments import call

# torch and transformers are imported below, where they are used: the process that only shares out the tests goes
# through this file, too, and the others wait for it.
settings.register_profile("project", deadline=None, print_blob=True)
settings.load_profile("project")


def pytest_collection_finish(session):
    """Raise pytest.UsageError if a test's name holds an address: another one in each worker, which refuse to begin."""
    import torch

    torch.set_num_threads(1)
    if addresses := [item.nodeid for item in session.items if " at 0x" in item.nodeid]:
        raise pytest.UsageError(f"name these parameters by `ids`, without an address in memory: {addresses}")


@pytest.fixture(autouse=True)
def _no_folder_of_rows_from_outside(monkeypatch, request):
    """PRILORA_GLUE is for the tests that ask for real rows."""
    if "real_rows" not in request.fixturenames:
        monkeypatch.delenv("PRILORA_GLUE", raising=False)


@pytest.fixture(scope="session")
def real_rows():
    """Folder of real GLUE rows."""
    folder = os.environ.get("PRILORA_GLUE")
    if not folder:
        pytest.skip("needs real GLUE rows: set PRILORA_GLUE to a folder with <task>/train.parquet in it")
    return folder


@pytest.fixture(scope="session")
def encoder(tmp_path_factory):
    """Folder of a small random BERT with its tokenizer."""
    from tests.small_models import write_encoder

    return str(write_encoder(tmp_path_factory.mktemp("encoder")))


@pytest.fixture(scope="session")
def rows(tmp_path_factory):
    """Folder with random rows of all tasks that the package has no rows of."""
    from prilora_lite.experiments.tasks import TASKS
    from tests.small_models import write_rows

    folder = tmp_path_factory.mktemp("rows")
    for task in TASKS.values():
        if not task.in_package:
            write_rows(folder, task)
    return folder


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    """The built wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    call(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=Path(__file__).parent.parent)
    (file,) = folder.glob("*.whl")
    return file
