"""One command line for all jobs: precedence, help, dry run, one-line errors, exit codes."""

import json
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path

import pytest
from pydantic.fields import FieldInfo

from pipeline.cli import load, main
from pipeline.cli.job import Job
from pipeline.cli.jobs import JOBS
from pipeline.cli.options import kind_of, parse, settings
from pipeline.config import Config, settings_yaml
from pipeline.methods.terms import TERMS
from pipeline.utils.errors import UserError
from tests.extension.toy_term import ZeroMean

JOB = """
import sys
from pipeline.cli import main
from pipeline.cli.job import Job
sys.exit(main(Job(print)))
"""


@pytest.fixture(autouse=True)
def empty_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "settings.yaml"
    path.write_text("")
    monkeypatch.setenv("DMD_CONFIG", str(path))
    return path


def refuse(_: Config) -> None:
    raise AssertionError("started")


REFUSE = Job(refuse)


def leaves(tree: dict[str, object], prefix: str = "") -> list[str]:
    """Dotted names of all leaves."""
    return [
        name
        for key, value in tree.items()
        for name in (
            leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else [prefix + key]
        )
    ]


def test_command_line_before_file_before_defaults(empty_file: Path) -> None:
    empty_file.write_text("seed: 1\ndistill: {steps: 2000, clip: 5, critic: {lr: 1e-4}}\n")
    arguments = ["--distill.steps", "4000", "--distill.matching.range", "[0.3,0.6]"]
    config = load(arguments)
    assert (config.seed, config.distill.steps, config.distill.clip) == (1, 4000, 5.0)
    assert config.distill.critic.lr == 1e-4
    assert config.distill.matching.range == (0.3, 0.6)
    assert config.distill.lanes == Config().distill.lanes


@pytest.mark.parametrize("own", ["distill.student.lora.rank", "distill.critic.lora.alpha"])
def test_a_setting_changes_itself_alone_where_an_alias_names_two(own: str) -> None:
    file = "configs/flux2-klein-4-step.yaml"
    assert "*lora" in Path(file).read_text()
    before, after = (
        dict(flat(load([f"--config={file}", *more]).model_dump())) for more in ([], [f"--{own}=1"])
    )
    assert {name for name, value in after.items() if value != before[name]} == {own}


@pytest.mark.parametrize("name", [name for name, _, _ in settings()])
def test_an_empty_value_is_refused(name: str) -> None:
    """A variable of the shell that is not set."""
    with pytest.raises(UserError, match="its value is empty; write null"):
        load([f"--{name}="])


def flat(tree: dict[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Leaves by their dotted names."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def test_words_without_a_name_go_to_their_setting() -> None:
    job = JOBS["report"]
    assert load(["a", "b"], job).report.runs == ("a", "b")
    config = load(["a", "--report.output", "x.html", "2024", "--seed=3"], job)
    assert (config.report.runs, config.report.output, config.seed) == (("a", "2024"), "x.html", 3)
    assert load(["--seed", "3"], job).report.runs == ()
    with pytest.raises(UserError, match="report.run: unknown setting; did you mean report.runs"):
        load(["a", "--report.run", "b"], job)


@pytest.mark.parametrize(
    ("arguments", "setting", "value"),
    [
        ("--distill.steps 2e3", "steps", 2000),
        ("--distill.steps 2.5e3", "steps", 2500),
        ("--distill.gan.blocks 1,3", "gan.blocks", (1, 3)),
        ("--distill.clip 1e1", "clip", 10.0),
        ("--distill.ema 5e-1", "ema", 0.5),
        ("--distill.student.times 1,7.5e-1", "student.times", (1.0, 0.75)),
    ],
)
def test_numbers_as_people_write_them(arguments: str, setting: str, value: object) -> None:
    found = attrgetter(setting)(load(arguments.split()).distill)
    assert found == value and type(found) is type(value)


KINDS = {name: kind_of(schema) for name, _, schema in settings()}


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if "INT" in kind])
def test_wherever_a_whole_number_is_asked_it_may_be_written_as_people_do(name: str) -> None:
    typed, wanted = ("1e3", 1000) if KINDS[name] == "INT" else ("1e3,749", [1000, 749])
    given = parse(REFUSE, [f"--{name}", typed])[0][name]
    assert json.dumps(given) == json.dumps(wanted)


