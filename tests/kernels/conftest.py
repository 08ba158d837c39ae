"""Without a GPU the kernels run in Triton's interpreter.

TRITON_INTERPRET is read when a kernel is decorated, Triton's own included: it is set while Triton and
our kernels are imported, and taken away again so that no process started by a test inherits it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the kernels extra is not installed")
GPU = torch.cuda.is_available()

if not GPU:
    before = os.environ.get("TRITON_INTERPRET")
    if "triton" in sys.modules and before != "1":
        raise pytest.UsageError("Triton was imported before tests/kernels set TRITON_INTERPRET=1")
    os.environ["TRITON_INTERPRET"] = "1"
    pytest.importorskip("triton", reason="the kernels extra is not installed")
    import triton.experimental.gluon  # noqa: F401  (else imported at the first launch)

    import kernels.linear_kl
    import kernels.registry  # noqa: F401

    if before is None:
        del os.environ["TRITON_INTERPRET"]
else:
    pytest.importorskip("triton", reason="the kernels extra is not installed")

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip GPU tests without one, interpreter tests with one; hush the interpreter's NumPy warnings."""
    for item in items:
        if HERE not in item.path.parents:
            continue
        item.add_marker(pytest.mark.filterwarnings("ignore::RuntimeWarning"))
        item.add_marker(pytest.mark.filterwarnings("ignore::DeprecationWarning:triton"))
        if item.get_closest_marker("gpu") and not GPU:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
        if "interpreter" in item.fixturenames and GPU:
            item.add_marker(pytest.mark.skip(reason="runs in the interpreter, where there is no GPU"))


@pytest.fixture
def interpreter() -> None:
    """Marks a test that runs kernels on CPU tensors."""
