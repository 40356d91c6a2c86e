"""What sections need of each other, said at the door and not after hours of pictures and downloads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import ValidationInfo

from styleblend.config.data import Align
from styleblend.config.model import Model
from styleblend.config.pretrained import Pretrained, known_networks
from styleblend.config.tracking import Tracking

if TYPE_CHECKING:
    from styleblend.config.training import Training


def expect_detector(align: Align, networks: Pretrained, info: ValidationInfo) -> None:
    """Refuse a detector without the network that it finds faces with.

    Raises:
        ValueError: it is another one, or there is none; names those that fit. The functions below do alike.
    """
    kind, name = align.detector, networks.detector
    known = known_networks(networks, info).networks
    fitting = [each for each, entry in known.items() if kind in entry.detects]
    if name not in fitting:
        raise ValueError(
            f"align.detector is '{kind}' but pretrained.detector is '{name}': choose one of {', '.join(fitting)}"
        )
    if kind == "face_alignment" and networks.landmarks == "small":
        raise ValueError(
            "align.detector is 'face_alignment', which needs FAN: set pretrained.landmarks to 2DFAN4, it is 'small'"
        )
    if kind == "mediapipe":
        expect_mesh("align.detector is 'mediapipe'", networks, info)


def expect_for_training(
    name: str, training: Training, model: Model, networks: Pretrained, info: ValidationInfo, true_swaps: bool = False
) -> None:
    """Refuse a training that asks for a mask, a mesh, a second identity network or true swaps that there are not.

    Args:
        name: of the section that holds `training`.
        true_swaps: whether training faces have true swaps.
    """
    loss = training.loss
    if loss.identity_second and networks.identity_second == "none":
        fitting = " or ".join(known_networks(networks, info).fitting("identity_second"))
        raise ValueError(
            f"{name}.loss.identity_second is {loss.identity_second:g}, but pretrained.identity_second is 'none': choose"
            f" {fitting}, or set the weight to 0"
        )
    if model.prior == "warp":
        expect_mesh("model.prior is 'warp'", networks, info)
    if model.prior == "warp" and loss.swap_consistency:
        raise ValueError(
            f"{name}.loss.swap_consistency is {loss.swap_consistency:g}, but Eq. 12 swaps swapped pictures again, whose"
            " meshes model.prior 'warp' does not know: set it to 0"
        )
    if loss.mask and model.join != "mask":
        raise ValueError(
            f"{name}.loss.mask is {loss.mask:g}, but model.join is '{model.join}': set it to 'mask', or the weight to 0"
        )
    if loss.chroma and model.prior != "warp":
        raise ValueError(
            f"{name}.loss.chroma is {loss.chroma:g}, but model.prior is '{model.prior}': set it to 'warp', or the"
            " weight to 0"
        )
    if training.known_swaps and not true_swaps:
        raise ValueError(
            f"{name}.known_swaps is {training.known_swaps:g}, but split.true_swaps is false: set it to true, which"
            " needs rendered faces, or known_swaps to 0"
        )
    worn = 0 if true_swaps else training.worn_faces
    for key, value in (("worn_faces", worn), ("warped_swaps", training.warped_swaps), ("loss.mesh", loss.mesh)):
        if value:
            expect_mesh(f"{name}.{key} is {value:g}", networks, info)


def expect_device(name: str, training: Training) -> None:
    """Refuse what only a GPU has where none is asked for; `name` is of the section that holds `training`."""
    if training.tf32 and not training.gpus_per_worker:
        raise ValueError(
            f"{name}.tf32 is true, but gpus_per_worker is 0, and a CPU has no TF32: set it to false, or give a worker a"
            " GPU"
        )


def expect_reached(name: str, training: Training, tracking: Tracking) -> None:
    """Refuse what only this machine can reach, where a training runs on the machines of a cluster."""
    if training.ray_address is None:
        return
    where = f"{name}.ray_address is '{training.ray_address}'"
    if training.storage is None:
        raise ValueError(
            f"{where}, but {name}.storage is null, and other machines do not reach .state of this one: set it to a"
            " folder that all share, or to a URL as s3://bucket/folder"
        )
    if tracking.is_a_file:
        raise ValueError(
            f"{where}, but tracking.uri '{tracking.uri}' is a file of one machine, which goes with it: start MLflow's"
            " server where all reach it, and set its address"
        )


def expect_body(start: str, model: Model, networks: Pretrained, info: ValidationInfo) -> None:
    """Refuse an encoder that starts from a face network that it is not, or that there is not.

    Args:
        start: Training.encoder_start. A frozen body ("dlib_resnet") knows nothing without its weights, so its encoder
            starts from them in any case.
    """
    wanted = {"ir_se50": "torch", "dlib_resnet": "dlib"}.get(model.encoder_body)
    if start == "body" and wanted is None:
        raise ValueError(
            "train_encoder.encoder_start 'body' needs model.encoder_body 'ir_se50' or 'dlib_resnet', it is"
            f" '{model.encoder_body}': set both, or start in another way"
        )
    if start != "body" and model.encoder_body == "dlib_resnet":
        raise ValueError(
            f"model.encoder_body 'dlib_resnet' is frozen, and train_encoder.encoder_start '{start}' gives it no"
            " weights: set that to 'body'"
        )
    known = known_networks(networks, info)
    fitting = [name for name in known.fitting("encoder_body") if known.get(name).format == wanted]
    if start == "body" and networks.encoder_body not in fitting:
        raise ValueError(
            f"train_encoder.encoder_start is 'body', but pretrained.encoder_body is '{networks.encoder_body}': choose"
            f" {' or '.join(fitting)}, or set encoder_start to 'new'"
        )


def expect_mesh(what: str, networks: Pretrained, info: ValidationInfo) -> None:
    """Refuse settings whose landmark network is no mesh; `what` needs one."""
    name, known = networks.landmarks, known_networks(networks, info)
    meshes = [each for each in known.fitting("landmarks") if known.get(each).format == "tflite"]
    if name not in meshes:
        raise ValueError(
            f"{what}, which needs a face mesh: set pretrained.landmarks to {' or '.join(meshes)}, it is '{name}'"
        )
