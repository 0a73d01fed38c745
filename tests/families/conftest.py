"""What all classes of `Conformance` share: models saved once, and a process without our code."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.families.builder import PROMPTS, Builder
from tests.fixtures.stranger import Stranger

for _name in ("adapter_laws", "conformance", "measures", "training_laws"):
    pytest.register_assert_rewrite(f"tests.families.{_name}")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Builder], Path]:
    """Saves a model once; it is only read."""
    known: dict[int, Path] = {}

    def folder(builder: Builder) -> Path:
        if id(builder) not in known:
            known[id(builder)] = builder.save(tmp_path_factory.mktemp("tiny") / "model")
        return known[id(builder)]

    return folder


@pytest.fixture(scope="session")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("prompts") / "all.prompts"
    file.write_text("".join(f"{json.dumps(prompt)}\n" for prompt in PROMPTS))
    return file


@pytest.fixture(scope="session")
def stranger() -> Iterator[Stranger]:
    process = Stranger()
    yield process
    process.close()
