"""The protocol: galleries, groups, rounding, and figures against values worked out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import tiny_project
from styleblend.errors import StyleBlendError
from styleblend.evaluation import baselines, metrics, protocol
from styleblend.evaluation.judges import Judges
from styleblend.evaluation.metrics import Metric
from styleblend.faces import pixels
from styleblend.perception import attributes, identity, landmarks


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    tiny_project.make(folder)
    return folder / "data"


@pytest.fixture(scope="module")
def pairs(root: Path) -> protocol.Pairs:
    return protocol.read_pairs(root / "splits", root / "faces", root / "perceived.parquet")


def test_pairs_follow_the_written_list(root: Path, pairs: protocol.Pairs) -> None:
    """Row numbers lead back to the ids of the list, and the two persons of a pair differ."""
    listed = pd.read_parquet(root / "splits/test_pairs.parquet")
    assert pairs.table.index[pairs.source.numpy()].tolist() == listed["source_id"].tolist()
    assert pairs.table.index[pairs.target.numpy()].tolist() == listed["target_id"].tolist()
    assert (pairs.person[pairs.source] != pairs.person[pairs.target]).all()
    assert pairs.pictures(pairs.source[:3]).shape == (3, 3, 32, 32)


def test_a_lost_face_is_named(root: Path, tmp_path: Path) -> None:
    """A pair whose face was never perceived is an error that names the face."""
    seen = pd.read_parquet(root / "perceived.parquet")
    seen.iloc[1:].to_parquet(tmp_path / "perceived.parquet")
    with pytest.raises(StyleBlendError, match=seen["face_id"].iloc[0]):
        protocol.read_pairs(root / "splits", root / "faces", tmp_path / "perceived.parquet")


def test_rounding_is_that_of_a_written_picture() -> None:
    """All 256 levels survive the way there and back; values beyond the range are cut; NaN is refused."""
    levels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    assert pixels.to_8bit(pixels.from_8bit(levels)).equal(levels)
    assert pixels.to_8bit(torch.tensor([-3.0, 7.0, 0.2 / 127.5])).tolist() == [0, 255, 128]
    with pytest.raises(StyleBlendError, match="not finite"):
        pixels.to_8bit(torch.tensor([torch.nan]))


def test_measurement_does_not_depend_on_the_batches(root: Path, pairs: protocol.Pairs) -> None:
    """One batch or many: the same rows, and the kept pictures are those that were asked for, in order."""
    judge = identity.load(root / "networks", "identity_judge")
    seer = attributes.load(root / "networks", "attributes_judge")
    methods = {"copy_source": baselines.copy_source}
    whole = protocol.measure(pairs, methods, Judges(judge, seer, judge), 10, keep=[1, 6])["copy_source"]
    parts = protocol.measure(pairs, methods, Judges(judge, seer, judge), 3, keep=[1, 6])["copy_source"]
    pd.testing.assert_frame_equal(whole.table, parts.table, rtol=1e-3, atol=1e-5)
    assert whole.kept.equal(pairs.pictures(pairs.source[[1, 6]])) and parts.kept.equal(whole.kept)


def test_a_measured_method_keeps_no_graph(root: Path, pairs: protocol.Pairs) -> None:
    """What a network draws carries nothing for a backward pass: at 1024 px that would fill a GPU."""
    learning = torch.nn.Conv2d(3, 3, 1)
    drawn: list[torch.Tensor] = []

    def method(batch: protocol.Batch) -> torch.Tensor:
        drawn.append(learning(batch.target))
        return drawn[-1]

    judge = identity.load(root / "networks", "identity_judge")
    seer = attributes.load(root / "networks", "attributes_judge")
    protocol.measure(pairs, {"m": method}, Judges(judge, seer, judge), 5)
    assert drawn and not any(picture.requires_grad for picture in drawn)


def test_a_judge_may_compare_by_distance(root: Path, pairs: protocol.Pairs) -> None:
    """An attribute `metric` on the judge changes ranks and similarities, of copies to what follows from perceive."""
    judge = identity.load(root / "networks", "identity_judge")
    judge.metric = "distance"
    seer = attributes.load(root / "networks", "attributes_judge")
    table = protocol.measure(pairs, {"m": baselines.copy_target}, Judges(judge, seer, judge), 10)["m"].table
    apart = (pairs.judge[pairs.source].double() - pairs.judge[pairs.target].double()).square().sum(1)
    assert table["id_similarity_source"].tolist() == pytest.approx((1 - apart).tolist(), abs=1e-3)
    assert table["id_similarity_target"].tolist() == pytest.approx([1] * len(pairs), abs=1e-3)
    assert (table["target_rank"] == 1).all()


def test_what_no_network_sees_is_not_measured(root: Path, pairs: protocol.Pairs) -> None:
    """Without a training network there is no judge gap; with it, a copy of the source has that of its own scales, and a
    network of landmarks gives their error."""
    judge, trained = (identity.load(root / "networks", role) for role in ("identity_judge", "identity"))
    seer, points = attributes.load(root / "networks", "attributes_judge"), landmarks.load(root / "networks")
    methods = {"m": baselines.copy_source}
    without = protocol.measure(pairs, methods, Judges(judge, seer, judge), 10)["m"].table
    assert not {"judge_gap", "landmark_error"} & set(without)
    judges = Judges(judge, seer, judge, trained, points)
    table = protocol.measure(pairs, methods, judges, 10)["m"].table
    means = []
    for values in (pairs.identity.double(), pairs.judge.double()):
        unit = torch.nn.functional.normalize(values, dim=1)
        alike = [float(unit[2 * person] @ unit[2 * person + 1]) for person in range(6)]
        means.append(np.mean(alike))
    assert table["judge_gap"].tolist() == pytest.approx([1 / means[0] - 1 / means[1]] * len(pairs), abs=1e-3)
    with torch.no_grad():
        seen = points(pixels.from_8bit(pairs.pictures(pairs.source))).double()
    wanted = pairs.landmarks[pairs.target].double()
    across = (wanted[:, 36] - wanted[:, 45]).norm(dim=1)
    assert table["landmark_error"].tolist() == pytest.approx(
        (100 * (seen - wanted).norm(dim=2).mean(1) / across).tolist(), rel=1e-3
    )


def test_a_mesh_bends_the_dense_warp(root: Path, pairs: protocol.Pairs, tmp_path: Path) -> None:
    """Points of a mesh that perceive has seen are taken in the place of 68 landmarks; depth does not count."""
    seen = pd.read_parquet(root / "perceived.parquet")
    points = torch.stack([torch.tensor(values).reshape(68, 2) for values in seen["landmarks"]])
    twice = torch.cat([points, (points + points.flip(1)) / 2], dim=1)
    depth = torch.rand(*twice.shape[:2], 1, generator=torch.Generator().manual_seed(0))
    seen["mesh"] = torch.cat([twice, depth], dim=2).flatten(1).tolist()
    seen.to_parquet(tmp_path / "perceived.parquet")
    meshed = protocol.read_pairs(root / "splits", root / "faces", tmp_path / "perceived.parquet")
    order = [list(seen["face_id"]).index(name) for name in meshed.table.index]
    torch.testing.assert_close(meshed.dense_points, twice[order].float())
    assert pairs.dense_points is pairs.landmarks
    rows = torch.arange(len(pairs))
    faces = [pixels.from_8bit(pairs.pictures(each)) for each in (pairs.source, pairs.target)]
    swapped = [
        baselines.dense_warped(protocol.Batch(each, each.source, each.target, *faces, rows)) for each in (pairs, meshed)
    ]
    assert not swapped[0].equal(swapped[1])


def test_gallery_holds_each_source_face_once(root: Path, pairs: protocol.Pairs) -> None:
    """The worst possible rank is one more than the faces of other persons among the distinct sources."""
    judge = identity.load(root / "networks", "identity_judge")
    seer = attributes.load(root / "networks", "attributes_judge")

    class Blind:
        name = "blind"

        def __call__(self, images: torch.Tensor) -> torch.Tensor:
            return torch.full((len(images), 16), torch.nan)

        features = staticmethod(judge.features)

    judges = Judges(Blind(), seer, judge)
    rank = protocol.measure(pairs, {"m": baselines.copy_source}, judges, 10)["m"].table["source_rank"]
    distinct = pairs.source.unique()
    for row, face in enumerate(pairs.source):
        assert rank[row] == 1 + int((pairs.person[distinct] != pairs.person[face]).sum())


def test_a_metric_is_one_entry_of_the_table(root: Path, pairs: protocol.Pairs, monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands in METRICS is measured for every pair and summarised; one of the true swap, only beside it."""
    own = Metric(lambda swaps: (swaps.swapped.images - swaps.target.images).abs().amax((1, 2, 3)))
    monkeypatch.setitem(metrics.METRICS, "largest_error", own)
    to_true_swap = Metric(to_true_swap=lambda own, true: (own.images - true.images).abs().amax((1, 2, 3)))
    monkeypatch.setitem(metrics.METRICS, "largest_error_true_swap", to_true_swap)
    monkeypatch.setitem(metrics.METRICS, "exact", Metric(share=lambda pairs: pairs["largest_error"] == 0))
    near = Metric(share=lambda pairs: pairs["largest_error_true_swap"] < 3)
    monkeypatch.setitem(metrics.METRICS, "near_true_swap", near)
    judge = identity.load(root / "networks", "identity_judge")
    judges = Judges(judge, attributes.load(root / "networks", "attributes_judge"), judge)
    methods = {"copy_target": baselines.copy_target, "copy_source": baselines.copy_source}
    with_truth = protocol.measure(pairs, methods | {protocol.TRUE_SWAP: lambda batch: -batch.source}, judges, 4)
    summary = {name: protocol.summarise(each.table, 20, seed=0)["value"] for name, each in with_truth.items()}
    assert summary["copy_target"]["largest_error"] == 0 and summary["copy_target"]["exact"] == 1
    assert summary["copy_source"]["largest_error"] > 0 and summary["copy_source"]["exact"] == 0
    assert summary["copy_target"]["largest_error_true_swap"] > 0
    assert "largest_error_true_swap" not in summary[protocol.TRUE_SWAP]
    without = protocol.measure(pairs, methods, judges, 4)["copy_source"].table
    assert "largest_error" in without and "largest_error_true_swap" not in without
    assert summary["copy_target"]["near_true_swap"] == 1 and "near_true_swap" not in protocol.per_pair_figures(without)


