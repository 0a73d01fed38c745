"""From the config to a run ready to step: networks, optimisers, data."""

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, broadcast_object_list
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)

from pipeline.config import Config, DistillConfig
from pipeline.data.reader import PairReader
from pipeline.diffusion import seeds
from pipeline.diffusion.buckets import Buckets
from pipeline.diffusion.condition import Condition
from pipeline.methods.dmd import DMD
from pipeline.methods.microbatch import Microbatch, RealImages
from pipeline.models.attention_backend import for_training, use_attention
from pipeline.models.compilation import compile_network
from pipeline.models.condition import Prompts
from pipeline.models.critic import Critic
from pipeline.models.denoiser import Denoiser
from pipeline.models.ema import Average, ema_of
from pipeline.models.encoders import encode_prompts
from pipeline.models.half import HALF, compute_in_half, tell_half
from pipeline.models.quantized import quantized
from pipeline.models.sampling import guide
from pipeline.runs.checkpoint import State
from pipeline.runs.init_from import InitFrom
from pipeline.runs.roll_back import rolled_back
from pipeline.runs.run import Run
from pipeline.training.clock import Clock
from pipeline.training.flops import StepFlops, step_flops
from pipeline.training.gan_images import new_source
from pipeline.training.method import build_method, new_networks
from pipeline.training.probe import Prober
from pipeline.training.sample_grid import PromptGrid, SampleGrid
from pipeline.training.step import TrainStep
from pipeline.training.trained import critic_rate, in_training, student_rate


@dataclass(frozen=True)
class TrainingRun:
    """A run ready to step.

    Attributes:
        step: The optimiser step.
        microbatches: This worker's microbatches at a step, by their numbers: the same draws and
            whichever worker has them.
        grid: Pictures from fixed noise.
        prompts: Pictures of `distill.sample_prompts`; None without any.
        prober: Makes probes of the networks in training.
        ema: Moving average of the student, which the hook `EMA` updates.
        state: What a checkpoint holds.
        fingerprint: SHA-256 of all that defines the optimisation.
        flops: Of a step; None on other workers than the first, and where they cannot be counted.
    """

    step: TrainStep
    microbatches: Callable[[int], dict[int, Microbatch]]
    grid: SampleGrid
    prompts: PromptGrid | None
    prober: Prober
    ema: Average
    state: State
    fingerprint: str
    flops: StepFlops | None


def prepare(config: Config) -> TrainingRun:
    """Build a run at step 0 on this worker's device.

    Raises:
        UserError: If the teacher, the pairs, the weights to start from or those of the distance
            cannot be read, do not belong together, or are not those that the run was begun with.
    """
    distill, accelerator = config.distill, _accelerator()
    device = accelerator.device
    run = Run(config)
    run.check_own()
    teacher = quantized(run.load_teacher(), distill.quantize, device)
    # A base that all share stays on the host until it has the type that it is held in.
    if distill.quantize or not distill.shares_base:
        teacher = teacher.to(device)
    method = build_method(distill, teacher, device)
    prompts = _prompt_grid(run, method, teacher, accelerator)
    student, critic = new_networks(distill, config.network, config.seed, teacher)
    if distill.start_from:
        InitFrom(distill, config.teacher, config.s3).load(student, critic)
    flops = None
    if accelerator.is_main_process:
        guidance = config.pairs.guidance
        flops = step_flops(method, (teacher, student, critic), guidance, config.seed)
    half = distill.precision == "bf16"
    if half:
        compute_in_half(teacher)
    teacher, student, critic = teacher.to(device), student.to(device), critic.to(device)
    if not distill.sharded:
        compile_network(teacher, distill.compile, distill.recompute)
    ema = ema_of(student, distill.ema)
    networks = {"student": student, "critic": critic, "ema": ema}
    use_attention(teacher, distill.attention, "distill.attention")
    for learner in (student, critic):
        use_attention(learner, for_training(distill.attention), "distill.attention")
    if distill.sharded and dist.is_initialized():
        for network in (student, critic, *([teacher] if distill.shard_teacher else [])):
            _shard(network, device, half)
        _shard(ema, device, half=False)
    rates = {"student": _since_roll_back(run, accelerator), "critic": critic_rate(distill)}
    trained = {
        name: in_training(networks[name], rate, accelerator, distill)
        for name, rate in rates.items()
    }

    def source(teacher: Denoiser) -> _Source:
        pairs, size = None, distill.regression.batch_size // distill.lanes
        if method.recipe.needs.pairs:
            pairs = run.pairs.reader(config.seed, size, teacher.shape)
        method_here = method.at(teacher.shape, teacher.schedule)
        return _Source(method_here, pairs, new_source(config, teacher))

    guided = guide(teacher, config.pairs.guided)
    solver = (config.pairs.solver, config.pairs.steps, config.pairs.guided)
    return TrainingRun(
        step=TrainStep(
            method=method,
            student=trained["student"],
            critic=trained["critic"],
            teacher=guided,
            accelerator=accelerator,
            microbatches=distill.lanes,
            clip=distill.clip,
            clock=Clock(device),
        ),
        microbatches=_Microbatches(
            [source(teacher.at(shape)) for shape in teacher.buckets.shapes],
            teacher.buckets,
            distill,
            config.seed,
            accelerator,
        ),
        grid=SampleGrid(method, teacher, guided, solver, config.seed, device),
        prompts=prompts,
        prober=Prober(method, teacher, solver, distill, config.seed, accelerator),
        ema=ema,
        state=State(networks, {name: each.optimizer for name, each in trained.items()}),
        fingerprint=run.fingerprint,
        flops=flops,
    )


