"""Adapters: what is missing for them is named; their laws are in `tests/families`."""

import sys

import pytest

from pipeline.config import CriticConfig, NetworkConfig, StudentConfig, TeacherConfig
from pipeline.models.loading import load_teacher
from pipeline.models.students import new_student
from pipeline.utils.errors import UserError
from tests.fixtures.tiny_models import save_tiny


def test_modules_that_are_not_there_and_a_missing_package_are_named(tmp_path, monkeypatch):
    teacher = load_teacher(TeacherConfig(output=str(save_tiny(tmp_path / "model"))))
    lora = {"rank": 4, "alpha": 6.0}
    with pytest.raises(UserError, match=r"distill\.student\.lora\.modules: to_z: .*to_q"):
        strange = StudentConfig(lora=lora | {"modules": ("to_z",)})
        new_student(teacher, NetworkConfig(), 0, strange)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UserError, match=r"distill\.critic\.lora needs the package peft on every"):
        new_student(teacher, NetworkConfig(), 0, CriticConfig(lora=lora))