def test_summary_by_hand() -> None:
    """Shares count ranks within k and nearer poses; means are plain means."""
    table = pd.DataFrame(
        {
            "source_id": list("abcd"),
            "target_id": list("efgh"),
            "source_rank": [1, 2, 5, 6],
            "target_rank": [1, 9, 9, 9],
            "pose_error_deg": [1.0, 2.0, 3.0, 4.0],
            "pose_error_source_deg": [2.0, 2.0, 5.0, 1.0],
            "outside_l1": [0.1, 0.1, 0.2, 0.2],
        }
    )
    summary = protocol.summarise(table, 200, seed=0)
    expected = {
        "id_retrieval_top1": 0.25,
        "id_retrieval_top5": 0.75,
        "target_retrieval_top1": 0.25,
        "pose_nearer_target": 0.5,
        "pose_error_deg": 2.5,
        "pose_error_source_deg": 2.5,
        "outside_l1": 0.15,
    }
    assert summary["value"].to_dict() == pytest.approx(expected)
    assert (summary["low"] <= summary["value"]).all() and (summary["value"] <= summary["high"]).all()


def test_fine_detail_is_a_root_of_sums_with_paired_differences() -> None:
    """Pairs with little detail weigh little; a method beside itself differs by nothing, one with half by half."""
    table = pd.DataFrame({
        "source_id": list("abcd"), "target_id": list("efgh"), "detail_swapped_inside": [0.0, 4.0, 0.0, 0.0],
        "detail_source_inside": [1.0, 10.0, 4.0, 1.0], "outside_l1": [0.1, 0.2, 0.3, 0.4],
    })  # fmt: skip
    summary = protocol.summarise(table, 200, seed=0)
    assert summary.loc["detail_inside", "value"] == pytest.approx((4 / 16) ** 0.5)
    assert summary.loc["detail_inside", "low"] < 0.5 < summary.loc["detail_inside", "high"]
    assert not {"detail_outside", "detail_swapped_inside"} & set(summary.index)
    assert (protocol.difference(table, table, 200, seed=0) == 0).to_numpy().all()
    quarter = table.assign(
        detail_swapped_inside=table["detail_swapped_inside"] / 4, outside_l1=table["outside_l1"] - 0.1
    )
    apart = protocol.difference(table, quarter, 200, seed=0)
    assert apart.loc["outside_l1"].tolist() == pytest.approx([0.1, 0.1])
    assert apart.loc["detail_inside", "high"] == pytest.approx(summary.loc["detail_inside", "high"] / 2)


def test_groups_hold_their_lower_limit(pairs: protocol.Pairs) -> None:
    """Every pair is in the bin that holds its target's |yaw|; a limit belongs to the bin above."""
    yaw = torch.zeros(len(pairs.table), 3)
    yaw[:, 0] = torch.linspace(-15, 40, len(yaw))
    yaw[pairs.target[0], 0] = -15.0
    moved = protocol.Pairs(**{**vars(pairs), "yaw_pitch_roll_deg": yaw})
    for row, name in enumerate(protocol.groups(moved, [15, 30])):
        size = abs(float(yaw[pairs.target[row], 0]))
        assert name == ("yaw_0_15" if size < 15 else "yaw_15_30" if size < 30 else "yaw_30_up")
    assert protocol.groups(moved, [15, 30])[0] == "yaw_15_30"
    assert np.unique(protocol.groups(moved, [])).tolist() == ["yaw_0_up"]
