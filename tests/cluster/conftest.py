"""What the tests of a cluster share with those of the road."""

from tests.integration.conftest import source

__all__ = ["source"]
