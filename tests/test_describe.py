"""What `styleblend describe` says, against networks that are really built and a step that is really taken."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

import tiny_training as tiny
from styleblend import model
from styleblend.commands import cli, frozen_on_paper, step_memory
from styleblend.commands.cost import Cost, hours, largest_batches
from styleblend.commands.describe import Description, Row, describe, modules, short, text
from styleblend.commands.frozen_on_paper import Seeing
from styleblend.commands.step_memory import Followed, Needs, needs
from styleblend.config import catalogue
from styleblend.config.params import load_params
from styleblend.config.training import LossWeights, Training
from styleblend.errors import StyleBlendError
from styleblend.training.steps import choose_what_learns
from styleblend.weights.formats import arcface_onnx


@pytest.fixture
def project(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The committed settings in an otherwise empty folder, which is the current one."""
    shutil.copy(root / "params.yaml", tmp_path)
    shutil.copytree(root / "presets", tmp_path / "presets")
    (tmp_path / "data/pretrained").mkdir(parents=True)
    (tmp_path / "data/pretrained/small").symlink_to(root / "data/pretrained/small")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def found(root: Path) -> Description:
    """The tiny networks described, with 4 pairs a step on two GPUs."""
    cfg = load_params(root / "params.yaml")
    stage = tiny.training(batch_size=4, workers=2)
    changed = {"model": tiny.MODEL, "train_encoder": stage, "finetune_decoder": stage}
    return describe(cfg.model_copy(update=changed), depth=99, project=root)


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_parameters_are_those_of_networks_really_built(found: Description) -> None:
    """Whole networks and every module by its name; what each stage trains."""
    swapper, judge = model.build(tiny.MODEL), model.build_discriminator(tiny.MODEL)
    built = {"E": swapper.encoder, "B": swapper.blending, "D": swapper.decoder, "V": judge}
    for letter, network in built.items():
        for row in found.networks[letter]:
            if not row.name.endswith("(itself)"):
                assert row.parameters == count(network.get_submodule(row.name)), row.name
    for stage in found.stages:
        assert stage.learning == sum(value.numel() for value in choose_what_learns(swapper, stage.stage))
        assert stage.judge == count(judge)


@pytest.mark.parametrize("letter", "EBDV")
def test_rows_below_a_module_add_up_to_it(found: Description, letter: str) -> None:
    """At every level parameters and multiply-adds of the parts, with what is left beside them, are the whole's."""

    def check(rows: tuple[Row, ...]) -> None:
        parts = [k for k, row in enumerate(rows) if row.level == rows[0].level + 1]
        if not parts:
            return
        assert sum(rows[k].parameters for k in parts) == rows[0].parameters, rows[0].name
        assert sum(rows[k].multiply_adds for k in parts) == rows[0].multiply_adds, rows[0].name
        for first, end in zip(parts, [*parts[1:], len(rows)], strict=True):
            check(rows[first:end])

    check(found.networks[letter])


def test_output_shapes_are_those_of_a_real_picture(found: Description) -> None:
    """Each network's outputs, without the batch."""
    swapper, judge = model.build(tiny.MODEL), model.build_discriminator(tiny.MODEL)
    images = torch.zeros(1, 3, 32, 32)
    encoding = swapper.encoder(images)
    assert found.networks["E"][0].shapes == tuple(tuple(out.shape[1:]) for out in (encoding.codes, *encoding.features))
    assert found.networks["D"][0].shapes == ((3, 32, 32),)
    assert found.networks["V"][0].shapes == tuple(tuple(score.shape[1:]) for score in judge(images))


