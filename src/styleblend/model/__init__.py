"""Networks of the paper, sections 2.1 to 2.3, usable without the rest of the package.

From plain numbers, here the smallest that fit together; every picture is [N, 3, side, side], RGB in [-1, 1]:

    encoder = Encoder(32, 8, 16, blocks=(1, 1, 1, 1), widths=(8, 8, 8, 16), pyramid_width=8, head_width=8)
    blending = Blending(8, 16, layers=4, heads=2)
    decoder = Decoder(16, {4: 8, 8: 8, 16: 8, 32: 8}, (2, 4, 8), feature_width=8, pathway_resolutions=(8, 16))
    swapper = Swapper(encoder, blending, decoder)
    swapped = swapper(source, target, decoder.make_noise(seeds))

or all sizes at once: build(styleblend.config.model.Model(...)).
"""

from styleblend.model.blending import Blending
from styleblend.model.decoder import Decoder, Noise
from styleblend.model.discriminator import Discriminator
from styleblend.model.encoder import Encoder, Encoding
from styleblend.model.swapper import Swapper, build, build_decoder, build_discriminator, build_encoder, load, save

__all__ = ["Blending", "Decoder", "Discriminator", "Encoder", "Encoding", "Noise", "Swapper"]
__all__ += ["build", "build_decoder", "build_discriminator", "build_encoder", "load", "save"]
