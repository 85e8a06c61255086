"""JSON Schemas of the files that users write; package data, see `micromodels.labels.label_json.SCHEMA_PATH`."""
