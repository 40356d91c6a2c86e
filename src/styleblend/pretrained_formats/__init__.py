"""Networks of other projects, read from the files that people have and turned into this project's own."""

from styleblend.pretrained_formats.stylegan import StyleganWeights, load_stylegan

__all__ = ["StyleganWeights", "load_stylegan"]
