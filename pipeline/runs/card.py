"""What a student's folder has beside the networks: its card, and pictures of its run."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config import TeacherConfig
from pipeline.data import hub
from pipeline.data.captioned import SOURCES
from pipeline.data.storage import Storage
from pipeline.models.export.card import PICTURE, README, Origin, model_card, read_origin, words
from pipeline.models.network import Network
from pipeline.models.weights import weights_digest
from pipeline.runs.run_folder import Provenance
from pipeline.utils.untrusted import read_json, read_start

CAPTIONS = "captions.png"
"""What `jobs/evaluate.py` draws of judged captions."""
_EXAMPLES = 5


@dataclass(frozen=True)
class CardWriter:
    """Writes the cards of a run's students.

    Attributes:
        teacher: Of the run, on this machine.
        teacher_uri: `teacher.output` as it was given.
        evaluation: Folder that `jobs/evaluate.py` writes to.
        run: The run's folder, with its pictures.
    """

    teacher: TeacherConfig
    teacher_uri: str
    evaluation: Path
    run: Storage

    def write(
        self,
        folder: Path,
        student: Network,
        provenance: Provenance,
        step: int,
        name: str,
        more: Sequence[str] = (),
    ) -> None:
        """Put README.md, and the run's picture up to a step, into a student's new folder.

        Args:
            folder: Of the student, weights included.
            student: The network.
            provenance: What made it.
            step: Of its checkpoint.
            name: Under which it will be loaded: a folder's, or owner/name.
            more: Further ways to use it, in Markdown.
        """
        picture = self._picture(step)
        if picture:
            (folder / PICTURE).write_bytes(picture)
        origin, figures = self._origin(), self._figures(folder)
        more = [*more, *self._captions(folder, student, judged=bool(figures))]
        card = model_card(student, name, origin, provenance, figures, bool(picture), more)
        (folder / README).write_text(card)

    def _origin(self) -> Origin:
        if self.teacher.kind == "gaussian":
            return read_origin(None)
        model = None
        if hub.is_model(self.teacher_uri):
            model = hub.parse(self.teacher_uri, "teacher.output")
        return read_origin(Path(self.teacher.output), *(model or ()))

    def _figures(self, folder: Path) -> dict[str, Any] | None:
        """What `jobs/evaluate.py` found of these very weights, if it was run on them."""
        try:
            figures = read_json(read_start(self.evaluation / "evaluation.json"))
            judged = figures.pop("student")
            features = figures.get("metrics", {}).get("features", {}).get("name", "not known")
        except (OSError, ValueError, LookupError, AttributeError, TypeError):
            return None
        if judged != weights_digest(folder):
            return None
        by_side = {
            f"{name}, {side}": value
            for name, sides in figures.items()
            if isinstance(sides, dict) and name != "metrics"
            for side, value in sides.items()
        }
        known = {
            name: x for name, x in {**figures, **by_side}.items() if isinstance(x, int | float)
        }
        return {"features": features, **known}

    def _captions(self, folder: Path, student: Network, judged: bool) -> list[str]:
        """Some captions that a teacher trained here learnt, and the picture of judged ones."""
        known = list(dict.fromkeys(student.prompts or ()))
        if not known or not (Path(self.teacher.output) / SOURCES).is_file():
            return []
        some = known[:: max(1, len(known) // _EXAMPLES)][:_EXAMPLES]
        lines = ["## Captions", "Its teacher learnt from captions such as:"]
        lines.append("\n".join(f"- {words(each)}" for each in some))
        if judged and (found := self.evaluation / CAPTIONS).is_file():
            (folder / CAPTIONS).write_bytes(found.read_bytes())
            rows = "Real images, what the VAE keeps of them, and those of student and teacher."
            lines += [f"![captions]({CAPTIONS})", rows]
        return ["\n\n".join(lines)]

    def _picture(self, step: int) -> bytes | None:
        """The run's newest grid of samples that is no later than a step."""
        last = f"samples/step-{step:07d}.png"
        names = [name for name in self.run.tree() if "samples/step-" <= name <= last]
        return self.run.get(max(names)) if names else None