def test_multiply_adds_equal_a_count_by_hand() -> None:
    """A strided convolution with groups, a linear layer; norms and activations count nothing."""
    with FakeTensorMode():
        network = nn.Sequential(
            nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), nn.GroupNorm(2, 6), nn.Flatten(), nn.Linear(96, 5)
        )
        rows = modules(network, (torch.empty(1, 4, 8, 8),))
    convolution, linear = 6 * 4 * 4 * (4 // 2) * 3 * 3, 96 * 5
    assert [row.multiply_adds for row in rows] == [convolution + linear, convolution, 0, 0, linear]
    assert rows[1].shapes == ((6, 4, 4),)


def test_products_inside_attention_and_upsampling_count(found: Description) -> None:
    """Queries with keys and weights with values, in both directions; 4 x 4 products a pixel when a layer doubles."""
    rows = {row.name: row for row in found.networks["B"]}
    styles, dim = tiny.MODEL.n_styles, tiny.MODEL.style_dim
    assert rows["layers.0 (itself)"].multiply_adds == 2 * 2 * styles * styles * dim
    assert rows["layers.0.qkv_s"].multiply_adds == styles * dim * 3 * dim
    rows = {row.name: row for row in found.networks["D"]}
    # A transposed convolution: each of 4 x 4 inputs of 8 channels goes through a kernel of 4 x 4 to 8 channels.
    assert rows["layers.2.conv"].multiply_adds == 4 * 4 * 8 * 4 * 4 * 8


def test_bytes_are_followed_while_tensors_live() -> None:
    """Views, in-place results and what was there before count nothing; what is gone counts no longer."""
    with FakeTensorMode():
        before = torch.empty(100)
        with Followed([before]) as followed:
            first = before * 2
            second = first.reshape(10, 10).t() + 1
            before.add_(1)
            assert (followed.now, followed.peak) == (800, 800)
            del first
            assert (followed.now, followed.peak) == (400, 800)
            del second
            assert (followed.now, followed.peak) == (0, 800)


def fake_perception() -> Seeing:
    """The tiny frozen networks, on fake tensors; call it under FakeTensorMode."""
    networks = tiny.perception()._asdict()
    return Seeing({role: networks[role] for role in (*tiny.NETWORKS, "identity_second")})


def of_stage(cfg: Training, size: int, frozen: bool = False) -> Needs:
    with FakeTensorMode():
        seen = fake_perception() if frozen else None
        networks = model.build(tiny.MODEL), model.build_discriminator(tiny.MODEL)
        return needs("train_encoder", cfg, *networks, 1, size, seen)


OWN = {"swap_consistency": 1.0, "adversarial": 1.0}
LOOKING = {"identity": 1.0, "contrastive": 1.0, "identity_second": 1.0, "landmarks": 1.0, "attributes": 1.0}


@pytest.mark.parametrize("weights", [OWN, OWN | LOOKING | {"perceptual": 1.0, "shape_3d": 1.0, "edges": 1.0}])
def test_activations_are_those_of_a_real_step(weights: dict[str, float]) -> None:
    """What a real forward of G and of the losses' frozen networks holds for its backward is all in the estimate, and
    is most of it.

    The real bytes are those of the tensors that autograd keeps, told apart by their memory's address.
    """
    from styleblend.training.batches import Batch
    from styleblend.training.steps import generator_terms

    cfg = tiny.training(loss=dict.fromkeys(LossWeights.model_fields, 0.0) | weights)
    size, side = 6, tiny.SIDE_PX
    swapper, judge = model.build(tiny.MODEL), model.build_discriminator(tiny.MODEL).eval().requires_grad_(False)
    choose_what_learns(swapper, "train_encoder")
    perception = tiny.perception()
    built = [network for network in (swapper, judge, *perception) if network is not None]
    own = {value.untyped_storage().data_ptr() for network in built for value in network.parameters()}
    own |= {value.untyped_storage().data_ptr() for network in built for value in network.buffers()}
    kept: dict[int, int] = {}
    holding: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            holding.append(tensor)
        return tensor

    pictures = torch.rand(size, 3, side, side)
    points, embedding = torch.rand(size, 68, 2), torch.rand(size, 8)
    batch = Batch(
        pictures, pictures.clone(), embedding, embedding, points, torch.ones(size, dtype=torch.bool),
        torch.rand(size, 3, 8), tuple(range(size)), pictures.clone(),
        torch.ones(size, dtype=torch.bool),
    )  # fmt: skip
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        generator_terms(swapper, judge, perception, batch, cfg, 0)
    real, estimated = sum(kept.values()), of_stage(cfg, size, frozen=weights != OWN).activations
    assert real < estimated < 1.3 * real


def test_a_batch_in_parts_needs_the_room_of_one() -> None:
    """With `accumulate` 2 eight pairs hold what four do, and have twice their products."""
    parts, whole = of_stage(tiny.training(batch_size=8, accumulate=2), 8), of_stage(tiny.training(batch_size=4), 4)
    assert (parts.pictures_per_gpu, parts.at_once, whole.at_once) == (8, 4, 4)
    assert (parts.activations, parts.memory) == (whole.activations, whole.memory)
    assert parts.multiply_adds == 2 * whole.multiply_adds


def test_frozen_networks_count_where_a_stage_loads_them() -> None:
    """Three are always there and one comes with its term, which has products; without networks it is left out."""
    networks = tiny.perception()._asdict()
    size = {role: step_memory.bytes_of(networks[role]) for role in tiny.NETWORKS}
    assert size["identity"] == sum(4 * value.numel() for value in networks["identity"].state_dict().values())
    weights = dict.fromkeys(LossWeights.model_fields, 0.0) | {"adversarial": 1.0, "landmarks": 1.0}
    without, looking = (of_stage(tiny.training(loss=weights), 4, frozen) for frozen in (False, True))
    always = size["identity"] + size["identity_judge"] + size["attributes"]
    assert without.frozen == 0 and looking.frozen == always + size["landmarks"]
    assert looking.multiply_adds > without.multiply_adds
    held = looking.weights + looking.average + looking.gradients + looking.optimiser + looking.frozen
    assert looking.memory == held + max(looking.activations, looking.exchange, looking.scratch)


def test_a_term_of_every_kth_step_counts_once_in_k() -> None:
    """Multiply-adds of Eq. 12, taken at every third step, are a third in the mean; memory is that of the fullest."""
    weights = dict.fromkeys(LossWeights.model_fields, 0.0) | {"reconstruction": 1.0}
    never, always, third = (
        of_stage(tiny.training(loss=weights | {"swap_consistency": term}, swap_every=every), 2)
        for term, every in ((0.0, 1), (1.0, 1), (1.0, 3))
    )
    assert third.multiply_adds == (always.multiply_adds + 2 * never.multiply_adds) // 3
    assert third.activations == always.activations > never.activations


def test_forms_of_others_networks_are_those_of_their_files(tmp_path: Path, root: Path) -> None:
    """IResNet: the weights of a file of that form, read by its reader, fit; the published sizes of both files are those
    of the parameters, to a hundredth.
    """
    import arcface_files

    widths, blocks = (4, 4, 6, 8, 8), (1, 2, 1, 1)
    read = arcface_onnx.load(arcface_files.write(arcface_files.iresnet(widths, blocks, 16), tmp_path / "file.onnx"))
    built = frozen_on_paper.iresnet(widths, blocks, 16)
    assert {name: value.shape for name, value in built.state_dict().items()} == {
        name: value.shape for name, value in read.state_dict().items()
    }
    faces = torch.rand(2, 3, 112, 112)
    built.load_state_dict(read.state_dict())
    assert built(faces).equal(read(faces))
    for name, blocks in frozen_on_paper.IRESNETS.items():
        with FakeTensorMode():
            network = frozen_on_paper.iresnet((64, 64, 128, 256, 512), blocks, 512)
            size = step_memory.bytes_of(network)
        assert size == pytest.approx(catalogue.load(None, root).get(name).size_bytes, rel=0.01)


def test_what_a_file_alone_tells_is_named_where_it_lacks(root: Path, tmp_path: Path) -> None:
    """The preset faces without its files: the networks that are not counted, by role and name."""
    shutil.copytree(root / "data/pretrained/small", tmp_path / "data/pretrained/small")
    seen = frozen_on_paper.seeing(cli._with_preset(root / "params.yaml", "faces"), FakeTensorMode(), tmp_path)
    assert "identity (dlib_resnet)" in seen.absent and "identity" not in seen.networks
    assert seen.followed(LossWeights(identity=1, edges=1)).identity == 0


@pytest.mark.parametrize("described", [1, 4])
@pytest.mark.parametrize("turn", [1, 40])
def test_batches_by_card_never_exceed_it(found: Description, described: int, turn: int) -> None:
    """Of a step whose fullest moment is another one from `turn` pairs on: the memory at the batch that is named is at
    most four fifths of the card, and where it grows evenly one pair more is too many. Three numbers of pairs are
    followed at most; a card that takes none has 0.
    """
    asked: list[int] = []

    def with_pairs(pairs: int) -> Needs:
        held = 10**9 * max(3 + pairs, 3 + turn + 2 * (pairs - turn))
        return replace(found.stages[0], pictures_per_gpu=pairs, weights=5 * 10**9, activations=held)

    def count(pairs: int) -> Needs:
        asked.append(pairs)
        return with_pairs(pairs)

    batches = largest_batches(with_pairs(described), count)
    assert list(batches) == [11, 24, 80, 141] and len(asked) <= 3
    assert batches[11] == 0 < batches[24]
    for card, pairs in batches.items():
        budget = 0.8e9 * card
        assert not pairs or with_pairs(pairs).memory <= budget
        assert with_pairs(pairs + 1).memory > budget or turn > 1


def test_hours_follow_from_the_step(found: Description) -> None:
    """A measured step is that of the pairs described; twice the GPUs halve it down to a pair each; exchange and steps
    add up by hand; rate and share stand for a time.
    """
    first = found.stages[0]
    measured = hours(first, first, Cost(seconds_per_step=3, link_gb=2))
    by_gpus = {each.gpus: each for each in measured}
    assert by_gpus[2].pairs == 2 and by_gpus[2].step_s == pytest.approx(3) and by_gpus[1].step_s == pytest.approx(6)
    assert by_gpus[1].exchange_s == 0 and by_gpus[4].exchange_s == pytest.approx(1.5 * first.gradients / 2e9)
    assert by_gpus[64].pairs == by_gpus[4].pairs == 1 and by_gpus[64].step_s == pytest.approx(1.5)
    assert by_gpus[2].hours == pytest.approx(first.steps * (3 + first.gradients / 2e9) / 3600)
    computed = hours(first, first, Cost(tflops=2, share=0.25))[1]
    assert computed.step_s == pytest.approx(2 * first.multiply_adds / 0.5e12)
    batches = dict.fromkeys((11, 24, 80, 141), 7)
    lines = text(replace(found, batches=(batches, batches), cost=Cost()))
    assert "Computed, not measured" in lines and "(--tflops)" in lines and "card of 141 GB" in lines


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"share": 1.5}, "--share is 1.5"), ({"tflops": 0}, "--tflops is 0"), ({"seconds_per_step": -1}, "-1")],
)
def test_a_cost_that_cannot_be_is_refused(wrong: dict[str, float], message: str) -> None:
    """With the option and its value."""
    with pytest.raises(StyleBlendError, match=message):
        Cost(**wrong)