def test_a_setting_of_a_term_has_a_name_as_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TERMS, "zero_mean", ZeroMean)
    terms = load(["--distill.terms.zero_mean.weight", "1e-1"]).distill.terms
    assert {name: each.model_dump() for name, each in terms.items()} == {
        "zero_mean": {"weight": 0.1}
    }
    wrong = "distill.terms.zero_mean.weight: -1 is out of range: must be at least 0"
    with pytest.raises(UserError, match=re.escape(wrong)):
        load(["--distill.terms.zero_mean.weight=-1"])


def test_config_option_before_environment(tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text("seed: 7")
    assert load(["--config", str(other)]).seed == 7


def test_text_settings_take_any_text() -> None:
    config = load(["--run", "2024", "--pairs.output", "null", "--distill.output=1e3"])
    assert Path(config.run).name == "2024"
    assert config.pairs.output == f"{config.run}/pairs"
    assert Path(config.distill.output).name == "1e3"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--distill.step 5", "distill.step: unknown setting; did you mean distill.steps?"),
        ("--distil.lanes=5", "distil.lanes: unknown setting; did you mean distill.lanes?"),
        ("--lanes 5", "lanes: unknown setting; did you mean distill.lanes?"),
        (
            "--shape 5",
            "shape: unknown setting; did you mean teacher.gaussian.shape?",
        ),
        ("--zzz 5", "zzz: unknown setting; --help-all lists all settings"),
        ("--max_train_steps 5", "max_train_steps: unknown setting; use distill.steps"),
        (
            "--train-batch-size=5",
            "train-batch-size: unknown setting; use distill.batch_size, that of all workers "
            "together",
        ),
        ("--pairs.count 5,100", "pairs.count: [5, 100] is not accepted: must be a whole number"),
        (
            "--teacher.image_size large",
            'teacher.image_size: "large" is not accepted: must be a whole number or a list such as '
            "[large, ...]",
        ),
        (
            "--distill.critic 5",
            "distill.critic: a group of settings, not a setting; "
            "it has distill.critic.lr, distill.critic.range, distill.critic.ida, "
            "distill.critic.embedded_guidance, "
            "distill.critic.lora.rank, distill.critic.lora.alpha, distill.critic.lora.modules",
        ),
        ("5", "5: unexpected argument; write settings as `--distill.steps 500`"),
        ("--seed", "seed: no value is given; write --seed VALUE"),
        ("--dry-run=yes", "dry-run: 'yes' is given, but it takes no value; write --dry-run"),
        ("--dry-run --help-all", "help-all: does not go with --dry-run; give one of them"),
        ("--dry_run", "dry_run: unknown setting; did you mean dry-run?"),
        (
            "--distill.lr 1",
            "distill.lr: unknown setting; use distill.student.lr and distill.critic.lr",
        ),
        ("--pairs.count 1,000", 'pairs.count: "1,000" is not accepted: must be a whole number'),
        (
            "--pairs.batch_size none",
            'pairs.batch_size: "none" is not accepted: must be a whole number, or null for none',
        ),
        ("--pairs.count -5", "pairs.count: -5 is out of range: must be more than 0"),
        (
            "--distill.ema 1",
            "distill.ema: 1 is out of range: must be less than 1",
        ),
        ("--pairs.count abc", 'pairs.count: "abc" is not accepted: must be a whole number'),
        ("--pairs.count 1.5", "pairs.count: 1.5 is not accepted: must be a whole number"),
        ("--seed true", "seed: true is not accepted: must be a whole number"),
        (
            "--distill.recompute 1",
            "distill.recompute: 1 is not accepted: must be true, false, or a number n, 2 or more, "
            "for every n-th",
        ),
        ("--distill.clip .inf", "distill.clip: Infinity is not accepted: must be a finite number"),
        (
            "--pairs.solver hein",
            'pairs.solver: "hein" is not accepted: must be one of euler, heun, dpmpp_2m, plms',
        ),
        (
            "--distill.matching.range [0.2,1.5]",
            "distill.matching.range[1]: 1.5 is out of range: must be at most 1",
        ),
        (
            "--distill.matching.range [0.8,0.2]",
            "distill.matching.range: [0.8, 0.2] is not accepted: "
            "must rise, from a lower to a higher part",
        ),
        (
            "--distill.matching.range 0.2",
            "distill.matching.range: 0.2 is not accepted: must be a list such as [0.2, ...]",
        ),
        (
            "--pairs.count 5100",
            "pairs.count: 5100 is not a multiple of pairs.shard_size (500); use 5000 or 5500",
        ),
    ],
)
def test_bad_argument_is_one_line(
    arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(REFUSE, arguments.split()) == 2
    assert capsys.readouterr() == ("", f"{message}\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("distill: {step: 5}", "distill.step: unknown setting; did you mean distill.steps?"),
        ("distil: {steps: 5}", "distil: unknown setting; did you mean distill?"),
        ("pairs: 5", "pairs: 5 is not accepted: must be a group of settings"),
        ("pairs:", "pairs: null is not accepted: must be a group of settings"),
        ("run: 5", "run: 5 is not accepted: must be text"),
        ("just words", "FILE: holds no settings; write them as `key: value`"),
        ("seed: 1\nseed: 2", "FILE, line 2, column 1: malformed YAML: seed stands twice"),
        (
            "a: b: c",
            "FILE, line 1, column 5: malformed YAML: mapping values are not allowed here",
        ),
        ("a: \x00", "FILE: malformed YAML: unacceptable character #x0000: "),
    ],
)
def test_bad_file_is_one_line(
    text: str, message: str, empty_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty_file.write_text(text)
    assert main(REFUSE, []) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert error.count("\n") == 1
    assert error.startswith(message.replace("FILE", str(empty_file)))


def test_files_of_this_package_are_found_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DMD_CONFIG")
    assert load(["--config", "configs/mnist.yaml"]).data.name == "mnist"
    assert load([]).data.name == "digits"
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "mnist.yaml").write_text("seed: 7")
    assert load(["--config", "configs/mnist.yaml"]).seed == 7


