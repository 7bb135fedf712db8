import logging
import sys
import warnings

from irstd.models import GGLNet


class Teller(GGLNet):
    """Says what it learns from, and talks in all the ways in which a network may."""

    def __init__(self, width=4):
        super().__init__(in_channels=1, width=width)
        self.told = False

    def loss(self, batch):
        print("learns", *(f"{name}:{frame}" for name, frame in batch["key"]))
        if not self.told:
            self.told = True
            warnings.warn("a warning of a network", stacklevel=1)
            logging.getLogger("their.network").warning("a logged warning")
            print("an aside", file=sys.stderr)
        return super().loss(batch)
