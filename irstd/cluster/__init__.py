"""Ray: the session, the plan, training over workers, and searches. The only importer of ray."""