def test_a_run_that_is_named_alone_goes_on_with_its_own_settings(
    tmp_path: Path,
    empty_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """If it was left there by this user, for this folder; a line says which they are."""
    run, moved, flags = tmp_path / "run", tmp_path / "moved", ["--seed", "3"]
    kept = run / "distill" / "config.yaml"
    kept.parent.mkdir(parents=True)
    settings = load(["--run", str(run), "--distill.steps", "2000"]).model_dump(mode="json")
    kept.write_text(settings_yaml.dump(settings))

    def steps(*arguments: str) -> int:
        return load([*arguments, *flags]).distill.steps

    assert steps("--run", str(run)) == Config().distill.steps  # DMD_CONFIG names a file
    monkeypatch.delenv("DMD_CONFIG")
    assert steps("--run", str(run)) == 2000
    assert steps("--run", str(run), "--distill.steps", "4000") == 4000
    assert steps("--run", str(run), "--config", str(empty_file)) == Config().distill.steps
    assert main(Job(print), ["--run", str(run)]) == 0
    assert str(kept) in capsys.readouterr().out.splitlines()[0]

    run.rename(moved)
    digits = load([]).distill.steps
    assert steps("--run", str(moved)) == digits
    assert main(Job(print), ["--run", str(moved), "--dry-run"]) == 0
    printed = capsys.readouterr()
    assert "digits.yaml" in printed.out.splitlines()[0] and not printed.err
    assert settings_yaml.read_text(printed.out.encode(), "dry run")["run"] == str(moved)
    moved.rename(run)
    monkeypatch.setattr(os, "getuid", lambda: kept.stat().st_uid + 1)
    assert steps("--run", str(run)) == digits


def test_missing_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(REFUSE, ["--config", "none.yaml"]) == 2
    message = "none.yaml: No such file or directory; name a YAML file with --config\n"
    assert capsys.readouterr().err == message


def leaf(name: str) -> FieldInfo:
    """The field of a setting."""
    branch: object = Config
    *groups, last = name.split(".")
    for group in groups:
        branch = branch.model_fields[group].annotation  # type: ignore[attr-defined]
    return branch.model_fields[last]  # type: ignore[attr-defined]


def shown(arguments: list[str], job: Job, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit, match="0"):
        main(job, arguments)
    return capsys.readouterr().out


@pytest.mark.parametrize("name", JOBS)
def test_help_is_a_screen_of_what_the_job_reads(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    job = JOBS[name]
    text = shown(["--help"], job, capsys)
    assert len(text.splitlines()) <= 80
    assert job.help in " ".join(text.split())
    for setting in leaves(Config().model_dump()):
        branch = setting.rpartition(".")[0]
        explained = branch in job.reads or setting in job.reads or not branch
        assert explained == bool(re.search(rf"--{setting} [A-Z[]", text)), setting
    for part in (*job.instead, *job.examples, "config", "dry-run", "help-all"):
        assert part in text


def test_help_all_explains_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(["--help-all"], REFUSE, capsys)
    assert max(map(len, text.splitlines())) <= 100
    flat = " ".join(text.split())
    for name in leaves(Config().model_dump()):
        description = leaf(name).description
        assert f"--{name} " in flat
        assert description and description.endswith(".") and description in flat
    assert "Pairs per shard (one file, one task). [more than 0; default 500]" in flat
    assert "pure noise. [each at least 0; each at most 1; default [0.2, 0.75]]" in flat
    assert "[at least 0; at most 4294967295; default 0]" in flat


def test_dry_run_prints_tree_and_plan_and_starts_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main(REFUSE, ["--dry-run", "--run", str(run), "--pairs.guidance", "2"]) == 0
    assert not run.exists()
    text = capsys.readouterr().out
    again = tmp_path / "again.yaml"
    again.write_text(text)
    config = Config.model_validate(settings_yaml.read(str(again)))
    assert config.pairs.output == f"{run}/pairs"
    plan = [line for line in text.splitlines() if line.startswith("# ")]
    assert text.startswith("\n".join(plan)), "the plan is first"
    assert plan[-12:-7] == [
        "# teacher: 4000 training steps",
        "# pairs: 5000 pairs in 10 shards, 1360000 bytes on disk",
        "# pairs: 70 teacher evaluations per pair (heun, 18 steps, fp32), 350000 in all",
        "# distill: 3000 steps: 1000 regression, 200 critic burn-in, 1800 DMD "
        "with 1800 student steps",
        "# evaluate: 10000 images per network",
    ]
    typed = f"--run {run} --pairs.guidance 2"
    assert f"#   python jobs/pairs.py {typed} " in text and "--dry-run" not in text
    of_runs = Job(print, words="report.runs")
    assert main(of_runs, ["--run", str(run), "other", "--dry-run"], "ray-dmd report") == 0
    (told,) = re.findall(r"ray-dmd pairs .*?(?= #)", capsys.readouterr().out)
    assert told.split() == ["ray-dmd", "pairs", "--run", str(run)], "no words of its own"


def test_exit_codes_of_the_job(capsys: pytest.CaptureFixture[str]) -> None:
    def bad_input(_: Config) -> None:
        raise UserError("pairs.output: full\nno room")

    def interrupted(_: Config) -> None:
        raise KeyboardInterrupt

    def broken(_: Config) -> None:
        raise RuntimeError("bug")

    assert main(Job(print), []) == 0
    assert main(Job(bad_input), []) == 2
    assert capsys.readouterr().err == "pairs.output: full no room\n"
    assert main(Job(interrupted), []) == 130
    with pytest.raises(RuntimeError, match="bug"):
        main(Job(broken), [])


def run_job(name: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """The exit code of a script in `jobs/`, in this process."""
    script = Path(__file__).parents[1] / "jobs" / f"{name}.py"
    monkeypatch.setattr(sys, "argv", [str(script), *arguments])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(script), run_name="__main__")
    return int(ended.value.code or 0)


REFUSED = {
    "teacher": ["--teacher.file", "/none.pkl"],
    "pairs": ["--teacher.output", "/none"],
    "encode": ["--encode.source", "/none"],
    "distill": [],
    "export": [],
    "evaluate": ["--evaluate.student", "/none"],
    "sample": ["--evaluate.student", "/none"],
    "report": [],
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_refused_job_leaves_no_folder_behind(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "new" / "run"
    assert run_job(name, ["--run", str(run), *REFUSED[name]], monkeypatch) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_a_refused_job_leaves_what_is_in_use(tmp_path: Path) -> None:
    """Folders that were there, and what is no longer empty."""
    (tmp_path / "there").mkdir()
    run = tmp_path / "run"

    def job(_: Config) -> None:
        (run / "pairs" / "empty").mkdir(parents=True)
        (run / "log").touch()
        raise UserError("no")

    flags = ["--run", str(run), "--distill.output", str(tmp_path / "there")]
    assert main(Job(job, writes=("pairs", "distill")), flags) == 2
    assert sorted(path.name for path in tmp_path.rglob("*")) == [
        *("log", "run", "settings.yaml", "there")
    ]


@pytest.mark.parametrize("name", JOBS)
def test_a_submitted_job_refuses_what_it_would_lose_and_nothing_else(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "runtime_resources" / "working_dir_files" / "package"
    copy.mkdir(parents=True)
    monkeypatch.chdir(copy)
    assert run_job(name, ["--run", "run", "--dry-run"], monkeypatch) == 2
    lost = f"run: {copy}/run would be lost with this job's copy of the working directory"
    assert capsys.readouterr().err.startswith(lost)
    own = ("pairs", "distill") if name == "doctor" else (name,)
    kept = [f"--{branch}.output={tmp_path}/kept" for branch in own]
    assert run_job(name, ["--run", "run", *kept, "--dry-run"], monkeypatch) == 0
    assert run_job(name, [*kept[1:], f"--{own[0]}.output=out", "--dry-run"], monkeypatch) == 2
    assert f"{own[0]}.output: {copy}/out would be lost" in capsys.readouterr().err


@pytest.mark.parametrize("runs", [["/a", "/b"], ["s3://bucket/a"]])
def test_a_submitted_report_that_would_be_lost_is_refused(
    runs: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Of several runs, or of one in a bucket, it is beside no run."""
    copy = tmp_path / "runtime_resources" / "working_dir_files" / "package"
    copy.mkdir(parents=True)
    monkeypatch.chdir(copy)
    assert run_job("report", [*runs, "--dry-run"], monkeypatch) == 2
    assert f"report.output: {copy}/report.html would be lost" in capsys.readouterr().err
    kept = f"--report.output={tmp_path}/kept.html"
    assert run_job("report", [*runs, kept, "--dry-run"], monkeypatch) == 0
    assert run_job("report", ["/a", "--dry-run"], monkeypatch) == 0


@pytest.mark.parametrize(
    ("size", "pixels"),
    [(8, 64), ([8, 4], 32), (None, None), ([8], None), ("8", None), ([None, 8], None)],
)
def test_the_plan_of_a_teacher_tells_the_size_of_pairs_if_its_file_does(
    size: object,
    pixels: int | None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "unet" / "config.json"
    file.parent.mkdir()
    file.write_text(json.dumps({"in_channels": 3, "sample_size": size}))
    flags = ["--teacher.output", str(tmp_path), "--data.name", "null", "--teacher.prompts", "null"]
    assert main(REFUSE, ["--dry-run", *flags, "--pairs.count", "1000"]) == 0
    told = re.findall(r"(\d+) bytes on disk", capsys.readouterr().out)
    assert told == ([str(1000 * (4 * 3 * pixels + 16))] if pixels else [])


def test_exit_code_in_a_process() -> None:
    command = [sys.executable, "-c", JOB, "--distill.step", "5"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "distill.step: unknown setting; did you mean distill.steps?\n"
