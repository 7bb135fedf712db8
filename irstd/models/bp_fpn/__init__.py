"""BP-FPN: a detector of moving infrared small targets with a pyramid designed for its backward pass (arXiv 2511.13013)."""

from irstd.models.bp_fpn.network import BPFPN

__all__ = ["BPFPN"]
