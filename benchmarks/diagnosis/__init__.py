"""`mpdiag bench diagnose`: plant one fault at a time in a healthy model, and check the diagnosis.

`fault` declares what a fault is; `weight_faults`, `forward_faults` and `annotation_faults` hold one
function per fault, and `faults` lists them. `cases` splits severities and seeds into a development
half and a reporting half. `experiment` plants, diagnoses and compares, `table` writes tables, and
`run` does all of it.
"""
