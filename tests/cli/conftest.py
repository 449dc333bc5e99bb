"""Fixtures of the command line's tests, each of which has an empty folder."""

import pytest


@pytest.fixture(autouse=True)
def _here(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def cli(monkeypatch):
    """Calls the command line; no backend may start."""
    from click.testing import CliRunner
    from keras_si_cli import main
    from keras_si_cli.training import start

    def too_early(**_):
        raise SystemError("TensorFlow was started")

    monkeypatch.setattr(start, "import_quietly", too_early)
    return lambda *args: CliRunner().invoke(main.main, args)


@pytest.fixture
def few(monkeypatch):
    """Every dataset is `few_images`."""
    from cli_helpers import few_images
    from keras_si_cli.experiments import data

    monkeypatch.setattr(data, "load", lambda name, data_dir: few_images())


@pytest.fixture
def short(monkeypatch):
    from cli_helpers import make_short

    make_short(monkeypatch)


@pytest.fixture
def eager(monkeypatch):
    from cli_helpers import make_eager

    make_eager(monkeypatch)
