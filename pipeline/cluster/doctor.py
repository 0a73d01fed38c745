"""The check before a run: what would stop it, and what it will cost, before money is spent."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial

from pipeline.cluster import costs
from pipeline.cluster.cluster_checks import ClusterChecks
from pipeline.cluster.costs import Output
from pipeline.cluster.node import Speed, measure_speed
from pipeline.cluster.room import Asked
from pipeline.config import ActorsConfig, Config, WorkersConfig
from pipeline.data import shards
from pipeline.data.fetch import fetch_inputs
from pipeline.data.sources.source import Source
from pipeline.data.storage import Storage, probe
from pipeline.evaluation.reference import SETTING
from pipeline.methods.recipe import Recipe
from pipeline.models.denoiser import Denoiser
from pipeline.models.encoders import check_sample_prompts
from pipeline.models.loading import load_teacher, teacher_fingerprint
from pipeline.models.solver_notes import solver_note
from pipeline.runs.run import Run
from pipeline.stages.pairs import pair_plan
from pipeline.stages.plan import Plan, set_bytes
from pipeline.training.flops import planned_flops
from pipeline.training.memory import CONTEXT, GIB, WORKSPACE, footprint, memory_verdict
from pipeline.utils.errors import UserError, problem_line
from pipeline.utils.uris import is_remote


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        title: What was looked at.
        mark: "ok"; "warn" where a run can go on all the same; "FAIL" where it cannot.
        text: What is there; if it is not ok, what is wrong and the way out.
    """

    title: str
    mark: str
    text: str


def doctor(config: Config) -> None:
    """Say what a run comes to, look at what it needs, and estimate time and cost.

    Raises:
        UserError: If a run would fail; every finding is printed before.
    """
    for line in Plan(config).lines:
        print(f"plan  {line}", flush=True)
    examination = Examination(config)
    findings = []
    for finding in examination.findings():
        print(f"{finding.mark:4}  {finding.title:14} {finding.text}", flush=True)
        findings.append(finding)
    for line in examination.work():
        print(f"cost  {line}")
    if failed := [finding.title for finding in findings if finding.mark == "FAIL"]:
        raise UserError(f"{len(failed)} of {len(findings)} checks failed: {', '.join(failed)}")
    for line in examination.estimate():
        print(f"cost  {line}")


