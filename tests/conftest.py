"""Settings for all tests, and the notebook's two executions, which run beside them."""

import base64
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")       # the tests beside the notebook: a core for each

import matplotlib  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402

matplotlib.use("Agg")            # no test opens a window
ROOT = Path(__file__).parents[1]
WAITING = pytest.StashKey()


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """One thread: small tensors wait less, and bits are promised for one number only."""
    torch.set_num_threads(1)


def python(*arguments, cwd):
    """Runs this Python in `cwd` with the project importable, as a reader's shell would."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"}
    return subprocess.run([sys.executable, *map(str, arguments)], cwd=cwd, env=environment,
                          text=True, encoding="utf-8", capture_output=True)


def pictures(notebook):
    """The content of every figure that the notebook shows, in their order."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return [base64.b64decode(data) for output in outputs
            for kind, data in output.get("data", {}).items() if kind.startswith("image/")]


# ---- the notebook, executed twice beside the other tests: from nothing, then with what that left


def pytest_collection_modifyitems(items):
    """Last what waits for the executions; before it what takes several processes of its own."""
    items.sort(key=lambda item: ("executions" in item.fixturenames,
                                 item.path.name == "test_together.py"))


def pytest_collection_finish(session):
    wanted = any("executions" in item.fixturenames for item in session.items)
    if wanted and not session.config.option.collectonly:
        pool = ThreadPoolExecutor(1)
        session.stash[WAITING] = pool, pool.submit(execute_twice, session.config)


def execute_twice(config):
    """papermill's execution from nothing, what nbval says of it after another one, the executed
    notebook, and the files beside it after the first and after the second.

    As a reader's second Restart & Run All, that one loads what the first has trained.
    """
    folder = pytest.TempPathFactory.from_config(config, _ispytest=True).mktemp("notebook")
    path = folder / "copy.ipynb"
    made = python("-m", "papermill", ROOT / "MZ_VAE_Assignment.ipynb", path,
                  "-f", ROOT / "tests" / "nbval.yaml", "--no-request-save-on-cell-execute",
                  cwd=folder)
    if made.returncode:
        return made, None, path, None, None
    before = files_in(folder / "runs" / "figures")
    again = python("-m", "pytest", "--quiet", "--nbval", "--nbval-current-env",
                   "--nbval-cell-timeout", "300", "-p", "no:cacheprovider", "--rootdir", folder,
                   path, cwd=folder)
    return made, again, path, before, files_in(folder / "runs" / "figures")


def files_in(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="session")
def executions(request):
    """What came of both."""
    pool, waiting = request.session.stash[WAITING]
    yield waiting.result()
    pool.shutdown()
