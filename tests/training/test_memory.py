"""What training will hold is what it holds."""

import pytest

from pipeline.models.loading import load_teacher
from pipeline.models.students import new_student
from pipeline.training import build
from pipeline.training.memory import footprint, kept_bytes, memory_verdict, saved_bytes
from pipeline.utils.errors import UserError

GAN = {"gan": {"real": "pairs", "student_weight": 0.1}}


def size(tensors) -> int:
    return sum(value.numel() * value.element_size() for value in tensors)


HALF = {"precision": "bf16"}


@pytest.mark.parametrize("settings", [{}, GAN, HALF], ids=["alone", "gan", "bf16"])
def test_weights_and_moments_are_those_of_a_prepared_run(tiny_run, settings):
    config = tiny_run(**settings)
    counted = footprint(config, load_teacher(config.teacher))
    made = build.prepare(config)
    found = made.state.tensors()
    networks = {k: v for k, v in found.items() if "_optimizer." not in k}
    for each in (made.step.student, made.step.critic):
        if each.masters is not None:
            networks |= {f"copy {id(v)}": v for v in each.masters.copies}
    moments = {k: v for k, v in found.items() if "_optimizer." in k}
    teacher = load_teacher(config.teacher)
    own = size(teacher.parameters()) + size(teacher.buffers())
    assert counted.weights - own == pytest.approx(size(networks.values()), rel=0.01)
    assert counted.moments == pytest.approx(size(moments.values()), rel=0.01)
    trained = (v for k, v in networks.items() if k.startswith(("student.", "critic.")))
    assert counted.gradients == 4 * sum(v.numel() for v in trained)


def test_activations_on_meta_are_those_of_a_real_pass_and_recompute_keeps_fewer(tiny_run):
    config = tiny_run()
    teacher = load_teacher(config.teacher)
    student = new_student(teacher, config.network, 0)
    real = saved_bytes(student, 16)
    assert saved_bytes(student.to("meta"), 16) == pytest.approx(real, rel=0.05)
    assert saved_bytes(student, 32) == pytest.approx(2 * real, rel=0.05)
    every, second = (
        saved_bytes(new_student(teacher, config.network, 0, recompute=n).to("meta"), 16)
        for n in (True, 2)
    )
    assert every < 0.7 * real and 1.1 * every < second < 0.9 * real


def test_the_least_recompute_that_fits_is_told(tiny_run):
    teacher, found = load_teacher(tiny_run().teacher), {}
    for recompute in (False, 4, 3, 2, True):
        config = tiny_run(recompute=recompute)
        network = config.network.model_copy(update={"layers": 4})
        found[recompute] = footprint(config.model_copy(update={"network": network}), teacher)
    need = {recompute: each.total for recompute, each in found.items()}

    def told(room, recompute):
        return memory_verdict(found.__getitem__, recompute, room + 99, context=99)

    assert list(need.values()) == sorted(need.values(), reverse=True)
    assert told(need[False], False).endswith("for a worker of distill")
    assert told(need[False], True).endswith("; distill.recompute false fits too")
    assert told(need[2], True).endswith("; distill.recompute 2 fits too")
    assert told(need[True], True).endswith("for a worker of distill")
    assert told(need[2], 2).endswith("for a worker of distill")
    with pytest.raises(UserError, match=r"set distill\.recompute 2 \(which is enough\), "):
        told(need[2], False)
    with pytest.raises(UserError, match=r"set distill\.recompute true \(which is enough\), "):
        told(need[2] - 1, 2)
    with pytest.raises(UserError, match=r"set distill\.precision bf16, "):
        told(need[True] - 1, True)


@pytest.mark.parametrize("draws", ["separate", "shared"])
@pytest.mark.parametrize("recompute", [False, 2, True])
def test_what_a_gan_keeps_is_counted(tiny_run, recompute, draws):
    config = tiny_run(**GAN, recompute=recompute, draws=draws)
    counted = footprint(config, load_teacher(config.teacher)).activations
    training = build.prepare(config)
    step, microbatch = training.step, training.microbatches(7)[0]
    plan, student, critic = step.method.plan(7), step.student.network, step.critic.network

    def taught():
        return step.method.student_loss(plan, student, step.teacher, critic, microbatch)

    def conditioned():
        return step.method.critic_loss(critic, microbatch.noise, microbatch)

    held = max(kept_bytes(call, student, critic) for call in (taught, conditioned))
    assert counted == pytest.approx(held, rel=0.1)


def test_sharded_networks_are_shared_out(tiny_run):
    config, teacher = tiny_run(sharded=True), load_teacher(tiny_run().teacher)
    one, four = footprint(config, teacher), footprint(config, teacher, workers=4)
    assert four.moments == one.moments // 4 and four.gradients == one.gradients // 4
    assert four.activations == one.activations
