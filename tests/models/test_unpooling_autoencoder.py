"""The unpooling autoencoder: its stages mirror each other, and what it computes is what torch's layers would."""

import pytest
import torch
import torch.nn.functional as F

from minibatch.models.unpooling_autoencoder import UnpoolingAutoencoder


def test_it_is_convolution_pooling_unpooling_and_deconvolution_of_torch():
    net = UnpoolingAutoencoder(channels=3, maps=(5, 4), windows=(2, 3), kernel=3, seed=3).double()
    images = torch.linspace(-1, 1, 2 * 3 * 12 * 12, dtype=torch.float64).sin().view(2, 3, 12, 12)
    (first, second), (third, fourth) = net.convolutions, net.deconvolutions
    x, one = F.max_pool2d(F.conv2d(images, first.weight, first.bias, padding=1).relu(), 2, return_indices=True)
    x, two = F.max_pool2d(F.conv2d(x, second.weight, second.bias, padding=1).relu(), 3, return_indices=True)
    code, places = net.encode(images)
    torch.testing.assert_close(code, x)
    x = F.conv_transpose2d(F.max_unpool2d(x, two, 3), third.weight, third.bias, padding=1).relu()
    x = F.conv_transpose2d(F.max_unpool2d(x, one, 2), fourth.weight, fourth.bias, padding=1)
    torch.testing.assert_close(net.decode(code, places), x)
    torch.testing.assert_close(net(images), x)
    assert x.shape == images.shape


def test_first_weights_are_a_function_of_the_seed_alone():
    def weights(seed):
        state = torch.get_rng_state()
        net = UnpoolingAutoencoder(channels=1, maps=(3,), windows=(4,), seed=seed)
        assert torch.equal(state, torch.get_rng_state())
        return torch.cat([parameter.flatten() for parameter in net.parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"maps": (4,), "windows": (2, 2)}, "one window for the maps of each stage"),
        ({"maps": (), "windows": ()}, "positive numbers"),
        ({"maps": (0,), "windows": (2,)}, "positive numbers"),
        ({"kernel": 4}, r"kernel=4.*odd"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        UnpoolingAutoencoder(channels=3, **options)