def _prompt_grid(
    run: Run, method: DMD, teacher: Denoiser, accelerator: Accelerator
) -> PromptGrid | None:
    """Of prompts that the first worker encodes, before there is a student: encoders are large."""
    prompts, device = run.config.distill.sample_prompts, accelerator.device
    if not prompts:
        return None
    encoded = list[list[Condition]]([[]])
    if accelerator.is_main_process:
        own = teacher.conditioner if isinstance(teacher.conditioner, Prompts) else None
        encoded[0] = encode_prompts(run.local.teacher, prompts, own, device)
    broadcast_object_list(encoded)
    return PromptGrid(method, teacher, prompts, encoded[0], run.config.seed, device)


def _since_roll_back(run: Run, accelerator: Accelerator) -> Callable[[int], float]:
    """The student's learning rate, lower if the run went back; as the first worker sees it."""
    found = rolled_back(run) if accelerator.is_main_process else None
    shared, rate = [found.rate if found else 1.0], student_rate(run.config.distill)
    broadcast_object_list(shared)
    return lambda step: shared[0] * rate(step)


def _accelerator() -> Accelerator:
    # PyTorch's DDP rebuilds its buckets after the first step of a process, and three and more
    # workers then sum in another order after a restart: with this it does not. Buffers never
    # change, and a quantised base is made of them: none are sent at every call.
    # Its new name would have buffers sent at the start, and those of all workers are equal.
    warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
    wrapper = DistributedDataParallelKwargs(find_unused_parameters=True, broadcast_buffers=False)
    return Accelerator(
        cpu=not torch.cuda.is_available() or os.environ.get("ACCELERATE_TORCH_DEVICE") == "cpu",
        kwargs_handlers=[wrapper],
    )


def _shard(network: nn.Module, device: torch.device, half: bool) -> None:
    """Split the weights over all workers with FSDP2, block by block.

    With `half` the network computes with weights that are gathered in bfloat16; their gradients
    are added up in float32.
    """
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    policy = MixedPrecisionPolicy(cast_forward_inputs=False)
    if half:
        policy = replace(policy, param_dtype=HALF, reduce_dtype=torch.float32)
        tell_half(network)
    for block in _blocks(network):
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(network, mesh=mesh, mp_policy=policy, reshard_after_forward=True)
    for method in (
        ("denoise", "logits", "denoise_and_logits") if isinstance(network, Critic) else ()
    ):
        register_fsdp_forward_method(network, method)


def _blocks(network: nn.Module) -> Iterator[nn.Module]:
    """The members of the outermost lists of modules."""
    for child in network.children():
        yield from child if isinstance(child, nn.ModuleList) else _blocks(child)


@dataclass(frozen=True)
class _Source:
    """What microbatches of one shape are drawn from.

    Args:
        method: What is drawn.
        pairs: Stored pairs, where the method needs them.
        real: The index-th batch of real images, where it needs them.
    """

    method: DMD
    pairs: PairReader | None
    real: Callable[[int], RealImages] | None


@dataclass(frozen=True)
class _Microbatches:
    """This worker's microbatches at a step, by their numbers.

    Args:
        sources: Of each bucket.
        buckets: Which of them a microbatch is of.
        distill: Sizes.
        seed: Of all draws.
        accelerator: Which worker this is.
    """

    sources: Sequence[_Source]
    buckets: Buckets
    distill: DistillConfig
    seed: int
    accelerator: Accelerator

    def __call__(self, step: int) -> dict[int, Microbatch]:
        rank, workers = self.accelerator.process_index, self.accelerator.num_processes
        count = self.distill.lanes
        mine = {number: self._draw(step, number) for number in range(rank, count, workers)}
        if self.distill.sharded and len(mine) < -(-count // workers):
            mine[rank + len(mine) * workers] = replace(mine[rank], weight=0.0)
        return mine

    def _draw(self, step: int, number: int) -> Microbatch:
        distill, pairs, real = self.distill, None, None
        index = step * distill.lanes + number
        bucket, rank = self.buckets.place(index, "microbatches", self.seed)
        source = self.sources[bucket]
        method, plan = source.method, source.method.plan(step)
        if source.pairs is not None and plan.on_pairs:
            pairs = source.pairs.batch(rank)
        if source.real is not None and plan.critic:
            real = source.real(rank)
        return method.draw(
            distill.batch_size // distill.lanes,
            seeds.generator("distill", self.seed, step, number),
            pairs,
            real,
            method.step_index_at(self.seed, step),
            self.accelerator.device,
        )
