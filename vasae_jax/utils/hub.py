"""Find a model on disk or on the Hugging Face hub, and upload files to the hub."""

from collections.abc import Sequence
from pathlib import Path

from vasae_jax.utils.errors import UserError, first_line
from vasae_jax.utils.files import expand_user


def find_model(source: str, patterns: Sequence[str]) -> tuple[Path, str, str | None]:
    """The path, name and hub revision (None if local) of the model ``source``.

    Args:
        source: a directory, a .gguf file, or the name of a hub repository, which is downloaded.
        patterns: glob patterns of the files to download.

    Raises:
        UserError: there is no such path or repository, or the hub cannot be reached.
    """
    if not source:
        raise UserError("the model's name is empty; expected a path or a Hugging Face name")
    path = expand_user(source)
    if path.is_dir():
        return path, path.resolve().name, None
    if path.is_file():
        if path.suffix != ".gguf":
            raise UserError(f"{source} is a file; expected a directory, or a file ending in .gguf")
        return path, path.stem, None
    if source.startswith((".", "/", "~")) or source.count("/") > 1 or path.suffix == ".gguf":
        raise UserError(
            f"{source} does not exist; expected a directory with config.json, "
            "a .gguf file, or a Hugging Face name such as openai-community/gpt2"
        )
    path = download(source, patterns)
    return path, source, path.name


def download(name: str, patterns: Sequence[str]) -> Path:
    """Download the files of hub repository ``name`` that match ``patterns``; their directory.

    Raises:
        UserError: there is no such repository, or the hub cannot be reached.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=list(patterns)))
    except Exception as error:  # network, name, permission and disk errors share no base
        raise UserError(
            f"{name} is neither a local path nor to be had from the Hugging Face hub "
            f"({type(error).__name__}: {first_line(error)}); expected one of the two"
        ) from error


def upload(files: Sequence[Path], repository: str, *, public: bool = False) -> str:
    """Upload files, and nothing else of their folder, to a hub repository; its URL.

    Args:
        files: in one folder; they lie at the top of the repository.
        repository: created if it does not exist, private unless ``public``.
        public: whether everyone may read it.

    Raises:
        UserError: HF_HUB_OFFLINE is set, the repository is public and ``public`` was not asked for,
            the hub cannot be reached, or it refuses.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, constants

    folder = files[0].parent
    if constants.HF_HUB_OFFLINE:
        raise UserError(
            f"{repository} cannot be written: HF_HUB_OFFLINE is set; expected it unset. "
            f"{folder} is complete and can be uploaded as it is"
        )
    additions = [CommitOperationAdd(file.name, str(file)) for file in files]
    try:
        hub = HfApi()
        hub.create_repo(repository, private=not public, exist_ok=True)
        private = hub.repo_info(repository).private
        if private or public:
            hub.create_commit(repository, additions, commit_message="A dictionary of vasae_jax")
    except Exception as error:  # network, name, permission and disk errors share no base
        raise UserError(
            f"{repository} cannot be written ({type(error).__name__}: {first_line(error)}); "
            "expected the hub to be within reach and a token that may write there. "
            f"{folder} is complete"
        ) from error
    if not private and not public:
        raise UserError(
            f"{repository} is public, and nothing was uploaded; expected a private repository, or "
            f"--public to publish what is in {folder}"
        )
    return f"{constants.ENDPOINT}/{repository}"