def test_memory_grows_with_pictures_and_weights_do_not() -> None:
    """Twice the pictures are nearly twice the activations; the rest of the memory is the networks'."""
    one, two = (of_stage(tiny.training(), size) for size in (4, 8))
    assert 1.8 * one.activations < two.activations < 2.05 * one.activations
    assert 1.9 * one.multiply_adds < two.multiply_adds < 2.1 * one.multiply_adds
    for name in ("weights", "average", "gradients", "optimiser"):
        assert getattr(one, name) == getattr(two, name)
    swapper, judge = model.build(tiny.MODEL), model.build_discriminator(tiny.MODEL)
    learning = sum(value.numel() for value in choose_what_learns(swapper, "train_encoder"))
    assert one.gradients == 4 * (learning + count(judge)) and one.optimiser == 2 * one.gradients
    buffers = sum(value.numel() for part in (swapper, judge) for value in part.buffers())
    assert one.weights == 4 * (count(swapper) + count(judge) + buffers)


def test_the_batch_is_shared_by_the_gpus(root: Path, found: Description) -> None:
    """batch_size over the workers unless told otherwise; what cannot be shared is refused with both numbers."""
    assert [(each.gpus, each.pictures_per_gpu, each.batch) for each in found.stages] == [(2, 2, 4)] * 2
    assert all(each.exchange > 0 for each in found.stages)
    few = tiny.training(batch_size=4, loss=dict.fromkeys(LossWeights.model_fields, 0.0) | {"adversarial": 1.0})
    changed = {"model": tiny.MODEL, "train_encoder": few, "finetune_decoder": few}
    cfg = load_params(root / "params.yaml").model_copy(update=changed)
    given = describe(cfg, gpus=3, pictures_per_gpu=5, project=root)
    assert [(each.gpus, each.batch) for each in given.stages] == [(3, 15)] * 2
    with pytest.raises(StyleBlendError, match=r"train_encoder.batch_size \d+ cannot be shared evenly by 7 GPUs"):
        describe(cfg, gpus=7, project=root)
    with pytest.raises(StyleBlendError, match="--gpus is 0"):
        describe(cfg, gpus=0, project=root)


