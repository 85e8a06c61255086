"""JSON Schemas of the files that users write; package data, see `micromodels.labels.files.SCHEMA_PATH`."""
