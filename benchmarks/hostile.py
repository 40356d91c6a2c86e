"""Hostile files through download and align: where each ends, for which reason, and the memory of a worker.

    python benchmarks/hostile.py [--files 1000] [--seed 0] [--kinds KIND ...]
        [--detector yunet.onnx [--mesh mesh.tflite] [--faces FOLDER]]

Files are made here (tests/hostile_files.py and hostile_faces.py say how): truncated, bit-flipped, disguised, empty,
30,000 x 30,000 px, in odd colours, depths and names, and faces with sunglasses and masks, as statues and cartoons, and
in profile. Exit code 1: one ended in neither table or in both, something was written outside data/, or a worker took
2 GB. They are made of a rendered face; of photographs, with --faces, of up to 16 of the folder's, evenly spread, in
which the detector sees a face. Without --detector the rendered face's landmarks are used: pictures of nobody give a
crop, too. --mesh adds the second opinion on what the detector found.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import hostile_files
import hostile_run
from hostile_faces import Face
from styleblend.face_detector.detection import Yunet
from styleblend.face_detector.finder import FaceFinder
from styleblend.faces.pictures import open_picture

LIMIT_GB = 2.0
PHOTOGRAPHS, SIDE_PX = 16, 400


def photographed(folder: Path, detector: Path) -> list[Face]:
    """Photographs of a folder with one face each, the points as the detector sees them."""
    files, finder, faces = sorted(folder.rglob("*.jpg")), FaceFinder(Yunet(detector)), []
    for file in files[:: max(1, len(files) // PHOTOGRAPHS)][:PHOTOGRAPHS]:
        image = open_picture(file, 10**8).opaque()
        image.thumbnail((SIDE_PX, SIDE_PX))
        if len(found := finder.detect(image)) == 1:
            faces.append(Face(image, found[0].five_px))
    return faces


def main() -> None:
    """Run, print one JSON object and a line a reason."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", choices=hostile_files.KINDS, default=hostile_files.KINDS)
    parser.add_argument("--detector", type=Path)
    parser.add_argument("--mesh", type=Path)
    parser.add_argument("--faces", type=Path)
    args = parser.parse_args()
    if args.detector is None and (args.mesh or args.faces):
        parser.error("--mesh and --faces need --detector")
    faces = [] if args.faces is None else photographed(args.faces, args.detector)
    if args.faces is not None and not faces:
        parser.error(f"--faces {args.faces} has no .jpg with one face that the detector sees")
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="hostile-") as work:
        # Two workers are processes of their own, whose memory the system counts apart from this one's.
        given = (tuple(args.kinds), 2, args.detector, args.mesh, faces)
        found = hostile_run.run(Path(work), args.files, args.seed, *given)
    files, peak_gb = found.files, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e9
    ended = files.assign(manifest=files["faces"] > 0, quarantine=files["refusals"] > 0)
    reasons = files.loc[files["reason"] != "", "reason"].str.replace(r"\d+", "N", regex=True).value_counts()
    print("\n".join(f"{count:5d}  {reason}" for reason, count in reasons.items()))
    tables = ended.groupby("mutation")[["manifest", "quarantine"]].sum()
    print(tables.to_string())
    result = {
        "files": len(files),
        "manifest": int(tables["manifest"].sum()),
        "quarantine": int(tables["quarantine"].sum()),
        "in_neither_or_both": len(found.wrong),
        "touched_outside_data": len(found.touched),
        "worker_peak_gb": round(peak_gb, 2),
        "seconds": round(time.perf_counter() - start),
    }
    print(json.dumps(result))
    if result["in_neither_or_both"] or result["touched_outside_data"] or peak_gb >= LIMIT_GB:
        print(found.wrong.to_string(), file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
