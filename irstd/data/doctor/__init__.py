"""What `irstd doctor data` looks for in recordings and labels.

`findings` holds the kinds and what each asks for. `labels` and `repeats` judge by labels and recorded marks alone; `contrast`
measures targets, `pixels` counts; `survey` is the one pass over a recording that feeds them. `across` compares sequences
with each other, `examination` does it all for some sets. `stops` is what `irstd shard` asks before it writes.
"""
