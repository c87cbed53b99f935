"""What was attached: kept in a file, mirrored in memory, and read back from the kernel where the file was lost."""
