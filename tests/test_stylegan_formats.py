"""StyleGAN1 generators of three formats: they draw what they drew, and whatever is no such generator is refused."""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import stylegan_files as files
from styleblend.config.model import Model
from styleblend.errors import StyleBlendError
from styleblend.model import Decoder, build_decoder
from styleblend.weights.formats.stylegan import StyleganWeights, largest_side, load_stylegan

NAMES = ("lernapparat", "genforce", "nvidia")
FEW = {4: 12, 8: 10, 16: 9, 32: 8, 64: 6, 128: 5, 256: 4, 512: 4, 1024: 3}
PUBLISHED = {4: 512, 8: 512, 16: 512, 32: 512, 64: 256, 128: 128, 256: 64}


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def sizes(side: int = 32, widths: dict[int, int] = FEW, dim: int = 16) -> Model:
    return Model(
        resolution=side,
        style_dim=dim,
        decoder_widths={key: width for key, width in widths.items() if key <= side},
        pathway_resolutions=(8, 16),
    )


def tensors_of(name: str, model: Model) -> files.Tensors:
    build: Callable[[dict[int, int], int], files.Built] = getattr(files, name)
    return build(model.decoder_widths, model.style_dim).tensors


def write(path: Path, name: str, tensors: dict[str, Any]) -> Path:
    """As the format's files are: lernapparat's flat, genforce's among other networks."""
    if name == "nvidia":
        files.write_nvidia(path, tensors)
    elif name == "lernapparat":
        torch.save(tensors, path)
    else:
        untrained = {key: torch.zeros(1) for key in tensors}
        networks = {"generator": untrained, "discriminator": {"x": torch.zeros(1)}, "generator_smooth": tensors}
        torch.save(networks, path)
    return path


def decoder_with(weights: StyleganWeights, model: Model) -> Decoder:
    decoder = build_decoder(model)
    missing, unexpected = decoder.load_state_dict(weights.decoder, strict=False)
    assert not unexpected and missing and all(key.startswith("pathway.") for key in missing)
    return decoder.eval()


def pictures(path: Path, name: str, model: Model, batch: int = 2, eps: float = 1e-8) -> tuple[Tensor, Tensor]:
    """The same codes and noise drawn by the original network with `eps` in its instance norm, and by our decoder."""
    codes = torch.randn(batch, model.n_styles, model.style_dim)
    noise = [torch.randn(batch, 1, side, side) for side in sorted(model.decoder_widths) for _ in range(2)]
    built: files.Built = getattr(files, name)(model.decoder_widths, model.style_dim)
    wanted = files.original_picture(built, codes, noise, tensorflow=name == "nvidia", eps=eps)
    decoder = decoder_with(load_stylegan(write(path, name, built.tensors), model), model)
    with torch.no_grad():
        return wanted, decoder(codes, None, tuple(noise))


def relative(drawn: Tensor, wanted: Tensor) -> float:
    assert drawn.shape == wanted.shape
    return float((drawn - wanted).abs().max() / wanted.abs().mean())


@pytest.mark.parametrize("side", [64, 512, 1024])
@pytest.mark.parametrize("name", NAMES)
def test_loaded_decoder_draws_what_the_file_draws(tmp_path: Path, name: str, side: int) -> None:
    """Everything random, noise shared: pictures agree to a thousandth of their mean, below and above fusing."""
    wanted, drawn = pictures(tmp_path / "weights.bin", name, sizes(side), batch=2 if side < 512 else 1)
    assert relative(drawn, wanted) < 1e-3


@pytest.mark.slow
def test_loaded_decoder_of_published_size_draws_what_the_file_draws(tmp_path: Path) -> None:
    """The same at 256 px with the published number of channels and dimensions."""
    wanted, drawn = pictures(tmp_path / "weights.bin", "genforce", sizes(256, PUBLISHED, 512), batch=1)
    assert relative(drawn, wanted) < 1e-3


