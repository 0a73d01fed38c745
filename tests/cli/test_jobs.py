"""The table of all jobs holds together, and no large library stands before help and refusals."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.cli import jobs, load
from pipeline.cli.jobs import JOBS
from pipeline.cli.options import names

ROOT = Path(__file__).parents[2]
LARGE = ("torch", "ray", "diffusers", "transformers", "accelerate", "peft", "pyarrow", "boto3")


def test_help_and_refusals_import_no_large_library() -> None:
    """In one process for all jobs: what any of them imports would stay."""
    refused = (
        *("--distill.step 5", "--pairs.count 0", "--pairs.solver x", "--distill.lanes 3", "--seed"),
        *("--distill.gan.divergence kl", "--distill.terms {x:{}}", "--config none.yaml"),
    )
    code = f"""
import runpy, sys
asked = [(job, word) for job in {list(JOBS)} for word in ("--help", "--distill.step 5")]
for job, words in [*asked, ("distill", "--help-all"), *(("distill", each) for each in {refused})]:
    sys.argv = [job, *words.split()]
    try:
        runpy.run_path(f"jobs/{{job}}.py", run_name="__main__")
    except SystemExit as end:
        assert end.code == (0 if "--help" in words else 2), (job, words)
print(*[name for name in {LARGE} if name in sys.modules], file=sys.stderr)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stderr.splitlines()[-1] == ""
    assert all(f"python jobs/{name}.py [" in done.stdout for name in JOBS)


def test_every_job_has_its_script() -> None:
    assert {path.stem for path in (ROOT / "jobs").glob("*.py")} == JOBS.keys()


@pytest.mark.parametrize("name", JOBS)
def test_what_a_job_names_is_there(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    job, settings = JOBS[name], names()
    for each in (job, *job.instead.values()):
        assert each.help.endswith(".") and all(map(callable, each.functions()))
    for setting in job.reads:
        assert any(f"{each}.".startswith(f"{setting}.") for each in settings), setting
    assert {f"{branch}.output" for branch in job.writes} <= {*settings}
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("DMD_CONFIG", raising=False)
    for example in job.examples:
        load(shlex.split(example), job)


def test_ray_dmd_runs_the_job_that_it_names(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def answer(*words: str) -> int:
        monkeypatch.setattr(sys, "argv", ["/bin/ray-dmd", *words])
        return jobs.ray_dmd()

    assert answer() == answer("--help") == 0
    listed = capsys.readouterr().out
    assert all(f"  {name} " in listed and job.help in listed for name, job in JOBS.items())
    assert answer("distil", "--help") == 2
    error = capsys.readouterr().err
    assert error.startswith("distil: ") and "distill" in error and error.count("\n") == 1
    assert answer("--completion", "sh") == 2
    assert capsys.readouterr().err.startswith("--completion: sh ")
    with pytest.raises(SystemExit, match="0"):
        answer("pairs", "--help")
    assert capsys.readouterr().out.startswith("usage: ray-dmd pairs ")
    assert answer("pairs", "--pairs.count", "0") == 2
    assert capsys.readouterr().err.startswith("pairs.count: 0 ")


def test_a_shell_completes_jobs_settings_and_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["ray-dmd", "--completion", "bash"])
    assert jobs.ray_dmd() == 0
    script = capsys.readouterr().out
    (tmp_path / "own.yaml").touch()
    for words, found in (
        ("ray-dmd e", "encode embed export evaluate"),
        ("ray-dmd pairs --pairs.guidance_", "_2 _until _norm"),
        ("ray-dmd export --config o", "own.yaml"),
    ):
        asked = f"COMP_WORDS=({words}); COMP_CWORD={words.count(' ')}; _shtab_ray_dmd"
        told = subprocess.check_output(
            ["bash", "-c", f"{script}\n{asked}\necho ${{COMPREPLY[@]}}"], cwd=tmp_path, text=True
        )
        assert told.replace("--pairs.guidance", "").split() == found.split()
