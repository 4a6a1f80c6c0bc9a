"""What every test may use: the real models, where they are; nothing that hides a missing one."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import pytest

# The models are not part of the repository: PORTER_MODELS names their folder, else it is sought beside the checkout.
MODELS = Path(os.environ.get("PORTER_MODELS", Path(__file__).resolve().parents[2] / "shared" / "models"))

# A shell's background jobs ignore SIGINT, and so would all that they start: tests of an interruption would wait forever.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    with contextlib.suppress(ValueError):  # porter's own plugin, where it is installed, has the option
        parser.addoption(
            "--update-golden", action="store_true", help="rewrite expected texts; read the diff afterwards"
        )


@pytest.fixture(scope="session")
def models() -> Path:
    """The folder of real models; skips where it is absent."""
    if not (MODELS / "catalog.json").is_file():
        pytest.skip(f"the folder of real models is absent: {MODELS}")
    return MODELS


@pytest.fixture
def update_golden(request: pytest.FixtureRequest) -> bool:
    """Whether --update-golden was given."""
    return bool(request.config.getoption("--update-golden"))