@pytest.mark.parametrize("side", [64, 512, 1024])
def test_lernapparats_own_module_draws_nearly_the_same(tmp_path: Path, side: int) -> None:
    """Its instance norm has the epsilon 1e-5, so pixels with little contrast around them differ; few do."""
    wanted, drawn = pictures(tmp_path / "weights.bin", "lernapparat", sizes(side), batch=1, eps=1e-5)
    assert 0 < (drawn - wanted).abs().mean() < 1e-4 * wanted.abs().mean()


@pytest.mark.parametrize("name", NAMES)
def test_new_pathway_changes_nothing(tmp_path: Path, name: str) -> None:
    """Only the pathway is missing from what is loaded, and with the target's features the picture is the same."""
    model = sizes(32)
    decoder = decoder_with(load_stylegan(write(tmp_path / "weights.bin", name, tensors_of(name, model)), model), model)
    codes = torch.randn(1, model.n_styles, model.style_dim)
    features = tuple(torch.randn(1, *shape) for shape in decoder.feature_shapes)
    with torch.no_grad():
        assert torch.equal(decoder(codes, features), decoder(codes))


@pytest.mark.parametrize("name", ["genforce", "nvidia"])
def test_mean_code_of_the_file_is_kept_and_truncates_nothing(tmp_path: Path, name: str) -> None:
    """The file's own mean is handed out as it is; the decoder's weights do not depend on it."""
    model, key = sizes(), "truncation.w_avg" if name == "genforce" else "dlatent_avg"
    tensors = tensors_of(name, model)
    first = load_stylegan(write(tmp_path / "weights.bin", name, tensors), model)
    assert torch.equal(first.mean_code, tensors[key])
    second = load_stylegan(write(tmp_path / "weights.bin", name, tensors | {key: torch.randn(16)}), model)
    assert not torch.equal(second.mean_code, first.mean_code)
    assert all(torch.equal(value, second.decoder[target]) for target, value in first.decoder.items())


@pytest.mark.parametrize("name", NAMES)
def test_missing_mean_code_is_the_mean_of_the_mapping(tmp_path: Path, name: str) -> None:
    """Averaged over at least 10,000 latents, the same each time, for a file without mean or with its first zeros."""
    model = sizes(32)
    tensors = tensors_of(name, model)
    for key in ("truncation.w_avg", "dlatent_avg"):
        if key in tensors:
            tensors[key] = torch.zeros(16)
    weights = load_stylegan(write(tmp_path / "weights.bin", name, tensors), model)
    again = load_stylegan(tmp_path / "weights.bin", model)
    assert torch.equal(weights.mean_code, again.mean_code)
    own = {"lernapparat": "g_mapping.dense{}.", "genforce": "mapping.dense{}.", "nvidia": "mapping/Dense{}/"}[name]
    dense = [(tensors[f"{own.format(k)}weight"], tensors[f"{own.format(k)}bias"]) for k in range(8)]
    if name == "nvidia":
        dense = [(weight.T, bias) for weight, bias in dense]
    codes = files.latents_mapped(torch.randn(100_000, 16), dense, 0.01)
    error = (weights.mean_code - codes.mean(0)).abs() / codes.std(0)
    assert weights.mean_code.shape == (16,)
    assert error.max() < 5 / 10_000**0.5


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_pickles_of_old_and_new_numpy_are_read(tmp_path: Path, protocol: int) -> None:
    """Arrays come back bit for bit, whichever names numpy gave to their parts; the source in the file is not run."""
    model = sizes()
    tensors = tensors_of("nvidia", model)
    files.write_nvidia(tmp_path / "weights.bin", tensors, protocol)
    weights = load_stylegan(tmp_path / "weights.bin", model)
    assert torch.equal(weights.decoder["rgb_bias"], tensors["synthesis/ToRGB_lod0/bias"])
    assert torch.equal(weights.decoder["constant"], tensors["synthesis/4x4/Const/const"])


