"""data.splits: nobody stands in two splits, and pairs are of different persons."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from styleblend.config.data import Split
from styleblend.data.clusters import cluster
from styleblend.data.splits import Splits, draw_pairs, name_persons, split
from styleblend.errors import StyleBlendError


def faces(
    persons: int, each: int, labelled: bool, spread: float = 0.05, seed: int = 0
) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, int]]:
    """Manifest and perceived tables of `persons` x `each` faces, embeddings near a centre, and the true persons."""
    random = np.random.default_rng(seed)
    truth = np.repeat(np.arange(persons), each)
    vectors = random.normal(size=(persons, 64))[truth] + spread * random.normal(size=(len(truth), 64))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    ids = [f"face-{number:04d}" for number in random.permutation(len(truth))]
    names = [f"p{person}" if labelled else None for person in truth]
    manifest = pd.DataFrame({"face_id": ids, "person": pd.Series(names, dtype="str"), "raw_sha256": ids})
    perceived = pd.DataFrame({"face_id": ids, "identity": list(vectors.astype(np.float32))})
    return manifest, perceived.sample(frac=1, random_state=1), dict(zip(ids, truth.tolist(), strict=True))


def parts(made: Splits) -> dict[str, pd.DataFrame]:
    return {"train": made.train, "val": made.val, "test": made.test}


@pytest.mark.parametrize("labelled", [True, False])
def test_nobody_stands_in_two_splits(labelled: bool) -> None:
    """Each face is in exactly one split, and so is each true person, whether by label or by embedding."""
    manifest, perceived, truth = faces(30, 4, labelled)
    made = split(manifest, perceived, Split())
    ids = pd.concat([table["face_id"] for table in parts(made).values()])
    assert sorted(ids) == sorted(truth)
    persons = [{truth[face] for face in table["face_id"]} for table in parts(made).values()]
    assert sum(map(len, persons)) == len(set.union(*persons)) == 30
    assert [len(people) for people in persons] == [21, 3, 6]
    names = pd.concat(list(parts(made).values())).set_index("face_id")["person"]
    assert names.nunique() == 30 and names.str.startswith("p" if labelled else "cluster-").all()


def test_the_same_seed_gives_the_same_split() -> None:
    """Row order does not matter, the seed does."""
    manifest, perceived, _ = faces(30, 4, labelled=True)
    one, two = (split(table, perceived, Split()) for table in (manifest, manifest.sample(frac=1, random_state=2)))
    for name in ("train", "val", "test", "val_pairs", "test_pairs"):
        pd.testing.assert_frame_equal(getattr(one, name), getattr(two, name))
    assert set(split(manifest, perceived, Split(seed=1)).test["face_id"]) != set(one.test["face_id"])


def test_clusters_are_connected_components() -> None:
    """Clusters equal a slow search over all near pairs, also over several blocks, numbered by first member."""
    random = np.random.default_rng(0)
    vectors = random.normal(size=(600, 3)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    near = vectors @ vectors.T > 0.995
    slow, found = np.full(600, -1), 0
    for start in range(600):
        if slow[start] < 0:
            waiting = [start]
            while waiting:
                one = waiting.pop()
                if slow[one] < 0:
                    slow[one] = found
                    waiting += np.flatnonzero(near[one]).tolist()
            found += 1
    assert 10 < found < 590
    assert cluster(vectors, 0.995).tolist() == slow.tolist()


def test_vectors_of_any_length_are_told_apart_by_distance() -> None:
    """Of people whose cosines are all above 0.9, who lie 0.05 around centres 0.8 apart, everybody is found."""
    manifest, perceived, truth = faces(12, 4, labelled=False, spread=0.3)
    vectors = np.stack(perceived["identity"].to_list())
    vectors = np.float32(0.6 * vectors / np.linalg.norm(vectors, axis=1, keepdims=True) + np.eye(64)[0] * 3)
    near = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    assert (near @ near.T).min() > 0.9
    table = perceived.assign(identity=list(vectors), identity_metric="distance")
    made = split(manifest, table, Split(cluster_similarity=1 - 0.6**2))
    persons = pd.concat(list(parts(made).values())).set_index("face_id")["person"]
    people = persons.groupby(persons.index.map(truth)).nunique()
    assert people.tolist() == [1] * 12 and persons.nunique() == 12


def test_a_label_reaches_the_same_persons_unlabelled_faces() -> None:
    """A face without a label that is close to a labelled one is that person; a stranger is a cluster."""
    manifest, perceived, truth = faces(6, 4, labelled=True)
    table = manifest.merge(perceived, on="face_id")
    table.loc[table["face_id"].map(lambda face: truth[face] in (0, 5)), "person"] = None
    known = table.index[table["face_id"].map(truth) == 0][0]
    table.loc[known, "person"] = "p0"
    named = name_persons(table["person"], np.stack(table["identity"].to_list()), 0.5)
    people = table["face_id"].map(truth)
    assert {name for name, person in zip(named, people, strict=True) if person == 0} == {"p0"}
    strangers = {name for name, person in zip(named, people, strict=True) if person == 5}
    assert len(strangers) == 1 and strangers.pop().startswith("cluster-")


def test_faces_that_a_weak_network_cannot_tell_apart_stay_in_training() -> None:
    """One cluster with most faces does not become the test set."""
    manifest, perceived, truth = faces(12, 2, labelled=True)
    crowd = pd.DataFrame({"face_id": [f"crowd-{i}" for i in range(60)], "person": "crowd"})
    crowd["raw_sha256"] = crowd["face_id"]
    seen = pd.DataFrame({"face_id": crowd["face_id"], "identity": [perceived["identity"].iloc[0]] * 60})
    for seed in range(8):
        made = split(pd.concat([manifest, crowd]), pd.concat([perceived, seen]), Split(seed=seed))
        assert "crowd" in set(made.train["person"])


def test_too_few_persons_name_the_threshold_that_helps() -> None:
    """Faces joined into too few persons: one line with their number and a threshold, and that threshold works."""
    manifest, perceived, _ = faces(20, 3, labelled=False, spread=0.8)
    shift = np.ones(64) / 4
    perceived["identity"] = [(v + shift) / np.linalg.norm(v + shift) for v in perceived["identity"]]
    with pytest.raises(StyleBlendError, match=r"^[1-5] persons \(60 faces\)") as error:
        split(manifest, perceived, Split(cluster_similarity=0.3))
    message = str(error.value)
    assert "\n" not in message
    advised = float(message.split("raise split.cluster_similarity to ")[1].split(",")[0])
    made = split(manifest, perceived, Split(cluster_similarity=advised))
    assert all(table["person"].nunique() >= 2 for table in parts(made).values())


def test_too_few_labels_ask_for_more_people() -> None:
    """With labels no threshold helps, and none is advised."""
    manifest, perceived, _ = faces(5, 3, labelled=True)
    with pytest.raises(StyleBlendError, match="5 persons .*add pictures of more people"):
        split(manifest, perceived, Split())


def test_a_face_that_was_not_perceived_is_reported() -> None:
    """A table of other faces is an error, not a smaller split."""
    manifest, perceived, _ = faces(10, 3, labelled=True)
    with pytest.raises(StyleBlendError, match="2 of 30 faces have no row"):
        split(manifest, perceived.iloc[2:], Split())


@pytest.mark.parametrize("wanted", [1, 50, 10_000])
def test_pairs_are_distinct_and_of_different_persons(wanted: int) -> None:
    """Each pair once, never within a person, in both directions; as many as asked or as there are."""
    table = pd.DataFrame({"face_id": [f"f{i}" for i in range(30)], "person": [f"p{i % 7}" for i in range(30)]})
    pairs = draw_pairs(table, wanted, seed=0)
    person = table.set_index("face_id")["person"]
    assert not pairs.duplicated().any()
    different = pairs["source_id"].map(person).to_numpy() != pairs["target_id"].map(person).to_numpy()
    assert different.all()
    sizes = table["person"].value_counts()
    assert len(pairs) == min(wanted, 30 * 30 - int((sizes**2).sum()))
    pd.testing.assert_frame_equal(pairs, draw_pairs(table, wanted, seed=0))
    assert wanted == 10_000 or not pairs.equals(draw_pairs(table, wanted, seed=1))


def test_pairs_use_every_face() -> None:
    """With at least two pairs a face, every face is a source and a target, none far more than the others."""
    table = pd.DataFrame({"face_id": [f"f{i}" for i in range(100)], "person": [f"p{i // 4}" for i in range(100)]})
    pairs = draw_pairs(table, 300, seed=0)
    for column in ("source_id", "target_id"):
        counts = pairs[column].value_counts()
        assert len(counts) == 100 and counts.max() <= 5
