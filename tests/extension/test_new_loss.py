"""docs/new-loss.md: its files are what it says they are."""

import importlib
import re
import sys

import pytest
import yaml

from pipeline.config import Config
from pipeline.methods.terms import TERMS
from tests.cluster.job import ROOT

PAGE = (ROOT / "docs" / "new-loss.md").read_text()


def block(language: str, number: int = 0) -> str:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)[number]


@pytest.fixture
def files(tmp_path, monkeypatch):
    """The page's two files, importable."""
    for number, name in enumerate(("overshoot", "test_overshoot")):
        (tmp_path / f"{name}.py").write_text(block("python", number))
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    TERMS.pop("overshoot", None)


def test_its_law_holds_and_its_config_is_valid(files):
    page = importlib.import_module("test_overshoot")
    page.test_gradient_pulls_back_what_is_beyond_and_nothing_else()
    config = Config.model_validate(yaml.safe_load(block("yaml")))
    assert config.distill.terms["overshoot"].weight == 1.0
