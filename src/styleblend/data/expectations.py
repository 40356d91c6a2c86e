"""Expectations on the data, checked by Great Expectations; what fails becomes a readable list."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from styleblend.config.data import Validate
from styleblend.data.quality import COVERED, EXPOSURE
from styleblend.data.selection import MEASURES, labels_by_picture

EXAMPLES = 5
DRIFT = "drift"
"""Name of the suite on what moved since the champion learned."""

PLAIN = ("yaw_deg", "pitch_deg", "roll_deg", "sharpness", *EXPOSURE, COVERED)
"""Columns of the perceived table that are checked as they are."""

_KEYS = {"pictures": "raw_path", DRIFT: "column"}
_ROWS = {"pictures": "pictures", DRIFT: "columns"}


@dataclass(frozen=True)
class Failure:
    """One expectation on a column that does not hold; examples: what some rows that do not meet it are known by."""

    suite: str
    column: str
    rule: str
    observed: str
    examples: tuple[str, ...]

    def __str__(self) -> str:
        ids = f" (for example {', '.join(self.examples)})" if self.examples else ""
        return f"{self.suite}: {self.column} {self.rule}: {self.observed}{ids}"


@dataclass(frozen=True)
class Report:
    """Result of all suites: how many expectations were checked, and those that failed; `warnings` end no run."""

    checked: int
    failures: tuple[Failure, ...]
    results: dict[str, Any]
    warnings: tuple[Failure, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """For validation.json."""
        return {
            "success": not self.failures,
            "checked": self.checked,
            "failed": [str(failure) for failure in self.failures],
            "warned": [str(warning) for warning in self.warnings],
            "suites": self.results,
        }


def tables(
    faces: Path,
    manifest: pd.DataFrame,
    quarantine: pd.DataFrame,
    perceived: pd.DataFrame,
    chosen: pd.DataFrame,
    drift: pd.DataFrame | None = None,
) -> dict[str, pd.DataFrame]:
    """The flat tables that the suites check: a row a face, a perceived face, a face that is used, a picture, the run.

    Args:
        chosen: as `selection.select` gives it. drift: as `drift.compare` gives it, a row a column, where there is a
            champion to compare with.
    """
    measured = set(perceived["face_id"])
    pictures = zip(manifest["path"], manifest["size_px"], strict=True)
    seen = manifest[["face_id", "licence", "terms", "score"]].assign(
        picture=[_state(faces / path, size) for path, size in pictures], is_perceived=manifest["face_id"].isin(measured)
    )
    landmarks = _rows(perceived["landmarks"])
    measures = pd.DataFrame(
        {
            "face_id": perceived["face_id"],
            "is_in_manifest": perceived["face_id"].isin(set(manifest["face_id"])),
            "identity_metric": perceived.get("identity_metric", "cosine"),
            "identity_length": np.linalg.norm(_rows(perceived["identity"]), axis=1),
            "judge_length": np.linalg.norm(_rows(perceived["judge"]), axis=1),
            "landmark_smallest": landmarks.min(axis=1, initial=np.inf),
            "landmark_largest": landmarks.max(axis=1, initial=-np.inf),
            "expression_largest": np.abs(_rows(perceived["expression"])).max(axis=1, initial=0.0),
            **{name: perceived[name] for name in PLAIN},
        }
    )
    # One picture may give several faces, so inputs are counted by their path.
    quarantined = int((quarantine["is_picture"] != False).sum()) if "is_picture" in quarantine else len(quarantine)  # noqa: E712
    inputs = manifest["raw_path"].nunique() + quarantined
    run = pd.DataFrame(
        {
            "faces": [int(chosen["kept"].sum())],
            "pictures": [inputs],
            "quarantined": [quarantined / max(1, inputs)],
            "duplicates": [float(chosen["same_as"].notna().mean())],
        }
    )
    used = chosen.loc[chosen["kept"], ["face_id", "content", "picture", *MEASURES]]
    by_picture = labels_by_picture(chosen)[["raw_path", "labels"]]
    found = {"manifest": seen, "perceived": measures, "used": used, "pictures": by_picture, "run": run}
    return found if drift is None else found | {DRIFT: drift}


def _rows(column: pd.Series) -> np.ndarray:
    return np.stack(column.to_list()).astype(np.float64) if len(column) else np.zeros((0, 1))


def _state(path: Path, size_px: int) -> str:
    """`whole` for a readable square RGB picture of `size_px`, else what is wrong."""
    try:
        with Image.open(path) as image:
            if image.size != (size_px, size_px) or image.mode != "RGB":
                return f"{image.mode} {image.width}x{image.height}"
            image.load()
    except OSError as error:
        return "missing" if isinstance(error, FileNotFoundError) else "unreadable"
    return "whole"


def check(data: dict[str, pd.DataFrame], cfg: Validate, docs: Path) -> Report:
    """Run the suites on `tables` and write Great Expectations' data docs to `docs`."""
    # Read when the package is imported: no usage statistics leave the machine.
    os.environ["GX_ANALYTICS_ENABLED"] = "False"
    import great_expectations as gx

    with tempfile.TemporaryDirectory(prefix="great_expectations_") as project:
        context = gx.get_context(mode="file", project_root_dir=project)
        context.variables.progress_bars = {"globally": False}  # type: ignore[assignment]
        for site in list(context.get_site_names()):
            context.delete_data_docs_site(site_name=site)
        store = {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(docs.absolute())}
        index = {"class_name": "DefaultSiteIndexBuilder"}
        context.add_data_docs_site(
            site_name="reports",
            site_config={"class_name": "SiteBuilder", "store_backend": store, "site_index_builder": index},
        )
        datasource = context.data_sources.add_or_update_pandas(name="styleblend")
        failures: list[Failure] = []
        results: dict[str, Any] = {}
        checked = 0
        by_distance = "distance" in set(data["perceived"]["identity_metric"])
        for name, expectations in suites(cfg, by_distance, DRIFT in data).items():
            batch = datasource.add_dataframe_asset(name=name).add_batch_definition_whole_dataframe(name)
            suite = context.suites.add(gx.ExpectationSuite(name=name, expectations=expectations))
            definition = context.validation_definitions.add(gx.ValidationDefinition(name=name, data=batch, suite=suite))
            shown: dict[str, Any] = {"result_format": "SUMMARY", "partial_unexpected_count": EXAMPLES}
            if (key := _KEYS.get(name, "face_id")) in data[name]:
                shown["unexpected_index_column_names"] = [key]
            checkpoint = context.checkpoints.add(
                gx.Checkpoint(name=name, validation_definitions=[definition], result_format=shown)
            )
            outcome = checkpoint.run(batch_parameters={"dataframe": data[name]})
            results[name] = json.loads(outcome.describe())
            for run in outcome.run_results.values():
                checked += len(run.results)
                failures += [_failure(name, found.to_json_dict()) for found in run.results if not found.success]
        context.build_data_docs()
    lenient = {DRIFT} if cfg.on_drift == "warn" else set()
    warned = tuple(failure for failure in failures if failure.suite in lenient)
    return Report(checked, tuple(f for f in failures if f.suite not in lenient), results, warned)


