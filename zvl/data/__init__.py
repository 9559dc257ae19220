"""Data: the embedded picture world, raw formats and their readers, records and batches."""
