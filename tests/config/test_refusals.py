"""What is said of a setting that there is not; tests/test_cli.py has the rest, as users see it."""

import re

import pytest

from pipeline.cli.options import names
from pipeline.config.refusals import ELSEWHERE, unknown

NAMES = names()


@pytest.mark.parametrize("flag", ELSEWHERE)
def test_flags_of_other_scripts_lead_to_settings_of_ours(flag: str) -> None:
    assert flag not in NAMES and not any(name.startswith(f"{flag}.") for name in NAMES)
    told = re.findall(r"\b[a-z]+\.[a-z_0-9.]+\b|(?<=^use )run", ELSEWHERE[flag])
    assert set(told) <= set(NAMES)
    assert told or ELSEWHERE[flag].startswith(("nothing to set", "AdamW's", "name it"))
    assert unknown(flag.replace("_", "-"), NAMES).endswith(f"unknown setting; {ELSEWHERE[flag]}")
