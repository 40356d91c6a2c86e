"""Networks of the paper, sections 2.1 to 2.3."""

from styleblend.model.swapper import (
    Swapper,
    build,
    build_decoder,
    build_discriminator,
    build_encoder,
    load,
    save,
)

__all__ = ["Swapper", "build", "build_decoder", "build_discriminator", "build_encoder", "load", "save"]
