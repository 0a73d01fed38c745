"""The check before a run: what would stop it, and what it will cost, before money is spent."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import ray

from pipeline.cluster.network import check_reach
from pipeline.cluster.node import Node, Speed, look_at_nodes, measure_speed, versions
from pipeline.cluster.session import connect
from pipeline.config import ActorsConfig, Config, WorkersConfig
from pipeline.data import shards
from pipeline.data.fetch import fetch_inputs
from pipeline.data.sources.source import Source
from pipeline.data.storage import Storage, probe
from pipeline.evaluation.reference import SETTING
from pipeline.models.denoiser import Denoiser
from pipeline.models.loading import teacher_fingerprint
from pipeline.models.solver_notes import solver_note
from pipeline.runs.run import Run
from pipeline.stages.pairs import pair_plan
from pipeline.stages.plan import plan, set_bytes, teacher_calls, training_calls
from pipeline.training.memory import Footprint, footprint, memory_verdict
from pipeline.utils.errors import UserError, problem_line
from pipeline.utils.uris import is_remote

GIB = 2**30
CONTEXT = GIB
"""Bytes that CUDA and its libraries take beside a network."""


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
    """Look at teacher, stores, cluster and memory, and estimate time and cost.

    Raises:
        UserError: If a run would fail; every finding is printed before.
    """
    examination = Examination(config)
    findings = []
    for finding in examination.findings():
        print(f"{finding.mark:4}  {finding.title:14} {finding.text}", flush=True)
        findings.append(finding)
    for line in plan(config):
        print(f"plan  {line}")
    if failed := [finding.title for finding in findings if finding.mark == "FAIL"]:
        raise UserError(f"{len(failed)} of {len(findings)} checks failed: {', '.join(failed)}")
    for line in examination.estimate():
        print(f"cost  {line}")


class Examination:
    """The checks of one run's configuration, each made once."""

    def __init__(self, config: Config):
        self.config = config
        self._reference = config.evaluate.reference or ""
        self._stored = config.distill.conditions == "stored"

    def findings(self) -> Iterator[Finding]:
        """Every check's result as it comes; one that fails as an earlier one did is left out."""
        checks: dict[str, Callable[[], str]] = {
            **({"conditions": self.check_conditions} if self._stored else {}),
            "teacher": self.check_teacher,
            "solver": self.check_solver,
            "pairs.output": lambda: self.check_store("pairs"),
            "distill.output": lambda: self.check_store("distill"),
            "pair set": self.check_pairs,
            **({"evaluate.reference": self.check_reference} if self._reference else {}),
            "Ray": self.check_cluster,
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
        """As a worker has it."""
        return Run(self.local).load_teacher()

    @cached_property
    def nodes(self) -> list[Node]:
        """Every node that is there now, and what it sees of the local outputs."""
        self.check_cluster()
        outputs = {self.config.pairs.output: self._manifest, self.config.distill.output: None}
        outputs |= {self.config.embed.output: shards.PLAN} if self._stored else {}
        local = {folder: file for folder, file in outputs.items() if not is_remote(folder)}
        return look_at_nodes(local, self.config.doctor.patience)

    @cached_property
    def speeds(self) -> dict[str, Speed]:
        """Of a pair actor and of a training worker, on the resources each will have."""
        self.check_cluster()
        settings, patience = self.config.model_dump(mode="json"), self.config.doctor.patience
        shares: dict[str, ActorsConfig | WorkersConfig] = {
            "pairs.actors": self.config.pairs.actors,
            "distill.workers": self.config.distill.workers,
        }
        return {
            name: measure_speed(settings, name, share.cpus, share.gpus, patience)
            for name, share in shares.items()
        }

    def check_conditions(self) -> str:
        """The stored ones are of this teacher and its prompts."""
        found = Run(self.local).conditions
        return found.check() if found else "made by the workers"

    def check_teacher(self) -> str:
        """It can be loaded."""
        teacher = self.teacher
        weights = sum(value.numel() for value in teacher.parameters())
        return f"{teacher.buckets} images, {teacher.classes or 'no'} classes, {weights:,} weights"

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

    def check_cluster(self) -> str:
        """Ray answers, with this token and this version."""
        if self._unjoined:
            raise UserError(self._unjoined)
        now = ray.cluster_resources()
        return f"{now.get('CPU', 0):g} CPUs and {now.get('GPU', 0):g} GPUs now"

    @cached_property
    def _unjoined(self) -> str:
        """Why Ray cannot be joined; "" if it can."""
        try:
            connect()
        except UserError as error:
            return str(error)
        return ""

    def check_versions(self) -> str:
        """All nodes run what this process runs."""
        mine = versions()
        for node in self.nodes:
            for name, version in mine.items():
                if node.versions.get(name) != version:
                    raise UserError(
                        f"node {node.address} has {name} {node.versions.get(name)}, this process "
                        f"{version}: install the same constraints.txt on all nodes"
                    )
        return ", ".join(f"{name} {version}" for name, version in mine.items())

    def check_network(self) -> str:
        """Strangers do not reach the cluster."""
        return check_reach([node.address for node in self.nodes])

    def check_shared(self) -> str:
        """All nodes see the local folders, if there are some."""
        for node in self.nodes:
            for folder, seen in node.sees.items():
                if not seen:
                    raise UserError(
                        f"node {node.address} does not see {folder}: give a folder that all nodes "
                        "share, or s3://bucket/prefix"
                    )
        return f"{len(self.nodes)} nodes see all folders"

    def check_disk(self) -> str:
        """Local folders have room for pairs, unless they are made, and checkpoints."""
        needs = self._needs() | ({self.config.pairs.output: 0} if self._manifest else {})
        for node in self.nodes:
            for folder, free in node.free.items():
                if free < needs.get(folder, 0):
                    raise UserError(
                        f"{folder} needs {needs[folder] / GIB:.2f} GiB and has {free / GIB:.2f} "
                        "free: free space, lower distill.keep or pairs.count, or use s3://"
                    )
        return f"{sum(needs.values()) / GIB:.2f} GiB needed"

    def check_workers(self) -> str:
        """A node takes an actor's and a worker's task and can load the teacher."""
        return "; ".join(f"{name} on {speed.device}" for name, speed in self.speeds.items())

    def check_memory(self) -> str:
        """The networks of training fit a worker."""
        distill, memory = self.config.distill, self.speeds["distill.workers"].memory

        def footprint_of(recompute: bool | int) -> Footprint:
            told = distill.model_copy(update={"recompute": recompute})
            config = self.config.model_copy(update={"distill": told})
            return footprint(config, self.teacher, distill.workers.min)

        context = CONTEXT if distill.workers.gpus else 0
        return memory_verdict(footprint_of, distill.recompute, memory, context)

    def estimate(self) -> list[str]:
        """Hours and price of both jobs, from the measured speeds."""
        config, prices, total, lines = self.config, self.config.doctor, 0.0, []
        work = {
            "pairs.actors": (teacher_calls(config.pairs) * config.pairs.count, 0.0),
            "distill.workers": training_calls(config.distill, config.pairs.guidance).evaluations(),
        }
        for name, (by_teacher, by_student) in work.items():
            speed = self.speeds[name]
            share = config.pairs.actors if name == "pairs.actors" else config.distill.workers
            hours = (by_teacher * speed.teacher + by_student * speed.student) / 3600
            price = hours * (share.gpus * prices.gpu_hour + share.cpus * prices.cpu_hour)
            total += price
            kind = "GPU" if share.gpus else "worker"
            lines.append(f"{name.split('.')[0]}: {hours:.3g} {kind}-hours, {price:.2f}")
        stored = sum(self._needs().values()) / GIB
        month = stored * prices.gib_month
        lines.append(f"storage: {stored:.3g} GiB, {month:.2f} a month")
        lines.append(f"in all: {total:.2f}, and {month:.2f} a month (prices: doctor.*)")
        return lines

    def _needs(self) -> dict[str, int]:
        """Bytes that each output will take."""
        config = self.config
        whole = footprint(config, self.teacher)
        state = whole.moments + 3 * whole.gradients // 2  # gradients are of two networks of three
        return {
            config.pairs.output: set_bytes(config.pairs.count, self.teacher.buckets),
            config.distill.output: (config.distill.keep + 2) * state,
        }