class Examination(ClusterChecks):
    """The checks of one run's configuration, each made once."""

    def __init__(self, config: Config):
        self._pairs = Recipe.of(config.distill).needs.pairs
        shares: dict[str, ActorsConfig | WorkersConfig] = {}
        if self._pairs:
            shares["pairs.actors"] = config.pairs.actors
        shares["distill.workers"] = config.distill.workers
        asked = [Asked(name, s.min, s.cpus, s.gpus) for name, s in shares.items()]
        super().__init__(asked, config.doctor.patience)
        self.config = config
        self._reference = config.evaluate.reference or ""
        self._stored = config.distill.conditions == "stored"

    def findings(self) -> Iterator[Finding]:
        """Every check's result as it comes; one that fails as an earlier one did is left out."""
        pairs = {
            "solver": self.check_solver,
            "pairs.output": lambda: self.check_store("pairs"),
            "pair set": self.check_pairs,
        }
        checks: dict[str, Callable[[], str]] = {
            "inputs": self.check_inputs,
            "Ray": self.check_cluster,
            "room": self.check_room,
            **({"conditions": self.check_conditions} if self._stored else {}),
            "teacher": self.check_teacher,
            **(pairs if self._pairs else {}),
            "distill.output": lambda: self.check_store("distill"),
            **({"evaluate.reference": self.check_reference} if self._reference else {}),
            "versions": self.check_versions,
            "network": self.check_network,
            "shared paths": self.check_shared,
            "disk": self.check_disk,
            "workers": self.check_workers,
            "memory": self.check_memory,
        }
        problems: set[str] = set()
        for title, check in checks.items():
            try:
                yield Finding(title, "ok", check())
            except UserWarning as warning:
                yield Finding(title, "warn", str(warning))
            except Exception as error:
                if (text := problem_line(error)) not in problems:
                    yield Finding(title, "FAIL", text)
                problems.add(text)

    @cached_property
    def local(self) -> Config:
        """The settings with a local copy of the teacher."""
        return fetch_inputs(self.config, "teacher")

    @cached_property
    def teacher(self) -> Denoiser:
        """As a worker has it; with text encoders where stored conditions are still to be made."""
        run = Run(self.local)
        unmade = run.conditions and not run.conditions.made
        return load_teacher(self.local.teacher) if unmade else run.load_teacher()

    @cached_property
    def outputs(self) -> dict[str, Output]:
        """What the run stores, and the conditions that it reads."""
        config, conditions = self.config, Run(self.local).conditions
        pairs = set_bytes(config.pairs.count, self.teacher.buckets)
        whole = footprint(config, self.teacher)
        made = {config.pairs.output: Output(pairs, made=bool(self._manifest))}
        found = {
            **(made if self._pairs else {}),
            config.distill.output: costs.checkpoints(whole, config.distill.keep),
        }
        if conditions:
            precision = config.embed.precision
            stored = costs.stored_conditions(conditions, self.teacher, precision)
            found[config.embed.output] = stored
        return found

    @property
    def folders(self) -> dict[str, str | None]:
        """Local outputs; each that is there already, by a file in it."""
        outputs: dict[str, str | None] = {self.config.distill.output: None}
        if self._pairs:
            outputs[self.config.pairs.output] = self._manifest
        if self._stored:
            store = Storage(self.config.embed.output, self.config.s3, "embed.output")
            outputs[self.config.embed.output] = shards.PLAN if store.list("manifest-") else None
        return {folder: file for folder, file in outputs.items() if not is_remote(folder)}

    @cached_property
    def speeds(self) -> dict[str, Speed]:
        """Of a training worker and, where there are pairs to make, of an actor."""
        settings, patience = self.config.model_dump(mode="json"), self.config.doctor.patience
        return {name: measure_speed(settings, self._asked[name], patience) for name in self.devices}

    def check_inputs(self) -> str:
        """What jobs do not make is there."""
        if problems := Plan(self.config).problems:
            raise UserError("; ".join(problems))
        return "all that is to be given is there"

    def check_conditions(self) -> str:
        """The stored ones are of this teacher and its prompts."""
        found = Run(self.local).conditions
        return found.check() if found else "made by the workers"

    def check_teacher(self) -> str:
        """It can be loaded, and takes the prompts of `distill.sample_prompts`."""
        teacher = self.teacher
        if self.config.distill.sample_prompts:
            check_sample_prompts(self.local.teacher)
        weights = sum(value.numel() for value in teacher.parameters())
        kinds = "classes" if teacher.prompts is None else "prompts"
        return f"{teacher.buckets} images, {teacher.classes or 'no'} {kinds}, {weights:,} weights"

    def check_solver(self) -> str:
        """Any will do; whether it takes the steps of the teacher's own scheduler is told."""
        pairs, scheduler = self.config.pairs, getattr(self.teacher, "scheduler", None)
        if not scheduler:
            return f"pairs.solver {pairs.solver}"
        return solver_note(scheduler, pairs.solver, pairs.steps)

    def check_store(self, branch: str) -> str:
        """Objects can be written there, and never twice; a finished set takes no more."""
        where = getattr(self.config, branch).output
        if branch == "pairs" and self._manifest:
            return f"{where} has all pairs"
        probe(Storage(where, self.config.s3, f"{branch}.output"))
        hints = Run(self.config).hints() if branch == "distill" else []
        return "; ".join([f"{where} takes objects, each once", *hints])

    @cached_property
    def _manifest(self) -> str | None:
        """Its name, if all pairs are there."""
        name = f"manifest-{self.config.pairs.count}.json"
        store = Storage(self.config.pairs.output, self.config.s3, "pairs.output")
        if name not in store.list(name):
            return None
        try:
            shards.check_stored(store, shards.read_manifest(store, ids=self.config.pairs.count))
        except UserError:
            return None
        return name

    def check_pairs(self) -> str:
        """What is there already is of this teacher and these settings."""
        store = Storage(self.config.pairs.output, self.config.s3, "pairs.output")
        if shards.PLAN not in store.list(shards.PLAN):
            return "none yet"
        wanted = pair_plan(self.local.teacher, self.config.pairs, self.config.seed)
        if shards.finished(store, wanted, self.config.pairs.count):
            return "of this teacher, none left to be made"
        shards.open_plan(store, wanted)
        left = len(shards.missing(store, wanted, self.config.pairs.count))
        if store.list("manifest-"):
            shards.read_manifest(store).check_teacher(teacher_fingerprint(self.local.teacher))
        return f"of this teacher, {left} shards to be made"

    def check_reference(self) -> str:
        """There are real images to compare with."""
        found = Source(self._reference, self.config.s3, SETTING)
        return f"{found.kind} files in {found.path}"

    def check_disk(self) -> str:
        """Local folders have room for what is not made yet."""
        missing = {folder: each for folder, each in self.outputs.items() if not each.made}
        needs = {folder: each.bytes for folder, each in missing.items()}
        for node in self.nodes:
            for folder, free in node.free.items():
                if free < needs.get(folder, 0):
                    raise UserError(
                        f"{folder} needs {needs[folder] / GIB:.2f} GiB and has {free / GIB:.2f} "
                        "free: free space, lower distill.keep or pairs.count, or use s3://"
                    )
        most = ", at most" if any(each.most for each in missing.values()) else ""
        return f"{sum(needs.values()) / GIB:.2f} GiB needed{most}"

    def check_workers(self) -> str:
        """A node that takes an actor's or a worker's task can load the teacher."""
        return "; ".join(f"{name} on {speed.device}" for name, speed in self.speeds.items())

    def check_memory(self) -> str:
        """The networks of training fit a worker."""
        distill = self.config.distill
        found = partial(footprint, self.config, self.teacher, distill.workers.min)
        beside = (CONTEXT, WORKSPACE) if distill.workers.gpus else ()
        try:
            memory = self.devices["distill.workers"].memory
        except UserError as error:
            needs = (found(distill.recompute).total + sum(beside[:1])) / GIB
            raise UserWarning(
                f"{needs:.2f} GiB for a worker of distill, if there were one"
            ) from error
        return memory_verdict(found, distill.recompute, memory, *beside)

    def work(self) -> list[str]:
        """Work of a step, also where nothing could do it; nothing without a teacher."""
        config, distill = self.config, self.config.distill
        try:
            whole = planned_flops(
                distill, config.network, config.seed, config.pairs.guidance, self.teacher
            )
        except Exception:  # a check has told it
            return []
        try:
            device = self.devices["distill.workers"].name
        except UserError:
            device = "none"
        return [costs.work(whole, distill, device)] if whole else []

    def estimate(self) -> list[str]:
        """Hours and price of both jobs, from the measured speeds."""
        config, stored = self.config, sum(each.bytes for each in self.outputs.values())
        return costs.estimate(config.pairs, config.distill, config.doctor, stored, self.speeds)
