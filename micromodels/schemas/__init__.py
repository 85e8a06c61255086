"""JSON Schemas of the files that users write; package data, see `micromodels.label_files.SCHEMA_PATH`."""
