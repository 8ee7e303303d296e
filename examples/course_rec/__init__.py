"""A small task with two trained adapters: recommend a course of an invented university."""