@pytest.mark.parametrize("container", ["flat", "old", "models"])
def test_containers_and_torch_files_of_any_age(tmp_path: Path, container: str) -> None:
    """A bare state dict, a file from before torch 1.6 and a training checkpoint give the same decoder."""
    model = sizes()
    tensors = tensors_of("genforce", model)
    wanted = load_stylegan(write(tmp_path / "published.bin", "genforce", tensors), model)
    content = {"models": {"generator_smooth": tensors}} if container == "models" else tensors
    torch.save(content, tmp_path / "weights.bin", _use_new_zipfile_serialization=container != "old")
    found = load_stylegan(tmp_path / "weights.bin", model)
    assert all(torch.equal(value, found.decoder[key]) for key, value in wanted.decoder.items())
    assert torch.equal(found.mean_code, wanted.mean_code)


# --- what is refused


def refusal(path: Path, model: Model) -> str:
    with pytest.raises(StyleBlendError) as error:
        load_stylegan(path, model)
    message = str(error.value)
    assert "\n" not in message and str(path) in message and len(message) < 1500
    return message


NEEDED = {
    "lernapparat": "g_synthesis.blocks.16x16.epi2.top_epi.noise.weight",
    "genforce": "synthesis.layer5.style.bias",
    "nvidia": "synthesis/16x16/Conv1/StyleMod/bias",
}


@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_does_not_fit_is_named_with_what_differs(tmp_path: Path, name: str) -> None:
    """Something missing, something more, another shape: the likeliest format and the first names, in one line."""
    model, path, key = sizes(32), tmp_path / "weights.bin", NEEDED[name]
    tensors = tensors_of(name, model)
    write(path, name, {other: value for other, value in tensors.items() if other != key})
    assert f"looks most like {name}" in refusal(path, model)
    assert f"missing: {key}" in refusal(path, model)
    write(path, name, tensors | {f"{key}2": torch.zeros(1)})
    assert f"unexpected: {key}2" in refusal(path, model)
    write(path, name, tensors | {key: torch.zeros(7)})
    assert f"{key} (7,) in place of {tuple(tensors[key].shape)}" in refusal(path, model)
    write(path, name, tensors | {key: tensors[key] * float("nan")})
    assert f"'{key}' holds values that are not finite" in refusal(path, model)


@pytest.mark.parametrize("name", NAMES)
def test_another_resolution_is_named(tmp_path: Path, name: str) -> None:
    """A file for less or for more than model.resolution is refused with both."""
    path = write(tmp_path / "weights.bin", name, tensors_of(name, sizes(32)))
    assert largest_side(path) == 32
    for side in (128, 16):
        assert f"its largest block is of 32 px, model.resolution is {side}" in refusal(path, sizes(side))


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("genforce", "synthesis.lod", torch.tensor(2.0)),
        ("nvidia", "synthesis/lod", torch.tensor(2.0)),
        ("genforce", "synthesis.layer2.blur.kernel", torch.full((10, 1, 3, 3), 1 / 9)),
        ("lernapparat", "g_synthesis.blocks.8x8.conv0_up.intermediate.kernel", torch.full((1, 1, 3, 3), 1 / 9)),
    ],
)
def test_what_the_decoder_has_built_in_must_be_so_in_the_file(
    tmp_path: Path, name: str, key: str, value: Tensor
) -> None:
    """An unfinished progressive training and another blur would draw other pictures."""
    model = sizes()
    tensors = tensors_of(name, model)
    assert tensors[key].shape == value.shape
    path = write(tmp_path / "weights.bin", name, tensors | {key: value})
    assert f"'{key}' begins with" in refusal(path, model)


