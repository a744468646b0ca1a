"""The node: peers, disk, database, time and retries. Reaches the pipeline through `pipeline.run` alone."""