@pytest.mark.slow
def test_the_paper_preset_is_described_without_allocating_it(project: Path) -> None:
    """The paper's sizes as a table, from a process that never holds a gigabyte more than torch itself.

    The networks alone would take 1.1 GiB, a step 7 GiB.
    """
    program = (
        "import resource, torch\n"
        "from styleblend.commands import cli, describe\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "cli.main(['describe', '--preset', 'paper', '--gpus', '16'])\n"
        "print('grown', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = {line.split("  ")[0]: line for line in done.stdout.splitlines() if not line.startswith(" ")}
    assert int(done.stdout.split()[-1]) < 2**20, "ru_maxrss is in KiB"
    assert "248,520,896" in lines["encoder E"] and "18 x 512" in lines["encoder E"]
    assert "3 x 1024 x 1024" in lines["decoder D"]
    assert lines["steps"].split()[1:] == ["2,000,000", "400,000"]
    assert lines["pairs a step and GPU"].split()[-2:] == ["2", "2"]
    parts = [line.split()[0] for line in done.stdout.splitlines() if line.startswith("  ")]
    assert [f"layers.{k}" for k in range(18)] == [part for part in parts if part.startswith("layers.")][4:]
    assert [part for part in parts if part.startswith("heads.")] == ["heads.0", "heads.1", "heads.2"]
    assert done.stdout.count("6 x 512") == 3


def test_a_wrong_preset_is_one_line_and_exit_code_1(project: Path) -> None:
    """The presets that there are stand in the message; params.yaml is not changed by a right name either."""
    before = (project / "params.yaml").read_bytes()
    with pytest.raises(SystemExit) as caught:
        cli.main(["describe", "--preset", "nosuch"])
    message = "styleblend describe: there is no preset 'nosuch': choose from faces, gpu, paper, standard, starter"
    assert caught.value.code == message
    assert (project / "params.yaml").read_bytes() == before


def test_a_preset_is_described_on_the_settings_without_the_last_one(project: Path) -> None:
    """As with `styleblend preset`, presets do not pile up."""
    before = cli._with_preset(Path("params.yaml"), "standard")
    cli.main(["preset", "paper"])
    assert cli._with_preset(Path("params.yaml"), "standard") == before
    assert cli._with_preset(Path("params.yaml"), "paper") == load_params(Path("params.yaml"))


@pytest.mark.parametrize(
    ("number", "shown"),
    [(0, "0"), (999, "999"), (1000, "1 k"), (999_600, "1 M"), (67_108_864, "67.1 M"), (3_440_000_000_000, "3.44 T")],
)
def test_counts_are_short(number: int, shown: str) -> None:
    """Three digits and a letter."""
    assert short(number) == shown
