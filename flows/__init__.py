"""Which stages, in which order."""

from whatchanged.environment import prepare_environment
from whatchanged.store.artifacts import cache_root

# Before anything imports Prefect.
prepare_environment(cache_root())
