"""What exists and how it relates: records, admission, fusion, diff, lineage, audit and bundles."""
