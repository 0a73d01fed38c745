"""Models of the Hugging Face Hub: read at a pinned commit, and pushed.

The address of the Hub is HF_ENDPOINT's, its copies lie where huggingface_hub keeps them
(HF_HUB_CACHE), and a token comes from where it finds one: HF_TOKEN, or `hf auth login`.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import HfApi, get_token, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from pipeline.utils.errors import UserError
from pipeline.utils.uris import split

_ADDRESS = re.compile(r"hf://([\w.-]+/[\w.-]+)(?:@([^@]+))?/?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_NETWORKS = ("unet", "transformer", "transformer_2")
_ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3", "image_encoder")
_READERS = ("tokenizer", "tokenizer_2", "tokenizer_3", "processor", "image_processor")
FETCHED = (
    "README.md",
    "provenance.json",
    "model_index.json",
    "pytorch_lora_weights.safetensors",
    "pytorch_lora_weights_2.safetensors",
    "scheduler/scheduler_config.json",
    "scheduler_config.json",
    "guider/guider_config.json",
    *(f"{part}/*{kind}" for part in _READERS for kind in (".json", ".txt", ".model", ".jinja")),
    *(
        f"{part}{name}"
        for stem, parts in (
            ("diffusion_pytorch_model", ("", *(f"{part}/" for part in (*_NETWORKS, "vae")))),
            ("model", tuple(f"{part}/" for part in _ENCODERS)),
        )
        for part in parts
        for name in (
            "config.json",
            f"{stem}.safetensors",
            f"{stem}.safetensors.index.json",
            f"{stem}-*-of-*.safetensors",
        )
    ),
)
"""Patterns of what is: the parts in use, weights in full precision; nothing here is a pickle."""


def is_model(uri: str) -> bool:
    """Whether it is a model on the Hub: hf://owner/name@commit."""
    return split(uri)[0] == "hf"


def parse(url: str, setting: str) -> tuple[str, str | None]:
    """The parts of hf://owner/name@revision: owner/name, and a commit, branch or tag, if given.

    Raises:
        UserError: If it is none.
    """
    found = _ADDRESS.fullmatch(url)
    if found is None:
        raise UserError(f"{setting}: {url} is no model on the Hub; give hf://owner/name@commit")
    return found[1], found[2]


def fetch_model(url: str, setting: str) -> Path:
    """The local copy of a diffusers model on the Hub, at one commit.

    Of the weights, those in full precision and in safetensors alone are fetched. A copy that is
    complete is used without asking the Hub again.

    Args:
        url: hf://owner/name@commit.
        setting: Name of the setting, for messages.

    Raises:
        UserError: If no commit is given (names the one that stands there now), or the model is
            missing, closed to us, no diffusers model, or without such weights.
    """
    repo, revision = parse(url, setting)
    if revision is None or not _COMMIT.fullmatch(revision):
        with _told(setting, repo, revision):
            now = HfApi().model_info(repo, revision=revision).sha
        raise UserError(
            f"{setting}: {url} is not pinned, and may be another model tomorrow; now it is "
            f"hf://{repo}@{now}: write that"
        )
    with _told(setting, repo, revision):
        folder = Path(snapshot_download(repo, revision=revision, allow_patterns=list(FETCHED)))
    if not (folder / "model_index.json").is_file():
        raise UserError(f"{setting}: {url} is no diffusers model: it has no model_index.json")
    weights = "diffusion_pytorch_model*.safetensors"
    if not any(file for part in ("", *_NETWORKS) for file in (folder / part).glob(weights)):
        raise UserError(
            f"{setting}: {url} has no weights in full precision as safetensors; neither pickles "
            "nor variants such as fp16 are read: choose another commit or model"
        )
    return folder


def open_repo(repo: str, private: bool, mark: str, setting: str) -> None:
    """Make a repository unless it is there, and see that what it holds may be replaced.

    Args:
        repo: owner/name.
        private: Whether a new one is.
        mark: A file that every model pushed from here has.
        setting: Name of the setting, for messages.

    Raises:
        UserError: If there is no token, it may not write there, or the repository holds something
            else.
    """
    if get_token() is None:
        raise UserError(f"{setting}: no token to write to {repo} with: set HF_TOKEN")
    with _told(setting, repo):
        HfApi().create_repo(repo, private=private, exist_ok=True)
        names = set(HfApi().list_repo_files(repo))
    if mark not in names and names - {".gitattributes", "README.md"}:
        raise UserError(f"{setting}: {repo} is in use by something else: choose another name")


def push_model(folder: Path, repo: str, message: str, setting: str) -> str:
    """Make a repository of `open_repo` hold a folder, and nothing else.

    Returns:
        The address of the new commit, as `fetch_model` takes it.

    Raises:
        UserError: If the Hub refuses.
    """
    with _told(setting, repo):
        commit = HfApi().upload_folder(
            repo_id=repo, folder_path=folder, commit_message=message, delete_patterns="*"
        )
    return f"hf://{repo}@{commit.oid}"


@contextmanager
def _told(setting: str, repo: str, revision: str | None = None) -> Iterator[None]:
    """What the Hub refuses or the network loses, as one line."""
    try:
        yield
    except GatedRepoError as error:
        raise UserError(
            f"{setting}: {repo} is gated: ask for access on its page, and set HF_TOKEN on every "
            "node to a token of that account"
        ) from error
    except RevisionNotFoundError as error:
        raise UserError(f"{setting}: {repo} has no revision {revision}") from error
    except RepositoryNotFoundError as error:
        raise UserError(
            f"{setting}: there is no {repo} on the Hub, or it is private: check the name, and set "
            "HF_TOKEN on every node to a token that may read it"
        ) from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        hint = ": HF_TOKEN may not do this" if status in (401, 403) else ": try again later"
        raise UserError(f"{setting}: the Hub answers {status} for {repo}{hint}") from error
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), "")
        raise UserError(
            f"{setting}: {repo}: the Hub or its local copy cannot be used: "
            f"{type(error).__name__}: {reason[:300]}"
        ) from error