def test_a_network_of_other_options_is_refused(tmp_path: Path) -> None:
    """NVIDIA's builder has options that change the picture; blurs and fusing are the published ones."""
    model = sizes()
    files.write_nvidia(tmp_path / "weights.bin", tensors_of("nvidia", model), fused_scale=False)
    assert "another fused_scale than auto" in refusal(tmp_path / "weights.bin", model)
    files.write_nvidia(tmp_path / "weights.bin", tensors_of("nvidia", model), blur_filter=np.ones(3))
    assert "another blur_filter than [1, 2, 1]" in refusal(tmp_path / "weights.bin", model)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("share", [0.02, 0.5, 0.99])
def test_a_truncated_file_is_damaged(tmp_path: Path, name: str, share: float) -> None:
    """However much of it is there."""
    model, path = sizes(32), tmp_path / "weights.bin"
    tensors = tensors_of(name, model)
    content = write(path, name, tensors).read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert "fetch it again" in refusal(path, model)
    torch.save(tensors, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    assert "fetch it again" in refusal(path, model)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html><title>Sign in</title>", "is a web page"),
        (b"\x89PNG\r\n\x1a\n0000", "begins with"),
        (pickle.dumps({"a": 1}), "pickle without networks of dnnlib"),
        (pickle.dumps([]), "pickle without networks of dnnlib"),
    ],
)
def test_other_files_are_named_for_what_they_are(tmp_path: Path, content: bytes, said: str) -> None:
    """A download that failed, a picture, an unrelated pickle."""
    (tmp_path / "weights.bin").write_bytes(content)
    assert said in refusal(tmp_path / "weights.bin", sizes())


def test_an_absent_file_and_other_torch_files_are_refused(tmp_path: Path) -> None:
    """No file, a list, another network, a state dict with something else than tensors."""
    assert "cannot be read: No such file" in refusal(tmp_path / "absent.pt", sizes())
    path = tmp_path / "weights.bin"
    torch.save([torch.zeros(1)], path)
    assert "holds list and no state dict" in refusal(path, sizes())
    torch.save({"body.0.weight": torch.zeros(1), "body.0.bias": torch.zeros(1)}, path)
    assert "no StyleGAN1 generator" in refusal(path, sizes()) and "body.0.weight" in refusal(path, sizes())
    torch.save(tensors_of("lernapparat", sizes()) | {"g_mapping.dense0.bias": "text"}, path)
    assert "'g_mapping.dense0.bias' is a str" in refusal(path, sizes())


class Hostile:
    """Calls a function when it is unpickled."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("container", ["pickle", "torch", "old torch"])
def test_code_in_a_file_is_refused_and_not_run(tmp_path: Path, container: str) -> None:
    """A file that would call os.system is refused with that name, and the command does not run."""
    path, trace = tmp_path / "weights.bin", tmp_path / "was_run"
    content = {"generator_smooth": tensors_of("genforce", sizes()), "x": Hostile(os.system, f"touch {trace}")}
    if container == "pickle":
        path.write_bytes(pickle.dumps(content["x"]))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=container == "torch")
    message = refusal(path, sizes())
    assert "posix.system" in message and "run" in message
    assert not trace.exists()
    pickle.loads(pickle.dumps(content["x"]))
    assert trace.exists()  # the command would have run


@pytest.mark.parametrize(
    ("hostile", "said"),
    [
        (Hostile(getattr, "x", "upper"), "builtins.getattr"),
        (Hostile(eval, "1"), "builtins.eval"),
        (Hostile(io.BytesIO, b""), "_io.BytesIO"),
        (Hostile(np.dtype, "O"), "damaged pickle"),
        (np.array([{}], dtype=object), "damaged pickle"),
        (np.dtype([("x", "f4")]), "damaged pickle"),
        (Hostile(np.ndarray, 10**15), "pickle without networks"),
        (np.float32(1), "pickle without networks"),
    ],
)
def test_a_pickle_may_name_networks_and_numbers_only(tmp_path: Path, hostile: Any, said: str) -> None:
    """Whatever else it names is refused, however harmless it looks."""
    (tmp_path / "weights.bin").write_bytes(pickle.dumps(hostile))
    assert said in refusal(tmp_path / "weights.bin", sizes())
