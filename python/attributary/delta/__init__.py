"""What happened to a bundle since its build: the journal, its one writer, followers, compaction."""
