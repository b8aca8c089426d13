from tests.flows.conftest import prefect_api

__all__ = ["prefect_api"]
