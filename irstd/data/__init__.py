"""Videos, annotations, shards and the loader."""