def suites(cfg: Validate, by_distance: bool = False, with_drift: bool = False) -> dict[str, list[Any]]:
    """The expectations of each table, with the limits of `cfg`; `mostly` holds for measured ranges only.

    Args:
        by_distance: identities are compared by distance, so their vectors have lengths of their own.
        with_drift: there are data of a champion to compare with.
    """
    from great_expectations import expectations

    gxe: Any = expectations  # its types do not say what it exports

    def between(column: str, low: float | None, high: float | None, mostly: float = 1.0) -> Any:
        return gxe.ExpectColumnValuesToBeBetween(column=column, min_value=low, max_value=high, mostly=mostly)

    def given(column: str) -> list[Any]:
        return [
            gxe.ExpectColumnValuesToNotBeNull(column=column),
            gxe.ExpectColumnValuesToMatchRegex(column=column, regex=r"\S"),
        ]

    def true(column: str) -> Any:
        return gxe.ExpectColumnValuesToBeInSet(column=column, value_set=[True])

    unit = (0.999, 1.001)
    # Not-null checks also catch NaN, which ranges pass over.
    numbers = ["identity_length", "judge_length", "landmark_smallest", "landmark_largest"]
    numbers += ["expression_largest", *PLAIN]
    keep = cfg.keep
    found = {
        "manifest": [
            gxe.ExpectColumnValuesToNotBeNull(column="face_id"),
            gxe.ExpectColumnValuesToBeUnique(column="face_id"),
            *given("licence"),
            *given("terms"),
            between("score", 0, 1),
            gxe.ExpectColumnValuesToBeInSet(column="picture", value_set=["whole"]),
            true("is_perceived"),
        ],
        "perceived": [
            gxe.ExpectColumnValuesToBeUnique(column="face_id"),
            true("is_in_manifest"),
            *(gxe.ExpectColumnValuesToNotBeNull(column=name) for name in numbers),
            between("identity_length", *((1e-3, 1e3) if by_distance else unit)),
            between("judge_length", *unit),
            # Points of a turned or cut-off face may leave the crop a little.
            between("landmark_smallest", -0.5, None, cfg.mostly),
            between("landmark_largest", None, 1.5, cfg.mostly),
            between("expression_largest", 0, 1e3),
            between("yaw_deg", -cfg.max_abs_yaw_deg, cfg.max_abs_yaw_deg, cfg.mostly),
            between("pitch_deg", -90, 90, cfg.mostly),
            between("roll_deg", -180, 180),
            between("sharpness", cfg.min_sharpness, None, cfg.mostly),
            between("brightness", 0, 255),
            between("dark", 0, 1),
            between("light", 0, 1),
            between(COVERED, 0, 1),
        ],
        # What the splits take: no picture twice, and every limit of validate.keep met.
        "used": [
            gxe.ExpectColumnValuesToBeUnique(column="face_id"),
            gxe.ExpectColumnValuesToBeUnique(column="content"),
            gxe.ExpectColumnValuesToBeUnique(column="picture"),
            between("face_px", keep.min_face_px, None),
            between("sharpness", keep.min_sharpness, None),
            between("yaw_deg", -keep.max_abs_yaw_deg, keep.max_abs_yaw_deg),
            between("pitch_deg", -keep.max_abs_pitch_deg, keep.max_abs_pitch_deg),
            between("brightness", keep.min_brightness, keep.max_brightness),
            between("dark", 0, keep.max_dark),
            between("light", 0, keep.max_light),
            between(COVERED, 0, keep.max_covered),
        ],
        "pictures": [between("labels", None, 1, 1 - cfg.max_two_labels)],
        "run": [
            between("faces", cfg.min_faces, None),
            between("quarantined", 0, cfg.max_quarantined),
            between("duplicates", 0, cfg.max_duplicates),
        ],
    }
    return found | ({DRIFT: [between("distance", 0, cfg.max_drift)]} if with_drift else {})


