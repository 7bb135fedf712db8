"""Numbers beside other numbers: published tables, which rows compare, and how they are typeset."""
