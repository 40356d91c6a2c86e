"""data.copies and data.selection: a picture counts once, whatever its file, its label and its source say."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image

import hostile_faces
from styleblend.config.data import Keep, Split
from styleblend.data import quality
from styleblend.data.copies import small, structure
from styleblend.data.perceived import sharpness
from styleblend.data.selection import labels_by_picture, select
from styleblend.data.splits import draw_pairs, split
from styleblend.errors import StyleBlendError
from styleblend.reporting import data_report

SIDE = 96
Picture = NDArray[np.uint8]


def photograph(seed: int) -> Picture:
    """A picture that no other seed's is like: blurred noise of several scales."""
    random = np.random.default_rng(seed)
    layers = [cv2.GaussianBlur(random.normal(size=(SIDE, SIDE)), (0, 0), scale) for scale in (2, 5, 12)]
    grey = sum(layer / layer.std() for layer in layers)
    return np.uint8(np.clip(128 + 30 * np.asarray(grey), 0, 255))[..., None].repeat(3, 2)


def person(number: int, distance: float = 0.0, seed: int = 0) -> NDArray[np.float32]:
    """A unit vector of a person, `distance` from the person's mean."""
    centre = np.random.default_rng(1000 + number).normal(size=64)
    centre /= np.linalg.norm(centre)
    aside = np.random.default_rng(seed).normal(size=64)
    vector = centre + distance * aside / np.linalg.norm(aside)
    return np.float32(vector / np.linalg.norm(vector))


def recoded(picture: Picture) -> Picture:
    with io.BytesIO() as file:
        Image.fromarray(picture).save(file, "JPEG", quality=50)
        return np.asarray(Image.open(file).convert("RGB"))


