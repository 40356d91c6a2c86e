"""A complete little project on disk: rendered faces, untrained networks, an untrained model. Built in
seconds.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from safetensors.torch import save_file

from styleblend import model
from styleblend.config.sources import RenderedSource
from styleblend.faces import alignment
from styleblend.faces.pixels import to_8bit
from styleblend.perception import attributes, identity, landmarks
from styleblend.synthetic import factors, renderer
from tiny_model import MODEL

SOURCE = RenderedSource(
    kind="rendered", name="rendered", identities=6, pictures_per_identity=2, size_px=48, supersample=1, seed=5
)


def _network(folder: Path, role: str, network: torch.nn.Module, architecture: dict[str, object]) -> None:
    save_file(network.state_dict(), folder / f"{role}.safetensors")
    (folder / f"{role}.json").write_text(json.dumps({"architecture": architecture}))


def make(root: Path, photographs: bool = False) -> None:
    """Fill `root` with data/ and an empty reports/. `photographs` forgets how the faces were rendered."""
    torch.manual_seed(0)
    faces, splits, networks = root / "data/faces", root / "data/splits", root / "data/networks"
    swapper = root / "data/swapper"
    for folder in (faces / "images", splits, networks, swapper, root / "reports"):
        folder.mkdir(parents=True)

    trunk = {"widths": [8, 8], "side_px": 32}
    seer = {"name": "attributes-tiny", "trunk": "plain", "blocks": [], "coefficients": 7, **trunk}
    judge = {"name": "judge-tiny", "trunk": "plain", "blocks": [], "embedding": 16, **trunk}
    _network(networks, "attributes_judge", attributes.AttributeNetwork(**seer), seer)
    seeing = identity.IdentityNetwork(**judge)
    _network(networks, "identity_judge", seeing, judge)
    # The judge's own weights by another name: what the two see cannot come apart, or every version would alarm.
    training = {**judge, "name": "identity-tiny"}
    points = {"name": "landmarks-tiny", **trunk}
    untrained = model.build(MODEL)
    # After the others, whose weights stay what they were.
    _network(networks, "identity", seeing, training)
    _network(networks, "landmarks", landmarks.LandmarkNetwork(**points), points)
    _network(networks, "encoder", untrained.encoder, {})
    _network(networks, "decoder", untrained.decoder, {})
    entry = {
        "format": "safetensors",
        "sha256": "0" * 64,
        "licence": "MIT",
        "origin": "made by this project, see its card",
    }
    (networks / "networks.json").write_text(
        json.dumps({role: {"file": f"{role}.safetensors", **entry} for role in ("attributes_judge", "identity_judge")})
    )

    people = [person for person in range(6) for _ in range(2)]
    sampled = factors.sample(SOURCE.seed, people, [0, 1] * 6)
    render = renderer.render(sampled, SOURCE.size_px, supersample=SOURCE.supersample)
    manifest, seen = [], []
    look, see = identity.load(networks, "identity_judge"), attributes.load(networks, "attributes_judge")
    trained = identity.load(networks, "identity")
    for row, person in enumerate(people):
        quad = alignment.quad_from_landmarks(render.landmarks_px[row].numpy())
        photograph = Image.fromarray(to_8bit(render.images[row]).permute(1, 2, 0).numpy())
        face = alignment.crop(photograph, quad, MODEL.input_px)
        name = f"rendered-{row:012x}"
        face.save(faces / f"images/{name}.png")
        known = not photographs
        manifest.append(
            {
                "face_id": name, "source": "rendered", "path": f"images/{name}.png", "raw_width": SOURCE.size_px,
                "raw_height": SOURCE.size_px, "raw_path": f"rendered/{row}.png", "raw_sha256": name,
                "licence": "CC0-1.0", "terms": "none", "person": f"rendered-{person}",
                "quad": quad.flatten().astype(np.float32).tolist(), "render_seed": SOURCE.seed if known else None,
                "render_person": person if known else None, "render_picture": row % 2 if known else None,
                "weight": 1.0, "size_px": MODEL.input_px,
            }
        )  # fmt: skip
        images = torch.from_numpy(np.array(face)).permute(2, 0, 1)[None].float() / 127.5 - 1
        with torch.no_grad():
            angles, expression = see(images)
            embedding, own = look(images), trained(images)
        points = alignment.to_aligned(render.landmarks_px[row].numpy(), quad)
        seen.append(
            {
                "face_id": name, "identity": own[0].tolist(), "judge": embedding[0].tolist(),
                "landmarks": points.flatten().tolist(), "expression": expression[0].tolist(), "sharpness": 1.0,
                **dict(zip(("yaw_deg", "pitch_deg", "roll_deg"), angles[0].tolist(), strict=True)),
            }
        )  # fmt: skip
    table = pd.DataFrame(manifest)
    numbers = ["render_seed", "render_person", "render_picture"]
    table[numbers] = table[numbers].astype("Int64")
    table.to_parquet(faces / "manifest.parquet")
    pd.DataFrame(seen).to_parquet(root / "data/perceived.parquet")
    table[["face_id"]].assign(kept=True).to_parquet(root / "data/selection.parquet")
    table[["face_id", "person"]].to_parquet(splits / "test.parquet")
    ids = table["face_id"].to_list()
    pd.DataFrame({"source_id": ids[:10], "target_id": ids[2:]}).to_parquet(splits / "test_pairs.parquet")

    model.save(untrained, MODEL, swapper, fingerprint="f" * 16)
    (swapper / "run.json").write_text(json.dumps({"parent_run_id": "1" * 32, "run_id": "2" * 32}))
