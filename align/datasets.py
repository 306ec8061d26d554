"""One door to robot datasets of every kind: a folder, a file, or a name on the Hugging Face hub.

LeRobot v2.0, v2.1, v3.0     meta/info.json, data, videos                  align.lerobot_reader
plain folder                 episode_*/{video.mp4, actions.npy}            align.plain_folder
HDF5                         robomimic, LIBERO, ALOHA, ACT                 align.hdf5_reader
"""

import re
from pathlib import Path
from typing import Any

from align.hdf5_layout import is_hdf5
from align.hdf5_reader import open_hdf5
from align.lerobot_reader import open_lerobot
from align.plain_folder import is_plain, open_plain
from align.robot_dataset import RobotDataset
from common.errors import BadData, UserError

HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)
KINDS = "Known are LeRobot datasets, folders of episode_*/{video.mp4, actions.npy}, and HDF5 of robomimic or ALOHA."


def open_dataset(
    place: str | Path, *, state_key: str | None = None, action_key: str | None = None
) -> RobotDataset[Any]:
    """Opens a robot dataset, by what is there; "owner/name" is fetched from the Hugging Face hub unless it is a path.

    state_key, action_key: the field to take for each, where the usual one is not meant; `state_keys` and `action_keys`
    of the dataset say what was taken.
    UserError if there is nothing of a known kind, or no network; BadData if its tables of contents make no sense;
    MissingDependency for HDF5 without h5py. What is wrong with single episodes comes out when they are read: see
    `align.check.check_dataset`.
    """
    root = Path(place)
    if not root.exists():
        if not HUB_NAME.fullmatch(str(place)):
            raise UserError(f"{place} does not exist", hint=KINDS)
        root = _fetch(str(place))
    if (root / "meta").is_dir():
        if not (root / "meta/info.json").is_file():
            raise BadData(f"{root}/meta/info.json is missing", hint="A LeRobot dataset needs it.")
        return open_lerobot(root, state_key=state_key, action_key=action_key)
    if is_hdf5(root):
        return open_hdf5(root, state_key=state_key, action_key=action_key)
    if is_plain(root):
        if state_key is not None or action_key is not None:
            raise UserError(f"{root} is a plain folder, which has no fields to choose from")
        return open_plain(root)
    raise UserError(f"{root} is no robot dataset", hint=KINDS)


def _fetch(name: str) -> Path:
    """The local copy of a dataset on the hub, downloaded if need be. UserError if it cannot be had."""
    # Here, since it takes a second to import and few datasets need it.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError

    # The error of the HTTP client itself, whichever that is in the hub's version: a connection lost on the way.
    connection_error: Any = HfHubHTTPError.__bases__[0]
    try:
        return Path(snapshot_download(name, repo_type="dataset"))
    except (RepositoryNotFoundError, HFValidationError) as error:
        message = f"{name} is no folder here, and no dataset on the Hugging Face hub that can be read"
        raise UserError(message, hint="For a private or gated one, run `hf auth login` first.") from error
    except (OSError, connection_error) as error:
        message = f"{name} is no folder here, and cannot be fetched from the Hugging Face hub ({_first_line(error)})"
        raise UserError(message, hint="Is there a network? A folder that was downloaded before needs none.") from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
