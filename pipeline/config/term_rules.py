"""Rules of the losses: those that are built in, and what further ones say of themselves."""

from pipeline.config.distill import DistillConfig
from pipeline.config.rules import Problems, multiple_problems
from pipeline.config.terms import FURTHER, TERMS, DiversityConfig, ISGConfig, RewardConfig
from pipeline.utils.fields import registered


def term_problems(distill: DistillConfig, guidance: float) -> Problems:
    """What does not agree, of losses that are off too; guidance is `pairs.guidance`."""
    yield from _regression_problems(distill)
    yield from _divergence_problems(distill)
    yield from _heads_problems(distill)
    if distill.augmentation.weight and guidance == 1:
        yield (
            f"distill.augmentation.weight: {distill.augmentation.weight:g} of what guidance adds, "
            "and that is nothing at pairs.guidance 1; raise pairs.guidance, or set the weight to 0"
        )
    yield from _diversity_problems(distill)
    yield from _level_problems(distill)
    outside = {name: own for name, own in distill.terms.items() if name not in FURTHER}
    terms = [registered(TERMS)[name](name, own, distill) for name, own in outside.items()]
    for term in terms:
        yield from term.problems()
        if term.active and term.needs().real and distill.gan.real is None:
            yield f"distill.terms: {term.name} needs real images; set distill.gan.real"
    weights = [distill.matching.weight, distill.regression.weight, distill.augmentation.weight]
    weights += [distill.gan.student_weight] if distill.gan.real else []
    weights += [term.weight for term in terms if term.active]
    known = RewardConfig | DiversityConfig | ISGConfig
    weights += [own.weight for own in distill.terms.values() if isinstance(own, known)]
    first = distill.regression_steps + distill.burn_in_steps
    last = distill.steps - first
    if last > 0 and not any(weights):
        yield (
            f"distill.steps: {distill.steps}, but after step {first} no loss teaches the student; "
            "give distill.matching.weight, distill.regression.weight or distill.gan a weight "
            "above 0"
        )
    elif not distill.regression_steps and last < distill.student.every:
        yield (
            f"distill.steps: {distill.steps}, and in none of them the student learns: the critic "
            f"has {distill.burn_in_steps} alone, and of the {last} after them each "
            f"{distill.student.every}th is the student's (distill.student.every); give more"
        )


def _regression_problems(distill: DistillConfig) -> Problems:
    """Files of a distance that is not chosen; a batch that the shared draws cannot hold."""
    settings = distill.regression
    lanes = f"distill.lanes ({distill.lanes})"
    if batches_of_pairs(distill):
        yield from multiple_problems(
            "distill.regression.batch_size", settings.batch_size, distill.lanes, lanes
        )
    if settings.distance != "lpips":
        for name in ("lpips", "decoder"):
            if (file := getattr(settings, name)) is not None:
                yield f"distill.regression.{name}: {file} needs distill.regression.distance lpips"
    if distill.draws != "shared" or not settings.weight:
        return
    if settings.batch_size > distill.batch_size:
        yield (
            f"distill.regression.batch_size: {settings.batch_size} is more than "
            f"distill.batch_size ({distill.batch_size}), of which it is a part with "
            "distill.draws shared"
        )
    if len(distill.student.times or (0,)) > 1:
        yield (
            "distill.draws: shared needs a student of one step where there is a regression; "
            "use separate, or set distill.regression.weight to 0"
        )


def batches_of_pairs(distill: DistillConfig) -> bool:
    """Whether a loss may take pairs, `regression.batch_size` of them: a plugin's does not tell."""
    further = distill.terms.keys() - FURTHER.keys()
    own = distill.regression_steps or distill.regression.weight
    return bool(own or further or distill.gan.real == "pairs")


def _divergence_problems(distill: DistillConfig) -> Problems:
    """A divergence without the logits that it takes, or without others to weigh against."""
    gan, rows = distill.gan, distill.batch_size // distill.lanes
    if gan.divergence == "reverse-kl":
        return
    if rows == 1:
        yield (
            f"distill.gan.divergence: {gan.divergence} weighs the samples of a microbatch "
            "against each other, and distill.lanes "
            f"({distill.lanes}) leaves one in each; use fewer lanes"
        )
    if not (gan.real and distill.matching.weight and distill.draws == "shared"):
        yield (
            f"distill.gan.divergence: {gan.divergence} weighs the matching loss by the logits "
            "of the same draws; it needs distill.gan.real, distill.draws shared, and "
            "distill.matching.weight above 0"
        )


def _heads_problems(distill: DistillConfig) -> Problems:
    """Heads whose loss is scaled as the matching loss, without that at the same draws."""
    gan, matching = distill.gan, distill.matching.weight
    if gan.heads == "mean" and distill.batch_size == distill.lanes:
        yield (
            "distill.gan.heads: mean scales the loss by a mean over a microbatch, and "
            f"distill.lanes ({distill.lanes}) leaves one sample in each; use fewer lanes"
        )
    if gan.heads == "mean" and not (gan.real and matching and distill.draws == "shared"):
        yield (
            "distill.gan.heads: mean scales the student's loss as the matching loss of the same "
            "draws; it needs distill.gan.real, distill.draws shared, and distill.matching.weight "
            "above 0"
        )


def _diversity_problems(distill: DistillConfig) -> Problems:
    """A first step without later ones, or later ones without matching."""
    own = distill.terms.get("diversity")
    if not isinstance(own, DiversityConfig):
        return
    if own.anchor > own.steps:
        yield (
            f"distill.terms.diversity.anchor: {own.anchor} is more than its steps ({own.steps}); "
            "give fewer"
        )
    if len(distill.student.times or (0,)) == 1:
        yield (
            "distill.terms.diversity: it teaches the first of several steps, and the student has "
            "one; set distill.student.times, or leave it out"
        )
    elif not distill.matching.weight:
        yield (
            "distill.matching.weight: 0, and distill.terms.diversity leaves the student's later "
            "steps to matching; give it a weight above 0"
        )


def _level_problems(distill: DistillConfig) -> Problems:
    """Noise levels of steps, where there is one, or where another noise is in their images."""
    student = distill.student
    if student.levels == "all":
        return
    if len(student.times or (0,)) == 1:
        yield (
            f"distill.student.levels: {student.levels} is of several steps, and the student has "
            "one; set distill.student.times, or use all"
        )
    elif not student.renoise:
        yield (
            f"distill.student.levels: {student.levels} takes what fresh noise makes of a step's "
            "images; set distill.student.renoise to true, or use all"
        )