def _failure(suite: str, result: dict[str, Any]) -> Failure:
    config, found = result["expectation_config"], result["result"]
    left_out = (("mostly", 1.0), *((key, config["kwargs"].get(key)) for key in ("batch_id", "column")))
    limits = ", ".join(f"{key} {value}" for key, value in config["kwargs"].items() if (key, value) not in left_out)
    column = str(config["kwargs"].get("column", "table"))
    rule = str(config["type"]).removeprefix("expect_column_values_").replace("_", " ")
    rule += f" ({limits})" if limits else ""
    # One dictionary, or one for each metric that the expectation needed.
    errors = result.get("exception_info") or {}
    for error in [errors] if "raised_exception" in errors else errors.values():
        if error["raised_exception"]:
            message = " ".join(str(error["exception_message"]).split())
            return Failure(suite, column, rule, f"not checked: {message}", ())
    failed, total = int(found.get("unexpected_count", 0)), int(found.get("element_count", 0))
    rows = found.get("partial_unexpected_index_list") or []
    key = _KEYS.get(suite, "face_id")
    ids = tuple(str(row[key]) for row in rows if isinstance(row, dict))[:EXAMPLES]
    if suite == "run":
        return Failure(suite, column, rule, f"it is {found.get('partial_unexpected_list', ['?'])[0]}", ())
    return Failure(suite, column, rule, f"{failed} of {total} {_ROWS.get(suite, 'faces')} do not", ids)
