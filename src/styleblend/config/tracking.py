"""Section `tracking`: where MLflow keeps runs and model versions."""

from __future__ import annotations

from pydantic import Field, model_validator

from styleblend.config.base import Section, expect_no_password


class Tracking(Section):
    uri: str = Field("sqlite:///mlflow.db", description="MLflow tracking and registry store; no password")
    experiment: str = "styleblend"
    model_name: str = Field("styleblend", pattern=r"^[A-Za-z0-9_-]+$")

    patience_s: float = Field(60, ge=0, description="how long a finished training waits for MLflow to take its figures")

    @model_validator(mode="after")
    def file_has_no_options(self) -> Tracking:
        if self.uri.startswith("sqlite:") and "?" in self.uri:
            raise ValueError(
                f"tracking.uri '{self.uri}' has a question mark, which a file's address cannot have: take it out"
            )
        return self

    @model_validator(mode="after")
    def no_password(self) -> Tracking:
        remedy = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, and put a database behind MLflow's server"
        expect_no_password("tracking.uri", self.uri, remedy)
        return self

    @property
    def is_a_file(self) -> bool:
        """Whether the store is a file or folder of this machine."""
        return self.uri.startswith(("sqlite:", "file:")) or "://" not in self.uri
