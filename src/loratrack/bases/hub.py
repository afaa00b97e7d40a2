"""The hub: a base by its hub name, whole in the hub's own local cache."""

from __future__ import annotations

import errno
import logging
from pathlib import Path
from typing import Any

import httpx2  # huggingface_hub lets the errors of this client through
from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    XetDownloadError,
)

from loratrack.bases.files import (
    CODE,
    CONFIG,
    NETWORK,
    TOKENIZER,
    config_faults,
    file_faults,
    names_in,
    shard_faults,
)
from loratrack.bases.trust import Trust
from loratrack.errors import BaseNotFoundError, did_you_mean, problems_message

logger = logging.getLogger(__name__)

TIMEOUT_SECONDS = 10.0
"""For the first answer; without it a network that swallows packets holds us for minutes."""

TRANSFER_ERRORS = (httpx2.HTTPError, httpx2.InvalidURL, OSError, XetDownloadError)
BUILT_IN = "minilm"
"""The base that comes as a package; its name alone means no base of the hub."""
MIRROR = "where the hub is blocked, set HF_ENDPOINT to a mirror of it"
STRANGE_ANSWERS = (ValueError, TypeError, KeyError)
"""What huggingface_hub raises over a page that is not the hub's, of a captive portal for example."""


class HubError(BaseNotFoundError):
    """The hub does not give this base; `fault` is the message without the remedy."""

    def __init__(self, fault: str, remedy: str) -> None:
        super().__init__(f"model.arch: {fault}; {remedy}")
        self.fault = fault


def fetch(name: str, *, trust: Trust) -> Path:
    """The newest snapshot of the model `name`; when the hub cannot be asked, the whole one we have.

    What is unfit is refused before its weights travel. Code travels only where some may be trusted.
    """
    try:
        info = HfApi().model_info(name, revision="main", timeout=TIMEOUT_SECONDS)
    except (*TRANSFER_ERRORS, *STRANGE_ANSWERS) as error:
        return _cached(name, _told(name, error), trust)
    names = [file.rfilename for file in info.siblings or [] if "/" not in file.rfilename]
    refuse(name, file_faults(name, names))
    try:
        config = Path(hf_hub_download(name, CONFIG, revision=info.sha))
        refuse(name, config_faults(config, trust))
        return Path(snapshot_download(name, **_wanted(trust)))
    except TRANSFER_ERRORS as error:
        raise _told(name, error) from None


def refuse(name: str, faults: list[str]) -> None:
    if faults:
        raise BaseNotFoundError(problems_message(f"model.arch: {name}", faults))


def check_offline(name: str) -> None:
    """HubError where the hub must not be asked and there is no whole copy of the base."""
    if constants.HF_HUB_OFFLINE and _whole_copy(name, trust=True) is None:
        raise _told(name, OfflineModeIsEnabled())


def _whole_copy(name: str, trust: Trust) -> Path | None:
    try:
        folder = Path(snapshot_download(name, local_files_only=True, **_wanted(trust)))
    except LocalEntryNotFoundError:
        return None
    return None if file_faults(name, names_in(folder)) or shard_faults(folder) else folder


def _cached(name: str, error: HubError, trust: Trust) -> Path:
    folder = _whole_copy(name, trust)
    if folder is None:
        raise error from None
    logger.warning("model.arch: %s; the copy in %s is used", error.fault, folder)
    return folder


def _wanted(trust: Trust) -> dict[str, Any]:
    code = () if trust is False else CODE
    return {"allow_patterns": [*NETWORK, *TOKENIZER, *code], "ignore_patterns": ["*/*"]}


def _told(name: str, error: Exception) -> HubError:
    """The fault and the remedy, in one line each."""
    meant = did_you_mean(name, [BUILT_IN], cutoff=0.8)
    hub, lines = constants.ENDPOINT, str(error).strip().splitlines()
    cause = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    login = "`hf auth login` or set HF_TOKEN"
    offline = "to work offline, --set model.arch=/path/to/folder, or minilm"
    match error:
        case GatedRepoError():
            return HubError(f"{name!r} is gated", f"ask for access at {hub}/{name}, then {login}")
        case RepositoryNotFoundError():
            return HubError(
                f"no such model at {hub}, got {name!r}{meant}",
                f"check the name, or for a private one {login}",
            )
        case OfflineModeIsEnabled():
            return HubError(
                f"HF_HUB_OFFLINE is set and {constants.HF_HUB_CACHE} has no complete copy of {name!r}{meant}",
                f"unset HF_HUB_OFFLINE to download it ({MIRROR}), or {offline}",
            )
        case HfHubHTTPError():
            return HubError(
                f"{hub} answered {error.response.status_code} for {name!r}", f"try again; {offline}"
            )
        case httpx2.ConnectError() | httpx2.TimeoutException() | httpx2.ProxyError():
            return HubError(
                f"{hub} cannot be reached for {name!r} ({cause}){meant}",
                f"check the network ({MIRROR}); {offline}",
            )
        case OSError(errno=errno.ENOSPC):
            return HubError(f"no room for {name!r} in {constants.HF_HUB_CACHE}", "make room, or set HF_HOME")
        case ValueError() | TypeError() | KeyError() | httpx2.InvalidURL() | httpx2.UnsupportedProtocol():
            return HubError(
                f"{hub} does not answer as the hub does ({cause})", f"check HF_ENDPOINT; {offline}"
            )
    return HubError(
        f"the download of {name!r} from {hub} broke off ({cause})", "run it again, whole files are kept"
    )
