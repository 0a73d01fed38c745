"""All is made where the networks are: on PyTorch's device without data, as it must be on a GPU.

That device refuses a mixture in elementwise operations, in norms and in `cat`; products and
convolutions let it pass. Fresh noise between steps needs values, and is not tried.
"""

from collections.abc import Callable

import pytest
import torch

from pipeline.config import Config, NetworkConfig, S3Config
from pipeline.data.storage import Storage
from pipeline.diffusion.pairs import PairBatch
from pipeline.diffusion.solver import SOLVERS
from pipeline.methods.microbatch import StepPlan
from pipeline.models.denoiser import Denoiser
from pipeline.models.families.edm import new_unet
from pipeline.models.loading import load_teacher
from pipeline.models.sampling import guide, sample_teacher
from pipeline.models.students import new_critic, new_student
from pipeline.runs.async_saver import AsyncSaver
from pipeline.runs.checkpoint import State
from pipeline.runs.checkpoint_store import CheckpointStore
from pipeline.training.method import build_method
from tests.fixtures.tiny_models import save_tiny

NETWORK = NetworkConfig(channels=(8, 16), attention=(False, True), norm_groups=4)
ROWS = 2
TIMES = {"pixels": [80, 6], "sdxl": [999, 499], "sd3": [1.0, 0.5]}
LORA = {"student": {"lora": {"rank": 2}}, "critic": {"lora": {"rank": 2}}}


@pytest.fixture(scope="module")
def teacher_of(tmp_path_factory) -> Callable[[str], Denoiser]:
    """Loads one: a UNet on pixels, or of a family of latents."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "prompts").write_text('"a cat"\n"a dog"\n')
    for kind in TIMES.keys() - {"pixels"}:
        save_tiny(folder / kind, kind)

    def load(kind: str) -> Denoiser:
        if kind == "pixels":
            return new_unet(NETWORK, (1, 8, 8), 3, seed=1).to("meta")
        settings = {"output": str(folder / kind), "prompts": str(folder / "prompts")}
        return load_teacher(Config.model_validate({"teacher": settings}).teacher).to("meta")

    return load


@pytest.mark.parametrize("kind", TIMES)
@pytest.mark.parametrize("two_steps", [False, True], ids=["one step", "two steps"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        LORA,
        {"draws": "shared", "gan": {"divergence": "js", "smoothness": 0.1}},
        {"matching": {"loss": "sid"}},
    ],
    ids=["separate", "lora", "f-distill", "sid"],
)
def test_a_step_stays_on_one_device(kind, two_steps, settings, teacher_of):
    teacher = teacher_of(kind)
    gan = {"real": "encoded", "student_weight": 0.1, **settings.get("gan", {})}
    own = {
        **settings.get("student", {}),
        "renoise": False,
        "times": TIMES[kind] if two_steps else None,
    }
    distill = Config.model_validate(
        {"distill": {"regression": {"weight": 0}, **settings, "gan": gan, "student": own}}
    ).distill
    student = new_student(teacher, NETWORK, 0, distill.student)
    critic = new_critic(teacher, NETWORK, 0, distill).to("meta")
    dmd = build_method(distill, teacher, torch.device("meta"))
    rng = torch.Generator().manual_seed(0)
    noise, images = torch.randn(2, ROWS, *teacher.shape, generator=rng)
    labels = torch.tensor([0, 1])
    pairs = PairBatch(torch.arange(ROWS), labels, noise, images)
    microbatch = dmd.draw(ROWS, rng, pairs, (images, labels), int(two_steps), "meta")
    on_pairs = {} if two_steps else {"regression": 0.5}
    plan = StepPlan(on_pairs, {"matching": 1.0, "gan": 0.1}, critic=True)

    guided = guide(teacher, 1.0 if kind == "pixels" else 3.0)
    loss = dmd.student_loss(plan, student, guided, critic, microbatch)
    loss.total.backward()
    dmd.critic_loss(critic, loss.samples, microbatch).total.backward()
    for network in (student, critic):
        learnt = [p.grad for p in network.parameters() if p.requires_grad]
        assert learnt and all(grad is not None and grad.is_meta for grad in learnt)


@pytest.mark.parametrize("kind", TIMES)
@pytest.mark.parametrize("solver", SOLVERS)
def test_the_teacher_is_solved_on_its_device(kind, solver, teacher_of):
    teacher, guidance = teacher_of(kind), 1.0 if kind == "pixels" else 3.0
    noise = torch.empty(ROWS, *teacher.shape, device="meta")
    labels = torch.empty(ROWS, dtype=torch.int64, device="meta")
    assert sample_teacher(teacher, noise, labels, solver, 4, guidance).is_meta


def test_checkpoints_of_a_process_that_names_no_gpu(tmp_path):
    """Accelerate calls the GPU of a lone process `cuda`, and no thread can be set to that."""
    network = torch.nn.Linear(2, 2)
    state = State({"student": network}, {"student": torch.optim.AdamW(network.parameters())})
    checkpoints = CheckpointStore(Storage(str(tmp_path), S3Config(), "distill.output"), keep=1)
    with AsyncSaver(checkpoints, "1f2e3d4c", "print", torch.device("cuda"), state) as saver:
        saver.save(5)
    assert checkpoints.step() == 5
