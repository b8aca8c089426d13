"""Settings of other libraries that must stand in the environment before they are imported.

Every way into the flow (`whatchanged run`, `python -m flows.audit`) calls `prepare_environment`
first, so that they behave alike. A value that the user has set is never changed.
"""

from __future__ import annotations

import os
from pathlib import Path

# A cold temporary server needs 10 to 25 s where Prefect waits 20 s; Prefect would pickle the error
# of a flow that fails; its results belong beside the artifacts that they name; idle OpenMP threads
# that spin slow a shared machine down several times; nothing here phones home; a run that is silent
# for three heartbeats counts as dead (flows/deploy.py), and Prefect sends one in three minutes.
_DEFAULTS = {
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
    "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "TOKENIZERS_PARALLELISM": "false",
}


def prepare_environment(cache_root: Path) -> None:
    """Sets what Prefect, OpenMP and the tokenizers read when they are imported.

    Has no effect on a library that is imported already, so call it first.
    """
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("PREFECT_LOCAL_STORAGE_PATH", str(cache_root / "prefect"))
