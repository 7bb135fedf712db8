"""The field's public sets by name: what is known of them, fetching, and putting together what was fetched and given."""

from irstd.data.public.records import SETS, PublicSet, find, hint

__all__ = ["SETS", "PublicSet", "find", "hint"]