def resized(picture: Picture) -> Picture:
    half = cv2.resize(picture, (SIDE // 2, SIDE // 2), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(half, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC))


def cut_elsewhere(picture: Picture) -> Picture:
    """As where a detector's points fall a little otherwise: 2 px aside, turned by 1 degree, 2 % larger."""
    onto = cv2.getRotationMatrix2D((SIDE / 2, SIDE / 2), 1, 1.02)
    onto[:, 2] += (2, -1.5)
    return np.asarray(cv2.warpAffine(picture, onto, (SIDE, SIDE), borderMode=cv2.BORDER_REFLECT))


def brighter(picture: Picture) -> Picture:
    return np.uint8(np.clip(picture * 0.8 + 40.0, 0, 255))


def next_shot(picture: Picture) -> Picture:
    """The same but for a twelfth of it, as where somebody begins to smile."""
    changed = picture.copy()
    changed[52:72, 28:66] = photograph(77)[52:72, 28:66]
    return changed


@dataclass
class Faces:
    """Rows and pictures of a folder of aligned faces, as the stages align and perceive leave them."""

    folder: Path
    rows: list[dict[str, object]] = field(default_factory=list)
    pixels: list[Picture] = field(default_factory=list)

    def add(
        self,
        picture: Picture,
        vector: NDArray[np.float32],
        label: str | None,
        file: str | None = None,
        side: float = 50,
    ) -> str:
        name = f"face-{len(self.rows):03d}"
        Image.fromarray(picture).save(self.folder / f"{name}.png")
        corners = np.float32([0, 0, 0, side, side, side, side, 0])
        self.rows.append(
            {
                "face_id": name, "source": f"source-{len(self.rows) % 2}", "path": f"{name}.png", "person": label,
                "raw_path": f"people/{label}/{name}.jpg", "raw_sha256": file or name, "quad": corners,
                "identity": vector,
            }
        )  # fmt: skip
        self.pixels.append(picture)
        return name

    def tables(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        table = pd.DataFrame(self.rows).astype({"person": "str"})
        seen = table[["face_id", "identity"]].assign(
            identity_metric="cosine", yaw_deg=0.0, pitch_deg=0.0, sharpness=[sharpness(each) for each in self.pixels],
            **quality.columns(np.stack(self.pixels), np.zeros((len(self.pixels), 68, 2))),
        )  # fmt: skip
        return table.drop(columns="identity"), seen

    def chosen(self, cfg: Keep | None = None) -> pd.DataFrame:
        return select(self.folder, *self.tables(), cfg or Keep()).set_index("face_id", drop=False)


@pytest.fixture
def faces(tmp_path: Path) -> Faces:
    return Faces(tmp_path)


def test_a_group_picture_below_every_person_is_kept_once(faces: Faces) -> None:
    """12 people with three pictures each and one file below all of them: it stays where it is most like the others."""
    for number in range(12):
        for shot in range(3):
            faces.add(photograph(10 * number + shot), person(number, 0.6, 10 * number + shot), f"person{number:02d}")
        faces.add(photograph(999), person(7, 0.6, 999), f"person{number:02d}", file="group")
    chosen = faces.chosen()
    group = chosen[chosen["content"].str.startswith("group")]
    assert len(group) == 12 and group["picture"].nunique() == 1
    assert group.loc[group["kept"], "person"].tolist() == ["person07"]
    assert set(group.loc[~group["kept"], "how"]) == {"identical"} and chosen["kept"].sum() == 37
    told = data_report.conflicts(chosen)
    assert told[["labels", "copies", "kept_as"]].to_numpy().tolist() == [[12, 12, "person07"]]
    assert data_report.fallen(chosen) == {"identical": 11}

    manifest, seen = faces.tables()
    kept = manifest[manifest["face_id"].isin(chosen.loc[chosen["kept"], "face_id"])]
    made = split(kept, seen, Split(val=0.2, test=0.3, test_pairs=1000))
    picture = chosen["picture"]
    parts = [set(table["face_id"].map(picture)) for table in (made.train, made.val, made.test)]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 37
    for pairs in (made.val_pairs, made.test_pairs):
        assert (pairs["source_id"].map(picture).to_numpy() != pairs["target_id"].map(picture).to_numpy()).all()


def test_copies_are_found_and_other_shots_are_not(faces: Faces) -> None:
    """Recoded, halved, cut elsewhere and brightened copies of each of 5 pictures are one; another shot is another."""
    wanted = []
    for number in range(5):
        first = photograph(number)
        for change in (lambda same: same, recoded, resized, cut_elsewhere, brighter, next_shot):
            faces.add(change(first), person(number, 0.05, len(wanted)), None, side=50 - len(wanted))
            wanted.append(2 * number + (change is next_shot))
    chosen = faces.chosen()
    assert pd.factorize(chosen["picture"])[0].tolist() == pd.factorize(pd.Series(wanted))[0].tolist()
    # Of copies, the one whose face is the largest in its photograph.
    assert chosen.loc[chosen["kept"], "face_id"].tolist() == [f"face-{n:03d}" for n in range(30) if n % 6 in (0, 5)]
    assert data_report.fallen(chosen) == {"near-identical": 20}


def test_a_copy_needs_the_same_person(faces: Faces) -> None:
    """The same pixels with embeddings of two people are no copies: the question of the embedding is asked."""
    picture = photograph(0)
    faces.add(picture, person(0), "a")
    faces.add(picture, person(1), "b")
    assert faces.chosen()["kept"].all()
    assert not faces.chosen(Keep(duplicate_similarity=-0.99))["kept"].all()


def test_a_label_counts_more_than_none_and_the_likeliest_of_two_most(faces: Faces) -> None:
    """An unlabelled copy gives way to a smaller labelled one; between labels their other faces decide, not the size."""
    faces.add(photograph(0), person(0, 0.1, 0), None, side=90)
    labelled = faces.add(recoded(photograph(0)), person(0, 0.1, 1), "anna", side=40)
    faces.add(photograph(1), person(0, 0.5, 2), "anna")
    faces.add(photograph(2), person(3, 0.1, 3), "anna", side=90)
    right = faces.add(recoded(photograph(2)), person(3, 0.1, 4), "berta", side=40)
    faces.add(photograph(3), person(3, 0.5, 5), "berta")
    chosen = faces.chosen()
    assert chosen.loc[["face-000", "face-003"], "same_as"].tolist() == [labelled, right]
    assert chosen["kept"].tolist() == [False, True, True, False, True, True]
    assert labels_by_picture(chosen)["named"].dropna().tolist() == ["anna, berta"]


def test_each_limit_is_named_with_what_fell_to_it(faces: Faces) -> None:
    """Small, blurred, dark, bright and burnt-out faces miss their limits, and the copy that meets them is used."""
    sharp = photograph(0)
    faces.add(sharp, person(0), "a", side=20)
    faces.add(recoded(sharp), person(0), "a", side=60)
    faces.add(cv2.GaussianBlur(photograph(1), (0, 0), 6), person(1), "b", side=60)
    faces.add(np.uint8(photograph(2) // 10), person(2), "c", side=60)
    faces.add(np.uint8(255 - photograph(3) // 32), person(3), "d", side=60)
    faces.add(np.where(np.arange(SIDE)[:, None, None] < 48, np.uint8(255), photograph(4)), person(4), "e", side=60)
    blurred, dark, light = (sharpness(faces.pixels[number]) for number in (2, 3, 4))
    floor = max(blurred, dark, light) + 0.5
    limits = Keep(min_face_px=30, min_sharpness=floor, min_brightness=40, max_brightness=200, max_light=0.4)
    chosen = faces.chosen(limits)
    assert chosen["missed"].tolist() == [
        "min_face_px",
        "",
        "min_sharpness",
        "min_sharpness, min_brightness",
        "min_sharpness, max_brightness, max_light",
        "max_light",
    ]
    assert chosen["kept"].tolist() == [False, True, False, False, False, False]
    assert data_report.fallen(chosen) == {
        "min_sharpness": 3, "max_light": 2, "min_face_px": 1, "min_brightness": 1, "max_brightness": 1,
    }  # fmt: skip


def test_a_face_that_was_not_seen_or_cannot_be_read_ends_nothing(faces: Faces) -> None:
    """Without a row of the perceived table a face is not used; a damaged file has no near copies."""
    for label in ("a", "b", "c"):
        faces.add(photograph(0), person(0), label)
    (faces.folder / "face-001.png").write_bytes(b"damaged")
    manifest, seen = faces.tables()
    chosen = select(faces.folder, manifest, seen.iloc[:2], Keep())
    assert chosen["kept"].tolist() == [True, True, False] and chosen["missed"].tolist() == ["", "", "not perceived"]
    with pytest.raises(StyleBlendError, match="no column picture_hash: run the stage perceive again"):
        select(faces.folder, manifest, seen.drop(columns="picture_hash"), Keep())


def test_structure_is_one_for_a_copy_and_low_where_a_part_differs() -> None:
    """Whatever the place, light and contrast of the copy; a changed twelfth of the picture counts."""
    first = small(photograph(0)[..., 0])
    for change in (recoded, resized, cut_elsewhere, brighter):
        assert structure(first, small(change(photograph(0))[..., 0])) > 0.97
    assert structure(first, small(next_shot(photograph(0))[..., 0])) < 0.5
    assert structure(np.zeros_like(first), first) < 0.5


def test_a_hash_ignores_light_and_its_product_counts_bits() -> None:
    """Hashes of a brighter copy are equal; products of the bits are those that differ, counted one by one."""
    greys = [photograph(seed)[..., 0] for seed in range(6)]
    hashes = [quality.picture_hash(grey) for grey in greys]
    assert quality.picture_hash(np.uint8(np.round(greys[0] * 0.5 + 30))) == hashes[0]
    bits = quality.hash_bits(hashes)
    apart = [[bin(int(a, 16) ^ int(b, 16)).count("1") for b in hashes] for a in hashes]
    assert ((quality.HASH_BITS - bits @ bits.T) / 2).tolist() == apart and max(map(max, apart)) > 10


def test_exposure_is_that_of_the_middle() -> None:
    """A black border counts for nothing; shares are of nearly black and nearly white pixels."""
    grey = np.zeros((20, 20), np.uint8)
    grey[4:16, 4:16] = 100
    grey[4:16, 4:7] = 255
    assert quality.exposure(grey) == pytest.approx((0.75 * 100 + 0.25 * 255, 0.0, 0.25))


@pytest.mark.parametrize("wanted", [5, 10_000])
def test_two_faces_of_one_picture_make_no_pair(wanted: int) -> None:
    """Of 20 pictures with two people each all pairs of other people and other pictures are drawn, and no others."""
    table = pd.DataFrame({"face_id": [f"f{i}" for i in range(40)], "person": [f"p{i % 8}" for i in range(40)]})
    pictures = pd.Series([i // 2 for i in range(40)])
    pairs = draw_pairs(table, wanted, 0, pictures)
    number = {name: int(name[1:]) for name in table["face_id"]}
    found = {(number[a], number[b]) for a, b in zip(pairs["source_id"], pairs["target_id"], strict=True)}
    every = {(a, b) for a in range(40) for b in range(40) if a % 8 != b % 8 and a // 2 != b // 2}
    assert found <= every and len(found) == len(pairs) == min(wanted, len(every))


def test_what_covers_a_face_is_measured_by_its_colour() -> None:
    """Of one colour: as much as is painted, of another one; skin over skin is not seen. Points that are none tell
    nothing."""
    points = np.random.default_rng(0).uniform(0.2, 0.8, (68, 2))
    points[:4] = ((0.1, 0.1), (0.9, 0.1), (0.9, 0.9), (0.1, 0.9))
    inside = quality.skin(points, 128, 128)
    face = np.full((128, 128, 3), (200, 150, 120), np.uint8)
    assert quality.covered(face, points) == 0.0
    for columns in (20, 30, 40):
        hidden = np.zeros_like(inside)
        hidden[:, :columns] = True
        painted = np.where(hidden[..., None], np.uint8((40, 90, 160)), face)
        assert quality.covered(painted, points) == pytest.approx(hidden[inside].mean(), abs=0.03)
        likewise = np.where(hidden[..., None], np.uint8((210, 155, 125)), face)
        assert quality.covered(likewise, points) == 0.0
    assert quality.covered(face, np.full((68, 2), np.nan)) == 0.0
    assert quality.covered(face, np.full((68, 2), 9.0)) == 0.0


@pytest.mark.parametrize("look", ["sunglasses", "mask"])
def test_a_rendered_face_behind_glasses_or_a_mask_is_more_covered(look: str) -> None:
    """By at least half of what is hidden, with the true landmarks."""
    face = hostile_faces.rendered(128)
    points = (np.reshape(face.landmarks, (68, 2)) + 0.5) / 128
    plain = np.asarray(face.image)
    hidden = np.asarray(hostile_faces.LOOKS[look](face, np.random.default_rng(1)))
    share = (hidden != plain).any(2)[quality.skin(points, 128, 128)].mean()
    assert share > 0.15
    assert quality.covered(hidden, points) - quality.covered(plain, points) > share / 2


def test_covered_faces_fall_to_their_limit_alone_if_there_is_one(faces: Faces) -> None:
    """By default no face does."""
    faces.add(photograph(0), person(0), "a")
    faces.add(photograph(1), person(1), "b")
    table, seen = faces.tables()
    seen["covered"] = [0.1, 0.6]
    for limit, kept in ((1.0, [True, True]), (0.5, [True, False])):
        chosen = select(faces.folder, table, seen, Keep(max_covered=limit))
        assert chosen["kept"].tolist() == kept
    assert chosen["missed"].tolist() == ["", "max_covered"]
