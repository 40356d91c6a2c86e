"""data.licences: what a model's parts allow is what the model allows."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from styleblend.config import catalogue
from styleblend.data import licences
from styleblend.data.published import CELEBA_LICENCE, CELEBA_TERMS, FFHQ_LICENCE, FFHQ_TERMS

SMALL = {"file": "x.safetensors", "name": "small", "licence": "MIT", "commercial": True}


def faces(*sources: tuple[str, str, str]) -> pd.DataFrame:
    return pd.DataFrame(sources, columns=["source", "licence", "terms"])


def listed(name: str) -> dict[str, Any]:
    entry = catalogue.built_in().get(name)
    return {"file": "x.onnx", "name": name, "licence": entry.licence, "commercial": entry.commercial}


RENDERED = ("rendered", "CC0-1.0", "none")


def test_free_parts_make_a_free_model() -> None:
    """This project's networks and rendered faces: nothing is stated to be non-commercial."""
    found = licences.of({"identity": SMALL, "decoder": SMALL, "detector": listed("yunet")}, faces(RENDERED))
    assert found.tags() == {"licence": licences.FREE} and "Non-commercial" not in found.text()


@pytest.mark.parametrize("role", ["identity", "decoder", "landmarks", "encoder_body", "detector"])
def test_a_network_that_it_learned_from_binds_it(role: str) -> None:
    """Through a loss, as its beginning, or by the pictures that were cut out with it."""
    known = catalogue.built_in()
    name = next(name for name in known.fitting(role) if not known.get(name).commercial)
    tags = licences.of({"attributes": SMALL, role: listed(name)}, faces(RENDERED)).tags()
    assert tags["licence"] == "non-commercial" and tags["licence_because"].startswith(f"{role} {name} (")


@pytest.mark.parametrize("role", licences.MEASURING)
def test_a_network_that_measured_it_is_named_and_does_not_bind_it(role: str) -> None:
    """Its licence binds who measures."""
    found = licences.of({role: listed("glintr100")}, faces(RENDERED))
    assert found.tags() == {
        "licence": licences.FREE,
        "measured_with_non_commercial": f"{role} glintr100 (InsightFace model terms)",
    }
    assert "measured with" in found.text()


@pytest.mark.parametrize(
    "licence, terms, bound",
    [
        (FFHQ_LICENCE, FFHQ_TERMS, True),
        (CELEBA_LICENCE, CELEBA_TERMS, True),
        ("Attribution-NonCommercial License", "", True),
        ("my own", "for research only", True),
        ("CC BY 2.0", FFHQ_TERMS, True),
        ("Public Domain Mark", "sync with the owner once a year", False),
        ("my own", "everybody shown has agreed", False),
    ],
)
def test_data_bind_a_model_by_their_licence_or_their_terms(licence: str, terms: str, bound: bool) -> None:
    """As the sources of this project state them, and in a person's own words."""
    found = licences.of({"identity": SMALL}, faces(RENDERED, ("photos", licence, terms)))
    assert found.because == ((f"data photos ({licence})",) if bound else ())


@pytest.mark.parametrize(
    "text",
    [
        "not for commercial use",
        "No commercial use",
        "commercial use prohibited",
        "Commercial use is strictly prohibited",
        "commercial use is not allowed",
        "for academic use only",
        "academic research only",
        "for research purposes only",
        "only for academic research",
        "may not be used for commercial purposes",
        "not to be used commercially",
        "non commercial",
        "no commercial purposes, no copies",
        "CC BY-NC-SA 4.0",
        "Attribution-NonCommercial-ShareAlike License",
    ],
)
def test_words_that_forbid_commercial_use_are_understood(text: str) -> None:
    """In the ways in which owners put it, for data as for networks; a source's terms count like its licence."""
    assert licences.forbids(text) and licences.forbids(f"my own | {text}; ask me")
    assert licences.of({"identity": SMALL}, faces(RENDERED, ("photos", "my own", text))).because


@pytest.mark.parametrize(
    "text",
    [
        "sync with the owner once a year",
        "commercial use allowed",
        "any use, commercial use included",
        "no commercial restrictions",
        "commercial use permitted, not transferable",
        "commercial use not limited in time",
        "made for research, free for any use",
        "Apache-2.0",
        "",
    ],
)
def test_other_words_forbid_nothing(text: str) -> None:
    """Words of commerce or research alone bind nobody."""
    assert not licences.forbids(text)


def test_a_file_without_the_flag_is_read_by_its_licence() -> None:
    """networks.json of older runs says less."""
    old = {"file": "x.onnx", "licence": "CC BY-NC 4.0"}
    assert licences.of({"decoder": old}, faces(RENDERED)).because == ("decoder x.onnx (CC BY-NC 4.0)",)
