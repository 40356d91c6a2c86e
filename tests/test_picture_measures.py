"""Fine detail and feature distance against what theory says of known changes."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.ndimage
import torch

from styleblend.evaluation import pictures
from styleblend.perception.identity import IdentityNetwork

SIDE = 64


@pytest.fixture
def noise() -> torch.Tensor:
    """White noise: all frequencies alike, so that what a filter leaves of its energy is known."""
    grey = torch.randn(4, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return grey.expand(4, 3, SIDE, SIDE) / 4


def gains(sigma_px: float) -> np.ndarray:
    """Amplitude that a Gaussian blur, cut off at 6 pixels, leaves of each frequency of a picture's rows."""
    impulse = np.zeros(SIDE)
    impulse[0] = 1
    return np.abs(np.fft.fft(scipy.ndimage.gaussian_filter1d(impulse, sigma_px, mode="wrap", radius=6)))


def detail_filter() -> np.ndarray:
    """What the detail filter passes of each frequency, from scipy's blur in place of the module's."""
    impulse = np.zeros(SIDE)
    impulse[0] = 1
    low = np.real(np.fft.fft(scipy.ndimage.gaussian_filter1d(impulse, 1.0, mode="wrap", radius=3)))
    return 1 - low[:, None] * low[None, :]


@pytest.mark.parametrize("sigma_px", [0.5, 1.0, 2.0])
def test_detail_of_a_blurred_picture_is_what_the_blur_leaves(noise: torch.Tensor, sigma_px: float) -> None:
    """The root of the energies' ratio is the attenuation in the filter's band, by Parseval's theorem."""
    blurred = scipy.ndimage.gaussian_filter(noise.numpy(), (0, 0, sigma_px, sigma_px), mode="wrap", radius=(0, 0, 6, 6))
    # Away from the edges, where the filter mirrors what the blur wraps.
    middle = torch.zeros(4, 1, SIDE, SIDE)
    middle[..., 1:-1, 1:-1] = 1
    before, after = (pictures.detail_energy(torch.as_tensor(each), middle) for each in (noise, blurred))
    left = gains(sigma_px)[:, None] * gains(sigma_px)[None, :]
    passed = detail_filter()
    expected = (((left * passed) ** 2).sum() / (passed**2).sum()) ** 0.5
    assert float((after.sum() / before.sum()).sqrt()) == pytest.approx(expected, rel=0.05)
    assert float(before.mean()) == pytest.approx((passed**2).mean() / 16, rel=0.05)


def test_detail_equals_a_filter_of_another_library() -> None:
    """Grey by Rec. 601, minus scipy's blur with mirrored edges, squared and averaged."""
    images = torch.rand(2, 3, 20, 26, generator=torch.Generator().manual_seed(1)) * 2 - 1
    grey = np.einsum("nchw,c->nhw", images.double().numpy(), [0.299, 0.587, 0.114])
    blurred = scipy.ndimage.gaussian_filter(grey, (0, 1, 1), mode="mirror", radius=(0, 3, 3))
    found = pictures.detail_energy(images, torch.ones(2, 1, 20, 26))
    assert found.tolist() == pytest.approx(((grey - blurred) ** 2).mean((1, 2)).tolist(), rel=1e-6)


def test_nothing_beyond_the_region_counts(noise: torch.Tensor) -> None:
    """Whatever happens outside changes nothing; a region too small to hold the filter has no detail."""
    region = torch.zeros(4, 1, SIDE, SIDE)
    region[..., 16:48, 16:48] = 1
    other = noise * region + 5 * (1 - region)
    assert pictures.detail_energy(other, region).equal(pictures.detail_energy(noise, region))
    assert pictures.detail_energy(noise, 1 - region).ne(pictures.detail_energy(other, 1 - region)).all()
    region[..., 20:, :] = 0
    assert pictures.detail_energy(noise, region).tolist() == [0] * 4


def test_feature_distance_grows_with_the_change_and_sees_only_the_outside() -> None:
    """No change is 0 and a larger one farther; what is changed within the mask is nothing to the joined picture."""
    torch.manual_seed(0)
    network = IdentityNetwork("any", "plain", [8, 16], [], 8, 32).eval()
    images = torch.rand(3, 3, 32, 32) * 2 - 1
    mask = torch.zeros(3, 1, 32, 32)
    mask[..., 8:24, 8:24] = 1
    inside = torch.where(mask.bool(), -images, images)

    def apart(changed: torch.Tensor) -> torch.Tensor:
        maps = (network.maps(each) for each in (pictures.joined(images, changed, mask), images))
        return pictures.feature_distance(*(pictures.unit_vectors(each) for each in maps))

    noise = torch.randn(images.shape)
    with torch.no_grad():
        assert apart(images).abs().max() == apart(inside).abs().max() == 0
        near, far = apart(images + 0.05 * noise), apart(images + 0.5 * noise)
    assert (near > 0).all() and (near < far).all() and (far < 4).all()


def test_feature_distance_is_the_mean_over_levels_and_places() -> None:
    """Opposite unit vectors are 4 apart, perpendicular ones 2; lengths do not count."""
    one = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 4, 4)
    other = torch.tensor([0.0, 3.0]).view(1, 2, 1, 1).expand(1, 2, 2, 2)
    pair = pictures.unit_vectors([one, other]), pictures.unit_vectors([-2 * one, one[..., :2, :2]])
    distance = pictures.feature_distance(*pair)
    assert distance.tolist() == pytest.approx([(4 + 2) / 2])
