"""Models from and for the Hugging Face hub, by the package huggingface_hub, which is imported where a name is given.

Of a repository, config.json and model.safetensors are read (of VideoMAE also preprocessor_config.json, which says how
clips are cut), and nothing else: no code, no pickles. The cache, the token, HF_ENDPOINT and HF_HUB_OFFLINE are those of
huggingface_hub.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from maedfer._values import HubName, expand_home, hub_address, hub_name
from maedfer.errors import InputError, MissingDependencyError, require
from maedfer.models.weight_files import CONFIG_FILE, WEIGHTS_FILE

CARD_FILE = "README.md"
# In a card that was written here, and may be written anew.
MARK = "<!-- written by maedfer -->"

T = TypeVar("T")


def on_disk(
    source: str | Path, files: tuple[str, ...] = (CONFIG_FILE, WEIGHTS_FILE), optional: tuple[str, ...] = ()
) -> Path:
    """Where a model is on this machine: the path as it is, or where an address `hf://user/name@revision` was put.

    Args:
        source: path, of which a leading ~ is the home folder, or address.
        files: what is wanted of a repository.
        optional: what is wanted beside it where it is there.

    Raises:
        InputError: the hub has no such model, or cannot be reached and the cache lacks it.
        MissingDependencyError: huggingface_hub is not installed.
    """
    address = hub_address(str(source))
    return Path(expand_home(str(source))) if address is None else _downloaded(address, files, optional)


def named(source: str | Path, revision: str | None = None) -> str | Path:
    """What is meant by what may also be a plain "user/name": the path where it is there, else an address.

    Args:
        source: path, address, or "user/name".
        revision: branch, tag or commit of a model of the hub.

    Raises:
        InputError: it is a path, and there is a revision; or neither is there such a path nor can it be a name.
    """
    text = str(source)
    address = hub_address(text)
    if address is None and not os.path.lexists(expand_home(text)):
        address = _plain(text)
    if address is None:
        if revision is not None:
            raise InputError(
                f"{text!r} is a path and has no revision {revision!r}: a model of the hub is hf://user/name"
            )
        return source
    if revision is None:
        return str(address)
    if address.revision is not None and address.revision != revision:
        raise InputError(f"{text!r} names another revision than {revision!r}: give one of them")
    return str(hub_address(f"{HubName(address.repository)}@{revision}"))


def pinned(source: str) -> str:
    """An address with the commit that was taken for it, from the cache; any other text as it is."""
    address = hub_address(source)
    if address is None:
        return source
    hub = require("huggingface_hub", "hub")
    path = hub.try_to_load_from_cache(address.repository, CONFIG_FILE, revision=address.revision)
    return str(HubName(address.repository, Path(path).parent.name)) if isinstance(path, str) else source


def _plain(text: str) -> HubName | None:
    """The model of the hub that a path which is not there may mean; None where a path was meant."""
    found = hub_name(text)
    # With its first folder there, it is a path that was mistyped or not yet made, and not for the hub to know.
    if found is None or os.path.isdir(text.split("/")[0]):
        return None
    try:
        require("huggingface_hub", "hub")
    except MissingDependencyError as error:
        raise InputError(
            f"{text!r} does not exist here, and to look for it on the Hugging Face hub, {error}"
        ) from error
    return found


def _downloaded(address: HubName, files: tuple[str, ...], optional: tuple[str, ...]) -> Path:
    hub = require("huggingface_hub", "hub")
    folder, revision = Path(), address.revision
    # What may be absent before the last one: weights that are there were not left alone by a torn connection.
    for name in (*files[:-1], *optional, files[-1]):

        def fetch(name: str = name, revision: str | None = revision) -> str | None:
            try:
                path: str = hub.hf_hub_download(
                    address.repository, name, revision=revision, library_name="maedfer", library_version=_version()
                )
                return path
            except require("huggingface_hub.errors", "hub").EntryNotFoundError:
                # The cache remembers what is not there.
                known = hub.try_to_load_from_cache(address.repository, name, revision=revision)
                if name in optional and known is hub._CACHED_NO_EXIST:
                    return None
                raise

        path = _asked(fetch, address, name)
        if path is not None:
            folder = Path(path).parent
            # The others from the same commit, whatever is pushed meanwhile.
            revision = folder.name
    return folder


def push(
    files: Mapping[str, Path | bytes],
    repository: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    message: str | None = None,
    token: str | None = None,
    replace_card: bool = False,
) -> str:
    """Write files into a model's repository on the hub, all of them in one commit.

    Args:
        files: by name there; paths or contents.
        repository: "user/name"; made where it is not there.
        private: whether only its owners may see it. None = as it is; one that is made is private.
        revision: branch to write to, made where it is not there; None = main.
        message: of the commit.
        token: instead of that which `hf auth login` or HF_TOKEN has left.
        replace_card: also replace a README.md that was not written here.

    Returns:
        The address of the commit.

    Raises:
        InputError: no such name, no token, a repository that the token may not write to or that is as public as
            `private` forbids, a README.md of somebody's own, or a hub that cannot be reached or refuses the files.
        MissingDependencyError: huggingface_hub is not installed.
    """
    repository = check_repository(repository)
    address = HubName(repository, revision)
    hub = require("huggingface_hub", "hub")
    if not token and not hub.get_token():
        raise InputError(f"no token to write to {address} with: log in by `hf auth login`, or set HF_TOKEN")
    if CARD_FILE in files:
        _check_metadata(hub, files[CARD_FILE])
    api = hub.HfApi(token=token, library_name="maedfer", library_version=_version())
    there = _asked(lambda: _info(api, address), address)
    if there is None:
        made = "private" if private in (None, True) else "public"
        _asked(lambda: api.create_repo(repository, private=made == "private", exist_ok=False), address)
        after = f"; the new {made} repository {repository} is there, and empty"
    else:
        after = "; nothing was changed there"
        _check_there(there, address, private)
        if CARD_FILE in files and not replace_card:
            _check_card(hub, api, there, repository)
    operations = [
        hub.CommitOperationAdd(name, content if isinstance(content, bytes) else str(content))
        for name, content in files.items()
    ]
    if revision is not None:
        _asked(lambda: api.create_branch(repository, branch=revision, exist_ok=True), address, after=after)
    commit = _asked(
        lambda: api.create_commit(
            repository, operations, commit_message=message or "Model of maedfer", revision=revision
        ),
        address,
        after=after,
    )
    return str(commit.commit_url)


def check_repository(repository: str) -> str:
    """The name of a repository, "user/name"; "hf://" may stand before it.

    Raises:
        InputError: no repository can be called so.
    """
    found = hub_name(repository.removeprefix("hf://"))
    if found is None or found.revision is not None:
        raise InputError(f"{repository!r} is no name of a repository: give user/name")
    return found.repository


def _info(api: Any, address: HubName) -> Any:
    """What the hub tells of a branch of a repository, of main where there is no such branch; None of no repository."""
    hub = require("huggingface_hub.errors", "hub")
    try:
        return api.model_info(address.repository, revision=address.revision)
    except hub.RevisionNotFoundError:
        return api.model_info(address.repository)
    except hub.GatedRepoError:
        raise
    except hub.RepositoryNotFoundError as error:
        # Without a token that counts, nobody is told what there is.
        if error.response is not None and error.response.status_code == 401:
            raise
        return None


def _check_there(there: Any, address: HubName, private: bool | None) -> None:
    if private is not None and bool(there.private) != private:
        is_now, asked = ("private", "public") if there.private else ("public", "private")
        raise InputError(
            f"{address} is {is_now} and was to be {asked}: change that on its page of settings, or leave it as it is; "
            "nothing was changed there"
        )


def _check_metadata(hub: Any, card: Path | bytes) -> None:
    """Refuse a card whose metadata the hub cannot read, before anything is made there."""
    text = card.decode() if isinstance(card, bytes) else card.read_text(encoding="utf-8")
    if not text.lstrip().startswith("---"):
        return
    try:
        hub.ModelCard(text)
    except Exception as error:
        # Of YAML, or of entries that are none.
        raise InputError(f"the metadata of the card cannot be read: {' '.join(str(error).split())}") from error


def _check_card(hub: Any, api: Any, there: Any, repository: str) -> None:
    """Refuse to write over a card that somebody has written."""
    address = HubName(repository, there.sha)
    if CARD_FILE not in {file.rfilename for file in there.siblings or ()}:
        return

    def fetch() -> str:
        path: str = hub.hf_hub_download(repository, CARD_FILE, revision=there.sha, token=api.token)
        return path

    path = _asked(fetch, address, CARD_FILE)
    if MARK not in Path(path).read_text(encoding="utf-8", errors="replace"):
        raise InputError(
            f"hf://{repository} has a {CARD_FILE} that was not written here: leave it (--card keep), or replace it "
            "(--card new, in Python card=TEXT); nothing was changed there"
        )


def _asked(call: Callable[[], T], address: HubName, file: str = "", after: str = "") -> T:
    """What a call of huggingface_hub gives; its errors as sentences."""
    try:
        return call()
    except Exception as error:
        # It takes its connections from httpx in one version and from requests in another, whose errors are their own.
        _refuse(error, address, file, after)


def _refuse(error: Exception, address: HubName, file: str, after: str) -> NoReturn:
    hub = require("huggingface_hub.errors", "hub")
    endpoint = require("huggingface_hub.constants", "hub").ENDPOINT
    status = getattr(getattr(error, "response", None), "status_code", None)
    first = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    if isinstance(error, hub.GatedRepoError):
        page = f"{endpoint}/{address.repository}"
        why = f"asks for its terms to be accepted: do so at {page}, and log in by `hf auth login`"
    elif isinstance(error, hub.RevisionNotFoundError):
        why = f"has no revision {address.revision or 'main'!r}"
    elif isinstance(error, hub.RepositoryNotFoundError):
        why = (
            f"is not at {endpoint}, or is not to be seen by you: check the name, and log in by `hf auth login` or set "
            "HF_TOKEN where it is private"
        )
    elif isinstance(error, hub.LocalEntryNotFoundError):
        # What it tells is of its own settings; what it comes from says what happened.
        cause = error.__cause__ or error
        cache = require("huggingface_hub.constants", "hub").HF_HUB_CACHE
        offline = isinstance(cause, hub.OfflineModeIsEnabled)
        known = "HF_HUB_OFFLINE is set" if offline else f"{endpoint} gave none: {_brief(cause)}"
        why = f"has no {file} in the cache {cache!r}, and {known}"
    elif isinstance(error, hub.EntryNotFoundError):
        why = (
            f"has no {file}: of a repository, config.json and model.safetensors are read and nothing else, neither "
            "code nor pickles"
        )
    elif isinstance(error, hub.OfflineModeIsEnabled):
        why = "cannot be reached: HF_HUB_OFFLINE is set"
    elif status in (401, 403):
        what = "read" if file else "written to"
        why = (
            f"may not be {what} with this token ({endpoint} answers {status}): log in by `hf auth login` with one that "
            "may"
        )
    else:
        doing = f"could not be read whole, {file}" if file else f"was not written to, {endpoint}"
        why = f"{doing}: {_brief(error) if status else first}"
        # An answer that got lost says nothing of what was done.
        lost = status is None and not isinstance(error, ValueError)
        after = "; look whether it was" if lost and after else after
    raise InputError(f"{address} {why}{after}") from error


def _brief(error: BaseException) -> str:
    status = getattr(getattr(error, "response", None), "status_code", None)
    told = getattr(error, "server_message", None)
    if status is not None:
        return f"the server answers {status}" + (f" ({' '.join(str(told).split())})" if told else "")
    return " ".join(str(error).split()) or type(error).__name__


def _version() -> str:
    from maedfer import __version__

    return __version__
