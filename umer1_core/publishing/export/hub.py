"""An exported folder on the Hugging Face hub. Endpoint and token are the environment's (HF_ENDPOINT, HF_TOKEN)."""

from __future__ import annotations

import os
from pathlib import Path

from umer1_core.errors import StorageError

_LEFT_HERE = ("export.json", ".tmp-*", "**/.tmp-*")  # what the folder needs and the hub does not


def push(folder: Path, name: str) -> str:
    """Upload a folder as the data set `name`, private where it is new; returns its address.

    Resumable: what the hub has already is not sent again. Raises StorageError.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    hub = HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
    try:
        address = hub.create_repo(name, repo_type="dataset", private=True, exist_ok=True)
        # Large folders go in several commits, each of which holds, so that an upload goes on where it was stopped.
        hub.upload_folder(repo_id=name, repo_type="dataset", folder_path=folder, ignore_patterns=list(_LEFT_HERE))
    except (HfHubHTTPError, HFValidationError, ValueError, OSError) as error:
        raise StorageError(
            f"The hub did not take {name}: {str(error).splitlines()[0]}",
            "Check the name and HF_TOKEN, then run the same command: what was sent is kept.",
        ) from error
    return str(address)
