"""The flow table and the records in it."""
