"""Files pushed to a repository on the Hugging Face hub, in one commit."""

from __future__ import annotations

from collections.abc import Mapping

from whatchanged.errors import (
    MissingDependencyError,
    OfflineError,
    TransientError,
    UsageError,
    WhatchangedError,
    first_line,
)

_KIND = "dataset"


def push_files(repo: str, files: Mapping[str, bytes], *, is_public: bool, message: str) -> str:
    """Create the dataset repository where it is not there (private, unless it `is_public`) and add
    these files to it in one commit; its address.

    Raises OfflineError where HF_HUB_OFFLINE is set, UsageError for a name that can be no repository
    or one that is public although that was not asked for, MissingDependencyError where the hub
    wants a token or another one, and TransientError where it cannot be reached.
    """
    import huggingface_hub
    from huggingface_hub import CommitOperationAdd, HfApi

    if huggingface_hub.constants.HF_HUB_OFFLINE:
        raise OfflineError(
            "expected the hub to be within reach, found HF_HUB_OFFLINE set: unset it to push, or "
            "write the same files with whatchanged export"
        )
    api = HfApi()
    try:
        api.create_repo(repo, repo_type=_KIND, private=not is_public, exist_ok=True)
        found = api.repo_info(repo, repo_type=_KIND)
        if found.private is False and not is_public:
            raise UsageError(
                f"expected {repo} to be private, found a public repository: name another, or say "
                "--public to show texts of both models to everybody"
            )
        additions = [CommitOperationAdd(name, data) for name, data in files.items()]
        api.create_commit(repo, additions, commit_message=message, repo_type=_KIND)
    except WhatchangedError:
        raise
    except Exception as error:  # the client raises many unrelated types, httpx's among them
        raise _failure(repo, error) from None
    return f"{api.endpoint}/{_KIND}s/{repo}"


def _failure(repo: str, error: Exception) -> WhatchangedError:
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

    said = first_line(error)
    if isinstance(error, HFValidationError):
        return UsageError(f"expected --repo owner/name, found {repo!r}: {said}")
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if isinstance(error, LocalTokenNotFoundError) or status in (401, 403):
        return MissingDependencyError(
            f"expected a token that may write to {repo}, found {said}: set HF_TOKEN, or log "
            "in with `hf auth login`"
        )
    if status is not None and 400 <= status < 500:
        return UsageError(f"the hub refused to take {repo}: {said}")
    return TransientError(
        f"expected the hub to take {repo}, found {type(error).__name__}: {said}; nothing of "
        "the run is changed, so push again"
    )
